"""LoRA through ComfyUI's own code and through the pack's node: the same weights as sana_core's, for every dialect and
kind.
"""

import logging

import pytest
import tiny
import tiny_lora
import torch
from agreement import assert_agree
from e2e.comfyui import REASON
from e2e.tiny_files import TEXT_WIDTH
from safetensors.torch import save_file
from tiny_lora import DIALECTS

pack_nodes = pytest.importorskip("sana_pack.nodes", reason=REASON)
loading = pytest.importorskip("sana_pack.nodes.bridge.loading", reason=REASON)
registration = pytest.importorskip("sana_pack.nodes.bridge.registration", reason=REASON)
text_encoder = pytest.importorskip("sana_pack.nodes.bridge.text_encoder", reason=REASON)
errors = pytest.importorskip("sana_pack.sana_core.errors", reason=REASON)
core = pytest.importorskip("sana_pack.sana_core.lora", reason=REASON)
core_load = pytest.importorskip("sana_pack.sana_core.checkpoint.load", reason=REASON)
core_text = pytest.importorskip("sana_pack.sana_core.text.load", reason=REASON)
folder_paths = pytest.importorskip("folder_paths", reason=REASON)
comfy_nodes = pytest.importorskip("nodes", reason=REASON)
comfy_lora = pytest.importorskip("comfy.lora", reason=REASON)
comfy_utils = pytest.importorskip("comfy.utils", reason=REASON)
model_base = pytest.importorskip("comfy.model_base", reason=REASON)

TO_Q, DEPTH = "transformer_blocks.0.attn1.to_q", "transformer_blocks.0.ff.conv_depth"
PREFIX, GEMMA = "diffusion_model.", "gemma2_2b.transformer."


@pytest.fixture
def loras(tmp_path, monkeypatch):
    """A function that writes a LoRA into ComfyUI's folder for them and returns its name."""
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "loras", ([str(tmp_path)], {".safetensors"}))

    def write(tensors, metadata=None, name="lora.safetensors"):
        save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, tmp_path / name, metadata)
        return name

    return write


@pytest.fixture
def model(file):
    return loading.load_model(file("diffusion_models", "sana.safetensors"), dtype=torch.float32)


@pytest.fixture(scope="module")
def clip(models):
    return text_encoder.load_text_encoder(str(models / "text_encoders" / "gemma.safetensors"))


def factors(**changes):
    return tiny_lora.factors(tiny.transformer(caption_channels=TEXT_WIDTH, **changes))


def patched(model, prefix=PREFIX):
    """The changed weights of a MODEL (or of a CLIP's patcher) as they run, by sana_core's names."""
    return {key.removeprefix(prefix): model.patch_weight_to_device(key, return_weight=True) for key in model.patches}


def expected(file, name, strength, model="sana.safetensors"):
    """All weights of the transformer with the LoRA as sana_core adds it."""
    network = core_load.load_transformer(file("diffusion_models", model), dtype=torch.float32)
    core.apply_lora(network, core.load_lora(folder_paths.get_full_path("loras", name)), strength)
    return network.state_dict()


def stock(model, name, strength, clip=None, strength_clip=0.0):
    return comfy_nodes.LoraLoader().load_lora(model, clip, name, strength, strength_clip)


def own(model, name, strength, clip=None, strength_clip=0.0):
    return pack_nodes.SanaNativeLoadLora.execute(model, name, strength, strength_clip, clip).result


LOADERS = {"stock": stock, "own": own}


def assert_same(found, wanted, count=None):
    assert len(found) == (count or len(found)) > 0
    for name, weight in found.items():
        assert_agree(weight, wanted[name], 1e-5)


# --- dialects and kinds


@pytest.mark.parametrize("loader", LOADERS)
@pytest.mark.parametrize("dialect", DIALECTS)
def test_dialects(file, model, loras, dialect, loader):
    name = loras(DIALECTS[dialect](factors()))
    found = patched(LOADERS[loader](model, name, 0.7)[0])
    assert_same(found, expected(file, name, 0.7), count=24)


@pytest.mark.parametrize("loader", LOADERS)
@pytest.mark.parametrize("release", ["sana15.safetensors", "sprint.safetensors", "sana.pth", "sprint.pth"])
def test_releases(file, loras, release, loader):
    width = 288 if release.startswith("sana15") else 224
    name = loras(DIALECTS["nvlabs"](factors(hidden_size=width, guidance_embed="sprint" in release)))
    model = loading.load_model(file("diffusion_models", release), dtype=torch.float32)
    assert_same(patched(LOADERS[loader](model, name, 1.0)[0]), expected(file, name, 1.0, release), count=24)


