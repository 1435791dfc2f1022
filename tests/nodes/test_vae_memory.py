"""Decoding and encoding in little memory: what the host is asked for, which tiles are chosen, what follows an OOM."""

import importlib.util
import logging
from pathlib import Path

import pytest
import torch
from agreement import assert_agree
from comfy import model_management as host
from comfy import model_patcher, utils
from sana_pack.nodes.bridge import autoencoder
from sana_pack.nodes.bridge import vae as vae_bridge
from sana_pack.sana_core import config, kit
from sana_pack.sana_core.dcae import memory

WIDTHS, BLOCKS = (128, 256, 512, 512, 1024, 1024), ("res",) * 3 + ("vit",) * 3


@pytest.fixture(scope="module")
def vae(file):
    return vae_bridge.load_vae(file("vae", "dcae.safetensors"))


@pytest.fixture
def tiles():
    """[(done, total)] as the progress bar shows it."""
    seen = []
    utils.set_progress_bar_global_hook(lambda value, total, preview, node_id=None: seen.append((value, total)))
    yield seen
    utils.set_progress_bar_global_hook(None)


@pytest.fixture
def free_bytes(monkeypatch):
    """Set how much memory the host says is free."""
    return lambda free: monkeypatch.setattr(host, "get_free_memory", lambda *arguments: free)


