"""Stage `text`: the Gemma-2 text encoder learns to read captions: which thing, style, colour and place each names, and
its next tokens.

    python -m tools.nano.train_text WORK --size 256

Needs the stage tokenizer and no pictures; continues from WORK/text.pt. The stage transformer begins with its weights
and trains them on.
"""

from __future__ import annotations

from torch import Tensor

from sana_core.training.batches import load_batches

from .batches import CaptionBatches
from .command import Command, parse
from .joint import CaptionBatch
from .stages import new_caption_reader, pictured, start, tokenizer

WEIGHTS = {"attribute": 1.0, "language": 0.2}


def run(command: Command) -> bool:
    """Train; returns whether it is finished."""
    stage, model = command.size.stages["text"], new_caption_reader(command).to(command.device)
    training = start(command, "text", model, weights=WEIGHTS)
    steps, scenes = training.settings.steps, pictured(command)
    batches = CaptionBatches(scenes.captions, scenes.bank, tokenizer(command), stage, steps, command.seed + 1)

    def losses(batch: CaptionBatch, step: int) -> dict[str, Tensor]:
        with command.autocast():
            return model.read(batch.to(command.device))[1]

    return training.run(load_batches(batches, training.state.step, steps, workers=command.workers), losses)


def main() -> None:
    run(parse(__doc__))


if __name__ == "__main__":
    main()
