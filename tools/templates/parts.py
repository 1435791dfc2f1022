"""What templates are put together from: groups of nodes that load, prompt, sample and decode."""

from __future__ import annotations

from graph import Node, Output, Template

from sana_core.presets import AUTOENCODERS, TEXT_ENCODER, PublishedFile

BLUE, GREEN, BROWN, PURPLE, RED = "#3f789e", "#3a7a4a", "#8a6a3a", "#7a5a9a", "#9a4a4a"
DCAE = AUTOENCODERS[0]


def load(t: Template, release: PublishedFile) -> Node:
    """The three parts of a released model."""
    t.group("1 Model", BLUE, 1)
    files = {"model": release.file_name, "text_encoder": TEXT_ENCODER.file_name, "vae": DCAE.file_name}
    return t.add("SanaNativeLoad", color="blue", models=(release, TEXT_ENCODER, DCAE), **files)


def size(t: Template, model: str, label: str) -> Node:
    t.group("2 Size", BROWN, 1)
    return t.add("SanaNativeEmptyLatent", resolution=model, resolution__size=label)


def picture(t: Template, title: str) -> Output:
    """A picture to start from, of about a million pixels and a multiple of 32 on each side, as SANA needs it."""
    t.group(title, BROWN, 1)
    loaded = t.add("LoadImage", height=340, image="example.png")
    return scaled(t, loaded["IMAGE"])["IMAGE"]


def masked_picture(t: Template, title: str) -> tuple[Output, Output]:
    """The same with the mask that was painted on it, which is scaled as the picture's alpha."""
    t.group(title, BROWN, 1)
    loaded = t.add("LoadImage", height=340, image="example.png")
    joined = t.add("JoinImageWithAlpha", image=loaded["IMAGE"], alpha=loaded["MASK"])
    split = t.add("SplitImageWithAlpha", image=scaled(t, joined["IMAGE"])["IMAGE"])
    return split["IMAGE"], split["MASK"]


def scaled(t: Template, image: Output) -> Node:
    return t.add("ImageScaleToTotalPixels", image=image, upscale_method="bicubic", megapixels=1.0, resolution_steps=32)


def prompts(
    t: Template, clip: Output, text: str, *, negative: bool = True, column: int = 2
) -> tuple[Node, Node | None]:
    t.group("3 Prompt", GREEN, column, width=420)
    positive = t.add("SanaNativeTextEncode", title="Prompt", color="green", height=220, clip=clip, text=text)
    if not negative:
        return positive, None
    encoded = t.add(
        "SanaNativeTextEncode", title="Negative prompt", color="red", height=220, clip=clip, text="", instruction="none"
    )
    return positive, encoded


def sample(
    t: Template, model: Output, positive: Output, negative: Output, latent: Output, *,
    denoise: float = 1.0, column: int = 3,
) -> Node:  # fmt: skip
    """Flow-DPM-Solver as released."""
    t.group("4 Sampling", PURPLE, column)
    sampler = t.add("SanaNativeSampler")
    sigmas = t.add("SanaNativeSigmas", model=model, denoise=denoise)
    return t.add(
        "SamplerCustom", cfg=4.5, noise_seed=1, model=model, positive=positive, negative=negative,
        sampler=sampler["SAMPLER"],
        sigmas=sigmas["SIGMAS"], latent_image=latent,
    )  # fmt: skip


def sample_sprint(
    t: Template, model: Output, positive: Output, latent: Output, *, steps: int, denoise: float = 1.0
) -> Node:
    """Sprint's own solver and grid; its guidance is an input of the model, there is no negative prompt."""
    t.group("4 Sampling", PURPLE, 3)
    guidance = t.add("FluxGuidance", title="Guidance of Sprint", conditioning=positive, guidance=4.5)
    guider = t.add("BasicGuider", model=model, conditioning=guidance["CONDITIONING"])
    sampler = t.add("SanaNativeSampler", sampler="scm")
    sigmas = t.add("SanaNativeSigmas", model=model, schedule="scm", steps=steps, denoise=denoise)
    noise = t.add("RandomNoise", noise_seed=1)
    return t.add(
        "SamplerCustomAdvanced", noise=noise["NOISE"], guider=guider["GUIDER"], sampler=sampler["SAMPLER"],
        sigmas=sigmas["SIGMAS"],
        latent_image=latent,
    )  # fmt: skip


def decode(t: Template, samples: Output, vae: Output, *, tile: str | None = None, column: int = 4) -> Node:
    t.group("5 Picture", BLUE, column, width=560)
    if tile is None:
        decoded = t.add("VAEDecode", samples=samples, vae=vae)
    else:
        decoded = t.add("SanaNativeDecodeTiled", samples=samples, vae=vae, tile_size=tile)
    return t.add("SaveImage", height=620, images=decoded["IMAGE"], filename_prefix="SANA")
