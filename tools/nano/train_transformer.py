"""Stage `transformer`: the Linear DiT and the Gemma-2 text encoder together, on latents of the finished encoder.

    python -m tools.nano.train_transformer WORK --size 256

Needs the stages tokenizer, text and autoencoder; continues from WORK/transformer.pt.
"""

from __future__ import annotations

from torch import Tensor

from sana_core.training.batches import load_batches, step_generator
from sana_core.training.state import read_state

from .batches import CaptionBatches
from .command import Command, parse
from .joint import CaptionBatch
from .latents import LatentBank
from .resolution import phase_at
from .stages import (
    averaged,
    draw,
    new_text_to_latent,
    pictured,
    pipeline,
    sample_prompts,
    save_samples,
    start,
    tokenizer,
    trained_autoencoder,
)

WEIGHTS = {"flow": 1.0, "attribute": 0.1, "language": 0.02}


def run(command: Command) -> bool:
    """Train; returns whether it is finished."""
    size, stage = command.size, command.size.stages["transformer"]
    model = new_text_to_latent(command)
    model.load_state_dict(read_state(command.work / "text.pt")["model"], strict=False)
    model.to(command.device)
    training = start(command, "transformer", model, weights=WEIGHTS, report_every=1000)
    steps, scenes, autoencoder = training.settings.steps, pictured(command), trained_autoencoder(command)
    latents = LatentBank(autoencoder, scenes.drawings, scenes.placed(), command)
    batches = CaptionBatches(scenes.captions, scenes.bank, tokenizer(command), stage, steps, command.seed)

    def losses(batch: CaptionBatch, step: int) -> dict[str, Tensor]:
        batch, pixels = batch.to(command.device), phase_at(stage.phases, step, steps).pixels
        x0 = latents(batch.pictures, pixels)
        generator = step_generator(command.seed + 11, step, command.device)
        with command.autocast():
            return model.losses(batch, x0, generator, repeats=stage.repeats, shift=size.training_shift)

    def report(step: int) -> dict[str, float]:
        prompts = sample_prompts(command)
        made = pipeline(command, model.transformer, model.text, autoencoder)
        with averaged(training):
            save_samples(command, f"transformer_{step}", [draw(command, made, prompts)], prompts)
        return {}

    return training.run(load_batches(batches, training.state.step, steps, workers=command.workers), losses, report)


def main() -> None:
    run(parse(__doc__))


if __name__ == "__main__":
    main()
