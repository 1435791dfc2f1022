"""ComfyUI's conditioning nodes on SANA, on a real server, against sana_core's predictions put together by hand."""

import pytest
import torch
import torch.nn.functional as F
from agreement import assert_agree, error
from e2e.expected import Core, shifted
from e2e.graphs import latents

TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def core(server):
    return Core(server)


@pytest.fixture(scope="module")
def usual(core):
    return core.ksampler()


@pytest.fixture(scope="module")
def alone(core):
    """`denoise(x, sigma)` of the positive and of the negative prompt without guidance."""
    return core.predict(core.positive, cfg=1.0), core.predict(core.negative, cfg=1.0)


def assert_run(server, usual, build, expected):
    """The graph gives what is expected, which is not what it gives without the node in question."""
    assert_agree(latents(server, build), expected, TOLERANCE)
    assert error(expected, usual) > 1e-2


def test_concat_puts_the_tokens_of_one_behind_the_other(server, core, usual):
    def build(parts):
        links = {"conditioning_to": parts.positive, "conditioning_from": parts.negative}
        return parts.sample(positive=parts.g.add("ConditioningConcat", **links))

    both = tuple(torch.cat(pair, dim=1) for pair in zip(core.positive, core.negative))
    assert_run(server, usual, build, core.ksampler(positive=both))


def test_average_is_between_the_states(server, core, usual):
    """Of as many tokens as the first has."""

    def build(parts):
        links = {"conditioning_to": parts.positive, "conditioning_from": parts.negative}
        return parts.sample(positive=parts.g.add("ConditioningAverage", **links, conditioning_to_strength=0.25))

    states, mask = core.positive
    length = states.shape[1]
    other = F.pad(core.negative[0], (0, 0, 0, max(0, length - core.negative[0].shape[1])))[:, :length]
    assert_run(server, usual, build, core.ksampler(positive=(0.25 * states + 0.75 * other, mask)))


def test_zero_out(server, core, usual):
    def build(parts):
        return parts.sample(negative=parts.g.add("ConditioningZeroOut", conditioning=parts.positive))

    states, mask = core.positive
    assert_run(server, usual, build, core.ksampler(negative=(torch.zeros_like(states), mask)))


def test_a_range_of_timesteps(server, core, usual, alone):
    def build(parts):
        set_range, combine = "ConditioningSetTimestepRange", "ConditioningCombine"
        early = parts.g.add(set_range, conditioning=parts.positive, start=0.0, end=0.5)
        late = parts.g.add(set_range, conditioning=parts.negative, start=0.5, end=1.0)
        return parts.sample(positive=parts.g.add(combine, conditioning_1=early, conditioning_2=late))

    middle = shifted(0.5, core.shift())
    predict = core.guided(lambda x, sigma: alone[sigma < middle](x, sigma))
    assert_run(server, usual, build, core.ksampler(predict=predict))


# --- conditionings of a part of the picture: 3 x 4 latent cells


def combined(parts, second):
    return parts.g.add("ConditioningCombine", conditioning_1=parts.positive, conditioning_2=second)


def test_combine_is_the_mean_of_the_predictions(server, core, usual, alone):
    def build(parts):
        return parts.sample(positive=combined(parts, parts.negative))

    predict = core.guided(lambda x, sigma: (alone[0](x, sigma) + alone[1](x, sigma)) / 2)
    assert_run(server, usual, build, core.ksampler(predict=predict))


def test_a_mask_weighs_the_predictions(server, core, usual, alone):
    """Of the left half: the transparent part of the input picture."""

    def build(parts):
        settings = {"mask": parts.image()[1], "strength": 0.5, "set_cond_area": "default"}
        masked = parts.g.add("ConditioningSetMask", conditioning=parts.negative, **settings)
        return parts.sample(positive=combined(parts, masked))

    weight = 0.5 * torch.tensor([1.0, 1.0, 0.0, 0.0])
    predict = core.guided(lambda x, sigma: (alone[0](x, sigma) + weight * alone[1](x, sigma)) / (1.0 + weight))
    assert_run(server, usual, build, core.ksampler(predict=predict))


def test_an_area_is_predicted_by_itself(server, core, usual, alone):
    """Of the left half: the model is shown nothing but it. The host gives the negative prompt the same area, too."""

    def build(parts):
        half = {"width": 0.5, "height": 1.0, "x": 0.0, "y": 0.0, "strength": 1.0}
        area = parts.g.add("ConditioningSetAreaPercentage", conditioning=parts.negative, **half)
        return parts.sample(positive=combined(parts, area))

    def conditional(x, sigma):
        predicted = alone[0](x, sigma)
        predicted[..., :2] = (predicted[..., :2] + alone[1](x[..., :2], sigma)) / 2
        return predicted

    def unconditional(x, sigma):
        predicted = alone[1](x, sigma)
        predicted[..., :2] = (predicted[..., :2] + alone[1](x[..., :2], sigma)) / 2
        return predicted

    assert_run(server, usual, build, core.ksampler(predict=core.guided(conditional, unconditional)))


def test_outside_an_area_alone_nothing_is_predicted(server, core, alone):
    """Of eight by eight cells in the first corner: the host takes a cell for 8 x 8 pixels, SANA's are of 32 x 32. Where
    two predictions meet, the host lets the area fade out.
    """

    def build(parts):
        corner = {"width": 64, "height": 64, "x": 0, "y": 0, "strength": 1.0}
        positive = parts.g.add("ConditioningSetArea", conditioning=parts.positive, **corner)
        return parts.sample(positive=positive, latent_image=parts.empty(512, 384))

    fading = torch.tensor([1.0] * 7 + [0.5])
    weight, corner = fading * fading[:, None], (..., slice(0, 8), slice(0, 8))

    def conditional(x, sigma):
        predicted = torch.zeros_like(x)
        predicted[corner] = alone[0](x[corner], sigma)
        return predicted

    def unconditional(x, sigma):
        predicted = alone[1](x, sigma)
        predicted[corner] = (predicted[corner] + weight * alone[1](x[corner], sigma)) / (1.0 + weight)
        return predicted

    start = torch.zeros(1, 32, 12, 16)
    expected = core.ksampler(start=start, predict=core.guided(conditional, unconditional))
    assert_run(server, core.ksampler(start=start), build, expected)


def test_a_guidance_scale_is_for_sprint_alone(server, usual):
    def build(parts):
        return parts.sample(positive=parts.g.add("FluxGuidance", conditioning=parts.positive, guidance=2.0))

    assert_agree(latents(server, build), usual, TOLERANCE)
