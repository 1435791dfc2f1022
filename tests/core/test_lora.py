"""LoRA: every dialect gives the same weights, every kind its formula, and what does not fit is said before a weight
changes.
"""

import json
import logging

import pytest
import tiny
import tiny_lora
import tiny_pipeline
import tiny_text
import torch
from PIL import Image
from safetensors.torch import save_file
from tiny_lora import ALPHA, DIALECTS, RANK

from sana_core.cli import main
from sana_core.errors import CheckpointError, InputError
from sana_core.kit import Kit
from sana_core.lora import apply_lora, load_lora, names
from sana_core.lora.factors import Factors
from sana_core.lora.shapes import change_shape, fits
from sana_core.pipeline import load_pipeline
from sana_core.text.gemma import GemmaTextEncoder
from sana_core.transformer.model import SanaTransformer

MODELS = {"1.0": {}, "1.5": {"qk_norm": True}, "sprint": {"qk_norm": True, "guidance_embed": True}}
TO_Q, DEPTH = "transformer_blocks.0.attn1.to_q", "transformer_blocks.0.ff.conv_depth"


@pytest.fixture
def lora(tmp_path):
    """A function that loads a LoRA of these tensors from a file."""

    def load(tensors, metadata=None):
        save_file(
            {key: tensor.contiguous() for key, tensor in tensors.items()}, tmp_path / "lora.safetensors", metadata
        )
        return load_lora(tmp_path / "lora.safetensors")

    return load


