"""Latents of pictures, encoded once and kept on disk."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...errors import InputError
from .buckets import Size
from .cache import TensorFiles, finite
from .example import Example, tell_skipped
from .views import PictureView, View

FORM = 1  # of the entries; another one when pictures are fitted in another way


class LatentCache:
    """Latents by picture, size and autoencoder. view: what of an example is encoded."""

    def __init__(self, folder: str | Path, encoder: str, view: View | None = None) -> None:
        """encoder: the `fingerprint` of the autoencoder. Raises InputError if the folder cannot be made."""
        self.files = TensorFiles(folder)
        self.encoder = encoder
        self.view = PictureView() if view is None else view

    @torch.no_grad()
    def fill(
        self,
        examples: Sequence[Example],
        wanted: Iterable[tuple[int, Size]],
        encode: Callable[[Tensor], Tensor],
        *,
        progress: Callable[[int, int], None] | None = None,
    ) -> dict[Example, str]:
        """Encode what is missing or damaged of these (row, size): (1, 3, H, W) in -1..1 -> (1, 32, h, w).

        Returns the examples that cannot be decoded, with why, for `DataSet.without`; each is named in the log. Any
        other error ends it: what is done by then is kept, and the next call goes on from there.
        """
        wanted = list(wanted)
        failed: dict[Example, str] = {}
        for done, (row, size) in enumerate(wanted, start=1):
            example = examples[row]
            if example not in failed and (why := self._fill_one(example, size, encode)):
                failed[example] = why
            if progress is not None:
                progress(done, len(wanted))
        tell_skipped({example.name: why for example, why in failed.items()})
        return failed

    def has(self, example: Example, size: Size) -> bool:
        return self.files.has(self._key(example, size))

    def _fill_one(self, example: Example, size: Size, encode: Callable[[Tensor], Tensor]) -> str | None:
        """Why it cannot be; None if it is there."""
        if self.has(example, size):
            return None
        try:
            pixels = self.view.pixels(example, size)
        except InputError as error:
            return str(error)
        latent = encode(pixels)
        if not finite(latent):
            return "its latent has numbers that are not finite"
        self.files.write(self._key(example, size), latent[0])
        return None

    def read(self, example: Example, size: Size) -> Tensor:
        """(32, h, w), of the type that the encoder gave. Raises CheckpointError if it is missing or damaged."""
        return self.files.read(self._key(example, size))

    def _key(self, example: Example, size: Size) -> Any:
        return ["latent", FORM, self.view.name, self.view.digest(example), *size, self.encoder]
