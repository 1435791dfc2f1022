"""Whole trajectories, prompt to picture, against diffusers' SanaPipeline, float32."""

import pytest
import torch
from agreement import assert_agree

from sana_core.pipeline import load_pipeline

TOLERANCE = 1e-3
PROMPT = "a small fluffy white cat wearing a red hat"  # diffusers lower-cases prompts
OTHER = {"prompt": [PROMPT, "an old wooden sailing ship"], "negative_prompt": "blurry, low quality", "steps": 8}
CASES = {  # case -> (pipeline folder, name of its single files, arguments besides the model's own defaults)
    "dpm20": ("sana", "sana", {}),
    "dpm14_nocfg": ("sana", "sana", {"steps": 14, "guidance_scale": 1.0}),
    "dpm20_nochi": ("sana", "sana", {"instruction": None}),
    "dpm8_batch2_neg": ("sana", "sana", OTHER),
    "euler20": ("sana", "sana", {"sampler": "flow_euler"}),
    "sana06_euler20": ("sana06_euler", "sana06", {}),
    "sana15_dpm20": ("sana15", "sana15", {}),
    "sana2k_dpm20": ("sana2k", "sana2k", {}),
    "sana4k_dpm20": ("sana4k", "sana4k", {}),
}
VARIANT = {"sana2k": "2k", "sana4k": "4k"}  # single diffusers files do not tell it


def check(pipeline, reference, case, arguments):
    steps = []
    arguments = {"prompt": PROMPT, "instruction": "diffusers", **arguments}
    latents = pipeline(
        latents=reference[f"sana/{case}/in_latents"],
        output="latent",
        callback=lambda i, sigma, x, x0: steps.append(x),
        **arguments,
    )
    assert_agree(torch.stack(steps), reference[f"sana/{case}/latents_per_step"], TOLERANCE)
    assert_agree(latents, reference[f"sana/{case}/latents"], TOLERANCE)
    assert_agree(pipeline.decode(latents, pil=False), reference[f"sana/{case}/image"], TOLERANCE)


@pytest.fixture(scope="module")
def folders(oracle):
    """Pipelines by folder, the last one kept."""
    kept = {}

    def load(name):
        if name not in kept:
            kept.clear()
            kept[name] = load_pipeline(oracle.fixtures / "pipelines" / name, device="cpu")
        return kept[name]

    return load


@pytest.mark.parametrize("case", CASES)
def test_oracle_from_a_diffusers_folder(oracle, folders, case):
    folder, _, arguments = CASES[case]
    check(folders(folder), oracle.reference, case, arguments)


@pytest.mark.parametrize("layout", ["single", "original"])
@pytest.mark.parametrize("case", ["dpm20", "sana06_euler20", "sana15_dpm20", "sana2k_dpm20", "sana4k_dpm20"])
def test_oracle_from_single_files(oracle, text_file, case, layout):
    """The position class of original files and the shift of the 4K model are found, not given; the sampler of a file is
    Flow-DPM.
    """
    _, name, arguments = CASES[case]
    fixtures = oracle.fixtures
    files = {
        "single": {
            "transformer": fixtures / "single" / f"transformer_{name}.safetensors",
            "autoencoder": fixtures / "single" / "vae.safetensors",
            "text_encoder": text_file,
        },
        "original": {
            "transformer": fixtures / "original" / f"{name}.pth",
            "autoencoder": fixtures / "original" / ("dcae.pt" if name == "sana15" else "dcae.safetensors"),
            "text_encoder": fixtures / "pipelines" / "sana" / "text_encoder",
            "tokenizer": fixtures / "text" / "tokenizer.model",
        },
    }[layout]
    pipeline = load_pipeline(files, device="cpu", variant=VARIANT.get(name) if layout == "single" else None)
    native = (
        {"sana06": 512, "sana2k": 2048, "sana4k": 4096}.get(name, 1024)
        if layout == "original" or name in VARIANT
        else 1024
    )
    assert pipeline.defaults.width == pipeline.defaults.height == native
    check(pipeline, oracle.reference, case, {**arguments, **({"sampler": "flow_euler"} if "euler" in case else {})})


@pytest.mark.parametrize(
    ("seed", "folder", "size", "steps", "guidance"),
    [(31, "sana15", (3, 5), 6, 3.0), (32, "sana4k", (4, 2), 5, 6.0), (33, "sana06_euler", (2, 2), 4, 1.5)],
)
def test_other_seeds_sizes_and_prompts(oracle, folders, seed, folder, size, steps, guidance):
    from diffusers import SanaPipeline

    prompt, negative = f"a glass of orange juice, {seed} neon signs \u732b", "grey"
    theirs = SanaPipeline.from_pretrained(oracle.fixtures / "pipelines" / folder)
    theirs.set_progress_bar_config(disable=True)
    latents = torch.randn(1, 32, *size, generator=torch.Generator().manual_seed(seed))
    expected = theirs(
        prompt, negative_prompt=negative, height=size[0] * 32, width=size[1] * 32, latents=latents,
        num_inference_steps=steps, guidance_scale=guidance, use_resolution_binning=False,
        output_type="pt", return_dict=False,
    )[0]  # fmt: skip
    found = folders(folder)(
        prompt,
        negative,
        latents=latents,
        steps=steps,
        guidance_scale=guidance,
        instruction="diffusers",
        output="tensor",
    )
    assert_agree(found, expected, TOLERANCE)
