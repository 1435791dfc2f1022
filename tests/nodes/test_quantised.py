"""Quantised files of every format in ComfyUI: the same model as one whose weights are the numbers that they stand for."""

import quantised_files as files
import folder_paths
import pytest
import tiny_lora
import torch
from agreement import assert_agree, error
from comfy import hooks as comfy_hooks
from comfy import model_management, quant_ops, sd
from comfy_extras import nodes_hooks, nodes_lora_debug, nodes_model_merging
from safetensors.torch import load_file, save_file
from sana_pack import nodes as pack_nodes
from sana_pack.nodes.bridge import loading
from sana_pack.sana_core import errors, lora
from sana_pack.sana_core.checkpoint import load as core

import nodes as comfy_nodes

SAFETENSORS = ("int8", "int8-convrot", "fp8", "mxfp8", "nvfp4", "w4a8", "w4a4")
GGUF = ("gguf-q8_0", "gguf-q5_1", "gguf-q4_0", "q4_k", "q6_k")
ALL = (*SAFETENSORS, *GGUF)
# where activations are rounded as well, as root mean square errors; others multiply in full precision on the CPU
ROUNDED = {"int8": 0.02, "int8-convrot": 0.02, "w4a8": 0.02, "w4a4": 0.25}
# of weights that are quantised anew with a LoRA inside
AGAIN = {"int8": 0.03, "int8-convrot": 0.03, "fp8": 0.1, "mxfp8": 0.1, "nvfp4": 0.3, "w4a8": 0.3, "w4a4": 0.5}
EXACT = 1e-5
TO_Q = "transformer_blocks.0.attn1.to_q"
CPU = torch.device("cpu")


def available(form):
    names = {"int8": "int8_tensorwise", "int8-convrot": "int8_tensorwise", "fp8": "float8_e4m3fn",
             "w4a8": "asym_w4a8_int8", "w4a4": "convrot_w4a4"}  # fmt: skip
    return form in GGUF or names.get(form, form) in quant_ops.QUANT_ALGOS


def forms(names):
    return pytest.mark.parametrize("form", [
        pytest.param(name, marks=pytest.mark.skipif(not available(name), reason="this ComfyUI does not have it"))
        for name in names
    ])  # fmt: skip


def own(path):
    return loading.load_model(str(path))


def stock(path):
    return sd.load_diffusion_model(str(path))


def velocity(network):
    generator = torch.Generator().manual_seed(0)
    latent = torch.randn(2, 32, 5, 3, generator=generator)
    text = torch.randn(2, 9, files.TEXT_WIDTH, generator=generator)
    return network(latent, torch.tensor([749.0, 12.0]), text)


def drawn(patcher, hooks=None, least=None):
    """The velocity of a MODEL as it is sampled.  least: bytes of it that are loaded; the others are patched at use."""
    if least is None:
        model_management.load_models_gpu([patcher])
    else:
        patcher.load(CPU, lowvram_model_memory=least)
    try:
        patcher.apply_hooks(hooks)
        return velocity(patcher.model.diffusion_model)
    finally:
        patcher.apply_hooks(None)
        model_management.unload_all_models()
        patcher.detach()


def reference(path, name=None, strength=1.0):
    network = core.load_transformer(path, dtype=torch.float32)
    if name:
        lora.apply_lora(network, lora.load_lora(folder_paths.get_full_path("loras", name)), strength)
    return velocity(network)


def rms(found, expected):
    return float((found - expected).norm() / expected.norm())


@pytest.fixture
def loras(tmp_path, monkeypatch):
    """A function that writes a LoRA into ComfyUI's folder for them and returns its name."""
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "loras", ([str(tmp_path)], {".safetensors"}))

    def write(tensors, name="lora.safetensors"):
        save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, tmp_path / name)
        return name

    return write


# --- loading


@forms(ALL)
@pytest.mark.parametrize("load", [own, stock])
def test_a_file_is_the_model_of_its_numbers(form, load):
    if load is stock and form in GGUF:
        pytest.skip("its list has no .gguf files")
    path = files.quantised(form)
    found, wanted, plain = drawn(load(path)), reference(path), reference(files.plain())
    if form in ROUNDED:
        assert 1e-6 < rms(found, wanted) < ROUNDED[form]
    else:
        assert_agree(found, wanted, EXACT)
    assert rms(found, plain) > 1e-3  # it is quantised


