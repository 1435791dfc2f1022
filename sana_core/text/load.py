"""Load the text encoder from ComfyUI's single file or from a Hugging Face folder, strictly."""

from __future__ import annotations

from pathlib import Path

import torch

from ..checkpoint.files import component_folder, read_checkpoint
from ..checkpoint.fit import check_fit, naming
from ..checkpoint.move import moved
from ..checkpoint.read_json import tensor_bytes
from ..checkpoint.weights import marked, quantised_layers
from ..device import pick_device
from ..errors import CheckpointError
from ..precision import full_range
from .detect import SPIECE_KEY, GemmaTensors, check_format, gemma2_tensors, text_config
from .gemma import GemmaTextEncoder, build_gemma2
from .tokenizer import GemmaTokenizer, find_tokenizer, read_tokenizer, tokenizer_from_bytes


def load_text_encoder(
    path: str | Path,
    *,
    tokenizer: str | Path | None = None,
    device: str | torch.device = "cpu",
    dtype: torch.dtype | None = None,
) -> GemmaTextEncoder:
    """Gemma-2 with its tokenizer.

    path: ComfyUI's single file (gemma_2_2b_fp16.safetensors, tokenizer inside), a checkpoint that ComfyUI has saved,
    any other file with a Gemma-2, a Hugging Face folder, or a whole SANA pipeline folder. tokenizer: a tokenizer.model,
    a tokenizer.json or a folder with one; needed if `path` holds none (a folder is also searched for `tokenizer/` in it
    and beside it). dtype: None keeps the file's float32 or bfloat16; float16 becomes bfloat16, because activations of
    Gemma-2 overflow float16. device: "meta" checks all keys and shapes and reads neither tensors nor tokenizer.

    Raises CheckpointError for another model, a format of quantised weights that is not read here, a missing, unexpected
    or mis-shaped key, or a missing tokenizer. All of it is checked before the first tensor is read.
    """
    device = pick_device(device)
    path = component_folder(path, "text_encoder")
    checkpoint = read_checkpoint(path, "meta" if device.type == "meta" else "cpu")
    with naming(checkpoint.source):
        found = gemma2_tensors(marked(checkpoint.tensors, checkpoint.metadata))
        check_format(found, checkpoint)
        config = text_config(checkpoint, found)
        check_fit(found.tensors, build_gemma2(config).state_dict(), found.canonical)
    layers = quantised_layers(found.tensors)
    stored = found.tensors["norm.weight"].dtype if layers else found.tensors["embed_tokens.weight"].dtype
    dtype = full_range(dtype or stored, "Gemma-2", device)
    if device.type == "meta":
        return GemmaTextEncoder(config).to(dtype)
    loaded = _load_tokenizer(path, checkpoint.source, found, tokenizer)
    if loaded.size != config.vocab_size:
        key = found.canonical.original_key("embed_tokens.weight")
        raise CheckpointError(
            f"{checkpoint.source}: {key} has {config.vocab_size} rows, the tokenizer {loaded.size} pieces. They belong "
            "to different models: give the tokenizer of this one"
        )
    with naming(checkpoint.source, found.canonical.original_key):
        tensors = moved(dict(found.tensors), device, dtype, layers)
        return GemmaTextEncoder(config, loaded, tensors, layers)


def _load_tokenizer(path: Path, source: str, found: GemmaTensors, tokenizer: str | Path | None) -> GemmaTokenizer:
    if tokenizer is not None:
        return read_tokenizer(tokenizer)
    if found.spiece is not None:
        return tokenizer_from_bytes(tensor_bytes(found.spiece.to(torch.uint8)), f"{source}: {SPIECE_KEY}")
    if path.is_dir() and find_tokenizer(path):
        return read_tokenizer(path)
    raise CheckpointError(
        f"{source}: this Gemma-2 comes without tokenizer. Name one with tokenizer= (Gemma-2's tokenizer.model or "
        "tokenizer.json, or their folder), or use a file that has it inside, such as gemma_2_2b_fp16.safetensors"
    )
