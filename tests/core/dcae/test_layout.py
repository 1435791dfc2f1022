"""How maps lie in memory: convolutions on a GPU copy every input that is not channels-last in one piece."""

import pytest
import tiny
import torch

from sana_core.dcae import strips
from sana_core.dcae.layers import Downsample, InterpolateUpsample, ShuffleUpsample
from sana_core.dcae.tiling import decode_tiled, encode_tiled


def copied_inputs(network, run):
    """Inputs of convolutions that do not lie in one piece, and all of them.

    Not counted: convolutions of stride 2, which need columns in pairs, and the first layer of a tile, which is given a
    part of the small map.
    """
    _, tiles = network.chains()
    seen, apart = [], {layer.conv for layer in network.modules() if isinstance(layer, Downsample)}
    if isinstance(tiles[0], (ShuffleUpsample, InterpolateUpsample)):
        apart.add(tiles[0].conv)

    def look(layer, given):
        if layer not in apart and given[0].shape[1] > 3:
            seen.append(given[0].is_contiguous(memory_format=torch.channels_last))

    hooks = [
        module.register_forward_pre_hook(look) for module in network.modules() if isinstance(module, torch.nn.Conv2d)
    ]
    run()
    for hook in hooks:
        hook.remove()
    return seen.count(False), len(seen)


@pytest.mark.parametrize("tile", [None, 128])
@pytest.mark.parametrize("lite", [False, True])
def test_convolutions_of_the_decoder_get_whole_maps(monkeypatch, lite, tile):
    monkeypatch.setattr(strips, "STRIP_BYTES", 2**14)
    decoder, latent = tiny.autoencoder(lite=lite).decoder, torch.randn(1, 32, 7, 9)
    copied, convolutions = copied_inputs(decoder, lambda: decode_tiled(decoder, latent, tile=tile))
    assert copied == 0 and convolutions > (60 if tile else 10)


@pytest.mark.parametrize("tile", [None, 128])
def test_convolutions_of_the_encoder_get_whole_maps(monkeypatch, tile):
    monkeypatch.setattr(strips, "STRIP_BYTES", 2**14)
    encoder, image = tiny.autoencoder().encoder, torch.randn(1, 3, 224, 288)
    copied, convolutions = copied_inputs(encoder, lambda: encode_tiled(encoder, image, tile=tile))
    assert copied == 0 and convolutions > (60 if tile else 10)
