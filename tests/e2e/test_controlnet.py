"""ControlNet through a real ComfyUI server over HTTP: stock nodes and the pack's own give what sana_core's pipeline
gives.
"""

import pytest
import torch
from agreement import assert_agree, error
from e2e.server import ExecutionFailed, Graph
from PIL import Image

from sana_core.pipeline import load_pipeline

PROMPT, NEGATIVE = "a red apple on a wooden table", "a white cat"
WIDTH, HEIGHT, STEPS, SEED = 192, 128, 6, 11
SCALE = 0.41407  # LATENT holds raw latents


@pytest.fixture(scope="module")
def core(server):
    """`core(file, order)`: the pipeline with that ControlNet."""
    models = server.base / "models"
    files = {
        "transformer": "diffusion_models/sana.safetensors",
        "autoencoder": "vae/dcae.safetensors",
        "text_encoder": "text_encoders/gemma.safetensors",
    }

    def load(name, order="upstream"):
        paths = {part: models / path for part, path in {**files, "controlnet": f"controlnet/{name}"}.items()}
        return load_pipeline(paths, device="cpu", control_order=order)

    return load


def picture(server):
    return Image.open(server.base / "input" / "picture.png").convert("RGB")


class Run:
    """A graph with model, prompts and picture, to which ControlNets are applied."""

    def __init__(self, server, model="sana.safetensors", batch=1):
        self.server, self.g = server, Graph()
        self.model = self.g.add("UNETLoader", unet_name=model, weight_dtype="default")
        clip = self.g.add("SanaNativeLoadTextEncoder", text_encoder="gemma.safetensors")
        positive = self.g.add("SanaNativeTextEncode", clip=clip, text=PROMPT, instruction="upstream")
        negative = self.g.add("SanaNativeTextEncode", clip=clip, text=NEGATIVE, instruction="none")
        self.prompts = (positive, negative)
        self.vae = self.g.add("VAELoader", vae_name="dcae.safetensors")
        self.picture = self.g.add("LoadImage", image="picture.png")
        self.latent = self.g.add("EmptyLatentImage", width=WIDTH, height=HEIGHT, batch_size=batch)

    def apply(self, network, *, image=None, strength=1.0, start=0.0, end=1.0, vae=True):
        given = {"vae": self.vae} if vae else {}
        node = self.g.add(
            "ControlNetApplyAdvanced", positive=self.prompts[0], negative=self.prompts[1], control_net=network,
            image=image or self.picture, strength=strength, start_percent=start, end_percent=end, **given,
        )  # fmt: skip
        self.prompts = (node[0], node[1])
        return self

    def control(self, name, **settings):
        return self.apply(self.g.add("ControlNetLoader", control_net_name=name), **settings)

    def sampled(self, cfg=4.5):
        """SamplerCustomAdvanced; latents of unit variance."""
        g = self.g
        guider = g.add("CFGGuider", model=self.model, positive=self.prompts[0], negative=self.prompts[1], cfg=cfg)
        sigmas = g.add("SanaNativeSigmas", model=self.model, schedule="flow_dpm", steps=STEPS, shift=0.0, denoise=1.0)
        sampler, noise = g.add("SanaNativeSampler", sampler="flow_dpm"), g.add("RandomNoise", noise_seed=SEED)
        node = g.add(
            "SamplerCustomAdvanced",
            noise=noise,
            guider=guider,
            sampler=sampler,
            sigmas=sigmas,
            latent_image=self.latent,
        )
        return self.server.latents(g, node) * SCALE

    def ksampled(self, **settings):
        """KSampler."""
        given = {
            "seed": SEED,
            "steps": 2,
            "cfg": 1.0,
            "sampler_name": "lcm",
            "scheduler": "simple",
            "denoise": 1.0,
            **settings,
        }
        node = self.g.add(
            "KSampler",
            model=self.model,
            positive=self.prompts[0],
            negative=self.prompts[1],
            latent_image=self.latent,
            **given,
        )
        return self.server.latents(self.g, node) * SCALE


def expected(pipeline, image, *, scale=1.0, batch=1):
    settings = {
        "width": WIDTH,
        "height": HEIGHT,
        "steps": STEPS,
        "guidance_scale": 4.5,
        "seed": SEED,
        "batch_size": batch,
    }
    return pipeline(PROMPT, NEGATIVE, control_image=image, control_scale=scale, output="latent", **settings)


@pytest.mark.parametrize("name", ["control.pth", "control_alone.pth", "control.safetensors"])
def test_stock_nodes(server, core, name):
    found = Run(server, batch=2).control(name, strength=0.7).sampled()
    assert_agree(found, expected(core(name), picture(server), scale=0.7, batch=2), 1e-3)
    assert error(found, Run(server, batch=2).sampled()) > 0.05


