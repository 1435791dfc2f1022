"""A step of a LoRA's training against diffusers' way: its transformer with PEFT's adapters, the noise levels of its
scheduler and the loss of its script `train_dreambooth_lora_sana.py`. The loss and every gradient agree.
"""

import pytest
import torch
from safetensors.torch import save_file

from sana_core.checkpoint.load import load_transformer
from sana_core.samplers.schedules import shifted
from sana_core.training.lora_layers import ATTENTION_QKV
from sana_core.training.objective import FlowBatch
from sana_core.training.trainees import LoraTrainee

diffusers = pytest.importorskip("diffusers", reason="diffusers' transformer is the reference these tests compare with")
peft = pytest.importorskip("peft", reason="PEFT's adapters are the reference these tests compare with")

NEAR = 1e-4
RANK, SHIFT = 4, 3.0
LENGTHS = (9, 5, 2, 7)  # tokens of the captions
NOISE_LEVELS = (20, 400, 731, 990)  # of the scheduler's thousand
MODELS = {"1.0": None, "1.5": "rms_norm_across_heads"}


@pytest.fixture(params=MODELS)
def models(request, tmp_path):
    """Ours with a LoRA that has learnt something, and diffusers' with the same."""
    torch.manual_seed(3)
    theirs = diffusers.SanaTransformer2DModel(
        num_attention_heads=7, attention_head_dim=32, num_cross_attention_heads=2, cross_attention_head_dim=112,
        cross_attention_dim=224, caption_channels=96, num_layers=2, sample_size=32, qk_norm=MODELS[request.param],
    ).eval()  # fmt: skip
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    save_file(theirs.state_dict(), tmp_path / "model.safetensors")
    trainee = LoraTrainee(
        load_transformer(tmp_path / "model.safetensors", dtype=torch.float32), rank=RANK, targets=ATTENTION_QKV
    )
    with torch.no_grad():
        for parameter in trainee.trained.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    theirs.requires_grad_(False)
    theirs.add_adapter(peft.LoraConfig(r=RANK, lora_alpha=RANK, target_modules=list(ATTENTION_QKV)))
    own = learning(trainee)
    learned = {name.replace(".default", ""): p for name, p in theirs.named_parameters() if p.requires_grad}
    assert learned.keys() == own.keys()
    with torch.no_grad():
        for name, parameter in learned.items():
            parameter.copy_(own[name])
    return trainee, theirs, learned


def learning(trainee):
    """By PEFT's names."""
    return {
        f"{name}.{key}": parameter
        for name, adapter in trainee.trained.by_name.items()
        for key, parameter in adapter.named_parameters()
    }


def theirs_loss(transformer, model_input, noise, states, mask):
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=SHIFT)
    timesteps = scheduler.timesteps[list(NOISE_LEVELS)]
    sigmas = scheduler.sigmas[list(NOISE_LEVELS)]
    torch.testing.assert_close(timesteps, 1000 * sigmas)
    levels = sigmas[:, None, None, None]
    found = transformer(
        hidden_states=(1.0 - levels) * model_input + levels * noise, encoder_hidden_states=states,
        encoder_attention_mask=mask, timestep=timesteps, return_dict=False,
    )[0]  # fmt: skip
    target = noise - model_input
    return ((found.float() - target.float()) ** 2).reshape(len(target), -1).mean(1).mean()


@pytest.mark.parametrize("at_once", [4, 1])
def test_loss_and_gradients(models, at_once):
    trainee, theirs, learned = models
    latents, noise, states = torch.randn(4, 32, 6, 10), torch.randn(4, 32, 6, 10), torch.randn(4, max(LENGTHS), 96)
    mask = torch.arange(max(LENGTHS)) < torch.tensor(LENGTHS)[:, None]
    expected = theirs_loss(theirs, latents, noise, states, mask.long())
    expected.backward()
    time = shifted(1 - torch.tensor(NOISE_LEVELS) / 1000, SHIFT)
    batch = FlowBatch(latents=latents, noise=noise, time=time, states=states, mask=mask, weights=torch.ones(4))
    pieces = batch.split(at_once)
    losses = [trainee.objective(piece) / len(pieces) for piece in pieces]
    sum(losses).backward()
    assert sum(losses).item() == pytest.approx(expected.item(), rel=NEAR)
    for name, parameter in learning(trainee).items():
        wanted = learned[name].grad
        assert (parameter.grad - wanted).norm() <= NEAR * wanted.norm() > 0, name
