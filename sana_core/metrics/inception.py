"""Features of pictures by InceptionV3, as FID and KID are defined on them: torch-fidelity's network.

Its weights are those of TensorFlow's model of 2015-12-05, on which the paper of FID (arXiv:1706.08500) is based. The
network itself resizes each picture to 299 x 299, bilinearly and without antialiasing, as TensorFlow 1 did.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import CheckpointError, InputError

FILE = "weights-inception-2015-12-05-6726825d.pth"
SOURCE = f"https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/{FILE}"
LAYERS = {"64": 64, "192": 192, "768": 768, "2048": 2048}  # by torch-fidelity's names: how many features
LAYER = "2048"  # of published figures


def load_inception(weights: Path | None, layer: str = LAYER, device: str | torch.device = "cpu") -> Any:
    """torch-fidelity's feature extractor with local weights. Nothing is downloaded.

    weights: a state dict as torch-fidelity publishes it, or a folder with that file. Raises InputError if the package
    or the file is missing, CheckpointError if the file is damaged or of another network.
    """
    if weights is None or not weights.exists():
        found = "no file is named" if weights is None else f"{weights} is missing"
        raise InputError(
            f"FID and KID need the weights of InceptionV3, {FILE}, but {found}: get it from {SOURCE} and pass "
            "--inception FILE"
        )
    path = weights / FILE if weights.is_dir() else weights
    if not path.is_file():
        raise InputError(f"{weights} has no {FILE}: get it from {SOURCE}")
    extractor_class = _extractor_class()
    try:
        torch.load(path, map_location="cpu", weights_only=True)  # torch-fidelity itself would run what is in it
        extractor = extractor_class("inception-v3-compat", [layer], feature_extractor_weights_path=str(path))
    except pickle.UnpicklingError as error:
        raise CheckpointError(f"{path} is no whole file of weights: get it again from {SOURCE}") from error
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({error.strerror or error})") from error
    except Exception as error:  # PyTorch raises many types for damaged files, and RuntimeError for other networks
        raise CheckpointError(f"{path} has no weights of InceptionV3 ({_first(error)}): get {SOURCE}") from error
    return extractor.to(device)


def _extractor_class() -> Any:
    try:
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
    except (ImportError, RuntimeError) as error:  # RuntimeError: a torchvision that is not of this PyTorch
        raise InputError(
            f"FID and KID need torch-fidelity and a torchvision of your PyTorch ({_first(error)}): "
            "pip install torch-fidelity==0.4.0 torchvision"
        ) from error
    return FeatureExtractorInceptionV3


@torch.no_grad()
def features(extractor: Any, pictures: Iterable[Tensor], batch: int) -> Tensor:
    """(N, C), float32 on the CPU, of pictures (3, H, W) of uint8. Neighbours of one size are computed together."""
    device = next(extractor.parameters()).device
    found = [extractor(torch.stack(some).to(device))[0].cpu() for some in _batches(pictures, batch)]
    made = torch.cat(found)
    if not torch.isfinite(made).all():
        raise InputError("InceptionV3 gives features that are not finite: its weights are damaged, get them again")
    return made


def _batches(pictures: Iterable[Tensor], most: int) -> Iterator[list[Tensor]]:
    batch: list[Tensor] = []
    for picture in pictures:
        if batch and (len(batch) == most or picture.shape != batch[0].shape):
            yield batch
            batch = []
        batch.append(picture)
    if batch:
        yield batch


def _first(error: Exception) -> str:
    """The beginning of a message, which may list hundreds of names."""
    return " ".join(str(error).split())[:120]
