"""The ten style templates of NVIDIA's demo: words around a prompt and words for the negative prompt.

Source: `style_list` and `apply_style` in app/app_sana.py of NVlabs/Sana (Apache-2.0), word by word, spaces included.
"""

from __future__ import annotations

from .errors import InputError

NO_STYLE = "(No style)"
PROMPT = "{prompt}"
STYLES: dict[str, tuple[str, str]] = {
    NO_STYLE: (PROMPT, ""),
    "Cinematic": (
        "cinematic still {prompt} . emotional, harmonious, vignette, highly detailed, high budget, bokeh, cinemascope, "
        "moody, epic, gorgeous, film grain, grainy",
        "anime, cartoon, graphic, text, painting, crayon, graphite, abstract, glitch, deformed, mutated, ugly, "
        "disfigured",
    ),
    "Photographic": (
        "cinematic photo {prompt} . 35mm photograph, film, bokeh, professional, 4k, highly detailed",
        "drawing, painting, crayon, sketch, graphite, impressionist, noisy, blurry, soft, deformed, ugly",
    ),
    "Anime": (
        "anime artwork {prompt} . anime style, key visual, vibrant, studio anime,  highly detailed",
        "photo, deformed, black and white, realism, disfigured, low contrast",
    ),
    "Manga": (
        "manga style {prompt} . vibrant, high-energy, detailed, iconic, Japanese comic style",
        "ugly, deformed, noisy, blurry, low contrast, realism, photorealistic, Western comic style",
    ),
    "Digital Art": (
        "concept art {prompt} . digital artwork, illustrative, painterly, matte painting, highly detailed",
        "photo, photorealistic, realism, ugly",
    ),
    "Pixel art": (
        "pixel-art {prompt} . low-res, blocky, pixel art style, 8-bit graphics",
        "sloppy, messy, blurry, noisy, highly detailed, ultra textured, photo, realistic",
    ),
    "Fantasy art": (
        "ethereal fantasy concept art of  {prompt} . magnificent, celestial, ethereal, painterly, epic, majestic, "
        "magical, fantasy art, cover art, dreamy",
        "photographic, realistic, realism, 35mm film, dslr, cropped, frame, text, deformed, glitch, noise, noisy, "
        "off-center, deformed, cross-eyed, closed eyes, bad anatomy, ugly, disfigured, sloppy, duplicate, mutated, "
        "black and white",
    ),
    "Neonpunk": (
        "neonpunk style {prompt} . cyberpunk, vaporwave, neon, vibes, vibrant, stunningly beautiful, crisp, detailed, "
        "sleek, ultramodern, magenta highlights, dark purple shadows, high contrast, cinematic, ultra detailed, "
        "intricate, professional",
        "painting, drawing, illustration, glitch, deformed, mutated, cross-eyed, ugly, disfigured",
    ),
    "3D Model": (
        "professional 3d model {prompt} . octane render, highly detailed, volumetric, dramatic lighting",
        "ugly, deformed, noisy, low poly, blurry, painting",
    ),
}
"""By name: the prompt, where {prompt} stands for the user's, and what comes before the user's negative prompt."""

_BY_NAME = {name.casefold(): name for name in STYLES}


NONE = ("none", "no style")  # other names of NO_STYLE


def style_name(name: str) -> str:
    """The name of a style as `STYLES` has it, from one in any case. Raises InputError, which lists them."""
    found = _BY_NAME.get(name.strip().casefold()) or (NO_STYLE if name.strip().casefold() in NONE else None)
    if found is None:
        raise InputError(f'there is no style "{name:.80}", expected one of {", ".join(STYLES)}')
    return found


def styled(prompt: str, negative_prompt: str, style: str | None) -> tuple[str, str]:
    """Prompt and negative prompt in a style. None stands for no style. Raises InputError for an unknown one.

    The negative prompts are joined as NVIDIA's demo joins them: the user's follows the style's without a comma.
    """
    template, negative = STYLES[NO_STYLE if style is None else style_name(style)]
    return template.replace(PROMPT, prompt), negative + negative_prompt
