"""One LoRA file has one effect in every loader of ComfyUI, that of sana_core."""

import json

import pytest
import tiny
import tiny_lora
import torch
from agreement import assert_agree
from e2e.comfyui import REASON
from e2e.tiny_files import TEXT_WIDTH
from safetensors.torch import load_file, save_file

registration = pytest.importorskip("sana_pack.nodes.bridge.registration", reason=REASON)
pack_nodes = pytest.importorskip("sana_pack.nodes", reason=REASON)
loading = pytest.importorskip("sana_pack.nodes.bridge.loading", reason=REASON)
text_encoder = pytest.importorskip("sana_pack.nodes.bridge.text_encoder", reason=REASON)
core = pytest.importorskip("sana_pack.sana_core.lora", reason=REASON)
core_load = pytest.importorskip("sana_pack.sana_core.checkpoint.load", reason=REASON)
core_text = pytest.importorskip("sana_pack.sana_core.text.load", reason=REASON)
errors = pytest.importorskip("sana_pack.sana_core.errors", reason=REASON)
folder_paths = pytest.importorskip("folder_paths", reason=REASON)
comfy_nodes = pytest.importorskip("nodes", reason=REASON)
comfy_utils = pytest.importorskip("comfy.utils", reason=REASON)
comfy_hooks = pytest.importorskip("comfy.hooks", reason=REASON)
model_management = pytest.importorskip("comfy.model_management", reason=REASON)
nodes_hooks = pytest.importorskip("comfy_extras.nodes_hooks", reason=REASON)
nodes_bypass = pytest.importorskip("comfy_extras.nodes_lora_debug", reason=REASON)
nodes_train = pytest.importorskip("comfy_extras.nodes_train", reason=REASON)

TO_Q, BIASED = "transformer_blocks.0.attn1.to_q", "transformer_blocks.0.attn2.to_q"
POINT = "transformer_blocks.1.ff.conv_point"
CPU = torch.device("cpu")
NAME = "lora_9_steps_1.safetensors"  # as the training names its files


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "loras", ([str(tmp_path)], {".safetensors", ".bin"}))
    return tmp_path


@pytest.fixture
def write(folder):
    """A function that writes a LoRA into ComfyUI's folder for them."""

    def write(tensors, stated=None, name=NAME):
        metadata = None if stated is None else {"lora_adapter_metadata": json.dumps(stated)}
        save_file({key: tensor.contiguous().clone() for key, tensor in tensors.items()}, folder / name, metadata)
        return name

    return write


@pytest.fixture
def model(file):
    return loading.load_model(file("diffusion_models", "sana.safetensors"), dtype=torch.float32)


def factors():
    return tiny_lora.factors(tiny.transformer(caption_channels=TEXT_WIDTH))


