"""Tiny or random models in the place of the published ones."""

import json

import fidelity
import pytest
import torch
from PIL import Image


@pytest.fixture(scope="session", autouse=True)
def torch_fidelity():
    return fidelity.import_torch_fidelity()


def picture(path, seed, size=(40, 40)):
    path.parent.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (size[1], size[0], 3), generator=generator, dtype=torch.uint8)
    Image.fromarray(pixels.numpy()).save(path)
    return pixels.permute(2, 0, 1)


@pytest.fixture(scope="session")
def inception(torch_fidelity, tmp_path_factory):
    """A file of random weights with the names of InceptionV3."""
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3 as Extractor

    path = tmp_path_factory.mktemp("inception") / "weights-inception-2015-12-05-6726825d.pth"
    loaded = Extractor.load_state_dict
    Extractor.load_state_dict = lambda self, state: None
    try:
        torch.save({}, path)
        torch.manual_seed(0)
        network = Extractor("inception-v3-compat", ["64"], feature_extractor_weights_path=str(path))
    finally:
        Extractor.load_state_dict = loaded
    torch.save(network.state_dict(), path)
    return path


@pytest.fixture(scope="session")
def clip(tmp_path_factory):
    """A folder with a tiny random CLIP, with its tokenizer and its image processor."""
    from transformers import CLIPConfig, CLIPModel

    folder = tmp_path_factory.mktemp("clip") / "tiny-clip"
    tiny = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = CLIPConfig(
        text_config={
            **tiny,
            "vocab_size": 300,
            "max_position_embeddings": 12,
            "bos_token_id": 298,
            "eos_token_id": 299,
        },
        vision_config={**tiny, "image_size": 16, "patch_size": 8},
        projection_dim=8,
    )
    torch.manual_seed(0)
    CLIPModel(config).save_pretrained(folder)
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    words = [*letters, *(f"{letter}</w>" for letter in letters)]
    vocabulary = {word: number for number, word in enumerate(words)}
    vocabulary |= {"<|startoftext|>": 298, "<|endoftext|>": 299}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "CLIPTokenizer"}))
    processor = {"image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": 16}, "do_center_crop": True,
                 "crop_size": {"height": 16, "width": 16}}  # fmt: skip
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return folder
