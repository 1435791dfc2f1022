"""How networks begin, reproducibly."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import nn

from ..config import TransformerConfig
from ..kit import Kit
from ..transformer.controlnet import SanaControlNet
from ..transformer.model import SanaTransformer


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """PyTorch's layers draw their first weights from its global generator: set it, and put it back afterwards."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def initial_transformer(config: TransformerConfig, seed: int, kit: Kit | None = None) -> SanaTransformer:
    """A Linear DiT to train: Xavier for matrices, zero for the output layer, as DiTs begin (arXiv:2212.09748, sec.
    3.2).
    """
    with seeded(seed):
        model = SanaTransformer(config, kit)
        for name, parameter in model.named_parameters():
            if parameter.ndim >= 2 and "scale_shift_table" not in name and "conv_depth" not in name:
                nn.init.xavier_uniform_(parameter.view(parameter.shape[0], -1))
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)
        nn.init.normal_(model.time_embed.linear.weight, std=0.02)
        nn.init.zeros_(model.proj_out.weight)
        for block in model.blocks:
            nn.init.normal_(block.scale_shift_table, std=config.hidden_size**-0.5)
    return model


def initial_controlnet(
    transformer: SanaTransformer,
    depth: int,
    kit: Kit | None = None,
    *,
    order: str = "upstream",
    embedders: bool = False,
) -> SanaControlNet:
    """A ControlNet to train: copies of the transformer's first `depth` blocks, connected by layers that begin at zero
    (arXiv:2302.05543). It begins without any effect.

    order: how it is connected, see `transformer/controlnet.py`. embedders: with copies of the transformer's, which are
    trained as well, as diffusers' file has them.
    """
    network = SanaControlNet(replace(transformer.config, depth=depth), kit, embedders=embedders, order=order)
    copied = {"transformer_blocks": transformer.transformer_blocks[:depth]}
    if embedders:
        names = ("patch_embed", "time_embed", "caption_projection", "caption_norm")
        copied |= {name: transformer.get_submodule(name) for name in names}
    for name, module in copied.items():
        network.get_submodule(name).load_state_dict(module.state_dict())
    for layer in (network.input_block, *network.controlnet_blocks):
        for parameter in layer.parameters():
            nn.init.zeros_(parameter)
    return network
