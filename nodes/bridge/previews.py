"""What previews of SANA latents are made with: maps from latents to colours, learnt whenever a DC-AE decodes.

A map belongs to an autoencoder. The embedded model brings its own, in its file. For others the sums of the fit are kept
in the host's user folder, and the autoencoder that was used last decides.
"""

from __future__ import annotations

import functools
import hashlib
import logging
from collections.abc import Mapping
from pathlib import Path

import folder_paths
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from ...sana_core.geometry import DC_AE_F32
from ...sana_core.pictures.preview import PreviewFit, PreviewMap
from ...sana_core.sources import NANO_FILES
from ...sana_core.whole_files import whole_file

log = logging.getLogger("sana")
FOLDER = "sana_previews"
FIRST = "decoder.conv_in.weight"
MOST = 64  # cells a side of one picture that are learnt from
ENOUGH = 20_000  # cells; more examples change nothing that anyone sees


class Learnt:
    """The fits of one process and of those before it, by the fingerprint of the autoencoder."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Know no more than the files."""
        self.fits: dict[str, PreviewFit] = {}
        self.last: str | None = None
        self.map: PreviewMap | None = None

    def add(self, fingerprint: str, latent: Tensor, image: Tensor) -> None:
        """An example, see `PreviewFit.add`. It is written to the user's folder, if that can be written to."""
        fit = self.fits.get(fingerprint) or _read(_path(fingerprint))
        self.fits[fingerprint] = fit
        if fit.cells < ENOUGH:
            fit.add(latent, image)
            _write(_path(fingerprint), fit)
        elif fingerprint == self.last:
            return
        self.last, self.map = fingerprint, fit.map()

    def current(self) -> PreviewMap | None:
        """The map of the autoencoder that was used last, in this process or before it."""
        if self.last is None:
            files = sorted(_folder().glob("*.safetensors"), key=lambda path: path.stat().st_mtime)
            try:
                self.last, self.map = "", _read(files[-1]).map() if files else None
            except RuntimeError:  # sums of which no map can be made
                self.last, self.map = "", None
        return self.map


learnt = Learnt()


def fingerprint(weights: Mapping[str, Tensor]) -> str | None:
    """What tells one DC-AE from another; None for the embedded one, whose model brings its map, and on the meta
    device.
    """
    first = weights[FIRST]
    if first.is_meta:
        return None
    found = _digest(first)
    return None if found == _embedded() else found


@functools.cache
def _embedded() -> str:
    with safe_open(NANO_FILES.autoencoder, framework="pt") as file:
        return _digest(file.get_tensor(FIRST))


def _digest(tensor: Tensor) -> str:
    return hashlib.sha256(tensor.float().cpu().contiguous().numpy().tobytes()).hexdigest()[:16]


def _folder() -> Path:
    return Path(folder_paths.get_user_directory()) / FOLDER


def _path(fingerprint: str) -> Path:
    return _folder() / f"{fingerprint}.safetensors"


def _read(path: Path) -> PreviewFit:
    """The sums in a file; an empty fit if there is none, or it cannot be used."""
    try:
        sums = load_file(path)
        own = PreviewFit()
        same = (sums["gram"].shape, sums["cross"].shape) == (own.gram.shape, own.cross.shape)
        if same and all(tensor.isfinite().all() for tensor in sums.values()):
            return PreviewFit(sums["gram"].double(), sums["cross"].double())
    except (OSError, SafetensorError, KeyError, ValueError):
        pass
    return PreviewFit()


def _write(path: Path, fit: PreviewFit) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as partial:
            save_file({"gram": fit.gram, "cross": fit.cross}, partial)
    except (OSError, SafetensorError) as error:
        log.debug("the colours of previews are not kept: %s", error)


def learn(fingerprint: str | None, raw: Tensor, image: Tensor, scale: float) -> None:
    """Learn from a decoded latent.  raw: (B, 32, h, w) of the host;  image: (B, 3, 32 h, 32 w) in -1..1.

    Nothing that goes wrong here may cost a picture.
    """
    if fingerprint is None:
        return
    raw, image = raw[:1, :, :MOST, :MOST], image[:1, :, : MOST * DC_AE_F32.downscale, : MOST * DC_AE_F32.downscale]
    try:
        with torch.inference_mode(False), torch.no_grad():
            learnt.add(fingerprint, raw.float() * scale, image)
    except (RuntimeError, OSError, MemoryError) as error:
        log.debug("no colours for previews from this picture: %s", error)
