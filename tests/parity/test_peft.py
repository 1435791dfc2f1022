"""Adapters against PEFT, float32: the same network and the same adapter give the same output, in every form that PEFT
writes them.
"""

import json

import pytest
import torch
from agreement import assert_agree
from safetensors.torch import load_file, save_file

from sana_core.checkpoint.load import load_transformer
from sana_core.lora import apply_lora, load_lora

diffusers = pytest.importorskip("diffusers", reason="diffusers' transformer is the reference these tests compare with")
peft = pytest.importorskip("peft", reason="PEFT's adapters are the reference these tests compare with")

TARGETS = ["to_q", "to_v", "to_out.0", "patch_embed.proj", "ff.conv_inverted", "proj_out"]
BIASED = ["attn2.to_q", "to_out.0", "ff.conv_inverted", "proj_out"]
SETTINGS = {"r": 4, "target_modules": TARGETS}
LORA = {**SETTINGS, "lora_alpha": 6, "init_lora_weights": False}
OTHER = {**SETTINGS, "alpha": 6, "init_weights": False}
RANKS, ALPHAS = {"attn1.to_q": 8}, {"attn1.to_q": 3, "proj_out": 1}
FIRST = "transformer_blocks.0.attn1.to_q"
PATTERNS = {
    "a name": "attn1.to_q",
    "from the beginning": f"^{FIRST}",
    "from the beginning, escaped": FIRST.replace(".", r"\."),
    "after anything": r".*\.attn1\.to_q",
    "numbers": r"transformer_blocks\.\d+\.attn[12]\.to_(q|v)",
    "a part that is not whole": "n1.to_q",
    "alternatives": "attn2.to_q|proj_out",
    "lookahead": r"(?!.*attn2).*to_q",
    "counted": r"transformer_blocks\.[0-9]{1,2}\.\w+\.to_q$",
}
KINDS = {
    "LoRA": lambda: peft.LoraConfig(**LORA),
    "patterns": lambda: peft.LoraConfig(**LORA, rank_pattern=RANKS, alpha_pattern=ALPHAS),
    "rsLoRA": lambda: peft.LoraConfig(**LORA, use_rslora=True),
    "rsLoRA with patterns": lambda: peft.LoraConfig(**LORA, use_rslora=True, rank_pattern=RANKS, alpha_pattern=ALPHAS),
    "DoRA": lambda: peft.LoraConfig(**LORA, use_dora=True),
    "LoRA with a bias": lambda: peft.LoraConfig(**{**LORA, "target_modules": BIASED}, lora_bias=True),
    "all biases": lambda: peft.LoraConfig(**LORA, bias="all"),
    "biases of adapted layers": lambda: peft.LoraConfig(**LORA, bias="lora_only"),
    "AdaLoRA": lambda: peft.AdaLoraConfig(
        init_r=4, target_r=2, total_step=10, lora_alpha=6, init_lora_weights=False,
        target_modules=["to_q", "to_v", "to_out.0", "proj_out"],
    ),
    "LoHa": lambda: peft.LoHaConfig(**OTHER),
    "LoHa with patterns": lambda: peft.LoHaConfig(**OTHER, rank_pattern=RANKS, alpha_pattern=ALPHAS),
    "LoHa of a convolution": lambda: peft.LoHaConfig(
        **{**OTHER, "target_modules": ["to_q", "conv_depth"]}, use_effective_conv2d=True
    ),
    "LoKr": lambda: peft.LoKrConfig(**OTHER),
    "LoKr of whole factors": lambda: peft.LoKrConfig(**{**OTHER, "r": 64}),
    "LoKr of whole factors with patterns": lambda: peft.LoKrConfig(
        **{**OTHER, "r": 64}, rank_pattern={"attn1.to_q": 128}, alpha_pattern=ALPHAS
    ),
    "LoKr of a convolution": lambda: peft.LoKrConfig(
        **{**OTHER, "target_modules": ["to_q", "conv_depth"], "r": 3}, use_effective_conv2d=True
    ),
    "LoKr of products": lambda: peft.LoKrConfig(**{**OTHER, "r": 3}, decompose_both=True),
    **{f"LoRA, pattern of {name}": lambda pattern=pattern: peft.LoraConfig(**LORA, alpha_pattern={pattern: 30})
       for name, pattern in PATTERNS.items()},
    **{f"LoKr, pattern of {name}": lambda pattern=pattern: peft.LoKrConfig(**{**OTHER, "r": 64}, rank_pattern={pattern: 96})
       for name, pattern in PATTERNS.items()},
}  # fmt: skip


@pytest.fixture(scope="module")
def latents():
    generator = torch.Generator().manual_seed(4)
    latent, text = torch.randn(2, 32, 6, 10, generator=generator), torch.randn(2, 9, 96, generator=generator)
    return latent, text, torch.tensor([999.0, 13.0])


