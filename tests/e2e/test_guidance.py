"""Guidance and Sprint through the HTTP queue of a real server, against sana_core's pipeline on the same files."""

import functools

import numpy as np
import pytest
import torch
from agreement import assert_agree, error
from e2e.server import ExecutionFailed, Graph
from PIL import Image

from sana_core.pipeline import load_pipeline
from sana_core.samplers.flow_euler import sample_flow_euler

PROMPT, NEGATIVE, SEED = "a red apple on a wooden table", "a white cat, highly detailed, in a windowsill", 11
SCALE = 0.41407  # LATENT holds raw latents
TOLERANCE = 1e-3
SIZE = {"width": 192, "height": 128}


@pytest.fixture(scope="module")
def cores(server):
    """sana_core's pipeline around a transformer, by file name."""
    models = server.base / "models"
    companions = {
        "autoencoder": models / "vae" / "dcae.safetensors",
        "text_encoder": models / "text_encoders" / "gemma.safetensors",
    }
    return functools.cache(
        lambda name: load_pipeline({"transformer": models / "diffusion_models" / name, **companions}, device="cpu")
    )


class Parts:
    """The usual beginning of a graph, and its end."""

    def __init__(self, server, model="sana.safetensors", batch=2):
        self.server, self.g = server, Graph()
        self.model = self.g.add("UNETLoader", unet_name=model, weight_dtype="default")
        clip = self.g.add("SanaNativeLoadTextEncoder", text_encoder="gemma.safetensors")
        self.positive = self.g.add("SanaNativeTextEncode", clip=clip, text=PROMPT, instruction="upstream")
        self.negative = self.g.add("SanaNativeTextEncode", clip=clip, text=NEGATIVE, instruction="none")
        self.latent = self.g.add("EmptyLatentImage", **SIZE, batch_size=batch)

    def perturbed(self, model=None, scale=3.0, layers="1", **changes):
        settings = {"adaptive_scale": 0.0, "start_percent": 0.0, "end_percent": 1.0}
        given = {"model": model or self.model, "scale": scale, "layers": layers}
        return self.g.add("SanaNativePerturbedAttention", **{**settings, **given, **changes})

    def picture(self):
        """The input picture as a latent."""
        vae = self.g.add("VAELoader", vae_name="dcae.safetensors")
        return self.g.add("VAEEncode", pixels=self.g.add("LoadImage", image="picture.png"), vae=vae)

    def ksampler(self, **changes):
        """Latents of unit variance."""
        settings = {
            "seed": SEED,
            "steps": 4,
            "cfg": 4.5,
            "sampler_name": "euler",
            "scheduler": "simple",
            "denoise": 1.0,
        }
        links = {"model": self.model, "positive": self.positive, "negative": self.negative, "latent_image": self.latent}
        return self._latents(self.g.add("KSampler", **{**settings, **links, **changes}))

    def advanced(self, model=None, *, sampler="flow_dpm", steps=5, cfg=4.5, denoise=1.0, latent=None):
        model = model or self.model
        return self._latents(
            self.g.add(
                "SamplerCustomAdvanced",
                noise=self.g.add("RandomNoise", noise_seed=SEED),
                guider=self.g.add("CFGGuider", model=model, positive=self.positive, negative=self.negative, cfg=cfg),
                sampler=self.g.add("SanaNativeSampler", sampler=sampler),
                sigmas=self.g.add(
                    "SanaNativeSigmas", model=model, schedule=sampler, steps=steps, shift=0.0, denoise=denoise
                ),
                latent_image=latent or self.latent,
            )
        )

    def _latents(self, node):
        return self.server.latents(self.g, node) * SCALE


@pytest.fixture
def start(server):
    """The input picture in 0..1, (1, 3, 96, 128)."""
    with Image.open(server.base / "input" / "picture.png") as picture:
        return torch.from_numpy(np.asarray(picture.convert("RGB")).copy()).permute(2, 0, 1)[None] / 255.0


# --- perturbed-attention guidance


@pytest.mark.parametrize("model", ["sana.safetensors", "sana15.safetensors"])
@pytest.mark.parametrize("cfg", [4.5, 1.0])
def test_pag_with_sampler_custom_advanced(server, cores, model, cfg):
    parts = Parts(server, model)
    found = parts.advanced(parts.perturbed(), cfg=cfg)
    settings = {**SIZE, "steps": 5, "guidance_scale": cfg, "batch_size": 2, "seed": SEED, "output": "latent"}
    assert_agree(found, cores(model)(PROMPT, NEGATIVE, pag_scale=3.0, pag_layers=[1], **settings), TOLERANCE)


@pytest.mark.parametrize("model", ["sana.safetensors", "sana15.safetensors"])
def test_pag_with_ksampler(server, cores, model):
    """Euler steps on the schedule "simple" of four steps: even times, shifted by 3."""
    parts = Parts(server, model)
    found = parts.ksampler(model=parts.perturbed())
    core = cores(model)
    settings = {**SIZE, "guidance_scale": 4.5, "pag_scale": 3.0, "pag_layers": [1], "batch_size": 2, "seed": SEED}
    run = core.resolve(PROMPT, NEGATIVE, **settings)
    with torch.no_grad():
        denoise = core.denoiser(run, core.encode_text(run))
        times = torch.linspace(1.0, 0.0, 5)
        expected = sample_flow_euler(denoise, core.start(run).noise, 3.0 * times / (1.0 + 2.0 * times))
    assert_agree(found, expected, TOLERANCE)


def test_pag_from_a_picture(server, cores, start):
    parts = Parts(server)
    found = parts.advanced(parts.perturbed(), steps=4, denoise=0.5, latent=parts.picture())
    given = {"image": start, "strength": 0.5, "steps": 8, "guidance_scale": 4.5, "pag_scale": 3.0, "pag_layers": [1]}
    assert_agree(found, cores("sana.safetensors")(PROMPT, NEGATIVE, seed=SEED, output="latent", **given), TOLERANCE)


