"""The whole training path at the toy size: every stage runs, the losses fall, the files load and draw; a killed run
resumes exactly.
"""

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from sana_core.cli import main
from sana_core.kit import Kit
from sana_core.pipeline import load_pipeline
from sana_core.training.state import read_state
from tools.nano import (
    data,
    evaluate_trained,
    export,
    folders,
    tokenizer,
    train_autoencoder,
    train_controlnet,
    train_lora,
    train_sprint,
    train_text,
    train_transformer,
)
from tools.nano.command import Command
from tools.nano.evaluate import PARTS, measure
from tools.nano.evaluation import Evaluation
from tools.nano.latents import LatentBank
from tools.nano.retrieval import Gallery, scores
from tools.nano.sizes import SIZES, TOY
from tools.nano.stages import pictured
from tools.nano.stages import tokenizer as read_tokenizer

pytestmark = pytest.mark.slow  # the stages take half a minute
ROOT = Path(__file__).parents[3]
KILLED = """
import os, signal, sys
from pathlib import Path
import torch
from sana_core.training.loop import Training
from tools.nano import train_transformer
from tools.nano.command import Command
from tools.nano.sizes import TOY
torch.set_num_threads(1)
step = Training._step
def killing(self, *arguments):
    if self.state.step == 3:
        self.save()
        os.kill(os.getpid(), signal.SIGKILL)
    return step(self, *arguments)
Training._step = killing
train_transformer.run(Command(work=Path(sys.argv[1]), size=TOY, steps=6))
"""


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A folder in which all stages have run."""
    folder = tmp_path_factory.mktemp("nano")
    command = Command(work=folder, size=TOY)
    data.build(folder, TOY, None)
    tokenizer.build(folder, TOY, captions=2000)
    train_text.run(command)
    train_autoencoder.run(command)
    train_autoencoder.run(command, decoder_only=True)
    train_transformer.run(command)
    train_sprint.run(command)
    train_controlnet.run(command)
    for example in train_lora.EXAMPLES:
        train_lora.run(command, example)
    export.export(command, folder / "export")
    return folder


def log(work, name):
    return [json.loads(line) for line in (work / f"{name}.jsonl").read_text().splitlines()]


def test_every_stage_is_finished_and_has_a_sheet(work):
    assert all(read_state(work / f"{name}.pt")["step"] == stage.steps for name, stage in TOY.stages.items())
    pictured_stages = [name for name in TOY.stages if name != "text"]
    assert all(
        (work / "sheets" / f"{name}_{TOY.stages[name].steps}.jpg").stat().st_size > 1000 for name in pictured_stages
    )


def test_the_losses_fall(work):
    """The first steps of the trainings against the last: means over as many steps."""
    checked = {"autoencoder": ("picture", "latent"), "text": ("attribute", "language"), "transformer": ("flow",)}
    for name, losses in checked.items():
        lines = [line for line in log(work, name) if losses[0] in line]
        assert all(lines[-1][loss] < 0.9 * lines[0][loss] for loss in losses), lines


def test_the_files_are_a_model_that_draws(work):
    names = {"transformer": export.TRANSFORMER, "autoencoder": export.AUTOENCODER, "text_encoder": export.TEXT}
    files = {part: work / "export" / name for part, name in names.items()}
    drawn = load_pipeline({**files, "controlnet": work / "export" / export.CONTROLNET}, device="cpu")
    assert drawn.defaults == TOY.sampling and drawn.transformer.config == TOY.transformer
    control = torch.zeros(1, 3, 64, 64)
    pictures = [drawn("a red disc", seed=seed, output="tensor", control_image=control) for seed in (0, 0, 1)]
    assert torch.equal(pictures[0], pictures[1]) and not torch.equal(pictures[0], pictures[2])
    sprint = load_pipeline({**files, "transformer": work / "export" / export.SPRINT}, device="cpu")
    assert sprint.defaults.sampler == "scm" and sprint.transformer.config.guidance_embed
    assert sprint("a red disc", seed=0, output="tensor").shape == (1, 3, 64, 64)


def test_everything_can_be_measured(work):
    run = Evaluation(command=Command(work=work, size=TOY), files=work / "export", limit=2, seeds=(0,))
    report = measure(run, list(PARTS))
    assert set(report) == set(PARTS) - {"judge"} == set(json.loads((work / "report.json").read_text()))
    assert {"names", "held-out phrasings", "held-out backgrounds", "held-out couples", "second style"} <= set(
        report["retrieval"]
    )
    assert report["lora"]["style, strength 0"]["changes"] is False
    assert set(report["reconstruction"]) == {"trained drawings", "held-out drawings"}


def test_drawings_find_themselves(work):
    """The judge on pictures that are right, of every kind of scene; on the wrong ones it finds nothing."""
    command = Command(work=work, size=TOY)
    scenes = pictured(command)
    gallery = Gallery(train_transformer.trained_autoencoder(command), scenes, TOY.pixels)
    found = scores(gallery, gallery.picture(scenes.bank), scenes.bank)
    assert found["pixel top-1"] > 0.95 and found["thing and background"] > 0.95 and found["background"] == 1.0
    others = [
        replace(s, concept=(s.concept + 1) % 6, second=None if s.second is None else (s.second + 1) % 6)
        for s in scenes.bank
    ]
    assert scores(gallery, gallery.picture(others), scenes.bank)["pixel top-1"] < 0.05


def test_every_emoji_and_the_instruction_are_single_pieces(work):
    tokens = read_tokenizer(Command(work=work, size=TOY))
    assert len(tokens.encode("\U0001f534")) == 2  # and BOS
    assert [len(tokens.encode(piece)) for piece in tokenizer.instruction_pieces()] == [2] * len(
        tokenizer.instruction_pieces()
    )


def test_bfloat16_and_captions_made_ahead(work, tmp_path):
    """One step each way from the same beginning: a worker makes the same batch, bfloat16 nearly the same loss."""
    losses = []
    for number, settings in enumerate(({}, {"workers": 1}, {"dtype": torch.bfloat16})):
        folder = tmp_path / str(number)
        folder.mkdir()
        for name in ("drawings.zip", "names.json", "tokenizer.model", "text.pt", "autoencoder.pt"):
            (folder / name).symlink_to(work / name)
        assert train_transformer.run(Command(work=folder, size=TOY, steps=1, **settings))
        losses.append(log(folder, "transformer")[0])
    assert losses[0]["flow"] == losses[1]["flow"] and losses[0]["language"] == losses[1]["language"]
    assert 0 < abs(losses[2]["flow"] - losses[0]["flow"]) < 0.1


def test_an_autoencoder_can_begin_with_finished_weights(work, tmp_path):
    for name in ("drawings.zip", "names.json"):
        (tmp_path / name).symlink_to(work / name)
    assert train_autoencoder.run(Command(work=tmp_path, size=TOY, steps=1, begin=work / "export" / export.AUTOENCODER))
    assert log(tmp_path, "autoencoder")[0]["picture"] < 0.7 * log(work, "autoencoder")[0]["picture"]


def test_latents_are_encoded_once(work, tmp_path):
    """The second bank reads the file of the first; another encoder, other scenes or edges have files of their own."""
    command, made = Command(work=work, size=TOY), train_transformer.trained_autoencoder
    scenes = pictured(command)
    elsewhere, numbers = replace(command, work=tmp_path), torch.arange(8)

    def latents(autoencoder, bank=None, **settings):
        return LatentBank(autoencoder, scenes.drawings, scenes.placed(bank), elsewhere, **settings)(numbers, 64)

    first, again = latents(made(command)), latents(made(command))
    assert torch.equal(first, again) and len(list((tmp_path / "latents").iterdir())) == 1
    changed = made(command)
    changed.encoder.conv_in.bias += 1
    others = [latents(changed), latents(made(command), scenes.bank[::-1]), latents(made(command), edges=True)]
    assert len(list((tmp_path / "latents").iterdir())) == 4
    assert not any(torch.equal(first, other) for other in others)


def test_a_killed_training_resumes_to_the_same_weights(work, tmp_path):
    folders = {name: tmp_path / name for name in ("whole", "killed")}
    for folder in folders.values():
        folder.mkdir()
        for name in ("drawings.zip", "names.json", "tokenizer.model", "text.pt", "autoencoder.pt"):
            (folder / name).symlink_to(work / name)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    died = subprocess.run(
        [sys.executable, "-c", KILLED, str(folders["killed"])], cwd=ROOT, env=environment, check=False
    )
    assert died.returncode == -signal.SIGKILL
    assert read_state(folders["killed"] / "transformer.pt")["step"] == 3
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        assert all(train_transformer.run(Command(work=folder, size=TOY, steps=6)) for folder in folders.values())
    finally:
        torch.set_num_threads(threads)
    found, wanted = (read_state(folder / "transformer.pt") for folder in (folders["killed"], folders["whole"]))
    assert found["step"] == wanted["step"] == 6
    for part in ("model", "average"):
        assert all(torch.equal(found[part][key], wanted[part][key]) for key in wanted[part])


def test_the_published_sizes_fit_into_the_repository():
    """Values times two bytes; the tokenizer and the headers are about a tenth of a megabyte."""
    from sana_core.dcae.autoencoder import DCAE
    from sana_core.text.gemma import build_gemma2
    from sana_core.transformer.model import SanaTransformer

    for name in ("128", "256"):
        size = SIZES[name]
        networks = (
            DCAE(size.autoencoder, Kit(device="meta")),
            SanaTransformer(size.transformer, Kit(device="meta")),
            build_gemma2(size.text),
        )
        values = sum(parameter.numel() for network in networks for parameter in network.parameters())
        assert 2 * values < 19_900_000, name


@pytest.mark.parametrize("kind", ["lora", "controlnet", "model"])
def test_the_command_trains_on_folders_of_its_pictures_and_is_measured(work, tmp_path, kind):
    folders.write(
        Command(work=work, size=TOY), *folders.subject_scenes(Command(work=work, size=TOY)), tmp_path / "pictures"
    )
    assert len([*(tmp_path / "pictures").glob("*.webp")]) == len([*(tmp_path / "pictures").glob("*.txt")]) == 8
    files = {"transformer": export.TRANSFORMER, "autoencoder": export.AUTOENCODER, "text-encoder": export.TEXT}
    given = [part for name, file in files.items() for part in (f"--{name}", str(work / "export" / file))]
    target = tmp_path / "trained.safetensors"
    depth = ["--depth", "1"] if kind == "controlnet" else []
    settings = ["--steps", "2", "--batch", "4", "--at-once", "4", "--device", "cpu", "-q"]
    pictures = ["--data", str(tmp_path / "pictures"), "--out", str(target)]
    assert main(["train", kind, *pictures, *given, *settings, *depth]) == 0
    run = Evaluation(command=Command(work=work, size=TOY), files=work / "export", limit=4, seeds=(0,))
    report = evaluate_trained.KINDS[kind](run, target)
    assert json.loads(json.dumps(report)) == report and len(report) >= 1