def rand(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * 0.1


# --- loaders: each gives a patcher that is to be loaded, with hooks to apply


def stock(model, name, strength):
    return comfy_nodes.LoraLoaderModelOnly().load_lora_model_only(model, name, strength)[0], None


def own(model, name, strength):
    return pack_nodes.SanaNativeLoadLora.execute(model, name, strength, 0.0).result[0], None


def bypass(model, name, strength):
    return nodes_bypass.LoraLoaderBypassModelOnly().load_lora_model_only(model, name, strength)[0], None


def hook(model, name, strength):
    (hooks,) = nodes_hooks.CreateHookLoraModelOnly().create_hook_model_only(name, strength)
    patched = model.clone()
    patched.register_all_hook_patches(hooks, comfy_hooks.create_target_dict(comfy_hooks.EnumWeightTarget.Model))
    return patched, hooks


LOADERS = {"Load LoRA": stock, "Load SANA LoRA": own, "Load LoRA (Bypass)": bypass, "Create Hook LoRA": hook}


def velocity(network):
    generator = torch.Generator().manual_seed(0)
    latent, text = torch.randn(2, 32, 5, 3, generator=generator), torch.randn(2, 9, TEXT_WIDTH, generator=generator)
    return network(latent, torch.tensor([749.0, 12.0]), text)


def drawn(patcher, hooks):
    """The velocity of a MODEL as it is sampled."""
    model_management.load_models_gpu([patcher])
    try:
        patcher.apply_hooks(hooks)
        return velocity(patcher.model.diffusion_model)
    finally:
        patcher.apply_hooks(None)
        model_management.unload_all_models()


def expected(file, path, strength):
    network = core_load.load_transformer(file("diffusion_models", "sana.safetensors"), dtype=torch.float32)
    plain = velocity(network)
    core.apply_lora(network, core.load_lora(path), strength)
    return velocity(network), plain


CONFIG = tiny_lora.config(alpha=8.0)
WHOLE = {f"transformer.{POINT}.lokr_w1": rand(7, 14) * 5, f"transformer.{POINT}.lokr_w2": rand(32, 40, seed=1) * 5}
PRODUCTS = {
    f"transformer.{POINT}.lokr_w1": rand(7, 14) * 5, f"transformer.{POINT}.lokr_w2_a": rand(32, 4, seed=1) * 5,
    f"transformer.{POINT}.lokr_w2_b": rand(4, 40, seed=2) * 5,
}  # fmt: skip
LOHA = {
    f"transformer.{POINT}.{name}": rand(*shape, seed=seed) * 3
    for seed, (name, shape) in enumerate({
        "hada_w1_a": (224, 4), "hada_w1_b": (4, 560), "hada_w2_a": (224, 4), "hada_w2_b": (4, 560)}.items())
}  # fmt: skip
ADALORA = {
    f"transformer.{BIASED}.lora_A": rand(4, 224), f"transformer.{BIASED}.lora_B": rand(224, 4, seed=1),
    f"transformer.{BIASED}.lora_E": rand(4, 1, seed=2) * 10,
}  # fmt: skip
SMALL = {
    f"transformer.{BIASED}.lora_A.weight": rand(4, 224),
    f"transformer.{BIASED}.lora_B.weight": rand(224, 4, seed=1),
}
EMPTY = {f"transformer.{TO_Q}.lora_A.weight": rand(0, 224), f"transformer.{TO_Q}.lora_B.weight": rand(224, 0)}
FILES = {
    "alpha": (tiny_lora.peft, CONFIG),
    "alpha of diffusers": (tiny_lora.peft, {f"transformer.{key}": value for key, value in CONFIG.items()}),
    "alpha, rsLoRA": (tiny_lora.peft, {**CONFIG, "use_rslora": True}),
    "alpha, patterns": (tiny_lora.peft, {**CONFIG, "alpha_pattern": {f"^{TO_Q}": 32, r".*\.attn2\.to_k": 2}, "rank_pattern": {"proj_out": 1}}),
    "alpha by ComfyUI's names": (lambda factors: tiny_lora.peft(factors, "diffusion_model."), CONFIG),
    "alpha by NVlabs' names": (lambda factors: tiny_lora.peft(tiny_lora.fused(factors), ""), CONFIG),
    "alpha in tensors": (lambda factors: tiny_lora.kohya(factors, "diffusion_model."), None),
    "no alpha": (tiny_lora.peft, None),
    "wrappers": (lambda factors: tiny_lora.peft({f"_orig_mod.{name}": pair for name, pair in factors.items()}), CONFIG),
    "an adapter's name": (
        lambda factors: {key.replace(".weight", ".style.weight"): tensor for key, tensor in tiny_lora.peft(factors).items()}, CONFIG,
    ),
    "LoKr of whole factors": (lambda _: WHOLE, {"peft_type": "LOKR", "r": 64, "alpha": 24}),
    "LoKr": (lambda _: PRODUCTS, {"peft_type": "LOKR", "r": 4, "alpha": 12}),
    "LoHa": (lambda _: LOHA, {"peft_type": "LOHA", "r": 4, "alpha": 12}),
    "AdaLoRA": (lambda _: ADALORA, {"peft_type": "ADALORA", "lora_alpha": 12}),
    "a bias beside": (lambda _: {**SMALL, f"transformer.{BIASED}.lora_B.bias": rand(224, seed=3) * 3}, CONFIG),
    "whole biases": (lambda _: {**SMALL, f"transformer.{BIASED}.base_layer.bias": rand(224, seed=3) * 3,
                                "transformer.proj_out.bias": rand(32, seed=4) * 9}, CONFIG),
    "rank 0 beside": (lambda _: {**SMALL, **EMPTY}, CONFIG),
}  # fmt: skip


@pytest.mark.parametrize("loader", LOADERS)
@pytest.mark.parametrize("kind", FILES)
def test_every_loader(file, folder, model, write, kind, loader):
    make, stated = FILES[kind]
    name = write(make(factors()), stated)
    wanted, plain = expected(file, folder / name, 0.6)
    content = (folder / name).read_bytes()
    assert_agree(drawn(*LOADERS[loader](model, name, 0.6)), wanted, 1e-4)
    assert (wanted - plain).abs().max() > 0.01 * plain.abs().max()
    assert_agree(drawn(model, None), plain, 1e-5)
    assert (folder / name).read_bytes() == content


@pytest.mark.parametrize("loader", LOADERS)
def test_peft_files_of_the_older_form(file, folder, model, loader):
    torch.save(tiny_lora.peft(factors(), "base_model.model."), folder / "adapter_model.bin")
    (folder / "adapter_config.json").write_text(json.dumps(CONFIG))
    wanted, _ = expected(file, folder / "adapter_model.bin", 0.6)
    assert_agree(drawn(*LOADERS[loader](model, "adapter_model.bin", 0.6)), wanted, 1e-4)


@pytest.mark.parametrize("loader", ["Load LoRA", "Create Hook LoRA"])
def test_whole_biases_are_reached_from_the_file_s_own(file, folder, model, write, loader):
    """Also while another strength of the same LoRA is loaded."""
    make, stated = FILES["whole biases"]
    name = write(make(factors()), stated)
    first, _ = LOADERS[loader](model, name, 1.0)
    model_management.load_models_gpu([first])
    second, hooks = LOADERS[loader](model, name, 0.25)
    assert_agree(drawn(second, hooks), expected(file, folder / name, 0.25)[0], 1e-4)


def gemma_factors():
    return {f"layers.{i}.self_attn.q_proj": (rand(4, 48, seed=i), rand(32, 4, seed=i + 5)) for i in range(3)}


@pytest.mark.parametrize("hooked", [False, True])
def test_alpha_of_the_text_encoder(file, models, folder, write, hooked):
    clip = text_encoder.load_text_encoder(str(models / "text_encoders" / "gemma.safetensors"))
    stated = {f"text_encoder.{key}": value for key, value in CONFIG.items()}
    name = write(tiny_lora.peft(gemma_factors(), "text_encoder.", folded=False), stated)
    encoder = core_text.load_text_encoder(file("text_encoders", "gemma.safetensors"), dtype=torch.float32)
    core.apply_lora(encoder, core.load_lora(folder / name), 0.5)
    if hooked:
        (hooks,) = nodes_hooks.CreateHookLora().create_hook(name, 0.0, 0.5)
        patcher = clip.patcher.clone()
        patcher.register_all_hook_patches(hooks, comfy_hooks.create_target_dict(comfy_hooks.EnumWeightTarget.Clip))
        patches = patcher.get_combined_hook_patches(hooks)
    else:
        patcher = comfy_nodes.LoraLoader().load_lora(None, clip, name, 0.0, 0.5)[1].patcher
        patches = patcher.patches
    assert len(patches) == 3
    for key, own in patches.items():
        weight = comfy_utils.get_attr(patcher.model, key).float()
        found = registration.comfy.lora.calculate_weight(own, weight.clone(), key)
        assert_agree(found, encoder.state_dict()[key.removeprefix("gemma2_2b.transformer.")], 1e-5)


# --- the training


@pytest.fixture
def training():
    """The host's training, as it is when packs are loaded after the host's own nodes."""
    registration._wrap_lora_training()
    return nodes_train


@pytest.mark.parametrize("setup", ["_setup_lora_adapters", "_setup_lora_adapters_bypass"])
@pytest.mark.parametrize("kind", FILES)
def test_training_goes_on_from_the_same_effect(file, folder, model, write, training, kind, setup):
    make, stated = FILES[kind]
    name = write(make(factors()), stated)
    patcher = model.clone()
    with torch.inference_mode(False):
        existing, steps = training._load_existing_lora(name)
        _, _, *bypassed = getattr(training, setup)(patcher, existing, "LoRA", torch.float32, 2)
    network = core_load.load_transformer(file("diffusion_models", "sana.safetensors"), dtype=torch.float32)
    before = {key: tensor.clone() for key, tensor in network.state_dict().items()}
    core.apply_lora(network, core.load_lora(folder / name))
    adapters = {key: function for key, (function,) in patcher.weight_wrapper_patches.items()}
    if bypassed:
        adapters.update({f"{key}.weight": adapter for key, (adapter, _) in bypassed[0].adapters.items()})
    assert steps == 9 and len(adapters) > 40
    for key, tensor in network.state_dict().items():
        adapter = adapters.get(f"diffusion_model.{key}", lambda weight: weight)
        assert_agree(adapter(before[key]).detach(), tensor, 1e-5)


@pytest.mark.parametrize("existing", [{}, {"double_blocks.0.img_attn.qkv.lora_up.weight": torch.zeros(1, 1)}])
def test_other_training_passes_through(monkeypatch, model, existing):
    class Other:
        model = object()

    seen = []
    monkeypatch.setattr(nodes_train, "_setup_lora_adapters", lambda *args, **kwargs: seen.append((args, kwargs)) or 7)
    registration._wrap_lora_training()
    patcher = Other() if existing else model
    assert nodes_train._setup_lora_adapters(patcher, existing, "LoRA", rank=2) == 7
    assert seen == [((patcher, existing, "LoRA"), {"rank": 2})] and seen[0][0][1] is existing


# --- what is passed on as it is


def test_files_without_a_configuration_are_passed_on(folder, write):
    path = str(folder / write(tiny_lora.kohya(factors())))
    assert type(comfy_utils.load_torch_file(path)) is dict
    tensors, metadata = comfy_utils.load_torch_file(path, safe_load=True, return_metadata=True)
    assert type(tensors) is dict and not metadata


def test_the_tensors_and_the_metadata_stay(folder, write):
    path = str(folder / write(tiny_lora.peft(factors()), CONFIG))
    tensors, metadata = comfy_utils.load_torch_file(path, return_metadata=True)
    plain = load_file(path)
    assert tensors.keys() == plain.keys() == comfy_utils.load_torch_file(path, False, CPU).keys()
    assert all(torch.equal(tensors[key], plain[key]) for key in plain)
    assert json.loads(metadata["lora_adapter_metadata"]) == CONFIG


def test_errors_name_the_file(folder, model, write):
    name = write(tiny_lora.peft(factors()), {"lora_alpha": "x"})
    for loader in LOADERS.values():
        with pytest.raises(errors.CheckpointError, match=rf"{name}: alpha of its LoRA configuration is 'x'"):
            loader(model, name, 1.0)
