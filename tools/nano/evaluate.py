"""Stage 6: measure the exported model through the pack's own pipeline, and draw the contact sheet.

    python tools/nano/evaluate.py WORK sheet          a contact sheet of prompts.txt, two seeds each
    python tools/nano/evaluate.py WORK measure        reconstruction, retrieval by caption split, agreement of the float types

Retrieval: the nearest of all concepts' pictures on the asked background, in latent space and in 16 x 16 pixels. The ceiling is the
reconstruction of the right picture, the floor an empty prompt.
"""

from __future__ import annotations

import argparse
import json
import logging
import random
import textwrap
from pathlib import Path

import torch
import torch.nn.functional as F
from captions import COLOURS, Caption, held_out, load_concepts, load_splits
from pictures import SMALL, compose, load_drawings, place
from PIL import Image, ImageDraw
from sizes import IMAGE_SIZE, ROOT
from torch import Tensor

from sana_core.dcae.autoencoder import DCAE
from sana_core.pipeline import SanaPipeline, load_pipeline

log = logging.getLogger("nano")
HERE = Path(__file__).parent
NANO = ROOT / "sana_core" / "nano"
BATCH = 64


def draw(pipeline: SanaPipeline, prompts: list[str], seed: int, **settings) -> Tensor:
    """Pictures in -1..1 (B, 3, 128, 128), drawn in parts of BATCH."""
    parts = [
        pipeline(prompts[start : start + BATCH], seed=seed + start, output="tensor", **settings) for start in range(0, len(prompts), BATCH)
    ]
    return torch.cat(parts) * 2 - 1


