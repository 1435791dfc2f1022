"""The same latents and prompt through three routes agree: ComfyUI's solver and the pack's SAMPLER on a real server, and
sana_core alone.
"""

import os
from pathlib import Path

import pytest
import torch
from agreement import assert_agree
from e2e.server import Graph
from safetensors.torch import load_file, save_file

from sana_core.pipeline import load_pipeline

PROMPT, NEGATIVE = "a red apple on a wooden table", "a white cat, highly detailed, in a windowsill"
SCALE = 0.41407  # LATENT holds raw latents


@pytest.fixture(scope="module")
def core(server):
    models = server.base / "models"
    files = {
        "transformer": "diffusion_models/sana.safetensors",
        "autoencoder": "vae/dcae.safetensors",
        "text_encoder": "text_encoders/gemma.safetensors",
    }
    return load_pipeline({part: models / name for part, name in files.items()}, device="cpu")


def host_solver(g):
    return g.add("SamplerDPMPP_2M_SDE", solver_type="midpoint", eta=0.0, s_noise=1.0, noise_device="cpu")


def own_solver(g, name="flow_dpm"):
    return g.add("SanaNativeSampler", sampler=name)


def sampled(server, g, model, noise, positive, negative, latent, sampler, *, schedule="flow_dpm", steps=12, cfg=4.5):
    """Run SamplerCustomAdvanced; latents of unit variance."""
    guider = g.add("CFGGuider", model=model, positive=positive, negative=negative, cfg=cfg)
    sigmas = g.add("SanaNativeSigmas", model=model, schedule=schedule, steps=steps, shift=0.0, denoise=1.0)
    return (
        server.latents(
            g,
            g.add(
                "SamplerCustomAdvanced", noise=noise, guider=guider, sampler=sampler, sigmas=sigmas, latent_image=latent
            ),
        )
        * SCALE
    )


@pytest.mark.parametrize(
    "solver, name",
    [(host_solver, "flow_dpm"), (own_solver, "flow_dpm"), (lambda g: own_solver(g, "flow_euler"), "flow_euler")],
)
def test_three_routes(server, core, solver, name):
    g = Graph()
    model = g.add("UNETLoader", unet_name="sana.safetensors", weight_dtype="default")
    clip = g.add("SanaNativeLoadTextEncoder", text_encoder="gemma.safetensors")
    positive = g.add("SanaNativeTextEncode", clip=clip, text=PROMPT, instruction="upstream")
    negative = g.add("SanaNativeTextEncode", clip=clip, text=NEGATIVE, instruction="none")
    latent = g.add("EmptyLatentImage", width=192, height=128, batch_size=2)
    found = sampled(
        server, g, model, g.add("RandomNoise", noise_seed=11), positive, negative, latent, solver(g), schedule=name
    )
    settings = {"width": 192, "height": 128, "steps": 12, "guidance_scale": 4.5, "batch_size": 2, "sampler": name}
    assert_agree(found, core(PROMPT, NEGATIVE, seed=11, output="latent", **settings), 1e-4)


def test_one_node_for_newcomers(server, core):
    g = Graph()
    files = {"model": "sana.safetensors", "text_encoder": "gemma.safetensors", "vae": "dcae.safetensors"}
    loader = g.add("SanaNativeLoad", **files, native_size="auto", weight_dtype="default")
    settings = {"width": 96, "height": 128, "seed": 5, "steps": 0, "cfg": 0.0, "denoise": 1.0}
    latent = g.add(
        "SanaNativeGenerate", model=loader[0], clip=loader[1], prompt=PROMPT, negative_prompt=NEGATIVE, **settings
    )
    assert_agree(
        server.latents(g, latent) * SCALE, core(PROMPT, NEGATIVE, width=96, height=128, seed=5, output="latent"), 1e-4
    )


def given(server, g, name, tensors):
    """NOISE, CONDITIONING, CONDITIONING and LATENT of these tensors."""
    path = server.base / f"{name}.safetensors"
    save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, path)
    return g.add("TestTensors", path=str(path))


@pytest.mark.parametrize("solver", [host_solver, own_solver])
def test_a_batch_of_two_prompts_is_two_batches_of_one(server, core, solver):
    prompts = [core.text_encoder.encode([prompt])[0] for prompt in ("a cat", f"{PROMPT}, {NEGATIVE}")]
    negative = core.text_encoder.encode([NEGATIVE])[0]
    longest = max(prompt.shape[1] for prompt in prompts)
    states = torch.cat([torch.nn.functional.pad(prompt, (0, 0, 0, longest - prompt.shape[1])) for prompt in prompts])
    mask = torch.tensor([[index < prompt.shape[1] for index in range(longest)] for prompt in prompts]).long()
    noise = torch.randn(2, 32, 3, 5, generator=torch.Generator().manual_seed(1))

    def run(name, tensors):
        g = Graph()
        model = g.add("UNETLoader", unet_name="sana.safetensors", weight_dtype="default")
        tensors = given(server, g, name, {"negative": negative, **tensors})
        return sampled(server, g, model, tensors[0], tensors[1], tensors[2], tensors[3], solver(g), steps=6)

    together = run("both", {"noise": noise, "positive": states, "positive_mask": mask})
    alone = [run(f"row{row}", {"noise": noise[row : row + 1], "positive": prompts[row]}) for row in range(2)]
    assert_agree(together, torch.cat(alone), 1e-5)


CASES = [
    ("dpm20", "single/transformer_sana.safetensors"),
    ("dpm20", "original/sana.pth"),
    ("sana15_dpm20", "original/sana15.pth"),
]


@pytest.mark.parametrize("solver", [host_solver, own_solver])
@pytest.mark.parametrize("case, file", CASES)
def test_diffusers_trajectory(server, case, file, solver):
    oracle = Path(os.environ.get("SANA_ORACLE_CACHE", ""))
    if not (oracle / "ref.safetensors").is_file():
        pytest.skip("no oracle outputs: set SANA_ORACLE_CACHE to the folder that the parity tests keep them in")
    reference = load_file(oracle / "ref.safetensors")
    name = f"oracle_{Path(file).name}"
    link = server.base / "models" / "diffusion_models" / name
    if not link.exists():
        link.symlink_to(oracle / "fix" / file)
    g = Graph()
    model = g.add("UNETLoader", unet_name=name, weight_dtype="default")
    prompts = {name: reference[f"sana/conditioning/in_{name}"][None] for name in ("positive", "negative")}
    tensors = given(server, g, case, {"noise": reference[f"sana/{case}/in_latents"], **prompts})
    found = sampled(server, g, model, tensors[0], tensors[1], tensors[2], tensors[3], solver(g), steps=20)
    assert_agree(found, reference[f"sana/{case}/latents"], 1e-3)
