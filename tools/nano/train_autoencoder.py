"""Stages `autoencoder` and `decoder`: the DC-AE, then its decoder alone against the latents that the first one fixed.

    python -m tools.nano.train_autoencoder WORK --size 256
    python -m tools.nano.train_autoencoder WORK --size 256 --decoder-only

`--begin FILE`: with the weights of a finished autoencoder, as trained on smaller pictures, in place of random ones.
Each continues from WORK/autoencoder.pt (WORK/decoder.pt). The decoder can be trained while the transformer is: latents
no longer change.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from sana_core.checkpoint.load import load_autoencoder
from sana_core.training.batches import load_batches, step_generator
from sana_core.training.state import read_state

from .autoencoder_losses import LATENT_STD, autoencoder_losses, psnr, reconstruct
from .command import Command, from_arguments, parser
from .concepts import load_names
from .initial import initial_autoencoder
from .pictures import LINE_WIDTHS, Drawings, Placed, drawing_keys, edge_map, render
from .resolution import phase_at
from .stages import save_samples, start

NAMED_SHARE = 0.7  # of the things: with a name, the others are only here
PAIRED, MOVED, RECOLOURED, EDGES = 0.15, 0.4, 0.15, 0.08  # shares of the pictures
SHOWN = 20  # pictures in a report


class Pool:
    """Random pictures of all drawings that may be trained, at random sizes and places on white or any colour."""

    def __init__(self, command: Command) -> None:
        concepts, others, splits = load_names(command.work, command.size)
        named, others = drawing_keys(concepts), [key for key in others if key not in splits.drawings]
        self.held_out = sorted(splits.drawings)
        self.named, self.trained = len(named), len(named) + len(others)
        self.drawings = Drawings(command.work / "drawings.zip", [*named, *others, *self.held_out], command.device)

    def batch(self, count: int, pixels: int, generator: torch.Generator) -> Tensor:
        """(count, 3, pixels, pixels) in -1..1, the same for the same generator."""

        def uniform(*shape: int) -> Tensor:
            return torch.rand(*shape, generator=generator, device=generator.device)

        kind = uniform(count)
        paired, moved = kind < PAIRED, (kind >= PAIRED) & (kind < PAIRED + MOVED)
        numbers = torch.where(
            uniform(count, 2) < NAMED_SHARE,
            uniform(count, 2) * self.named,
            self.named + uniform(count, 2) * self.others,
        )
        numbers = numbers.long().clamp(max=self.trained - 1)
        numbers[:, 1] = torch.where(paired, numbers[:, 1], -1)
        scale = torch.where(
            moved, 0.35 + 1.15 * uniform(count), torch.where(paired, 0.5, 1.0)
        )  # above 1: a part of the drawing
        shift = torch.where(moved[:, None], (uniform(count, 2) * 2 - 1) * (1 - scale).abs()[:, None], 0.0)
        first = torch.where(paired[:, None], torch.tensor([-0.48, 0.0], device=shift.device), shift)
        white = uniform(count, 1) < 0.4
        images = render(
            self.drawings,
            Placed(
                numbers=numbers,
                scale=scale[:, None].expand(-1, 2),
                shift=torch.stack([first, -first], dim=1),
                mirror=uniform(count) < 0.5,
                colour=torch.where(white, torch.ones(count, 3, device=shift.device), uniform(count, 3)),
            ),
            pixels,
        )
        recoloured, drawn = uniform(count) < RECOLOURED, uniform(count) < EDGES
        images = torch.where(
            recoloured[:, None, None, None], images.roll(1, dims=1), images
        )  # red to green, green to blue: other colours
        width = LINE_WIDTHS[int(uniform(1).item() * len(LINE_WIDTHS))]
        return torch.where(drawn[:, None, None, None], edge_map(images, width), images)

    @property
    def others(self) -> int:
        return self.trained - self.named

    def plain(self, numbers: Tensor, pixels: int) -> Tensor:
        """Drawings alone on white."""
        numbers = torch.stack([numbers, torch.full_like(numbers, -1)], dim=1).to(self.drawings.rgba.device)
        count, device = len(numbers), self.drawings.rgba.device
        return render(
            self.drawings,
            Placed(
                numbers=numbers,
                scale=torch.ones(count, 2, device=device),
                shift=torch.zeros(count, 2, 2, device=device),
                mirror=torch.zeros(count, dtype=torch.bool, device=device),
                colour=torch.ones(count, 3, device=device),
            ),
            pixels,
        )

    def trained_sample(self, pixels: int, count: int) -> Tensor:
        """Every so-many-th of the named drawings."""
        return self.plain(torch.arange(0, self.named, max(1, self.named // count))[:count], pixels)

    def held_out_sample(self, pixels: int) -> Tensor:
        return self.plain(torch.arange(self.trained, len(self.drawings)), pixels)


def run(command: Command, *, decoder_only: bool = False) -> bool:
    """Train; returns whether it is finished."""
    name = "decoder" if decoder_only else "autoencoder"
    model = initial_autoencoder(command.size.autoencoder, command.seed)
    if command.begin:
        model.load_state_dict(load_autoencoder(command.begin, dtype=torch.float32).state_dict())
    if decoder_only:
        model.load_state_dict(read_state(command.work / "autoencoder.pt")["model"])
        model.encoder.requires_grad_(False)
    model.to(command.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    training, pool = start(command, name, model, weights={"latent": 0.05}, report_every=500), Pool(command)
    stage, steps, compute = command.size.stages[name], training.settings.steps, command.compiled(autoencoder_losses)

    def losses(_: int, step: int) -> dict[str, Tensor]:
        generator = step_generator(command.seed + 1 + decoder_only, step, command.device)
        phase = phase_at(stage.phases, step, steps)
        images = pool.batch(phase.batch, phase.pixels, generator).contiguous(memory_format=torch.channels_last)
        with command.autocast():
            return compute(model, images, generator, decoder_only=decoder_only)

    def report(step: int) -> dict[str, float]:
        trained, held_out = pool.trained_sample(command.size.pixels, 64), pool.held_out_sample(command.size.pixels)
        found, unseen = reconstruct(model, trained), reconstruct(model, held_out)
        shown = [torch.cat([trained[:SHOWN], held_out[:SHOWN]]), torch.cat([found[:SHOWN], unseen[:SHOWN]])]
        save_samples(command, f"{name}_{step}", shown, [])
        with torch.no_grad():
            std = model.encoder(trained).std().item() / LATENT_STD
        psnrs = {"psnr_trained": psnr(found, trained), "psnr_held_out": psnr(unseen, held_out)}
        return {name: values.mean().item() for name, values in psnrs.items()} | {"latent_std": std}

    return training.run(load_batches(int, training.state.step, steps), losses, report)


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--decoder-only", action="store_true")
    arguments.add_argument("--begin", type=Path, metavar="FILE", help="a finished autoencoder to begin with")
    args = arguments.parse_args()
    run(replace(from_arguments(args), begin=args.begin), decoder_only=args.decoder_only)


if __name__ == "__main__":
    main()
