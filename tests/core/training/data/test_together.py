"""From a folder to what a step trains on."""

import numpy as np
import torch
from PIL import Image
from tiny import autoencoder_config, randomized

from sana_core.dcae.autoencoder import DCAE
from sana_core.training.data.draws import Draws
from sana_core.training.data.fingerprint import fingerprint
from sana_core.training.data.latents import LatentCache
from sana_core.training.data.read import read_data
from sana_core.training.data.texts import TextCache, all_texts, drawn_texts
from sana_core.training.data.views import ConditionView


def noise(path, width, height, seed):
    path.parent.mkdir(exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    path.with_suffix(".txt").write_text(f"picture {path.stem}")


def encode_texts(texts):
    return torch.ones(len(texts), 3, 8), torch.ones(len(texts), 3, dtype=torch.bool)


def test_a_broken_picture_of_one_data_set_leaves_the_other_whole(tmp_path):
    for index in range(3):
        noise(tmp_path / f"own/{index}.png", 64, 64, index)
        noise(tmp_path / f"prior/{index}.png", 64, 96, 10 + index)
    broken = tmp_path / "own/1.png"
    broken.write_bytes(broken.read_bytes()[:-2000])
    own, prior = read_data(tmp_path / "own"), read_data(tmp_path / "prior")
    assert len(own.examples) == 3  # its header is whole

    autoencoder = randomized(DCAE(autoencoder_config()))
    pictures = LatentCache(tmp_path / "cache", fingerprint(autoencoder))
    edges = LatentCache(tmp_path / "cache", fingerprint(autoencoder), ConditionView())
    draws = Draws(own, batch=2, seed=0, native=64, prior=prior)
    failed = {}
    for cache in (pictures, edges):
        failed |= cache.fill(draws.examples, draws.wanted, autoencoder.encode)
    assert [example.name for example in failed] == ["1.png"]
    own, prior = own.without(failed), prior.without(failed)
    assert len(own.examples) == 2 and len(prior.examples) == 3 and not prior.skipped
    draws = Draws(own, batch=2, seed=0, native=64, prior=prior)
    texts = TextCache(tmp_path / "cache", "encoder")
    texts.fill(all_texts(draws.examples), encode_texts)

    for step in range(6):
        draw = draws(step)
        latents = torch.stack([pictures.read(draws.examples[row], draw.size) for row in draw.rows])
        controls = torch.stack([edges.read(draws.examples[row], draw.size) for row in draw.rows])
        states, mask = texts.batch(drawn_texts(draws.examples, draw.rows, draw.captions))
        assert latents.shape == controls.shape == (2, 32, 2, 2) and not torch.equal(latents, controls)
        assert states.shape == (2, 3, 8) and mask.all()
