"""Stages `lora_style` and `lora_subject`: two example LoRAs of the finished transformer.

    python -m tools.nano.train_lora WORK --size 256 --example style
    python -m tools.nano.train_lora WORK --size 256 --example subject

`style`: drawings without their colours, called for in words ("monochrome"), on every other thing. `subject`: one
drawing that the model has no name for, under an invented one. Half of the pictures are the model's own (prior
preservation, arXiv:2208.12242, sec. 3.2): what is not asked for stays. Continues from WORK/lora_style.pt
(WORK/lora_subject.pt).
"""

from __future__ import annotations

import random
from dataclasses import replace

from torch import Tensor

from sana_core.training.batches import load_batches, step_generator
from sana_core.training.flow import TIMESTEPS, flow_matching_loss
from sana_core.training.lora_layers import attach_lora

from .batches import CaptionBatches
from .captions import with_article
from .command import Command, from_arguments, parser
from .concepts import Concept, load_names
from .joint import CaptionBatch
from .latents import LatentBank
from .pictures import MONOCHROME
from .resolution import phase_at
from .scenes import SceneSource
from .sizes import Size
from .stages import (
    Pictured,
    draw,
    pipeline,
    save_samples,
    start,
    tokenizer,
    trained_autoencoder,
    trained_scenes,
    trained_text_to_latent,
)
from .text_losses import kept_states

EXAMPLES = ("style", "subject")
SUBJECT_NAME, SUBJECT_ZH = "zorble", "\u4f50\u5b9d"
OWN_SCENES = 512
KINDS = {"plain": 0.6, "background": 0.4}


def new_style(size: Size) -> str:
    return MONOCHROME + size.styles[0]


def styled(concepts: list[Concept], size: Size) -> list[Concept]:
    """The concepts with the new style added to theirs."""
    return [replace(concept, styles=(*concept.styles, new_style(size))) for concept in concepts]


def subject(command: Command, index: int) -> Concept:
    """The drawing without a name, named."""
    style, code = command.size.subject.split("/")
    emoji = "".join(chr(int(part, 16)) for part in code.split("-"))
    return Concept(
        index=index,
        name=SUBJECT_NAME,
        aliases=(),
        keywords=(),
        zh=SUBJECT_ZH,
        zh_aliases=(),
        zh_keywords=(),
        emoji=emoji,
        styles=(style,),
    )


def trained_on(concepts: list[Concept]) -> list[Concept]:
    """Every other concept; the rest show whether the style is more than these drawings."""
    return concepts[::2]


def lora_scenes(command: Command, example: str) -> Pictured:
    """The scenes of an example, and as many of the model's own."""
    size, rng = command.size, random.Random(command.seed)
    concepts, _, splits = load_names(command.work, size)
    bank = trained_scenes(command, concepts, splits)
    if example == "style":
        concepts, styles = styled(concepts, size), (*size.styles, new_style(size))
        source = SceneSource(trained_on(concepts), splits, (new_style(size),), KINDS, mirrored=size.mirrored)
        own = [replace(source.draw(rng), style=len(size.styles)) for _ in range(OWN_SCENES)]
    else:
        concepts, styles = [*concepts, subject(command, len(concepts))], size.styles
        source = SceneSource(concepts[-1:], splits, styles, KINDS, mirrored=size.mirrored)
        own = [source.draw(rng) for _ in range(OWN_SCENES)]
    return Pictured(command, concepts, splits, styles, own + rng.sample(bank, min(OWN_SCENES, len(bank))))


def run(command: Command, example: str) -> bool:
    """Train; returns whether it is finished."""
    name = f"lora_{example}"
    stage, base = command.size.stages[name], trained_text_to_latent(command)
    lora = attach_lora(base.transformer, rank=command.size.lora_rank, seed=command.seed).to(command.device)
    training = start(command, name, lora)
    steps, scenes, autoencoder = training.settings.steps, lora_scenes(command, example), trained_autoencoder(command)
    latents = LatentBank(autoencoder, scenes.drawings, scenes.placed(), command)
    batches = CaptionBatches(scenes.captions, scenes.bank, tokenizer(command), stage, steps, command.seed)

    def losses(batch: CaptionBatch, step: int) -> dict[str, Tensor]:
        tokens = batch.tokens.to(command.device)
        x0 = latents(batch.pictures.to(command.device), phase_at(stage.phases, step, steps).pixels)
        generator = step_generator(command.seed + 41, step, command.device)
        with command.autocast():
            states = kept_states(base.text(tokens.ids), tokens)

            def velocity(x: Tensor, time: Tensor) -> Tensor:
                return base.transformer(x, time * TIMESTEPS, states, tokens.mask)

            return {"flow": flow_matching_loss(velocity, x0, generator, shift=command.size.training_shift)}

    def report(step: int) -> dict[str, float]:
        prompts = lora_prompts(command, example)
        made = pipeline(command, base.transformer, base.text, autoencoder)
        save_samples(command, f"{name}_{step}", [draw(command, made, prompts)], prompts)
        return {}

    return training.run(load_batches(batches, training.state.step, steps, workers=command.workers), losses, report)


def lora_prompts(command: Command, example: str) -> list[str]:
    """Prompts that show what a LoRA does: things of the style that it was not trained on, or the subject."""
    if example == "subject":
        return [f"a {SUBJECT_NAME}", f"a {SUBJECT_NAME} on a blue background", SUBJECT_ZH]
    concepts, _, _ = load_names(command.work, command.size)
    return [f"{with_article(concept.name)}, monochrome" for concept in concepts[1::2][:10]]


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--example", choices=EXAMPLES, required=True)
    args = arguments.parse_args()
    run(from_arguments(args), args.example)


if __name__ == "__main__":
    main()
