"""What the command `train` made of the embedded model, beside the embedded files:

    python -m tools.nano.evaluate_trained WORK --files sana_core/nano --lora FILE
    python -m tools.nano.evaluate_trained WORK --files sana_core/nano --controlnet FILE
    python -m tools.nano.evaluate_trained WORK --files sana_core/nano --model FILE

A LoRA of the subject of `tools.nano.folders`: is it found among all things, and are other names found as before? A
ControlNet: how well do pictures follow lines, each kind of its own? A model: are names found as before? WORK as for
`tools.nano.folders`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from torch import Tensor

from sana_core.checkpoint.load import load_controlnet
from sana_core.lora import apply_lora, load_lora
from sana_core.pictures.soft_edge import soft_edge
from sana_core.training.data.views import edge_map

from .command import from_arguments, parser
from .evaluate_addons import followed, subject_found
from .evaluation import Evaluation


def lora(run: Evaluation, path: Path) -> dict:
    made = run.pipeline()
    apply_lora(made.transformer, load_lora(path), 1.0)
    names = run.sets["names"]
    return {
        "without": {**subject_found(run, run.base), "names": run.scored(run.base, names)},
        "with": {**subject_found(run, made), "names": run.scored(made, names)},
    }


def controlnet(run: Evaluation, path: Path) -> dict:
    embedded, made = run.pipeline(controlnet=True), run.pipeline()
    made.controlnet = load_controlnet(path, device=run.command.device, dtype=torch.float32)
    return {
        "embedded": followed(run, embedded, 1.0),
        "trained": followed(run, made, 1.0, given=lines),
        "without": followed(run, embedded, 0.0),
    }


def lines(pictures: Tensor) -> Tensor:
    """What `train controlnet` makes of pictures (B, 3, P, P) in -1..1: the same shape, in -1..1."""
    return (soft_edge(edge_map(pictures)) * 2.0 - 1.0).expand_as(pictures)


def model(run: Evaluation, path: Path) -> dict:
    made = run.pipeline(path.absolute())
    return {
        name: {"embedded": run.scored(run.base, captions), "trained": run.scored(made, captions)}
        for name, captions in run.sets.items()
        if name in ("names", "backgrounds")
    }


KINDS = {"lora": lora, "controlnet": controlnet, "model": model}


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--files", type=Path, required=True, help="folder of the embedded files")
    arguments.add_argument("--limit", type=int, default=64, help="captions of a set")
    for kind in KINDS:
        arguments.add_argument(f"--{kind}", type=Path, metavar="FILE")
    args = arguments.parse_args()
    run = Evaluation(command=from_arguments(args), files=args.files, limit=args.limit, seeds=(0,))
    report = {kind: measure(run, getattr(args, kind)) for kind, measure in KINDS.items() if getattr(args, kind)}
    json.dump(report, sys.stdout, indent=1)
    sys.stdout.write("\n")


if __name__ == "__main__":
    main()
