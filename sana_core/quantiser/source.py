"""The network that a quantised file is made of: opened, recognised and checked as strictly as for loading."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from ..checkpoint.canonical import Canonical, canonical_transformer, transformer_prefix
from ..checkpoint.detect import detect
from ..checkpoint.files import Checkpoint, component_folder, read_checkpoint
from ..checkpoint.fit import check_fit, fitted, naming
from ..checkpoint.kinds import describe
from ..checkpoint.move import check_stored
from ..checkpoint.other_tools import refuse_other_tools
from ..checkpoint.read_json import json_tensor
from ..checkpoint.weights import quantised_layers
from ..config import TextConfig
from ..errors import CheckpointError
from ..kit import Kit
from ..precision import precision_warning, run_dtypes
from ..sources import pipeline_files, released_sampling
from ..text.detect import GEMMA_CONFIG_KEY, SPIECE_KEY, gemma2_tensors, text_config
from ..text.gemma import build_gemma2
from ..text.tokenizer import tokenizer_from_bytes
from ..transformer.model import SanaTransformer

log = logging.getLogger("sana")
TOKENIZER_FILE = "tokenizer.model"
LARGEST_TOKENIZER = 1 << 28  # bytes


@dataclass(frozen=True, kw_only=True)
class Model:
    """A network as it is to be written.

    source: where it comes from.  words: what it is.  tensors: under the network's names.  dtype: of what is not
    quantised.  metadata: of the file.  original_key: the name of a tensor in the source.  prefix: of the names in the
    new file.  beside: other tensors of it, by their names there, kept as they are.
    """

    source: str
    words: str
    tensors: dict[str, Tensor]
    dtype: torch.dtype
    metadata: dict[str, str]
    original_key: Callable[[str], str]
    prefix: str = ""
    beside: dict[str, Tensor] = field(default_factory=dict)

    def called(self, key: str) -> str:
        """What a tensor is called in messages: its file, and its name there."""
        return f"{self.source}: {self.original_key(key)}"


def open_model(
    source: Path,
    *,
    variant: str | None = None,
    trained_precision: str | None = None,
    dtype: torch.dtype | None = None,
    tokenizer: str | Path | None = None,
) -> Model:
    """A SANA transformer or a Gemma-2, checked as strictly as for loading. Tensors are read when they are used.

    Raises CheckpointError, InputError.
    """
    checkpoint = read_checkpoint(component_folder(source, "transformer"))
    with naming(checkpoint.source):
        _refuse_quantised(checkpoint.tensors, checkpoint)
        if transformer_prefix(checkpoint.tensors) is None:
            return _gemma(checkpoint, source, dtype, tokenizer)
    return _transformer(checkpoint, source, dtype, variant, trained_precision)


def _transformer(
    checkpoint: Checkpoint, source: Path, dtype: torch.dtype | None, variant: str | None, trained_precision: str | None
) -> Model:
    canonical = canonical_transformer(checkpoint.tensors)
    with naming(checkpoint.source, canonical.original_key):
        found = detect(
            canonical.tensors,
            source=checkpoint.tensors,
            metadata=checkpoint.metadata,
            folder_config=checkpoint.config,
            variant=variant,
            trained_precision=trained_precision,
        )
        tensors = _strict(canonical, SanaTransformer(found.config, Kit(device="meta")).state_dict())
    sampling = found.sampling
    if (source / "model_index.json").is_file():  # its scheduler says more than the transformer
        sampling = released_sampling(pipeline_files(source), found.config, variant)
    dtype = dtype or run_dtypes(found.config)[0]
    if warning := precision_warning(found.config, dtype):
        log.warning("%s: %s", checkpoint.source, warning)
    return Model(
        source=checkpoint.source,
        words=found.words,
        tensors=tensors,
        dtype=dtype,
        metadata={"config": json.dumps(asdict(found.config)), "sampling": json.dumps(asdict(sampling))},
        original_key=canonical.original_key,
    )


def _gemma(checkpoint: Checkpoint, source: Path, dtype: torch.dtype | None, tokenizer: str | Path | None) -> Model:
    try:
        found = gemma2_tensors(checkpoint.tensors)
    except CheckpointError as error:
        raise CheckpointError(
            f"expected a SANA transformer or a Gemma-2, found {describe(checkpoint.tensors)}: choose the file of one"
        ) from error
    config = text_config(checkpoint, found)
    tensors = _strict(found.canonical, build_gemma2(config).state_dict())
    beside = {}
    if (spiece := found.spiece) is None:
        spiece = _tokenizer_bytes(source, tokenizer)
    if spiece is None:
        log.warning(
            "%s: it comes without a %s, which ComfyUI needs inside the new file: name one with --tokenizer",
            checkpoint.source,
            TOKENIZER_FILE,
        )
    else:
        beside[SPIECE_KEY] = spiece
    if config != TextConfig():
        beside[GEMMA_CONFIG_KEY] = json_tensor(asdict(config))
    return Model(
        source=checkpoint.source,
        words=f"Gemma-2, {config.num_hidden_layers} layers of {config.hidden_size}",
        tensors=tensors,
        dtype=dtype or torch.bfloat16,
        metadata={"config": json.dumps(asdict(config))},
        original_key=found.canonical.original_key,
        prefix="model.",
        beside=beside,
    )


def _tokenizer_bytes(source: Path, tokenizer: str | Path | None) -> Tensor | None:
    """A SentencePiece model that is named, or lies in the folder of a text encoder or beside it."""
    if tokenizer is None:
        places = [source, source / "tokenizer", source.parent / "tokenizer"] if source.is_dir() else []
        files = [place / TOKENIZER_FILE for place in places]
    else:
        given = Path(tokenizer)
        files = [given / TOKENIZER_FILE if given.is_dir() else given]
    path = next((file for file in files if file.is_file()), None)
    if path is None:
        if tokenizer is not None:
            raise CheckpointError(f"{files[0]}: there is no such file: name a {TOKENIZER_FILE}")
        return None
    try:
        if path.stat().st_size > LARGEST_TOKENIZER:
            raise CheckpointError(f"{path} is no {TOKENIZER_FILE}: it is too large")
        content = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({error.strerror or error})") from error
    tokenizer_from_bytes(content, str(path))  # refuses what is none
    return torch.frombuffer(bytearray(content), dtype=torch.uint8)


def _strict(canonical: Canonical, expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors in the order of the network, 1x1 convolutions as matrices. Raises CheckpointError if they do not
    fit.
    """
    tensors = fitted(canonical.tensors, expected)
    check_fit(tensors, expected, canonical)
    for key, tensor in tensors.items():
        check_stored(canonical.original_key(key), tensor)
    return {key: tensors[key] for key in expected}


def _refuse_quantised(tensors: Mapping[str, Tensor], checkpoint: Checkpoint) -> None:
    layers = quantised_layers(tensors, checkpoint.metadata)
    for layer, form in layers.items():
        raise CheckpointError(
            f"it is quantised already ({form.name}, see {layer}): quantise the file that it was made from, as errors "
            "add up"
        )
    refuse_other_tools(tensors, config=checkpoint.config, instead="or use the file that it was made from")
