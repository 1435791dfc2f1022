"""A ComfyUI server with the pack installed under its registry name, and tiny models under the file names that the
templates ask for.
"""

import contextlib
import json
import shutil
from pathlib import Path

import pytest
from e2e import comfyui, tiny_files
from e2e.server import Server
from scoring_files import write_clip

from sana_core.quantiser.convert import quantise_file

ROOT = Path(__file__).parents[2]
NAME = "sana-native"  # of its folder in custom_nodes, as ComfyUI-Manager makes it
RELEASED = {  # files of the templates -> tiny files of the same kind and layout
    "diffusion_models/Sana_1600M_1024px_BF16.pth": "diffusion_models/sana.pth",
    "diffusion_models/Sana_600M_1024px_MultiLing.pth": "diffusion_models/sana.pth",
    "diffusion_models/SANA1.5_1.6B_1024px.pth": "diffusion_models/sana15.pth",
    "diffusion_models/Sana_1600M_2Kpx_BF16.pth": "diffusion_models/sana_2k.pth",
    "diffusion_models/Sana_1600M_4Kpx_BF16.pth": "diffusion_models/sana_4k.pth",
    "diffusion_models/Sana_Sprint_1.6B_1024px.pth": "diffusion_models/sprint.pth",
    "controlnet/Sana_1600M_1024px_BF16_ControlNet_HED.pth": "controlnet/control.pth",
    "text_encoders/gemma_2_2b_fp16.safetensors": "text_encoders/gemma.safetensors",
    "vae/sana_dc_ae_f32c32_1.1.safetensors": "vae/dcae.safetensors",
}
SCORER = "clip-vit-large-patch14"  # a folder
QUANTISED = (  # as the templates for small cards make them
    ("diffusion_models/Sana_1600M_1024px_BF16.pth", "int8"),
    ("diffusion_models/Sana_1600M_2Kpx_BF16.pth", "int8"),
    ("diffusion_models/Sana_600M_1024px_MultiLing.pth", "int8"),
    ("text_encoders/gemma_2_2b_fp16.safetensors", "fp8"),
    ("text_encoders/gemma_2_2b_fp16.safetensors", "w4a8"),
)


@contextlib.contextmanager
def serve(base, options=("--preview-method", "auto")):
    """Start the server in the folder `base` and stop it at the end. Skips the tests where there is no ComfyUI."""
    runnable = comfyui.runnable() or pytest.skip(comfyui.ABSENT)
    models = tiny_files.write_all(base / "models")
    for name, source in RELEASED.items():
        shutil.copy(models / source, models / name)
    for name, form in QUANTISED:
        source = models / name
        quantise_file(source, source.with_name(f"{source.stem}_{form}.safetensors"), form)
    (models / "sana_scorers").mkdir()
    write_clip(models / "sana_scorers" / SCORER)
    tiny_files.write_picture(base / "input", "example.png")  # the name that ComfyUI's own example has
    settings = base / "user" / "default" / "comfy.settings.json"
    settings.parent.mkdir(parents=True)
    settings.write_text(json.dumps({"Comfy.TutorialCompleted": True}))  # else the template browser opens by itself
    pack = base / "packs" / NAME
    pack.parent.mkdir()
    pack.symlink_to(ROOT, target_is_directory=True)
    running = Server(*runnable, base, pack=pack, options=options)
    try:
        yield running
    finally:
        running.stop()
