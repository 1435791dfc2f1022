"""Files of a few bytes that would hang, kill or crash whoever opens them: each is one clear error, at once."""

import json
import random
import re
import struct
import time
import tracemalloc
from types import SimpleNamespace

import pytest
import tiny
import torch
from safetensors.torch import save_file

from sana_core.checkpoint.files import read_checkpoint
from sana_core.checkpoint.load import load_autoencoder, load_controlnet, load_transformer
from sana_core.checkpoint.read_json import read_json, read_object
from sana_core.errors import CheckpointError, InputError, SanaError
from sana_core.sources import NANO_FILES, released_sampling
from sana_core.text.load import load_text_encoder

DEEP = "[" * 100_000
DEEP_OBJECT = '{"a":' * 100_000


@pytest.fixture(scope="module")
def weights():
    return tiny.transformer().state_dict()


@pytest.fixture
def refused(tmp_path):
    """Checks that a file is refused with its name, in two seconds of computing at most, on CPU and meta device."""

    def check(tensors, metadata=None, load=load_transformer, match=""):
        path = tmp_path / "m.safetensors"
        save_file(tensors, path, metadata)
        for device in ("meta", "cpu"):
            began = time.process_time()
            with pytest.raises(CheckpointError, match=match) as error:
                load(path, device=device)
            assert str(error.value).startswith(str(path)) and time.process_time() - began < 2.0

    return check


NUMBERS = ["999999999", "9" * 5000, "3", "00", "2999"]


@pytest.mark.parametrize("number", NUMBERS, ids=[number[:9] for number in NUMBERS])
def test_block_numbers_are_counted_not_believed(weights, refused, number):
    stray = {f"transformer_blocks.{number}.ff.conv_inverted.bias": torch.zeros(8)}
    refused({**weights, **stray}, match=r"has 3 blocks, expected transformer_blocks\.0 to transformer_blocks\.2")
    original = {f"blocks.{number}.mlp.inverted_conv.conv.bias": torch.zeros(8)}
    refused(original, match="blocks|patch_embed|configuration")


def test_blocks_of_many_tiny_tensors(weights, refused):
    stray = {f"transformer_blocks.{number}.x": torch.zeros(1) for number in range(2, 5_000)}
    refused({**weights, **stray}, match="depth is 5000, expected a whole number from 1 to 1000")


def test_block_numbers_of_a_controlnet(refused):
    tensors = tiny.controlnet().state_dict()
    refused(
        {**tensors, "transformer_blocks.99999999.ff.conv_inverted.bias": torch.zeros(8)},
        load=load_controlnet,
        match="blocks",
    )


def test_stages_of_an_autoencoder(refused):
    tensors = tiny.autoencoder().state_dict()
    many = {f"decoder.up_blocks.0.{number}.x": torch.zeros(1) for number in range(3000)}
    refused({**tensors, **many}, load=load_autoencoder, match="blocks of")


def config(**changes):
    stated = {
        "hidden_size": 224,
        "depth": 2,
        "num_heads": 7,
        "num_cross_heads": 2,
        "ffn_size": 560,
        "caption_channels": 96,
    }
    return {"config": json.dumps({**stated, **changes})}


WRONG = [
    ({"depth": 10**9}, "depth"), ({"depth": 1}, "a depth of 1"),
    ({"depth": 60}, "a depth of 60, but its tensors are of 2"),
    ({"num_cross_heads": -4}, "num_cross_heads = -4"), ({"num_cross_heads": 0}, "num_cross_heads = 0"),
    ({"num_cross_heads": 4.5}, "num_cross_heads = 4.5"), ({"num_cross_heads": True}, "num_cross_heads = True"),
    ({"hidden_size": "wide"}, "hidden_size = 'wide'"), ({"hidden_size": 10**30}, "hidden_size"),
    ({"ffn_size": [1]}, "ffn_size"), ({"ffn_size": float("nan")}, "ffn_size = nan"),
    ({"qk_norm": "yes"}, "qk_norm is 'yes'"), ({"fp16_trained": 1}, "fp16_trained is 1"),
    ({"position": [64]}, "position"), ({"position": {"base_size": 64}}, "position"),
    ({"position": {"base_size": "x", "interpolation": 1}}, "base_size = 'x'"),
    ({"position": {"base_size": 64, "interpolation": 0}}, "interpolation = 0"),
    ({"position": {"base_size": 64, "interpolation": "nan"}}, "interpolation = 'nan'"),
    ({"sample_size": -32, "hidden_size": None}, "sample_size = -32"),
    ({"num_cross_attention_heads": {}, "hidden_size": None}, "num_cross_attention_heads"),
    ({"interpolation_scale": "x", "hidden_size": None, "sample_size": 64}, "interpolation = 'x'"),
    ({"interpolation_scale": 1.0, "hidden_size": None}, "base_size = None"),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "said"), WRONG, ids=[str(changes)[:50] for changes, _ in WRONG])
