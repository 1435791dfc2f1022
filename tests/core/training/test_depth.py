"""Deeper and shallower transformers: what they draw, what their files hold, which blocks go."""

import json
import sys
from types import ModuleType, SimpleNamespace

import pytest
import tiny
import tiny_pipeline
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from sana_core.checkpoint.load import load_transformer
from sana_core.config import PositionConfig
from sana_core.errors import CheckpointError, InputError
from sana_core.pipeline.request import Request
from sana_core.training.depth import ZEROS, grow, grown_blocks, open_transformer, write_blocks
from sana_core.training.importance import importance_of_pictures, importance_of_prompts, kept_blocks

LATENT = torch.randn(1, 32, 4, 3, generator=torch.Generator().manual_seed(1))
STATES = torch.randn(1, 7, 96, generator=torch.Generator().manual_seed(2))


def drawn(network):
    with torch.no_grad():
        return network(LATENT, torch.tensor([400.0]), STATES)


@pytest.fixture
def small(tmp_path):
    """A model of five blocks, and its file."""
    network = tiny.transformer(depth=5, qk_norm=True)
    sampling = json.dumps({"steps": 7, "shift": 2.5})
    save_file(network.state_dict(), tmp_path / "small.safetensors", metadata={"sampling": sampling})
    return network, tmp_path / "small.safetensors"


def test_a_grown_model_draws_as_its_inherited_blocks(small, tmp_path):
    network, source = small
    assert grow(source, tmp_path / "grown.safetensors", depth=8) == (0, 1, 2, *[None] * 5)
    grown = load_transformer(tmp_path / "grown.safetensors")
    assert grown.config.depth == 8 and grown.config.qk_norm
    cut = tiny.transformer(depth=3, qk_norm=True)
    cut.load_state_dict({key: network.state_dict()[key] for key in cut.state_dict()})
    torch.testing.assert_close(drawn(grown), drawn(cut), rtol=1e-5, atol=1e-5)
    assert not torch.allclose(drawn(grown), drawn(network), rtol=1e-2)
    new = [dict(block.named_parameters()) for block in grown.blocks[3:]]
    assert all(new[0][name].eq(0).all() for name in ZEROS)
    assert not torch.equal(new[0]["attn1.to_q.weight"], new[1]["attn1.to_q.weight"])


def test_new_blocks_learn(small, tmp_path):
    grow(small[1], tmp_path / "grown.safetensors", depth=7)
    grown = load_transformer(tmp_path / "grown.safetensors").requires_grad_(True)
    grown(LATENT, torch.tensor([400.0]), STATES).square().sum().backward()
    for name in ZEROS:
        assert grown.blocks[6].get_parameter(name).grad.abs().max() > 0, name


def test_copied_blocks(small, tmp_path):
    assert grown_blocks(3, 7, None, "cyclic") == (0, 1, 2, 0, 1, 2, 0)
    assert grown_blocks(3, 6, None, "block") == (0, 0, 1, 1, 2, 2)
    assert grown_blocks(20, 60, None, "partial") == (*range(18), *[None] * 42)
    grow(small[1], tmp_path / "cyclic.safetensors", depth=6, inherit=4, method="cyclic")
    found, before = load_file(tmp_path / "cyclic.safetensors"), small[0].state_dict()
    for index, old in enumerate((0, 1, 2, 3, 0, 1)):
        name = "ff.conv_depth.weight"
        assert torch.equal(found[f"transformer_blocks.{index}.{name}"], before[f"transformer_blocks.{old}.{name}"])


def test_the_file_states_what_the_old_one_did(tmp_path):
    network = tiny.transformer(depth=3, position=PositionConfig(base_size=64, interpolation=1.0)).bfloat16()
    save_file(network.state_dict(), tmp_path / "small.safetensors", metadata={"sampling": json.dumps({"shift": 2.5})})
    for target in ("one", "two"):
        grow(tmp_path / "small.safetensors", tmp_path / f"{target}.safetensors", depth=4, variant="2k", seed=5)
    one, two = tmp_path / "one.safetensors", tmp_path / "two.safetensors"
    assert one.read_bytes() == two.read_bytes()
    with safe_open(one, framework="pt") as file:
        metadata = file.metadata()
    assert json.loads(metadata["config"])["depth"] == 4 and json.loads(metadata["sampling"])["shift"] == 2.5
    grown = load_transformer(one)
    assert grown.config.position == network.config.position
    assert {tensor.dtype for tensor in load_file(one).values()} == {torch.bfloat16}


def test_other_layouts_are_read(small, tmp_path):
    """Kernels of four dimensions under a prefix, as in an all-in-one file, in a folder with a config.json."""
    whole = {
        f"model.diffusion_model.{key}": t[..., None, None] if key.endswith(("inverted.weight", "point.weight")) else t
        for key, t in small[0].state_dict().items()
    }
    (tmp_path / "folder").mkdir()
    save_file(whole, tmp_path / "folder" / "diffusion_pytorch_model.safetensors")
    (tmp_path / "folder" / "config.json").write_text(json.dumps({"num_cross_attention_heads": 2}))
    grow(tmp_path / "folder", tmp_path / "a.safetensors", depth=6)
    grow(small[1], tmp_path / "b.safetensors", depth=6)
    assert load_file(tmp_path / "a.safetensors").keys() == load_file(tmp_path / "b.safetensors").keys()
    assert load_file(tmp_path / "b.safetensors")["transformer_blocks.5.ff.conv_point.weight"].shape == (224, 560, 1, 1)


