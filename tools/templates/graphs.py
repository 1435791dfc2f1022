"""The packaged templates: a note, one subgraph, a picture."""

from __future__ import annotations

from collections.abc import Callable

from graph import Node, Output, Template
from pieces import (
    DCAE,
    decode,
    generate,
    load,
    load_nano,
    load_picture,
    load_release,
    own_settings,
    promote_settings,
    save,
    scaled,
)

from sana_core.presets import CONTROLNETS, RELEASES, TEXT_ENCODER, PublishedFile, Release

PARTS = {part.name: part for part in RELEASES}
BASE, SANA15, SPRINT = PARTS["Sana_1600M_1024px_BF16"], PARTS["SANA1.5_1.6B_1024px"], PARTS["Sana_Sprint_1.6B_1024px"]
SMALL, TWO_K, FOUR_K = PARTS["Sana_600M_1024px"], PARTS["Sana_1600M_2Kpx_BF16"], PARTS["Sana_1600M_4Kpx_BF16"]
CONTROLNET = CONTROLNETS[0]
FOX = (
    "A red fox walking through fresh snow at sunrise, frost on its whiskers, soft golden light, "
    "photograph with shallow depth of field"
)
HARBOUR = (
    "A wide view over an old harbour town at dusk, hundreds of lit windows, wooden boats on calm water, mountains "
    "behind, every roof tile visible, highly detailed photograph"
)
WATERCOLOUR = (
    "A watercolour painting of the same scene, loose brush strokes, bright colours, white paper showing through"
)
BALLOON = "A red hot-air balloon floating in a clear sky, photograph"
HOUSE = "A small wooden house at a lake in autumn, morning mist, reflections on the water, photograph"
TEXT_TO_IMAGE = "Text to Image (SANA)"
CLIP = "clip-vit-large-patch14"  # the folder of a scorer, as its repository is called


# Released models


def text_to_image(
    name: str, release: Release, prompt: str, *, tile: str | None = None, form: tuple[str, ...] = ()
) -> Template:
    t = Template(name, TEXT_TO_IMAGE, form=form)
    loaded = load_release(t, release)
    run = generate(t, loaded["MODEL"], loaded["CLIP"], prompt, **own_settings(release))
    promote_settings(t, run, release)
    t.promote(loaded, model="model")
    save(t, decode(t, run["LATENT"], loaded["VAE"], tile=tile))
    return t


def small(name: str, release: Release, text_format: str, prompt: str, *, tile: str | None = None) -> Template:
    """Quantised files are made at the first run; with them the rest draws."""
    t = Template(name, TEXT_TO_IMAGE)
    t.add("SanaNativeQuantize", column=0, title="1 Make the model small", models=(release,), model=release.local_name)
    t.add(
        "SanaNativeQuantize", column=0, title="2 Make Gemma small", models=(TEXT_ENCODER,), model="none",
        text_encoder=TEXT_ENCODER.local_name, format=text_format,
    )  # fmt: skip
    names = small_name(release, "int8"), small_name(TEXT_ENCODER, text_format), DCAE.local_name
    loaded = load(t, *names, models=(DCAE,))
    run = generate(t, loaded["MODEL"], loaded["CLIP"], prompt, **own_settings(release))
    promote_settings(t, run, release)
    save(t, decode(t, run["LATENT"], loaded["VAE"], tile=tile))
    return t


def small_name(part: PublishedFile, format: str) -> str:
    """As the node Quantize SANA Model calls what it makes."""
    return f"{part.local_name.rpartition('.')[0]}_{format}.safetensors"


def lora() -> Template:
    t = Template("SANA-LoRA", "Text to Image with a LoRA (SANA)")
    loaded = load_release(t, BASE)
    patched = t.add("SanaNativeLoadLora", column=0, model=loaded["MODEL"], clip=loaded["CLIP"], lora_name="none")
    run = generate(t, patched["MODEL"], patched["CLIP"], FOX, control_after_generate="fixed", **own_settings(BASE))
    promote_settings(t, run, BASE)
    t.promote(patched, lora_name="LoRA", strength_model="strength")
    save(t, decode(t, run["LATENT"], loaded["VAE"]))
    return t


