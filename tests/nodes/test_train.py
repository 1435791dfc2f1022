"""The node that trains LoRAs: the file, what it leaves behind, cancel and continue, refusals."""

import comfy.model_management
import comfy.samplers
import folder_paths
import pytest
import torch
from comfy.model_management import InterruptProcessingException
from e2e.tiny_files import write_picture
from safetensors import safe_open
from sana_pack.nodes.bridge import training, training_progress
from sana_pack.nodes.bridge.loading import load_model
from sana_pack.nodes.bridge.text_encoder import load_text_encoder
from sana_pack.nodes.bridge.training_networks import HostNetworks, fingerprint
from sana_pack.nodes.bridge.vae import load_vae
from sana_pack.nodes.train import SanaNativeTrainLora
from sana_pack.sana_core.errors import CheckpointError, InputError
from sana_pack.sana_core.quantiser.convert import quantise_file
from sana_pack.sana_core.sources import NANO_FILES

import nodes as host_nodes

STEPS = 4
WIDGETS = {
    "folder": "zorble", "caption": "a zorble", "name": "lora", "steps": STEPS, "batch": 2, "at_once": 2, "rank": 4,
    "learning_rate": 0.01, "optimizer": "adamw", "targets": "attention", "seed": 0, "pixels": 128,
}  # fmt: skip


@pytest.fixture(scope="module")
def parts(file):
    """MODEL, CLIP and VAE of tiny files, loaded as nodes load them."""
    with torch.inference_mode():
        return (
            load_model(file("diffusion_models", "sana.safetensors")),
            load_text_encoder(file("text_encoders", "gemma.safetensors")),
            load_vae(file("vae", "dcae.safetensors")),
        )


@pytest.fixture(autouse=True)
def folders(tmp_path, monkeypatch):
    """ComfyUI's folders: three pictures, no LoRA yet."""
    for name in ("input/zorble", "input/empty", "output", "temp", "loras"):
        (tmp_path / name).mkdir(parents=True)
    for number in range(3):
        write_picture(tmp_path / "input" / "zorble", f"{number}.png")
    monkeypatch.setattr(folder_paths, "input_directory", str(tmp_path / "input"))
    monkeypatch.setattr(folder_paths, "output_directory", str(tmp_path / "output"))
    monkeypatch.setattr(folder_paths, "temp_directory", str(tmp_path / "temp"))
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "loras", ([str(tmp_path / "loras")], {".safetensors"}))
    folder_paths.filename_list_cache.clear()
    yield tmp_path
    comfy.model_management.interrupt_current_processing(False)
    folder_paths.filename_list_cache.clear()


def train(parts, **changes):
    """The node's outputs: LORA_MODEL, name, samples, loss."""
    return SanaNativeTrainLora.execute(*parts, **{**WIDGETS, **changes}).args


def interrupt_after(monkeypatch, step):
    host = training_progress.Shown.stepped

    def stepped(self, done):
        if done == step:
            comfy.model_management.interrupt_current_processing()
        return host(self, done)

    monkeypatch.setattr(training_progress.Shown, "stepped", stepped)


def drawn(patcher, width=48):
    generator = torch.Generator().manual_seed(1)
    conditioning = [[torch.randn(1, 5, width, generator=generator), {}]]
    guider = comfy.samplers.CFGGuider(patcher)
    guider.set_conds(conditioning, conditioning)
    guider.set_cfg(1.0)
    noise = torch.randn(1, 32, 4, 4, generator=generator)
    sigmas = torch.tensor([1.0, 0.6, 0.0])
    return guider.sample(noise, torch.zeros_like(noise), comfy.samplers.sampler_object("euler"), sigmas, seed=0)


def tensors(path):
    with safe_open(path, "pt") as file:
        return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118


def test_the_file_changes_pictures_in_the_stock_loaders(parts, folders):
    lora, name, _, loss = train(parts)
    assert name == "lora.safetensors" and loss.shape[0] == 1 and loss.shape[-1] == 3
    plain = drawn(parts[0])
    (patched,) = host_nodes.LoraLoaderModelOnly().load_lora_model_only(parts[0], name, 1.0)
    assert (drawn(patched) - plain).abs().max() > 1e-3
    from comfy_extras.nodes_train import LoraModelLoader

    (given,) = LoraModelLoader.execute(parts[0], lora, 1.0).args
    torch.testing.assert_close(drawn(given), drawn(patched))
    with safe_open(folders / "loras" / name, "pt") as file:
        assert file.metadata()["ss_steps"] == str(STEPS)


def test_the_model_is_as_before(parts):
    model = parts[0]
    before = drawn(model)
    state = {key: tensor.clone() for key, tensor in model.model.state_dict().items()}
    learns = [parameter.requires_grad for parameter in model.model.parameters()]
    train(parts, targets="all", dora=True, name="dora")
    assert torch.equal(drawn(model), before)
    assert all(torch.equal(tensor, state[key]) for key, tensor in model.model.state_dict().items())
    assert [parameter.requires_grad for parameter in model.model.parameters()] == learns
    assert not any("forward" in vars(module) for module in model.model.modules())