@forms(SAFETENSORS)
def test_layers_made_by_comfy_kitchen_itself(form, tmp_path):
    """Its own tensors and names, and a mark: the same model as the library reads."""
    from sana_pack.sana_core.quantiser.making import RECIPES

    recipe, tensors = RECIPES[form], load_file(files.plain())
    for layer in (TO_Q, files.POINT):
        settings = {**recipe.settings, **({"convrot_groupsize": 64} if recipe.rotations else {})}
        weight = tensors.pop(f"{layer}.weight")
        scale = {"scale": "recalculate"} if form in ("fp8", "nvfp4") else {}
        made = quant_ops.QuantizedTensor.from_float(weight, recipe.layout, **settings, **scale)
        stated = {key: settings[key] for key in settings if key in ("convrot", "convrot_groupsize", "group_size")}
        tensors.update(made.state_dict(f"{layer}.weight"))
        tensors[f"{layer}.comfy_quant"] = files.mark(format=recipe.format, **stated)
    save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, tmp_path / "kitchen.safetensors")
    wanted = reference(tmp_path / "kitchen.safetensors")
    for load in (own, stock):
        assert rms(drawn(load(tmp_path / "kitchen.safetensors")), wanted) < ROUNDED.get(form, EXACT)


# --- LoRA


def patched(model, name, strength):
    return comfy_nodes.LoraLoader().load_lora(model, None, name, strength, 0.0)[0]


def by_the_pack(model, name, strength):
    return pack_nodes.SanaNativeLoadLora.execute(model, name, strength, 0.0).result[0]


def bypassed(model, name, strength):
    return nodes_lora_debug.LoraLoaderBypassModelOnly().load_lora_model_only(model, name, strength)[0]


def weights(patcher):
    return {key: tensor.clone() for key, tensor in patcher.model.state_dict().items()}


def assert_unchanged(patcher, before):
    after = patcher.model.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(as_bytes(after[key]), as_bytes(before[key])) for key in before)


def as_bytes(tensor):
    return tensor.contiguous().reshape(-1).view(torch.uint8)


def a_lora(size=3.0):
    return tiny_lora.kohya(tiny_lora.fused(tiny_lora.factors(files.network(), size=size)), "")


@forms(ALL)
@pytest.mark.parametrize("load", [patched, by_the_pack])
def test_a_lora_merged_into_the_weights(form, load, loras):
    path, name = files.quantised(form), loras(a_lora())
    model = own(path)
    before = weights(model)
    found, wanted = drawn(load(model, name, 0.7)), reference(path, name, 0.7)
    effect = rms(wanted, reference(path))
    print("AGAIN", form, rms(found, wanted), effect)
    assert rms(found, wanted) < AGAIN.get(form, 0.02) < effect
    assert_unchanged(model, before)


@forms(ALL)
@pytest.mark.parametrize("way", ["bypass", "low memory"])
def test_a_lora_beside_the_weights(form, way, loras):
    """Neither rounds the sum again."""
    path, name = files.quantised(form), loras(a_lora())
    model = own(path)
    before = weights(model)
    found = drawn(bypassed(model, name, 0.7)) if way == "bypass" else drawn(patched(model, name, 0.7), least=1)
    wanted = reference(path, name, 0.7)
    allowed = ROUNDED.get(form, EXACT) if way == "bypass" else EXACT
    assert rms(found, wanted) < allowed
    assert_unchanged(model, before)


@pytest.mark.parametrize("form", ["gguf-q8_0", "gguf-q4_0"])
def test_small_changes_are_never_lost(form, loras):
    """A tenth of the step between two numbers, the same for all weights."""
    model = own(files.quantised(form))
    key = f"diffusion_model.{TO_Q}.weight"
    weight = model.model.diffusion_model.get_submodule(TO_Q).weight
    before = weight.dequantize()
    step = float(before.abs().max()) / 127
    name = loras({
        f"transformer.{TO_Q}.lora_A.weight": torch.ones(1, 448), f"transformer.{TO_Q}.lora_B.weight":
        torch.full((448, 1), step / 10),
    })  # fmt: skip
    after = patched(model, name, 1.0).patch_weight_to_device(key, return_weight=True)
    change = after.dequantize() - before
    assert after._params.kind == "q8_0"
    assert abs(float(change.mean()) / (step / 10) - 1) < 0.05
