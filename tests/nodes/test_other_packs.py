"""The host's types as other packs use them: tiled calls of a VAE, own previewers, conditioning that they pad."""

import latent_preview
import pytest
import torch
from agreement import assert_agree
from comfy import samplers
from sana_pack.nodes.bridge import latent_format, loading, prompts, text_encoder
from sana_pack.nodes.bridge import vae as vae_bridge
from sana_pack.sana_core import sources

import nodes as comfy_nodes

ARGUMENTS = [
    {},
    {"tile_x": 8, "tile_y": 8},
    {"tile_x": 8},
    {"overlap": 2},
    {"tile_x": 8, "tile_y": 8, "overlap": 2},
    {"tile_x": 8, "tile_y": 8, "overlap": 2, "tile_t": 16, "overlap_t": 4},
    {"tile_x": None, "tile_y": None, "overlap": None, "tile_t": None, "overlap_t": None},
]


@pytest.fixture(scope="module")
def vae(file):
    return vae_bridge.load_vae(file("vae", "dcae.safetensors"))


@pytest.mark.parametrize("arguments", ARGUMENTS)
def test_tiled_calls(vae, arguments):
    latent = torch.randn(1, 32, 9, 12)
    pixels = vae.decode(latent)
    assert_agree(vae.decode_tiled(latent, **arguments), pixels, 1e-5)
    in_pixels = {name: value and value * 32 for name, value in arguments.items()}
    assert_agree(vae.encode_tiled(pixels, **in_pixels), vae.encode(pixels), 1e-5)


def test_a_tiled_call_by_position(vae):
    latent = torch.randn(1, 32, 9, 12)
    assert_agree(vae.decode_tiled(latent, 8, 8), vae.decode(latent), 1e-5)


def test_previewers_that_read_every_channel():
    sana, latent = latent_format.SanaLatent(), torch.randn(1, 32, 6, 8)
    factors, bias = torch.tensor(sana.latent_rgb_factors), torch.tensor(sana.latent_rgb_factors_bias)
    assert factors.shape == (sana.latent_channels, 3) and bias.shape == (3,)
    plain = latent[0].permute(1, 2, 0) @ factors + bias
    assert plain.shape == (6, 8, 3) and plain.isfinite().all() and plain.std() > 0.01
    cells = sana.latent_rgb_factors_reshape(latent)
    reshaped = torch.nn.functional.linear(cells.movedim(1, -1), factors.T, bias)
    assert_agree(reshaped[..., :1], cells[:, :1].movedim(1, -1), 1e-6)  # grey, as bright as the structure
    assert torch.equal(reshaped[..., 0], reshaped[..., 2])


def test_the_hosts_previewer(monkeypatch):
    monkeypatch.setattr(latent_preview.args, "preview_method", latent_preview.LatentPreviewMethod.Auto)
    previewer = latent_preview.get_previewer("cpu", latent_format.SanaLatent())
    latent = torch.zeros(1, 32, 6, 8)
    latent[:, :, 2:4, 3:5] = 1.0
    picture = previewer.decode_latent_to_preview(latent)
    assert picture.getpixel((3, 2)) == (255, 255, 255) and picture.getpixel((0, 0)) == (0, 0, 0)


# --- conditioning put together by others


def states(*lengths, width=48):
    """Text states of several prompts as one batch, padded with zeros as other packs do it."""
    batch = torch.zeros(len(lengths), max(lengths), width)
    for row, length in enumerate(lengths):
        batch[row, :length] = torch.randn(length, width)
    return batch


@pytest.mark.parametrize("lengths, mask, counted", [
    ((5, 17), None, [5, 17]),
    ((5, 17), torch.ones(1, 5), [5, 17]),  # the mask of the first prompt
    ((5, 17), torch.ones(1, 17), [5, 17]),  # the mask of the second
    ((5, 17), torch.ones(2, 5), [5, 17]),
    ((5, 17), torch.ones(2, 17), [17, 17]),  # a mask of each prompt is believed
    ((3, 5, 9, 2), torch.ones(2, 9), [3, 5, 9, 2]),  # twice the batch: the masks belong to other prompts
    ((9,), torch.tensor([[1, 1, 1, 0]]), [8]),
])  # fmt: skip
def test_zeros_at_the_end_of_a_prompt_are_padding(lengths, mask, counted):
    _, found = prompts.padded_context(states(*lengths), mask)
    assert found.sum(dim=1).tolist() == counted


@pytest.mark.parametrize("mask", [None, torch.ones(1, 7), torch.ones(1, 4), torch.ones(2, 7)])
def test_a_prompt_of_zeros_is_meant_so(mask):
    _, found = prompts.padded_context(torch.zeros(2, 7, 48), mask)
    assert found.sum(dim=1).tolist() == [7, 7]


def test_zeros_within_a_prompt_are_tokens():
    context = states(7)
    context[:, 2:4] = 0.0
    assert prompts.padded_context(context, None)[1].sum() == 7


@pytest.mark.parametrize("text", ["", "a red apple"])
def test_zero_out_keeps_every_token_of_the_embedded_model(text):
    path = next((sources.NANO / "text_encoders").glob("*.safetensors"))
    clip = text_encoder.load_text_encoder(str(path))
    conditioning = comfy_nodes.CLIPTextEncode().encode(clip, text)[0]
    zeroed = comfy_nodes.ConditioningZeroOut().zero_out(conditioning)[0]
    for given in (conditioning, zeroed):
        (context, extra), mask = given[0], conditioning[0][1]["attention_mask"]
        assert torch.equal(prompts.padded_context(context, extra.get("attention_mask"))[1][:, : mask.shape[1]], mask)
        assert prompts.padded_context(context, None)[1].sum() == context.shape[1]


def test_a_padded_batch_draws_what_its_prompts_draw_alone(file):
    """As schedulers of prompts make it: padded with zeros, without a mask or with the first prompt's."""
    patcher = loading.load_model(file("diffusion_models", "sana.safetensors"))
    noise, batch = torch.randn(2, 32, 3, 4), states(5, 17)

    def sample(noise, context, extra):
        guider = samplers.CFGGuider(patcher)
        guider.set_conds([[context, extra]], [[batch[1:, :3], {}]])
        guider.set_cfg(4.5)
        sigmas = torch.tensor([0.9997, 0.6, 0.3, 0.0])
        return guider.sample(noise, torch.zeros_like(noise), samplers.sampler_object("euler"), sigmas, seed=0)

    alone = [sample(noise[row : row + 1], batch[row : row + 1, :length], {}) for row, length in enumerate((5, 17))]
    for extra in ({}, {"attention_mask": torch.ones(1, 5, dtype=torch.long)}):
        assert_agree(sample(noise, batch, extra), torch.cat(alone), 1e-5)
