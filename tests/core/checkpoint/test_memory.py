"""What loading holds at the most, counted on the shapes of the 1.6B model and of Gemma-2-2B.

The files have holes in place of numbers. The target is a CUDA device of PyTorch's fake tensors, which allocate nothing
and show where every tensor would be. What a dispatch mode sees alive is added up by device.
"""

import json
import math
import weakref
from collections import Counter
from dataclasses import replace

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves

from sana_core.checkpoint import load as loading
from sana_core.config import TextConfig
from sana_core.dcae.autoencoder import DCAE
from sana_core.kit import Kit
from sana_core.presets import FP16_16
from sana_core.text import load as text_loading
from sana_core.text.gemma import build_gemma2
from sana_core.transformer.controlnet import SanaControlNet
from sana_core.transformer.model import SanaTransformer


class Alive(TorchDispatchMode):
    """Bytes of the tensors that operations made and that are still there, by kind of device, and the most of them."""

    def __init__(self):
        super().__init__()
        self.now, self.most, self.largest = Counter(), Counter(), Counter()
        self.counted = weakref.WeakKeyDictionary()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        given = {id(leaf.untyped_storage()) for leaf in tree_leaves(args) if isinstance(leaf, torch.Tensor)}
        made = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, torch.Tensor) and id(tensor.untyped_storage()) not in given:
                self.count(tensor)
        return made

    def count(self, tensor):
        storage, kind = tensor.untyped_storage(), tensor.device.type
        if kind == "meta" or storage in self.counted:
            return
        size = tensor.numel() * tensor.element_size()
        self.counted[storage] = size
        self.now[kind] += size
        self.most[kind] = max(self.most[kind], self.now[kind])
        self.largest[kind] = max(self.largest[kind], size)
        weakref.finalize(storage, self.forget, kind, size)

    def forget(self, kind, size):
        self.now[kind] -= size


def sparse(path, shapes, spiece=0):
    """A float32 safetensors file of these shapes that takes up no room."""
    header, offset = {}, 0
    for key, shape in {**shapes, **({"spiece_model": (spiece,)} if spiece else {})}.items():
        size = math.prod(shape) * (1 if key == "spiece_model" else 4)
        dtype = "U8" if key == "spiece_model" else "F32"
        header[key] = {"dtype": dtype, "shape": list(shape), "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + offset)
    return path


def pickled(path, shapes):
    """The same as PyTorch's own file: memory that is never touched, and no bytes of it are written."""
    with torch.serialization.skip_data():
        torch.save({"state_dict": {key: torch.empty(shape) for key, shape in shapes.items()}}, path)
    return path


def shapes_of(network):
    return {key: tuple(tensor.shape) for key, tensor in network.state_dict().items()}


def autoencoder():
    from sana_core.config import AutoencoderConfig, StageConfig

    widths, kinds = (128, 256, 512, 512, 1024, 1024), ("res",) * 3 + ("vit",) * 3
    stages = [tuple(StageConfig(channels=c, depth=d, block=b) for c, d, b in zip(widths, depths, kinds))
              for depths in ((2, 2, 2, 3, 3, 3), (3, 3, 3, 3, 3, 3))]  # fmt: skip
    return DCAE(AutoencoderConfig(encoder=stages[0], decoder=stages[1]), Kit(device="meta"))


NETWORKS = {
    "transformer": (lambda: SanaTransformer(FP16_16, Kit(device="meta")), loading.load_transformer),
    "autoencoder": (autoencoder, loading.load_autoencoder),
    "controlnet": (
        lambda: SanaControlNet(replace(FP16_16, depth=7), Kit(device="meta"), embedders=True),
        loading.load_controlnet,
    ),
}  # fmt: skip


def counted(monkeypatch, module, load, path, **arguments):
    """The network that is loaded onto a fake GPU, and what was alive meanwhile."""
    read, fake = module.read_checkpoint, FakeTensorMode(allow_non_fake_inputs=True)

    def read_for_real(*arguments):
        """A file is mapped by functions that know nothing of fake tensors; what they map is replaced then."""
        with _disable_current_modes():
            found = read(*arguments)
            found.tensors.update({key: fake.from_tensor(tensor) for key, tensor in found.tensors.items()})
        return found

    monkeypatch.setattr(module, "pick_device", torch.device)
    monkeypatch.setattr(module, "read_checkpoint", read_for_real)
    with fake, Alive() as alive:
        network = load(path, device="cuda:0", dtype=torch.bfloat16, **arguments)
    return network, alive


@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
@pytest.mark.parametrize("name", NETWORKS)
def test_a_float32_file_becomes_bfloat16_on_a_gpu_in_two_bytes_a_parameter(tmp_path, monkeypatch, name, suffix):
    make, load = NETWORKS[name]
    shapes = shapes_of(make())
    path = (sparse if suffix == "safetensors" else pickled)(tmp_path / f"m.{suffix}", shapes)
    network, alive = counted(monkeypatch, loading, load, path)
    parameters = sum(math.prod(shape) for shape in shapes.values())
    assert {tensor.device.type for tensor in network.parameters()} == {"cuda"}
    assert 2.0 * parameters <= alive.most["cuda"] <= 2.2 * parameters
    largest = max(math.prod(shape) for shape in shapes.values())
    assert alive.most["cpu"] <= 2 * largest, "more than one converted tensor beside the mapped file"


def test_the_text_encoder_too(tmp_path, monkeypatch):
    shapes = {f"model.{key}": shape for key, shape in shapes_of(build_gemma2(TextConfig())).items()}
    path = sparse(tmp_path / "gemma.safetensors", shapes, spiece=10)
    given = []
    monkeypatch.setattr(text_loading, "GemmaTextEncoder", lambda *arguments: given.extend(arguments))
    monkeypatch.setattr(text_loading, "_load_tokenizer", lambda *_: type("Tokenizer", (), {"size": 256000}))
    _, alive = counted(monkeypatch, text_loading, text_loading.load_text_encoder, path)
    parameters = sum(math.prod(shape) for shape in shapes.values())
    assert {tensor.device.type for tensor in given[2].values()} == {"cuda"}
    assert 2.0 * parameters <= alive.most["cuda"] <= 2.2 * parameters
    assert alive.most["cpu"] <= 2 * max(math.prod(shape) for shape in shapes.values())


@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
def test_tensors_in_their_own_type_stay_in_the_mapped_file(tmp_path, suffix):
    """Reading the 1.6B model's 6.4 GB takes no memory of its own before a tensor is used."""
    shapes = shapes_of(SanaTransformer(FP16_16, Kit(device="meta")))
    path = (sparse if suffix == "safetensors" else pickled)(tmp_path / f"m.{suffix}", shapes)
    before = resident()
    network = loading.load_transformer(path, device="cpu")
    assert resident() - before < 200e6
    assert sum(tensor.numel() for tensor in network.parameters()) == 1_604_462_752


def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096