def test_stated_configurations_that_cannot_be(weights, refused, changes, said):
    refused(weights, config(**changes), match=said)


def test_numbers_as_other_tools_write_them(tmp_path, weights):
    written = config(num_cross_heads=2.0, depth="2", ffn_size=None, position={"base_size": 64.0, "interpolation": "1"})
    save_file(weights, tmp_path / "m.safetensors", written)
    found = load_transformer(tmp_path / "m.safetensors", device="meta").config
    assert (found.num_cross_heads, found.depth, found.ffn_size, found.position.base_size) == (2, 2, 560, 64)
    assert all(type(size) is int for size in (found.num_cross_heads, found.depth, found.position.base_size))


@pytest.mark.parametrize("text", [DEEP, DEEP_OBJECT, '{"a": ', "{" + "9" * 10_000])
def test_json_that_cannot_be_read(text):
    for kind in (CheckpointError, InputError):
        with pytest.raises(kind, match="the place"):
            read_object(text, "the place", kind)


@pytest.mark.parametrize("content", [b"\xff\xfe{\x00}\x00", b'{"a": "\xe9"}', b"\x00"])
def test_json_in_another_encoding(content):
    with pytest.raises(CheckpointError, match="the place is not readable JSON"):
        read_json(content, "the place")
    assert read_json(b"\xef\xbb\xbf[1]", "the place") == [1]


@pytest.mark.parametrize("name", ["config", "sampling", "_quantization_metadata"])
def test_nested_json_in_metadata(tmp_path, weights, refused, name):
    if name != "sampling":
        refused(weights, {name: DEEP_OBJECT}, match="nested too deeply")
    save_file(weights, tmp_path / "m.safetensors", {name: DEEP_OBJECT})
    files = SimpleNamespace(transformer=tmp_path / "m.safetensors", scheduler=None)
    if name != "_quantization_metadata":
        with pytest.raises(CheckpointError, match="nested too deeply"):
            released_sampling(files, tiny.transformer_config())


def test_nested_json_in_a_tensor_and_in_files_of_a_folder(tmp_path, weights, refused):
    refused({**weights, "sana_config": torch.tensor(list(DEEP_OBJECT.encode()), dtype=torch.uint8)}, match="nested")
    for name in ("config.json", "diffusion_pytorch_model.safetensors.index.json"):
        folder = tmp_path / name
        folder.mkdir()
        save_file(weights, folder / "diffusion_pytorch_model.safetensors")
        (folder / name).write_text(DEEP_OBJECT)
        with pytest.raises(CheckpointError, match=f"{name} is JSON that is nested too deeply"):
            load_transformer(folder)
    (tmp_path / "scheduler_config.json").write_text(DEEP_OBJECT)
    files = SimpleNamespace(transformer=NANO_FILES.transformer, scheduler=tmp_path / "scheduler_config.json")
    with pytest.raises(CheckpointError, match="scheduler_config"):
        released_sampling(files, tiny.transformer_config())


def header(entries):
    text = json.dumps(entries).replace(json.dumps("9" * 5000), "9" * 5000).encode()
    return struct.pack("<Q", len(text)) + text


CLAIMS = {
    "no numbers, a side of 2**62": {"scale_shift_table": {"dtype": "F32", "shape": [0, 2**62], "data_offsets": [0, 0]}},
    "no numbers, a huge product": {
        "scale_shift_table": {"dtype": "F32", "shape": [2**40, 2**40, 0], "data_offsets": [0, 0]}
    },
    "more than is there": {"scale_shift_table": {"dtype": "F32", "shape": [2, 2**50], "data_offsets": [0, 2**53]}},
    "a side beyond 64 bits": {"scale_shift_table": {"dtype": "F32", "shape": [2**63, 0, 2], "data_offsets": [0, 0]}},
    "a number of 5000 digits": {"scale_shift_table": {"dtype": "F32", "shape": "9" * 5000, "data_offsets": [0, 0]}},
    "a negative size": {"scale_shift_table": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 0]}},
}