@pytest.mark.parametrize("order", ["upstream", "diffusers"])
def test_own_loader(server, core, order):
    run = Run(server)
    network = run.g.add("SanaNativeLoadControlNet", control_net="control.safetensors", order=order)
    found = run.apply(network).sampled()
    assert_agree(found, expected(core("control.safetensors", order), picture(server)), 1e-3)


def test_the_newer_apply_node_and_the_diff_loader(server, core):
    run = Run(server)
    network = run.g.add("DiffControlNetLoader", model=run.model, control_net_name="control.pth")
    node = run.g.add(
        "ControlNetApplySD3", positive=run.prompts[0], negative=run.prompts[1], control_net=network, vae=run.vae,
        image=run.picture, strength=1.0, start_percent=0.0, end_percent=1.0,
    )  # fmt: skip
    run.prompts = (node[0], node[1])
    assert_agree(run.sampled(), expected(core("control.pth"), picture(server)), 1e-3)


def test_strength_and_range(server):
    plain = Run(server).sampled()
    assert torch.equal(Run(server).control("control.pth", strength=0.0).sampled(), plain)
    whole = Run(server).control("control.pth").sampled()
    assert torch.equal(Run(server).control("control.pth", start=0.0, end=1.0).sampled(), whole)
    half = Run(server).control("control.pth", end=0.5).sampled()
    assert error(half, whole) > 0.01 and error(half, plain) > 0.01


def test_two_in_a_row(server):
    both = Run(server).control("control.pth").control("control.safetensors", strength=0.5).sampled()
    turned = Run(server).control("control.safetensors", strength=0.5).control("control.pth").sampled()
    assert_agree(both, turned, 1e-4)
    assert error(both, Run(server).control("control.pth").sampled()) > 0.01
    parts = Run(server).control("control.pth", end=0.5).control("control.pth", start=0.5).sampled()
    assert_agree(parts, Run(server).control("control.pth").sampled(), 1e-4)


def test_sprint(server):
    plain = Run(server, "sprint.safetensors").ksampled()
    controlled = Run(server, "sprint.safetensors").control("control.pth").ksampled()
    assert error(controlled, plain) > 0.01 and torch.isfinite(controlled).all()


def test_with_a_mask_and_a_picture(server):
    """Inpainting with a ControlNet: what lies outside the mask stays."""
    run = Run(server).control("control.pth")
    scaled = run.g.add(
        "ImageScale", image=run.picture, upscale_method="bilinear", width=WIDTH, height=HEIGHT, crop="disabled"
    )
    encoded = run.g.add("VAEEncode", pixels=scaled, vae=run.vae)
    original = server.latents(Graph(run.g), encoded) * SCALE
    mask = run.g.add("SolidMask", value=0.0, width=WIDTH, height=HEIGHT)
    white = run.g.add("SolidMask", value=1.0, width=WIDTH // 2, height=HEIGHT)
    half = run.g.add("MaskComposite", destination=mask, source=white, x=0, y=0, operation="add")
    run.latent = run.g.add("SetLatentNoiseMask", samples=encoded, mask=half)
    found = run.ksampled(steps=4, cfg=4.5, sampler_name="euler")
    assert_agree(found[..., 3:], original[..., 3:], 1e-4)
    assert error(found[..., :3], original[..., :3]) > 0.05


@pytest.mark.parametrize("lines", ["soft", "thin"])
def test_soft_edge(server, lines):
    """Stock Canny and the node for its lines; the picture goes on to Apply ControlNet."""
    run = Run(server)
    canny = run.g.add("Canny", image=run.picture, low_threshold=0.1, high_threshold=0.3)
    edges = run.g.add("SanaNativeSoftEdge", edges=canny, lines=lines, thickness=2)
    pixels = server.pictures(Graph(run.g), edges)
    assert pixels.shape == (1, 96, 128, 3) and set(pixels.flatten().tolist()) == ({0, 255} if lines == "thin" else {0})
    if lines == "thin":
        found = run.control("control.pth", image=edges).sampled()
        assert error(found, Run(server).control("control.pth").sampled()) > 0.01


@pytest.mark.parametrize("apply, message", [
    (lambda run: run.control("control.pth", vae=False), "connect the VAE of SANA to Apply ControlNet"),
    (lambda run: run.control("control_288.safetensors"), "models 288 wide, the model is 224 wide"),
])  # fmt: skip
def test_messages(server, apply, message):
    with pytest.raises(ExecutionFailed, match=message):
        apply(Run(server)).sampled()