def test_a_shortage_of_memory_puts_all_weights_back(monkeypatch, lora):
    """At the second of two layers."""
    model = tiny.transformer()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    width = model.config.hidden_size
    pairs = {f"{TO_Q}.lora_A.weight": torch.ones(2, width), f"{TO_Q}.lora_B.weight": torch.ones(width, 2)}
    given = lora({**pairs, **{key.replace("to_q", "to_k"): tensor.clone() for key, tensor in pairs.items()}})
    change, calls = Factors.change, []

    def short(self, weight):
        calls.append(weight)
        if len(calls) == 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return change(self, weight)

    monkeypatch.setattr(Factors, "change", short)
    with pytest.raises(torch.OutOfMemoryError):
        apply_lora(model, given)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def weights(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def assert_added(model, before, deltas, strength=1.0, tolerance=1e-5):
    """The weights are `before` with `strength` times `deltas`, by module, and nothing else has changed."""
    for name, tensor in model.state_dict().items():
        delta = deltas.get(name.removesuffix(".weight")) if name.endswith(".weight") else None
        expected = before[name] if delta is None else before[name] + strength * delta.reshape(tensor.shape)
        torch.testing.assert_close(
            tensor,
            expected,
            rtol=0,
            atol=0 if delta is None else tolerance,
            msg=lambda text, name=name: f"{name}: {text}",
        )


# --- dialects


@pytest.mark.parametrize("release", MODELS)
@pytest.mark.parametrize("dialect", DIALECTS)
def test_dialects(lora, dialect, release):
    model = tiny.transformer(**MODELS[release])
    before, factors = weights(model), tiny_lora.factors(model)
    report = apply_lora(model, lora(DIALECTS[dialect](factors)), 0.7)
    assert_added(model, before, tiny_lora.deltas(factors), 0.7)
    assert set(report.matched) == set(factors)
    assert report.unmatched == report.elsewhere == ()
    assert set(report.ranks.values()) == {RANK} and set(report.kinds.values()) == {"LoRA"}


@pytest.mark.parametrize("metadata, alpha, scale", [
    (tiny_lora.stated(), ALPHA, ALPHA / RANK),
    (tiny_lora.stated(alpha=8, alpha_pattern={"attn1.to_q": 12, "attn1": 16}, rank_pattern={"attn1.to_q": 4}), 12, 3.0),
    (tiny_lora.stated(r=16, alpha=8, rank_pattern={f"^{TO_Q}": 2}), 8, 4.0),
    (tiny_lora.stated(use_rslora=True), ALPHA, ALPHA / RANK**0.5),
    ({"lora_adapter_metadata": json.dumps({"text_encoder.lora_alpha": 64, "transformer.lora_alpha": 2})}, 2, 0.5),
    ({}, None, 1.0),
])  # fmt: skip
def test_alpha_in_the_metadata(lora, metadata, alpha, scale):
    model = tiny.transformer()
    before, (down, up) = weights(model), tiny_lora.factors(model)[TO_Q]
    report = apply_lora(model, lora(tiny_lora.peft({TO_Q: (down, up)}, folded=False), metadata))
    assert_added(model, before, {TO_Q: scale * up @ down})
    assert report.alphas == {TO_Q: alpha}


def test_a_peft_folder(tmp_path):
    model = tiny.transformer()
    before, factors = weights(model), tiny_lora.factors(model)
    save_file(tiny_lora.peft(factors, "base_model.model.", folded=False), tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_text(json.dumps(tiny_lora.config()))
    apply_lora(model, load_lora(tmp_path))
    assert_added(model, before, tiny_lora.deltas(factors))
    apply_lora(model, load_lora(tmp_path / "adapter_model.safetensors"), -1.0)
    assert_added(model, before, {name: 0 * delta for name, delta in tiny_lora.deltas(factors).items()})


@pytest.mark.parametrize("release", MODELS)
def test_no_name_means_two_things(release):
    modules = names.module_names(tiny.transformer(**MODELS[release]).state_dict())
    originals = {names.original_name(module, guided=release == "sprint") for module in modules}
    short = {name.removesuffix(".conv") for name in originals if name.endswith("_conv.conv")}
    forms = len(names.DOTTED) + len(names.FLAT)
    assert len(names.aliases(modules)) == forms * len({*modules, *originals, *short})


# --- kinds


def rand(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * 0.1


def only(module, **roles):
    return {f"diffusion_model.{module}.{role}": tensor for role, tensor in roles.items()}


KINDS = {
    "LoHa": (
        {"hada_w1_a": rand(224, 4), "hada_w1_b": rand(4, 224),
         "hada_w2_a": rand(224, 4, seed=2), "hada_w2_b": rand(4, 224, seed=3)},
        lambda t: (t["hada_w1_a"] @ t["hada_w1_b"]) * (t["hada_w2_a"] @ t["hada_w2_b"]) * 0.5,
    ),
    "LoKr": (
        {"lokr_w1": rand(7, 14), "lokr_w2_a": rand(32, 4, seed=1), "lokr_w2_b": rand(4, 16, seed=2)},
        lambda t: torch.kron(t["lokr_w1"], t["lokr_w2_a"] @ t["lokr_w2_b"]) * 0.5,
    ),
    "LoKr of full factors": (  # alpha says nothing there
        {"lokr_w1": rand(7, 14), "lokr_w2": rand(32, 16, seed=1)},
        lambda t: torch.kron(t["lokr_w1"], t["lokr_w2"]),
    ),
    "full difference": ({"diff": rand(224, 224)}, lambda t: t["diff"]),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("strength", [1.0, -0.3])
def test_kinds(lora, kind, strength):
    model = tiny.transformer()
    tensors, formula = KINDS[kind]
    before = weights(model)
    report = apply_lora(model, lora(only(TO_Q, alpha=torch.tensor(2.0), **tensors)), strength)
    assert_added(model, before, {TO_Q: formula(tensors)}, strength)
    assert report.kinds == {TO_Q: kind.removesuffix(" of full factors")}


SHAPES = {
    **{kind: tensors for kind, (tensors, _) in KINDS.items()},
    "LoRA": {"up": rand(8, 4), "down": rand(4, 6)},
    "LoRA of a convolution": {"up": rand(8, 4, 1, 1), "down": rand(4, 1, 3, 3)},
    "LoRA with a core": {"up": rand(8, 5, 1, 1), "mid": rand(5, 4, 3, 3), "down": rand(4, 2, 1, 1)},
    "LoHa with cores": {"hada_w1_a": rand(4, 8), "hada_w1_b": rand(4, 6), "hada_t1": rand(4, 4, 3, 3),
                        "hada_w2_a": rand(4, 8), "hada_w2_b": rand(4, 6), "hada_t2": rand(4, 4, 3, 3)},
    "LoKr of a convolution": {"lokr_w1": rand(2, 3), "lokr_w2": rand(4, 5, 3, 3)},
    "LoKr with a core": {"lokr_w1_a": rand(2, 4), "lokr_w1_b": rand(4, 3), "lokr_t2": rand(4, 4, 3, 3),
                         "lokr_w2_a": rand(4, 8), "lokr_w2_b": rand(4, 6)},
    "bias alone": {"diff_b": rand(8)},
}  # fmt: skip


@pytest.mark.parametrize("kind", SHAPES)
def test_the_shape_of_a_change(kind):
    factors = Factors(tensors=SHAPES[kind])
    delta = factors.delta()
    assert change_shape(factors) == (None if delta is None else delta.shape)
    assert fits(factors, (8, 6) if delta is None else delta.shape)
    assert delta is None or not fits(factors, (*delta.shape[:-1], delta.shape[-1] + 1))


def test_tucker_factors_of_a_convolution(lora):
    """LyCORIS' form of a 3x3 kernel: a small core between two matrices."""
    model = tiny.transformer()
    shape, before = model.get_submodule(DEPTH).weight.shape, weights(model)
    core, up, down = rand(4, 4, 3, 3), rand(shape[0], 4, 1, 1, seed=1), rand(4, 1, 1, 1, seed=2)
    keys = {"lora_mid.weight": core, "lora_up.weight": up, "lora_down.weight": down}
    apply_lora(model, lora({f"lycoris_{DEPTH.replace('.', '_')}.{key}": tensor for key, tensor in keys.items()}))
    expected = sum(up[:, r] * down[s, 0] * core[r, s][None] for r in range(4) for s in range(4))
    assert_added(model, before, {DEPTH: expected})


def test_onetrainers_depthwise_factors(lora):
    """The up-projection has one row, the down-projection all channels; their product has the weight's order."""
    model = tiny.transformer()
    channels, before = model.get_submodule(DEPTH).weight.shape[0], weights(model)
    down, up = rand(4, channels, 3, 3), rand(1, 4, 1, 1, seed=1)
    name = f"lora_unet_{DEPTH.replace('.', '_')}"
    apply_lora(
        model,
        lora({f"{name}.lora_down.weight": down, f"{name}.lora_up.weight": up, f"{name}.alpha": torch.tensor(2.0)}),
    )
    expected = torch.stack(
        [0.5 * sum(up[0, r, 0, 0] * down[r, channel] for r in range(4)) for channel in range(channels)]
    )
    assert_added(model, before, {DEPTH: expected[:, None]})


@pytest.mark.parametrize("axis, keys", [
    (1, {"lora_magnitude_vector": (224,)}), (1, {"lora_magnitude_vector.weight": (224,)}),
    (1, {"dora_scale": (224, 1)}), (0, {"dora_scale": (1, 224)}),
])  # fmt: skip
def test_dora(lora, axis, keys):
    model = tiny.transformer()
    before, (down, up) = weights(model), tiny_lora.factors(model)[TO_Q]
    lengths = rand(224, seed=9).abs() + 1
    dora = {f"transformer.{TO_Q}.{key}": lengths.reshape(shape) for key, shape in keys.items()}
    report = apply_lora(model, lora({**tiny_lora.peft({TO_Q: (down, up)}), **dora}), 0.5)
    changed = before[f"{TO_Q}.weight"] + 0.5 * up @ down
    wanted = changed / changed.norm(dim=axis, keepdim=True) * lengths.unsqueeze(axis)
    assert_added(model, before, {TO_Q: wanted - before[f"{TO_Q}.weight"]}, 0.5)
    assert report.kinds == {TO_Q: "DoRA LoRA"}


def test_dora_of_a_fused_layer_scales_its_columns_together(lora):
    model = tiny.transformer()
    before, factors = weights(model), tiny_lora.fused(tiny_lora.factors(model))
    down, up = factors["blocks.0.attn.qkv"]
    lengths = rand(224, seed=9).abs() + 1
    apply_lora(
        model,
        lora({**tiny_lora.kohya({"blocks.0.attn.qkv": (down, up)}, ""), "blocks.0.attn.qkv.dora_scale": lengths[None]}),
    )
    names = [f"transformer_blocks.0.attn1.to_{part}" for part in "qkv"]
    whole = torch.cat([before[f"{name}.weight"] for name in names])
    changed = whole + 0.5 * up @ down
    parts = (changed / changed.norm(dim=0, keepdim=True) * lengths - whole).chunk(3)
    assert_added(model, before, dict(zip(names, parts)))


def test_a_difference_of_the_bias(lora):
    """What ComfyUI's Extract and Save Lora writes beside the factors."""
    model = tiny.transformer()
    before, (down, up), bias = weights(model), tiny_lora.factors(model)["proj_out"], rand(32)
    apply_lora(
        model,
        lora(
            {**tiny_lora.kohya({"proj_out": (down, up)}, "diffusion_model."), "diffusion_model.proj_out.diff_b": bias}
        ),
        2.0,
    )
    assert torch.allclose(model.proj_out.bias, before["proj_out.bias"] + 2.0 * bias)
    assert torch.allclose(model.proj_out.weight, before["proj_out.weight"] + 2.0 * 0.5 * up @ down, atol=1e-6)


# --- strength


def test_strength(lora):
    model = tiny.transformer()
    before, factors = weights(model), tiny_lora.factors(model)
    first, second = lora(tiny_lora.kohya(factors)), lora(tiny_lora.peft(tiny_lora.factors(model, seed=99)))
    apply_lora(model, first, 0.0)
    assert_added(model, before, {})
    apply_lora(model, first, 0.7)
    apply_lora(model, second, -0.4)
    other = tiny_lora.deltas(tiny_lora.factors(model, seed=99))
    assert_added(
        model, before, {name: 0.7 * delta - 0.4 * other[name] for name, delta in tiny_lora.deltas(factors).items()}
    )
    apply_lora(model, first, -0.7)
    apply_lora(model, second, 0.4)
    assert_added(model, before, {name: 0 * delta for name, delta in other.items()}, tolerance=1e-6)


def test_sums_are_rounded_once_in_sixteen_bit(lora):
    model = tiny.transformer().bfloat16()
    before, factors = weights(model), tiny_lora.factors(model.float())
    model.bfloat16()
    apply_lora(model, lora(tiny_lora.kohya(factors)))
    name = f"{TO_Q}.weight"
    assert torch.equal(model.get_parameter(name), (before[name].float() + tiny_lora.deltas(factors)[TO_Q]).bfloat16())


# --- Gemma


def gemma_factors():
    return {f"layers.{i}.self_attn.q_proj": (rand(RANK, 48, seed=i), rand(32, RANK, seed=i + 5)) for i in range(3)}


GEMMA = {
    "onetrainer": lambda factors: tiny_lora.kohya(factors, "lora_te_"),
    "diffusers": lambda factors: tiny_lora.peft(factors, "text_encoder."),
    "comfyui": lambda factors: tiny_lora.kohya(factors, "text_encoders.gemma2_2b.transformer.model."),
    "peft of the language model": lambda factors: tiny_lora.peft(factors, "base_model.model.model."),
}


@pytest.mark.parametrize("dialect", GEMMA)
def test_gemma(lora, dialect):
    config = tiny_text.config()
    encoder = GemmaTextEncoder(config, None, tiny_text.state_dict(config))
    before = weights(encoder)
    report = apply_lora(encoder, lora(GEMMA[dialect](gemma_factors())))
    deltas = {f"model.{module}": delta for module, delta in tiny_lora.deltas(gemma_factors()).items()}
    assert_added(encoder, before, deltas)
    assert set(report.matched) == set(deltas)


def test_a_file_for_both_networks(lora, caplog):
    model = tiny.transformer()
    both = lora({**tiny_lora.kohya(tiny_lora.factors(model)), **tiny_lora.kohya(gemma_factors(), "lora_te_")})
    assert both.has_transformer and both.has_text_encoder
    report = apply_lora(model, both)
    assert len(report.elsewhere) == 9 and report.unmatched == () and not caplog.records
    assert "9 keys of the text encoder: lora_te_layers_0_self_attn_q_proj" in str(report)
    alone = lora(tiny_lora.kohya(gemma_factors(), "lora_te_"))
    with pytest.raises(
        CheckpointError,
        match=r"changes a text encoder only \(such as lora_te_layers_0_self_attn_q_proj\).*give it the",
    ):
        apply_lora(model, alone)


# --- what does not fit


def test_keys_that_fit_nothing_are_named(lora, caplog):
    model = tiny.transformer()
    extra = {
        "transformer.transformer_blocks.0.attn9.to_q.lora_A.weight": rand(4, 4),
        "bundle_emb.token.gemma": rand(2, 4),
    }
    extra["transformer.transformer_blocks.0.attn9.to_q.lora_B.weight"] = rand(4, 4)
    with caplog.at_level(logging.WARNING, logger="sana"):
        report = apply_lora(model, lora({**tiny_lora.peft(tiny_lora.factors(model)), **extra}))
    assert set(report.unmatched) == set(extra)
    assert all(key in caplog.text and key in str(report) for key in extra)


def test_the_report(lora):
    model = tiny.transformer()
    kohya = tiny_lora.kohya(tiny_lora.factors(model))
    mixed = {**kohya, "lora_unet_proj_out.alpha": torch.tensor(8.0)}
    lines = str(apply_lora(model, lora(mixed), 0.5)).splitlines()
    assert lines[0].endswith("lora.safetensors: 24 modules of the transformer at strength 0.5")
    assert lines[1:] == ["kind: LoRA", "rank: 4", "alpha: 2 (23 modules), 8 (1 modules)", "0 keys unmatched"]


def sized(width, depth=2):
    return tiny_lora.factors(tiny.transformer(hidden_size=width, depth=depth), depth)


WRONG = {
    "width": (
        lambda: tiny_lora.peft(sized(288)),
        r"of another model\. Its change of .*linear_1 is \(288, 96\), the weight here is \(224, 96\)\. Use a LoRA",
    ),
    "depth": (lambda: tiny_lora.peft(sized(224, 3)), "trained on a model with 3 blocks, this one has 2"),
    "sdxl": (
        lambda: {f"lora_unet_down_blocks_1_attentions_0_proj_in.lora_{d}.weight": rand(4, 4) for d in ("up", "down")},
        r"expected a LoRA of this SANA transformer, found a Stable Diffusion or SDXL LoRA.*trained on SANA",
    ),
    "flux": (
        lambda: {f"transformer.single_transformer_blocks.0.attn.to_q.lora_{d}.weight": rand(4, 4) for d in "AB"},
        "found a Flux LoRA",
    ),
    "one tensor": (
        lambda: {**tiny_lora.peft(sized(224)), f"transformer.{TO_Q}.lora_B.weight": rand(224, 5)},
        rf"the tensors of transformer\.{TO_Q} \(down \(4, 224\), up \(224, 5\)\) do not make a change of a \(224,",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_nothing_changes_where_something_is_wrong(lora, case):
    model = tiny.transformer()
    before = weights(model)
    tensors, said = WRONG[case]
    with pytest.raises(CheckpointError, match=said) as error:
        apply_lora(model, lora(tensors()))
    assert "\n" not in str(error.value)
    assert_added(model, before, {})


def test_the_message_names_both_releases(lora):
    model = SanaTransformer(tiny.transformer_config(hidden_size=2240, depth=1), Kit(device="meta"))
    name = "transformer.transformer_blocks.0.attn1.to_q"
    with pytest.raises(
        CheckpointError,
        match=r"\(1152, 1152\) \(SANA 0\.6B\), the weight here is \(2240, 2240\) \(SANA 1\.6B or 4\.8B\)",
    ):
        apply_lora(model, lora({f"{name}.lora_A.weight": rand(1, 1152), f"{name}.lora_B.weight": rand(1152, 1)}))


def test_files_that_are_no_lora(tmp_path):
    path = tmp_path / "f.safetensors"
    save_file(tiny.transformer().state_dict(), path)
    with pytest.raises(
        CheckpointError, match=r"f\.safetensors: expected a LoRA, found a SANA transformer: choose a LoRA file"
    ):
        load_lora(path)
    save_file({f"transformer.{TO_Q}.lora_A.weight": rand(4, 224)}, path)
    with pytest.raises(
        CheckpointError, match=rf"found only parts of one \(such as transformer\.{TO_Q}\.lora_A\.weight\)"
    ):
        load_lora(path)
    save_file(tiny_lora.peft(sized(224)), path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="truncated or damaged"):
        load_lora(path)
    save_file(tiny_lora.peft(sized(224)), path, {"lora_adapter_metadata": "{"})
    with pytest.raises(CheckpointError, match="its LoRA configuration is not readable JSON"):
        load_lora(path)


# --- the command line


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A whole tiny SANA, and a LoRA for its transformer and its text encoder."""
    folder = tmp_path_factory.mktemp("sana")
    paths = tiny_pipeline.write_files(folder)
    network = tiny.transformer(caption_channels=tiny_text.config().hidden_size)
    both = {**tiny_lora.kohya(tiny_lora.factors(network)), **tiny_lora.kohya(gemma_factors(), "lora_te_")}
    save_file({key: tensor.contiguous() for key, tensor in both.items()}, folder / "lora.safetensors")
    return paths


def command(files, path, *options):
    parts = [text for part, file in files.items() for text in (f"--{part.replace('_', '-')}", str(file))]
    return main(
        [
            "a red apple",
            "-o",
            str(path),
            "--size",
            "64x32",
            "--steps",
            "2",
            "--seed",
            "5",
            "--device",
            "cpu",
            *parts,
            *options,
        ]
    )


def test_the_command_line(files, tmp_path, capsys):
    lora_file = files["transformer"].parent / "lora.safetensors"
    assert command(files, tmp_path / "p.png", "--lora", f"{lora_file}:0.25", "--lora", str(lora_file)) == 0
    said = capsys.readouterr().err
    assert "lora.safetensors: 24 modules of the transformer at strength 0.25\n" in said
    assert "lora.safetensors: 3 modules of the text encoder at strength 1\n" in said
    pipeline = load_pipeline(files, device="cpu")
    for network in (pipeline.transformer, pipeline.text_encoder):
        apply_lora(network, load_lora(lora_file), 1.25)
    with Image.open(tmp_path / "p.png") as picture:
        pixels = torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8).int()
        assert json.loads(picture.info["sana"])["loras"] == ["lora.safetensors:0.25", "lora.safetensors:1"]
    (expected,) = pipeline("a red apple", width=64, height=32, steps=2, seed=5)
    expected = torch.frombuffer(bytearray(expected.tobytes()), dtype=torch.uint8).int()
    assert (pixels - expected).abs().max() <= 1


def test_the_command_line_is_quiet_and_refuses(files, tmp_path, capsys):
    lora_file = files["transformer"].parent / "lora.safetensors"
    assert command(files, tmp_path / "p.png", "--lora", str(lora_file), "--quiet") == 0
    assert capsys.readouterr() == ("", "")
    assert command(files, tmp_path / "q.png", "--lora", str(files["autoencoder"])) == 2
    assert "expected a LoRA, found a DC-AE autoencoder: choose a LoRA file" in capsys.readouterr().err
    assert command(files, tmp_path / "q.png", "--lora", "C:\\none.safetensors") == 2
    assert "C:\\none.safetensors: there is no such file" in capsys.readouterr().err


def test_a_strength_that_is_no_number(lora):
    model = tiny.transformer()
    with pytest.raises(InputError, match="strength nan"):
        apply_lora(model, lora(tiny_lora.peft(tiny_lora.factors(model))), float("nan"))