@pytest.mark.parametrize("loader", LOADERS)
def test_alpha_in_the_metadata(file, model, loras, loader):
    name = loras(tiny_lora.peft(factors(), folded=False), tiny_lora.stated())
    assert_same(patched(LOADERS[loader](model, name, 1.0)[0]), expected(file, name, 1.0), count=24)


def rand(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * 0.1


def named(module, **roles):
    return {f"lycoris_{module.replace('.', '_')}.{role.replace('__', '.')}": tensor for role, tensor in roles.items()}


LOHA = {
    "hada_w1_a": rand(224, 4),
    "hada_w1_b": rand(4, 224),
    "hada_w2_a": rand(224, 4, seed=2),
    "hada_w2_b": rand(4, 224, seed=3),
}
LOKR = {"lokr_w1": rand(7, 14), "lokr_w2_a": rand(32, 4, seed=1), "lokr_w2_b": rand(4, 16, seed=2)}
LORA = {"lora_up__weight": rand(224, 4), "lora_down__weight": rand(4, 224, seed=1)}
ALPHA, ROWS, COLUMNS = torch.tensor(2.0), rand(224, 1, seed=5).abs() + 1, rand(1, 224, seed=6).abs() + 1
QKV = "blocks.0.attn.qkv"
KINDS = {
    "LoHa": named(TO_Q, alpha=ALPHA, **LOHA),
    "LoKr": named(TO_Q, alpha=ALPHA, **LOKR),
    "LoHa of convolution shape": named("transformer_blocks.0.ff.conv_point", hada_w1_a=rand(224, 4, 1, 1), hada_w1_b=rand(4, 560, 1, 1),
                                       hada_w2_a=rand(224, 4, 1, 1, seed=2), hada_w2_b=rand(4, 560, 1, 1, seed=3)),
    "full difference": named(TO_Q, diff=rand(224, 224)),
    "full difference of convolution shape": named("transformer_blocks.0.ff.conv_point", diff=rand(224, 560, 1, 1)),
    "LoKr of convolution shape": named("transformer_blocks.0.ff.conv_point", lokr_w1=rand(7, 14), lokr_w2=rand(32, 40, 1, 1)),
    "DoRA on rows": named(TO_Q, alpha=ALPHA, dora_scale=ROWS, **LORA),
    "DoRA on columns": named(TO_Q, alpha=ALPHA, dora_scale=COLUMNS, **LORA),
    "DoRA LoHa on rows": named(TO_Q, alpha=ALPHA, dora_scale=ROWS, **LOHA),
    "DoRA LoKr on rows": named(TO_Q, alpha=ALPHA, dora_scale=ROWS, **LOKR),
    "DoRA of PEFT": {**tiny_lora.peft({TO_Q: (rand(4, 224), rand(224, 4))}), f"transformer.{TO_Q}.lora_magnitude_vector": ROWS[:, 0]},
    "depthwise, OneTrainer": named(DEPTH, alpha=ALPHA, lora_down__weight=rand(4, 1120, 3, 3), lora_up__weight=rand(1, 4, 1, 1)),
    "depthwise, LyCORIS": named(DEPTH, alpha=ALPHA, lora_down__weight=rand(4, 1, 3, 3), lora_up__weight=rand(1120, 4, 1, 1)),
    "fused LoKr": named(QKV, alpha=ALPHA, lokr_w1=rand(7, 14), lokr_w2_a=rand(96, 4, seed=1), lokr_w2_b=rand(4, 16, seed=2)),
    "fused LoHa": named(QKV, hada_w1_a=rand(672, 4), hada_w1_b=rand(4, 224), hada_w2_a=rand(672, 4, seed=2), hada_w2_b=rand(4, 224)),
    "fused DoRA on rows": named(QKV, alpha=ALPHA, dora_scale=rand(672, 1, seed=5).abs() + 1, lora_up__weight=rand(672, 4),
                                lora_down__weight=rand(4, 224, seed=1)),
    "fused full difference": named(QKV, diff=rand(672, 224)),
    "bias": {**named("proj_out", diff_b=rand(32)), **named("patch_embed.proj", diff_b=rand(224), lora_up__weight=rand(224, 4, 1, 1),
                                                           lora_down__weight=rand(4, 32, 1, 1))},
}  # fmt: skip


@pytest.mark.parametrize("loader", LOADERS)
@pytest.mark.parametrize("kind", KINDS)
def test_kinds(file, model, loras, kind, loader):
    name = loras(KINDS[kind])
    found = patched(LOADERS[loader](model, name, -0.6)[0])
    assert_same(found, expected(file, name, -0.6), count=3 if kind.startswith(("fused", "bias")) else 1)


def test_a_dora_that_cannot_be_cut_is_named_by_the_host(model, loras, caplog):
    fused = named(
        QKV, alpha=ALPHA, dora_scale=COLUMNS, lora_up__weight=rand(672, 4), lora_down__weight=rand(4, 224, seed=1)
    )
    rest = tiny_lora.kohya({TO_Q: (rand(4, 224), rand(224, 4))})
    found = patched(stock(model, loras({**fused, **rest}), 1.0)[0])
    assert set(found) == {f"{TO_Q}.weight"}
    assert all(f"lora key not loaded: {key}" in caplog.text for key in fused)


# --- Gemma


def gemma_factors():
    return {
        f"layers.{i}.self_attn.q_proj": (rand(tiny_lora.RANK, 48, seed=i), rand(32, tiny_lora.RANK, seed=i + 5))
        for i in range(3)
    }


@pytest.mark.parametrize("loader", LOADERS)
@pytest.mark.parametrize("dialect", [
    lambda factors: tiny_lora.kohya(factors, "lora_te_"),
    lambda factors: tiny_lora.peft(factors, "text_encoder."),
    lambda factors: tiny_lora.kohya(factors, "text_encoders.gemma2_2b.transformer.model."),
])  # fmt: skip
def test_gemma(file, model, clip, loras, dialect, loader):
    name = loras({**tiny_lora.kohya(factors()), **dialect(gemma_factors())})
    changed, changed_clip = LOADERS[loader](model, name, 1.0, clip, 0.5)[:2]
    encoder = core_text.load_text_encoder(file("text_encoders", "gemma.safetensors"), dtype=torch.float32)
    core.apply_lora(encoder, core.load_lora(folder_paths.get_full_path("loras", name)), 0.5)
    assert_same(patched(changed_clip.patcher, GEMMA), encoder.state_dict(), count=3)
    assert_same(patched(changed), expected(file, name, 1.0), count=24)


# --- the node


def test_the_report(model, clip, loras, caplog):
    tensors = {
        **tiny_lora.kohya(factors()),
        **tiny_lora.kohya(gemma_factors(), "lora_te_"),
        "lora_te_layers_9_extra.alpha": ALPHA,
    }
    name = loras(tensors)
    with caplog.at_level(logging.WARNING, logger="sana"):
        report = own(model, name, 0.5, clip, 0.25)[2]
    first, second = report.split("\n\n")
    assert first.splitlines()[0].endswith(f"{name}: 24 modules of the transformer at strength 0.5")
    assert first.splitlines()[1:4] == ["kind: LoRA", "rank: 4", "alpha: 2"]
    assert first.splitlines()[4].startswith("9 keys of the text encoder: lora_te_layers_0_self_attn_q_proj.")
    assert first.splitlines()[5] == "1 keys unmatched: lora_te_layers_9_extra.alpha"
    assert second.splitlines()[0].endswith("3 modules of the text encoder at strength 0.25")
    assert "lora_te_layers_9_extra.alpha" in caplog.text


def test_strength_zero(model, loras):
    found = own(model, loras(tiny_lora.kohya(factors())), 0.0)[0]
    assert_same(
        patched(found), {key: tensor for key, tensor in model.model.diffusion_model.state_dict().items()}, count=24
    )


def test_what_the_node_refuses(model, clip, loras):
    class Other:
        model = object()
        cond_stage_model = object()

    name = loras(tiny_lora.kohya(factors()))
    with pytest.raises(errors.InputError, match="into SANA models, got object: use Load LoRA"):
        own(Other(), name, 1.0)
    with pytest.raises(errors.InputError, match="this CLIP is not SANA's Gemma-2"):
        own(model, name, 1.0, Other())
    with pytest.raises(errors.CheckpointError, match="changes a text encoder only"):
        own(model, loras(tiny_lora.kohya(gemma_factors(), "lora_te_")), 1.0)


# --- wrong files, through both


SDXL = {
    f"lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn1_to_q.lora_{d}.weight": rand(4, 4)
    for d in ("up", "down")
}
WRONG = {
    "width": (lambda: tiny_lora.peft(factors(hidden_size=288)), r"is \(288, 48\), the weight here is \(224, 48\)"),
    "depth": (
        lambda: tiny_lora.kohya(tiny_lora.factors(tiny.transformer(caption_channels=TEXT_WIDTH, depth=3), 3)),
        "3 blocks, this one has 2",
    ),
    "sdxl": (lambda: SDXL, "found a Stable Diffusion or SDXL LoRA"),
}  # fmt: skip


@pytest.mark.parametrize("loader", LOADERS)
@pytest.mark.parametrize("case", WRONG)
def test_wrong_files(model, loras, case, loader):
    tensors, said = WRONG[case]
    with pytest.raises(errors.CheckpointError, match=said):
        LOADERS[loader](model, loras(tensors()), 1.0)


def test_a_gemma_lora_without_clip_is_a_line_in_the_stock_loader(model, loras, caplog):
    assert not stock(model, loras(tiny_lora.kohya(gemma_factors(), "lora_te_")), 1.0)[0].patches
    assert "lora key not loaded: lora_te_layers_0_self_attn_q_proj" in caplog.text


def test_hooks_name_what_they_do_not_use(model, caplog):
    """The host's hooks load without a word about missing keys."""
    keys = comfy_lora.model_lora_keys_unet(model.model, {})
    tensors = {**tiny_lora.kohya(factors()), "lora_unet_nothing.alpha": ALPHA, "lora_te_layers_0_x.alpha": ALPHA}
    with caplog.at_level(logging.WARNING, logger="sana"):
        assert len(comfy_lora.load_lora(tensors, keys, log_missing=False)) == 24
    assert "1 keys fit nothing in this model and are not used: lora_unet_nothing.alpha" in caplog.text


# --- the hooks themselves


def test_the_key_map_alone_serves_nodes_with_their_own_loader(model):
    keys = comfy_lora.model_lora_keys_unet(model.model, {})
    for prefix in ("", "transformer.", "base_model.model.", "transformer.base_model.model.", "diffusion_model."):
        assert keys[prefix + TO_Q] == f"diffusion_model.{TO_Q}.weight"
    for prefix in ("lycoris_", "lora_transformer_", "lora_unet_"):
        assert keys[prefix + TO_Q.replace(".", "_")] == f"diffusion_model.{TO_Q}.weight"
    assert keys["blocks.1.mlp.point_conv.conv"] == "diffusion_model.transformer_blocks.1.ff.conv_point.weight"


def test_other_models_pass_through(monkeypatch, tmp_path):
    """With whatever the host passes, and nothing changed."""
    seen = []
    for name in ("model_lora_keys_unet", "load_lora"):
        monkeypatch.setattr(
            comfy_lora, name, lambda *args, _name=name, **kwargs: seen.append((_name, args, kwargs)) or {}
        )
    monkeypatch.setattr(comfy_lora, "model_lora_keys_clip", lambda model, key_map: key_map)
    for wrap in (registration._wrap_lora_keys, registration._wrap_load_lora):
        wrap()
    model = type("Patcher", (), {"model": model_base.BaseModel.__new__(model_base.BaseModel)})()
    keys = {}
    assert comfy_lora.model_lora_keys_unet(model.model, keys) == {}
    assert comfy_lora.model_lora_keys_clip(torch.nn.Module(), keys) is keys
    assert comfy_lora.load_lora(SDXL, {"a": "b"}) == {}
    assert comfy_lora.load_lora(SDXL, to_load={"a": "b"}, log_missing=False, not_yet_known=3) == {}
    assert [name for name, *_ in seen] == ["model_lora_keys_unet", "load_lora", "load_lora"]
    assert seen[1][1:] == ((SDXL, {"a": "b"}), {})
    assert seen[2][1:] == ((SDXL, {"a": "b"}), {"log_missing": False, "not_yet_known": 3})


def test_a_later_host_may_pass_more(model, monkeypatch, caplog):
    host, seen = comfy_lora.load_lora.__wrapped__, []

    def load_lora(lora, to_load, log_missing=True, not_yet_known=None):
        seen.append((log_missing, not_yet_known))
        return host(lora, to_load, log_missing)

    monkeypatch.setattr(comfy_lora, "load_lora", load_lora)
    registration._wrap_load_lora()
    keys = comfy_lora.model_lora_keys_unet(model.model, {})
    tensors = tiny_lora.kohya(factors())
    assert len(comfy_lora.load_lora(tensors, keys, not_yet_known=3)) == 24
    assert len(comfy_lora.load_lora(tensors, keys, False, 4)) == 24
    assert seen == [(True, 3), (False, 4)]


def test_install_twice_is_once():
    hooks = [(comfy_lora, "model_lora_keys_unet"), (comfy_lora, "model_lora_keys_clip"), (comfy_lora, "load_lora")]
    hooks += [(comfy_utils, "load_torch_file")]
    before = [getattr(*hook) for hook in hooks]
    registration.install()
    assert before == [getattr(*hook) for hook in hooks]
