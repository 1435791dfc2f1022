"""GGUF files: read as quantised weights, written tensor by tensor, and refused where they are damaged."""

import json
import struct
import time

import gguf
import numpy as np
import pytest
import tiny
import torch

from sana_core.checkpoint.canonical import canonical_transformer
from sana_core.checkpoint.detect import detect
from sana_core.checkpoint.files import read_checkpoint
from sana_core.checkpoint.fit import fitted
from sana_core.checkpoint.gguf_writer import GgufWriter, Planned
from sana_core.checkpoint.key_maps import TIME_EMBED_NVLABS, TRANSFORMER_NVLABS, foreign_key
from sana_core.checkpoint.weights import logical_shapes, misfits, quantised_layers
from sana_core.errors import CheckpointError, InputError
from sana_core.quantised.gguf_blocks import BLOCKS, dequantise, quantise
from sana_core.transformer.model import SanaTransformer

Q8, Q4 = gguf.GGMLQuantizationType.Q8_0, gguf.GGMLQuantizationType.Q4_0


def write(path, tensors, fields=(), architecture="sana"):
    """A file by the gguf package. tensors: name -> tensor, or (tensor, block type)."""
    writer = gguf.GGUFWriter(path, architecture)
    for name, value in dict(fields).items():
        {str: writer.add_string, int: writer.add_uint32, float: writer.add_float32, list: writer.add_array}[
            type(value)
        ](name, value)
    for name, value in tensors.items():
        tensor, kind = value if isinstance(value, tuple) else (value, None)
        if tensor.dtype == torch.bfloat16:
            data, kind = tensor.view(torch.uint8).numpy(), gguf.GGMLQuantizationType.BF16
        else:
            data = tensor.numpy() if kind is None else gguf.quants.quantize(tensor.float().numpy(), kind)
        writer.add_tensor(name, data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_plain_and_quantised_tensors(tmp_path):
    tensors = {
        "a.weight": random(3, 64),
        "a.bias": random(3).half(),
        "b.weight": random(3, 5, 2, 2).bfloat16(),
        "count": torch.arange(6, dtype=torch.int32).reshape(2, 3),
        "double": random(4).double(),
    }
    path = write(tmp_path / "m.gguf", {**tensors, "c.weight": (random(5, 64), Q8)}, {"name": "x", "n": 3, "f": 0.1})
    found = read_checkpoint(path)
    for key, tensor in tensors.items():
        assert found.tensors[key].dtype == tensor.dtype and torch.equal(found.tensors[key], tensor), key
    packed = found.tensors["c.weight"]
    assert packed.dtype == torch.uint8 and packed.shape == (5, 68)
    assert torch.equal(packed, quantise(random(5, 64), "q8_0"))
    assert json.loads(found.tensors["c.comfy_quant"].numpy().tobytes()) == {"format": "gguf_q8_0"}
    assert found.metadata.items() >= {"name": "x", "n": "3", "f": "0.1", "general.architecture": "sana"}.items()
    meta = read_checkpoint(path, "meta").tensors
    assert {k: (t.shape, t.dtype) for k, t in meta.items()} == {k: (t.shape, t.dtype) for k, t in found.tensors.items()}
    assert {key for key, tensor in meta.items() if not tensor.is_meta} == {"c.comfy_quant"}
    layers = quantised_layers(meta)
    assert logical_shapes(meta, layers)["c.weight"] == (5, 64)
    assert not misfits({k: meta[k] for k in ("c.weight", "c.comfy_quant")}, {"c.weight": random(5, 64)})
    assert misfits(meta, {"c.weight": random(5, 96)}).misshaped == {
        "c.weight": "(5, 68) instead of (5, 102) (gguf_q8_0)"
    }


def test_tensors_are_mapped(tmp_path):
    path = write(tmp_path / "m.gguf", {"a.weight": random(3, 64)})
    found = read_checkpoint(path).tensors["a.weight"]
    content = bytearray(path.read_bytes())
    content[-3 * 64 * 4 :] = bytes(3 * 64 * 4)
    path.open("r+b").write(content)  # into the same file
    assert not found.any()
    found += 1
    assert path.read_bytes() == content


def test_what_is_no_matrix_is_dequantised(tmp_path):
    cases = {
        "pos_embed": ((2, 64), (2, 64)),
        "dw.weight": ((18, 256), (512, 1, 3, 3)),  # flattened by ComfyUI-GGUF's tools
        "narrow.weight": ((3, 256), (16, 48)),
        "norm.weight": ((64,), (64,)),
    }
    stated = {f"comfy.gguf.orig_shape.{name}": list(shape) for name, (_, shape) in cases.items()}
    tensors = {name: random(*rows) for name, (rows, _) in cases.items()}
    path = write(tmp_path / "m.gguf", {name: (tensor, Q8) for name, tensor in tensors.items()}, stated)
    for device in ("cpu", "meta"):
        found = read_checkpoint(path, device).tensors
        assert {key: (t.shape, t.dtype) for key, t in found.items()} == {
            name: (shape, torch.float16) for name, (_, shape) in cases.items()
        }
    for name, tensor in read_checkpoint(path).tensors.items():
        expected = dequantise(quantise(tensors[name], "q8_0"), "q8_0").half()
        assert torch.equal(tensor.flatten(), expected.flatten())


def test_flattened_matrices_get_their_rows_back(tmp_path):
    weights = {"wide.weight": random(16, 96, 1, 1), "linear.weight": random(8, 32)}
    stated = {f"comfy.gguf.orig_shape.{name}": list(weight.shape) for name, weight in weights.items()}
    flat = {name: (weight.reshape(-1, 256), Q8) for name, weight in weights.items()}
    found = read_checkpoint(write(tmp_path / "m.gguf", flat, stated)).tensors
    for name, weight in weights.items():
        assert torch.equal(found[name], quantise(weight.flatten(1), "q8_0"))
        assert name.replace("weight", "comfy_quant") in found


def nvlabs_or_not(layout, model):
    if layout == "diffusers":
        return model.state_dict()
    if layout == "comfyui":
        return {"model.diffusion_model." + key: tensor for key, tensor in model.state_dict().items()}
    parts = {}
    for key, tensor in model.state_dict().items():
        parts.setdefault(foreign_key(key, TRANSFORMER_NVLABS + TIME_EMBED_NVLABS), []).append(tensor)
    whole = {key: torch.cat(found) for key, found in parts.items()}
    return {key: t[:, :, None, None] if t.ndim == 2 and key.endswith("conv.weight") else t for key, t in whole.items()}


@pytest.mark.parametrize("layout", ["diffusers", "comfyui", "nvlabs"])
@pytest.mark.parametrize("kind", [Q8, Q4])
def test_a_transformer(tmp_path, layout, kind):
    model = tiny.transformer(qk_norm=True)
    linear = {"attn1", "attn2", "attn", "cross_attn", "ff", "mlp"}
    tensors, stated = {}, {"config": json.dumps({"fp16_trained": False})}
    for key, tensor in nvlabs_or_not(layout, model).items():
        packed = (
            key.endswith("weight") and linear & set(key.split(".")) and tensor.ndim == 2 and tensor.shape[1] % 32 == 0
        )
        tensors[key] = (tensor, kind) if packed else tensor
        if tensor.ndim == 4 and tensor.shape[2] == 1 and tensor.numel() % 256 == 0:  # as ComfyUI-GGUF's tools have it
            tensors[key] = (tensor.reshape(-1, 256), kind)
            stated[f"comfy.gguf.orig_shape.{key}"] = list(tensor.shape)
    path = write(tmp_path / "m.gguf", tensors, stated, architecture="flux")
    for device in ("cpu", "meta"):
        checkpoint = read_checkpoint(path, device)
        canonical = canonical_transformer(checkpoint.tensors)
        found = detect(canonical.tensors, source=checkpoint.tensors, metadata=checkpoint.metadata)
        assert found.config == model.config
    layers = quantised_layers(canonical.tensors)
    assert {form.name for form in layers.values()} == {f"gguf_{kind.name.lower()}"}
    assert {f"transformer_blocks.1.{name}" for name in ("attn1.to_v", "attn2.to_q", "ff.conv_inverted")} <= set(layers)
    expected = SanaTransformer(model.config).state_dict()
    assert not misfits(fitted(canonical.tensors, expected), expected)
    tensors = canonical_transformer(read_checkpoint(path).tensors).tensors
    for layer, form in layers.items():
        weight = model.state_dict()[f"{layer}.weight"]
        assert torch.equal(tensors[f"{layer}.weight"], quantise(weight, form.name.removeprefix("gguf_"))), layer


def test_model_in_several_files(tmp_path):
    for number in range(3):
        name = f"m-{number + 1:05}-of-00003.gguf"
        write(tmp_path / name, {f"t{number}.weight": (random(2, 32), Q8)}, {"split.count": 3, "split.no": number})
    found = read_checkpoint(tmp_path / "m-00002-of-00003.gguf").tensors
    assert set(found) == {f"t{number}.{name}" for number in range(3) for name in ("weight", "comfy_quant")}
    (tmp_path / "m-00003-of-00003.gguf").rename(tmp_path / "other.gguf")
    for name in ("m-00001-of-00003.gguf", "other.gguf"):
        with pytest.raises(CheckpointError, match=r"one of 3 parts: put all of them into one folder"):
            read_checkpoint(tmp_path / name)


def test_unknown_block_types_are_named(tmp_path):
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "sana")
    writer.add_tensor("a.weight", np.zeros((2, 66), np.uint8), raw_dtype=gguf.GGMLQuantizationType.IQ2_XXS)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(CheckpointError, match=r"m\.gguf: its tensor a\.weight has the block type iq2_xxs"):
        read_checkpoint(tmp_path / "m.gguf")
    content = (tmp_path / "m.gguf").read_bytes()
    place = content.index(b"a.weight") + 8 + 4 + 16
    assert content[place : place + 4] == struct.pack("<I", 16)
    (tmp_path / "m.gguf").write_bytes(content[:place] + struct.pack("<I", 99) + content[place + 4 :])
    with pytest.raises(CheckpointError, match=r"a\.weight has the unknown type 99"):
        read_checkpoint(tmp_path / "m.gguf")


