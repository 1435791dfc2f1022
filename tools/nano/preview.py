"""Fit the colours of the embedded model's previews: `python -m tools.nano.preview`, some minutes on a CPU.

Draws the prompts of prompts.txt and writes sana_core/nano/preview.safetensors. Then it draws other seeds, and tells how
the previews of unfinished pictures resemble the finished ones.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from sana_core import load_pipeline
from sana_core.pictures.preview import PreviewFit, PreviewMap
from sana_core.sources import NANO_PREVIEW

PROMPTS = Path(__file__).parent / "prompts.txt"
STEPS = 20
SEEN = (0.25, 0.4, 0.6, 0.8, 1.0)  # shares of the steps


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pictures", type=int, default=300, help="to fit to (default: %(default)s)")
    parser.add_argument("--judged", type=int, default=50, help="to judge by (default: %(default)s)")
    args = parser.parse_args(argv)
    prompts = [line.strip() for line in PROMPTS.read_text(encoding="utf-8").splitlines() if line.strip()]
    pipeline = load_pipeline("nano")

    def drawn(number: int, seed: int) -> tuple[Tensor, Tensor, list[Tensor]]:
        seen: list[Tensor] = []
        latent = pipeline(
            prompts[number % len(prompts)],
            seed=seed,
            steps=STEPS,
            output="latent",
            callback=lambda step, sigma, x, predicted: seen.append(predicted.float()),
        )
        return latent, pipeline.decode(latent, pil=False) * 2 - 1, seen

    fit = PreviewFit()
    for number in range(args.pictures):
        latent, image, _ = drawn(number, number)
        fit.add(latent, image)
    found = fit.map()
    assert found is not None
    found = PreviewMap(found.weight.half().float())
    save_file({"weight": found.weight.half().contiguous()}, NANO_PREVIEW)
    rows = []
    for number in range(args.judged):
        _, image, seen = drawn(number * 7, 10_000 + number)
        rows.append([likeness(found.picture(seen[round(share * STEPS) - 1]), image) for share in SEEN])
    table = torch.tensor(rows)
    for share, column in zip(SEEN, table.T):
        mean, worst = float(column.mean()), float(column.min())
        sys.stdout.write(f"after {share:.0%} of the steps: correlation {mean:.3f}, worst {worst:.3f}\n")
    return 0


def likeness(preview: Tensor, image: Tensor) -> float:
    """Correlation of a preview with the picture at its size."""
    a, b = (x.flatten() - x.mean() for x in (preview, F.adaptive_avg_pool2d(image, preview.shape[-2:])))
    return float((a @ b) / (a.norm() * b.norm()))


if __name__ == "__main__":
    raise SystemExit(main())
