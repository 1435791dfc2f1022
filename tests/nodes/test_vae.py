"""DC-AE as the host's VAE."""

import copy
import logging

import pytest
import torch
from agreement import assert_agree
from e2e.comfyui import REASON
from safetensors.torch import load_file, save_file

autoencoder = pytest.importorskip("sana_pack.nodes.bridge.autoencoder", reason=REASON)
vae_bridge = pytest.importorskip("sana_pack.nodes.bridge.vae", reason=REASON)
vae_nodes = pytest.importorskip("sana_pack.nodes.vae", reason=REASON)
config = pytest.importorskip("sana_pack.sana_core.config", reason=REASON)
memory = pytest.importorskip("sana_pack.sana_core.dcae.memory", reason=REASON)
core = pytest.importorskip("sana_pack.sana_core.checkpoint.load", reason=REASON)
errors = pytest.importorskip("sana_pack.sana_core.errors", reason=REASON)
sd = pytest.importorskip("comfy.sd", reason=REASON)
host = pytest.importorskip("comfy.model_management", reason=REASON)
model_patcher = pytest.importorskip("comfy.model_patcher", reason=REASON)
utils = pytest.importorskip("comfy.utils", reason=REASON)
comfy_nodes = pytest.importorskip("nodes", reason=REASON)

TILES = {
    64: 6,
    128: 6,
    160: 4,
}  # of a picture of 288 x 224, by the size chosen in the stock nodes; 128 is the smallest used
WIDTHS, BLOCKS = (128, 256, 512, 512, 1024, 1024), ("res",) * 3 + ("vit",) * 3
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


def test_sizes_that_are_no_multiple_of_32_are_cropped(vae):
    assert vae.encode(torch.rand(1, 70, 100, 3)).shape == (1, 32, 2, 3)
    assert comfy_nodes.VAEEncode().encode(vae, torch.rand(1, 100, 130, 3))[0]["samples"].shape == (1, 32, 3, 4)


# --- tiles


@pytest.fixture
def tiles():
    """[(done, total)] as the progress bar shows it."""
    seen = []
    utils.set_progress_bar_global_hook(lambda value, total, preview, node_id=None: seen.append((value, total)))
    yield seen
    utils.set_progress_bar_global_hook(None)


@pytest.fixture
def free_bytes(monkeypatch):
    """Set how much memory the host says is free."""
    return lambda free: monkeypatch.setattr(host, "get_free_memory", lambda *arguments: free)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("tile", [64, 128, 160])
def test_stock_tiled_nodes_are_exact(file, tiles, name, tile):
    vae = vae_bridge.load_vae(file("vae", name))
    samples = {"samples": torch.randn(2, 32, 9, 7)}
    pixels = comfy_nodes.VAEDecode().decode(vae, samples)[0]
    latent = vae.encode(pixels)
    for node, given, expected in (
        (comfy_nodes.VAEDecodeTiled().decode, samples, pixels),
        (comfy_nodes.VAEEncodeTiled().encode, pixels, latent),
    ):
        tiles.clear()
        found = node(vae, given, tile, 32)[0]
        assert_agree(found["samples"] if isinstance(found, dict) else found, expected, 1e-5)
        assert tiles[-1] == (2 * TILES[tile], 2 * TILES[tile])


@pytest.mark.parametrize("run", [
    lambda vae: comfy_nodes.VAEDecodeTiled().decode(vae, {"samples": torch.randn(1, 32, 8, 16)}, 128, 32),
    lambda vae: comfy_nodes.VAEEncodeTiled().encode(vae, torch.rand(1, 256, 512, 3), 128, 32),
    lambda vae: vae_nodes.SanaNativeDecodeTiled.execute(
        {"samples": torch.randn(1, 32, 8, 16)}, vae, "256", {"method": "exact"}
    ),
    lambda vae: vae_bridge.decode_in_tiles(vae, torch.randn(1, 32, 8, 16), 256, overlap=128),
])  # fmt: skip
def test_an_interrupt_stops_between_tiles(vae, run):
    seen = []

    def interrupt_at_the_first(value, total, preview, node_id=None):
        seen.append((value, total))
        host.interrupt_current_processing()

    utils.set_progress_bar_global_hook(interrupt_at_the_first)
    try:
        with pytest.raises(host.InterruptProcessingException):
            run(vae)
    finally:
        utils.set_progress_bar_global_hook(None)
        host.interrupt_current_processing(False)
    assert len(seen) == 1 and seen[0][0] == 1 < seen[0][1]


