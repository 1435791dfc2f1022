"""Stage `sprint`: the trained transformer distilled into the Sprint architecture, which draws in one to four steps.

    python -m tools.nano.train_sprint WORK --size 256

Needs the stage transformer; the objective is in tools/nano/consistency.py. Continues from WORK/sprint.pt.
"""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from sana_core.config import SamplingDefaults
from sana_core.text.instruction import prompt_tokens
from sana_core.training.batches import load_batches, step_generator
from sana_core.training.flow import TIMESTEPS
from sana_core.transformer.model import SanaTransformer

from .batches import CaptionBatches
from .command import Command, parse
from .consistency import GuidedVelocity, consistency_loss, guidance_distillation_loss, guided
from .initial import KIT
from .joint import CaptionBatch, TextToLatent
from .latents import LatentBank
from .resolution import phase_at
from .sprint_student import sprint_student
from .stages import (
    averaged,
    draw,
    pictured,
    pipeline,
    sample_prompts,
    save_samples,
    start,
    tokenizer,
    trained_autoencoder,
    trained_text_to_latent,
)
from .text_losses import kept_states, token_batch

GUIDANCE_SHARE = 0.3  # of the steps: learn the guided velocity; the others: jump


def sprint_sampling(base: SamplingDefaults) -> SamplingDefaults:
    return replace(base, steps=2, guidance_scale=3.0, shift=1.0, sampler="scm")


def student_velocity(student: SanaTransformer, states: Tensor, mask: Tensor) -> GuidedVelocity:
    def velocity(x: Tensor, time: Tensor, scale: Tensor) -> Tensor:
        return student(x, time * TIMESTEPS, states, mask, guidance=scale)

    return velocity


def teacher_velocity(teacher: TextToLatent, states: Tensor, mask: Tensor, empty: Tensor) -> GuidedVelocity:
    """empty: (1, 1, C), the states of the empty prompt."""
    unconditional = empty.expand(len(states), -1, -1)
    return guided(
        lambda x, time: teacher.transformer(x, time * TIMESTEPS, states, mask),
        lambda x, time: teacher.transformer(x, time * TIMESTEPS, unconditional),
    )


def run(command: Command) -> bool:
    """Train; returns whether it is finished."""
    stage, teacher = command.size.stages["sprint"], trained_text_to_latent(command)
    steps, scenes, autoencoder = command.steps_of(stage), pictured(command), trained_autoencoder(command)
    latents = LatentBank(autoencoder, scenes.drawings, scenes.placed(), command)
    batches = CaptionBatches(scenes.captions, scenes.bank, tokenizer(command), stage, steps, command.seed)
    empty = teacher.text(token_batch([prompt_tokens(tokenizer(command), "")]).to(command.device).ids)
    first, shift = round(GUIDANCE_SHARE * steps), command.size.training_shift

    def pictures(batch: CaptionBatch, step: int) -> Tensor:
        return latents(batch.pictures.to(command.device), phase_at(stage.phases, step, steps).pixels)

    def run_teacher() -> None:
        """As it was trained, on the first batch."""
        batch, generator = batches(0).to(command.device), step_generator(command.seed + 22, 0, command.device)
        with command.autocast():
            teacher.losses(batch, pictures(batch, 0), generator, repeats=1, shift=shift)

    student = sprint_student(teacher.transformer, command.seed, run_teacher, KIT)
    training = start(command, "sprint", student, report_every=500)

    def losses(batch: CaptionBatch, step: int) -> dict[str, Tensor]:
        tokens, x0 = batch.tokens.to(command.device), pictures(batch, step)
        generator = step_generator(command.seed + 21, step, command.device)
        with command.autocast():
            states = kept_states(teacher.text(tokens.ids), tokens)
            velocities = (
                student_velocity(student, states, tokens.mask),
                teacher_velocity(teacher, states, tokens.mask, empty),
            )
            if step < first:
                return {"guidance": guidance_distillation_loss(*velocities, x0, generator, shift=shift)}
            progress = (step - first) / (steps - first)
            return {"consistency": consistency_loss(*velocities, x0, generator, shift=shift, progress=progress)}

    def report(step: int) -> dict[str, float]:
        prompts = sample_prompts(command)
        made = pipeline(command, student, teacher.text, autoencoder, sprint_sampling(command.size.sampling))
        with averaged(training):
            drawn = [draw(command, made, prompts, steps=count) for count in (1, 2, 4)]
        save_samples(command, f"sprint_{step}", drawn, prompts)
        return {}

    return training.run(load_batches(batches, training.state.step, steps, workers=command.workers), losses, report)


def main() -> None:
    run(parse(__doc__))


if __name__ == "__main__":
    main()
