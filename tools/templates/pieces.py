"""What the graphs of several templates have in common: loading, drawing, decoding, saving."""

from __future__ import annotations

from typing import Any

from graph import Node, Output, Template

from sana_core.presets import AUTOENCODERS, TEXT_ENCODER, PublishedFile, Release

DCAE = AUTOENCODERS[0]


def load(t: Template, model: str, text_encoder: str, vae: str, models: tuple[PublishedFile, ...] = ()) -> Node:
    return t.add("SanaNativeLoad", column=0, models=models, model=model, text_encoder=text_encoder, vae=vae)


def load_release(t: Template, release: Release) -> Node:
    names = release.local_name, TEXT_ENCODER.local_name, DCAE.local_name
    return load(t, *names, models=(release, TEXT_ENCODER, DCAE))


def load_nano(t: Template, model: str = "sana_nano.safetensors") -> Node:
    """The embedded model, which comes with the pack."""
    return load(t, model, "sana_nano_text.safetensors", "sana_nano_vae.safetensors")


def generate(t: Template, model: Output, clip: Output, prompt: str | Output, *, column: int = 1, **inputs: Any) -> Node:
    return t.add("SanaNativeGenerate", column=column, tall=560, model=model, clip=clip, prompt=prompt, seed=1, **inputs)


def own_settings(release: Release, *, size: bool = True) -> dict[str, Any]:
    """The released numbers, where people see and change them."""
    sampling = release.sampling
    chosen = {"sampling": "own", "sampling__steps": sampling.steps, "sampling__cfg": sampling.guidance_scale}
    return {**({"size": "aspect ratio", "size__ratio": "1:1"} if size else {}), **chosen}


def promote_settings(t: Template, run: Node, release: Release, *, size: bool = True, first: str = "prompt") -> None:
    """What people change: first the prompt, large."""
    t.promote(run, prompt=first)
    if size:
        t.promote(run, size__ratio="aspect ratio")
    t.promote(run, seed="seed", sampling__steps="steps")
    if release.sampling.sampler != "scm":
        t.promote(run, sampling__cfg="cfg")


def decode(t: Template, samples: Output, vae: Output, *, tile: str | None = None, column: int = 2) -> Output:
    if tile is None:
        return t.add("VAEDecode", column=column, samples=samples, vae=vae)["IMAGE"]
    return t.add("SanaNativeDecodeTiled", column=column, samples=samples, vae=vae, tile_size=tile)["IMAGE"]


def save(t: Template, image: Output, height: int | None = None) -> None:
    t.after("SaveImage", called="picture", tall=height or t.height, images=image, filename_prefix="SANA")


def load_picture(t: Template) -> Node:
    return t.above("LoadImage", tall=300, image="example.png")


def scaled(t: Template, image: Output) -> Node:
    """About a million pixels and a multiple of 32 on each side, as SANA needs it."""
    return t.add(
        "ImageScaleToTotalPixels", column=0, image=image, upscale_method="bicubic", megapixels=1.0, resolution_steps=32
    )
