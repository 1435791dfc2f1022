"""Releases in ComfyUI's loaders and the pack's: what is recognised and decided, the unconditional mask, files that do
not fit.
"""

import pytest
import torch
from agreement import assert_agree
from e2e.server import ExecutionFailed, Graph
from e2e.test_agreement import NEGATIVE, PROMPT, SCALE, core, own_solver, sampled  # noqa: F401 (a fixture)
from safetensors.torch import load_file, save_file

DECISIONS = [
    (
        "sana.safetensors",
        {},
        "taken for 512 or 1024 px, as the file does not tell (choose 2k or 4k for those), trained precision unknown",
    ),
    (
        "sana_2k.pth",
        {},
        "2048 px (by the length of its pos_embed), trained in bfloat16 (as all of SANA-1.5, Sprint, 2K and 4K)",
    ),
    ("sana15.safetensors", {}, "trained in bfloat16 (as all of SANA-1.5"),
    ("sprint.pth", {}, "1024 px (by the length of its pos_embed), trained in bfloat16 (as all of SANA-1.5"),
    ("half.safetensors", {}, "trained in float16, so with its clamp (stored in it)"),
    ("sana.safetensors", {"native_size": "4k"}, "4096 px (as chosen), trained in bfloat16"),
    ("sana.safetensors", {"trained_precision": "float16"}, "trained in float16, so with its clamp (as chosen)"),
]


@pytest.fixture(scope="module")
def models(server):
    """The server's model folder, with a file stored in float16 and a DC-AE build of another family of latents."""
    folder = server.base / "models"
    half = {key: tensor.half() for key, tensor in load_file(folder / "diffusion_models" / "sana.safetensors").items()}
    save_file(half, folder / "diffusion_models" / "half.safetensors")
    other = load_file(folder / "vae" / "dcae.safetensors") | {"encoder.conv_in.conv.weight": torch.zeros(1)}
    save_file(other, folder / "vae" / "dcae_in.safetensors")
    return folder


def loaders(g, name, choice):
    """The model by the pack's node, and by ComfyUI's where nothing has to be said of the file."""
    yield g.add("SanaNativeLoadModel", **{"model": name, "native_size": "auto", "weight_dtype": "default", **choice})
    if not choice:
        yield g.add("UNETLoader", unet_name=name, weight_dtype="default")


@pytest.mark.parametrize("name, choice, said", DECISIONS)
def test_what_is_recognised_is_logged_once_and_runs(server, models, name, choice, said):
    g = Graph()
    clip = g.add("SanaNativeLoadTextEncoder", text_encoder="gemma.safetensors")
    positive = g.add("SanaNativeTextEncode", clip=clip, text=PROMPT, instruction="upstream")
    before = server.output().count(said)
    results = []
    for model in loaders(g, name, choice):
        latent = g.add("EmptyLatentImage", width=96, height=64, batch_size=1)
        noise = g.add("RandomNoise", noise_seed=1)
        results.append(sampled(server, g, model, noise, positive, positive, latent, own_solver(g), steps=2, cfg=1.0))
        assert results[-1].isfinite().all()
        assert server.output().count(said) == before + len(results)
    assert all(torch.equal(result, results[0]) for result in results)


@pytest.mark.parametrize("negative", ["", NEGATIVE])
def test_upstreams_unconditional_mask(server, core, negative):  # noqa: F811
    g = Graph()
    model = g.add("UNETLoader", unet_name="sana.safetensors", weight_dtype="default")
    clip = g.add("SanaNativeLoadTextEncoder", text_encoder="gemma.safetensors")
    positive = g.add("SanaNativeTextEncode", clip=clip, text=PROMPT, instruction="upstream")
    padded = g.add("SanaNativeTextEncode", clip=clip, text=negative, instruction="none", positive=positive)
    latent = g.add("EmptyLatentImage", width=96, height=64, batch_size=1)
    found = sampled(
        server, g, model, g.add("RandomNoise", noise_seed=3), positive, padded, latent, own_solver(g), steps=4
    )
    settings = {"width": 96, "height": 64, "steps": 4, "guidance_scale": 4.5, "seed": 3, "output": "latent"}
    assert_agree(found, core(PROMPT, negative, negative_mask="positive", **settings), 1e-4)
    own = core(PROMPT, negative, **settings)
    assert (found - own).abs().max() > 1e-2  # it matters


@pytest.mark.parametrize("loader, name", [("VAELoader", "vae_name"), ("SanaNativeLoadVAE", "vae")])
def test_a_dcae_with_other_latents(server, models, loader, name):
    g = Graph()
    vae = g.add(loader, **{name: "dcae_in.safetensors"})
    latent = g.add(
        "SanaNativeEmptyLatent", resolution="custom", resolution__width=64, resolution__height=64, batch_size=1
    )
    with pytest.raises(
        ExecutionFailed,
        match=r"DC-AE build \(in-1.0 or mix-1.0\) has other latents than SANA: use dc-ae-f32c32-sana-1.0",
    ):
        server.pictures(g, g.add("VAEDecode", samples=latent, vae=vae))
