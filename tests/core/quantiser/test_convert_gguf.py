"""A transformer as GGUF: what is quantised, what the file says of itself."""

import json

import pytest
import tiny
import torch
from safetensors.torch import save_file

from sana_core.checkpoint.canonical import canonical_transformer
from sana_core.checkpoint.detect import detect
from sana_core.checkpoint.files import read_checkpoint
from sana_core.checkpoint.fit import check_fit
from sana_core.checkpoint.weights import quantised_layers
from sana_core.errors import CheckpointError, InputError
from sana_core.kit import Kit
from sana_core.quantised.gguf_blocks import dequantise
from sana_core.quantiser.convert import quantise_file
from sana_core.quantiser.policy import GGUF
from sana_core.transformer.model import SanaTransformer

WORST = {"gguf-q8_0": 8e-3, "gguf-q5_1": 0.05, "gguf-q5_0": 0.06, "gguf-q4_1": 0.1, "gguf-q4_0": 0.12}
SAMPLING = {"steps": 3, "guidance_scale": 3.0, "shift": 2.0, "sampler": "flow_dpm", "width": 96, "height": 64}


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "plain.safetensors"
    save_file(tiny.transformer().state_dict(), path, metadata={"sampling": json.dumps(SAMPLING)})
    return path


@pytest.mark.parametrize("form", GGUF)
def test_every_type_of_block(tmp_path, source, form):
    target = tmp_path / "new.gguf"
    report = quantise_file(source, target, form)
    checkpoint, plain = read_checkpoint(target), read_checkpoint(source)
    canonical = canonical_transformer(checkpoint.tensors)
    found = detect(canonical.tensors, metadata=checkpoint.metadata)
    before = detect(plain.tensors, metadata=plain.metadata)
    assert (found.config, found.sampling) == (before.config, before.sampling)
    check_fit(canonical.tensors, SanaTransformer(found.config, Kit(device="meta")).state_dict(), canonical)
    kind = form.removeprefix("gguf-")
    formats = {layer: rules.name for layer, rules in quantised_layers(canonical.tensors).items()}
    # 560 is no multiple of 32, so the second half of the feed-forward stays
    assert len(formats) == 18 and set(formats.values()) == {f"gguf_{kind}"}
    for layer in report.layers:
        stored, weight = canonical.tensors[layer.name], plain.tensors[layer.name]
        if layer.kind == "ff.conv_point":
            assert layer.wanted == form and layer.format == "bfloat16" == str(stored.dtype)[6:]
        else:
            assert layer.wanted is None and 0.0 < layer.error < WORST[form]
            error = (dequantise(stored, kind) - weight).norm() / weight.norm()
            assert layer.error == pytest.approx(error.item(), rel=1e-3)
        assert layer.after == stored.numel() * stored.element_size()
    assert torch.equal(canonical.tensors["proj_out.weight"], plain.tensors["proj_out.weight"].to(torch.bfloat16))
    marks = sum(len(tensor) for key, tensor in canonical.tensors.items() if key.endswith(".comfy_quant"))
    assert report.after == sum(t.numel() * t.element_size() for t in canonical.tensors.values()) - marks


def test_an_error_leaves_no_file(tmp_path, source):
    def stop(done, total):
        if done == total // 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        quantise_file(source, tmp_path / "new.gguf", "gguf-q8_0", progress=stop)
    weights = tiny.transformer().state_dict()
    weights["transformer_blocks.1.attn2.to_k.weight"][3, 4] = torch.nan
    save_file(weights, source)
    with pytest.raises(InputError, match=r"attn2\.to_k\.weight has numbers that are not finite"):
        quantise_file(source, tmp_path / "new.gguf", "gguf-q8_0")
    assert [file.name for file in tmp_path.iterdir()] == ["plain.safetensors"]


def test_a_gguf_file_is_not_quantised_again(tmp_path, source):
    quantise_file(source, tmp_path / "new.gguf", "gguf-q4_0")
    with pytest.raises(CheckpointError, match="quantised already"):
        quantise_file(tmp_path / "new.gguf", tmp_path / "again.safetensors", "int8")
