"""What Sprint, the ControlNet and the LoRAs are measured by."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from sana_core.lora import apply_lora, load_lora
from sana_core.pipeline import SanaPipeline

from .captions import with_article
from .concepts import load_names
from .evaluation import Evaluation
from .export import SPRINT, lora_file
from .pictures import edge_map
from .retrieval import BATCH, Gallery, describe, scores
from .scenes import Scene
from .stages import Pictured
from .train_lora import SUBJECT_NAME, lora_prompts, new_style, styled, subject, trained_on

LINE_REACH = 5  # window in which two lines count as one, in pixels


def sprint(run: Evaluation) -> dict:
    """Retrieval of names by Sprint in 1, 2 and 4 steps, beside the base model's."""
    names, made = run.sets["names"], run.pipeline(SPRINT)
    return {
        "base": run.scored(run.base, names),
        **{f"{steps} steps": run.scored(made, names, steps=steps) for steps in (1, 2, 4)},
    }


def controlnet(run: Evaluation) -> dict:
    """Overlap of the lines of the picture with the edge map that was given (F1), with control and without, and
    retrieval with it.

    The edge maps show the things small or at a side, of which the prompts say nothing.
    """
    made = run.pipeline(controlnet=True)
    return {name: followed(run, made, scale) for name, scale in (("controlled", 1.0), ("uncontrolled", 0.0))}


def followed(
    run: Evaluation, made: SanaPipeline, scale: float, given: Callable[[Tensor], Tensor] = edge_map
) -> dict[str, float]:
    """Overlap and retrieval by a pipeline with a ControlNet, at a scale.

    given: pictures (B, 3, P, P) in -1..1 -> what the ControlNet is shown, in -1..1. The overlap is always that of the
    lines of `edge_map`.
    """
    layouts, names = ("small", "left", "right"), run.sets["names"]
    wanted = [replace(caption.scene, layout=layouts[index % 3]) for index, caption in enumerate(names)]
    texts = [caption.text for caption in names]
    pictures = run.gallery.picture(wanted)
    lines, shown = edge_map(pictures), given(pictures)
    parts = [slice(start, start + BATCH) for start in range(0, len(texts), BATCH)]
    images = torch.cat([
        run.draw(made, texts[part], 0, control_image=(shown[part] + 1) / 2, control_scale=scale) for part in parts
    ])  # fmt: skip
    return {"overlap": line_overlap(edge_map(images), lines), **scores(run.gallery, images, wanted)}


def line_overlap(found: Tensor, wanted: Tensor) -> float:
    """F1 of lines, (B, 3, P, P) of -1 and 1: the share of each picture's lines that have one of the other's within
    reach.
    """

    def near(lines: Tensor) -> Tensor:
        return F.max_pool2d(lines, LINE_REACH, stride=1, padding=LINE_REACH // 2)

    a, b = ((lines[:, :1] > 0).float() for lines in (found, wanted))
    precision = (a * near(b)).sum(dim=(1, 2, 3)) / a.sum(dim=(1, 2, 3)).clamp(min=1)
    recall = (b * near(a)).sum(dim=(1, 2, 3)) / b.sum(dim=(1, 2, 3)).clamp(min=1)
    return (2 * precision * recall / (precision + recall).clamp(min=1e-6)).mean().item()


def lora(run: Evaluation) -> dict:
    """What each LoRA changes, at strength 1 and 0: how often a thing is nearer to its drawing in the new style than to
    those of its own styles; how often the subject is found among all things; and whether names that ask for neither are
    still found.
    """
    report: dict = {}
    for example, measure in (("style", style_shift), ("subject", subject_found)):
        if not (run.files / lora_file(example)).exists():
            continue
        for strength in (0.0, 1.0):
            made = run.pipeline()
            apply_lora(made.transformer, load_lora(run.files / lora_file(example)), strength)
            report[f"{example}, strength {strength:g}"] = {
                **measure(run, made),
                "names": run.scored(made, run.sets["names"]),
            }
            if strength == 0.0:
                texts = lora_prompts(run.command, example)
                report[f"{example}, strength 0"]["changes"] = not torch.equal(
                    run.draw(made, texts, 0), run.draw(run.base, texts, 0)
                )
    return report


def style_shift(run: Evaluation, made: SanaPipeline) -> dict[str, float]:
    """Shares of things drawn nearer to the new style than to their own, in latents; trained on them, and not."""
    size, scenes = run.command.size, run.scenes
    concepts, _, splits = load_names(run.command.work, size)
    concepts = styled(concepts, size)
    everything = Pictured(run.command, concepts, splits, (*size.styles, new_style(size)), [])
    gallery, seen = (
        Gallery(run.base.autoencoder, everything, size.pixels),
        {concept.index for concept in trained_on(concepts)},
    )
    report = {}
    for name, things in (
        ("trained", [c for c in concepts if c.index in seen]),
        ("untrained", [c for c in concepts if c.index not in seen]),
    ):
        things = things[: run.limit]
        images = run.draw(made, [f"{with_article(concept.name)}, monochrome" for concept in things], 0)
        found = describe(run.base.autoencoder, images)["latent"].flatten(1)
        distances = []
        for style in (0, len(scenes.styles)):
            wanted = [[Scene(concept=c.index, style=style, mirror=mirror) for c in things] for mirror in (False, True)]
            shown = [describe(run.base.autoencoder, gallery.picture(scenes))["latent"].flatten(1) for scenes in wanted]
            distances.append(torch.minimum(*((found - one).norm(dim=1) for one in shown)))
        report[f"nearer to the new style, {name} things"] = (distances[1] < distances[0]).float().mean().item()
    return report


def subject_found(run: Evaluation, made: SanaPipeline) -> dict[str, float]:
    """Top-1 of the new subject among all things and itself, 8 pictures."""
    concepts, _, splits = load_names(run.command.work, run.command.size)
    concepts = [*concepts, subject(run.command, len(concepts))]
    everything = Pictured(run.command, concepts, splits, run.command.size.styles, [])
    gallery = Gallery(run.base.autoencoder, everything, run.command.size.pixels)
    return scores(gallery, run.draw(made, [f"a {SUBJECT_NAME}"] * 8, 0), [Scene(concept=len(concepts) - 1)] * 8)
