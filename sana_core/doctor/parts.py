"""What one opened file is of SANA, what was decided about it, and by what."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch

from ..checkpoint.canonical import canonical_transformer, controlnet_prefix, transformer_prefix
from ..checkpoint.detect import Detected, detect
from ..checkpoint.files import Checkpoint, read_checkpoint
from ..checkpoint.fit import check_fit, naming
from ..checkpoint.kinds import describe
from ..checkpoint.load import build_autoencoder, build_transformer, load_controlnet
from ..checkpoint.weights import marked
from ..config import AutoencoderConfig, TextConfig, TransformerConfig
from ..errors import SanaError
from ..kit import Kit
from ..lora.keys import read_key
from ..lora.match import RELEASES_BY_WIDTH
from ..lora.names import aliases, module_names
from ..pictures.tiny_decoder import TinyDecoder
from ..presets import COUNTED_TEXT_ENCODER, counted_transformer, network_name
from ..sources import NANO, NANO_FILES, NANO_SIZES, is_embedded
from ..text.detect import check_format, gemma2_tensors, text_config
from ..text.tokenizer import find_tokenizer
from ..transformer.model import SanaTransformer
from .quiet import heard
from .running import counted, runs_in, sampled, sampling_words, stored_as, takes

NANO_WIDTH = NANO_SIZES[0]
DEEPEST = 60  # blocks of the deepest release
_AUTOENCODER = re.compile(r"(?:\w+\.)*?decoder\.(?:up_blocks\.[0-9]+\.[0-9]+\.|stages\.[0-9]+\.op_list\.)\S*")
_GEMMA = re.compile(r"(?:\w+\.)*?layers\.[0-9]+\.pre_feedforward_layernorm\.\S*")


@dataclass(frozen=True, kw_only=True)
class Part:
    """One network in a file, or why it cannot be used.

    kind: transformer, autoencoder, text encoder, controlnet, lora or preview.  words: what it is.  why: lines with what
    was decided and by what.  details: the same for programs.  problem: why it cannot be used.  tokenizer: has a text
    encoder one inside or beside it?  embedded: does it belong to the model that comes along?
    """

    kind: str
    words: str
    why: list[str] = field(default_factory=list)
    details: dict[str, Any] = field(default_factory=dict)
    problem: str | None = None
    tokenizer: bool = False
    embedded: bool = False


def parts_of(checkpoint: Checkpoint, path: Path, device: torch.device) -> list[Part]:
    """All parts of SANA in a file, none if it is of another model. checkpoint: on the meta device."""
    keys = checkpoint.tensors.keys()
    found = []
    for kind, words, is_there, read in _READERS:
        if is_there(keys):
            found.append(_part(kind, words, path, lambda read=read: read(checkpoint, path, device)))
    return found


def _part(kind: str, words: str, path: Path, read: Callable[[], Part]) -> Part:
    """What `read` finds; the reason, if the file cannot be used."""
    try:
        with heard() as warnings:
            part = read()
    except (SanaError, ImportError) as error:
        return Part(kind=kind, words=words, problem=str(error))
    part.why.extend(f"warning: {warning.partition(': ')[2] or warning}" for warning in warnings)
    return replace(part, embedded=part.embedded or NANO in path.resolve().parents)


def _transformer(checkpoint: Checkpoint, path: Path, device: torch.device) -> Part:
    with naming(checkpoint.source):
        canonical = canonical_transformer(marked(checkpoint.tensors, checkpoint.metadata))
    with naming(checkpoint.source, canonical.original_key):
        detected = detect(
            canonical.tensors,
            source=checkpoint.tensors,
            metadata=checkpoint.metadata,
            folder_config=checkpoint.config,
        )
    build_transformer(checkpoint, "meta")  # every key and shape
    runs = runs_in(detected.config, device)
    stored, formats = stored_as(canonical.tensors)
    embedded = is_embedded(detected.config)
    own = "the embedded Sprint model" if detected.config.guidance_embed else "the embedded model"
    sampling, origin = sampled(checkpoint, path, detected)
    return Part(
        kind="transformer",
        words=f"SANA transformer: {own if embedded else network_name(detected.config)}",
        why=[
            f"decided: {detected.words}",
            f"drawn with: {sampling_words(sampling)} ({origin})",
            f"stored in {stored}; runs in {runs} on {device}",
            *takes(None if formats else counted_transformer(detected.config, sampling.width), device),
        ],
        details=_details(detected, stored, formats, runs) | {"sampling": asdict(sampling)},
        embedded=embedded,
    )


def _details(detected: Detected, stored: str, formats: dict[str, int], runs: str) -> dict[str, Any]:
    trained = {True: "float16", False: "bfloat16", None: None}[detected.config.fp16_trained]
    return {
        "release": network_name(detected.config),
        "native_size": detected.native_size,
        "hidden_size": detected.config.hidden_size,
        "caption_channels": detected.config.caption_channels,
        "trained_precision": trained,
        "stored": stored,
        "quantised": formats,
        "runs_in": runs,
        "words": detected.words,
    }


def _autoencoder(checkpoint: Checkpoint, path: Path, device: torch.device) -> Part:
    network = build_autoencoder(checkpoint, "meta")
    embedded = network.config == _embedded_autoencoder()
    stored, formats = stored_as(checkpoint.tensors)
    version = "Lite" if network.config.lite else "1.0 or 1.1, which have the same tensors"
    reason = "its decoder doubles sizes by pixel shuffle" if network.config.lite else "by its decoder"
    runs = "float32" if device.type == "cpu" else "bfloat16, or float32 where the device has no bfloat16"
    return Part(
        kind="autoencoder",
        words="DC-AE autoencoder of the embedded model" if embedded else "DC-AE autoencoder of SANA",
        why=[
            "decided: the embedded one (by its sizes)" if embedded else f"decided: {version} ({reason})",
            f"stored in {stored}; runs in {runs}",
        ],
        details={"lite": network.config.lite, "stored": stored, "quantised": formats},
        embedded=embedded,
    )


def _text_encoder(checkpoint: Checkpoint, path: Path, device: torch.device) -> Part:
    from ..text.gemma import build_gemma2  # transformers takes seconds to import

    with naming(checkpoint.source):
        found = gemma2_tensors(marked(checkpoint.tensors, checkpoint.metadata))
        check_format(found, checkpoint)
        config = text_config(checkpoint, found)
        check_fit(found.tensors, build_gemma2(config).state_dict(), found.canonical)
    stored, formats = stored_as(found.tensors)
    inside = found.spiece is not None
    beside = path.is_dir() and find_tokenizer(path) is not None
    where = "inside its file" if inside else "in its folder or beside it" if beside else "MISSING: name one"
    embedded = config.hidden_size == NANO_SIZES[2]
    other = "that of the embedded model" if embedded else f"a Gemma-2 {config.hidden_size} wide"
    size = "Gemma-2-2B" if config == TextConfig() else other
    return Part(
        kind="text encoder",
        words=f"Gemma-2 text encoder: {size}",
        why=[
            f"decided: {config.num_hidden_layers} layers, {config.hidden_size} wide, {config.vocab_size} pieces",
            f"tokenizer: {where}",
            f"stored in {stored}",
            *takes(COUNTED_TEXT_ENCODER if config == TextConfig() and not formats else None, device),
        ],
        details={"hidden_size": config.hidden_size, "stored": stored, "quantised": formats},
        tokenizer=inside or beside,
        embedded=embedded,
    )


def _controlnet(checkpoint: Checkpoint, path: Path, device: torch.device) -> Part:
    config = load_controlnet(path, device="meta").config
    stored, formats = stored_as(checkpoint.tensors)
    release = _release(config.hidden_size)
    return Part(
        kind="controlnet",
        words=f"SANA ControlNet for {release}",
        why=[f"decided: {counted(config.depth, 'block')}, {config.hidden_size} wide", f"stored in {stored}"],
        details={"hidden_size": config.hidden_size, "blocks": config.depth, "stored": stored, "quantised": formats},
    )


def _lora(checkpoint: Checkpoint, path: Path, device: torch.device) -> Part:
    modules = {place.module for place in map(read_key, checkpoint.tensors) if place and place.role != "bias"}
    known = sorted(modules & _lora_names().keys())
    widths = Counter(size for tensor in checkpoint.tensors.values() for size in tensor.shape)
    width = next((size for size, _ in widths.most_common() if size in (*RELEASES_BY_WIDTH, NANO_WIDTH)), None)
    return Part(
        kind="lora",
        words=f"LoRA for {_release(width)}",
        why=[f"decided: {len(known)} of its {len(modules)} modules have names of SANA's, such as {known[0]}"],
        details={"width": width, "modules": len(modules)},
    )


def _preview(checkpoint: Checkpoint, path: Path, device: torch.device) -> Part:
    return Part(kind="preview", words="tiny decoder for previews of SANA's latents")


def _refused(checkpoint: Checkpoint, path: Path, device: torch.device) -> Part:
    what = describe(checkpoint.tensors)
    return Part(kind="other", words=what, problem="it is not read here")


def _is_lora(keys: Any) -> bool:
    places = [place for place in map(read_key, keys) if place and place.role not in ("bias", "alpha")]
    return any(place.module in _lora_names() for place in places)


def _is_preview(keys: Any) -> bool:
    return set(keys) == _preview_keys()


def _is_refused(keys: Any) -> bool:
    return describe(keys).startswith(("a SANA-Video", "a Nunchaku-quantised SANA"))


def _has_gemma2(keys: Any) -> bool:
    return any(map(_GEMMA.fullmatch, keys)) and not any(".self_attn.q_norm." in key for key in keys)


@cache
def _embedded_autoencoder() -> AutoencoderConfig:
    return build_autoencoder(read_checkpoint(NANO_FILES.autoencoder, "meta"), "meta").config


@cache
def _preview_keys() -> frozenset[str]:
    return frozenset(TinyDecoder().state_dict())


@cache
def _lora_names() -> dict[str, tuple[str, ...]]:
    """Every name that a module of a SANA transformer has in a LoRA file."""
    names: dict[str, tuple[str, ...]] = {}
    for guided in (False, True):
        config = TransformerConfig(
            hidden_size=NANO_WIDTH, depth=DEEPEST, num_heads=7, num_cross_heads=2, ffn_size=32, guidance_embed=guided
        )
        names |= aliases(module_names(SanaTransformer(config, Kit(device="meta")).state_dict()))
    return names


# kind, what to call it if it cannot be used, whether keys show it, what reads it
_READERS = (
    ("controlnet", "a SANA ControlNet", lambda keys: controlnet_prefix(keys) is not None, _controlnet),
    ("transformer", "a SANA transformer", lambda keys: transformer_prefix(keys) is not None, _transformer),
    ("autoencoder", "a DC-AE", lambda keys: any(_AUTOENCODER.fullmatch(key) for key in keys), _autoencoder),
    ("text encoder", "a Gemma-2", _has_gemma2, _text_encoder),
    ("lora", "a LoRA", _is_lora, _lora),
    ("preview", "a decoder for previews", _is_preview, _preview),
    ("other", "of SANA's family", _is_refused, _refused),
)


def _release(width: int | None) -> str:
    if width == NANO_WIDTH:
        return "the embedded model"
    return RELEASES_BY_WIDTH.get(width or 0, "a SANA of another width" if width else "SANA")
