"""The command `evaluate`: FID, KID and CLIP score of many pictures."""

from __future__ import annotations

import argparse
import json
from contextlib import ExitStack
from pathlib import Path

from ..checkpoint.new_file import check_target, new_file
from ..errors import printable
from .arguments import Command
from .output import say, say_json, tell
from .progress import Show, bar


def add_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("pictures", metavar="PICTURES", type=Path, help="a folder of pictures or WebDataset tars, or one tar")
    add(
        "--reference", type=Path, metavar="PATH", help="what to compare with: a folder, a tar, or an .npz of statistics"
    )
    add("--metrics", type=_names, metavar="NAMES", help="such as fid,kid,clip (default: what the other options allow)")
    add("--inception", type=Path, metavar="FILE", help="weights of InceptionV3 for FID and KID, as torch-fidelity has")
    add("--clip", type=Path, metavar="FOLDER", help="a CLIP in transformers' form, for the CLIP score")
    add("--layer", default="2048", metavar="N", help="of InceptionV3: 64, 192, 768 or 2048 (default: %(default)s)")
    add("--kid-subset-size", type=int, default=1000, metavar="N", help="pictures in a subset (default: %(default)s)")
    add("--save-statistics", type=Path, metavar="FILE.npz", help="mean and covariance, to be a --reference later")
    add("--report", type=Path, metavar="FILE.json", help="write the report, with counts, versions and settings")
    add("--json", action="store_true", help="the report as a JSON object on stdout in place of the table, errors too")
    add("--overwrite", action="store_true", help="replace files that are there")
    add("--device", help="cpu, cuda, cuda:1 ... (default: a GPU if there is one)")
    add("--batch", type=int, default=32, metavar="N", help="pictures at once (default: %(default)s)")
    add("-q", "--quiet", action="store_true", help="no progress")


def run(args: argparse.Namespace) -> None:
    """Measure, and show a table."""
    from ..metrics.evaluate import Settings, evaluate
    from ..metrics.report import as_dict, lines

    for target in filter(None, (args.report, args.save_statistics)):
        check_target(target, args.overwrite)
    settings = Settings(
        pictures=args.pictures,
        reference=args.reference,
        metrics=args.metrics,
        inception=args.inception,
        clip=args.clip,
        layer=args.layer,
        kid_subset_size=args.kid_subset_size,
        batch=args.batch,
        device=args.device,
        save=args.save_statistics,
        overwrite=args.overwrite,
    )
    with ExitStack() as bars:

        def shown(label: str) -> Show | None:
            return bars.enter_context(bar(label, quiet=args.quiet))

        report = evaluate(settings, shown)
    if args.report is not None:
        with new_file(args.report, overwrite=args.overwrite) as partial:
            partial.write_text(json.dumps(as_dict(report), indent=2) + "\n", encoding="utf-8")
    for side in filter(None, (report.pictures, report.reference)):
        for name, why in sorted(side.skipped.items()):
            tell(f"sana: {name} is skipped: {why}")
    if args.json:
        say_json(as_dict(report))
        return
    for line in lines(report):
        say(printable(line))


def _names(text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))


EVALUATE = Command(
    summary="Measure many pictures: FID and KID against others, CLIP score against their captions.",
    examples=(
        "evaluate pictures --reference photos --inception weights-inception-2015-12-05-6726825d.pth",
        "evaluate pictures --clip clip-vit-large-patch14 --report report.json",
    ),
    memory="take a smaller --batch",
    add_options=add_options,
    run=run,
)
