"""Stage `controlnet`: a ControlNet of upstream's architecture that follows edge maps; the transformer does not change.

    python -m tools.nano.train_controlnet WORK --size 256

Needs the stage transformer; continues from WORK/controlnet.pt.
"""

from __future__ import annotations

import random

from torch import Tensor

from sana_core.training.batches import load_batches, step_generator
from sana_core.training.flow import TIMESTEPS, flow_matching_loss
from sana_core.training.networks import initial_controlnet
from sana_core.transformer.controlnet import ControlBranch

from .batches import CaptionBatches
from .command import Command, parse
from .concepts import load_names
from .initial import KIT
from .joint import CaptionBatch
from .latents import LatentBank
from .pictures import edge_map, render
from .resolution import phase_at
from .scenes import Scene, SceneSource
from .stages import (
    Pictured,
    averaged,
    draw,
    pipeline,
    save_samples,
    start,
    tokenizer,
    trained_autoencoder,
    trained_text_to_latent,
)
from .text_losses import kept_states

SHOWN = 10
KINDS = {
    "plain": 0.3,
    "small": 0.3,
    "place": 0.4,
}  # no colours: lines say nothing of them, and a white thing was put on black
VAGUE = 0.5  # share of captions that leave place, size and background to the edge map


def controlled_scenes(command: Command) -> Pictured:
    """What the ControlNet is trained on."""
    size, rng = command.size, random.Random(command.seed)
    concepts, _, splits = load_names(command.work, size)
    source = SceneSource(concepts, splits, size.styles, KINDS, mirrored=size.mirrored)
    return Pictured(command, concepts, splits, size.styles, [source.draw(rng) for _ in range(size.controlled)])


def run(command: Command) -> bool:
    """Train; returns whether it is finished."""
    stage, base = command.size.stages["controlnet"], trained_text_to_latent(command)
    network = initial_controlnet(base.transformer, command.size.control_depth, KIT).to(command.device).train()
    training = start(command, "controlnet", network, report_every=500)
    steps, scenes, autoencoder = training.settings.steps, controlled_scenes(command), trained_autoencoder(command)
    latents = LatentBank(autoencoder, scenes.drawings, scenes.placed(), command)
    edges = LatentBank(autoencoder, scenes.drawings, scenes.placed(), command, edges=True)
    batches = CaptionBatches(scenes.captions, scenes.bank, tokenizer(command), stage, steps, command.seed, vague=VAGUE)

    def losses(batch: CaptionBatch, step: int) -> dict[str, Tensor]:
        tokens, pictures = batch.tokens.to(command.device), batch.pictures.to(command.device)
        pixels = phase_at(stage.phases, step, steps).pixels
        x0, control = latents(pictures, pixels), [ControlBranch(network, edges(pictures, pixels))]
        generator = step_generator(command.seed + 31, step, command.device)
        with command.autocast():
            states = kept_states(base.text(tokens.ids), tokens)

            def velocity(x: Tensor, time: Tensor) -> Tensor:
                return base.transformer(x, time * TIMESTEPS, states, tokens.mask, control=control)

            return {"flow": flow_matching_loss(velocity, x0, generator, shift=command.size.training_shift)}

    def report(step: int) -> dict[str, float]:
        made = pipeline(command, base.transformer, base.text, autoencoder)
        made.controlnet = network
        rows = [Scene(concept=concept.index, layout="left") for concept in scenes.concepts[:SHOWN]]
        lines = edge_map(render(scenes.drawings, scenes.placed(rows), command.size.pixels))
        names = [concept.name for concept in scenes.concepts[:SHOWN]]
        with averaged(training):
            drawn = draw(command, made, names, control_image=(lines + 1) / 2)
        save_samples(command, f"controlnet_{step}", [lines, drawn], names)
        return {}

    return training.run(load_batches(batches, training.state.step, steps, workers=command.workers), losses, report)


def main() -> None:
    run(parse(__doc__))


if __name__ == "__main__":
    main()
