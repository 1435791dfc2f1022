"""Load the text encoder from ComfyUI's single file or from a Hugging Face folder, strictly."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from ..checkpoint.canonical import Canonical
from ..checkpoint.files import Checkpoint, component_folder, read_checkpoint
from ..checkpoint.fit import check_fit, naming
from ..device import pick_device
from ..errors import CheckpointError
from ..precision import full_range
from .detect import SPIECE_KEY, check_gemma2, key_prefix, text_config
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

    path: ComfyUI's single file (gemma_2_2b_fp16.safetensors, tokenizer inside), any Gemma-2 file or Hugging Face
    folder, sharded or not, or a whole SANA pipeline folder. tokenizer: a tokenizer.model, a tokenizer.json or a folder
    with one; needed where `path` holds none (a folder is also searched for `tokenizer/` in it and beside it). dtype:
    None keeps the file's float32 or bfloat16; float16 is run in bfloat16, because activations of Gemma-2 overflow
    float16. device: "meta" checks all keys and shapes and reads neither tensors nor tokenizer.

    Raises CheckpointError for another model, a quantised one, a missing, unexpected or mis-shaped key, or a missing
    tokenizer. All of it is checked before the first tensor is read.
    """
    device = pick_device(device)
    path = component_folder(path, "text_encoder")
    header = read_checkpoint(path, "meta")
    with naming(header.source):
        check_gemma2(header)
        prefix = key_prefix(header)
        tensors = _canonical(header, prefix)
        config = text_config(header, tensors)
        check_fit(tensors, build_gemma2(config).state_dict(), Canonical(tensors, prefix))
    dtype = full_range(dtype or tensors["embed_tokens.weight"].dtype, "Gemma-2")
    if device.type == "meta":
        return GemmaTextEncoder(config).to(dtype)
    _check_has_tokenizer(path, header, tokenizer)
    checkpoint = read_checkpoint(path)
    loaded = _load_tokenizer(path, checkpoint, tokenizer)
    if loaded.size != config.vocab_size:
        raise CheckpointError(
            f"{header.source}: {prefix}embed_tokens.weight has {config.vocab_size} rows, the tokenizer {loaded.size} "
            "pieces. "
            "They belong to different models: give the tokenizer of this one"
        )
    tensors = _canonical(checkpoint, prefix)
    checkpoint.tensors.clear()  # so that each tensor is freed once it is converted
    return GemmaTextEncoder(config, loaded, {key: tensors.pop(key).to(device, dtype) for key in list(tensors)})


def _canonical(checkpoint: Checkpoint, prefix: str) -> dict[str, Tensor]:
    """The network's tensors under the names of `Gemma2Model`."""
    return {key.removeprefix(prefix): tensor for key, tensor in checkpoint.tensors.items() if key != SPIECE_KEY}


def _check_has_tokenizer(path: Path, header: Checkpoint, tokenizer: str | Path | None) -> None:
    if tokenizer is None and SPIECE_KEY not in header.tensors and not (path.is_dir() and find_tokenizer(path)):
        raise CheckpointError(
            f"{header.source}: this Gemma-2 comes without tokenizer. Name one with tokenizer= (Gemma-2's "
            "tokenizer.model or "
            "tokenizer.json, or their folder), or use a file that has it inside, such as gemma_2_2b_fp16.safetensors"
        )


def _load_tokenizer(path: Path, checkpoint: Checkpoint, tokenizer: str | Path | None) -> GemmaTokenizer:
    if tokenizer is not None:
        return read_tokenizer(tokenizer)
    if SPIECE_KEY in checkpoint.tensors:
        content = checkpoint.tensors[SPIECE_KEY].to(torch.uint8).numpy().tobytes()
        return tokenizer_from_bytes(content, f"{checkpoint.source}: {SPIECE_KEY}")
    return read_tokenizer(path)