def sheet(pipeline: SanaPipeline, prompts: list[str], path: Path, seeds: tuple[int, ...] = (0, 1)) -> None:
    """Rows of pictures with the prompt below each; one line per seed."""
    columns, label, size = 10, 30, IMAGE_SIZE
    height = len(seeds) * size + label
    canvas = Image.new("RGB", (columns * size, -(-len(prompts) // columns) * height), "white")
    pen = ImageDraw.Draw(canvas)
    for line, seed in enumerate(seeds):
        for index, picture in enumerate(pipeline(prompts, seed=seed)):
            canvas.paste(picture, (index % columns * size, index // columns * height + line * size))
    for index, prompt in enumerate(prompts):
        words = textwrap.fill(ascii_label(prompt), 22, max_lines=2)
        pen.multiline_text((index % columns * size + 3, index // columns * height + len(seeds) * size + 2), words, fill="black", spacing=1)
    canvas.save(path, quality=88)


def ascii_label(prompt: str) -> str:
    """The built-in font has no Chinese and no emoji: show their code points."""
    return prompt if prompt.isascii() else " ".join(f"{ord(char):X}" for char in prompt)


class Gallery:
    """The pictures that captions ask for, as drawn, and their descriptions, each computed once."""

    def __init__(self, work: Path, autoencoder: DCAE) -> None:
        self.autoencoder = autoencoder
        self.descriptions: dict[tuple[str, bool, bool], dict[str, Tensor]] = {}
        self.drawings = load_drawings(work / "images.npz", "concepts")
        self.palette = {name: torch.tensor(colour["rgb"]) / 255 for name, colour in COLOURS.items()}

    def on(self, colour: str, small: bool = False, mirror: bool = False) -> Tensor:
        count = len(self.drawings)
        scale = torch.full((count,), SMALL if small else 1.0)
        placed = place(self.drawings, scale, torch.zeros(count, 2), torch.full((count,), mirror))
        return compose(placed, self.palette[colour].expand(count, 3))

    def described(self, colour: str, small: bool, mirror: bool) -> dict[str, Tensor]:
        key = (colour, small, mirror)
        if key not in self.descriptions:
            self.descriptions[key] = describe(self.autoencoder, self.on(*key))
        return self.descriptions[key]


@torch.no_grad()
def describe(autoencoder: DCAE, images: Tensor) -> dict[str, Tensor]:
    """Two descriptions of pictures to compare by distance: encoded latents and small pixels, each (N, D)."""
    latents = torch.cat([autoencoder.encode(part) for part in images.split(BATCH)])
    return {"latent": latents.flatten(1), "pixel": F.adaptive_avg_pool2d(images, 16).flatten(1)}


def retrieval(gallery: Gallery, images: Tensor, captions: list[Caption]) -> dict[str, tuple[float, float]]:
    """Share of pictures whose concept is the nearest (top-1) or among the five nearest (top-5), either way round."""
    hits: dict[str, list[Tensor]] = {"latent": [], "pixel": []}
    for colour, small in {(caption.colour, caption.small) for caption in captions}:
        chosen = [index for index, caption in enumerate(captions) if (caption.colour, caption.small) == (colour, small)]
        targets = torch.tensor([captions[index].concept for index in chosen])
        asked = [gallery.described(colour, small, mirror) for mirror in (False, True)]
        for name, found in describe(gallery.autoencoder, images[chosen]).items():
            distance = torch.minimum(*(torch.cdist(found, candidates[name]) for candidates in asked))
            rank = (distance < distance.gather(1, targets[:, None])).sum(dim=1)
            hits[name].append(rank)
    return {name: ((torch.cat(r) == 0).float().mean().item(), (torch.cat(r) < 5).float().mean().item()) for name, r in hits.items()}


@torch.no_grad()
def reconstruct(autoencoder: DCAE, images: Tensor) -> Tensor:
    return torch.cat([autoencoder.decode(autoencoder.encode(part)) for part in images.split(BATCH)]).clamp(-1, 1)


def psnr(found: Tensor, wanted: Tensor) -> float:
    """Mean over pictures in dB, for values in -1..1."""
    return (-10 * ((found - wanted).square().mean(dim=(1, 2, 3)) / 4).log10()).mean().item()


def reconstruction_report(work: Path, autoencoder: DCAE) -> dict[str, float]:
    report = {}
    for name in ("concepts", "others", "held_out"):
        drawings = load_drawings(work / "images.npz", name)
        images = compose(drawings, torch.ones(len(drawings), 3))
        report[f"PSNR {name}"] = psnr(reconstruct(autoencoder, images), images)
    return report


def agreement(prompts: list[str]) -> dict[str, float]:
    """Largest difference of pixels in 0..1 to float32, by the type the networks run in."""
    reference = draw(load_pipeline("nano", device="cpu", dtype=torch.float32), prompts, 0)
    others = {"bfloat16": torch.bfloat16, "float16": torch.float16}
    found = {name: draw(load_pipeline("nano", device="cpu", dtype=dtype), prompts, 0) for name, dtype in others.items()}
    return {name: (images - reference).abs().max().item() / 2 for name, images in found.items()} | {
        f"{name}, mean": (images - reference).abs().mean().item() / 2 for name, images in found.items()
    }


def measure(work: Path, pipeline: SanaPipeline, seeds: tuple[int, ...], limit: int) -> dict:
    """Everything the model card states, by name; `limit` captions of each split."""
    concepts, vae = load_concepts(work), pipeline.autoencoder
    gallery = Gallery(work, vae)
    report: dict = {"reconstruction": reconstruction_report(work, vae), "retrieval": {}}
    log.info("%s", report["reconstruction"])
    sets = held_out(concepts, load_splits())
    names = sets["names"]
    for name, captions in sets.items():
        captions = random.Random(1).sample(captions, min(limit, len(captions)))
        runs = [retrieval(gallery, draw(pipeline, [c.text for c in captions], seed), captions) for seed in seeds]
        report["retrieval"][name] = {"captions": len(captions), "runs": runs}
        log.info("%s (%d): %s", name, len(captions), runs)
    white = reconstruct(vae, gallery.on("white"))
    report["retrieval"]["ceiling: reconstructions"] = {"captions": len(names), "runs": [retrieval(gallery, white, names)]}
    empty = draw(pipeline, [""] * min(limit, len(names)), seeds[0])
    report["retrieval"]["floor: empty prompt"] = {"captions": len(empty), "runs": [retrieval(gallery, empty, names[: len(empty)])]}
    report["agreement"] = agreement((HERE / "prompts.txt").read_text(encoding="utf-8").splitlines())
    return report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("what", choices=("sheet", "measure"))
    parser.add_argument("--limit", type=int, default=254, help="captions of each split")
    parser.add_argument("--seeds", type=int, nargs="+", default=(0, 1))
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    pipeline = load_pipeline("nano", device="cpu")
    if args.what == "sheet":
        prompts = (HERE / "prompts.txt").read_text(encoding="utf-8").splitlines()
        sheet(pipeline, prompts, NANO / "contact_sheet.jpg")
    else:
        report = measure(args.work, pipeline, tuple(args.seeds), args.limit)
        (args.work / "report.json").write_text(json.dumps(report, indent=1))
        log.info(json.dumps({key: report[key] for key in ("reconstruction", "agreement")}, indent=1))


if __name__ == "__main__":
    main()
