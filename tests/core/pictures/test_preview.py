"""Previews: the map from latents to colours, its fit, and the file of the command line."""

import json
from pathlib import Path

import pytest
import tiny
import tiny_pipeline
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import save_file

from sana_core import load_pipeline
from sana_core.cli.main import main
from sana_core.errors import CheckpointError
from sana_core.pictures.preview import INPUTS, OUTPUTS, PreviewFit, PreviewMap, read_map, synthetic_pictures
from sana_core.pictures.tiny_decoder import TinyDecoder, load_tiny_decoder
from sana_core.sources import NANO_PREVIEW

STEPS = 20
PROMPTS = ["a red apple", "a yellow star", "a green frog", "a blue car", "a slice of pizza", "a purple heart"]


def likeness(preview, image):
    a, b = (x.flatten() - x.mean() for x in (preview, F.adaptive_avg_pool2d(image, preview.shape[-2:])))
    return float((a @ b) / (a.norm() * b.norm()))


def test_a_map_is_found_again_from_its_pictures():
    generator = torch.Generator().manual_seed(1)
    wanted = PreviewMap(torch.randn(INPUTS + 1, OUTPUTS, generator=generator))
    fit = PreviewFit()
    assert fit.map() is None
    for _ in range(8):
        latent = torch.randn(1, 32, 9, 12, generator=generator)
        fit.add(latent, F.interpolate(wanted.picture(latent), scale_factor=4, mode="nearest"))
    assert fit.cells == 8 * 9 * 12
    error = (fit.map().weight - wanted.weight).norm() / wanted.weight.norm()
    assert error < 0.02  # the ridge


def test_large_latents_have_fewer_points():
    found = PreviewMap(torch.randn(INPUTS + 1, OUTPUTS, generator=torch.Generator().manual_seed(1)))
    latent = torch.randn(1, 32, 16, 128, generator=torch.Generator().manual_seed(2))
    picture, whole = found.picture(latent), found.picture(latent[..., :64])
    assert picture.shape == (1, 3, 64, 512) and whole.shape == (1, 3, 128, 512)
    torch.testing.assert_close(picture[..., :248], F.avg_pool2d(whole, 2)[..., :248], rtol=1e-4, atol=1e-3)


def test_examples_that_are_not_finite_are_left_out():
    fit = PreviewFit()
    latent = torch.zeros(1, 32, 4, 4)
    latent[0, 0, 0, 0] = torch.nan
    fit.add(latent, torch.zeros(1, 3, 128, 128))
    assert fit.cells == 12 and fit.map().weight.isfinite().all()


def test_unfinished_pictures_of_the_embedded_model():
    """tools/nano/preview.py tells it of fifty prompts."""
    pipeline, found = load_pipeline("nano"), read_map(NANO_PREVIEW)
    early, last = [], []
    for seed, prompt in enumerate(PROMPTS):
        seen = []
        latent = pipeline(
            prompt, seed=seed, steps=STEPS, output="latent", callback=lambda *a, seen=seen: seen.append(a[3])
        )
        image = pipeline.decode(latent, pil=False) * 2 - 1
        early.append(likeness(found.picture(seen[STEPS * 3 // 5 - 1]), image))
        last.append(likeness(found.picture(seen[-1]), image))
    assert sum(early) / len(early) > 0.85 and sum(last) / len(last) > 0.94


def test_the_file_of_the_command_line(tmp_path, capsys, monkeypatch):
    sizes = []
    save = Image.Image.save

    def saved(self, path, *args, **options):
        if isinstance(path, Path):  # the picture itself is encoded in memory
            sizes.append(self.size)
        save(self, path, *args, **options)

    monkeypatch.setattr(Image.Image, "save", saved)
    out = ["-o", str(tmp_path / "a.png"), "--quiet", "--steps", "3"]
    assert main(["a red apple", "--preview", str(tmp_path / "view.png"), *out]) == 0
    assert sizes == [(64, 64)] * 3 and Image.open(tmp_path / "view.png").size == (64, 64)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "view.png"]


def test_another_autoencoder_is_learnt_from_pictures_it_encodes(tmp_path):
    paths = tiny_pipeline.write_files(tmp_path, sampling={**tiny_pipeline.SAMPLING, "steps": 2})
    options = [f"--{name.replace('_', '-')}={path}" for name, path in paths.items()]
    out = ["-o", str(tmp_path / "a.png"), "--quiet", "--preview", str(tmp_path / "view.jpg")]
    assert main(["a red apple", *options, *out]) == 0
    assert Image.open(tmp_path / "view.jpg").size == (24, 16)


@pytest.mark.parametrize("name", ["view.txt", "view", "nowhere/view.png", "folder.png"])
def test_a_file_that_cannot_be_written_is_refused_before_anything_loads(tmp_path, capsys, name):
    (tmp_path / "folder.png").mkdir()
    assert main(["a red apple", "--preview", str(tmp_path / name), "-o", str(tmp_path / "a.png")]) == 2
    assert "--preview" in capsys.readouterr().err and not (tmp_path / "a.png").exists()


def test_synthetic_pictures_are_coloured_and_the_same_each_time():
    pictures = synthetic_pictures(3, 64)
    assert pictures.shape == (3, 3, 64, 64) and pictures.min() >= 0 and pictures.max() <= 1
    assert torch.equal(pictures, synthetic_pictures(3, 64)) and pictures.std() > 0.1


def test_a_tiny_decoder(tmp_path):
    network = TinyDecoder().to_empty(device="cpu")
    tiny.randomized(network)
    save_file(network.state_dict(), tmp_path / "tsd.safetensors")
    decoder = load_tiny_decoder(tmp_path / "tsd.safetensors")
    latent = torch.randn(1, 32, 3, 5, generator=torch.Generator().manual_seed(1))
    assert torch.equal(decoder(latent), network(latent)) and decoder(latent).shape == (1, 3, 24, 40)
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "tsd.safetensors").read_bytes()[:1000])
    save_file({"a": torch.zeros(2)}, tmp_path / "other.safetensors")
    for name in ("cut", "other", "missing"):
        with pytest.raises(CheckpointError, match=name):
            load_tiny_decoder(tmp_path / f"{name}.safetensors")


def test_the_settings_of_a_picture_do_not_name_the_preview(tmp_path):
    out = ["-o", str(tmp_path / "a.png"), "--quiet", "--steps", "1", "--preview", str(tmp_path / "view.png")]
    assert main(["a red apple", *out]) == 0
    assert "view.png" not in json.dumps(Image.open(tmp_path / "a.png").text)


@pytest.mark.parametrize("read", [read_map, load_tiny_decoder])
@pytest.mark.parametrize("content", [b"", b"\xff" * 8 + b"{", b"\x02" + b"\0" * 7 + b"{}"])
def test_damaged_files_of_previews(tmp_path, read, content):
    (tmp_path / "p.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"p\.safetensors"):
        read(tmp_path / "p.safetensors")
