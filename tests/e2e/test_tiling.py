"""Tiles through the HTTP queue of a real server: stock nodes, the own node, progress and cancelling."""

import asyncio
import json
import urllib.request

import numpy as np
import pytest
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


async def messages(server, build, width, height=HEIGHT, on_progress=lambda data: None):
    """(type, data) that the server sends about a graph, until it has ended. A size of its own makes it a graph that the
    server has no result of yet.
    """
    aiohttp = pytest.importorskip("aiohttp", reason="messages come over a WebSocket, which is read with aiohttp")
    parts, seen = Tiled(width, height), []
    url = f"ws://127.0.0.1:{server.port}/ws?clientId=tiling"
    async with aiohttp.ClientSession() as session, session.ws_connect(url) as socket:
        parts.g.add("SaveImage", images=build(parts), filename_prefix="p")
        prompt_id = server.queue(parts.g, "tiling")
        async for message in socket:
            if message.type != aiohttp.WSMsgType.TEXT:
                continue
            content = json.loads(message.data)
            data = content["data"]
            seen.append((content["type"], data))
            if content["type"] == "progress":
                on_progress(data)
            if data.get("prompt_id") == prompt_id and (
                content["type"] == "execution_interrupted" or (content["type"] == "executing" and data["node"] is None)
            ):
                return seen
    return seen


def received(server, build, **options):
    return asyncio.run(asyncio.wait_for(messages(server, build, **options), 120))


@pytest.mark.parametrize(
    "build, total", [(stock_decode, 3 * 3), (stock_encode, 3 * 3), (own_exact, 2 * 2), (own_blended, 2 * 2)]
)
def test_progress_counts_the_tiles(server, build, total):
    found = [
        data for kind, data in received(server, build, width=WIDTH + 32) if kind == "progress" and data["max"] == total
    ]
    assert found[0]["value"] == 1 and found[-1]["value"] == total


def test_cancelling_stops_between_tiles(server):
    def interrupt(data):
        if data["max"] == 64:
            urllib.request.urlopen(
                urllib.request.Request(f"http://127.0.0.1:{server.port}/interrupt", b""), timeout=30
            ).close()

    seen = received(server, stock_decode, width=1024, height=1024, on_progress=interrupt)
    progress = [data for kind, data in seen if kind == "progress"]
    assert seen[-1][0] == "execution_interrupted"
    assert progress[-1]["max"] == 64 and progress[-1]["value"] < 64
