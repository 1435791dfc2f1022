"""The command `train`: LoRAs, ControlNets and whole models, from a folder of pictures."""

from __future__ import annotations

import argparse
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import InputError
from ..interrupts import Ended
from ..sources import pipeline_files, released_sampling
from .arguments import Command
from .draw import chosen_source
from .output import say, say_json, tell
from .progress import bar
from .train_options import DEFAULTS, add_options

if TYPE_CHECKING:
    from ..config import SamplingDefaults
    from ..training.jobs import Job, MakeTrainee
    from ..training.processes import Processes
    from ..training.settings import TrainSettings
    from ..training.sources import TrainingFiles


def run(args: argparse.Namespace) -> int:
    """Check everything, train, write the file. Returns 0; 130 or 143 if Ctrl-C or SIGTERM ended it, after it was
    saved.
    """
    from ..training.planned import check_job  # its networks need a moment to import
    from ..training.processes import find_processes

    processes = find_processes(args.device, shard=bool(args.shard))
    job = make_job(args, processes)
    check_job(job, processes)
    code = (_plan if args.plan else _train)(job, args, processes)
    processes.end()  # after an error the others may never come here
    return code


def make_job(args: argparse.Namespace, processes: Processes) -> Job:
    """What the arguments ask for. Raises SanaError."""
    import torch

    from ..training.jobs import Job, Pictures
    from ..training.sources import TrainingFiles

    files = TrainingFiles(
        pipeline_files(chosen_source(args)),
        processes.device,
        variant=args.variant,
        trained_precision=args.trained_precision,
    )
    config = files.transformer(device="meta").config
    sampling, settings = released_sampling(files.files, config, args.variant), _settings(args, processes.count)
    make = {"lora": _lora, "controlnet": _controlnet, "model": _model}[args.kind](args, files, settings, sampling)
    own = {
        "lora": ("rank", "alpha", "targets", "dora", "prior_weight"),
        "controlnet": ("depth", "control_order", "layout", "lines"),
        "model": ("from_scratch",),
    }[args.kind]
    pictures: dict[str, Any] = {}
    if args.kind == "lora":
        pictures = {
            "prior_prompts": tuple(args.prior_prompts), "prior": _prior_folder(args),
            "prior_count": args.prior_count, "prior_weight": args.prior_weight,
        }  # fmt: skip
    elif args.kind == "controlnet":
        pictures = {"control": True, "conditions": args.conditions, "lines": args.lines}
    return Job(
        files=files,
        sampling=sampling,
        pictures=Pictures(
            path=args.data, caption=args.caption, prompts=tuple(getattr(args, "prompts", ())), **pictures
        ),
        settings=settings,
        target=args.out,
        folder=_folder(args),
        kind=args.kind,
        make=make,
        options={name: str(getattr(args, name)) for name in own},
        base_dtype=torch.float32 if args.kind == "model" else None,
        overwrite=args.overwrite,
    )


def _lora(
    args: argparse.Namespace, files: TrainingFiles, settings: TrainSettings, sampling: SamplingDefaults
) -> MakeTrainee:
    from ..presets import network_name
    from ..training.lora_file import load_trained
    from ..training.lora_layers import ATTENTION, ATTENTION_QKV, FEED_FORWARD
    from ..training.trainees import LoraTrainee

    targets = {"attention": ATTENTION, "qkv": ATTENTION_QKV, "all": (*ATTENTION, *FEED_FORWARD)}[args.targets]
    start = load_trained(args.continue_from) if args.continue_from else None
    return lambda transformer: LoraTrainee(
        transformer,
        rank=args.rank,
        alpha=args.alpha,
        targets=targets,
        dora=args.dora,
        seed=settings.seed,
        start=start,
        base=network_name(transformer.config),
        autocast=files.autocast,
        guidance=settings.guidance,
    )


def _controlnet(
    args: argparse.Namespace, files: TrainingFiles, settings: TrainSettings, sampling: SamplingDefaults
) -> MakeTrainee:
    from ..training.trainees import ControlTrainee

    return lambda transformer: ControlTrainee(
        transformer,
        depth=args.depth,
        order=args.control_order,
        layout=args.layout,
        autocast=files.autocast,
        guidance=settings.guidance,
    )


