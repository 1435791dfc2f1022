"""Trained LoRAs: without effect at first, and the same in their file as in training."""

import pytest
import tiny
import torch
from safetensors.torch import save_file

from sana_core.errors import InputError
from sana_core.lora import apply_lora, load_lora
from sana_core.training.lora_layers import attach_lora

LATENT = torch.randn(1, 32, 2, 2, generator=torch.Generator().manual_seed(0))
CONTEXT = torch.randn(1, 3, 96, generator=torch.Generator().manual_seed(1))
TIME = torch.tensor([400.0])


def test_it_begins_without_effect_and_only_it_learns():
    base, model = tiny.transformer(), tiny.transformer()
    lora = attach_lora(model, rank=4, seed=0)
    torch.testing.assert_close(model(LATENT, TIME, CONTEXT), base(LATENT, TIME, CONTEXT))
    model(LATENT, TIME, CONTEXT).square().mean().backward()
    learning = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert learning and all("lora_" in name for name in learning)
    assert len(lora.names) == 16  # q, k, v, out of two attentions in two blocks


def test_the_file_does_what_the_training_did(tmp_path):
    model, other = tiny.transformer(), tiny.transformer()
    lora = attach_lora(model, rank=4, seed=0)
    tiny.randomized(lora, 1)
    save_file({key: tensor.contiguous() for key, tensor in lora.tensors().items()}, tmp_path / "lora.safetensors")
    report = apply_lora(other, load_lora(tmp_path / "lora.safetensors"))
    assert len(report.matched) == 16 and not report.unmatched
    trained = model(LATENT, TIME, CONTEXT)
    torch.testing.assert_close(other(LATENT, TIME, CONTEXT), trained, atol=2e-5, rtol=1e-4)
    assert (trained - tiny.transformer()(LATENT, TIME, CONTEXT)).abs().max() > 1e-2


def test_the_keys_are_those_of_diffusers():
    lora = attach_lora(tiny.transformer(depth=1), rank=2, seed=0)
    shapes = {key: tuple(tensor.shape) for key, tensor in lora.tensors().items()}
    assert shapes["transformer.transformer_blocks.0.attn1.to_q.lora_A.weight"] == (2, 224)
    assert shapes["transformer.transformer_blocks.0.attn2.to_out.0.lora_B.weight"] == (224, 2)


def test_layers_that_are_not_there_are_an_error():
    with pytest.raises(InputError, match="no linear layer"):
        attach_lora(tiny.transformer(), rank=2, seed=0, targets=("to_query",))
