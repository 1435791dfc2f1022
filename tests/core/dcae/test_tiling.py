"""Tiles give what the whole gives, in the memory that was promised."""

from dataclasses import replace
from functools import cache

import pytest
import tiny
import torch
from agreement import error

from bench.networks import AUTOENCODERS
from sana_core.dcae import networks, strips
from sana_core.dcae.autoencoder import DCAE
from sana_core.dcae.layers import Downsample, GLUMBConv, InterpolateUpsample, LiteMLA, ResBlock, ShuffleUpsample
from sana_core.dcae.memory import MARGIN, TILES, decode_peak_bytes, encode_peak_bytes, pick_tile
from sana_core.dcae.networks import Decoder, Encoder
from sana_core.dcae.strips import Box, crop, plan, run
from sana_core.dcae.tiling import decode_tiled, encode_tiled, tile_boxes
from sana_core.errors import InputError
from sana_core.geometry import DC_AE_F32
from sana_core.kit import Kit
from sana_core.live_memory import LiveMemory, weight_bytes

FULL, LITE = AUTOENCODERS["DC-AE 1.0, 1.1"], AUTOENCODERS["DC-AE Lite"]
BF16, FP32 = torch.bfloat16, torch.float32
EXACT = {torch.float32: 1e-5, torch.float64: 1e-12}  # largest error by the root mean square of the whole


@cache
def pair(side, lite=False, dtype=torch.float32, batch=1, cells=(5, 9)):
    """A function of the tile, and its result without tiles."""
    model = tiny.autoencoder(lite=lite).to(dtype)
    generator = torch.Generator().manual_seed(3)
    if side == "decode":
        given, method = torch.randn(batch, 32, *cells, generator=generator).to(dtype), model.decode
    else:
        given = torch.rand(batch, 3, cells[0] * 32, cells[1] * 32, generator=generator).to(dtype) * 2 - 1
        method = model.encode
    return lambda tile: method(given, tile=tile), method(given)


@pytest.fixture
def thin_strips(monkeypatch):
    """Strips of a few rows, as real ones are in maps of real size."""
    monkeypatch.setattr(strips, "STRIP_BYTES", 1)


@pytest.mark.parametrize("dtype", EXACT)
@pytest.mark.parametrize("side, lite", [("decode", False), ("decode", True), ("encode", False)])
def test_tiles_change_nothing(side, lite, dtype):
    tiled, expected = pair(side, lite, dtype)
    for tile in (128, 192):
        assert error(tiled(tile), expected) < EXACT[dtype]


@pytest.mark.slow
@pytest.mark.parametrize("side, lite", [("decode", False), ("decode", True), ("encode", False)])
def test_strips_change_nothing(thin_strips, side, lite):
    tiled, expected = pair(side, lite, torch.float64, cells=(5, 6))
    for tile in (128, 1024):
        assert error(tiled(tile), expected) < EXACT[torch.float64]


@pytest.mark.parametrize("side", ["decode", "encode"])
@pytest.mark.parametrize("cells", [(1, 1), (1, 9), (6, 1), (4, 4)])
def test_any_shape_and_batch(thin_strips, side, cells):
    tiled, expected = pair(side, batch=2, cells=cells)
    assert error(tiled(128), expected) < EXACT[torch.float32]


