"""How quantised layers multiply: by the numbers that their weights stand for, or as in a picture.

Kernels of comfy-kitchen, which a GPU may have, round the inputs of a layer too. A reference in plain numbers is
compared with plain numbers, or the rounding would hide everything else.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TypeVar

from torch import nn

from ..quantised.kitchen import FULL_PRECISION
from ..quantised.layers import QuantisedWeight

Network = TypeVar("Network", bound=nn.Module)
OWN = "own_form"  # the attribute that keeps what the file states


def by_numbers(network: Network) -> Network:
    """The network, whose quantised layers use no kernel from now on."""
    for weight in _weights(network):
        setattr(weight, OWN, weight.form)
        weight.form = replace(weight.form, settings={**weight.form.settings, FULL_PRECISION: True})
    return network


def by_kernels(network: nn.Module) -> bool:
    """Undo `by_numbers`. Has the network quantised layers at all?"""
    weights = list(_weights(network))
    for weight in weights:
        weight.form = getattr(weight, OWN)
    return bool(weights)


def _weights(network: nn.Module) -> Iterator[QuantisedWeight]:
    return (module for module in network.modules() if isinstance(module, QuantisedWeight))
