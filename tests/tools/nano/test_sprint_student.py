"""The student that a distillation into Sprint begins with: the architecture, and how near it is to its teacher."""

import pytest
import tiny
import torch

from tools.nano.sprint_student import projection_lengths, sprint_student

TIMES = torch.tensor([50.0, 200.0, 400.0, 600.0, 800.0, 990.0])


def noise(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


LATENTS, CONTEXT = noise(6, 32, 2, 2), noise(6, 3, 96, seed=1)


def velocity(model, **inputs):
    with torch.no_grad():
        return model(LATENTS, TIMES, CONTEXT, **inputs)


@pytest.fixture(scope="module")
def teacher():
    """Its time embedding changes slowly, as a trained one does: fast sinusoids have little weight."""
    model = tiny.transformer(depth=2)
    embedder = model.get_submodule("time_embed.emb.timestep_embedder")
    with torch.no_grad():
        fast = torch.arange(embedder.linear_1.in_features) % 128 < 80
        embedder.linear_1.weight[:, fast] *= 0.02
    return model


@pytest.fixture(scope="module")
def student(teacher):
    return sprint_student(teacher, 0, lambda: velocity(teacher))


def test_it_is_sprint_with_the_weights_of_the_teacher(teacher, student):
    assert student.config.qk_norm and student.config.guidance_embed and student.config.timestep_scale == 0.001
    inherited = student.state_dict()
    for key, tensor in teacher.state_dict().items():
        if "timestep_embedder" not in key:
            assert torch.equal(inherited[key], tensor), key


@pytest.mark.slow
def test_it_draws_what_the_teacher_draws(teacher, student):
    expected, plain = velocity(teacher), sprint_student(teacher, 0, lambda: None)
    plain.time_embed.load_state_dict(student.time_embed.state_dict())
    error = (velocity(student, guidance=torch.full((6,), 3.0)) - expected).square().mean() / expected.var()
    without_lengths = (velocity(plain, guidance=torch.full((6,), 3.0)) - expected).square().mean() / expected.var()
    assert error < 0.05 and error < 0.5 * without_lengths


def test_the_time_embedding_is_learned(teacher, student):
    time = torch.linspace(0, 1, 100)
    with torch.no_grad():
        wanted = teacher.get_submodule("time_embed.emb.timestep_embedder")(1000 * time, torch.float32)
        found = student.get_submodule("time_embed.timestep_embedder")(time, torch.float32)
    assert (found - wanted).square().mean() < 0.05 * wanted.var(dim=0).mean()


def test_the_guidance_scale_adds_nothing_yet(student):
    drawn = [velocity(student, guidance=torch.full((6,), scale)) for scale in (2.0, 5.0)]
    torch.testing.assert_close(drawn[0], drawn[1])


def test_lengths_are_those_of_queries_and_keys(teacher):
    seen = []
    handle = teacher.blocks[1].attn2.to_k.register_forward_hook(lambda module, given, found: seen.append(found))
    lengths = projection_lengths(teacher, lambda: velocity(teacher))
    handle.remove()
    assert len(lengths) == 2 * 2 * 2 and all("to_q" in name or "to_k" in name for name in lengths)
    expected = seen[0].square().mean(dim=-1).sqrt().mean().item()
    assert lengths["transformer_blocks.1.attn2.to_k"] == pytest.approx(expected)
    assert not teacher.blocks[1].attn2.to_k._forward_hooks  # nothing is measured after it
