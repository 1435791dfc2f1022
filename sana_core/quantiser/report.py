"""What quantising a file did to it: errors and sizes of its layers."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class LayerReport:
    """One quantised layer.

    name: of its weight.  kind: as `policy.kind_of_layer`.  format: of the command line.  error: ||W - Q(W)|| / ||W||.
    wanted: the format that did not fit its width, else None.  before, after: bytes.
    """

    name: str
    kind: str
    format: str
    error: float
    wanted: str | None
    before: int
    after: int


@dataclass(kw_only=True)
class Report:
    """A whole file.

    model: what it is, in words.  format: as asked for.  dtype: of the tensors that are not quantised.  before, after:
    bytes of all tensors.
    """

    source: str
    target: str
    model: str
    format: str
    dtype: str
    layers: list[LayerReport] = field(default_factory=list)
    before: int = 0
    after: int = 0

    def lines(self) -> list[str]:
        """For people: the file, then each kind of layer and format, with its mean and its worst error."""
        said = [
            f"{self.model}: {len(self.layers)} layers to {self.format}, the rest in {self.dtype}; "
            f"{_size(self.before)} -> {_size(self.after)}"
        ]
        kinds = dict.fromkeys((layer.kind, layer.format) for layer in self.layers)
        width = max((len(kind) for kind, _ in kinds), default=0)
        for kind, form in kinds:
            own = [layer for layer in self.layers if (layer.kind, layer.format) == (kind, form)]
            worst = max(own, key=lambda layer: layer.error)
            mean = sum(layer.error for layer in own) / len(own)
            said.append(f"  {kind:{width}}  {form}: error {mean:.2e}, worst {worst.error:.2e} ({worst.name})")
        if changed := [layer for layer in self.layers if layer.wanted]:
            forms = ", ".join(dict.fromkeys(layer.format for layer in changed))
            said.append(f"  {len(changed)} layers are in {forms}: {changed[0].wanted} does not fit their width")
        return said

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def _size(size: int) -> str:
    return f"{size / 1e9:.2f} GB" if size >= 1e8 else f"{size / 1e6:.2f} MB"