def skip_layers(g, model):
    percents = {"start_percent": 0.0, "end_percent": 1.0}
    settings = {"double_layers": "0", "single_layers": "", "scale": 2.0, "rescaling_scale": 0.0}
    return g.add("SkipLayerGuidanceDiT", model=model, **settings, **percents)


def rescale(g, model):
    return g.add("RescaleCFG", model=model, multiplier=0.7)


def project(g, model):
    return g.add("APG", model=model, eta=0.5, norm_threshold=3.0, momentum=0.0)


def interval(g, model):
    return g.add("SanaNativeGuidanceInterval", model=model, start_percent=0.2, end_percent=0.7)


@pytest.mark.parametrize("other", [skip_layers, rescale, project, interval])
@pytest.mark.parametrize("sample", [Parts.ksampler, Parts.advanced])
def test_pag_together_with_other_guidance(server, other, sample):
    """Each of the two counts, and their order does not."""

    def run(*patches):
        parts = Parts(server, batch=1)
        model = parts.model
        for patch in patches:
            model = patch(parts, model)
        return sample(parts, model=model)

    def perturbed(parts, model):
        return parts.perturbed(model)

    def guided(parts, model):
        return other(parts.g, model)

    both = run(perturbed, guided)
    assert torch.isfinite(both).all()
    assert_agree(run(guided, perturbed), both, TOLERANCE)
    for fewer in ((perturbed,), (guided,)):
        assert error(run(*fewer), both) > 1e-2


def test_the_hosts_own_pag_perturbs_the_same_block(server):
    parts, own = Parts(server), Parts(server)
    found = parts.ksampler(model=parts.g.add("PerturbedAttentionGuidance", model=parts.model, scale=3.0))
    assert_agree(found, own.ksampler(model=own.perturbed(layers="")), TOLERANCE)


def test_a_block_that_is_not_there(server):
    parts = Parts(server)
    with pytest.raises(ExecutionFailed, match="in blocks 8: this model has the blocks 0 to 1, name some of them"):
        parts.ksampler(model=parts.perturbed(layers="8"))


# --- Sprint


@pytest.mark.parametrize("steps", [1, 2, 3, 4])
@pytest.mark.parametrize("pag_scale", [0.0, 2.0])
def test_sprint(server, cores, steps, pag_scale):
    parts = Parts(server, "sprint.safetensors")
    parts.positive = parts.g.add("FluxGuidance", conditioning=parts.positive, guidance=3.0)
    found = parts.advanced(parts.perturbed(scale=pag_scale), sampler="scm", steps=steps, cfg=1.0)
    settings = {**SIZE, "steps": steps, "guidance_scale": 3.0, "batch_size": 2, "seed": SEED, "output": "latent"}
    assert_agree(found, cores("sprint.safetensors")(PROMPT, pag_scale=pag_scale, pag_layers=[1], **settings), TOLERANCE)


def test_sprint_with_ksampler(server, cores):
    """One step adds no noise, so lcm gives the pipeline's picture; two steps add lcm's own noise."""
    core, settings = cores("sprint.safetensors"), {**SIZE, "batch_size": 2, "seed": SEED, "output": "latent"}
    found = Parts(server, "sprint.safetensors").ksampler(sampler_name="lcm", steps=1, cfg=1.0)
    assert_agree(found, core(PROMPT, steps=1, **settings), TOLERANCE)
    assert torch.isfinite(Parts(server, "sprint.safetensors").ksampler(sampler_name="lcm", steps=2, cfg=1.0)).all()


@pytest.mark.parametrize("steps, denoise, grid_steps", [(1, 0.5, 2), (2, 0.6, 3), (2, 0.9, 2), (3, 0.75, 4)])
def test_sprint_from_a_picture(server, cores, start, steps, denoise, grid_steps):
    """The nodes count the steps that are made, the pipeline those of the whole schedule."""
    parts = Parts(server, "sprint.safetensors")
    found = parts.advanced(sampler="scm", steps=steps, cfg=1.0, denoise=denoise, latent=parts.picture())
    expected = cores("sprint.safetensors")(
        PROMPT, image=start, strength=denoise, steps=grid_steps, seed=SEED, output="latent"
    )
    assert_agree(found, expected, TOLERANCE)


def test_sprint_in_one_node(server, cores):
    g = Graph()
    files = {"model": "sprint.safetensors", "text_encoder": "gemma.safetensors", "vae": "dcae.safetensors"}
    loader = g.add("SanaNativeLoad", **files, native_size="auto", weight_dtype="default")
    settings = {**SIZE, "seed": SEED, "steps": 0, "cfg": 0.0, "denoise": 1.0}
    latent = g.add(
        "SanaNativeGenerate", model=loader[0], clip=loader[1], prompt=PROMPT, negative_prompt=NEGATIVE, **settings
    )
    expected = cores("sprint.safetensors")(PROMPT, **SIZE, seed=SEED, output="latent")
    assert_agree(server.latents(g, latent) * SCALE, expected, TOLERANCE)


def test_sprints_schedule_on_a_base_model(server):
    with pytest.raises(
        ExecutionFailed,
        match=r"SANA-Sprint was distilled for, and this model is .* choose flow_dpm with 14 to 20 steps",
    ):
        Parts(server).advanced(sampler="scm", steps=2)


def test_a_base_models_schedule_on_sprint_is_in_the_log(server):
    Parts(server, "sprint.safetensors").advanced(steps=2, cfg=1.0)
    assert "flow_dpm follows the flow of a base SANA model in many small steps" in server.output()