def test_what_is_refused_and_leaves_nothing(small, tmp_path, monkeypatch):
    source, target = small[1], tmp_path / "new.safetensors"
    save_file(tiny.autoencoder().state_dict(), tmp_path / "vae.safetensors")
    quantised = {**small[0].state_dict()}
    layer = "transformer_blocks.0.attn1.to_q"
    quantised[f"{layer}.weight"] = quantised[f"{layer}.weight"].to(torch.float8_e4m3fn)
    quantised[f"{layer}.weight_scale"] = torch.tensor(1.0)
    save_file(quantised, tmp_path / "fp8.safetensors")
    (tmp_path / "taken.safetensors").write_bytes(b"somebody's")
    before = sorted(path.name for path in tmp_path.iterdir())
    refused = [
        ((tmp_path / "vae.safetensors", target), {"depth": 9}, "expected a SANA transformer"),
        ((tmp_path / "fp8.safetensors", target), {"depth": 9}, "it is quantised"),
        ((tmp_path / "no.safetensors", target), {"depth": 9}, "there is no such file"),
        ((source, target), {"depth": 5}, "give 6 to"),
        ((source, target), {"depth": 5000}, "give 6 to 1000"),
        ((source, target), {"depth": 9, "inherit": 6}, "give 1 to 5"),
        ((source, target), {"depth": 9, "method": "best"}, "unknown method"),
        ((source, tmp_path / "taken.safetensors"), {"depth": 9}, "is there already"),
        ((source, source), {"depth": 9, "overwrite": True}, "is a part of the model"),
        ((source, tmp_path / "new.pth"), {"depth": 9}, r"\.safetensors file"),
        ((source, tmp_path / "no" / "new.safetensors"), {"depth": 9}, "there is no folder"),
    ]
    for paths, options, message in refused:
        with pytest.raises((InputError, CheckpointError), match=message):
            grow(*paths, **options)
    from sana_core.checkpoint import safetensors_stream

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(safetensors_stream.SafetensorsWriter, "add", full)
    with pytest.raises(InputError, match="no space is left"):
        grow(source, target, depth=9)
    assert sorted(path.name for path in tmp_path.iterdir()) == before
    assert (tmp_path / "taken.safetensors").read_bytes() == b"somebody's"


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A whole tiny SANA of five blocks, of which block 2 does nothing."""
    paths = tiny_pipeline.write_files(tmp_path_factory.mktemp("tiny"), depth=5)
    tensors = load_file(paths["transformer"])
    for name in ZEROS:
        tensors[f"transformer_blocks.2.{name}"].zero_()
    save_file(tensors, paths["transformer"], metadata={"sampling": json.dumps(tiny_pipeline.SAMPLING)})
    return paths


def test_the_block_that_does_nothing_is_left_out(files, tmp_path):
    requests = [Request("an apple", width=64, height=64), Request("a pear", width=64, height=32, steps=1)]
    importance = importance_of_prompts(files["transformer"], requests, text_encoder=files["text_encoder"], device="cpu")
    assert len(importance) == 5 and importance[2] < 1e-6 < min(importance[:2] + importance[3:])
    kept = kept_blocks(importance, 4)
    assert kept == (0, 1, 3, 4)
    model, config = open_transformer(files["transformer"], tmp_path / "pruned.safetensors")
    write_blocks(model, config, kept, tmp_path / "pruned.safetensors")
    whole, pruned = load_transformer(files["transformer"]), load_transformer(tmp_path / "pruned.safetensors")
    assert pruned.config.depth == 4
    latent, states = LATENT, torch.randn(1, 7, whole.config.caption_channels)
    with torch.no_grad():
        pair = [network(latent, torch.tensor([300.0]), states) for network in (whole, pruned)]
    torch.testing.assert_close(*pair, rtol=1e-5, atol=1e-5)


def test_pictures_show_the_same(files, monkeypatch):
    """The data set is a stand-in: reading one is tested elsewhere."""
    looked_at = []

    def example(number):
        def load():
            looked_at.append(number)
            return Image.new("RGB", (80, 60), (number * 20, 100, 30))

        return SimpleNamespace(captions=(("an apple", 1.0),), load=load)

    reader = ModuleType("sana_core.training.data.read")
    reader.read_data = lambda path: SimpleNamespace(examples=tuple(map(example, range(10))))
    monkeypatch.setitem(sys.modules, "sana_core.training.data", ModuleType("sana_core.training.data"))
    monkeypatch.setitem(sys.modules, reader.__name__, reader)
    options = {"text_encoder": files["text_encoder"], "device": "cpu", "samples": 2}
    importance = importance_of_pictures(files["transformer"], "pictures", autoencoder=files["autoencoder"], **options)
    assert looked_at == [0, 5] and importance[2] < 1e-6 < min(importance[:2] + importance[3:])
    with pytest.raises(InputError, match="need an autoencoder"):
        importance_of_pictures(files["transformer"], "pictures", **options)


def test_the_ends_stay_and_the_order_too():
    assert kept_blocks([0.0, 0.3, 0.1, 0.2, 0.0], 4) == (0, 1, 3, 4)
    assert kept_blocks([0.0, 0.3, 0.1, 0.2, 0.0], 2) == (0, 4)
    for own, depth in ((5, 1), (5, 5), (5, 9), (2, 2)):
        with pytest.raises(InputError, match="the first and the last stay"):
            kept_blocks([0.5] * own, depth)
