"""Tiles through the HTTP queue of a real server: stock nodes, the own node, progress and cancelling."""

import numpy as np
import pytest
from e2e.client import ENDS, Client
from e2e.expected import Core
from e2e.graphs import SCALE, Parts
from e2e.server import ExecutionFailed

WIDTH, HEIGHT = 352, 288
LEVELS = 1  # of 255, by which pictures may differ: roundings of 1e-6 move a level now and then
STOCK = {"tile_size": 128, "overlap": 32, "temporal_size": 64, "temporal_overlap": 8}
EXACT, BLEND = {"method": "exact"}, {"method": "blend", "method__overlap": 64}


class Tiled(Parts):
    """A picture with something to see everywhere, and its latent."""

    def __init__(self, width=WIDTH, height=HEIGHT):
        super().__init__()
        size = {"upscale_method": "bicubic", "width": width, "height": height, "crop": "disabled"}
        self.pixels = self.g.add("ImageScale", image=self.image(), **size)
        self.samples = self.g.add("VAEEncode", pixels=self.pixels, vae=self.vae)

    def own_decode(self, tile_size="256", **method):
        return self.g.add("SanaNativeDecodeTiled", samples=self.samples, vae=self.vae, tile_size=tile_size, **method)


def untiled(parts):
    return parts.decode(parts.samples)


def stock_decode(parts):
    return parts.g.add("VAEDecodeTiled", samples=parts.samples, vae=parts.vae, **STOCK)


def stock_encode(parts):
    return parts.decode(parts.g.add("VAEEncodeTiled", pixels=parts.pixels, vae=parts.vae, **STOCK))


def own_exact(parts):
    return parts.own_decode(**EXACT)


def own_auto(parts):
    return parts.own_decode("auto", **EXACT)


def own_blended(parts):
    return parts.own_decode(**BLEND)


def pictures(server, build):
    parts = Tiled()
    return server.pictures(parts.g, build(parts)).astype(int)


@pytest.fixture(scope="module")
def expected(server):
    """What sana_core makes of the latent, without tiles."""
    parts = Tiled()
    return Core(server).decode(server.latents(parts.g, parts.samples) * SCALE)


def test_without_tiles(server, expected):
    found = pictures(server, untiled)
    assert found.shape == (1, HEIGHT, WIDTH, 3) and np.abs(found - expected).max() <= LEVELS


@pytest.mark.parametrize("build", [stock_decode, stock_encode, own_exact, own_auto])
def test_exact_tiles_give_the_untiled_picture(server, expected, build):
    assert np.abs(pictures(server, build) - expected).max() <= LEVELS


def test_blended_tiles_give_another_one(server, expected):
    found = pictures(server, own_blended)
    assert found.shape == expected.shape and np.abs(found - expected).max() > 1


def test_a_vae_of_another_model_is_refused(server):
    parts = Tiled()
    parts.vae = parts.g.add("VAELoader", vae_name="pixel_space")
    with pytest.raises(
        ExecutionFailed, match="decodes with SANA's DC-AE, but the connected VAE is of the kind PixelspaceConversionVAE"
    ):
        server.pictures(parts.g, parts.own_decode(**EXACT))


@pytest.fixture(scope="module")
def client(server):
    return Client(server, "tiling")


def queued(client, build, width, height=HEIGHT):
    """The id of a graph. A size of its own makes it one that the server has no result of yet."""
    parts = Tiled(width, height)
    parts.g.add("SaveImage", images=build(parts), filename_prefix="p")
    return client.queue(parts.g)


@pytest.mark.parametrize(
    "build, total", [(stock_decode, 3 * 3), (stock_encode, 3 * 3), (own_exact, 2 * 2), (own_blended, 2 * 2)]
)
def test_progress_counts_the_tiles(client, build, total):
    prompt_id = queued(client, build, WIDTH + 32)
    assert client.wait(ENDS, prompt_id) == "execution_success"
    found = [data["value"] for data in client.progress(prompt_id) if data["max"] == total]
    assert found[0] == 1 and found[-1] == total


def test_cancelling_stops_between_tiles(server, client):
    prompt_id = queued(client, stock_decode, width=1024, height=1024)
    client.wait(("progress",), prompt_id, lambda data: data["max"] == 64)
    server.post("/interrupt", {})
    assert client.wait(ENDS, prompt_id) == "execution_interrupted"
    last = client.progress(prompt_id)[-1]
    assert last["max"] == 64 and last["value"] < 64