def perturbed_attention() -> Template:
    t = Template("SANA-PAG", "Text to Image with PAG (SANA)")
    loaded = load_release(t, BASE)
    guided = t.add("SanaNativePerturbedAttention", column=0, model=loaded["MODEL"])
    run = generate(t, guided["MODEL"], loaded["CLIP"], FOX, **own_settings(BASE))
    promote_settings(t, run, BASE)
    t.promote(guided, scale="PAG scale")
    save(t, decode(t, run["LATENT"], loaded["VAE"]))
    return t


def best_of_n() -> Template:
    """A batch of candidates in one style, of which CLIP chooses."""
    t = Template("SANA-best-of-N", "Best of N (SANA)")
    loaded = load_release(t, BASE)
    scorer = t.add("SanaNativeLoadScorer", column=0, scorer=f"clip: {CLIP}")
    styled = t.add("SanaNativeStyle", column=0, tall=300, prompt=FOX)
    empty = t.add("SanaNativeEmptyLatent", column=1, resolution="1024 px model", batch_size=4)
    run = generate(
        t, loaded["MODEL"], loaded["CLIP"], styled["prompt"], negative_prompt=styled["negative_prompt"],
        latent=empty["LATENT"], **own_settings(BASE, size=False),
    )  # fmt: skip
    best = t.add(
        "SanaNativeBestOf", column=2, images=decode(t, run["LATENT"], loaded["VAE"]), prompt=styled["prompt"],
        scorer=scorer["scorer"],
    )  # fmt: skip
    t.promote(styled, prompt="prompt", style="style")
    t.promote(empty, resolution__size="size", batch_size="candidates")
    t.promote(best, keep="keep")
    t.promote(run, seed="seed")
    t.promote(scorer, scorer="scorer")
    save(t, best["images"], height=380)
    t.after("PreviewAny", called="scores", title="Scores", tall=170, source=best["scores"])
    return t


def controlnet() -> Template:
    t = Template("SANA-ControlNet", "Draw along Edges (SANA)")
    picture = load_picture(t)
    loaded = load_release(t, BASE)
    edges = t.add("Canny", column=0, image=picture["IMAGE"])
    prepared = t.add("SanaNativeSoftEdge", column=0, edges=edges["IMAGE"], lines="thin")
    control = t.add("SanaNativeLoadControlNet", column=0, models=(CONTROLNET,), control_net=CONTROLNET.local_name)
    run = generate(
        t, loaded["MODEL"], loaded["CLIP"], FOX, control_net=control["CONTROL_NET"], control_image=prepared["IMAGE"],
        vae=loaded["VAE"], **own_settings(BASE),
    )  # fmt: skip
    promote_settings(t, run, BASE)
    t.promote(run, control_strength="strength")
    save(t, decode(t, run["LATENT"], loaded["VAE"]), height=340)
    t.after("PreviewImage", called="edges", title="Edges", tall=220, images=prepared["IMAGE"])
    return t


def image_to_image(name: str, release: Release) -> Template:
    t = Template(name, "Image to Image (SANA)")
    picture = load_picture(t)
    loaded = load_release(t, release)
    encoded = t.add("VAEEncode", column=0, pixels=scaled(t, picture["IMAGE"])["IMAGE"], vae=loaded["VAE"])
    run = generate(
        t, loaded["MODEL"], loaded["CLIP"], WATERCOLOUR, latent=encoded["LATENT"], denoise=0.6,
        **own_settings(release, size=False),
    )  # fmt: skip
    promote_settings(t, run, release, size=False)
    t.promote(run, denoise="denoise")
    save(t, decode(t, run["LATENT"], loaded["VAE"]))
    return t