@pytest.mark.parametrize("size, limit", [(1024, 1.1e9), (2048, 1.2e9), (4096, 2.0e9)])
def test_the_host_is_asked_for_the_memory_of_usual_tiles(size, limit):
    """Not for that of the whole picture, which would drive out the diffusion model: 26 GB at 4096."""
    released = released_autoencoder()
    for estimate, shape, counted in (
        (autoencoder.decode_memory, (1, 32, size // 32, size // 32), memory.decode_peak_bytes),
        (autoencoder.encode_memory, (1, 3, size, size), memory.encode_peak_bytes),
    ):
        asked = estimate(released, shape, torch.bfloat16)
        assert counted(released, size, size, 1024, torch.bfloat16) < asked < limit


@pytest.mark.parametrize("method, shape", [("decode", (1, 32, 20, 36)), ("encode", (1, 3, 640, 1152))])
def test_the_host_is_asked_for_what_a_run_takes(vae, method, shape):
    """The bytes of live tensors are counted. One tile of the usual size goes beyond the picture's shorter side."""
    model, given = vae.first_stage_model, torch.rand(shape)
    with load_meter().LiveMemory() as live:
        getattr(model, method)(given, tile=1024)
    asked = getattr(vae, f"memory_used_{method}")(shape, torch.float32)
    assert live.peak_bytes < asked < 3 * live.peak_bytes + 2 * given.nbytes


def load_meter():
    spec = importlib.util.spec_from_file_location(
        "sana_meter", Path(__file__).parents[2] / "sana_core" / "live_memory.py"
    )
    meter = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(meter)
    return meter


def released_autoencoder():
    encoder, decoder = (
        tuple(
            config.StageConfig(channels=width, depth=depth, block=block)
            for width, depth, block in zip(WIDTHS, depths, BLOCKS)
        )
        for depths in ((2, 2, 2, 3, 3, 3), (3,) * 6)
    )
    return config.AutoencoderConfig(encoder=encoder, decoder=decoder)


@pytest.mark.parametrize("unused, droppable, tile", [
    (100e9, 0, 1024),  # plenty: yet no larger tile, which would have driven other models out
    (0.2e9, 100e9, 1024),  # dynamic VRAM is full of weights that it can drop
    (0.5e9, 0.5e9, 512), (0.2e9, 0, 128),
])  # fmt: skip
def test_auto_tiles_by_what_the_host_can_give(monkeypatch, unused, droppable, tile):
    """4096 px of the released autoencoder, on a GPU with dynamic VRAM as the host's functions describe it."""
    model = autoencoder.ComfyDCAE(released_autoencoder(), kit.Kit(device="meta"))
    patcher = model_patcher.ModelPatcher(model, load_device=torch.device("cpu"), offload_device=torch.device("cpu"))
    monkeypatch.setattr(host, "loaded_models", lambda *arguments: [patcher])
    monkeypatch.setattr(host, "get_free_memory", lambda *arguments: unused)
    monkeypatch.setattr("comfy_aimdo.model_vbar.vbars_analyze", lambda device: droppable)
    monkeypatch.setattr("comfy.memory_management.aimdo_enabled", True)
    tiles = []
    monkeypatch.setattr(autoencoder, "decode_tiled", lambda *arguments, tile, **options: tiles.append(tile))
    monkeypatch.setattr(autoencoder, "encode_tiled", lambda *arguments, tile, **options: tiles.append(tile))
    model.decode(torch.empty(1, 32, 128, 128, dtype=torch.bfloat16, device="meta"))
    assert tiles == [tile]
    model.encode(torch.empty(1, 3, 4096, 4096, dtype=torch.bfloat16, device="meta"))
    assert 128 <= tiles[1] <= 1024


@pytest.mark.parametrize("method", ["decode", "encode"])
def test_stock_nodes_choose_tiles_by_the_free_memory(vae, tiles, free_bytes, method):
    given = torch.randn(1, 32, 20, 16) if method == "decode" else torch.rand(1, 640, 512, 3)
    expected = getattr(vae, method)(given)
    assert tiles[-1] == (1, 1)
    tiles.clear()
    peak = memory.decode_peak_bytes if method == "decode" else memory.encode_peak_bytes
    free_bytes(memory.MARGIN * peak(vae.first_stage_model.config, 640, 512, 384, torch.float32) + 1)
    assert_agree(getattr(vae, method)(given), expected, 1e-5)
    assert tiles[-1] == (2 * 2, 2 * 2)  # of 320 x 256


@pytest.mark.parametrize("method", ["decode", "encode"])
def test_too_little_memory_for_any_tile_costs_a_line_and_no_picture(vae, tiles, free_bytes, caplog, method):
    """The estimate may be wrong, and the host has a second attempt for when it is not."""
    given = torch.randn(1, 32, 20, 16) if method == "decode" else torch.rand(1, 640, 512, 3)
    expected = getattr(vae, method)(given)
    tiles.clear()
    free_bytes(1e6)
    with caplog.at_level(logging.WARNING, logger="sana"):
        assert_agree(getattr(vae, method)(given), expected, 1e-5)
    assert tiles[-1] == (5 * 4, 5 * 4)  # of 128
    (line,) = [record.getMessage() for record in caplog.records]
    assert "512 x 640 pixels" in line and "0.00 GB are free" in line


SHORTAGES = [host.OOM_EXCEPTION("out of memory"), RuntimeError("MPS backend out of memory"), MemoryError()]


@pytest.mark.parametrize("tile, said", [(1, SHORTAGES[0]), *((3, said) for said in SHORTAGES)], ids=str)
@pytest.mark.parametrize("method", ["decode", "encode"])
def test_running_out_of_memory_falls_back_to_exact_tiles(monkeypatch, vae, tiles, free_bytes, method, tile, said):
    """At the first tile or in the middle, and whatever the device calls it: the host tries again, in tiles of 256 to
    decode and of 512 to encode.
    """
    given = torch.randn(1, 32, 34, 16) if method == "decode" else torch.rand(1, 1088, 512, 3)
    expected = getattr(vae, method)(given)
    left = iter(range(tile - 1, -1, -1))
    counted = autoencoder.counted

    def fails_once(unit):
        on_tile = counted(unit)

        def after_tile(done, total):
            if next(left, None) == 0:
                raise said
            on_tile(done, total)

        return after_tile

    monkeypatch.setattr(autoencoder, "counted", fails_once)
    free_bytes(1e6)
    tiles.clear()
    assert_agree(getattr(vae, method)(given), expected, 1e-5)
    assert tiles[-1] == ((5 * 2, 5 * 2) if method == "decode" else (3, 3))
    assert next(left, None) is None
