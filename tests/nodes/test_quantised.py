"""Quantised files of every format in ComfyUI: models of the numbers that the packed weights stand for."""

import folder_paths
import pytest
import quantised_files as files
import tiny
import tiny_lora
import torch
from agreement import assert_agree
from comfy import hooks as comfy_hooks
from comfy import memory_management, model_management, model_patcher, ops, quant_ops, sd
from comfy_extras import nodes_hooks, nodes_lora_debug, nodes_model_merging, nodes_train
from e2e import in_process, tiny_files
from safetensors.torch import load_file, save_file
from sana_pack import nodes as pack_nodes
from sana_pack.nodes.bridge import control, guidance, loading, sampling
from sana_pack.nodes.bridge import vae as vae_bridge
from sana_pack.sana_core import errors, lora
from sana_pack.sana_core.checkpoint import load as core
from sana_pack.sana_core.quantiser.making import RECIPES

import nodes as comfy_nodes

SAFETENSORS = ("int8", "int8-convrot", "fp8", "mxfp8", "nvfp4", "w4a8", "w4a4")
GGUF = ("gguf-q8_0", "gguf-q5_1", "gguf-q4_0", "q4_k", "q6_k")
ALL = (*SAFETENSORS, *GGUF)
# where activations are rounded as well, as root mean square errors; others multiply in full precision on the CPU
ROUNDED = {"int8": 0.02, "int8-convrot": 0.02, "w4a8": 0.02, "w4a4": 0.25}
# of weights that are quantised anew with a LoRA inside
AGAIN = {"int8": 0.03, "int8-convrot": 0.03, "fp8": 0.08, "mxfp8": 0.08, "nvfp4": 0.3, "w4a8": 0.2, "w4a4": 0.3}
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


