"""How maps lie in memory: convolutions on a GPU copy every input that is not channels-last in one piece."""

import pytest
import tiny
import torch
from torch.overrides import TorchFunctionMode

from sana_core.dcae import strips
from sana_core.dcae.layers import InterpolateUpsample, ShuffleUpsample
from sana_core.dcae.tiling import decode_tiled, encode_tiled


class Convolutions(TorchFunctionMode):
    """Looks at the inputs of convolutions as they run, those that take over the work of a layer too.

    Not counted: convolutions of stride 2, which need columns in pairs; pictures; and those by weights of the shape
    `apart`, see `first_of_a_tile`.
    """

    def __init__(self, apart=()):
        super().__init__()
        self.apart, self.whole = apart, []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func in (torch.conv2d, torch.nn.functional.conv2d):
            given = {**dict(zip(("input", "weight", "bias", "stride"), args)), **(kwargs or {})}
            x, weight = given["input"], given["weight"]
            if given.get("stride", 1) in (1, (1, 1)) and x.shape[1] > 3 and tuple(weight.shape) not in self.apart:
                self.whole.append(x.is_contiguous(memory_format=torch.channels_last))
        return func(*args, **(kwargs or {}))


def first_of_a_tile(network):
    """Shapes of the weights of a tile's first layer, plain and folded: it is given a part of the small map."""
    _, tiles = network.chains()
    if not isinstance(tiles[0], (ShuffleUpsample, InterpolateUpsample)):
        return ()
    out, channels = tiles[0].conv.weight.shape[:2]
    return (out, channels, 3, 3), (4 * out, channels, 2, 2)


@pytest.mark.parametrize("tile", [None, 128])
@pytest.mark.parametrize("lite", [False, True])
def test_convolutions_of_the_decoder_get_whole_maps(monkeypatch, lite, tile):
    monkeypatch.setattr(strips, "STRIP_BYTES", 2**14)
    decoder, latent = tiny.autoencoder(lite=lite).decoder, torch.randn(1, 32, 7, 9)
    with Convolutions(first_of_a_tile(decoder) if tile else ()) as seen:
        decode_tiled(decoder, latent, tile=tile)
    assert seen.whole.count(False) == 0 and len(seen.whole) > (60 if tile else 10)


@pytest.mark.parametrize("tile", [None, 128])
def test_convolutions_of_the_encoder_get_whole_maps(monkeypatch, tile):
    monkeypatch.setattr(strips, "STRIP_BYTES", 2**14)
    encoder, image = tiny.autoencoder().encoder, torch.randn(1, 3, 224, 288)
    with Convolutions() as seen:
        encode_tiled(encoder, image, tile=tile)
    assert seen.whole.count(False) == 0 and len(seen.whole) > (60 if tile else 10)