@pytest.fixture
def adapted(tmp_path, latents):
    """A function that adapts a transformer as a configuration says and saves it; it returns PEFT's model and output."""

    def adapt(config):
        torch.manual_seed(3)
        network = diffusers.SanaTransformer2DModel(
            num_attention_heads=7, attention_head_dim=32, num_cross_attention_heads=2, cross_attention_head_dim=112,
            cross_attention_dim=224, caption_channels=96, num_layers=2, sample_size=32,
        ).eval()  # fmt: skip
        save_file(network.state_dict(), tmp_path / "model.safetensors")
        model = peft.get_peft_model(network, config)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if any(mark in name for mark in ("lora_", "hada_", "lokr_")) or parameter.requires_grad:
                    noise = torch.randn_like(parameter) * (0.1 if "lora_" in name else 0.3)
                    parameter.copy_(noise + ("magnitude" in name) * parameter)
        if isinstance(config, peft.AdaLoraConfig):
            model.peft_config["default"].rank_pattern = None
        latent, text, timestep = latents
        with torch.no_grad():
            return model.eval(), model(latent, text, timestep, return_dict=False)[0]

    return adapt


def assert_same(path, tmp_path, latents, expected):
    latent, text, timestep = latents
    ours = load_transformer(tmp_path / "model.safetensors")
    with torch.no_grad():
        plain = ours(latent, timestep, text)
        report = apply_lora(ours, load_lora(path))
        assert report.unmatched == ()
        assert_agree(ours(latent, timestep, text), expected, 1e-4)
        assert (plain - expected).abs().max() > 0.02 * expected.abs().max()


@pytest.mark.parametrize("kind", KINDS)
def test_kinds(tmp_path, latents, adapted, kind):
    model, expected = adapted(KINDS[kind]())
    model.save_pretrained(tmp_path / "adapter")
    assert_same(tmp_path / "adapter", tmp_path, latents, expected)


def in_metadata(tmp_path, prefix):
    """The adapter as one file with its configuration in the metadata, names and entries prefixed."""
    config = json.loads((tmp_path / "adapter/adapter_config.json").read_text())
    tensors = load_file(tmp_path / "adapter/adapter_model.safetensors")
    stated = json.dumps({f"{prefix}{key}": value for key, value in config.items()})
    renamed = {prefix + key.removeprefix("base_model.model."): tensor for key, tensor in tensors.items()}
    save_file(renamed, tmp_path / "lora.safetensors", {"lora_adapter_metadata": stated})
    return tmp_path / "lora.safetensors"


def as_pickle(tmp_path):
    (tmp_path / "adapter/adapter_model.safetensors").unlink()
    return tmp_path / "adapter"


def with_names(tmp_path, change):
    file = tmp_path / "adapter/adapter_model.safetensors"
    save_file({change(key): tensor for key, tensor in load_file(file).items()}, file)
    return file


WRAPPED = "base_model.model.module._orig_mod.transformer_blocks._fsdp_wrapped_module."
FORMS = {
    "folder": lambda path: path / "adapter",
    "file": lambda path: path / "adapter/adapter_model.safetensors",
    "metadata": lambda path: in_metadata(path, ""),
    "diffusers": lambda path: in_metadata(path, "transformer."),
    "wrappers": lambda path: with_names(
        path, lambda key: key.replace("base_model.model.transformer_blocks.", WRAPPED)
        .replace(".attn", "._checkpoint_wrapped_module.attn")
    ),
    "adapter's name": lambda path: with_names(path, lambda key: named(key, "default")),
    "another adapter's name": lambda path: with_names(path, lambda key: named(key, "style_2")),
}  # fmt: skip


def named(key, adapter):
    """A key of the running model: with the adapter's name."""
    module, _, end = key.rpartition(".")
    if end == "weight" and module.endswith(("lora_A", "lora_B")):
        return f"{module}.{adapter}.weight"
    return f"{key}.{adapter}" if end.startswith(("lokr_", "hada_", "lora_")) else key


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "kind", ["patterns", "DoRA", "LoKr of whole factors with patterns", "biases of adapted layers"]
)
def test_forms(tmp_path, latents, adapted, kind, form):
    model, expected = adapted(KINDS[kind]())
    model.save_pretrained(tmp_path / "adapter")
    assert_same(FORMS[form](tmp_path), tmp_path, latents, expected)


@pytest.mark.parametrize("named_by", ["adapter", "adapter/adapter_model.bin"])
def test_pickles(tmp_path, latents, adapted, named_by):
    model, expected = adapted(KINDS["patterns"]())
    model.save_pretrained(tmp_path / "adapter", safe_serialization=False)
    assert (tmp_path / "adapter/adapter_model.bin").is_file()
    assert_same(tmp_path / named_by, tmp_path, latents, expected)
