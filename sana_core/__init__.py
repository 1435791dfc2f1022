"""SANA text-to-image in plain PyTorch, without ComfyUI. In the order of the data:

    presets.py, config.py    the published releases and the configurations of the networks
    geometry.py              cells of a latent, tokens, pixels
    kit.py, kernels/         what networks are built from
    checkpoint/              model files of every published layout: open safely, recognise, load strictly
    precision.py             which number type for which release
    sources.py, device.py    what a pipeline is made from: files, released sampling settings, a device
    text/                    prompt -> embeddings: Gemma-2 and the instruction before the prompt
    latents.py               sizes and seeded noise
    pictures/                pictures as tensors and as files; what a ControlNet follows
    transformer/             the Linear DiT: latent, timestep, embeddings -> flow velocity; its ControlNet
    samplers/                schedules, solvers, guidance
    dcae/                    DC-AE: picture <-> latent, 32 x 32 pixels in one cell
    lora/                    LoRA files of every dialect, added to the weights of a network
    pipeline/                all of it together: a request -> pictures
    safety/, styles.py       a check of the prompts; the styles of NVIDIA's demo
    cli/                     `python -m sana_core "a red apple" -o apple.png`
    nano/, training/         the embedded model; the library that trains it

Errors are `SanaError`, a ValueError: what was found, what was expected, what to do. Nothing here imports transformers
before a text encoder is loaded.
"""

from . import interrupts  # noqa: F401  (first: Ctrl-C ends quietly while the rest is imported)
from .checkpoint.load import load_autoencoder, load_controlnet, load_transformer
from .config import SamplingDefaults
from .dcae.autoencoder import DCAE
from .errors import CheckpointError, InputError, SanaError
from .lora import Lora, LoraReport, apply_lora, load_lora
from .pipeline import Request, Resolved, Result, SanaPipeline, load_pipeline
from .text.gemma import GemmaTextEncoder
from .text.load import load_text_encoder
from .transformer.controlnet import SanaControlNet
from .transformer.model import SanaTransformer

__version__ = "0.1.0"
__all__ = [
    "DCAE",
    "CheckpointError",
    "GemmaTextEncoder",
    "InputError",
    "Lora",
    "LoraReport",
    "Request",
    "Resolved",
    "Result",
    "SamplingDefaults",
    "SanaControlNet",
    "SanaError",
    "SanaPipeline",
    "SanaTransformer",
    "apply_lora",
    "load_autoencoder",
    "load_controlnet",
    "load_lora",
    "load_pipeline",
    "load_text_encoder",
    "load_transformer",
]
