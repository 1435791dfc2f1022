"""Gemma-2 as the host's CLIP gives what sana_core's text encoder gives, token by token and state by state."""

import dataclasses
import json

import pytest
import tiny_text
import torch
from agreement import assert_agree
from e2e.comfyui import REASON
from safetensors.torch import load_file, save_file

text_encoder = pytest.importorskip("sana_pack.nodes.bridge.text_encoder", reason=REASON)
loading = pytest.importorskip("sana_pack.nodes.bridge.loading", reason=REASON)
core = pytest.importorskip("sana_pack.sana_core.text.load", reason=REASON)
instruction = pytest.importorskip("sana_pack.sana_core.text.instruction", reason=REASON)
errors = pytest.importorskip("sana_pack.sana_core.errors", reason=REASON)
comfy_nodes = pytest.importorskip("nodes", reason=REASON)
cli_args = pytest.importorskip("comfy.cli_args", reason=REASON)
comfy_utils = pytest.importorskip("comfy.utils", reason=REASON)

PROMPTS = [
    "a red apple",
    "",
    "a (red:1.3) ball, [blue] cube, <pad> and 3 cats",
    "first line\nsecond  line",
    "a white cat " * 200,
]


@pytest.fixture(scope="module")
def path(file):
    return file("text_encoders", "gemma.safetensors")


@pytest.fixture(scope="module")
def clip(path):
    return text_encoder.load_text_encoder(path)


@pytest.fixture(scope="module")
def reference(path):
    return core.load_text_encoder(path)


def encode(clip, text, **options):
    ((states, extra),) = clip.encode_from_tokens_scheduled(clip.tokenize(text, **options))
    return states, extra


@pytest.mark.parametrize("wording", [None, "default", "diffusers", "Draw this: "])
@pytest.mark.parametrize("prompt", PROMPTS)
def test_states(clip, reference, prompt, wording):
    states, extra = encode(clip, prompt, instruction=wording)
    expected, mask = reference.encode([prompt], instruction=wording)
    assert_agree(states, expected, 1e-4)
    assert torch.equal(extra["attention_mask"].bool(), mask)


@pytest.mark.parametrize("wording, prompt, length", [
    (None, "", 9), (None, "a red apple on <pad> wood", 30), (None, "a white cat " * 20, 12), ("default", "", 7),
])  # fmt: skip
def test_states_of_upstreams_unconditional_mask(clip, reference, wording, prompt, length):
    states, extra = encode(clip, prompt, instruction=wording, kept_length=length)
    expected, mask = reference.encode([prompt], instruction=wording, kept_lengths=[length])
    assert states.shape[1] == length and mask.all() and extra["attention_mask"].all()
    assert_agree(states, expected, 1e-4)


@pytest.mark.parametrize("stored", [torch.float16, torch.bfloat16])
def test_16_bit_types_are_for_storage_only(monkeypatch, tmp_path, path, stored):
    """Gemma's activations overflow float16; the host computes in float32, whatever the file's type and its option for
    it.

    Its norms add 1 to their weights: in float16 that would round them once more.
    """
    monkeypatch.setattr(cli_args.args, "fp16_text_enc", True)
    tensors, metadata = comfy_utils.load_torch_file(path, return_metadata=True)
    small = {key: tensor.to(stored) if tensor.is_floating_point() else tensor for key, tensor in tensors.items()}
    save_file(small, tmp_path / "small.safetensors", metadata)
    clip = text_encoder.load_text_encoder(str(tmp_path / "small.safetensors"))
    model = clip.cond_stage_model.gemma2_2b.transformer.model
    assert model.embed_tokens.weight.dtype == stored
    computed = []
    model.layers[0].post_feedforward_layernorm.register_forward_hook(
        lambda _, inputs, output: computed.append((inputs[0], output))
    )
    states, _ = encode(clip, "a red apple", instruction="default")
    assert [tensor.dtype for tensor in computed[0]] == [torch.float32] * 2 and states.dtype == torch.float32
    exact = core.load_text_encoder(tmp_path / "small.safetensors", dtype=torch.float32)
    expected, _ = exact.encode(["a red apple"], instruction="default")
    assert_agree(states, expected, 1e-4)


def test_the_soft_cap_matters_here(path, reference):
    capless = text_encoder.load_text_encoder(path)
    for layer in capless.cond_stage_model.gemma2_2b.transformer.model.layers:
        layer.self_attn.softcap = 1e6
    expected = reference.encode(["a red apple"])[0]
    assert (encode(capless, "a red apple", instruction=None)[0] - expected).abs().max() > 1e-2


@pytest.mark.parametrize("prompt, wording", [("a red apple", "default"), ("", None), ("  ", None)])
def test_plain_text_encode_uses_the_instruction_unless_there_is_no_prompt(clip, prompt, wording):
    ((states, _),) = comfy_nodes.CLIPTextEncode().encode(clip, prompt)[0]
    assert torch.equal(states, encode(clip, prompt, instruction=wording)[0])


def test_prompt_weights_are_prose(clip):
    tokens = clip.tokenize("a (red:1.3) ball", instruction=None)["gemma2_2b"][0]
    assert clip.tokenizer.decode([token for token, _ in tokens]) == "a (red:1.3) ball"
    assert {weight for _, weight in tokens} == {1.0}


def test_word_ids_and_untokenize(clip):
    tokens = clip.tokenize("a red apple", return_word_ids=True, instruction=None)["gemma2_2b"][0]
    assert [index for *_, index in tokens] == list(range(len(tokens)))
    assert clip.tokenizer.untokenize(clip.tokenize("a", instruction=None)["gemma2_2b"][0])[0] == ((2, 1.0), "<bos>")


