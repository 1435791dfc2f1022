"""A training of a tiny transformer, as a program: alone, or started by torchrun on several processes.

    python run_tiny.py FOLDER [--shard] [--kill STEP] [--kind model|lora|controlnet] [--optimizer NAME]

Writes FOLDER/out.safetensors. --kill: SIGKILL in the middle of that step. It computes in float64: optimizers divide
gradients by their size, so that rounding in float32 would decide about those that are zero but for it.
"""

import argparse
import os
import signal
from pathlib import Path

import torch
from tiny import transformer as tiny_transformer

from sana_core.config import SamplingDefaults
from sana_core.training.batches import step_generator
from sana_core.training.objective import FlowBatch
from sana_core.training.processes import find_processes
from sana_core.training.run import train
from sana_core.training.settings import TrainSettings
from sana_core.training.trainees import ControlTrainee, LoraTrainee, ModelTrainee

STEPS, BATCH = 6, 4


def batch_of(network, killed_at=None):
    channels = network.config.caption_channels

    def make(step):
        if step == killed_at:
            os.kill(os.getpid(), signal.SIGKILL)
        generator = step_generator(3, step)
        draw = lambda *shape: torch.randn(BATCH, *shape, generator=generator, dtype=torch.float64)  # noqa: E731
        return FlowBatch(
            latents=draw(32, 4, 4), noise=draw(32, 4, 4), time=draw().sigmoid(), states=draw(5, channels),
            mask=torch.ones(BATCH, 5, dtype=torch.bool), weights=torch.ones(BATCH, dtype=torch.float64),
            control=draw(32, 4, 4),
        )  # fmt: skip

    return make


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--shard", action="store_true")
    parser.add_argument("--kill", type=int)
    parser.add_argument("--kind", default="model")
    parser.add_argument("--optimizer", default="adamw")
    args = parser.parse_args()
    torch.set_num_threads(1)
    processes = find_processes("cpu", shard=args.shard)
    network = tiny_transformer().double()
    trainee = {
        "model": lambda: ModelTrainee(network, SamplingDefaults(), dtype=torch.float64),
        "lora": lambda: LoraTrainee(network, rank=4),
        "controlnet": lambda: ControlTrainee(network, depth=1, dtype=torch.float64),
    }[args.kind]()
    trainee.trained.double()
    settings = TrainSettings(
        steps=STEPS, batch=BATCH, at_once=1, rate=1e-3, optimizer=args.optimizer, average=0.9, clip=0.1,
        log_every=2, sample_every=0, save_seconds=0.0, shard=args.shard,
    )  # fmt: skip
    train(
        trainee, batch_of(network, args.kill), settings, args.folder, args.folder / "out.safetensors",
        processes=processes, recipe={}, notes={}, overwrite=True,
    )  # fmt: skip
    processes.end()


if __name__ == "__main__":
    main()
