"""Folders of pictures with captions, for trying the command `train` on the embedded model:

    python -m tools.nano.folders WORK OUT --kind subject
    python -m tools.nano.folders WORK OUT --kind scenes --count 2000 --vague 0.7

WORK holds the drawings and names of the stage `data`. `subject`: eight pictures of a drawing that the model has no name
for. `scenes`: what the embedded model was trained on; a ControlNet learns from captions that leave out place and size
(--vague), since others tell it all that the lines do.
"""

from __future__ import annotations

import random
from pathlib import Path

from sana_core.pictures.images import to_pil

from .command import Command, from_arguments, parser
from .concepts import load_names
from .pictures import render
from .scenes import Scene, SceneSource
from .stages import Pictured
from .train_controlnet import KINDS
from .train_lora import subject

SUBJECTS = 8
AT_ONCE = 64


def subject_scenes(command: Command) -> tuple[Pictured, list[Scene]]:
    """The drawing on white and on colours, to both sides."""
    concepts, _, splits = load_names(command.work, command.size)
    concepts = [*concepts, subject(command, len(concepts))]
    source = SceneSource(concepts[-1:], splits, command.size.styles, {"plain": 0.4, "background": 0.6}, mirrored=True)
    rng = random.Random(command.seed)
    return Pictured(command, concepts, splits, command.size.styles, []), [source.draw(rng) for _ in range(SUBJECTS)]


def training_scenes(command: Command, count: int) -> tuple[Pictured, list[Scene]]:
    """Things of all names, plain, small, and in places."""
    concepts, _, splits = load_names(command.work, command.size)
    source = SceneSource(concepts, splits, command.size.styles, KINDS, mirrored=command.size.mirrored)
    rng = random.Random(command.seed)
    return Pictured(command, concepts, splits, command.size.styles, []), [source.draw(rng) for _ in range(count)]


def write(command: Command, pictured: Pictured, scenes: list[Scene], folder: Path, vague: float = 0.0) -> None:
    """NAME.webp and NAME.txt for each scene. vague: share of captions that name the thing and its style alone."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = random.Random(command.seed)
    for start in range(0, len(scenes), AT_ONCE):
        part = scenes[start : start + AT_ONCE]
        images = render(pictured.drawings, pictured.placed(part), command.size.pixels)
        for number, (scene, picture) in enumerate(zip(part, to_pil(images * 0.5 + 0.5)), start=start):
            picture.save(folder / f"{number:05}.webp", lossless=True)
            told = Scene(concept=scene.concept, style=scene.style) if rng.random() < vague else scene
            (folder / f"{number:05}.txt").write_text(pictured.captions.draw(told, rng).text, encoding="utf-8")


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("out", type=Path, help="folder to write")
    arguments.add_argument("--kind", choices=("subject", "scenes"), required=True)
    arguments.add_argument("--count", type=int, default=2000, help="how many scenes")
    arguments.add_argument("--vague", type=float, default=0.0, help="share of captions without place and size")
    args = arguments.parse_args()
    command = from_arguments(args)
    made = subject_scenes(command) if args.kind == "subject" else training_scenes(command, args.count)
    write(command, *made, args.out, args.vague)


if __name__ == "__main__":
    main()
