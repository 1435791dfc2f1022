"""Stage 3: train the DC-AE, then (with --decoder-only) its decoder alone, against the latents that the first run fixed.

    python tools/nano/train_autoencoder.py WORK --minutes 25
    python tools/nano/train_autoencoder.py WORK --minutes 40 --decoder-only

Both resume from WORK/autoencoder.pt (WORK/decoder.pt). Interrupting loses at most a minute.
"""

from __future__ import annotations

import argparse
import logging
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from optimizer import Muon, schedule, set_rate, split
from pictures import compose, load_drawings, place
from sizes import AUTOENCODER, LATENT_STD
from torch import Tensor
from workers import agree, average_gradients, launch, start_worker

from sana_core.dcae.autoencoder import DCAE

log = logging.getLogger("nano")
BATCH = 8
CORE_SHARE = 0.8  # of the batch: drawings of the concepts; the rest are the other drawings


class Drawings:
    """Random pictures: half on white, the others on any colour; a quarter of them resized, moved; half of them mirrored."""

    def __init__(self, path: Path) -> None:
        self.concepts, self.others = load_drawings(path, "concepts"), load_drawings(path, "others")
        self.generator = torch.Generator()

    def uniform(self, *shape: int) -> Tensor:
        return torch.rand(*shape, generator=self.generator)

    def batch(self, size: int) -> Tensor:
        core = round(size * CORE_SHARE)
        picks = [(self.concepts, core), (self.others, size - core)]
        drawings = torch.cat([pool[(self.uniform(count) * len(pool)).long()] for pool, count in picks])
        moved = (self.uniform(size) < 0.25).float()
        scale = 1 - moved * self.uniform(size) * 0.6
        shift = (self.uniform(size, 2) * 2 - 1) * (1 - scale)[:, None]
        colours = torch.where(self.uniform(size, 1) < 0.5, torch.ones(size, 3), self.uniform(size, 3))
        return compose(place(drawings, scale, shift, self.uniform(size) < 0.5), colours)


def picture_loss(output: Tensor, target: Tensor) -> Tensor:
    """L1 at three resolutions plus L1 of the differences between neighbours, which keeps edges sharp, plus squared error."""
    loss = 2 * F.mse_loss(output, target)
    for _ in range(3):
        error = output - target
        loss = loss + error.abs().mean() + (error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()) / 2
        output, target = F.avg_pool2d(output, 2), F.avg_pool2d(target, 2)
    return loss


def latent_penalty(latent: Tensor) -> Tensor:
    """Pulls every channel's mean to 0 and standard deviation to LATENT_STD, so that the published scale factor fits."""
    unit = latent.float() / LATENT_STD
    return unit.mean(dim=(0, 2, 3)).square().mean() + (unit.square().mean(dim=(0, 2, 3)) + 1e-4).log().square().mean()


def training_step(model: DCAE, images: Tensor, generator: torch.Generator, decoder_only: bool) -> tuple[Tensor, Tensor]:
    """(loss, reconstruction). The decoder sees latents with noise of up to a third of their own size."""
    with torch.autocast("cpu", torch.bfloat16), torch.set_grad_enabled(not decoder_only):
        latent = model.encoder(images)
    strength = torch.rand(len(images), 1, 1, 1, generator=generator) * 0.33 * LATENT_STD
    noisy = latent + strength * torch.randn(latent.shape, generator=generator)
    with torch.autocast("cpu", torch.bfloat16):
        output = model.decoder(noisy).float()
    loss = picture_loss(output, images)
    return (loss if decoder_only else loss + 0.05 * latent_penalty(latent)), output


def build_optimizers(model: DCAE, decoder_only: bool) -> list[torch.optim.Optimizer]:
    trained = model.decoder if decoder_only else model
    matrices, rest = split(trained.named_parameters(), plain=("conv_depth", "proj_in"))
    return [Muon(matrices, lr=4e-3 if not decoder_only else 3e-3), torch.optim.AdamW(rest, lr=1.5e-3, betas=(0.9, 0.98), weight_decay=0.0)]


