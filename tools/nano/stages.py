"""What the stages share: reading one another's results, the settings of a loop, pictures for a look at a training."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import torch
from torch import Tensor, nn

from sana_core.config import SamplingDefaults
from sana_core.dcae.autoencoder import DCAE
from sana_core.pipeline import SanaPipeline
from sana_core.text.gemma import GemmaTextEncoder
from sana_core.text.tokenizer import GemmaTokenizer, read_tokenizer
from sana_core.training.average import Average
from sana_core.training.loop import LoopSettings, Training
from sana_core.training.state import TrainingState, read_state
from sana_core.transformer.model import SanaTransformer

from .captions import CaptionSource
from .command import Command
from .concepts import Concept, Splits, load_names
from .initial import initial_autoencoder
from .joint import CaptionReader, TextToLatent, initial_caption_reader, initial_text_to_latent
from .muon import build_optimizers
from .pictures import Drawings, Placed, drawing_keys, placed
from .scenes import Scene, SceneSource, attribute_sizes
from .sheets import save_sheet

HERE = Path(__file__).parent
PLAIN = (
    "embed_tokens",
    "conv_depth",
    "proj_in",
    "heads",
    "proj_out",
    "patch_embed",
    "lora_",
)  # parameters that AdamW takes


def start(
    command: Command, name: str, model: nn.Module, *, weights: dict[str, float] | None = None, report_every: int = 0
) -> Training:
    """The training `name` of the command's size: new, or where its checkpoint left off."""
    stage = command.size.stages[name]
    optimizers = build_optimizers(model, rate=stage.rate, plain_rate=stage.plain_rate, weight_decay=0.01, plain=PLAIN)
    average = Average(model, stage.average) if stage.average else None
    steps = command.steps_of(stage)
    settings = LoopSettings(
        steps=steps, warmup=stage.warmup, decay=stage.decay, weights=weights or {}, minutes=command.minutes,
        report_every=report_every, log_every=max(1, min(20, steps // 8)),
    )  # fmt: skip
    recipe = {
        "size": command.size.name, "seed": command.seed, "dtype": str(command.dtype), "compiled": command.compile,
        "begun with": command.begin.name if command.begin else "",
    }  # fmt: skip
    return Training(
        name, command.work, TrainingState(model=model, optimizers=optimizers, average=average), settings, recipe
    )


def averaged(training: Training) -> AbstractContextManager[None]:
    """Inside, the network of a training computes with its averaged weights."""
    assert training.state.average is not None
    return training.state.average.applied()


def trained_autoencoder(command: Command) -> DCAE:
    """The autoencoder of the stage `decoder`, or of `autoencoder` where that one has not begun."""
    model = initial_autoencoder(command.size.autoencoder, command.seed)
    decoder = command.work / "decoder.pt"
    model.load_state_dict(read_state(decoder if decoder.exists() else command.work / "autoencoder.pt")["model"])
    return model.requires_grad_(False).eval().to(command.device, memory_format=torch.channels_last)  # type: ignore[call-overload]


def new_caption_reader(command: Command) -> CaptionReader:
    concepts, _, _ = load_names(command.work, command.size)
    return initial_caption_reader(
        command.size.text, attribute_sizes(len(concepts), len(command.size.styles)), command.seed
    )


def new_text_to_latent(command: Command) -> TextToLatent:
    return initial_text_to_latent(new_caption_reader(command), command.size.transformer, command.seed)


def trained_text_to_latent(command: Command) -> TextToLatent:
    """The averaged weights of the stage `transformer`."""
    model = new_text_to_latent(command)
    model.load_state_dict(read_state(command.work / "transformer.pt")["average"])
    return model.requires_grad_(False).eval().to(command.device)


def tokenizer(command: Command) -> GemmaTokenizer:
    return read_tokenizer(command.work / "tokenizer.model")


class Pictured:
    """A bank of scenes: what is drawn, and who describes it."""

    def __init__(
        self, command: Command, concepts: list[Concept], splits: Splits, styles: Sequence[str], bank: list[Scene]
    ) -> None:
        self.concepts, self.splits, self.styles, self.bank = concepts, splits, styles, bank
        self.drawings = Drawings(command.work / "drawings.zip", drawing_keys(concepts), command.device)
        self.captions = CaptionSource(concepts, splits, styles)

    def placed(self, scenes: list[Scene] | None = None) -> Placed:
        return placed(self.bank if scenes is None else scenes, self.concepts, self.styles, self.drawings.index)


def pictured(command: Command) -> Pictured:
    """What the transformer of a size is trained on."""
    concepts, _, splits = load_names(command.work, command.size)
    return Pictured(command, concepts, splits, command.size.styles, trained_scenes(command, concepts, splits))


def trained_scenes(command: Command, concepts: list[Concept], splits: Splits) -> list[Scene]:
    """The transformer's bank of scenes."""
    size = command.size
    return SceneSource(concepts, splits, size.styles, size.kinds, mirrored=size.mirrored).bank(
        size.scenes, command.seed
    )


def pipeline(
    command: Command,
    transformer: SanaTransformer,
    text: GemmaTextEncoder,
    autoencoder: DCAE,
    defaults: SamplingDefaults | None = None,
) -> SanaPipeline:
    """The networks of a training as the pack samples them; defaults: the size's own where nothing is said."""
    text.tokenizer = tokenizer(command)
    return SanaPipeline(
        transformer=transformer, autoencoder=autoencoder, text_encoder=text, device=command.device,
        defaults=defaults or command.size.sampling,
    )  # fmt: skip


def sample_prompts(command: Command) -> list[str]:
    """prompts.txt for emoji, the shapes' names for the toy."""
    if command.size.source == "drawn":
        concepts, _, _ = load_names(command.work, command.size)
        return [concept.name for concept in concepts]
    return (HERE / "prompts.txt").read_text(encoding="utf-8").splitlines()


def save_samples(command: Command, name: str, rows: list[Tensor], labels: list[str]) -> None:
    """A sample sheet WORK/sheets/`name`.jpg; rows of pictures in -1..1."""
    save_sheet(command.work / "sheets" / f"{name}.jpg", rows, labels)


@torch.no_grad()
def draw(command: Command, made: SanaPipeline, prompts: list[str], **settings) -> Tensor:
    """Pictures (B, 3, P, P) in -1..1 of seed 0."""
    with command.autocast():
        images = made(prompts, seed=0, output="tensor", **settings)
    assert isinstance(images, Tensor)
    return images * 2 - 1