def inpaint() -> Template:
    """The mask is the painted one and, as long as `middle` is 1, a square in the middle of an unpainted picture."""
    t = Template("SANA-inpaint", "Inpaint (SANA)")
    picture = load_picture(t)
    loaded = load_release(t, SANA15)
    square = t.add("SolidMask", column=0, title="Square in the middle", value=1.0, width=32, height=32)
    mask = t.add(
        "MaskComposite", column=0, destination=picture["MASK"], source=square["MASK"], x=16, y=16, operation="or"
    )
    joined = t.add("JoinImageWithAlpha", column=0, image=picture["IMAGE"], alpha=mask["MASK"])
    split = t.add("SplitImageWithAlpha", column=0, image=scaled(t, joined["IMAGE"])["IMAGE"])
    run = _repaint(t, loaded, split["IMAGE"], split["MASK"], BALLOON)
    promote_settings(t, run, SANA15, size=False)
    t.promote(square, value="middle")
    return t


def outpaint() -> Template:
    t = Template("SANA-outpaint", "Outpaint (SANA)")
    picture = load_picture(t)
    loaded = load_release(t, SANA15)
    padded = t.add(
        "ImagePadForOutpaint", column=0, image=scaled(t, picture["IMAGE"])["IMAGE"],
        left=256, right=256, top=0, bottom=0, feathering=64,
    )  # fmt: skip
    run = _repaint(t, loaded, padded["IMAGE"], padded["MASK"], HOUSE)
    promote_settings(t, run, SANA15, size=False)
    t.promote(padded, left="left", right="right", top="top", bottom="bottom")
    return t


def _repaint(t: Template, loaded: Node, image: Output, mask: Output, prompt: str) -> Node:
    """Redraw what the mask covers; everything else comes from the picture, pixel by pixel."""
    encoded = t.add("VAEEncode", column=1, pixels=image, vae=loaded["VAE"])
    masked = t.add("SetLatentNoiseMask", column=1, samples=encoded["LATENT"], mask=mask)
    run = generate(
        t, loaded["MODEL"], loaded["CLIP"], prompt, column=2, latent=masked["LATENT"],
        **own_settings(SANA15, size=False),
    )  # fmt: skip
    drawn = decode(t, run["LATENT"], loaded["VAE"], column=3)
    pasted = t.add(
        "ImageCompositeMasked", column=3, destination=image, source=drawn, mask=mask, x=0, y=0, resize_source=True
    )
    save(t, pasted["IMAGE"])
    return run


# The embedded model


def quick_start(name: str, prompt: str, model: str = "sana_nano.safetensors") -> Template:
    t = Template(name, "Text to Image (Sana-nano)", height=420)
    loaded = load_nano(t, model)
    run = generate(t, loaded["MODEL"], loaded["CLIP"], prompt)
    t.promote(run, prompt="prompt", seed="seed")
    save(t, decode(t, run["LATENT"], loaded["VAE"]))
    return t


def quick_start_lora() -> Template:
    t = Template("SANA-quick-start-LoRA", "Text to Image with a LoRA (Sana-nano)", height=420)
    loaded = load_nano(t)
    patched = t.add(
        "SanaNativeLoadLora", column=0, model=loaded["MODEL"], clip=loaded["CLIP"],
        lora_name="sana_nano_style.safetensors",
    )  # fmt: skip
    run = generate(
        t, patched["MODEL"], patched["CLIP"], "a sunflower, monochrome", control_after_generate="fixed"
    )  # to compare strengths
    t.promote(run, prompt="prompt", seed="seed")
    t.promote(patched, lora_name="LoRA", strength_model="strength")
    save(t, decode(t, run["LATENT"], loaded["VAE"]))
    return t


