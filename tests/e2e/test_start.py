"""What a run starts from, on a real server: empty latents of any size, batches, pictures, masks. The result is that of
sana_core's parts.
"""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from agreement import assert_agree, error
from e2e.expected import Core
from e2e.graphs import latents, pictures

from sana_core.latents import noise

TOLERANCE = 1e-4
LEFT_HALF = torch.tensor([1.0, 1.0, 0.0, 0.0]).expand(1, 1, 3, 4)  # the transparent part of the input picture


@pytest.fixture(scope="module")
def core(server):
    return Core(server)


@pytest.fixture(scope="module")
def usual(core):
    return core.ksampler()


@pytest.fixture(scope="module")
def picture(core):
    """The input picture as latents."""
    return core.encode(core.pixels())


@pytest.mark.parametrize(
    "width, height, batch, shape",
    [(192, 64, 1, (1, 32, 2, 6)), (104, 72, 1, (1, 32, 2, 3)), (128, 96, 2, (2, 32, 3, 4))],
)
def test_empty_latents(server, core, width, height, batch, shape):
    """Sizes that are not whole latent cells are cut down."""
    found = latents(server, lambda parts: parts.sample(latent_image=parts.empty(width, height, batch)))
    assert_agree(found, core.ksampler(start=torch.zeros(shape)), TOLERANCE)


def sd3_latent(parts):
    return parts.g.add("EmptySD3LatentImage", width=128, height=96, batch_size=1)


def sana_latent(parts):
    size = {"resolution": "custom", "resolution__width": 128, "resolution__height": 96}
    return parts.g.add("SanaNativeEmptyLatent", **size, batch_size=1)


@pytest.mark.parametrize("empty", [sd3_latent, sana_latent])
def test_empty_latents_of_other_nodes(server, usual, empty):
    assert_agree(latents(server, lambda parts: parts.sample(latent_image=empty(parts))), usual, TOLERANCE)


def test_one_of_a_batch_has_its_own_noise(server, core):
    def build(parts):
        one = parts.g.add("LatentFromBatch", samples=parts.empty(batch=2), batch_index=1, length=1)
        return parts.sample(latent_image=one)

    assert_agree(latents(server, build), core.ksampler(drawn=noise((2, 32, 3, 4), 3)[1:]), TOLERANCE)


def test_repeated_latents_are_a_batch(server, core):
    def build(parts):
        return parts.sample(latent_image=parts.g.add("RepeatLatentBatch", samples=parts.latent, amount=2))

    assert_agree(latents(server, build), core.ksampler(start=torch.zeros(2, 32, 3, 4)), TOLERANCE)


def test_a_second_pass_on_larger_latents(server, core, usual):
    def build(parts):
        larger = parts.g.add("LatentUpscaleBy", samples=parts.sample(), upscale_method="bilinear", scale_by=2.0)
        return parts.sample(latent_image=larger, denoise=0.5)

    larger = F.interpolate(usual, scale_factor=2.0, mode="bilinear")
    assert_agree(latents(server, build), core.ksampler(start=larger, denoise=0.5), TOLERANCE)


# --- pictures


def test_encoding_and_decoding(server, core, picture):
    encoded = latents(server, lambda parts: parts.encoded()[0])
    assert_agree(encoded, picture, TOLERANCE)
    decoded = pictures(server, lambda parts: parts.decode(parts.encoded()[0]))
    assert np.abs(decoded - core.decode(picture)).max() <= 1


def test_image_to_image(server, core, picture):
    found = latents(server, lambda parts: parts.sample(latent_image=parts.encoded()[0], denoise=0.5))
    assert_agree(found, core.ksampler(start=picture, denoise=0.5), TOLERANCE)


def masked(parts):
    latent, mask = parts.encoded()
    return parts.g.add("SetLatentNoiseMask", samples=latent, mask=mask)


def noise_mask(parts):
    return parts.sample(latent_image=masked(parts))


def differential_diffusion(parts):
    """With a mask of 0 and 1 it redraws what any mask redraws."""
    model = parts.g.add("DifferentialDiffusion", model=parts.model, strength=1.0)
    return parts.sample(model=model, latent_image=masked(parts))


def inpaint_model_conditioning(parts):
    """What it adds to the prompts is for models that read the masked picture; SANA does not."""
    image, links = parts.image(), {"positive": parts.positive, "negative": parts.negative, "vae": parts.vae}
    node = parts.g.add("InpaintModelConditioning", **links, pixels=image, mask=image[1], noise_mask=True)
    return parts.sample(positive=node[0], negative=node[1], latent_image=node[2])


@pytest.mark.parametrize("build", [noise_mask, differential_diffusion, inpaint_model_conditioning])
def test_only_what_lies_under_the_mask_is_redrawn(server, core, picture, build):
    found = latents(server, build)
    assert_agree(found, core.ksampler(start=picture, mask=LEFT_HALF), TOLERANCE)
    assert_agree(found[..., 2:], picture[..., 2:], TOLERANCE)
    assert error(found[..., :2], picture[..., :2]) > 0.1


def test_vae_encode_for_inpaint(server, core, usual):
    """The masked pixels are grey when they are encoded, and the mask grows by half of six pixels."""

    def build(parts):
        image = parts.image()
        node = {"pixels": image, "vae": parts.vae, "mask": image[1], "grow_mask_by": 6}
        return parts.sample(latent_image=parts.g.add("VAEEncodeForInpaint", **node))

    pixels, mask = core.pixels(), torch.zeros(1, 1, 96, 128)
    pixels[..., :64], mask[..., : 64 + 3] = 0.5, 1.0
    mask = F.interpolate(mask, (3, 4), mode="bilinear")
    found = latents(server, build)
    assert_agree(found, core.ksampler(start=core.encode(pixels), mask=mask), TOLERANCE)
    assert error(found, usual) > 1e-2
