"""The packaged templates."""

from __future__ import annotations

from graph import Node, Output, Template
from parts import (
    BLUE,
    BROWN,
    DCAE,
    GREEN,
    PURPLE,
    RED,
    decode,
    load,
    masked_picture,
    picture,
    prompts,
    sample,
    sample_sprint,
    size,
)  # fmt: skip

from sana_core.presets import CONTROLNETS, RELEASES, TEXT_ENCODER, PublishedFile

PARTS = {part.name: part for part in (*RELEASES, *CONTROLNETS)}
BASE, SANA15, SPRINT = PARTS["Sana_1600M_1024px_BF16"], PARTS["SANA1.5_1.6B_1024px"], PARTS["Sana_Sprint_1.6B_1024px"]
SMALL = PARTS["Sana_600M_1024px"]
TWO_K, FOUR_K = PARTS["Sana_1600M_2Kpx_BF16"], PARTS["Sana_1600M_4Kpx_BF16"]
CONTROLNET = PARTS["Sana_1600M_1024px_BF16_ControlNet_HED"]
LORA = "my_sana_lora.safetensors"  # stands for the user's
FOX = (
    "A red fox walking through fresh snow at sunrise, frost on its whiskers, soft golden light, "
    "photograph with shallow depth of field"
)
HARBOUR = (
    "A wide view over an old harbour town at dusk, hundreds of lit windows, wooden boats on calm water, mountains "
    "behind, "
    "every roof tile visible, highly detailed photograph"
)
WATERCOLOUR = (
    "A watercolour painting of the same scene, loose brush strokes, bright colours, white paper showing through"
)
BALLOON = "A red hot-air balloon floating in a clear sky, photograph"
HOUSE = "A small wooden house at a lake in autumn, morning mist, reflections on the water, photograph"


def text_to_image(
    name: str, model: PublishedFile, class_label: str, size_label: str, text: str, *, tile: str | None = None
) -> Template:
    t = Template(name)
    loaded = load(t, model)
    latent = size(t, class_label, size_label)
    positive, negative = prompts(t, loaded["CLIP"], text)
    run = sample(t, loaded["MODEL"], positive["CONDITIONING"], negative["CONDITIONING"], latent["LATENT"])
    decode(t, run["output"], loaded["VAE"], tile=tile)
    return t


def small(
    name: str, model: PublishedFile, text_format: str, class_label: str, size_label: str, text: str,
    *, tile: str | None = None,
) -> Template:  # fmt: skip
    """Quantised files are made at the first run; with them the rest draws."""
    t = Template(name)
    t.group("0 Make the small files, once", RED, 1)
    made = {
        "model": t.add("SanaNativeQuantize", title="Model in int8", models=(model,), model=model.file_name),
        "text_encoder": t.add(
            "SanaNativeQuantize", title=f"Gemma in {text_format}", models=(TEXT_ENCODER,), model="none",
            text_encoder=TEXT_ENCODER.file_name, format=text_format,
        ),
    }  # fmt: skip
    for node in made.values():
        t.add("PreviewAny", title="What was made", height=140, source=node["report"])
    t.group("1 Model", BLUE, 2)
    files = {"model": small_name(model, "int8"), "text_encoder": small_name(TEXT_ENCODER, text_format)}
    loaded = t.add("SanaNativeLoad", color="blue", models=(DCAE,), vae=DCAE.file_name, **files)
    t.group("2 Size", BROWN, 2)
    latent = t.add("SanaNativeEmptyLatent", resolution=class_label, resolution__size=size_label)
    positive, negative = prompts(t, loaded["CLIP"], text, column=3)
    run = sample(t, loaded["MODEL"], positive["CONDITIONING"], negative["CONDITIONING"], latent["LATENT"], column=4)
    decode(t, run["output"], loaded["VAE"], tile=tile, column=5)
    return t