@pytest.mark.parametrize("name", ["sprint.safetensors", "sana15.safetensors", "sana_fp16.safetensors"])
def test_other_models(parts, file, name):
    lora = train((load_model(file("diffusion_models", name)), *parts[1:]))[0]
    assert all(tensor.isfinite().all() for tensor in lora.values())


@pytest.mark.parametrize("format", ["int8", "nvfp4", "gguf-q8_0"])
def test_a_quantised_model(parts, file, tmp_path, format):
    path = tmp_path / f"small.{'gguf' if 'gguf' in format else 'safetensors'}"
    quantise_file(file("diffusion_models", "sana.safetensors"), path, format)
    small = load_model(str(path))
    before = drawn(small)
    lora = train((small, *parts[1:]))[0]
    assert torch.equal(drawn(small), before)
    assert any(tensor.abs().max() > 0 for key, tensor in lora.items() if "lora_B" in key)


def test_a_model_with_a_lora_trains_with_it(parts):
    (name,) = train(parts)[1:2]
    (patched,) = host_nodes.LoraLoaderModelOnly().load_lora_model_only(parts[0], name, 1.0)
    assert fingerprint(patched) != fingerprint(parts[0])
    latent, text = torch.randn(1, 32, 4, 4), torch.randn(1, 5, 48)
    found, without = (
        HostNetworks(model, *parts[1:]).transformer()(latent, torch.tensor([500.0]), text)
        for model in (patched, parts[0])
    )
    assert (found - without).abs().max() > 1e-4


def test_cancel_and_continue_give_the_same_file(parts, folders, monkeypatch):
    whole = train(parts, name="whole")[0]
    with monkeypatch.context() as patch:
        interrupt_after(patch, 2)
        with pytest.raises(InterruptProcessingException):
            train(parts)
    stopped = tensors(folders / "loras" / "lora.safetensors")
    assert any(not torch.equal(stopped[key], whole[key]) for key in whole)
    continued, name, *_ = train(parts, continue_training=True)
    assert name == "lora.safetensors" and continued.keys() == whole.keys()
    assert all(torch.equal(tensor, whole[key]) for key, tensor in continued.items())
    with pytest.raises(CheckpointError, match="rate"):
        train(parts, continue_training=True, learning_rate=0.5)


def test_nothing_is_encoded_twice(parts, monkeypatch):
    train(parts)
    monkeypatch.setattr(parts[2], "encode", None)
    monkeypatch.setattr(parts[1], "encode_from_tokens_scheduled", None)
    train(parts, learning_rate=0.001)


def test_no_file_is_replaced(parts, folders):
    (folders / "loras" / "lora.safetensors").write_bytes(b"mine")
    names = [train(parts, steps=1)[1] for _ in range(2)]
    assert names == ["lora_2.safetensors", "lora_3.safetensors"]
    assert (folders / "loras" / "lora.safetensors").read_bytes() == b"mine"
    assert train(parts, steps=2, continue_training=True)[1] == "lora_3.safetensors"


def test_samples(parts):
    _, _, samples, _ = train(parts, sample_prompt="a zorble\na cat", sample_every=2)
    assert samples.shape[0] == 1 and samples.shape[2] == 2 * 128 + 4
    again = train(parts, sample_prompt="a zorble\na cat", sample_every=2, continue_training=True)[2]
    assert torch.equal(samples, again)


def test_the_embedded_model_and_its_example():
    parts = (
        load_model(str(NANO_FILES.transformer)),
        load_text_encoder(str(NANO_FILES.text_encoder)),
        load_vae(str(NANO_FILES.autoencoder)),
    )
    assert training.picture_folders()[-1] == "zorble (example)"
    before = drawn(parts[0], 192)
    lora = train(parts, folder="zorble (example)", pixels=0, seed=2**64 - 1)[0]
    assert len(lora) == 6 * 8 * 2 and torch.equal(drawn(parts[0], 192), before)


class Other:
    """Something that another pack has made."""

    model = tokenizer = first_stage_model = None


@pytest.mark.parametrize("index, name", enumerate(("model", "clip", "vae")))
def test_parts_of_other_models_are_refused(parts, index, name):
    given = [*parts]
    given[index] = Other()
    with pytest.raises(InputError, match=f"^{name} is no part of a SANA model"):
        train(given)


@pytest.mark.parametrize("changes, said", [
    ({"folder": "none"}, "there is no folder 'none'"), ({"folder": "../input/zorble"}, "there is no folder"),
    ({"folder": "empty"}, "has no pictures"), ({"name": "../lora"}, "give a plain name"),
    ({"batch": 3}, "multiple"), ({"continue_training": True}, "there is no training 'lora'"),
    ({"caption": ""}, "caption"),
])  # fmt: skip
def test_refusals(parts, folders, monkeypatch, changes, said):
    monkeypatch.setattr(parts[2], "encode", None)
    with pytest.raises(InputError, match=said) as raised:
        train(parts, **changes)
    assert "\n" not in str(raised.value) and not list((folders / "loras").iterdir())


def test_a_text_encoder_of_another_size_is_refused(parts):
    clip = load_text_encoder(str(NANO_FILES.text_encoder))
    with pytest.raises(InputError, match="this model reads 48"):
        train((parts[0], clip, parts[2]))
