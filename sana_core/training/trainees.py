"""What can be trained: a LoRA, a ControlNet, a whole transformer. Each has its objective and writes its own file."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Protocol, cast

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from ..checkpoint.key_maps import CONTROLNET_NVLABS, foreign_tensors
from ..checkpoint.new_file import new_file
from ..config import SamplingDefaults
from ..errors import InputError
from ..quantised.layers import QuantisedLinear
from ..transformer.controlnet import ORDERS, SanaControlNet
from ..transformer.model import SanaTransformer
from .lora_file import save_lora
from .lora_layers import ATTENTION, TrainedLora, attach_lora
from .networks import initial_controlnet, initial_transformer
from .objective import FlowObjective
from .processes import whole

LAYOUTS = ("diffusers", "upstream")
CONTROL_DEPTH = 7


class Trainee(Protocol):
    """trained: the module whose parameters are trained, and no other. objective: it, with its loss. blocks: where
    gradient checkpointing and sharding cut.
    """

    @property
    def trained(self) -> nn.Module: ...

    @property
    def objective(self) -> FlowObjective: ...

    @property
    def blocks(self) -> Sequence[nn.Module]: ...

    def tensors(self) -> dict[str, Tensor]:
        """What its file holds, whole and on the CPU. All processes have to call it."""
        ...

    def write(self, path: Path, tensors: Mapping[str, Tensor], notes: Mapping[str, str], *, overwrite: bool) -> None:
        """Write `tensors`. notes: metadata on the training."""
        ...


class LoraTrainee:
    """Adapters beside the layers of a frozen transformer. `end` takes them off."""

    def __init__(
        self,
        transformer: SanaTransformer,
        *,
        rank: int = 16,
        alpha: float | None = None,
        targets: tuple[str, ...] = ATTENTION,
        dora: bool = False,
        seed: int = 0,
        base: str = "SANA",
        start: Mapping[str, Tensor] | None = None,
        autocast: torch.dtype | None = None,
        guidance: float | None = None,
    ) -> None:
        self.trained: TrainedLora = attach_lora(
            transformer, rank=rank, alpha=alpha, targets=targets, dora=dora, seed=seed, start=start
        )
        self.base = base
        self.objective = FlowObjective(transformer, autocast=autocast, guidance=guidance)
        self.blocks: Sequence[nn.Module] = transformer.blocks

    def tensors(self) -> dict[str, Tensor]:
        return {key: whole(tensor) for key, tensor in self.trained.tensors().items()}

    def write(self, path: Path, tensors: Mapping[str, Tensor], notes: Mapping[str, str], *, overwrite: bool) -> None:
        save_lora(path, self.trained, base=self.base, trained=notes, tensors=tensors, overwrite=overwrite)

    def end(self) -> None:
        self.trained.detach()


class ControlTrainee:
    """A ControlNet of the first blocks of a frozen transformer.

    depth: how many; None: as `released_depth`. layout: of its file; diffusers' has embedders of its own.
    """

    def __init__(
        self,
        transformer: SanaTransformer,
        *,
        depth: int | None = None,
        order: str = "upstream",
        layout: str = "diffusers",
        autocast: torch.dtype | None = None,
        guidance: float | None = None,
        dtype: torch.dtype = torch.bfloat16,
    ) -> None:
        refuse_quantised(transformer)
        if order not in ORDERS or layout not in LAYOUTS:
            raise InputError(f'order "{order}" and layout "{layout}", expected {ORDERS} and {LAYOUTS}')
        depth = released_depth(transformer.config.depth) if depth is None else depth
        if not 0 < depth < transformer.config.depth:
            raise InputError(
                f"a ControlNet of {depth} blocks for a model of {transformer.config.depth}: give a depth of 1 to "
                f"{transformer.config.depth - 1}"
            )
        transformer.requires_grad_(False)
        self.trained: SanaControlNet = initial_controlnet(
            transformer, depth, order=order, embedders=layout == "diffusers" and order == "diffusers"
        )
        self.layout, self.dtype = layout, dtype
        self.objective = FlowObjective(transformer, self.trained, autocast=autocast, guidance=guidance)
        self.blocks: Sequence[nn.Module] = [*transformer.blocks, *self.trained.transformer_blocks]

    def tensors(self) -> dict[str, Tensor]:
        return {key: whole(tensor) for key, tensor in self.trained.state_dict().items()}

    def write(self, path: Path, tensors: Mapping[str, Tensor], notes: Mapping[str, str], *, overwrite: bool) -> None:
        own = tensors if self.layout == "diffusers" else foreign_tensors(tensors, CONTROLNET_NVLABS)
        write_tensors(path, own, notes, self.dtype, overwrite=overwrite)


class ModelTrainee:
    """A whole transformer. Its file states its configuration and how it is sampled."""

    def __init__(
        self,
        transformer: SanaTransformer,
        sampling: SamplingDefaults,
        *,
        autocast: torch.dtype | None = None,
        guidance: float | None = None,
        dtype: torch.dtype = torch.bfloat16,
        from_scratch: bool = False,
        seed: int = 0,
    ) -> None:
        refuse_quantised(transformer)
        if from_scratch:
            fresh = initial_transformer(transformer.config, seed).state_dict()
            transformer.load_state_dict(fresh)
        self.trained: SanaTransformer = transformer.requires_grad_(True)
        self.sampling, self.dtype = sampling, dtype
        self.objective = FlowObjective(transformer, autocast=autocast, guidance=guidance)
        self.blocks: Sequence[nn.Module] = transformer.blocks

    def tensors(self) -> dict[str, Tensor]:
        return {key: whole(tensor) for key, tensor in self.trained.state_dict().items()}

    def write(self, path: Path, tensors: Mapping[str, Tensor], notes: Mapping[str, str], *, overwrite: bool) -> None:
        config = self.trained.config
        if self.dtype == torch.bfloat16:  # what was trained in float16 goes on in bfloat16, with its clamp
            config = replace(config, fp16_trained=config.fp16_trained and None)
        stated = {"config": json.dumps(asdict(config)), "sampling": json.dumps(asdict(self.sampling))}
        write_tensors(path, tensors, {**notes, **stated}, self.dtype, overwrite=overwrite)


def released_depth(blocks: int) -> int:
    """How many blocks a ControlNet copies: 7, as NVIDIA's, or a third of a small model's."""
    return CONTROL_DEPTH if blocks > 2 * CONTROL_DEPTH else max(1, blocks // 3)


def refuse_quantised(transformer: SanaTransformer) -> None:
    """Raise InputError for packed weights, which only a LoRA can be trained on."""
    if any(isinstance(layer, QuantisedLinear) for layer in transformer.modules()):
        raise InputError(
            "the weights of this model are quantised: only a LoRA can be trained on them; take the file that they were "
            "made of"
        )


def write_tensors(
    path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str], dtype: torch.dtype, *, overwrite: bool
) -> None:
    """A .safetensors file in `dtype`, whole or not at all. Raises InputError where it cannot be written."""
    kept = {key: tensor.detach().to("cpu", dtype).contiguous() for key, tensor in tensors.items()}
    with new_file(path, overwrite=overwrite) as partial:
        save_file(cast(dict[str, Tensor], kept), partial, {"format": "pt", **metadata})
        partial.chmod(0o644)  # safetensors writes files that only their owner reads
