"""Load a network strictly: every tensor of the model from the file, every tensor of the file into the model."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TypeVar

import torch
from torch import nn

from ..dcae.autoencoder import DCAE
from ..device import pick_device
from ..kit import Kit
from ..precision import full_range, loaded_dtype, precision_warning, run_dtypes
from ..quantised.layers import hold_quantised
from ..transformer.controlnet import SanaControlNet
from ..transformer.model import SanaTransformer
from .canonical import Canonical, canonical_autoencoder, canonical_controlnet, canonical_transformer
from .detect import autoencoder_config, controlnet_config, detect, has_embedders
from .files import Checkpoint, component_folder, read_checkpoint
from .fit import check_fit, fitted, naming
from .move import moved
from .other_tools import refuse_other_tools
from .statements import stated_config
from .weights import marked, quantised_layers

log = logging.getLogger("sana")
Network = TypeVar("Network", bound=nn.Module)


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
    dtype None: the file's own; the trained one where the model cannot run in the file's, or the file is quantised. Its
    quantised layers stay so. `device="meta"` checks every key and shape without reading tensors. Raises
    CheckpointError, and InputError for a device that is not there.
    """
    device = pick_device(device)
    checkpoint = _read(path, device, "transformer")
    return build_transformer(checkpoint, device, dtype, variant, trained_precision)


def load_autoencoder(path: str | Path, *, device: str | torch.device = "cpu", dtype: torch.dtype | None = None) -> DCAE:
    """DC-AE f32c32 sana-1.0, 1.1 or Lite from a file of either naming, a component folder or a whole diffusers pipeline
    folder.

    dtype None: the file's own; float16 becomes bfloat16, as DC-AE overflows it. `device="meta"` checks every key and
    shape without reading tensors. Raises CheckpointError, and InputError for a device that is not there.
    """
    device = pick_device(device)
    return build_autoencoder(_read(path, device, "vae"), device, dtype)


def load_controlnet(
    path: str | Path, *, order: str = "upstream", device: str | torch.device = "cpu", dtype: torch.dtype | None = None
) -> SanaControlNet:
    """A SANA ControlNet from an original file (the model in it is not used), diffusers' single file or folder, or a
    whole pipeline folder.

    order: "upstream" or "diffusers", how it is connected to the transformer, see `transformer/controlnet.py`; any file
    takes either. dtype None: the file's own. To run, it must be the transformer's. `device="meta"` checks every key and
    shape without reading tensors. Raises CheckpointError, and InputError for another order or a missing device.
    """
    device = pick_device(device)
    checkpoint = _read(path, device, "controlnet")
    with naming(checkpoint.source):
        canonical = canonical_controlnet(marked(checkpoint.tensors, checkpoint.metadata))
        refuse_other_tools(canonical.tensors, config=checkpoint.config)
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
        canonical = canonical_transformer(marked(checkpoint.tensors, checkpoint.metadata))
        refuse_other_tools(canonical.tensors, config=checkpoint.config)
    with naming(checkpoint.source, canonical.original_key):
        found = detect(
            canonical.tensors,
            source=checkpoint.tensors,
            metadata=checkpoint.metadata,
            folder_config=checkpoint.config,
            variant=variant,
            trained_precision=trained_precision,
        )
        if dtype is None and quantised_layers(canonical.tensors):
            dtype = run_dtypes(found.config, device)[0]
        dtype = dtype or loaded_dtype(found.config, canonical.tensors["patch_embed.proj.weight"].dtype, device)
        model = load_strictly(SanaTransformer(found.config, Kit(device="meta")), canonical, device, dtype)
    log.info("%s: %s", checkpoint.source, found.words)
    if warning := precision_warning(found.config, dtype):
        log.warning("%s: %s", checkpoint.source, warning)
    return model


def build_autoencoder(
    checkpoint: Checkpoint, device: str | torch.device = "cpu", dtype: torch.dtype | None = None
) -> DCAE:
    """`load_autoencoder` for an opened checkpoint."""
    with naming(checkpoint.source):
        canonical = canonical_autoencoder(marked(checkpoint.tensors, checkpoint.metadata))
        refuse_other_tools(canonical.tensors, config=checkpoint.config)
    with naming(checkpoint.source, canonical.original_key):
        dtype = full_range(dtype or canonical.tensors["decoder.conv_in.weight"].dtype, "DC-AE")
        network = DCAE(autoencoder_config(canonical.tensors), Kit(device="meta"))
        return load_strictly(network, canonical, device, dtype)


def load_strictly(
    model: Network, canonical: Canonical, device: str | torch.device, dtype: torch.dtype | None
) -> Network:
    """Fill a model made on the meta device and put it in evaluation mode. Raises CheckpointError that names the keys
    that do not fit.

    dtype: None keeps the type of each tensor. Quantised layers stay as they are stored.
    """
    expected = model.state_dict()
    tensors = fitted(canonical.tensors, expected)
    check_fit(tensors, expected, canonical)
    layers = quantised_layers(tensors)
    tensors = moved(tensors, device, dtype, layers)
    hold_quantised(model, layers, tensors)
    model.load_state_dict(tensors, assign=True, strict=not layers)
    return model.eval().requires_grad_(False)


def _read(path: str | Path, device: torch.device, component: str) -> Checkpoint:
    """The file of one component; its tensors are on the CPU, or on the meta device where the network will be."""
    return read_checkpoint(component_folder(path, component), "meta" if device.type == "meta" else "cpu")