def small_name(part: PublishedFile, format: str) -> str:
    """As the node Quantize SANA Model calls what it makes."""
    return f"{part.file_name.rpartition('.')[0]}_{format}.safetensors"


def load_nano(t: Template, model: str = "sana_nano.safetensors") -> Node:
    """The embedded model, which comes with the pack."""
    t.group("", "", 0, width=440)
    files = {"model": model, "text_encoder": "sana_nano_text.safetensors", "vae": "sana_nano_vae.safetensors"}
    return t.add("SanaNativeLoad", color="blue", **files)


def generate(
    t: Template, model: Output, clip: Output, prompt: str, *, title: str | None = None, height: int = 560
) -> Node:
    return t.add(
        "SanaNativeGenerate", title=title, color="green", height=height, model=model, clip=clip, prompt=prompt, seed=1
    )


def save_small(t: Template, latent: Output, vae: Output) -> None:
    t.group("", "", 2, width=320)
    decoded = t.add("VAEDecode", samples=latent, vae=vae)
    t.add("SaveImage", height=340, images=decoded["IMAGE"], filename_prefix="SANA")


def quick_start(
    name: str = "SANA-quick-start", model: str = "sana_nano.safetensors", prompt: str = "a red apple"
) -> Template:
    t = Template(name, note_height=300)
    loaded = load_nano(t, model)
    t.group("", "", 1, width=420)
    save_small(t, generate(t, loaded["MODEL"], loaded["CLIP"], prompt)["LATENT"], loaded["VAE"])
    return t


def quick_start_lora() -> Template:
    t = Template("SANA-quick-start-LoRA", note_height=340)
    loaded = load_nano(t)
    patched = t.add(
        "SanaNativeLoadLora",
        color="blue",
        model=loaded["MODEL"],
        clip=loaded["CLIP"],
        lora_name="sana_nano_style.safetensors",
    )
    t.group("", "", 1, width=420)
    run = generate(t, patched["MODEL"], patched["CLIP"], "a sunflower, monochrome")
    t.add("PreviewAny", title="What the LoRA changes", height=140, source=patched["report"])
    save_small(t, run["LATENT"], loaded["VAE"])
    return t


def quick_start_controlnet() -> Template:
    """The lines of one drawn picture guide another: no picture has to be there."""
    t = Template("SANA-quick-start-ControlNet", note_height=340)
    loaded = load_nano(t)
    t.group("1 A picture and its edges", RED, 1)
    run = generate(t, loaded["MODEL"], loaded["CLIP"], "a small red apple", height=420)
    drawn = t.add("VAEDecode", samples=run["LATENT"], vae=loaded["VAE"])
    edges = t.add("Canny", image=drawn["IMAGE"], low_threshold=0.1, high_threshold=0.3)
    t.add("PreviewImage", height=260, images=edges["IMAGE"])
    t.group("2 Another one along them", GREEN, 2)
    positive = t.add(
        "SanaNativeTextEncode", title="Prompt", color="green", height=160, clip=loaded["CLIP"], text="a tangerine"
    )
    negative = t.add(
        "SanaNativeTextEncode", title="Negative prompt", color="red", height=140, clip=loaded["CLIP"], text="",
        instruction="none"
    )  # fmt: skip
    control = t.add("SanaNativeLoadControlNet", control_net="sana_nano_controlnet.safetensors")
    applied = t.add(
        "ControlNetApplyAdvanced", positive=positive["CONDITIONING"], negative=negative["CONDITIONING"],
        control_net=control["CONTROL_NET"], image=edges["IMAGE"], vae=loaded["VAE"],
    )  # fmt: skip
    t.group("3 Sampling", PURPLE, 3)
    latent = t.add("SanaNativeEmptyLatent", resolution="custom", resolution__width=256, resolution__height=256)
    sampler = t.add("SanaNativeSampler")
    sigmas = t.add("SanaNativeSigmas", model=loaded["MODEL"])
    sampled = t.add(
        "SamplerCustom", cfg=3.0, noise_seed=1, model=loaded["MODEL"], positive=applied["positive"],
        negative=applied["negative"],
        sampler=sampler["SAMPLER"], sigmas=sigmas["SIGMAS"], latent_image=latent["LATENT"],
    )  # fmt: skip
    t.group("4 Picture", BLUE, 4)
    decoded = t.add("VAEDecode", samples=sampled["output"], vae=loaded["VAE"])
    t.add("SaveImage", height=400, images=decoded["IMAGE"], filename_prefix="SANA")
    return t


