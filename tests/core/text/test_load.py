"""One encoder from every layout; what is no Gemma-2, or not a whole one, is refused by name."""

import dataclasses
import json
import logging
import math

import pytest
import torch
from safetensors.torch import save_file

from sana_core.config import TextConfig
from sana_core.errors import CheckpointError
from sana_core.text.gemma import build_gemma2
from sana_core.text.load import load_text_encoder

PROMPTS = ["a red apple", ""]
HEADS = {"num_attention_heads": "4", "num_key_value_heads": "2"}


def comfy(path, state_dict, spiece=None, metadata=HEADS, prefix="model."):
    """A single file as ComfyUI has it."""
    tensors = {prefix + key: tensor.clone() for key, tensor in state_dict.items()}
    if spiece is not None:
        tensors["spiece_model"] = torch.frombuffer(bytearray(spiece), dtype=torch.uint8)
    save_file(tensors, path, metadata)
    return path


def hugging_face(folder, state_dict, config, shards=1, prefix=""):
    """A text_encoder folder as `save_pretrained` writes it."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(build_gemma2(config).config.to_dict()))
    keys = [prefix + key for key in state_dict]
    names = (
        ["model.safetensors"]
        if shards == 1
        else [f"model-{i + 1:05}-of-{shards:05}.safetensors" for i in range(shards)]
    )
    for i, name in enumerate(names):
        save_file({key: state_dict[key.removeprefix(prefix)] for key in keys[i::shards]}, folder / name)
    if shards > 1:
        weight_map = {key: names[i % shards] for i, key in enumerate(keys)}
        (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return folder


def same(encoder, config, state_dict):
    assert encoder.config == config
    loaded = encoder.model.state_dict()
    assert loaded.keys() == state_dict.keys()
    assert all(torch.equal(loaded[key], tensor) for key, tensor in state_dict.items())
    return encoder.encode(PROMPTS, instruction="default")


def test_every_layout_gives_the_same_encoder(tmp_path, state_dict, config, spiece):
    model = tmp_path / "tokenizer.model"
    model.write_bytes(spiece)
    pipeline = tmp_path / "pipeline"
    hugging_face(pipeline / "text_encoder", state_dict, config)
    (pipeline / "tokenizer").mkdir()
    (pipeline / "tokenizer" / "tokenizer.model").write_bytes(spiece)
    (pipeline / "model_index.json").write_text("{}")
    alone = hugging_face(tmp_path / "alone", state_dict, config, shards=3, prefix="model.")
    (alone / "tokenizer.model").write_bytes(spiece)
    as_json = {"config": json.dumps({"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8})}
    torch.save({"model." + key: tensor for key, tensor in state_dict.items()}, tmp_path / "pytorch_model.bin")
    (tmp_path / "bin").mkdir()
    (tmp_path / "pytorch_model.bin").rename(tmp_path / "bin" / "pytorch_model.bin")
    (tmp_path / "bin" / "config.json").write_text(json.dumps(dict(num_attention_heads=4, num_key_value_heads=2)))
    encoders = [
        load_text_encoder(comfy(tmp_path / "a.safetensors", state_dict, spiece)),
        load_text_encoder(comfy(tmp_path / "b.safetensors", state_dict, spiece, as_json)),
        load_text_encoder(comfy(tmp_path / "c.safetensors", state_dict), tokenizer=model),
        load_text_encoder(comfy(tmp_path / "d.safetensors", state_dict, prefix=""), tokenizer=pipeline / "tokenizer"),
        load_text_encoder(pipeline),
        load_text_encoder(pipeline / "text_encoder"),
        load_text_encoder(alone),
        load_text_encoder(tmp_path / "bin", tokenizer=model),
    ]
    expected, mask = same(encoders[0], config, state_dict)
    for encoder in encoders[1:]:
        embeddings, other_mask = same(encoder, config, state_dict)
        assert torch.equal(embeddings, expected) and torch.equal(other_mask, mask)


def test_metadata_wins_over_config_json_and_shapes(tmp_path, state_dict, config, spiece):
    folder = hugging_face(tmp_path / "text_encoder", state_dict, config)
    (folder / "tokenizer.model").write_bytes(spiece)
    stated = {"query_pre_attn_scalar": "16", "attn_logit_softcapping": "30.0"}
    save_file(state_dict, folder / "model.safetensors", stated)
    encoder = load_text_encoder(folder)
    assert (encoder.config.query_pre_attn_scalar, encoder.config.attn_logit_softcapping) == (16, 30.0)
    assert encoder.config.num_attention_heads == 4
    both = {"config": json.dumps({**HEADS, "query_pre_attn_scalar": 16}), "query_pre_attn_scalar": "32"}
    assert (
        load_text_encoder(comfy(tmp_path / "a.safetensors", state_dict, spiece, both)).config.query_pre_attn_scalar
        == 32
    )


def test_own_tokenizer_replaces_the_one_inside(tmp_path, state_dict, spiece):
    path = comfy(tmp_path / "a.safetensors", state_dict, spiece)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"tokenizer\.json is not a Hugging Face tokenizer"):
        load_text_encoder(path, tokenizer=tmp_path / "tokenizer.json")


@pytest.mark.parametrize(
    "key", ["embed_tokens.weight", "layers.0.self_attn.q_proj.weight", "layers.2.mlp.up_proj.weight", "norm.weight"]
)
@pytest.mark.parametrize("prefix", ["", "model."])
@pytest.mark.parametrize("damage", ["missing", "unexpected", "shape"])
def test_keys_are_refused_by_name(tmp_path, state_dict, spiece, key, prefix, damage):
    tensors = dict(state_dict)
    name = prefix + key
    if damage == "missing":
        del tensors[key]
    elif damage == "unexpected":
        name = f"{prefix}{key}_extra"
        tensors[f"{key}_extra"] = torch.zeros(3)
    else:
        tensors[key] = torch.zeros(tensors[key].shape[0], *[size + 1 for size in tensors[key].shape[1:]] or [1])
    for metadata in (HEADS, {**HEADS, "hidden_size": "48"}):
        path = comfy(tmp_path / "a.safetensors", tensors, spiece, metadata, prefix)
        for device in ("cpu", "meta"):
            with pytest.raises(CheckpointError) as error:
                load_text_encoder(path, device=device)
            assert str(error.value).startswith(str(path))
            assert name in str(error.value)


def sparse(path, tensors, size_of=2):
    """A safetensors file of that many bfloat16 values without their bytes on the disk."""
    header, offset = {}, 0
    for key, shape in tensors.items():
        size = math.prod(shape) * (1 if key == "spiece_model" else size_of)
        header[key] = {
            "dtype": "U8" if key == "spiece_model" else "BF16",
            "shape": list(shape),
            "data_offsets": [offset, offset + size],
        }
        offset += size
    content = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(content).to_bytes(8, "little") + content)
        file.truncate(8 + len(content) + offset)
    return path


@pytest.mark.parametrize("prefix", ["", "model."])
def test_gemma_2_2b_is_checked_on_meta(tmp_path, prefix):
    """Five gigabytes by header: a file that states nothing must be Gemma-2-2B to the last shape."""
    shapes = {prefix + key: tuple(tensor.shape) for key, tensor in build_gemma2(TextConfig()).state_dict().items()}
    shapes["spiece_model"] = (4_241_003,)
    encoder = load_text_encoder(sparse(tmp_path / "gemma_2_2b.safetensors", shapes), device="meta")
    assert encoder.config == TextConfig()
    assert all(tensor.is_meta and tensor.dtype == torch.bfloat16 for tensor in encoder.parameters())
    assert sum(tensor.numel() for tensor in encoder.parameters()) == 2_614_341_888
    for key in (f"{prefix}embed_tokens.weight", f"{prefix}layers.25.mlp.down_proj.weight", f"{prefix}norm.weight"):
        broken = dict(shapes)
        broken[key] = (shapes[key][0] + 8, *shapes[key][1:])
        with pytest.raises(CheckpointError, match=rf"{key} \({shapes[key][0] + 8},"):
            load_text_encoder(sparse(tmp_path / "broken.safetensors", broken), device="meta")


OTHERS = {
    "a Gemma-3 text encoder": ("model.layers.0.self_attn.q_norm.weight",
    "model.layers.0.post_feedforward_layernorm.weight",
                               "model.layers.0.pre_feedforward_layernorm.weight"),
    "a Llama-style language model": ("model.layers.0.self_attn.q_proj.weight", "model.layers.0.mlp.gate_proj.weight"),
    "a T5 text encoder": ("encoder.block.0.layer.0.SelfAttention.q.weight", "shared.weight"),
    "a CLIP text encoder": ("text_model.encoder.layers.0.self_attn.q_proj.weight",),
    "a SANA transformer": ("transformer_blocks.0.ff.conv_inverted.weight", "patch_embed.proj.weight"),
    "a model of an unknown kind": ("something.weight",),
}  # fmt: skip


@pytest.mark.parametrize("kind", OTHERS)
def test_another_model(tmp_path, kind):
    path = tmp_path / "m.safetensors"
    save_file({key: torch.zeros(2, 2) for key in OTHERS[kind]}, path)
    with pytest.raises(CheckpointError, match=f"expected a Gemma-2 text encoder, found {kind}") as error:
        load_text_encoder(path)
    assert str(path) in str(error.value)


UP = "model.layers.0.mlp.up_proj"


@pytest.mark.parametrize("mark", [f"{UP}.comfy_quant", f"{UP}.weight_scale"])
def test_a_format_that_is_not_read(tmp_path, state_dict, spiece, mark):
    path = comfy(tmp_path / "a.safetensors", state_dict, spiece)
    tensors = {f"model.{key}": tensor for key, tensor in state_dict.items()}
    content = torch.tensor(list(b'{"format": "w2a2"}'), dtype=torch.uint8)
    save_file({**tensors, mark: content if mark.endswith("comfy_quant") else torch.zeros(1)}, path, HEADS)
    with pytest.raises(CheckpointError, match=rf"quantised \(.*{mark.removesuffix('.comfy_quant')}\)"):
        load_text_encoder(path)


def test_a_quantised_layer_without_its_scale(tmp_path, state_dict, spiece):
    path = comfy(tmp_path / "a.safetensors", state_dict, spiece)
    tensors = {f"model.{key}": tensor for key, tensor in state_dict.items()}
    content = torch.tensor(list(b'{"format": "int8_tensorwise"}'), dtype=torch.uint8)
    tensors |= {f"{UP}.comfy_quant": content, f"{UP}.weight": tensors[f"{UP}.weight"].to(torch.int8)}
    save_file(tensors, path, HEADS)
    with pytest.raises(CheckpointError, match=rf"1 missing \({UP}.weight_scale\)"):
        load_text_encoder(path)


def test_whole_number_weights_are_quantised(tmp_path, state_dict, spiece):
    key = "layers.1.mlp.up_proj.weight"
    path = comfy(tmp_path / "a.safetensors", {**state_dict, key: state_dict[key].to(torch.int8)}, spiece)
    with pytest.raises(CheckpointError, match=rf"quantised \(stored as int8, see model\.{key}\)"):
        load_text_encoder(path)


def test_without_tokenizer(tmp_path, state_dict, config):
    for path in (
        comfy(tmp_path / "a.safetensors", state_dict),
        hugging_face(tmp_path / "text_encoder", state_dict, config),
    ):
        with pytest.raises(CheckpointError, match="this Gemma-2 comes without tokenizer") as error:
            load_text_encoder(path)
        assert str(error.value).startswith(str(path))
        assert load_text_encoder(path, device="meta").config == config


def test_tokenizer_of_another_size(tmp_path, state_dict, config, spiece):
    larger = {**state_dict, "embed_tokens.weight": torch.zeros(config.vocab_size + 5, config.hidden_size)}
    with pytest.raises(CheckpointError, match=r"model\.embed_tokens\.weight has 805 rows, the tokenizer 800 pieces"):
        load_text_encoder(comfy(tmp_path / "a.safetensors", larger, spiece))


@pytest.mark.parametrize(
    "metadata, message",
    [
        ({"num_attention_heads": "three"}, "num_attention_heads = 'three', expected a whole number"),
        ({"num_attention_heads": "0"}, "num_attention_heads = '0', expected a whole number from 1"),
        ({"head_dim": "7.5"}, "head_dim = '7.5', expected a whole number"),
        ({"attn_logit_softcapping": "nan"}, "attn_logit_softcapping = 'nan', expected a number"),
        (
            {**HEADS, "num_hidden_layers": "1000000"},
            "num_hidden_layers = '1000000', expected a whole number from 1 to 1000",
        ),
        ({**HEADS, "num_hidden_layers": "900"}, "900 layers but has the tensors of 3"),
        (
            {"num_attention_heads": "4", "num_key_value_heads": "3"},
            "4 heads of 8 and 3 key/value heads do not fit together",
        ),
        ({**HEADS, "rms_norm_eps": "1e-5"}, "rms_norm_eps = 1e-5, every Gemma-2 has 1e-06"),
        ({**HEADS, "hidden_activation": "silu"}, "hidden_activation = silu, every Gemma-2 has gelu_pytorch_tanh"),
        ({"config": '{"num_attention_heads": null}'}, "do not fit the model"),  # null states nothing: Gemma-2-2B
        ({"num_attention_heads": "true"}, "num_attention_heads = 'true', expected a whole number"),
        ({}, "do not fit the model"),
    ],
)
def test_a_wrong_statement(tmp_path, state_dict, spiece, metadata, message):
    path = comfy(tmp_path / "a.safetensors", state_dict, spiece, metadata)
    with pytest.raises(CheckpointError) as error:
        load_text_encoder(path)
    assert message in str(error.value) and str(error.value).startswith(str(path))


@pytest.mark.parametrize(
    "stored, asked, run",
    [
        (torch.float32, None, torch.float32),
        (torch.bfloat16, None, torch.bfloat16),
        (torch.float16, None, torch.bfloat16),
        (torch.float8_e4m3fn, None, torch.bfloat16),
        (torch.float16, torch.float32, torch.float32),
        (torch.float32, torch.float16, torch.bfloat16),
        (torch.float32, torch.bfloat16, torch.bfloat16),
    ],
)
def test_dtype(tmp_path, state_dict, spiece, caplog, stored, asked, run):
    tensors = {key: tensor.to(stored) for key, tensor in state_dict.items()}
    path = comfy(tmp_path / "a.safetensors", tensors, spiece)
    with caplog.at_level(logging.INFO, "sana"):
        encoder = load_text_encoder(path, dtype=asked)
    loaded = encoder.model.state_dict()
    assert all(loaded[key].dtype == run and torch.equal(loaded[key], tensor.to(run)) for key, tensor in tensors.items())
    assert encoder.model.rotary_emb.inv_freq.dtype == torch.float32, "rotary frequencies stay exact"
    embeddings, _ = encoder.encode(["a cat"])
    assert embeddings.dtype == run and embeddings.isfinite().all()
    assert ("runs in bfloat16" in caplog.text) == ((asked or stored) not in (torch.float32, torch.bfloat16))


PREFIX = "text_encoders.gemma2_2b.transformer.model."


def saved_checkpoint(state_dict, config, spiece):
    """What ComfyUI's Save Checkpoint writes, with other networks beside the text encoder."""
    stated = json.dumps(dataclasses.asdict(config)).encode()
    return {
        **{PREFIX + key: tensor.half() for key, tensor in state_dict.items()},
        "text_encoders.gemma2_2b.logit_scale": torch.tensor(4.6),
        "text_encoders.spiece_model": torch.frombuffer(bytearray(spiece), dtype=torch.uint8),
        "text_encoders.gemma_config": torch.frombuffer(bytearray(stated), dtype=torch.uint8),
        "model.diffusion_model.proj_out.bias": torch.zeros(3),
        "model.diffusion_model.sana_config": torch.frombuffer(bytearray(b"{}"), dtype=torch.uint8),
        "vae.decoder.conv_in.weight": torch.zeros(3),
    }


