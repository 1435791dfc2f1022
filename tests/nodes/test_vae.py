"""DC-AE as the host's VAE."""

import pytest
import torch
from agreement import assert_agree
from e2e.comfyui import REASON
from safetensors.torch import load_file, save_file

vae_bridge = pytest.importorskip("sana_pack.nodes.bridge.vae", reason=REASON)
core = pytest.importorskip("sana_pack.sana_core.checkpoint.load", reason=REASON)
errors = pytest.importorskip("sana_pack.sana_core.errors", reason=REASON)
sd = pytest.importorskip("comfy.sd", reason=REASON)
comfy_nodes = pytest.importorskip("nodes", reason=REASON)

FILES = ["dcae.safetensors", "dcae_mit.safetensors", "dcae_lite.safetensors"]


@pytest.fixture(scope="module")
def vae(file):
    return vae_bridge.load_vae(file("vae", "dcae.safetensors"))


@pytest.mark.parametrize("name", FILES)
def test_decode_and_encode(file, name):
    reference = core.load_autoencoder(file("vae", name))
    latent, pixels = torch.randn(2, 32, 2, 3), torch.rand(2, 64, 96, 3)
    for vae in (sd.VAE(sd=load_file(file("vae", name))), vae_bridge.load_vae(file("vae", name))):
        expected = (reference.decoder(latent) * 0.5 + 0.5).clamp(0, 1).movedim(1, -1)
        assert_agree(vae.decode(latent), expected, 1e-5)
        assert_agree(vae.encode(pixels), reference.encoder(pixels.movedim(-1, 1) * 2 - 1), 1e-5)


def test_the_host_finds_every_attribute(vae):
    plain = sd.VAE({"pixel_space_vae": torch.tensor(1.0)})
    assert vars(plain).keys() <= vars(vae).keys()
    assert (vae.latent_channels, vae.spacial_compression_encode(), vae.spacial_compression_decode()) == (32, 32, 32)
    assert vae.working_dtypes == [torch.bfloat16, torch.float32]
    assert vae.model_size() == sum(tensor.nbytes for tensor in vae.get_sd().values())


def test_memory_estimates(vae):
    assert vae.memory_used_decode((1, 32, 32, 32), torch.bfloat16) == 700 * 1024 * 1024 * 2
    assert vae.memory_used_encode((1, 3, 1024, 1024), torch.float32) == 750 * 1024 * 1024 * 4


def test_sizes_that_are_no_multiple_of_32_are_cropped(vae):
    assert vae.encode(torch.rand(1, 70, 100, 3)).shape == (1, 32, 2, 3)


def test_tiled_decode_and_encode_run(vae):
    pixels = comfy_nodes.VAEDecodeTiled().decode(vae, {"samples": torch.randn(1, 32, 7, 5)}, 128, 32)[0]
    assert pixels.shape == (1, 224, 160, 3)
    assert vae.encode_tiled(pixels, tile_x=128, tile_y=128, overlap=32).shape == (1, 32, 7, 5)


def test_saved_weights_load_again(tmp_path, vae):
    save_file(vae.get_sd(), tmp_path / "saved.safetensors")
    again = sd.VAE(sd=load_file(tmp_path / "saved.safetensors"))
    assert all(torch.equal(again.get_sd()[key], tensor) for key, tensor in vae.get_sd().items())


def test_the_copy_factory(vae):
    function, arguments = vae.patcher.cached_patcher_init
    copy = function(*arguments, disable_dynamic=True)
    assert torch.equal(copy.model.state_dict()["decoder.conv_in.weight"], vae.get_sd()["decoder.conv_in.weight"])


def test_explicit_type_and_positional_arguments(file):
    vae = sd.VAE(load_file(file("vae", "dcae.safetensors")), None, None, torch.bfloat16)
    assert vae.vae_dtype == torch.bfloat16
    assert vae.decode(torch.randn(1, 32, 1, 1)).shape == (1, 32, 32, 3)


def test_latents_of_another_model_are_refused(vae):
    with pytest.raises(errors.InputError, match=r"latents \(B, 32, h, w\), got \(1, 16, 4, 4\)"):
        vae.decode(torch.randn(1, 16, 4, 4))


@pytest.mark.parametrize("damage, said", [
    (lambda t: t.pop("decoder.norm_out.weight"), "1 missing (decoder.norm_out.weight)"),
    (lambda t: t.update({"decoder.extra": torch.zeros(1)}), "1 unexpected (decoder.extra)"),
    (lambda t: t.update({"encoder.conv_in.bias": torch.zeros(3)}), "encoder.conv_in.bias (3,) instead of (16,)"),
    (lambda t: t.update({"decoder.up_blocks.0.0.norm.running_mean": torch.zeros(16)}), "other latents than SANA"),
])  # fmt: skip
def test_a_damaged_or_foreign_dcae_is_refused(tmp_path, file, damage, said):
    tensors = load_file(file("vae", "dcae.safetensors"))
    damage(tensors)
    save_file(tensors, tmp_path / "damaged.safetensors")
    with pytest.raises(errors.CheckpointError) as raised:
        sd.VAE(sd=tensors)
    assert said in str(raised.value)
    with pytest.raises(errors.CheckpointError) as raised:
        vae_bridge.load_vae(str(tmp_path / "damaged.safetensors"))
    assert said in str(raised.value) and "damaged.safetensors" in str(raised.value)


def test_a_transformer_in_the_vae_slot_is_refused(file):
    with pytest.raises(errors.CheckpointError, match="found a SANA transformer"):
        vae_bridge.load_vae(file("diffusion_models", "sana.safetensors"))


@pytest.mark.parametrize("prefix", ["", "dcae."])
def test_only_sanas_dcae_is_taken(file, prefix):
    tensors = {prefix + key: tensor for key, tensor in load_file(file("vae", "dcae.safetensors")).items()}
    assert vae_bridge.is_dcae(tensors) == (prefix == "")
    assert not vae_bridge.is_dcae(
        {"decoder.conv_in.weight": torch.zeros(512, 4, 3, 3), "decoder.up_blocks.0.resnets.0.conv1.weight": torch.zeros(1)}
    )
