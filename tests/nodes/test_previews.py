"""Previews: colours that are learnt when a DC-AE decodes, the embedded model's own, the tiny decoder."""

from pathlib import Path

import folder_paths
import latent_preview
import numpy as np
import pytest
import tiny
import torch
from safetensors.torch import save_file
from sana_pack.nodes.bridge import latent_format, previews, vae
from sana_pack.nodes.bridge.loading import load_model
from sana_pack.sana_core.pictures.tiny_decoder import TinyDecoder
from sana_pack.sana_core.sources import NANO_FILES

METHODS = latent_preview.LatentPreviewMethod


@pytest.fixture(autouse=True)
def auto(monkeypatch):
    monkeypatch.setattr(latent_preview.args, "preview_method", METHODS.Auto)


def folder():
    return Path(folder_paths.get_user_directory()) / previews.FOLDER


def autoencoder(tmp_path, seed=0):
    path = tmp_path / f"vae{seed}.safetensors"
    save_file(tiny.autoencoder(seed).state_dict(), path)
    return vae.load_vae(str(path))


def preview(latent, own=None):
    previewer = latent_preview.get_previewer("cpu", latent_format.SanaLatent(own))
    return np.asarray(previewer.decode_latent_to_preview(latent)).astype(float)


def likeness(picture, image):
    """image: (1, H, W, 3) in 0..1."""
    pooled = torch.nn.functional.adaptive_avg_pool2d(image.movedim(-1, 1), picture.shape[:2])[0].movedim(0, -1)
    return np.corrcoef(picture.ravel(), pooled.numpy().ravel())[0, 1]


def test_a_decode_teaches_the_colours_of_its_autoencoder(tmp_path):
    decoder = autoencoder(tmp_path)
    raw = torch.randn(1, 32, 40, 40, generator=torch.Generator().manual_seed(1))
    assert preview(raw * 0.41407).shape == (40, 40, 3)  # structure, before anything was decoded
    image = decoder.decode(raw)
    picture = preview(raw * 0.41407)
    assert picture.shape == (320, 320, 3) and likeness(picture, image) > 0.3  # random weights are hardly linear
    files = list(folder().iterdir())
    assert [file.suffix for file in files] == [".safetensors"]


def test_it_is_known_in_the_next_process_and_by_autoencoder(tmp_path):
    first, second = autoencoder(tmp_path), autoencoder(tmp_path, seed=5)
    raw = torch.randn(1, 32, 20, 20, generator=torch.Generator().manual_seed(1))
    first.decode(raw)
    known = preview(raw)
    previews.learnt.forget()
    assert np.array_equal(preview(raw), known)
    second.decode(raw)
    assert not np.array_equal(preview(raw), known)
    first.decode(raw)
    assert np.abs(preview(raw) - known).mean() < 3  # the same picture counts twice now
    assert len(list(folder().iterdir())) == 2


def test_damaged_sums_are_begun_anew(tmp_path):
    decoder = autoencoder(tmp_path)
    raw = torch.randn(1, 32, 20, 20, generator=torch.Generator().manual_seed(1))
    decoder.decode(raw)
    (file,) = folder().iterdir()
    file.write_bytes(b"no file")
    previews.learnt.forget()
    assert preview(raw).shape == (20, 20, 3)
    decoder.decode(raw)
    assert preview(raw).shape == (160, 160, 3)


def test_a_folder_that_cannot_be_written_costs_no_picture(tmp_path):
    folder().write_text("a file")
    decoder = autoencoder(tmp_path)
    raw = torch.randn(1, 32, 20, 20, generator=torch.Generator().manual_seed(1))
    assert decoder.decode(raw).isfinite().all()
    assert preview(raw).shape == (160, 160, 3)


def test_the_embedded_model_brings_its_own(tmp_path):
    model = load_model(str(NANO_FILES.transformer))
    own = model.model.latent_format.own
    assert own is not None
    decoder = vae.load_vae(str(NANO_FILES.autoencoder))
    raw = torch.randn(1, 32, 8, 8, generator=torch.Generator().manual_seed(1)) * 2
    image = decoder.decode(raw)
    assert not folder().exists()
    assert likeness(preview(raw * 0.41407, own), image) > 0.5  # noise is no emoji


def test_previewers_of_other_packs_get_one_colour_a_cell(tmp_path):
    sana = load_model(str(NANO_FILES.transformer)).model.latent_format
    factors, bias = torch.tensor(sana.latent_rgb_factors), torch.tensor(sana.latent_rgb_factors_bias)
    latent = torch.randn(1, 32, 8, 8, generator=torch.Generator().manual_seed(1))
    plain = latent[0].movedim(0, -1) @ factors + bias
    assert factors.shape == (32, 3) and plain.shape == (8, 8, 3)
    wanted = torch.nn.functional.adaptive_avg_pool2d(sana.own.picture(torch.ones(1, 32, 8, 8)), 1).flatten()
    torch.testing.assert_close(torch.ones(32) @ factors + bias, wanted, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("method", [METHODS.TAESD, METHODS.Auto, METHODS.Latent2RGB, METHODS.NoPreviews])
def test_the_tiny_decoder_is_used_where_it_lies_there(tmp_path, monkeypatch, method, caplog):
    monkeypatch.setattr(latent_preview.args, "preview_method", method)
    network = tiny.randomized(TinyDecoder().to_empty(device="cpu"))
    save_file(network.state_dict(), tmp_path / "tsd.safetensors")
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "vae_approx", ([str(tmp_path)], {".safetensors"}))
    found = latent_preview.get_previewer("cpu", latent_format.SanaLatent())
    if method == METHODS.NoPreviews:
        assert found is None
        return
    size = (64, 48) if method in (METHODS.TAESD, METHODS.Auto) else (8, 6)
    assert found.decode_latent_to_preview(torch.randn(2, 32, 6, 8)).size == size
    (tmp_path / "tsd.safetensors").write_bytes(b"damaged")
    assert latent_preview.get_previewer("cpu", latent_format.SanaLatent()) is not None
    assert ("tsd.safetensors" in caplog.text) == (method != METHODS.Latent2RGB)


def test_taesd_without_a_file_is_no_warning(monkeypatch, caplog):
    monkeypatch.setattr(latent_preview.args, "preview_method", METHODS.TAESD)
    assert preview(torch.randn(1, 32, 6, 8)).shape == (6, 8, 3)
    assert not caplog.records
