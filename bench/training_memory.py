"""What the steps of a training take in memory, as a Markdown table: `python bench/training_memory.py [--pixels 1024]`.

Every number is a step on tensors without values, in the published sizes and in the number types of a GPU, counted by
`sana_core/training/plan.py`: one picture at once of a larger batch, frozen weights in bfloat16, trained ones in
float32, products in bfloat16. CUDA itself, some 0.5 GB, the workspaces of kernels and what an allocator wastes are not
in it. Exits with 1 if a LoRA of rank 16 at 1024 px misses its limit: 1.6B on a card of 8 GB, 4.8B on one of 16 GB, 1 GB
of it left for CUDA.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from sana_core.config import POSITIONS, SamplingDefaults, TransformerConfig
from sana_core.kit import Kit
from sana_core.presets import NETWORKS
from sana_core.training.gradient_checkpointing import checkpoint_blocks
from sana_core.training.objective import FlowObjective
from sana_core.training.optimizers import build_optimizer
from sana_core.training.plan import StepMemory, step_memory, without_values
from sana_core.training.trainees import ControlTrainee, LoraTrainee, ModelTrainee, Trainee
from sana_core.transformer.model import SanaTransformer

PICTURES = (512, 1024, 2048)
GB = 1e9
KEPT = {True: "computed again", False: "kept"}  # by gradient checkpointing


@dataclass(frozen=True, kw_only=True)
class Case:
    """kind: "LoRA", "ControlNet" or "model". limit: of a step at 1024 px with checkpointing, in bytes."""

    kind: str
    network: str
    optimizer: str = "adamw"
    limit: float | None = None

    @property
    def config(self) -> TransformerConfig:
        return NETWORKS[self.network]

    def count(self, pixels: int, *, checkpointing: bool, at_once: int = 1) -> StepMemory:
        """A step with pictures of pixels x pixels."""
        config = replace(self.config, position=POSITIONS["2k"] if pixels == 2048 else None)

        def build() -> FlowObjective:
            base = SanaTransformer(
                config, Kit(device="meta", dtype=torch.float32 if self.kind == "model" else torch.bfloat16)
            )
            without_values(base)
            trainee = self._trainee(base)
            if checkpointing:
                checkpoint_blocks(trainee.blocks)
            return trainee.objective

        return step_memory(
            build,
            lambda trained: build_optimizer(self.optimizer, trained, rate=1e-4),
            width=pixels,
            height=pixels,
            at_once=at_once,
            states_dtype=torch.bfloat16,
            control=self.kind == "ControlNet",
        )

    def _trainee(self, base: SanaTransformer) -> Trainee:
        if self.kind == "LoRA":
            return LoraTrainee(base, rank=16, autocast=torch.bfloat16)
        if self.kind == "ControlNet":
            return ControlTrainee(base, autocast=torch.bfloat16)
        return ModelTrainee(base, SamplingDefaults(), autocast=torch.bfloat16)


OPTIMIZERS = ("adamw", "came", "came8bit")
CASES = (
    Case(kind="LoRA", network="SANA 0.6B"),
    Case(kind="LoRA", network="SANA 1.6B", limit=7 * GB),
    Case(kind="LoRA", network="SANA-Sprint 1.6B"),
    Case(kind="LoRA", network="SANA-1.5 4.8B", limit=15 * GB),
    *(Case(kind="ControlNet", network="SANA 1.6B", optimizer=name) for name in OPTIMIZERS),
    *(Case(kind="model", network="SANA 0.6B", optimizer=name) for name in OPTIMIZERS),
    *(Case(kind="model", network="SANA 1.6B", optimizer=name) for name in OPTIMIZERS),
)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--pixels", type=int, nargs="+", default=PICTURES, help="sides of the square pictures (default: %(default)s)"
    )
    args = parser.parse_args(argv)
    missed = []
    for line in table(args.pixels, missed):
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()
    sys.stdout.write(f"\nA limit is missed: {', '.join(missed)}.\n" if missed else "\nEvery limit holds.\n")
    return int(bool(missed))


def table(pictures: Sequence[int], missed: list[str]) -> Iterator[str]:
    """Its lines. missed: gets the networks whose limit is missed."""
    titles = [f"{pixels} px, {KEPT[checkpointing]}" for pixels in pictures for checkpointing in KEPT]
    yield " | ".join(["| trained", "millions", "optimizer", "weights GB", *titles]) + " |"
    yield "| --- " * (4 + len(titles)) + "|"
    for case in CASES:
        counted = {
            (pixels, checkpointing): case.count(pixels, checkpointing=checkpointing)
            for pixels in pictures
            for checkpointing in KEPT
        }
        some = next(iter(counted.values()))
        what = f"{case.kind} of {case.network}" if case.kind != "model" else f"all of {case.network}"
        peaks = [f"{found.peak / GB:.1f}" for found in counted.values()]
        numbers = [what, f"{some.trained / 1e6:.1f}", case.optimizer, f"{some.weights / GB:.1f}", *peaks]
        yield "| " + " | ".join(numbers) + " |"
        if case.limit and (1024, True) in counted and counted[1024, True].peak > case.limit:
            missed.append(case.network)


if __name__ == "__main__":
    raise SystemExit(main())