def test_other_versions(tmp_path):
    content = bytearray(write(tmp_path / "m.gguf", {"a": random(4)}).read_bytes())
    for version, message in (("<I", "version 1, expected 2 or 3"), (">I", "big-endian")):
        content[4:8] = struct.pack(version, 1 if version == "<I" else 3)
        (tmp_path / "m.gguf").write_bytes(content)
        with pytest.raises(CheckpointError, match=message):
            read_checkpoint(tmp_path / "m.gguf")


FIELDS = {"text": "words", "n": 3, "list": ["a", "bc"], "numbers": [1, 2, 3], "f": 1.5}


@pytest.mark.parametrize("seed", range(3))
def test_damaged_files(tmp_path, seed):
    """A hundred changed files: an error, or tensors as the header says them, and soon."""
    path = tmp_path / "m.gguf"
    write(path, {"a.weight": (random(4, 32), Q8), "b": random(5), "q.weight": (random(1, 32), Q4)}, FIELDS)
    whole, generator = path.read_bytes(), np.random.default_rng(seed)
    header = len(whole) - 256
    for case in range(100):
        content = bytearray(whole)
        if case % 4 == 0:
            content = content[: generator.integers(1, len(whole))]
        elif case % 4 == 1:
            content[generator.integers(4, header)] = generator.integers(256)
        elif case % 4 == 2:
            place = generator.integers(4, header)
            content[place : place + 8] = struct.pack("<Q", int(generator.integers(2**63)) >> generator.integers(60))
        else:
            place = generator.integers(4, header)
            content[place:header] = generator.bytes(header - place)
        path.unlink()  # an earlier case may still be mapped
        path.write_bytes(content)
        begun = time.process_time()
        for device in ("cpu", "meta"):
            try:
                found = read_checkpoint(path, device).tensors
            except CheckpointError:
                continue
            assert sum(t.numel() * t.element_size() for t in found.values()) < 4 * len(whole)
        assert time.process_time() - begun < 1