def sprint() -> Template:
    t = Template("SANA-Sprint-text-to-image")
    loaded = load(t, SPRINT)
    latent = size(t, "1024 px model", "1:1 - 1024x1024")
    positive, _ = prompts(t, loaded["CLIP"], FOX, negative=False)
    run = sample_sprint(t, loaded["MODEL"], positive["CONDITIONING"], latent["LATENT"], steps=2)
    decode(t, run["output"], loaded["VAE"])
    return t


def sprint_image_to_image() -> Template:
    t = Template("SANA-Sprint-image-to-image")
    loaded = load(t, SPRINT)
    encoded = t.add("VAEEncode", pixels=picture(t, "2 Picture to redraw"), vae=loaded["VAE"])
    positive, _ = prompts(t, loaded["CLIP"], WATERCOLOUR, negative=False)
    run = sample_sprint(t, loaded["MODEL"], positive["CONDITIONING"], encoded["LATENT"], steps=2, denoise=0.6)
    decode(t, run["output"], loaded["VAE"])
    return t


def controlnet() -> Template:
    t = Template("SANA-ControlNet")
    loaded = load(t, BASE)
    latent = size(t, "1024 px model", "1:1 - 1024x1024")
    t.group("Edges", RED, 2, width=420)
    loaded_picture = t.add("LoadImage", image="example.png", height=340)
    edges = t.add("Canny", image=loaded_picture["IMAGE"])
    prepared = t.add("SanaNativeSoftEdge", edges=edges["IMAGE"], lines="thin")
    t.add("PreviewImage", height=260, images=prepared["IMAGE"])
    positive, negative = prompts(t, loaded["CLIP"], FOX)
    t.group("ControlNet", RED, 3)
    control = t.add("SanaNativeLoadControlNet", models=(CONTROLNET,), control_net=CONTROLNET.file_name)
    applied = t.add(
        "ControlNetApplyAdvanced", positive=positive["CONDITIONING"], negative=negative["CONDITIONING"],
        control_net=control["CONTROL_NET"], image=prepared["IMAGE"], vae=loaded["VAE"],
    )  # fmt: skip
    run = sample(t, loaded["MODEL"], applied["positive"], applied["negative"], latent["LATENT"])
    decode(t, run["output"], loaded["VAE"])
    return t


def lora() -> Template:
    t = Template("SANA-LoRA")
    loaded = load(t, BASE)
    patched = t.add("SanaNativeLoadLora", model=loaded["MODEL"], clip=loaded["CLIP"], lora_name=LORA)
    t.add("PreviewAny", title="What the LoRA changes", height=140, source=patched["report"])
    latent = size(t, "1024 px model", "1:1 - 1024x1024")
    positive, negative = prompts(t, patched["CLIP"], FOX)
    run = sample(t, patched["MODEL"], positive["CONDITIONING"], negative["CONDITIONING"], latent["LATENT"])
    decode(t, run["output"], loaded["VAE"])
    return t


def perturbed_attention() -> Template:
    t = Template("SANA-PAG")
    loaded = load(t, BASE)
    guided = t.add("SanaNativePerturbedAttention", model=loaded["MODEL"])
    latent = size(t, "1024 px model", "1:1 - 1024x1024")
    positive, negative = prompts(t, loaded["CLIP"], FOX)
    run = sample(t, guided["MODEL"], positive["CONDITIONING"], negative["CONDITIONING"], latent["LATENT"])
    decode(t, run["output"], loaded["VAE"])
    return t