@torch.no_grad()
def psnr(model: DCAE, images: Tensor) -> tuple[float, float]:
    """(dB of the reconstructions over 0..1, standard deviation of the raw latents), float32."""
    latent = model.encoder(images)
    error = (model.decoder(latent).clamp(-1, 1) - images).square().mean(dim=(1, 2, 3)) / 4
    return (-10 * error.log10()).mean().item(), latent.std().item()


def on_white(drawings: Tensor) -> Tensor:
    return compose(drawings, torch.ones(len(drawings), 3))


class Run:
    """One worker of the training; saved and resumed exactly, since all randomness comes from the step."""

    def __init__(self, args: argparse.Namespace, rank: int) -> None:
        self.args, self.rank = args, rank
        torch.manual_seed(0)
        self.model = DCAE(AUTOENCODER)
        self.checkpoint = args.work / ("decoder.pt" if args.decoder_only else "autoencoder.pt")
        if args.decoder_only and not self.checkpoint.exists():
            self.model.load_state_dict(torch.load(args.work / "autoencoder.pt")["model"])
        self.model.to(memory_format=torch.channels_last)
        self.model.encoder.requires_grad_(not args.decoder_only)
        self.optimizers = build_optimizers(self.model, args.decoder_only)
        self.data = Drawings(args.work / "images.npz")
        self.step, self.elapsed = 0, 0.0
        if self.checkpoint.exists():
            self.resume()

    def resume(self) -> None:
        state = torch.load(self.checkpoint)
        self.model.load_state_dict(state["model"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"]):
            optimizer.load_state_dict(saved)
        self.step, self.elapsed = state["step"], state["elapsed"]

    def save(self) -> None:
        states = [optimizer.state_dict() for optimizer in self.optimizers]
        temporary = self.checkpoint.with_suffix(".tmp")
        torch.save({"model": self.model.state_dict(), "optimizers": states, "step": self.step, "elapsed": self.elapsed}, temporary)
        temporary.rename(self.checkpoint)

    def train_step(self, progress: float) -> float:
        """One step on this worker's part of the batch -> its loss."""
        generator = self.data.generator.manual_seed(1_000_003 * self.step + 7 * self.rank + self.args.decoder_only)
        set_rate(self.optimizers, schedule(progress))
        images = self.data.batch(BATCH).to(memory_format=torch.channels_last)
        loss, _ = training_step(self.model, images, generator, self.args.decoder_only)
        loss.backward()
        average_gradients(self.model.parameters())
        torch.nn.utils.clip_grad_norm_([p for group in self.optimizers[1].param_groups for p in group["params"]], 1.0)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad()
        self.step += 1
        return loss.item()

    def report(self) -> None:
        """Reconstruction of an eighth of the concepts and of the drawings that are never trained, on white."""
        path = self.args.work / "images.npz"
        (trained, std), (held, _) = (psnr(self.model, on_white(x)) for x in (self.data.concepts[::8], load_drawings(path, "held_out")))
        log.info("step %d  %.1f min  PSNR train %.2f  held out %.2f  latent std %.2f", self.step, self.elapsed / 60, trained, held, std)


def train(rank: int, args: argparse.Namespace) -> None:
    start_worker(rank, args.workers, args.work / "rendezvous-autoencoder")
    run = Run(args, rank)
    budget, losses, last_save = args.minutes * 60, [], time.monotonic()
    while run.elapsed < budget:
        started = time.monotonic()
        losses.append(run.train_step(run.elapsed / budget))
        run.elapsed = agree(run.elapsed + time.monotonic() - started)
        if rank == 0 and run.step % 50 == 0:
            log.info("step %d  %.1f min  loss %.4f", run.step, run.elapsed / 60, sum(losses) / len(losses))
            losses.clear()
        if rank == 0 and time.monotonic() - last_save > 60:
            run.report()
            run.save()
            last_save = time.monotonic()
    if rank == 0:
        run.report()
        run.save()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("--minutes", type=float, required=True)
    parser.add_argument("--decoder-only", action="store_true")
    parser.add_argument("--workers", type=int, default=2, help="processes of one thread each")
    args = parser.parse_args()
    launch(train, args)


if __name__ == "__main__":
    main()
