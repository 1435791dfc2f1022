"""LoRA files of every dialect, and PEFT's configuration."""

from __future__ import annotations

import functools
import json
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor

from sana_core.lora.apply import apply_lora
from sana_core.lora.file import load_lora
from sana_core.transformer.model import SanaTransformer

from ..target import Files, Target
from . import networks

FILE = "lora.safetensors"
MODULES = ("transformer_blocks.0.attn1.to_q", "transformer_blocks.0.ff.conv_inverted", "proj_out")
CONFIG = {"peft_type": "LORA", "r": 2, "lora_alpha": 4.0, "use_rslora": False, "rank_pattern": {"to_q": 2},
          "alpha_pattern": {r"transformer_blocks\.\d+\.attn1\.to_(q|k)$": 1.0, "^ff.*": 2, "proj_out": 3}}  # fmt: skip
RANK = 2


def shapes() -> dict[str, tuple[int, int]]:
    weights = networks.weights()
    return {name: tuple(weights[f"{name}.weight"].flatten(1).shape) for name in MODULES}  # pyright: ignore


def pairs(prefix: str, down: str, up: str, flat: bool = False, alpha: bool = False) -> dict[str, Tensor]:
    tensors = {}
    for name, (rows, columns) in shapes().items():
        own = prefix + (name.replace(".", "_") if flat else name)
        tensors |= {f"{own}.{down}.weight": torch.ones(RANK, columns), f"{own}.{up}.weight": torch.ones(rows, RANK)}
        if alpha:
            tensors[f"{own}.alpha"] = torch.tensor(1.0)
    return tensors


def others() -> list[dict[str, Tensor]]:
    """LoHa, LoKr, DoRA, full differences and biases."""
    name, (rows, columns) = MODULES[0], shapes()[MODULES[0]]
    own = f"lora_unet_{name.replace('.', '_')}"
    loha = {f"{own}.hada_w{i}_{part}": torch.ones(size) for i in (1, 2)
            for part, size in (("a", (rows, RANK)), ("b", (RANK, columns)))}  # fmt: skip
    lokr = {f"{own}.lokr_w1": torch.ones(4, 4), f"{own}.lokr_w2_a": torch.ones(rows // 4, RANK),
            f"{own}.lokr_w2_b": torch.ones(RANK, columns // 4), f"{own}.alpha": torch.tensor(1.0)}  # fmt: skip
    dora = {**pairs("transformer.", "lora_A", "lora_B"), f"transformer.{name}.lora_magnitude_vector": torch.ones(rows)}
    full = {f"{own}.diff": torch.ones(rows, columns), "lora_unet_proj_out.diff_b": torch.ones(shapes()["proj_out"][0])}
    return [loha, lokr, dora, full]


@functools.cache
def files() -> list[Files]:
    stated = {"lora_adapter_metadata": json.dumps({f"transformer.{key}": value for key, value in CONFIG.items()})}
    dialects = [
        pairs("transformer.", "lora_A", "lora_B"),
        pairs("base_model.model.", "lora_A", "lora_B"),
        pairs("lora_unet_", "lora_down", "lora_up", flat=True, alpha=True),
        pairs("diffusion_model.", "lora_A", "lora_B", alpha=True),
        *others(),
    ]
    plain = [{FILE: save(tensors)} for tensors in dialects]
    return [*plain, {FILE: save(dialects[0], stated)}, {FILE: save(dialects[-2], stated)}]


@functools.cache
def peft() -> list[Files]:
    weights = save(pairs("base_model.model.", "lora_A", "lora_B"))
    kinds = ({}, {"peft_type": "ADALORA"}, {"peft_type": "LOHA", "alpha": 2}, {"use_rslora": True})
    return [
        {"adapter_config.json": json.dumps({**CONFIG, **kind}).encode(), "adapter_model.safetensors": weights}
        for kind in kinds
    ]


@functools.cache
def network() -> SanaTransformer:
    return SanaTransformer(networks.config())


def read(path: Path) -> None:
    lora = load_lora(path)
    model = network()
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    try:
        apply_lora(model, lora, 0.5)
    finally:
        model.load_state_dict(before)


TARGETS = (
    Target(name="lora", seeds=files, read=lambda folder: read(folder / FILE)),
    Target(name="peft", seeds=peft, read=read),
)