def by_loader(names):
    """Every format with the loaders that list its files: the stock one lists no .gguf."""
    return pytest.mark.parametrize("form, load", [
        pytest.param(name, load, marks=pytest.mark.skipif(not available(name), reason="this ComfyUI does not have it"))
        for name in names for load in ("own", "stock") if load == "own" or name not in GGUF
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


@by_loader(ALL)
def test_a_file_is_the_model_of_its_numbers(form, load):
    load = {"own": own, "stock": stock}[load]
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
    return tiny_lora.kohya(tiny_lora.fused(tiny_lora.factors(files.network(), depth=1, size=size)), "")


@forms(ALL)
def test_a_lora_merged_into_the_weights(form, loras):
    """By the host's loader or the pack's."""
    path, name = files.quantised(form), loras(a_lora())
    model, load = own(path), by_the_pack if form in ("int8", "gguf-q4_0") else patched
    before = weights(model)
    found, wanted = drawn(load(model, name, 0.7)), reference(path, name, 0.7)
    effect = rms(wanted, reference(path))
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


@forms(["int8", "nvfp4", "gguf-q4_0"])
def test_dora(form, loras):
    """Row lengths of the changed weight, of a quantised one too."""
    generator = torch.Generator().manual_seed(2)
    name = loras({
        f"transformer.{files.POINT}.lora_A.weight": torch.randn(4, 512, generator=generator) * 0.05,
        f"transformer.{files.POINT}.lora_B.weight": torch.randn(448, 4, generator=generator) * 0.05,
        f"transformer.{files.POINT}.lora_magnitude_vector": torch.rand(448, generator=generator) * 3,
    })  # fmt: skip
    path = files.quantised(form)
    found, wanted = drawn(patched(own(path), name, 1.0), least=1), reference(path, name)
    assert rms(found, wanted) < ROUNDED.get(form, EXACT) < rms(wanted, reference(path)) / 3


@forms(["int8", "fp8", "gguf-q4_0"])
def test_a_lora_as_a_hook_is_refused(form, loras):
    """The host updates such weights in place, which its quantised tensors do not allow."""
    model = own(files.quantised(form))
    before = weights(model)
    (hooks,) = nodes_hooks.CreateHookLoraModelOnly().create_hook_model_only(loras(a_lora()), 1.0)
    hooked = model.clone()
    hooked.register_all_hook_patches(hooks, comfy_hooks.create_target_dict(comfy_hooks.EnumWeightTarget.Model))
    with pytest.raises(errors.InputError, match="as a hook cannot change the weights of a quantised model"):
        drawn(hooked, hooks)
    assert_unchanged(model, before)


@pytest.mark.parametrize("form", ["gguf-q4_0", "q6_k", "int8"])
@pytest.mark.parametrize("patch", [True, False])
def test_under_dynamic_vram(form, patch, loras):
    """The host patches a weight once and keeps it in the bytes that it came from. Larger blocks have no place there."""
    if not hasattr(ops, "resolve_cast_module_with_vbar"):
        pytest.skip("this ComfyUI has no dynamic VRAM")
    name = loras(a_lora())
    model = patched(own(files.quantised(form)), name, 1.0)
    layer = model.model.diffusion_model.get_submodule(files.POINT)
    key = f"diffusion_model.{files.POINT}.weight"
    layer.weight_lowvram_function = model_patcher.LowVramPatch(key, model.patches) if patch else None
    layer.weight_function, layer.bias_function, layer.seed_key = [], [], key
    pieces = [getattr(layer.weight, name) for name in layer.weight.__tensor_flatten__()[0]]
    held = torch.zeros(memory_management.vram_aligned_size([layer.weight]), dtype=torch.uint8)
    (place,) = memory_management.interpret_gathered_like([layer.weight], held)
    for name, piece in zip(layer.weight.__tensor_flatten__()[0], pieces):
        inner = place._qdata if name == "_qdata" else getattr(place._params, name.removeprefix("_param_"))
        inner.copy_(piece)
    layer.register_parameter("bias", None)
    wanted = reference_weight(form, files.POINT, loras, patch)
    for resident in (False, True):
        layer._prefetch = {"resident": resident, "xfer_dest": held, "needs_cast": False, "signature": 1,
                           "cast_geometry": [layer.weight, None]}  # fmt: skip
        weight, _ = ops.resolve_cast_module_with_vbar(layer, torch.float32, CPU, torch.float32, torch.float32, False)
        numbers = weight.dequantize() if isinstance(weight, quant_ops.QuantizedTensor) else weight
        assert rms(numbers, wanted) < (1e-6 if form != "int8" or not patch else 0.03)


def reference_weight(form, layer, loras, patch):
    numbers = files.numbers(files.quantised(form))[f"{layer}.weight"].float()
    change = tiny_lora.deltas(tiny_lora.factors(files.network(), depth=1, size=3.0))[layer]
    return numbers + change if patch else numbers


# --- other nodes


def velocities(patcher, **settings):
    """Of a whole run with guidance."""
    generator = torch.Generator().manual_seed(4)
    prompts = [[[torch.randn(1, length, files.TEXT_WIDTH, generator=generator), {}]] for length in (9, 5)]
    noise = torch.randn(1, 32, 3, 4, generator=generator)
    return run(patcher, prompts, noise, **settings)


def run(patcher, prompts, noise):
    sampler, sigmas = sampling.make_sampler("flow_euler"), sampling.make_sigmas(patcher, "flow_euler", 3)
    return in_process.sample(patcher, prompts, noise, sampler, sigmas, cfg=3.0)


@pytest.fixture
def plain_twin(tmp_path):
    """A function that gives a model with the numbers of a quantised file as its weights."""

    def load(path):
        save_file(files.numbers(path), tmp_path / "twin.safetensors")
        return own(tmp_path / "twin.safetensors")

    return load


def perturbed(model):
    return guidance.perturbed_attention(model, 2.0, "0", 0.0, guidance.Interval(start=0.0, end=1.0))


@forms(["int8", "nvfp4", "gguf-q4_0", "q4_k"])
def test_whole_runs(form, plain_twin):
    path = files.quantised(form)
    quantised, twin = own(path), plain_twin(path)
    for change in (lambda model: model, perturbed):
        assert rms(velocities(change(quantised)), velocities(change(twin))) < ROUNDED.get(form, EXACT)


@forms(["int8", "fp8", "gguf-q4_0"])
def test_sprint(form, plain_twin):
    path = files.quantised(form, qk_norm=True, guidance_embed=True)
    assert rms(velocities(own(path)), velocities(plain_twin(path))) < 2 * ROUNDED.get(form, EXACT)


@forms(["int8", "gguf-q4_0"])
def test_controlnet(form, plain_twin, file, tmp_path):
    """A plain ControlNet on a quantised model."""
    network = tiny.controlnet(seed=3, caption_channels=files.TEXT_WIDTH, hidden_size=448)
    save_file(network.state_dict(), tmp_path / "control.safetensors")
    vae, found = vae_bridge.load_vae(file("vae", "dcae.safetensors")), []
    generator = torch.Generator().manual_seed(4)
    prompts = [[[torch.randn(1, length, files.TEXT_WIDTH, generator=generator), {}]] for length in (9, 5)]
    noise, picture = torch.randn(1, 32, 3, 4, generator=generator), torch.rand(1, 96, 128, 3, generator=generator)
    apply = comfy_nodes.ControlNetApplyAdvanced().apply_controlnet
    with_control = apply(*prompts, control.load_control(str(tmp_path / "control.safetensors")), picture, 1.0, 0.0, 1.0,
                         vae=vae)  # fmt: skip
    path = files.quantised(form, depth=2)
    for model in (own(path), plain_twin(path)):
        found.append(run(model, with_control, noise))
    assert rms(*found) < 2 * ROUNDED.get(form, EXACT)
    assert rms(run(own(path), prompts, noise), found[1]) > 0.05


@forms(ALL)
def test_saved_models_load_again(form, loras, tmp_path):
    """Alone, and with a LoRA in the weights, by every loader: what is in GGUF's blocks lies in a safetensors file."""
    model, name = own(files.quantised(form)), loras(a_lora())
    for changed in (model, patched(model, name, 0.7)):
        sd.save_checkpoint(str(tmp_path / "saved.safetensors"), changed)
        wanted = drawn(changed)
        for load in (own, stock):
            assert torch.equal(drawn(load(tmp_path / "saved.safetensors")), wanted)


def merged(first, second, share, tables):
    """The velocity of a model with `share` of the first one. The host leaves the modulation tables of a model as they
    are, quantised or not.
    """
    one, two = files.numbers(first), files.numbers(second)
    network = files.network()
    network.load_state_dict({
        key: (files.numbers(tables)[key] if "table" in key else share * one[key] + (1 - share) * two[key])
        for key in network.state_dict()
    })  # fmt: skip
    return velocity(network)


@forms(["int8", "nvfp4", "w4a8", "gguf-q4_0", "q4_k"])
def test_merging(form):
    """The result has the formats of the first model."""
    merge = nodes_model_merging.ModelMergeSimple().merge
    path, plain = files.quantised(form), files.plain(1)
    assert_agree(drawn(merge(own(plain), own(path), 0.75)[0]), merged(plain, path, 0.75, plain), 1e-4)
    others = [plain] if form in (*files.RAW, "w4a8") else [plain, files.quantised(form, 1)]
    for other in others:
        found = drawn(merge(own(path), own(other), 0.25)[0])
        assert rms(found, merged(path, other, 0.25, path)) < AGAIN.get(form, 0.02)


@forms(["int8", "fp8", "gguf-q4_0"])
def test_training(form):
    model = own(files.quantised(form))
    before = weights(model)
    generator = torch.Generator().manual_seed(1)
    prompt = [[torch.randn(1, 5, files.TEXT_WIDTH, generator=generator), {}]]
    latents = {"samples": torch.randn(1, 32, 4, 4, generator=generator)}
    inputs = nodes_train.TrainLoraNode.define_schema().inputs
    given = {entry.id: [entry.default] for entry in inputs if getattr(entry, "default", None) is not None}
    given.update(steps=[2], learning_rate=[0.01], existing_lora=["[None]"])
    with torch.inference_mode(False):
        trained, losses, *_ = nodes_train.TrainLoraNode.execute(
            model=[model], latents=[latents], positive=[prompt], **given
        ).result
    assert losses["loss"][1] < losses["loss"][0]
    assert f"diffusion_model.{TO_Q}.lora_up.weight" in trained
    assert_unchanged(model, before)


@forms(ALL)
def test_unloaded_by_the_server_and_loaded_again(form):
    """/free unloads models outside the inference mode that nodes run in."""
    with torch.inference_mode():
        model = own(files.quantised(form))
        before = drawn(model)
        model_management.load_models_gpu([model])
    with torch.inference_mode(False):
        model_management.unload_all_models()
    with torch.inference_mode():
        assert torch.equal(drawn(model), before)


# --- number types


@by_loader(["int8", "fp8", "gguf-q4_0"])
def test_weight_dtype_of_8_bits_changes_nothing(form, load, caplog):
    path, dtype = str(files.quantised(form)), torch.float8_e4m3fn
    plain = own(path)
    given = loading.load_model(path, dtype=dtype) if load == "own" else sd.load_diffusion_model(path, {"dtype": dtype})
    assert_unchanged(given, weights(plain))
    assert given.model.get_dtype() == plain.model.get_dtype()
    assert "quantised already" in caplog.text


# --- refusals


def both(path, said, *more):
    for load in (own, stock):
        with pytest.raises(errors.CheckpointError, match=said) as raised:
            load(path)
        assert all(text in str(raised.value) for text in more) and "\n" not in str(raised.value)


@pytest.mark.parametrize("change, said", [
    (lambda t: t.pop(f"{TO_Q}.weight_scale"), "1 missing"),
    (lambda t: t.update({f"{TO_Q}.weight_scale_2": torch.ones(())}), "1 unexpected"),
    (lambda t: t.update({f"{TO_Q}.weight_scale": torch.ones(5)}), r"\(5,\) instead of"),
    (lambda t: t.update({f"{TO_Q}.weight": t[f"{TO_Q}.weight"].float()}), "of float32 instead of int8"),
    (lambda t: t.pop(f"{TO_Q}.comfy_quant"), "1 unexpected"),
    (lambda t: t.update({f"{TO_Q}.comfy_quant": files.mark(format="awq_w4a16")}), "this ComfyUI does not know"),
    (lambda t: t.update({f"{TO_Q}.comfy_quant": files.mark(format="gguf_q9_9")}), "this ComfyUI does not know"),
    (lambda t: t.update({f"{TO_Q}.comfy_quant": files.mark(group_size=16)}), "without the name of a format"),
    (lambda t: t.update({f"{TO_Q}.comfy_quant": torch.zeros(5, dtype=torch.uint8)}), "not readable JSON"),
], ids=["missing", "extra", "shape", "type", "no mark", "format", "block type", "no name", "no JSON"])  # fmt: skip
def test_what_does_not_fit_is_named(tmp_path, change, said):
    tensors = load_file(files.quantised("int8"))
    change(tensors)
    save_file(tensors, tmp_path / "damaged.safetensors")
    both(tmp_path / "damaged.safetensors", said, TO_Q)


@pytest.mark.parametrize("form", ["int8", "nvfp4"])
def test_fused_layers(form, tmp_path):
    """Of NVlabs' layout. Rows of int8 can be parted, tiles of nvfp4 cannot."""
    tensors = tiny_files.original(files.network().state_dict(), tiny_files.nvlabs(), grid=32)
    key = "blocks.0.attn.qkv"
    weight = tensors.pop(f"{key}.weight")
    scale = {} if form == "int8" else {"scale": "recalculate"}
    made = quant_ops.QuantizedTensor.from_float(weight, RECIPES[form].layout, **RECIPES[form].settings, **scale)
    tensors.update(made.state_dict(f"{key}.weight"))
    tensors[f"{key}.comfy_quant"] = files.mark(format=RECIPES[form].format)
    path = tmp_path / "fused.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)
    if form == "nvfp4":
        both(path, "nvfp4", key)
        return
    for load in (own, stock):
        assert rms(drawn(load(path)), velocity(files.network())) < 0.02


def test_a_format_that_this_host_lacks(monkeypatch):
    monkeypatch.delitem(quant_ops.QUANT_ALGOS, "int8_tensorwise")
    both(
        files.quantised("int8"),
        'quantised as "int8_tensorwise", which this ComfyUI does not know',
        "transformer_blocks.0.attn1.to_",
    )
