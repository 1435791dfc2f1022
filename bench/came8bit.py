"""CAME in 8 bits beside CAME in 32, on the embedded model: `python bench/came8bit.py [--steps 500]`.

Both train all weights of the embedded transformer from one random beginning, with the same pictures, noise and times at
each step. The pictures are those that the model draws itself, one for each prompt, and encoded again. Prints both loss
curves, the ratio of their means over the last steps, and the bytes of the first moments. Exits with 1 if the means
differ by more than 2 %, or if the moments in 8 bits take more than 0.35 of those in 32.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from itertools import product
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from sana_core.pipeline import load_pipeline
from sana_core.pipeline.pipeline import SanaPipeline
from sana_core.training.batches import step_generator
from sana_core.training.flow import logit_normal_times
from sana_core.training.networks import initial_transformer
from sana_core.training.objective import FlowBatch, FlowObjective
from sana_core.training.optimizers import build_optimizer
from sana_core.training.schedule import rate_factor, set_rate

NAMES = ("came", "came8bit")
THINGS = ("a red apple", "a cat", "a rocket", "a sunflower", "a penguin", "a car", "a house", "a bicycle")
PLACES = ("", " on a blue background", " on a green background", " on the left")
MOMENTS = ("exp_avg", "exp_avg_codes", "exp_avg_scales")
SHIFT, CLIP = 2.5, 1.0
LAST, EVERY = 100, 50  # steps whose losses are compared; steps of a line
NEAR, SMALL = 0.02, 0.35


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=500, help="(default: %(default)s)")
    parser.add_argument("--batch", type=int, default=4, help="(default: %(default)s)")
    parser.add_argument("--rate", type=float, default=3e-4, help="learning rate (default: %(default)s)")
    parser.add_argument("--warmup", type=int, default=50, help="steps in which it rises (default: %(default)s)")
    args = parser.parse_args(argv)
    pipeline = load_pipeline("nano", device="cpu", fast="off")
    pictures = encoded_pictures(pipeline)
    curves, sizes = {}, {}
    for name in NAMES:
        curves[name], sizes[name] = train(name, pipeline, pictures, args)
    return tell(curves, sizes)


@torch.no_grad()
def encoded_pictures(pipeline: SanaPipeline) -> FlowBatch:
    """The pictures with their captions; noise and times are drawn at each step."""
    prompts = [thing + place for thing, place in product(THINGS, PLACES)]
    drawn = torch.cat([pipeline(prompt, seed=number, output="tensor") for number, prompt in enumerate(prompts)])
    latents = pipeline.autoencoder.encode(drawn * 2 - 1).float()
    states, mask = pipeline.text_encoder.encode(prompts)
    ones = torch.ones(len(prompts))
    return FlowBatch(
        latents=latents, noise=latents, time=ones, states=states.float().clone(), mask=mask.clone(), weights=ones
    )


def train(name: str, pipeline: SanaPipeline, pictures: FlowBatch, args: argparse.Namespace) -> tuple[list[float], int]:
    """The loss of every step, and the bytes of the first moments at the end."""
    objective = FlowObjective(initial_transformer(pipeline.transformer.config, seed=0))
    trained = list(objective.parameters())
    optimizer = build_optimizer(name, trained, rate=args.rate)
    losses = []
    for step in range(args.steps):
        loss = objective(drawn_batch(pictures, step, args.batch))
        loss.backward()
        set_rate([optimizer], rate_factor(step, args.steps, warmup=args.warmup, decay=0.0))
        torch.nn.utils.clip_grad_norm_(trained, CLIP)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        if (step + 1) % EVERY == 0:
            sys.stderr.write(f"{name} {step + 1}: {losses[-1]:.4f}\n")
    states = optimizer.state.values()
    return losses, sum(state[key].nbytes for state in states for key in MOMENTS if key in state)


def drawn_batch(pictures: FlowBatch, step: int, count: int) -> FlowBatch:
    generator = step_generator(0, step)
    rows = torch.randint(len(pictures.latents), (count,), generator=generator)
    latents = pictures.latents[rows]
    return FlowBatch(
        latents=latents,
        noise=torch.randn(latents.shape, generator=generator),
        time=logit_normal_times(count, generator, shift=SHIFT),
        states=pictures.states[rows],
        mask=pictures.mask[rows],
        weights=pictures.weights[rows],
    )


def tell(curves: dict[str, list[float]], sizes: dict[str, int]) -> int:
    """Print what was found. Returns 1 if a limit is missed."""
    say = sys.stdout.write
    say("| steps | came | came8bit | ratio |\n| --- | --- | --- | --- |\n")
    pairs = torch.tensor([curves[name] for name in NAMES], dtype=torch.float64)
    for begin, part in zip(range(0, pairs.shape[1], EVERY), pairs.split(EVERY, dim=1)):
        whole, coded = part.mean(dim=1).tolist()
        say(f"| {begin + 1} to {begin + part.shape[1]} | {whole:.4f} | {coded:.4f} | {coded / whole:.4f} |\n")
    whole, coded = pairs[:, -LAST:].mean(dim=1).tolist()
    loss, size = coded / whole, sizes["came8bit"] / sizes["came"]
    say(f"\nmean loss of the last {min(LAST, pairs.shape[1])} steps: {whole:.4f}, {coded:.4f}; ratio {loss:.4f}\n")
    say(f"bytes of first moments: {sizes['came']}, {sizes['came8bit']}; ratio {size:.4f}\n")
    missed = abs(loss - 1) > NEAR or size > SMALL
    say("A limit is missed.\n" if missed else "Both limits hold.\n")
    return int(missed)


if __name__ == "__main__":
    raise SystemExit(main())