def header(tensors, fields=b"", count=0):
    content = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), count) + fields
    for name, sizes, kind, offset in tensors:
        content += struct.pack("<Q", len(name)) + name.encode() + struct.pack(f"<I{len(sizes)}Q", len(sizes), *sizes)
        content += struct.pack("<IQ", kind, offset)
    return content


def entry(name, kind, value):
    return struct.pack("<Q", len(name)) + name.encode() + struct.pack("<I", kind) + value


NESTED = entry("n", 9, struct.pack("<IQ", 9, 1) * 200 + struct.pack("<IQ", 0, 1))
HOSTILE = {
    "billions of tensors": b"GGUF" + struct.pack("<IQQ", 3, 2**60, 0) + bytes(64),
    "billions of entries": b"GGUF" + struct.pack("<IQQ", 3, 0, 2**60) + bytes(64),
    "a long text": header([], struct.pack("<Q", 2**62), 1),
    "a long list": header([], entry("n", 9, struct.pack("<IQ", 8, 2**40)), 1) + bytes(64),
    "a long list of numbers": header([], entry("n", 9, struct.pack("<IQ", 12, 2**61)), 1) + bytes(64),
    "deep lists": header([], NESTED, 1),
    "no such type of entry": header([], entry("n", 77, b""), 1),
    "a name that is not UTF-8": header([], struct.pack("<Q", 2) + b"\xff\xfe" + struct.pack("<IB", 0, 0), 1),
    "an entry twice": header([], entry("n", 0, b"\1") * 2, 2),
    "a tensor twice": header([("a", (1,), 0, 0)] * 2) + bytes(64),
    "many dimensions": header([("a", (1,) * 100, 0, 0)]) + bytes(64),
    "sizes that overflow": header([("a", (2**63, 2**63, 2), 0, 0)]) + bytes(64),
    "no size": header([("a", (0, 2**63), 0, 0)]) + bytes(64),
    "beyond the end": header([("a", (8,), 0, 2**63)]) + bytes(64),
    "not aligned": header([("a", (2,), 0, 4)]) + bytes(64),
    "not whole blocks": header([("a", (33,), 8, 0)]) + bytes(128),
    "the same bytes for all": header([(f"a{i}", (64, 64), 0, 0) for i in range(50)]) + bytes(64 * 64 * 4 + 64),
    "alignment 0": header([], entry("general.alignment", 4, bytes(4)), 1) + bytes(64),
    "alignment of 3": header([], entry("general.alignment", 4, struct.pack("<I", 3)), 1) + bytes(64),
    "alignment in words": header([], entry("general.alignment", 8, struct.pack("<Q", 1) + b"x"), 1) + bytes(64),
    "letters alone": b"GGUF",
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_files(tmp_path, case):
    (tmp_path / "m.gguf").write_bytes(HOSTILE[case])
    with pytest.raises(CheckpointError, match="damaged") as error:
        read_checkpoint(tmp_path / "m.gguf")
    assert "m.gguf" in str(error.value)


@pytest.mark.parametrize("stated", [[3, 5], [0, 64], [], ["64"], 64])
def test_a_stated_shape_that_cannot_be(tmp_path, stated):
    if stated == []:
        stated = [-2, -32]
    path = write(tmp_path / "m.gguf", {"a.weight": (random(2, 32), Q8)}, {"comfy.gguf.orig_shape.a.weight": stated})
    with pytest.raises(CheckpointError, match=r"it states the shape .* of a\.weight, which has 64 numbers"):
        read_checkpoint(path)


TYPES = ("f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0")


def test_the_writer(tmp_path, monkeypatch):
    monkeypatch.setattr("sana_core.checkpoint.gguf_writer.CHUNK", 128)  # so that a weight is several chunks
    plan = [Planned(f"{kind}.weight", (7, 96), kind) for kind in TYPES]
    plan += [Planned("conv.weight", (6, 1, 3, 3), "f16"), Planned("bias", (5,), "f32"), Planned("one", (), "f32")]
    weights = {item.name: random(*item.shape, seed=index) for index, item in enumerate(plan)}
    metadata = {"config": '{"depth": 2}', "general.quantization_version": "7", "general.architecture": "other"}
    with GgufWriter(tmp_path / "m.gguf", "sana", plan, metadata) as writer:
        given = {name: writer.add(name, weight) for name, weight in weights.items()}
    found = read_checkpoint(tmp_path / "m.gguf")
    assert found.metadata["config"] == '{"depth": 2}' and found.metadata["general.architecture"] == "sana"
    reader = gguf.GGUFReader(tmp_path / "m.gguf")  # another reader finds the same
    assert [tensor.name for tensor in reader.tensors] == list(weights)
    for tensor, item in zip(reader.tensors, plan):
        assert tensor.tensor_type.name.lower() == item.type
        assert tuple(tensor.shape.tolist()[::-1]) == item.shape
        numbers = torch.from_numpy(gguf.quants.dequantize(np.array(tensor.data), tensor.tensor_type))
        assert torch.equal(numbers.reshape(item.shape), given[item.name]), item.name
        own = found.tensors[item.name]
        own = dequantise(own, item.type) if item.type in BLOCKS else own.float()
        assert torch.equal(own, given[item.name])
    assert torch.equal(given["f32.weight"], weights["f32.weight"])


def test_a_plan_that_cannot_be(tmp_path):
    path = tmp_path / "m.gguf"
    for plan, message in (
        ([Planned("a", (2, 33), "q8_0")], "not whole blocks"),
        ([Planned("a", (2, 256), "q4_k")], "q4_k cannot be written"),
        ([Planned("a", (2,), "f32")] * 2, "twice"),
    ):
        with pytest.raises(InputError, match=message):
            GgufWriter(path, "sana", plan, {})
        assert not path.exists()
    with pytest.raises(InputError, match="cannot be written"):
        GgufWriter(tmp_path / "no" / "m.gguf", "sana", [], {})


def test_tensors_out_of_order(tmp_path):
    plan = [Planned("a", (2,), "f32"), Planned("b", (3,), "f32")]
    writer = GgufWriter(tmp_path / "m.gguf", "sana", plan, {})
    with pytest.raises(InputError, match=r"got b \(3,\), expected a \(2,\)"):
        writer.add("b", torch.zeros(3))
    writer.add("a", torch.zeros(2))
    with pytest.raises(InputError, match="b of the plan was not added"):
        writer.close()