def test_a_copy_for_another_device_encodes_tiles_with_its_own_model(tmp_path, file, vae):
    """As Select VAE Device makes it; the weights are others here so that it can be seen which ones were used."""
    tensors = load_file(file("vae", "dcae.safetensors"))
    save_file(
        {**tensors, "encoder.conv_out.bias": tensors["encoder.conv_out.bias"] + 1}, tmp_path / "other.safetensors"
    )
    other = copy.copy(vae)
    other.patcher = vae_bridge.load_vae_patcher(str(tmp_path / "other.safetensors"))
    other.first_stage_model = other.patcher.model
    pixels = torch.rand(1, 256, 160, 3)
    found = other.encode_tiled(pixels, tile_x=128, tile_y=128, overlap=0)
    assert_agree(found, other.encode(pixels), 1e-5)
    assert_agree(found - 1, vae.encode(pixels), 1e-5)


# --- the own node


@pytest.mark.parametrize("tile_size", ["auto", "256", "512", "1024", "2048"])
def test_the_nodes_exact_tiles_give_the_stock_picture(vae, tile_size):
    samples = {"samples": torch.randn(2, 32, 10, 9)}
    (found,) = vae_nodes.SanaNativeDecodeTiled.execute(samples, vae, tile_size, {"method": "exact"}).result
    assert found.shape == (2, 320, 288, 3)
    assert_agree(found, vae.decode(samples["samples"]), 1e-5)


def test_the_nodes_blended_tiles(vae, tiles):
    latent = torch.randn(1, 32, 8, 12)
    (found,) = vae_nodes.SanaNativeDecodeTiled.execute(
        {"samples": latent}, vae, "256", {"method": "blend", "overlap": 64}
    ).result
    assert tiles[-1] == (2 * 2, 2 * 2)
    model, exact = vae.first_stage_model, vae.decode(latent)
    corner = (
        model.decoder(latent[:, :, :8, :8]).movedim(1, -1)[:, :192, :192] * 0.5 + 0.5
    )  # the first tile, decoded alone
    assert_agree(found[:, :192, :192], corner.clamp(0, 1), 1e-5)
    assert (found - exact).abs().max() > 0.01


@pytest.mark.parametrize("tile, overlap, total", [(512, 640, 2 * 3), (256, 64, 3 * 4)])
def test_blended_tiles_of_the_free_memory(vae, tiles, free_bytes, tile, overlap, total):
    """auto; an overlap beyond half a tile becomes half a tile."""
    free_bytes(
        memory.MARGIN * memory.decode_peak_bytes(vae.first_stage_model.config, tile, tile, None, torch.float32) + 1
    )
    latent = torch.randn(1, 32, 16, 20)
    vae_nodes.SanaNativeDecodeTiled.execute({"samples": latent}, vae, "auto", {"method": "blend", "overlap": overlap})
    assert tiles[-1][1] == total


def test_another_vae_is_refused(vae):
    other = sd.VAE({"pixel_space_vae": torch.tensor(1.0)})
    kind = type(other.first_stage_model).__name__
    with pytest.raises(errors.InputError, match=f"of the kind {kind}: connect the VAE of Load SANA"):
        vae_nodes.SanaNativeDecodeTiled.execute(
            {"samples": torch.randn(1, 32, 2, 2)}, other, "auto", {"method": "exact"}
        )


# --- number types


def test_float16_is_never_used(file, monkeypatch, caplog):
    tensors = load_file(file("vae", "dcae.safetensors"))
    with caplog.at_level(logging.WARNING, logger="sana"):
        vae = sd.VAE(sd=dict(tensors), dtype=torch.float16)
        monkeypatch.setattr(host.args, "fp16_vae", True)
        forced = sd.VAE(sd=dict(tensors))
    assert vae.vae_dtype == forced.vae_dtype == torch.float32  # on the CPU; bfloat16 where the GPU has it
    said = [record.getMessage() for record in caplog.records]
    assert said == ["DC-AE overflows in float16, which was chosen for the VAE: it runs in float32"] * 2
    assert torch.isfinite(forced.decode(torch.randn(1, 32, 2, 2))).all()


@pytest.mark.parametrize("flag, dtype", [("bf16_vae", torch.bfloat16), ("fp32_vae", torch.float32)])
def test_the_number_types_that_dcae_can_use_are_kept(file, monkeypatch, caplog, flag, dtype):
    monkeypatch.setattr(host.args, flag, True)
    with caplog.at_level(logging.WARNING, logger="sana"):
        assert sd.VAE(sd=load_file(file("vae", "dcae.safetensors"))).vae_dtype == dtype
    assert not caplog.records


# --- files


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
        {
            "decoder.conv_in.weight": torch.zeros(512, 4, 3, 3),
            "decoder.up_blocks.0.resnets.0.conv1.weight": torch.zeros(1),
        }
    )
