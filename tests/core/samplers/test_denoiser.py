"""The denoiser around a tiny transformer: guidance, timesteps, batching, precision."""

import pytest
import tiny
import torch

from sana_core.errors import InputError
from sana_core.samplers.denoiser import batch_contexts, make_denoiser
from sana_core.samplers.guidance import adaptive_scale, block_numbers, check_pag_layers, classifier_free_guidance

SIGMA = 0.61837
ROUNDING = 1e-4  # of float32, ten times what was measured


def randn(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def prompts(seed, *lengths, width=96):
    """Text states (B, longest, width), zero where the mask is, and their mask."""
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    return randn(seed, len(lengths), max(lengths), width) * mask[..., None], mask


@pytest.fixture(scope="module")
def transformer():
    return tiny.transformer(depth=2)


@pytest.fixture
def latent():
    return randn(5, 1, 32, 3, 4)


def batch_sizes(transformer):
    seen = []
    return seen, transformer.patch_embed.register_forward_hook(lambda module, args, output: seen.append(len(args[0])))


@pytest.mark.parametrize("scale", [4.5, 0.0, -1.0, 2.0])
def test_guidance_is_the_formula_on_two_predictions(transformer, latent, scale):
    cond, uncond = prompts(1, 9), prompts(2, 4)
    timestep = torch.tensor([float(int(1000 * SIGMA))])
    velocity_cond, velocity_uncond = (transformer(latent, timestep, *prompt) for prompt in (cond, uncond))
    expected = latent - SIGMA * (velocity_uncond + scale * (velocity_cond - velocity_uncond))
    found = make_denoiser(transformer, cond, uncond, guidance_scale=scale)(latent, SIGMA)
    torch.testing.assert_close(found, expected, atol=ROUNDING, rtol=0)


def test_both_predictions_are_one_batch(transformer, latent):
    seen, hook = batch_sizes(transformer)
    with hook:
        make_denoiser(transformer, prompts(1, 9), prompts(2, 4), guidance_scale=4.5)(latent, SIGMA)
    assert seen == [2]


def test_guidance_1_runs_the_conditional_alone(transformer, latent):
    seen, hook = batch_sizes(transformer)
    with hook:
        found = make_denoiser(transformer, prompts(1, 9), prompts(2, 4), guidance_scale=1.0)(latent, SIGMA)
        alone = make_denoiser(transformer, prompts(1, 9), None, guidance_scale=7.0)(latent, SIGMA)
    assert seen == [1, 1] and torch.equal(found, alone)


def test_two_prompts_of_different_length_equal_two_runs(transformer):
    cond, uncond, x = prompts(3, 11, 4), prompts(4, 2, 6), randn(6, 2, 32, 3, 4)
    together = make_denoiser(transformer, cond, uncond, guidance_scale=4.5)(x, SIGMA)
    for item, (length, length_uncond) in enumerate([(11, 2), (4, 6)]):
        own = tuple(part[item : item + 1, :length] for part in cond)
        own_uncond = tuple(part[item : item + 1, :length_uncond] for part in uncond)
        alone = make_denoiser(transformer, own, own_uncond, guidance_scale=4.5)(x[item : item + 1], SIGMA)
        torch.testing.assert_close(together[item : item + 1], alone, atol=ROUNDING, rtol=0)


@pytest.mark.parametrize(("truncate", "timestep"), [(True, 618.0), (False, 618.37)])
def test_timestep(transformer, latent, truncate, timestep):
    found = make_denoiser(transformer, prompts(1, 9), None, guidance_scale=1.0, truncate_timestep=truncate)(
        latent, SIGMA
    )
    expected = latent - SIGMA * transformer(latent, torch.tensor([timestep]), *prompts(1, 9))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_sprint_takes_guidance_as_input_and_whole_timesteps_never():
    sprint = tiny.transformer(hidden_size=288, qk_norm=True, guidance_embed=True)
    latent = randn(5, 2, 32, 3, 4)
    seen, hook = batch_sizes(sprint)
    with hook:
        found = make_denoiser(sprint, prompts(1, 9, 5), prompts(2, 4, 4), guidance_scale=3.0)(latent, SIGMA)
    velocity = sprint(latent, torch.tensor([1000 * SIGMA] * 2), *prompts(1, 9, 5), guidance=torch.tensor([3.0, 3.0]))
    torch.testing.assert_close(found, latent - SIGMA * velocity, atol=1e-5, rtol=0)
    assert seen == [2]


def test_bfloat16_model_float32_solver(transformer, latent):
    half = tiny.transformer(depth=2).to(torch.bfloat16)
    cond = tuple(part.to(torch.bfloat16) if part.is_floating_point() else part for part in prompts(1, 9))
    found = make_denoiser(half, cond, None, guidance_scale=1.0)(latent, SIGMA)
    expected = make_denoiser(transformer, prompts(1, 9), None, guidance_scale=1.0)(latent, SIGMA)
    assert found.dtype == torch.float32
    assert 0 < (found - expected).abs().max() < 0.2


def test_contexts_of_one_batch_are_padded_with_masked_zeros():
    states, mask = batch_contexts([prompts(1, 3), (prompts(2, 5, 2)[0], None)])
    assert states.shape == (3, 8, 96) and mask.dtype == torch.bool
    counting = [[1, 1, 1, 0, 0, 0, 0, 0], [1, 1, 1, 1, 1, 0, 0, 0], [1, 1, 0, 0, 0, 0, 0, 0]]
    counting[2] = [1, 1, 1, 1, 1, 0, 0, 0]
    assert mask.tolist() == counting and not states[0, 3:].any()


def test_prompts_that_fit_a_whole_number_of_times_need_no_mask(transformer, latent):
    long, short = prompts(1, 6)[0], prompts(2, 2)[0]
    states, mask = batch_contexts([(long, None), (short, None)])
    assert mask is None and states.shape == (2, 6, 96)
    time = torch.tensor([500.0])
    expected = [transformer(latent, time, text) for text in (long, short)]
    found = transformer(torch.cat([latent, latent]), time.repeat(2), states)
    torch.testing.assert_close(found, torch.cat(expected), rtol=1e-4, atol=1e-5)


def test_pictures_of_one_prompt_attend_to_it_together(transformer, latent):
    text = torch.cat([prompts(1, 6)[0], prompts(2, 6)[0]])
    four = torch.cat([latent, 2 * latent, 3 * latent, -latent])
    time = torch.tensor([500.0]).repeat(4)
    for mask in (None, torch.tensor([[True] * 6, [True] * 2 + [False] * 4])):
        rows = None if mask is None else mask.repeat_interleave(2, 0)
        expected = transformer(four, time, text.repeat_interleave(2, 0), rows)
        torch.testing.assert_close(transformer(four, time, text, mask), expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(InputError, match="2 prompts for 3 latents"):
        transformer(four[:3], time[:3], text)


def test_guidance_formula():
    cond, uncond = randn(1, 4), randn(2, 4)
    assert torch.equal(classifier_free_guidance(cond, uncond, 0.0), uncond)
    torch.testing.assert_close(classifier_free_guidance(cond, uncond, 1.0), cond)
    torch.testing.assert_close(classifier_free_guidance(cond, uncond, 3.0), 3 * cond - 2 * uncond)


# --- perturbed-attention guidance


@pytest.mark.parametrize("guidance", [4.5, 1.0])
@pytest.mark.parametrize("qk_norm", [False, True])
def test_pag_is_the_formula_on_three_predictions(latent, guidance, qk_norm):
    model = tiny.transformer(depth=2, qk_norm=qk_norm)
    cond, uncond = prompts(1, 9), prompts(2, 4)
    timestep = torch.tensor([float(int(1000 * SIGMA))])
    perturbed = model(latent, timestep, *cond, identity_attention=[1])
    velocity_cond, velocity_uncond = (model(latent, timestep, *prompt) for prompt in (cond, uncond))
    velocity = velocity_uncond + guidance * (velocity_cond - velocity_uncond) + 2.0 * (velocity_cond - perturbed)
    found = make_denoiser(model, cond, uncond, guidance_scale=guidance, pag_scale=2.0, pag_layers=[1])(latent, SIGMA)
    torch.testing.assert_close(found, latent - SIGMA * velocity, atol=ROUNDING, rtol=0)
    assert (velocity_cond - perturbed).abs().max() > 1e-2


def test_the_perturbed_prediction_is_a_forward_of_the_conditional_prompts_alone(transformer):
    seen, hook = batch_sizes(transformer)
    with hook:
        denoise = make_denoiser(
            transformer, prompts(1, 9, 5), prompts(2, 4, 4), guidance_scale=4.5, pag_scale=0.5, pag_layers=[0]
        )
        denoise(randn(5, 2, 32, 3, 4), SIGMA)
    assert seen == [4, 2]


def test_without_scale_there_is_no_perturbed_prediction(transformer, latent):
    seen, hook = batch_sizes(transformer)
    with hook:
        make_denoiser(transformer, prompts(1, 9), None, guidance_scale=1.0, pag_scale=0.0, pag_layers=[0])(
            latent, SIGMA
        )
        adaptive = {"pag_scale": 1.0, "pag_layers": [0], "pag_adaptive_scale": 0.01}  # 0 from timestep 900 on
        denoise = make_denoiser(transformer, prompts(1, 9), None, guidance_scale=1.0, **adaptive)
        denoise(latent, SIGMA)
        denoise(latent, 0.95)
    assert seen == [1, 1, 1, 1]


def test_adaptive_scale():
    found = [adaptive_scale(3.0, 0.005, timestep) for timestep in (1000.0, 900.0, 400.0, 100.0)]
    assert found == pytest.approx([3.0, 2.5, 0.0, 0.0]) and adaptive_scale(3.0, 0.0, 1.0) == 3.0


@pytest.mark.parametrize(("layers", "said"), [([2], "blocks 2"), ([0, -1, 9], "blocks -1, 9"), ([], "blocks none")])
def test_blocks_that_the_model_does_not_have(layers, said):
    with pytest.raises(InputError, match=f"{said}: this model has the blocks 0 to 1"):
        check_pag_layers(layers, 2)


def test_blocks_as_people_write_them():
    assert [block_numbers(text) for text in ("8", "8,9", " 8, 9 ,", "8 9")] == [[8], [8, 9], [8, 9], [8, 9]]
    assert check_pag_layers([9, 8, 9], 20) == (8, 9)
    for text in ("", "8-9", "-1", "x", "8;9"):
        with pytest.raises(InputError, match="does not name blocks"):
            block_numbers(text)
