"""Perturbed-attention guidance against diffusers' SanaPAGPipeline, from every layout, float32."""

import pytest
import torch
from agreement import assert_agree, error

from sana_core.checkpoint.load import load_transformer
from sana_core.samplers.denoiser import make_denoiser
from sana_core.samplers.flow_dpm import sample_flow_dpm
from sana_core.samplers.schedules import flow_dpm_sigmas

TOLERANCE = 1e-3
LAYOUTS = ["pipelines/{0}", "single/transformer_{0}.safetensors", "original/{0}.pth"]
CASES = {  # case -> (steps, guidance_scale, what PAG gets)
    "default": (20, 4.5, {"pag_scale": 3.0, "pag_layers": [8]}),
    "two_layers": (10, 4.5, {"pag_scale": 2.0, "pag_layers": [3, 8]}),
    "nocfg": (10, 1.0, {"pag_scale": 3.0, "pag_layers": [8]}),
    "adaptive": (10, 4.5, {"pag_scale": 3.0, "pag_layers": [8], "pag_adaptive_scale": 0.005}),
    "zero": (10, 4.5, {"pag_scale": 0.0, "pag_layers": [8]}),
}
LAYER_1 = (10, 4.5, {"pag_scale": 3.0, "pag_layers": [1]})


def trajectory(transformer, reference, case, steps, guidance_scale, pag):
    """The latents after each step."""
    prompts = [reference[f"sana/conditioning/in_{name}"][None] for name in ("positive", "negative")]
    cond, uncond = ((states, torch.ones(states.shape[:2], dtype=torch.bool)) for states in prompts)
    seen = []
    with torch.no_grad():
        denoise = make_denoiser(transformer, cond, uncond, guidance_scale=guidance_scale, **pag)
        sigmas = flow_dpm_sigmas(steps, 3.0)
        sample_flow_dpm(
            denoise, reference[f"pag/{case}/in_latents"], sigmas, callback=lambda i, sigma, x, x0: seen.append(x)
        )
    return torch.stack(seen)


@pytest.fixture(scope="module", params=LAYOUTS)
def transformers(request, oracle):
    """By name, in one layout."""
    return lambda name: load_transformer(oracle.fixtures / request.param.format(name))


@pytest.mark.parametrize("case", CASES)
def test_pag(oracle, transformers, case):
    found = trajectory(transformers("sana"), oracle.reference, case, *CASES[case])
    assert_agree(found, oracle.reference[f"pag/{case}/latents_per_step"], TOLERANCE)


def test_sana15_keeps_the_norms_of_queries_and_keys(oracle, transformers):
    """Upstream perturbs one stream and leaves the others as they are. diffusers' PAG processor computes all streams of
    the perturbed block itself and forgets q/k norm there, which SANA-1.5 was trained with: with its own processor
    diffusers is far away, with one that keeps the norms it agrees.
    """
    found = trajectory(transformers("sana15"), oracle.reference, "sana15_layer1", *LAYER_1)[-1]
    assert_agree(found, oracle.reference["pag/sana15_layer1/alt_qknorm_latents"], TOLERANCE)
    assert error(found, oracle.reference["pag/sana15_layer1/latents"]) > 10 * TOLERANCE


def test_pag_is_no_small_change(oracle):
    """So that agreement above is not agreement with plain guidance."""
    plain, perturbed = (oracle.reference[f"pag/{case}/latents"] for case in ("zero", "two_layers"))
    assert error(perturbed, plain) > 10 * TOLERANCE