def quick_start_controlnet() -> Template:
    """The lines of one drawn picture guide another: no picture has to be there."""
    t = Template("SANA-quick-start-ControlNet", "Draw along Edges (Sana-nano)", height=480)
    loaded = load_nano(t)
    first = generate(t, loaded["MODEL"], loaded["CLIP"], "a small red apple")
    edges = t.add(
        "Canny", column=2, image=decode(t, first["LATENT"], loaded["VAE"]), low_threshold=0.1, high_threshold=0.3
    )
    control = t.add("SanaNativeLoadControlNet", column=0, control_net="sana_nano_controlnet.safetensors")
    run = generate(
        t, loaded["MODEL"], loaded["CLIP"], "a tangerine", column=3, control_net=control["CONTROL_NET"],
        control_image=edges["IMAGE"], vae=loaded["VAE"],
    )  # fmt: skip
    t.promote(run, prompt="prompt")
    t.promote(first, prompt="edges of")
    t.promote(run, control_strength="strength", seed="seed")
    save(t, decode(t, run["LATENT"], loaded["VAE"], column=4), height=260)
    t.after("PreviewImage", called="edges", title="Edges", tall=160, images=edges["IMAGE"])
    return t


def train_lora() -> Template:
    """Trains on pictures that come with the pack, then draws with what was learnt."""
    t = Template("SANA-train-LoRA", "Train a LoRA (Sana-nano)", height=620)
    loaded = load_nano(t)
    trained = t.add(
        "SanaNativeTrainLora", column=1, tall=760, model=loaded["MODEL"], clip=loaded["CLIP"], vae=loaded["VAE"],
        folder="zorble (example)", caption="a zorble", name="my_zorble", steps=500, at_once=4, learning_rate=0.001,
        sample_prompt="a zorble",
    )  # fmt: skip
    patched = t.add("LoraModelLoader", column=2, model=loaded["MODEL"], lora=trained["lora"])
    run = generate(
        t, patched["model"], loaded["CLIP"], "a zorble on a blue background", column=2,
        control_after_generate="fixed",
    )  # fmt: skip
    t.promote(run, prompt="prompt")
    t.promote(
        trained, folder="pictures", caption="caption", name="name of the LoRA", steps="steps",
        learning_rate="learning rate", continue_training="go on",
    )  # fmt: skip
    t.promote(patched, strength_model="strength")
    t.promote(run, seed="seed")
    save(t, decode(t, run["LATENT"], loaded["VAE"], column=3), height=280)
    t.after("PreviewImage", called="loss", title="Loss", tall=280, images=trained["loss"])
    return t


TEMPLATES: tuple[Callable[[], Template], ...] = (
    lambda: quick_start("SANA-quick-start", "a red apple"),
    lambda: quick_start("SANA-quick-start-Sprint", "a rocket", "sana_nano_sprint.safetensors"),
    quick_start_controlnet,
    quick_start_lora,
    train_lora,
    lambda: text_to_image("SANA-1.6B-text-to-image-1024", BASE, FOX),
    lambda: text_to_image("SANA-1.5-text-to-image-1024", SANA15, FOX),
    lambda: text_to_image("SANA-text-to-image.app", BASE, FOX, form=("prompt", "aspect ratio", "seed")),
    lambda: text_to_image("SANA-1.6B-text-to-image-2K", TWO_K, HARBOUR, tile="1024"),
    lambda: text_to_image("SANA-1.6B-text-to-image-4K", FOUR_K, HARBOUR, tile="1024"),
    lambda: text_to_image("SANA-Sprint-text-to-image", SPRINT, FOX),
    lambda: small("SANA-on-8-GB", BASE, "fp8", FOX),
    lambda: small("SANA-on-6-GB", TWO_K, "fp8", HARBOUR, tile="1024"),
    lambda: small("SANA-on-4-GB", SMALL, "w4a8", FOX),
    lora,
    best_of_n,
    controlnet,
    perturbed_attention,
    lambda: image_to_image("SANA-image-to-image", SANA15),
    lambda: image_to_image("SANA-Sprint-image-to-image", SPRINT),
    inpaint,
    outpaint,
)