def test_an_all_in_one_checkpoint_brings_it_along(clip, reference):
    saved = {f"text_encoders.{key}": tensor for key, tensor in clip.state_dict_for_saving().items()}
    target = text_encoder.clip_target(saved, "text_encoders.")
    tensors = {key.removeprefix("text_encoders."): tensor for key, tensor in saved.items()}
    from comfy.sd import CLIP

    again = CLIP(target, tokenizer_data=tensors, state_dict=tensors)
    assert_agree(
        encode(again, "a red apple", instruction="default")[0],
        reference.encode(["a red apple"], instruction="default")[0],
        1e-4,
    )


def test_a_file_without_tokenizer_is_refused(file):
    with pytest.raises(errors.CheckpointError, match="Gemma-2 without tokenizer"):
        text_encoder.load_text_encoder(file("text_encoders", "gemma_without_tokenizer.safetensors"))
    with pytest.raises(errors.CheckpointError, match="Gemma-2 without tokenizer"):
        text_encoder.SanaTokenizer(tokenizer_data={})


def test_other_files_are_refused(tmp_path, file):
    save_file({"text_model.encoder.layers.0.self_attn.q_proj.weight": torch.zeros(1)}, tmp_path / "clip.safetensors")
    for path, said in (
        (tmp_path / "clip.safetensors", "CLIP"),
        (file("diffusion_models", "sana.safetensors"), "a SANA transformer"),
    ):
        with pytest.raises(errors.CheckpointError, match=said):
            text_encoder.load_text_encoder(str(path))


def test_a_missing_key_is_named(tmp_path, path):
    tensors = load_file(path)
    tensors.pop("model.layers.1.mlp.up_proj.weight")
    config = json.dumps(
        {
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 8,
            "query_pre_attn_scalar": 8,
            "num_hidden_layers": 3,
        }
    )
    save_file(tensors, tmp_path / "damaged.safetensors", {"config": config})
    with pytest.raises(errors.CheckpointError, match=r"missing.*model\.layers\.1\.mlp\.up_proj\.weight"):
        text_encoder.load_text_encoder(str(tmp_path / "damaged.safetensors"))


@pytest.mark.parametrize(
    "case",
    [
        "plain_nochi",
        "cased_nochi",
        "parens_nochi",
        "long_nochi",
        "plain_chi",
        "plain_chi_nvlabs",
        "unicode_chi",
        "long_chi",
    ],
)
def test_diffusers_states(oracle, tmp_path, case):
    settings = json.loads((oracle / "ref.json").read_text())["cases"][f"text/{case}"]
    size = json.loads((oracle / "fix" / "manifest.json").read_text())["gemma"]
    save_file(
        load_file(oracle / "fix" / "text" / "gemma2_comfy.safetensors"),
        tmp_path / "gemma.safetensors",
        {"config": json.dumps(size)},
    )
    clip = text_encoder.load_text_encoder(str(tmp_path / "gemma.safetensors"))
    lines = settings["complex_human_instruction"]
    states, _ = encode(clip, settings["prompt"].lower().strip(), instruction="\n".join(lines) if lines else None)
    assert_agree(states[0], load_file(oracle / "ref.safetensors")[f"text/{case}/embeds_valid"], 1e-3)


@pytest.mark.parametrize("kind", ["LUMINA2", "PIXELDIT"])
def test_a_clip_of_the_hosts_own_loader_works_on_sana(tmp_path, file, kind):
    """The host's Gemma-2 classes have heads of 256; its CLIP gives padded states with a mask, or other states, and SANA
    takes both.
    """
    comfy_sd = pytest.importorskip("comfy.sd", reason=REASON)
    samplers = pytest.importorskip("comfy.samplers", reason=REASON)
    config = dataclasses.replace(
        tiny_text.config(hidden_size=48), head_dim=256, num_attention_heads=2, num_key_value_heads=1
    )
    spiece = torch.frombuffer(bytearray(tiny_text.spiece()), dtype=torch.uint8)
    weights = {f"model.{key}": tensor for key, tensor in tiny_text.state_dict(config).items()}
    save_file({**weights, "spiece_model": spiece}, tmp_path / "gemma.safetensors")
    names = (
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
        "vocab_size",
    )
    options = {"gemma2_2b_model_config": {name: getattr(config, name) for name in names}}
    clip = comfy_sd.load_clip([str(tmp_path / "gemma.safetensors")], None, comfy_sd.CLIPType[kind], options)
    positive, negative = (comfy_nodes.CLIPTextEncode().encode(clip, text)[0] for text in ("a red apple", ""))
    guider = samplers.CFGGuider(loading.load_model(file("diffusion_models", "sana.safetensors")))
    guider.set_conds(positive, negative)
    guider.set_cfg(4.5)
    noise = torch.randn(1, 32, 2, 3)
    run = [
        guider.sample(
            noise, torch.zeros_like(noise), samplers.sampler_object("euler"), torch.tensor([1.0, 0.5, 0.0]), seed=0
        )
    ]
    trimmed = [[states[:, extra["attention_mask"][0].bool()], {}] for states, extra in (*positive, *negative)]
    guider.set_conds(trimmed[:1], trimmed[1:])
    run.append(
        guider.sample(
            noise, torch.zeros_like(noise), samplers.sampler_object("euler"), torch.tensor([1.0, 0.5, 0.0]), seed=0
        )
    )
    assert_agree(*run, 1e-5)  # what the mask hides has no effect


def test_the_hosts_text_generation_runs(clip):
    tokens = clip.tokenize("a red", instruction=None)
    generated = clip.generate(tokens, do_sample=False, max_length=4)
    assert 1 <= len(generated) <= 4
    assert isinstance(clip.decode(generated), str)