def test_the_text_encoder_inside_a_checkpoint_that_comfyui_saved(tmp_path, state_dict, config, spiece):
    tensors = saved_checkpoint(state_dict, config, spiece)
    save_file(tensors, tmp_path / "all_in_one.safetensors")
    encoder = load_text_encoder(tmp_path / "all_in_one.safetensors", dtype=torch.float32)
    assert encoder.config == config and encoder.encode(["a cat"])[0].isfinite().all()
    assert load_text_encoder(tmp_path / "all_in_one.safetensors", device="meta").config == config
    key = f"{PREFIX}layers.1.mlp.up_proj.weight"
    save_file({name: tensor for name, tensor in tensors.items() if name != key}, tmp_path / "less.safetensors")
    with pytest.raises(CheckpointError, match=rf"1 missing \({key}\)"):
        load_text_encoder(tmp_path / "less.safetensors")
    save_file({**tensors, "stray.weight": torch.zeros(3)}, tmp_path / "more.safetensors")
    with pytest.raises(CheckpointError, match=r"1 unexpected \(stray\.weight\)"):
        load_text_encoder(tmp_path / "more.safetensors")


@pytest.mark.parametrize(
    "content", [b"[1]", b"{", b"\xff", b'{"a":' * 100_000, b'{"num_hidden_layers": 900}', b'{"head_dim": 0}']
)
def test_a_configuration_tensor_that_cannot_be(tmp_path, state_dict, config, spiece, content):
    tensors = saved_checkpoint(state_dict, config, spiece)
    tensors["text_encoders.gemma_config"] = torch.frombuffer(bytearray(content), dtype=torch.uint8)
    save_file(tensors, tmp_path / "m.safetensors")
    for device in ("cpu", "meta"):
        with pytest.raises(CheckpointError, match=r"m\.safetensors: "):
            load_text_encoder(tmp_path / "m.safetensors", device=device)