@pytest.mark.parametrize("claim", CLAIMS)
def test_a_small_header_that_claims_huge_tensors(tmp_path, claim):
    block = {"transformer_blocks.0.ff.conv_inverted.bias": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}}
    (tmp_path / "m.safetensors").write_bytes(header({**block, **CLAIMS[claim]}))
    for device in ("meta", "cpu"):
        with pytest.raises(CheckpointError, match=r"m\.safetensors"):
            load_transformer(tmp_path / "m.safetensors", device=device)


def test_a_pickle_whose_tensors_repeat_few_numbers(tmp_path):
    model = tiny.transformer().state_dict()
    repeated = {key: torch.zeros(1).expand(tensor.shape) for key, tensor in model.items()}
    torch.save(repeated, tmp_path / "m.pth")
    with pytest.raises(CheckpointError, match="repeats the numbers that are stored"):
        load_transformer(tmp_path / "m.pth")


def test_fused_tensors_of_no_dimension(refused):
    refused(
        {"blocks.0.mlp.inverted_conv.conv.bias": torch.zeros(8), "blocks.0.attn.qkv.weight": torch.tensor(1.0)},
        match="m.safe",
    )


PARTS = re.split(r"\s+", """
    transformer_blocks blocks 0 1 99 ff conv_inverted bias weight layers attn qkv decoder up_blocks encoder module
    conv mlp pre_feedforward_layernorm controlnet_blocks controlnet caption_projection linear_1 patch_embed proj
    comfy_quant scale_shift_table weight_scale spiece_model gemma_config sana_config inverted_conv copied_block
""".strip())  # fmt: skip


@pytest.mark.parametrize("load", [load_transformer, load_autoencoder, load_controlnet, load_text_encoder])
def test_keys_of_any_sort(tmp_path, load):
    """Hundreds of odd files: every one is refused by an error of ours, none by Python's."""
    generator = random.Random(0)
    parts = ["", *PARTS]
    always = ["transformer_blocks.0.ff.conv_inverted.bias", "decoder.up_blocks.0.0.conv1.bias",
              "controlnet_blocks.0.bias", "layers.0.pre_feedforward_layernorm.weight", "decoder.norm_out.weight",
              "patch_embed.proj.weight"]  # fmt: skip
    path = tmp_path / "m.safetensors"
    for _ in range(150):
        keys = always[: generator.randint(1, len(always))]
        keys += [".".join(generator.choices(parts, k=generator.randint(1, 5))) for _ in range(generator.randint(0, 8))]
        shape = generator.choice([[], [0], [3], [1, 2], [0, 5], [2, 2, 1, 1]])
        dtype = generator.choice([torch.float32, torch.uint8, torch.int8])
        save_file({key: torch.zeros(shape, dtype=dtype) for key in dict.fromkeys(keys) if key}, path)
        for device in ("meta", "cpu"):
            with pytest.raises(SanaError):
                load(path, device=device)
            read_or_refuse(path, device)


def read_or_refuse(path, device):
    try:
        read_checkpoint(path, device)
    except CheckpointError as error:
        assert len(str(error)) < 1000


def test_a_length_of_the_header_is_no_order_for_memory(tmp_path):
    (tmp_path / "m.safetensors").write_bytes(struct.pack("<Q", 90_000_000) + b"{" + b" " * 100)
    tracemalloc.start()
    with pytest.raises(CheckpointError, match="not a whole safetensors file"):
        load_transformer(tmp_path / "m.safetensors")
    assert tracemalloc.get_traced_memory()[1] < 1_000_000
    tracemalloc.stop()


@pytest.mark.parametrize("dtype", [torch.int32, torch.uint8, torch.complex64])
def test_whole_numbers_where_fractions_belong(weights, refused, dtype):
    bias = {"proj_out.bias": torch.zeros(32, dtype=dtype)}
    refused({**weights, **bias}, match=r"proj_out.bias of \w+ instead of numbers with a fraction")


def test_a_text_in_a_tensor_of_many_dimensions(weights, refused):
    for key in ("sana_config", "proj_out.comfy_quant"):
        refused({**weights, key: torch.full([1] * 70, 7, dtype=torch.uint8)}, match="not readable JSON")