def _model(
    args: argparse.Namespace, files: TrainingFiles, settings: TrainSettings, sampling: SamplingDefaults
) -> MakeTrainee:
    from ..training.trainees import ModelTrainee

    return lambda transformer: ModelTrainee(
        transformer,
        sampling,
        from_scratch=args.from_scratch,
        seed=settings.seed,
        autocast=files.autocast,
        guidance=settings.guidance,
    )


def _settings(args: argparse.Namespace, processes: int) -> TrainSettings:
    """The options, before them those of --config, before them the defaults."""
    from ..training.settings import TrainSettings
    from ..training.settings_file import read_settings

    given = {field.name: getattr(args, field.name, None) for field in fields(TrainSettings)}
    stated = {} if args.config is None else read_settings(args.config, processes=processes)
    given = {name: value for name, value in given.items() if value is not None}
    settings = {**DEFAULTS[args.kind], **stated, **given}
    if "warmup" not in stated and "warmup" not in given:  # the default is that of a long training
        settings["warmup"] = min(settings.get("warmup", 0), settings.get("steps", TrainSettings.steps) // 10)
    return TrainSettings(**settings)


def _folder(args: argparse.Namespace) -> Path:
    if not args.out.name:
        raise InputError(f"{args.out} is no name of a file: give --out one that ends with .safetensors")
    return args.folder or args.out.with_suffix(".training")


def _prior_folder(args: argparse.Namespace) -> Path | None:
    if args.prior_data and not args.prior_prompts:
        raise InputError('--prior-data needs the prompt of the class: give --prior-prompt, such as "a photo of a dog"')
    return args.prior_data or (_folder(args) / "prior" if args.prior_prompts else None)


def _plan(job: Job, args: argparse.Namespace, processes: Processes) -> int:
    """What the training will be, before anything is loaded."""
    from ..training.planned import planned

    if not processes.is_main:
        return 0
    found = planned(job)
    if args.json:
        say_json(found.as_dict())
    else:
        for line in found.lines():
            say(line)
    return 0


def _train(job: Job, args: argparse.Namespace, processes: Processes) -> int:
    quiet = args.quiet or not processes.is_main
    with asked_to_stop(quiet=not processes.is_main) as asked, bar("", quiet=quiet) as show:

        def progress(what: str, done: int, total: int) -> None:
            if asked():  # nothing is trained yet; what is encoded stays
                raise Ended(asked())
            if show:
                show(done, total)

        def stop(step: int) -> bool:
            if show:
                show(step, job.settings.steps)
            return bool(asked())

        done = job.run(processes, progress=progress, stop=stop)
        ended = asked()
    if processes.is_main:
        if args.json:
            say_json({"file": str(job.target), "finished": done, "folder": str(job.folder)})
        else:
            say(str(job.target))
            if not args.quiet:
                tell(f"{'' if done else 'not finished: the same command goes on; '}log and checkpoint: {job.folder}")
    return 128 + ended if ended and not done else 0


@contextmanager
def asked_to_stop(*, quiet: bool) -> Iterator[Callable[[], int]]:
    """Inside, the first Ctrl-C or SIGTERM is a wish that the step and a save come first; the second is as ever. What
    it gives tells the number of the signal, 0 for none. quiet: another process tells of it.
    """
    wishes: list[int] = []
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def wish(number: int, _: object) -> None:
        wishes.append(number)
        signal.signal(number, before[signal.Signals(number)])
        if not quiet:
            tell("ends after this step and keeps what is done; once more ends it at once")

    try:
        for number in before:
            if before[number] not in (signal.SIG_IGN, None):
                signal.signal(number, wish)
        yield lambda: wishes[0] if wishes else 0
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


TRAIN = Command(
    summary="Train a LoRA, a ControlNet or a whole model on a folder of pictures.",
    examples=(
        'train lora --data dog/ --caption "a photo of a zorble dog" --out zorble.safetensors',
        "train lora --model sana-1.6b --data style/ --rank 32 --out style.safetensors --plan",
        "train controlnet --data pictures/ --out edges.safetensors",
    ),
    memory="take a smaller --at-once or --pixels, a quantised base, or --optimizer adamw8bit",
    add_options=add_options,
    run=run,
    together=True,
)
