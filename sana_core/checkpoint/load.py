"""Load a network strictly: every tensor of the model from the file, every tensor of the file into the model."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

from ..dcae.autoencoder import DCAE
from ..device import pick_device
from ..errors import CheckpointError, SanaError
from ..kit import Kit
from ..precision import full_range, loaded_dtype, precision_warning
from ..transformer.controlnet import SanaControlNet
from ..transformer.model import SanaTransformer
from .canonical import Canonical, canonical_autoencoder, canonical_controlnet, canonical_transformer
from .detect import autoencoder_config, controlnet_config, detect_transformer, has_embedders, stated_config
from .files import Checkpoint, component_folder, read_checkpoint

log = logging.getLogger("sana")
Network = TypeVar("Network", bound=nn.Module)
NAMED = 6  # keys a message names of each sort


def load_transformer(
    path: str | Path,
    *,
    device: str | torch.device = "cpu",
    dtype: torch.dtype | None = None,
    variant: str | None = None,
    trained_precision: str | None = None,
) -> SanaTransformer:
    """A SANA transformer from a file of any layout, a diffusers component folder or a whole diffusers pipeline folder.

    variant: "512", "1024", "2k" or "4k" for files that do not tell it; None: from the file. trained_precision:
    "float16" or "bfloat16" for files that do not tell how the model was trained; None: decided as `precision.py` says.
    dtype None: the file's own, or the trained one where the model cannot run in the file's. `device="meta"` checks
    every key and shape without reading tensors. Raises CheckpointError, and InputError for a device that is not there.
    """
    device = pick_device(device)
    checkpoint = read_checkpoint(component_folder(path, "transformer"), device)
    return build_transformer(checkpoint, device, dtype, variant, trained_precision)


def load_autoencoder(path: str | Path, *, device: str | torch.device = "cpu", dtype: torch.dtype | None = None) -> DCAE:
    """DC-AE f32c32 sana-1.0, 1.1 or Lite from a file of either naming, a component folder or a whole diffusers pipeline
    folder.

    dtype None: the file's own; float16 becomes bfloat16, as DC-AE overflows it. `device="meta"` checks every key and
    shape without reading tensors. Raises CheckpointError, and InputError for a device that is not there.
    """
    device = pick_device(device)
    return build_autoencoder(read_checkpoint(component_folder(path, "vae"), device), device, dtype)


def load_controlnet(
    path: str | Path, *, order: str = "upstream", device: str | torch.device = "cpu", dtype: torch.dtype | None = None
) -> SanaControlNet:
    """A SANA ControlNet from an original file (the model in it is not used), diffusers' single file or folder, or a
    whole pipeline folder.

    order: "upstream" or "diffusers", how it is connected to the transformer, see `transformer/controlnet.py`; any file
    takes either. dtype None: the file's own; the transformer's is needed. `device="meta"` checks every key and shape
    without reading tensors. Raises CheckpointError, and InputError for another order or a device that is not there.
    """
    device = pick_device(device)
    checkpoint = read_checkpoint(component_folder(path, "controlnet"), device)
    with naming(checkpoint.source):
        canonical = canonical_controlnet(checkpoint.tensors)
    stated = stated_config(checkpoint.metadata, checkpoint.config)
    with naming(checkpoint.source, canonical.original_key):
        config = controlnet_config(canonical.tensors, stated)
    model = SanaControlNet(config, Kit(device="meta"), embedders=has_embedders(canonical.tensors), order=order)
    with naming(checkpoint.source, canonical.original_key):
        return load_strictly(model, canonical, device, dtype)


def build_transformer(
    checkpoint: Checkpoint,
    device: str | torch.device = "cpu",
    dtype: torch.dtype | None = None,
    variant: str | None = None,
    trained_precision: str | None = None,
) -> SanaTransformer:
    """`load_transformer` for an opened checkpoint."""
    with naming(checkpoint.source):
        canonical = canonical_transformer(checkpoint.tensors)
    stated = stated_config(checkpoint.metadata, checkpoint.config)
    with naming(checkpoint.source, canonical.original_key):
        config, found = detect_transformer(
            canonical.tensors,
            source=checkpoint.tensors,
            stated=stated,
            variant=variant,
            trained_precision=trained_precision,
        )
        dtype = dtype or loaded_dtype(config, canonical.tensors["patch_embed.proj.weight"].dtype)
        model = load_strictly(SanaTransformer(config, Kit(device="meta")), canonical, device, dtype)
    log.info("%s: %s", checkpoint.source, found)
    if warning := precision_warning(config, dtype):
        log.warning("%s: %s", checkpoint.source, warning)
    return model


def build_autoencoder(
    checkpoint: Checkpoint, device: str | torch.device = "cpu", dtype: torch.dtype | None = None
) -> DCAE:
    """`load_autoencoder` for an opened checkpoint."""
    with naming(checkpoint.source):
        canonical = canonical_autoencoder(checkpoint.tensors)
    with naming(checkpoint.source, canonical.original_key):
        dtype = full_range(dtype or canonical.tensors["decoder.conv_in.weight"].dtype, "DC-AE")
        return load_strictly(DCAE(autoencoder_config(canonical.tensors), Kit(device="meta")), canonical, device, dtype)


def load_strictly(
    model: Network, canonical: Canonical, device: str | torch.device, dtype: torch.dtype | None
) -> Network:
    """Fill a model made on the meta device, in evaluation mode. Raises CheckpointError and names the keys that do not
    fit.
    """
    tensors = fitted(canonical.tensors, model.state_dict())
    check_fit(tensors, model.state_dict(), canonical)
    cast = {
        key: tensor.to(device=device, dtype=dtype if tensor.is_floating_point() else None)
        for key, tensor in tensors.items()
    }
    model.load_state_dict(cast, assign=True)
    return model.eval().requires_grad_(False)


def fitted(tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """1x1 convolutions as matrices and the other way round, wherever the model has them so."""

    def fit(key: str, tensor: Tensor) -> Tensor:
        shape = expected[key].shape if key in expected else tensor.shape
        same_kernel = {len(shape), tensor.ndim} == {2, 4} and (*shape, 1, 1)[:4] == (*tensor.shape, 1, 1)[:4]
        return tensor.reshape(shape) if same_kernel else tensor

    return {key: fit(key, tensor) for key, tensor in tensors.items()}


def check_fit(tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor], canonical: Canonical) -> None:
    """Raise CheckpointError if a key is missing, unexpected or of another shape; keys are named as in the file."""
    name = canonical.original_key
    problems = {
        "missing": [name(key) for key in expected if key not in tensors],
        "unexpected": [name(key) for key in tensors if key not in expected],
        "of another shape": [
            f"{name(key)} {tuple(tensors[key].shape)} instead of {tuple(expected[key].shape)}"
            for key in expected
            if key in tensors and tensors[key].shape != expected[key].shape
        ],
    }
    said = [
        f"{len(keys)} {what} ({', '.join(keys[:NAMED] + ['...'] * (len(keys) > NAMED))})"
        for what, keys in problems.items()
        if keys
    ]
    if said:
        remedy = "The file is damaged or of another model; nothing was loaded"
        raise CheckpointError(f"the tensors do not fit the model: {'; '.join(said)}. {remedy}")


@contextmanager
def naming(source: str, original_key: Callable[[str], str] = str) -> Iterator[None]:
    """Put the file's name before the message of whatever is wrong with it, and call its keys as it does."""
    try:
        yield
    except SanaError as error:
        if str(error).startswith(source):
            raise
        raise CheckpointError(f"{source}: {error}") from error
    except KeyError as error:
        raise CheckpointError(
            f"{source}: the tensor {original_key(error.args[0])} is missing; the file is damaged or of another model"
        ) from error
    except (TypeError, ValueError, ArithmeticError, AttributeError, IndexError) as error:
        raise CheckpointError(
            f"{source}: its configuration cannot be read ({error}); the file is damaged or of another model"
        ) from error
