"""Rows that are drawn into a folder, for the commands `batch` and `benchmark`: options, who draws, what was drawn."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..batch.best import BestOf, check_names
from ..batch.checked import Checked
from ..batch.draw import Drawing, DrawRows
from ..batch.in_processes import draw_in_processes
from ..batch.on_ray import LOCAL, check_ray, draw_on_ray
from ..batch.output import Output
from ..batch.rows import Row
from ..batch.run import ROWS_PER_SHARD, Batch, draw_batch
from ..batch.tables import TABLES
from ..batch.worker import Done
from ..device import pick_device
from ..errors import InputError
from ..pictures.saving import QUALITY
from ..prompts.entries import READERS
from ..sources import pipeline_files
from ..training.data.fingerprint import file_fingerprint
from . import arguments, options
from .best import check_best_of, chosen_scorer, scorer_name
from .draw import chosen_source, common, load
from .output import say_json, tell
from .pace import Pace, pace
from .record import Source, model_record
from .shield import add_shield, check_shield, load_check

SOME_FAILED = 3  # exit code
ROWS = 4  # of a forward
MEMORY = "draw a smaller --size or --batch, choose --dtype bfloat16, or --offload"
# where Slurm's job arrays and torchrun say which of how many a process is
RANKS = (("SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_COUNT"), ("RANK", "WORLD_SIZE"))
AUTO, WHOLE = "auto", "0/1"
LOADED = ("variant", "trained_precision", "dtype", "control_order", "soft_edge")  # options that change the model


def add_drawing_options(parser: argparse.ArgumentParser) -> None:
    """How rows are drawn, whatever they are of and wherever their pictures go."""
    options.add_picture_settings(parser.add_argument_group("settings of rows that have none of their own"))
    _add_work(parser.add_argument_group("who draws what"))
    options.add_best_of(parser.add_argument_group("the best of many"))
    add_shield(parser.add_argument_group("a check of the prompts; a row whose prompt is refused is a failed one"))
    options.add_model(parser.add_argument_group("which model"))
    options.add_pictures(parser.add_argument_group("pictures to start from or to follow"))
    options.add_sampling(parser.add_argument_group("how to sample (default: as the model was released)"))
    options.add_machine(parser.add_argument_group("the machine"))


def _add_work(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--batch", type=int, default=ROWS, metavar="NUMBER", help="rows drawn at a time (default: %(default)s)")
    add("--rows-per-shard", type=int, default=ROWS_PER_SHARD, metavar="NUMBER", help="default: %(default)s")
    add(
        "--shard",
        default=WHOLE,
        metavar="I/N",
        help="only the shards I, I + N, ...; auto: as Slurm's job array or torchrun says",
    )
    add(
        "--workers",
        type=int,
        metavar="NUMBER",
        help="processes that draw on this machine: up to one for each GPU; two or more on a CPU share its threads "
        "(default: 1)",
    )
    add(
        "--ray",
        nargs="?",
        const=LOCAL,
        type=ray_address,
        metavar="ADDRESS",
        help="on a Ray cluster: auto for the one that runs here, or its address; without one, on this machine alone",
    )
    add("--ray-workers", type=int, metavar="NUMBER", help="pipelines on it (default: one for each GPU, or machine)")
    add("--plan", action="store_true", help="tell what would be drawn, and end")
    add("--quality", type=arguments.quality, help=f"of JPEG and WebP, 1 to 100 (default: {QUALITY})")
    add("-q", "--quiet", action="store_true", help="no progress; warnings stay")


def ray_address(text: str) -> str:
    """Not the prompt file, which an option without a value takes if it comes next."""
    if Path(text).suffix.lower() in (*READERS, *TABLES):
        raise argparse.ArgumentTypeError(
            f"{text} is no address of a Ray cluster: put --ray behind PROMPTS and OUT, or write --ray={LOCAL}"
        )
    return text


def draw_rows(args: argparse.Namespace, rows: list[Row], output: Output) -> int:
    """Draw what is missing of rows. args: of `add_drawing_options`, with base_seed and json."""
    if (args.controlnet or args.soft_edge) and all(row.request.control_image is None for row in rows):
        raise InputError("--controlnet and --soft-edge need the picture to follow: give it by --control-image")
    check_names(rows, args.keep or 1)
    output.check()
    if args.ray is not None:
        check_ray()
    share = chosen_share(args.shard)
    source = chosen_source(args)
    batch = Batch(
        rows=rows,
        output=output,
        rows_per_shard=args.rows_per_shard,
        settings=model_settings(args, source) | common_settings(args),
        share=share,
    )
    batch.check()
    state = batch.state()
    summary: dict[str, Any] = {"folder": str(output.folder), **state._asdict()}
    if args.plan:
        _say(args, f"rows: {state.rows}, {state.finished} of them finished; shards: {state.shards}", summary)
        return 0
    with pace(state.rows - state.finished - state.failed, quiet=args.quiet) as told:
        done = list(_drawn(args, batch, Loading(args, source), told))
    return _told(args, done, summary)


@dataclass(frozen=True)
class Loading:
    """Loads the model of the options, here or in another process."""

    args: argparse.Namespace
    source: Source

    def at(self, number: int) -> Loading:
        """For one of several processes: on the GPU of this number, if there are GPUs. Only the first one reports."""
        changes: dict[str, Any] = {"quiet": self.args.quiet or number > 0}
        if pick_device(self.args.device).type == "cuda":
            changes["device"] = f"cuda:{number}"
        return Loading(argparse.Namespace(**{**vars(self.args), **changes}), self.source)

    def __call__(self) -> DrawRows:
        args = self.args
        check = load_check(args)
        best_of: int | None = args.best_of
        scorer = None if best_of is None else chosen_scorer(args)
        pipeline = load(args, self.source)
        drawing = Drawing(
            pipeline=pipeline,
            batch=args.batch,
            record=model_record(pipeline, self.source, args),
            soft_edge=args.soft_edge,
        )
        draw: DrawRows = drawing
        if best_of is not None and scorer is not None:
            name = scorer_name(args)
            draw = BestOf(drawing=drawing, scorer=scorer, name=name, count=best_of, keep=args.keep or 1)
        return draw if check is None else Checked(draw=draw, check=check)


def check(args: argparse.Namespace) -> None:
    """Raise InputError for options that cannot be, or do not go together."""
    if args.batch < 1:
        raise InputError(f"--batch is {args.batch}, expected at least 1")
    check_best_of(args)
    check_shield(args)
    if args.ray is None and args.ray_workers is not None:
        raise InputError("--ray-workers is about --ray: give it, too")
    if args.ray is not None and args.shard != WHOLE:
        raise InputError("--ray shares the work itself: leave out --shard")
    if args.ray is not None and args.workers is not None:
        raise InputError("--workers is about this machine alone: with --ray give --ray-workers")
    if args.workers is not None:
        check_workers(args.workers, args.device)


def check_workers(count: int, device: str | None) -> None:
    """Raise InputError if so many processes cannot draw on the device."""
    if count < 1:
        raise InputError(f"--workers is {count}, expected at least 1")
    chosen = pick_device(device)
    if count == 1 or chosen.type == "cpu":
        return
    if chosen.type != "cuda" or chosen.index is not None:
        raise InputError(f"--workers is {count}, and --device {chosen} can serve one: leave one of them out")
    if count > torch.cuda.device_count():
        raise InputError(f"--workers is {count}, and there are {torch.cuda.device_count()} GPUs: one process for each")


def common_settings(args: argparse.Namespace) -> dict[str, Any]:
    """What the options say of all rows, to be named if it differs from that of an earlier run."""
    given = Row(id="", file="", request=common(args)).entry()
    return {"seed": args.base_seed, **{name: given[name] for name in given if name not in ("id", "prompt", "seed")}}


def model_settings(args: argparse.Namespace, source: Source) -> dict[str, Any]:
    """What tells one model from another: its files, and how they are loaded."""
    files = pipeline_files(source)
    parts = [files.transformer, files.autoencoder, files.text_encoder, files.tokenizer, files.scheduler]
    controlnet = args.controlnet or files.controlnet
    return {
        "model": file_fingerprint(*filter(None, parts)),
        "loras": [f"{file_fingerprint(path)}:{strength:g}" for path, strength in args.lora],
        "controlnet": None if controlnet is None else file_fingerprint(controlnet),
        **{name: getattr(args, name) for name in LOADED},
        "batch": args.batch,
        "best_of": None if args.best_of is None else [args.best_of, args.keep or 1, *scorer_settings(args)],
        "shield": None
        if args.shield is None
        else [file_fingerprint(args.shield), args.shield_threshold, args.shield_action],
    }


def scorer_settings(args: argparse.Namespace) -> list[str]:
    """Its name, and what is in its folder, if it has one."""
    folder = Path(args.scorer.partition(":")[2])
    return [scorer_name(args), *([file_fingerprint(folder)] if folder.exists() else [])]


def chosen_share(text: str) -> tuple[int, int]:
    """ "1/4" -> (1, 4), "auto" -> as the environment says. Raises InputError."""
    if text == AUTO:
        for index, count in RANKS:
            if os.environ.get(index, "").isdecimal() and os.environ.get(count, "").isdecimal():
                text = f"{os.environ[index]}/{os.environ[count]}"
                break
        else:
            raise InputError(
                f"--shard {AUTO} reads {' or '.join('/'.join(pair) for pair in RANKS)}, and none is set: "
                "give --shard I/N"
            )
    match = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text)
    if not match or int(match[1]) >= int(match[2]):
        raise InputError(f"--shard is {text}, expected I/N with I from 0 to N - 1, such as 0/4")
    return int(match[1]), int(match[2])


def _drawn(args: argparse.Namespace, batch: Batch, load: Loading, pace: Pace) -> Iterator[Done]:
    if args.ray is not None:
        for done in draw_on_ray(batch, load, args.ray, args.ray_workers):
            pace.add(done.drawn + done.failed)
            yield done
    elif (args.workers or 1) > 1:
        yield from draw_in_processes(batch, [load.at(number) for number in range(args.workers)], pace)
    else:
        yield from draw_batch(batch, load, pace)


def _told(args: argparse.Namespace, done: list[Done], summary: dict[str, Any]) -> int:
    drawn, failed = sum(item.drawn for item in done), sum(item.failed for item in done) + summary["failed"]
    busy = sum(item.busy for item in done)
    unscored = sum(item.unscored for item in done)
    words = [f"{args.folder}: {drawn} rows drawn, {summary['finished']} were there"]
    if unscored:
        words.append(f"{unscored} of them have no score, since the scorer failed: they have their first candidates")
    if failed:
        first = min(args.folder.glob("failed-*.jsonl"), default=args.folder / "failed-00000.jsonl")
        words.append(f"{failed} rows failed, see {first}: a prompt file, to be drawn into another folder")
    if busy:
        words.append(f"{busy} shards are being drawn by another run")
    _say(args, "; ".join(words), summary | {"drawn": drawn, "failed": failed, "unscored": unscored, "busy": busy})
    return SOME_FAILED if failed or unscored or busy else 0


def _say(args: argparse.Namespace, text: str, values: dict[str, Any]) -> None:
    if args.json:
        say_json(values)
    elif not args.quiet:
        tell(text)
