"""SANA text-to-image in plain PyTorch, without ComfyUI. In the order of the data:

    presets.py, config.py    the published releases and the configurations of the networks
    checkpoint/              model files of every published layout: open safely, recognise, load strictly
    precision.py             which number type for which release
    sources.py, device.py    what a pipeline is made from: files, released sampling settings, a device
    text/                    prompt -> embeddings: Gemma-2 and the instruction before the prompt
    latents.py, images.py    sizes, seeded noise, pictures as tensors
    transformer/             the Linear DiT: latent, timestep, embeddings -> flow velocity; its ControlNet
    control.py, soft_edge.py the picture that a ControlNet follows
    samplers/                schedules, solvers, guidance
    dcae/                    DC-AE: picture <-> latent, 32 x 32 pixels in one cell
    lora/                    LoRA files of every dialect, added to the weights of a network
    nano/, training/         the embedded model; the library that trains it
    start.py                 what a run starts from: noise, or a picture
    pipeline.py, offload.py  all of it together: prompt -> picture
    prompt_file.py, arguments.py, cli.py
                             `python -m sana_core "a red apple" -o apple.png`

Errors are `SanaError`, a ValueError: what was found, what was expected, what to do. Nothing here imports transformers
before a text encoder is loaded.
"""

from .checkpoint.load import load_autoencoder, load_controlnet, load_transformer
from .config import SamplingDefaults
from .errors import CheckpointError, InputError, SanaError
from .lora import Lora, LoraReport, apply_lora, load_lora
from .pipeline import SanaPipeline, load_pipeline
from .text.load import load_text_encoder

__all__ = [
    "CheckpointError",
    "InputError",
    "Lora",
    "LoraReport",
    "SamplingDefaults",
    "SanaError",
    "SanaPipeline",
    "apply_lora",
    "load_autoencoder",
    "load_controlnet",
    "load_lora",
    "load_pipeline",
    "load_text_encoder",
    "load_transformer",
]
