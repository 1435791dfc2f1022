"""Does a state dict fit a network? What does not is refused by the names it has in the file."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager

from torch import Tensor

from ..errors import CheckpointError, SanaError, listed, printable
from .canonical import Canonical
from .weights import damaged_scale, misfits, quantised_layers


def fitted(tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors, with 1x1 convolutions as matrices and the other way round wherever the network has them so."""

    def fit(key: str, tensor: Tensor) -> Tensor:
        shape = expected[key].shape if key in expected else tensor.shape
        same_kernel = {len(shape), tensor.ndim} == {2, 4} and (*shape, 1, 1)[:4] == (*tensor.shape, 1, 1)[:4]
        return tensor.reshape(shape) if same_kernel else tensor

    return {key: fit(key, tensor) for key, tensor in tensors.items()}


def check_fit(tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor], canonical: Canonical) -> None:
    """Raise CheckpointError if a tensor is missing, unexpected or of another shape, or a scale is no number.

    expected: the network's state dict.  canonical: where the tensors come from, for the names in the message. Quantised
    layers are checked by the rules of their format, see `weights.misfits`.
    """
    layers = quantised_layers(tensors)
    found = misfits(tensors, expected, layers)
    name = canonical.original_key
    if not found:
        if (key := damaged_scale(tensors, layers)) is not None:
            raise CheckpointError(f"the scale {name(key)} is no number above 0: the file is damaged")
        return
    said = [
        _said("missing", map(name, found.missing)),
        _said("unexpected", map(name, found.unexpected)),
        _said("of another shape", (f"{name(key)} {wrong}" for key, wrong in found.misshaped.items())),
    ]
    problems = "; ".join(filter(None, said))
    raise CheckpointError(
        f"the tensors do not fit the model: {problems}. The file is damaged or of another model; nothing was loaded"
    )


def _said(what: str, names: Iterable[str]) -> str:
    """ "2 missing (a, b)", or nothing; parts of a fused tensor are one."""
    distinct = list(dict.fromkeys(names))
    return f"{len(distinct)} {what} ({listed(distinct, 3)})" if distinct else ""


@contextmanager
def naming(source: str, original_key: Callable[[str], str] = str) -> Iterator[None]:
    """Put the file's name before the message of whatever is wrong with it, and call its keys as the file does."""
    try:
        yield
    except SanaError as error:
        if str(error).startswith(printable(source)):
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