def test_what_tools_add_to_a_language_model(tmp_path, state_dict, config, spiece):
    """Tied heads, rotary tables, modules around modules; null in the configuration states nothing."""
    added = {"lm_head.weight": state_dict["embed_tokens.weight"].clone(), "model.rotary_emb.inv_freq": torch.ones(4),
             "model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)}  # fmt: skip
    folder = hugging_face(tmp_path / "f", {f"model.{key}": t for key, t in state_dict.items()} | added, config)
    stated = json.loads((folder / "config.json").read_text())
    nothing = dict.fromkeys(("rope_scaling", "quantization_config", "head_dim", "vocab_size", "rope_theta"))
    (folder / "config.json").write_text(json.dumps({**stated, **nothing}))
    (folder / "tokenizer.model").write_bytes(spiece)
    same(load_text_encoder(folder), config, state_dict)
    wrapped = {f"module._orig_mod.model.{key}": t for key, t in state_dict.items()}
    torch.save({"model": wrapped}, tmp_path / "m.pth")
    with pytest.raises(CheckpointError, match="do not fit"):  # a .pth states nothing: it would be Gemma-2-2B
        load_text_encoder(tmp_path / "m.pth")


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_defaults_of_the_process_change_nothing(tmp_path, state_dict, config, spiece, dtype):
    path = comfy(tmp_path / "a.safetensors", state_dict, spiece)
    expected = load_text_encoder(path)
    torch.set_default_device("meta")
    torch.set_default_dtype(dtype)
    try:
        encoder = load_text_encoder(path)
        states, mask = encoder.encode(PROMPTS)
    finally:
        torch.set_default_device(None)
        torch.set_default_dtype(torch.float32)
    found = {name: (buffer.device.type, buffer.dtype) for name, buffer in encoder.named_buffers()}
    assert found == {name: ("cpu", buffer.dtype) for name, buffer in expected.named_buffers()}
    other, other_mask = expected.encode(PROMPTS)
    assert torch.equal(states, other) and torch.equal(mask, other_mask)
