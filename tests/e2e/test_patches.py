"""ComfyUI's nodes that patch a model, on SANA and Sprint, on a real server.

Where sana_core has no such thing the host's patch has to make of the pack's network what it makes of sana_core's.
"""

import pytest
import torch
from agreement import assert_agree, error
from e2e.expected import SPRINT_SHIFT, Core
from e2e.graphs import latents

from sana_core.presets import pag_layer
from sana_core.samplers.scm import sample_scm

TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def core(server):
    return Core(server)


@pytest.fixture(scope="module")
def usual(core):
    return core.ksampler()


def patched(node, **settings):
    """KSampler's run with a patch on the model."""
    return lambda parts: parts.sample(model=parts.g.add(node, model=parts.model, **settings))


def test_another_shift(server, core, usual):
    expected = core.ksampler(grid=core.simple(shift=6.0))
    assert_agree(latents(server, patched("ModelSamplingSD3", shift=6.0)), expected, TOLERANCE)
    assert error(expected, usual) > 1e-2


@pytest.mark.parametrize("build", [
    patched("RescaleCFG", multiplier=0.7),
    patched("RenormCFG", cfg_trunc=100.0, renorm_cfg=1.0),
    patched("APG", eta=0.5, norm_threshold=3.0, momentum=0.0),
    patched("TCFG"),
], ids=["RescaleCFG", "RenormCFG", "APG", "TCFG"])  # fmt: skip
def test_patches_of_the_guidance(server, usual, build):
    found, expected = (latents(server, build, plain=plain) for plain in (False, True))
    assert_agree(found, expected, TOLERANCE)
    assert error(found, usual) > 1e-2


def test_skip_layer_guidance(server, core, usual):
    """Away from the prediction of a network whose last block changes nothing."""
    settings = {"double_layers": "1", "single_layers": "", "scale": 3.0, "rescaling_scale": 0.0}
    found = latents(server, patched("SkipLayerGuidanceDiT", **settings, start_percent=0.0, end_percent=1.0))
    shorter = Core(server)
    with torch.no_grad():
        for name, parameter in shorter.transformer.named_parameters():
            if name.startswith("transformer_blocks.1.") and ("to_out" in name or "conv_point" in name):
                parameter.zero_()
    full, conditional, skipping = core.predict(), core.predict(cfg=1.0), shorter.predict(cfg=1.0)
    expected = core.ksampler(
        predict=lambda x, sigma: full(x, sigma) + 3.0 * (conditional(x, sigma) - skipping(x, sigma))
    )
    assert_agree(found, expected, TOLERANCE)
    assert error(found, usual) > 1e-2


def test_perturbed_attention_guidance(server, core, usual):
    """In the block that SANA's own perturbs."""
    found = latents(server, patched("PerturbedAttentionGuidance", scale=3.0))
    layer = pag_layer(core.transformer.config)
    assert_agree(found, core.ksampler(predict=core.predict(pag_scale=3.0, pag_layers=[layer])), TOLERANCE)
    assert error(found, usual) > 1e-2


def test_easy_cache(server, core):
    """It leaves out steps that change little; if nothing is little enough, none."""

    def cached(threshold):
        settings = {"reuse_threshold": threshold, "start_percent": 0.1, "end_percent": 0.95, "verbose": True}
        return lambda parts: parts.sample(model=parts.g.add("EasyCache", model=parts.model, **settings), steps=8)

    expected = core.ksampler(steps=8)
    assert_agree(latents(server, cached(0.0)), expected, TOLERANCE)
    assert error(latents(server, cached(3.0)), expected) > 1e-2


# --- Sprint


@pytest.fixture(scope="module")
def sprint(server):
    return Core(server, "sprint.safetensors")


def sprint_run(core, guidance=4.5):
    """Two steps of the host's lcm, which draws its noise on the CPU from a seed of its own."""
    predict, drawn = core.predict(cfg=guidance), torch.Generator().manual_seed(3 + 1)
    x = core.pipeline.start(core.pipeline.resolve("", width=128, height=96, seed=3)).noise
    grid = core.simple(2)
    assert grid[1].item() == pytest.approx(0.78271, abs=1e-4)  # as released: t = 1.3 in its angles
    with torch.no_grad():
        return sample_scm(predict, x, grid, step_noise=[torch.randn(x.shape, generator=drawn)])


def lcm(parts, **changes):
    return parts.sample(**{"sampler_name": "lcm", "steps": 2, "cfg": 1.0, **changes})


def guided_lcm(guidance):
    return lambda parts: lcm(
        parts, positive=parts.g.add("FluxGuidance", conditioning=parts.positive, guidance=guidance)
    )


def with_its_own_shift(parts):
    return lcm(parts, model=parts.g.add("ModelSamplingSD3", model=parts.model, shift=SPRINT_SHIFT))


@pytest.mark.parametrize("model", ["sprint.safetensors", "sprint.pth"])
@pytest.mark.parametrize("build", [lcm, guided_lcm(4.5), with_its_own_shift], ids=["alone", "4.5", "own shift"])
def test_sprint_with_its_defaults(server, sprint, model, build):
    assert_agree(latents(server, build, model=model), sprint_run(sprint), TOLERANCE)


def test_sprint_with_another_guidance(server, sprint):
    found = latents(server, guided_lcm(1.0), model="sprint.safetensors")
    assert_agree(found, sprint_run(sprint, guidance=1.0), TOLERANCE)
    assert error(found, sprint_run(sprint)) > 1e-2