NEARER = {  # one row and column less than each layer reaches
    ResBlock: lambda start, stop: (start - 1, stop + 1),
    GLUMBConv: lambda start, stop: (start, stop),
    LiteMLA: lambda start, stop: (start - 1, stop + 1),
    InterpolateUpsample: lambda start, stop: (start // 2, (stop + 1) // 2),
    ShuffleUpsample: lambda start, stop: (start // 2, (stop + 1) // 2),
    Downsample: lambda start, stop: (2 * start, 2 * stop),
}


@pytest.mark.slow
@pytest.mark.parametrize("side, layer", [
    ("decode", ResBlock), ("decode", GLUMBConv), ("decode", LiteMLA), ("decode", InterpolateUpsample),
    ("decode", ShuffleUpsample),
    ("encode", ResBlock), ("encode", Downsample),
])  # fmt: skip
def test_one_row_too_few_shows(thin_strips, monkeypatch, side, layer):
    tiled, expected = pair(side, layer is ShuffleUpsample, torch.float64, cells=(5, 6))
    assert error(tiled(128), expected) < EXACT[torch.float64]
    monkeypatch.setattr(layer, "reach", staticmethod(NEARER[layer]))
    assert error(tiled(128), expected) > 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("side", ["decode", "encode"])
def test_one_row_too_few_at_the_ends_shows(monkeypatch, side):
    """The decoder's last convolution and the encoder's first."""
    tiled, expected = pair(side, dtype=torch.float64)
    monkeypatch.setattr(networks, "conv3x3_reach", lambda start, stop: (start, stop))
    assert error(tiled(128), expected) > 1e-5


@pytest.mark.parametrize("config, reach", [(FULL, 7), (LITE, 9)])
def test_halo_of_the_decoder(config, reach):
    """In positions of the map at 1/8: what the structure comes to, and none where the picture ends."""
    _, high = Decoder(config, Kit(device="meta")).chains()
    first, inner = (
        plan(high, box, (2048, 1024))[0] for box in (Box((0, 512), (0, 1024)), Box((512, 1024), (256, 512)))
    )
    assert first == ((0, 64 + reach), (0, 128))
    assert inner == ((64 - reach, 128 + reach), (32 - reach, 64 + reach))


def test_halo_of_the_encoder():
    """36 pixels above and left of a tile, 29 below and right: strides of two look back further than ahead. Pairs of
    pixels stay pairs.
    """
    high, _ = Encoder(FULL, Kit(device="meta")).chains()
    rows, columns = plan(high, Box((64, 128), (64, 128)), (256, 256))[0]
    assert rows == columns
    assert 512 - rows[0] in range(36, 46) and rows[1] - 1024 == 29


@pytest.mark.parametrize("lite", [False, True])
def test_the_halo_is_needed_to_its_last_row(lite):
    """A change in the outermost row or column that a tile is given changes the tile."""
    decoder = tiny.autoencoder(lite=lite).decoder.double()
    _, high = decoder.chains()
    boxes = plan(high, Box((96, 128), (96, 128)), (256, 256))
    whole = Box.of((32, 32))
    x = torch.randn(1, 64, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    expected = run(high, crop(x, whole, boxes[0]).clone(), boxes)
    for edge in ((..., 0, slice(None)), (..., -1, slice(None)), (..., 0), (..., -1)):
        given = crop(x, whole, boxes[0]).clone()
        given[edge] += 10
        assert not torch.equal(run(high, given, boxes), expected)


@pytest.mark.parametrize("tile", [0, 96, 100, 144, 128.0, "512"])
def test_tiles_that_cannot_be(tile):
    model = tiny.autoencoder()
    for call in (
        lambda: model.decode(torch.zeros(1, 32, 2, 2), tile=tile),
        lambda: model.encode(torch.zeros(1, 3, 64, 64), tile=tile),
    ):
        with pytest.raises(InputError, match="multiple of 32 pixels from 128"):
            call()


def test_tiles_cover_the_picture_once_and_evenly():
    boxes = tile_boxes((1056, 512), 512, DC_AE_F32)
    assert [box.rows for box in boxes] == [(0, 352), (352, 704), (704, 1056)] and {box.columns for box in boxes} == {
        (0, 512)
    }
    assert len(tile_boxes((1056, 512), None, DC_AE_F32)) == 1


def test_the_result_goes_where_the_caller_wants_it():
    model, latent = tiny.autoencoder(), torch.randn(2, 32, 5, 5, generator=torch.Generator().manual_seed(5))
    calls, out = [], torch.full((2, 3, 160, 160), torch.nan, dtype=torch.float64)
    result = decode_tiled(model.decoder, latent, tile=128, out=out, on_tile=lambda *call: calls.append(call))
    assert result is out and calls == [(done, 8) for done in range(1, 9)]
    assert error(out.float(), model.decoder(latent)) < 1e-5
    calls.clear()
    encoded = encode_tiled(model.encoder, out.float(), tile=128, on_tile=lambda *call: calls.append(call))
    assert encoded.shape == latent.shape and calls == [(done, 8) for done in range(1, 9)]
    for tile, expected in ((None, 2), (1024, 2)):
        calls.clear()
        decode_tiled(model.decoder, latent, tile=tile, on_tile=lambda *call: calls.append(call))
        assert calls == [(done, expected) for done in range(1, expected + 1)]
    with pytest.raises(InputError, match=r"\(2, 3, 160, 160\).*\(2, 3, 160, 128\)"):
        decode_tiled(model.decoder, latent, tile=128, out=out[..., :128])


def test_a_host_can_interrupt_between_tiles():
    class Interrupted(Exception):
        pass

    def on_tile(done, total):
        if done == 2:
            raise Interrupted

    out = torch.full((1, 3, 128, 256), torch.nan)
    with pytest.raises(Interrupted):
        decode_tiled(tiny.autoencoder().decoder, torch.zeros(1, 32, 4, 8), tile=128, out=out, on_tile=on_tile)
    assert out.isfinite().all()
    with pytest.raises(Interrupted):
        encode_tiled(tiny.autoencoder().encoder, torch.zeros(1, 3, 128, 256), tile=128, on_tile=on_tile)


def test_inputs_stay_as_they_are(thin_strips):
    model, latent, image = tiny.autoencoder(), torch.ones(1, 32, 5, 5), torch.ones(1, 3, 160, 160)
    model.decode(latent, tile=128)
    model.encode(image, tile=128)
    decode_tiled(model.decoder, latent, tile=128)
    assert torch.equal(latent, torch.ones_like(latent)) and torch.equal(image, torch.ones_like(image))


def test_without_tiles_it_can_be_trained():
    model, latent = tiny.autoencoder(), torch.zeros(1, 32, 2, 2, requires_grad=True)
    model.encode(model.decode(latent)).sum().backward()
    assert latent.grad is not None and latent.grad.abs().min() > 0
    assert not model.decode(latent, tile=128).requires_grad


@cache
def measured(side, config, pixels, tile, dtype=torch.bfloat16, batch=1):
    """Peak bytes of activations, on the meta device."""
    model = DCAE(config, Kit(device="meta", dtype=dtype))
    latent, image = (
        torch.empty(batch, *shape, dtype=dtype, device="meta")
        for shape in ((32, pixels // 32, pixels // 32), (3, pixels, pixels))
    )
    with LiveMemory() as meter:
        if side == "decode":
            decode_tiled(model.decoder, latent, tile=tile)
        else:
            encode_tiled(model.encoder, image, tile=tile)
    return meter.peak_bytes


def shallow(config):
    """One block a stage, which saves time: the memory is in the widths."""
    stages = (
        [replace(stage, depth=min(1, stage.depth)) for stage in side] for side in (config.encoder, config.decoder)
    )
    encoder, decoder = map(tuple, stages)
    return replace(config, encoder=encoder, decoder=decoder)


@pytest.mark.parametrize("config", [FULL, LITE], ids=["full", "lite"])
@pytest.mark.parametrize("pixels, tile, dtype, batch", [
    (1024, None, BF16, 2), (1024, 512, BF16, 2), (1024, 512, FP32, 1), (1024, 1024, FP32, 1),
    (2048, None, FP32, 1), (2048, 1024, BF16, 1), (4096, 1024, BF16, 1),
])  # fmt: skip
def test_predicted_memory(config, pixels, tile, dtype, batch):
    config = shallow(config)
    for side, predict in (("decode", decode_peak_bytes), ("encode", encode_peak_bytes)):
        if side == "decode" or not config.lite:  # the encoders are the same
            predicted = predict(config, pixels, pixels, tile, dtype, batch)
            assert predicted == pytest.approx(measured(side, config, pixels, tile, dtype, batch), rel=0.1), side


@pytest.mark.slow
@pytest.mark.parametrize("pixels, tile, gigabytes", [(4096, 1024, 2.0), (4096, 512, 1.6), (2048, 512, 0.9)])
def test_memory_of_a_large_picture(pixels, tile, gigabytes):
    """Of the published decoder, its weights included."""
    activations = measured("decode", FULL, pixels, tile)
    assert weight_bytes(DCAE(FULL, Kit(device="meta", dtype=BF16)).decoder) + activations < gigabytes * 1e9
    assert decode_peak_bytes(FULL, pixels, pixels, tile, BF16) == pytest.approx(activations, rel=0.1)


@pytest.mark.parametrize("encode", [False, True])
def test_the_largest_tile_that_fits(caplog, encode):
    predict = encode_peak_bytes if encode else decode_peak_bytes
    needed = [MARGIN * predict(FULL, 4096, 4096, tile, BF16) for tile in TILES]
    assert needed == sorted(needed, reverse=True)
    for tile, larger in zip(TILES[1:5], needed):
        assert pick_tile(FULL, 4096, 4096, BF16, int(larger) - 1, peak_bytes=predict) == tile
    assert pick_tile(FULL, 4096, 4096, BF16, int(needed[0]) + 1, peak_bytes=predict) is None
    assert pick_tile(FULL, 4096, 4096, BF16, 400_000_000, peak_bytes=predict) == TILES[-1]
    assert f"4096 x 4096 pixels in its smallest tiles takes about {needed[-1] / 1e9:.2f} GB" in caplog.text
    assert "0.40 GB are free" in caplog.text


def test_a_picture_of_4096_on_a_small_card():
    """With less and less memory the tiles get smaller, what is held stays below, and the picture stays the same."""
    weights, tiles = weight_bytes(DCAE(FULL, Kit(device="meta", dtype=BF16)).decoder), []
    for capacity in (2_000_000_000, 1_250_000_000):
        tiles.append(pick_tile(FULL, 4096, 4096, BF16, capacity - weights))
        assert weights + measured("decode", FULL, 4096, tiles[-1]) < capacity
    assert tiles == [1024, 512]
    tiled, expected = pair("decode", cells=(9, 9))
    config = tiny.autoencoder_config()
    free = int(MARGIN * decode_peak_bytes(config, 288, 288, 128, FP32)) + 1
    tile = pick_tile(config, 288, 288, FP32, free)
    assert tile == 256  # in so small a network the low resolutions hold the most, with either tile
    assert error(tiled(tile), expected) < 1e-5


def test_auto_on_this_machine(monkeypatch):
    from sana_core.dcae import memory

    tiled, expected = pair("decode", cells=(5, 5))
    for free in (None, 10**12, int(MARGIN * decode_peak_bytes(tiny.autoencoder_config(), 160, 160, 128, FP32)) + 1):
        monkeypatch.setattr(memory, "free_memory", lambda device, free=free: free)
        assert error(tiled("auto"), expected) < 1e-5
    monkeypatch.setattr(memory, "free_memory", lambda device: 1000)
    assert error(tiled("auto"), expected) < 1e-5  # an estimate refuses nothing: the allocator decides
