"""A prompt as the transformer's blocks attend to it."""

from __future__ import annotations

from collections.abc import Hashable
from copy import copy
from typing import Any, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor


class Attending(Hashable, Protocol):
    """A cross-attention module, which makes keys and values (B, L, C) each of caption tokens (B, L, C)."""

    def keys_values(self, tokens: Tensor) -> tuple[Tensor, Tensor]: ...


class Captioner(Hashable, Protocol):
    """A network that projects text states (B, L, caption channels) to the width of its blocks (B, L, C)."""

    def project_caption(self, states: Tensor) -> Tensor: ...


class Text(NamedTuple):
    """What one cross-attention reads of a caption.

    key, value: (P, L, C).  bias: (P, 1, 1, L), added to the logits, or None.  options: of a host, for its attention.
    """

    key: Tensor
    value: Tensor
    bias: Tensor | None
    options: Any


class Caption:
    """Projected text tokens, and the keys and values that cross-attention makes of them.

    tokens: (P, L, C), a row for each of P prompts; each serves the same number of pictures, which follow one another.
    states: the text states (P, L, caption channels) behind them.  mask: (P, L) of bool, True for tokens that count;
    None if all do.  options: what a host passes on to its attention, see `kit.Attention`.

    remember: keys and values are computed once for each attention module and kept, for the many steps of one prompt.
    They depend on the weights: make a new caption after a change of those. With `remember=False` nothing is kept.
    """

    def __init__(
        self,
        tokens: Tensor,
        *,
        states: Tensor,
        mask: Tensor | None = None,
        options: Any = None,
        remember: bool = False,
    ) -> None:
        self.tokens, self.states, self.mask, self.options = tokens, states, mask, options
        self.bias = attention_bias(mask, tokens.dtype)
        self.remember = remember
        self._keys_values: dict[Attending, tuple[Tensor, Tensor]] = {}
        self._projections: dict[Captioner, Caption] = {}

    def read_by(self, attention: Attending) -> Text:
        return Text(*self.keys_values(attention), self.bias, self.options)

    def keys_values(self, attention: Attending) -> tuple[Tensor, Tensor]:
        """Keys and values (B, L, C) that a cross-attention module makes of the tokens."""
        if not self.remember:
            return attention.keys_values(self.tokens)
        if attention not in self._keys_values:
            self._keys_values[attention] = attention.keys_values(self.tokens)
        return self._keys_values[attention]

    def projected_by(self, network: Captioner) -> Caption:
        """The same text with another network's projection, for a ControlNet that has one of its own."""
        if network in self._projections:
            return self._projections[network].passing(self.options)
        projected = self.with_tokens(network.project_caption(self.states))
        if self.remember:
            self._projections[network] = projected.passing(None)
        return projected

    @property
    def memory(self) -> int:
        """Equal for a caption and those made of it by `passing`, as long as one of them lives."""
        return id(self._keys_values)

    def passing(self, options: Any) -> Caption:
        """The same caption and the same memory, with other options for the attention."""
        same = copy(self)
        same.options = options
        return same

    def with_tokens(self, tokens: Tensor) -> Caption:
        """A caption with these tokens and an empty memory. The caption itself if the tokens are its own."""
        if tokens is self.tokens:
            return self
        mask, further = self.mask, tokens.shape[1] - self.tokens.shape[1]
        if mask is not None and further:
            mask = F.pad(mask, (0, further), value=True)  # tokens that were added count; those cut off are gone
        return Caption(tokens, states=self.states, mask=mask, options=self.options, remember=self.remember)


def attention_bias(mask: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """(B, L) of bool, True for tokens that count -> (B, 1, 1, L) to add to attention logits, or None."""
    if mask is None:
        return None
    bias = torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill(~mask.bool(), torch.finfo(dtype).min)
    return bias[:, None, None, :]
