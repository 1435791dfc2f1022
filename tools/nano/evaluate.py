"""Stage `evaluate`: measure the exported files through the pack's own pipeline.

    python -m tools.nano.evaluate WORK --size 256                       everything
    python -m tools.nano.evaluate WORK --size 256 --part retrieval      one part: reconstruction, retrieval, numbers,
                                       samplers, speed, sprint, controlnet, lora, quantised, judge, sheet

Adds to WORK/report.json and writes WORK/sheets/contact_sheet.jpg. What each part measures is said at its function.
Retrieval has a ceiling (the right drawing through the autoencoder) and two floors (empty prompts, prompts of other
things). `--dtype bfloat16` draws faster on a CPU; the parts numbers and speed are meant without it.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from .autoencoder_losses import psnr, reconstruct
from .command import from_arguments, parser
from .evaluate_addons import controlnet, lora, sprint
from .evaluate_quantised import quantised
from .evaluation import Evaluation
from .export import AUTOENCODER, CONTROLNET, SPRINT, TRANSFORMER
from .judge import judge
from .retrieval import BATCH, scores
from .sheets import save_sheet
from .stages import sample_prompts
from .train_autoencoder import Pool

log = logging.getLogger("nano")
PHOTOS = ("astronaut.png", "chelsea.png", "coffee.png", "color.png", "rocket.jpg", "motorcycle_left.png",
          "camera.png", "coins.png",
          "grass.png", "brick.png")  # fmt: skip


def reconstruction(run: Evaluation) -> dict:
    """PSNR of the autoencoder in dB: drawings it was trained on, drawings no stage has seen, photographs in
    WORK/photos.
    """
    pool, pixels, vae = Pool(run.command), run.command.size.pixels, run.base.autoencoder
    images = {"trained drawings": pool.trained_sample(pixels, 256), "held-out drawings": pool.held_out_sample(pixels)}
    found = [file for name in PHOTOS if (file := run.command.work / "photos" / name).exists()]
    if found:
        fitted = [
            np.array(ImageOps.fit(Image.open(file).convert("RGB"), (pixels, pixels), Image.Resampling.LANCZOS))
            for file in found
        ]
        images["held-out photographs"] = (
            torch.from_numpy(np.stack(fitted)).permute(0, 3, 1, 2).to(run.command.device) / 127.5 - 1
        )
    return {
        name: {"pictures": len(given), "psnr": psnr(reconstruct(vae, given), given).mean().item()}
        for name, given in images.items()
    }


def retrieval(run: Evaluation) -> dict:
    """Every set of captions, the ceiling and the floors."""
    report: dict = {}
    for name, captions in run.sets.items():
        report[name] = {"captions": len(captions), "seeds": run.scored(run.base, captions)}
        log.info("%s (%d): %s", name, len(captions), report[name]["seeds"])
    names = run.sets["names"]
    wanted = [caption.scene for caption in names]
    report["ceiling: reconstructions"] = scores(
        run.gallery, reconstruct(run.base.autoencoder, run.gallery.picture(wanted)), wanted
    )
    report["floor: empty prompts"] = scores(run.gallery, run.draw(run.base, [""] * len(names), 0), wanted)
    others = [caption.text for caption in names[1:] + names[:1]]
    report["floor: prompts of other things"] = scores(run.gallery, run.draw(run.base, others, 0), wanted)
    return report


def numbers(run: Evaluation) -> dict:
    """The number types: retrieval of names in each, and the difference of pixels in 0..1 to float32."""
    names = run.sets["names"]
    wanted, texts = [caption.scene for caption in names], [caption.text for caption in names]
    reference = run.draw(run.base, texts, 0)
    report = {"float32": scores(run.gallery, reference, wanted)}
    for dtype in (torch.bfloat16, torch.float16):
        images = run.draw(run.pipeline(dtype=dtype), texts, 0)
        difference = (images - reference).abs() / 2
        report[str(dtype).removeprefix("torch.")] = {
            **scores(run.gallery, images, wanted),
            "mean difference": difference.mean().item(),
            "largest difference": difference.max().item(),
        }  # fmt: skip
    return report


def samplers(run: Evaluation) -> dict:
    """Distance of 20 steps to 200 steps of Euler, root mean square of latents of unit variance, by sampler."""
    texts = [caption.text for caption in run.sets["names"][:BATCH]]

    def latents(sampler: str, steps: int) -> Tensor:
        found = run.base(texts, seed=0, sampler=sampler, steps=steps, output="latent")
        assert isinstance(found, Tensor)
        return found

    exact = latents("flow_euler", 200)
    return {
        sampler: (latents(sampler, 20) - exact).square().mean().sqrt().item() for sampler in ("flow_dpm", "flow_euler")
    }


def speed(run: Evaluation) -> dict:
    """Seconds to load the model and to draw one picture with the defaults; the best of three."""

    def seconds(action: Callable[[], object]) -> float:
        begun = time.perf_counter()
        action()
        return time.perf_counter() - begun

    return {
        "device": str(run.command.device), "threads": torch.get_num_threads(),
        "load": min(seconds(run.pipeline) for _ in range(3)),
        "picture": min(seconds(lambda: run.base("a red apple", seed=0)) for _ in range(3)),
    }  # fmt: skip


def sheet(run: Evaluation) -> dict:
    """The contact sheet: prompts.txt, two seeds each."""
    prompts = sample_prompts(run.command)
    save_sheet(
        run.command.work / "sheets" / "contact_sheet.jpg",
        [run.draw(run.base, prompts, seed) for seed in (0, 1)],
        prompts,
    )
    return {"prompts": len(prompts)}


PARTS: dict[
    str, tuple[Callable[[Evaluation], dict], tuple[str, ...]]
] = {  # with what each needs of WORK/export and WORK
    "reconstruction": (reconstruction, (AUTOENCODER,)),
    "retrieval": (retrieval, (TRANSFORMER,)),
    "numbers": (numbers, (TRANSFORMER,)),
    "samplers": (samplers, (TRANSFORMER,)),
    "speed": (speed, (TRANSFORMER,)),
    "sprint": (sprint, (SPRINT,)),
    "controlnet": (controlnet, (CONTROLNET,)),
    "lora": (lora, (TRANSFORMER,)),
    "quantised": (quantised, (TRANSFORMER,)),
    "judge": (judge, (TRANSFORMER, "judge")),
    "sheet": (sheet, (TRANSFORMER,)),
}


def measure(run: Evaluation, parts: list[str]) -> dict:
    """The report, with `parts` measured anew."""
    path = run.command.work / "report.json"
    report = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    for part in parts:
        function, needed = PARTS[part]
        if missing := [
            name for name in needed if not any((folder / name).exists() for folder in (run.files, run.command.work))
        ]:
            log.info("%s: not measured, %s is not there", part, ", ".join(missing))
            continue
        report[part] = function(run)
        path.write_text(json.dumps(report, indent=1), encoding="utf-8")
        log.info("%s: %s", part, json.dumps(report[part]))
    return report


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--part", choices=PARTS, action="append", help="may be given several times")
    arguments.add_argument("--files", type=Path, help="folder of the exported files; WORK/export where nothing is said")
    arguments.add_argument("--limit", type=int, default=10_000, help="captions of each set")
    arguments.add_argument("--seeds", type=int, nargs="+", default=(0, 1, 2))
    args = arguments.parse_args()
    run = Evaluation(
        command=from_arguments(args),
        files=args.files or args.work / "export",
        limit=args.limit,
        seeds=tuple(args.seeds),
    )
    measure(run, args.part or list(PARTS))


if __name__ == "__main__":
    main()