def image_to_image() -> Template:
    t = Template("SANA-image-to-image")
    loaded = load(t, SANA15)
    encoded = t.add("VAEEncode", pixels=picture(t, "2 Picture to redraw"), vae=loaded["VAE"])
    positive, negative = prompts(t, loaded["CLIP"], WATERCOLOUR)
    run = sample(t, loaded["MODEL"], positive["CONDITIONING"], negative["CONDITIONING"], encoded["LATENT"], denoise=0.6)
    decode(t, run["output"], loaded["VAE"])
    return t


def inpaint() -> Template:
    t = Template("SANA-inpaint")
    loaded = load(t, SANA15)
    _repaint(t, loaded, *masked_picture(t, "2 Picture with a mask"), BALLOON)
    return t


def outpaint() -> Template:
    t = Template("SANA-outpaint")
    loaded = load(t, SANA15)
    original = picture(t, "2 Picture to enlarge")
    padded = t.add("ImagePadForOutpaint", image=original, left=256, right=256, top=0, bottom=0, feathering=64)
    _repaint(t, loaded, padded["IMAGE"], padded["MASK"], HOUSE)
    return t


def _repaint(t: Template, loaded: Node, image: Output, mask: Output, text: str) -> None:
    """Redraw what the mask covers; everything else comes from the picture, pixel by pixel."""
    encoded = t.add("VAEEncode", pixels=image, vae=loaded["VAE"])
    masked = t.add("SetLatentNoiseMask", samples=encoded["LATENT"], mask=mask)
    positive, negative = prompts(t, loaded["CLIP"], text)
    run = sample(t, loaded["MODEL"], positive["CONDITIONING"], negative["CONDITIONING"], masked["LATENT"])
    t.group("5 Picture", BLUE, 4, width=560)
    decoded = t.add("VAEDecode", samples=run["output"], vae=loaded["VAE"])
    pasted = t.add(
        "ImageCompositeMasked", destination=image, source=decoded["IMAGE"], mask=mask, x=0, y=0, resize_source=True
    )
    t.add("SaveImage", height=560, images=pasted["IMAGE"], filename_prefix="SANA")


SQUARE = {1024: "1:1 - 1024x1024", 2048: "1:1 - 2048x2048", 4096: "1:1 - 4096x4096"}
TEMPLATES = (
    quick_start,
    lambda: quick_start("SANA-quick-start-Sprint", "sana_nano_sprint.safetensors", "a rocket"),
    quick_start_controlnet,
    quick_start_lora,
    lambda: text_to_image("SANA-1.6B-text-to-image-1024", BASE, "1024 px model", SQUARE[1024], FOX),
    lambda: text_to_image("SANA-1.5-text-to-image-1024", SANA15, "1024 px model", SQUARE[1024], FOX),
    lambda: text_to_image("SANA-1.6B-text-to-image-2K", TWO_K, "2048 px model", SQUARE[2048], HARBOUR, tile="1024"),
    lambda: text_to_image("SANA-1.6B-text-to-image-4K", FOUR_K, "4096 px model", SQUARE[4096], HARBOUR, tile="1024"),
    lambda: small("SANA-on-8-GB", BASE, "fp8", "1024 px model", SQUARE[1024], FOX),
    lambda: small("SANA-on-6-GB", TWO_K, "fp8", "2048 px model", SQUARE[2048], HARBOUR, tile="1024"),
    lambda: small("SANA-on-4-GB", SMALL, "w4a8", "1024 px model", SQUARE[1024], FOX),
    sprint,
    sprint_image_to_image,
    controlnet,
    lora,
    perturbed_attention,
    image_to_image,
    inpaint,
    outpaint,
)
