"""LoRAs trained on quantised networks: the gradients of the numbers, which are not kept for them."""

import pytest
import quantised_files
import tiny
import torch

from sana_core.checkpoint.load import load_transformer
from sana_core.lora import apply_lora, load_lora
from sana_core.quantised.layers import QuantisedLinear
from sana_core.quantiser.policy import FORMATS
from sana_core.training.lora_file import save_lora
from sana_core.training.lora_layers import ATTENTION, FEED_FORWARD, attach_lora

LATENT = torch.randn(1, 32, 2, 3, generator=torch.Generator().manual_seed(0))
CONTEXT = torch.randn(1, 4, quantised_files.TEXT_WIDTH, generator=torch.Generator().manual_seed(1))
TIME = torch.tensor([400.0])
ALL = (*ATTENTION, *FEED_FORWARD)
SLOW = ("w4a8", "w4a4")  # to be made
FORMS = [pytest.param(form, marks=[pytest.mark.slow] * (form in SLOW)) for form in (*FORMATS, *quantised_files.RAW)]


def loaded(form):
    return load_transformer(quantised_files.quantised(form), dtype=torch.float32)


def rounded(form):
    """The same numbers as plain weights."""
    network = quantised_files.network()
    network.load_state_dict(
        {
            key: tensor.reshape(network.state_dict()[key].shape)
            for key, tensor in quantised_files.numbers(quantised_files.quantised(form)).items()
        }
    )
    return network


def quantised_layers(network):
    return {name: layer for name, layer in network.named_modules() if isinstance(layer, QuantisedLinear)}


@pytest.mark.parametrize("form", FORMS)
def test_the_gradient_of_a_layer_is_that_of_its_numbers(form):
    layers = quantised_layers(loaded(form))
    assert layers
    for layer in layers.values():
        x = torch.randn(3, layer.quantised.shape[1], requires_grad=True)
        y = layer(x)
        direction = torch.randn_like(y)
        (found,) = torch.autograd.grad(y, x, direction)
        torch.testing.assert_close(found, direction @ layer.quantised.numbers(torch.float32), atol=1e-5, rtol=1e-5)
        with torch.no_grad():
            torch.testing.assert_close(y, layer(x), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dora", [False, True], ids=["LoRA", "DoRA"])
@pytest.mark.parametrize("form", ["int8", "nvfp4", "gguf-q4_0"])
def test_the_gradients_of_adapters_are_those_on_the_numbers(form, dora):
    grads, network = [], loaded(form)
    packed = [part for layer in quantised_layers(network).values() for part in layer.quantised.parts.values()]
    before = [part.clone() for part in packed]
    for model in (network, rounded(form)):
        lora = attach_lora(model, rank=2, alpha=3, seed=0, targets=ALL, dora=dora)
        tiny.randomized(lora.adapters).requires_grad_(True)
        model(LATENT, TIME, CONTEXT).square().mean().backward()
        grads.append([parameter.grad for parameter in lora.parameters()])
    for found, expected in zip(*grads):
        assert (found - expected).norm() < 1e-4 * expected.norm() > 0
    assert all(map(torch.equal, packed, before))


def saved(network, layers):
    """Run a network; what is kept for its gradients in the shape of a layer's weight."""
    shapes = {tuple(layer.quantised.shape) for layer in layers}
    kept = []

    def pack(tensor):
        if tuple(tensor.shape) in shapes or tuple(tensor.shape[::-1]) in shapes:
            kept.append(tuple(tensor.shape))
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        network()
    return kept


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("dora", [False, True])
def test_no_numbers_of_weights_are_kept_for_the_gradients(dora, autocast):
    network = loaded("int8")
    layers = quantised_layers(network).values()
    attach_lora(network, rank=2, seed=0, dora=dora, targets=ALL)

    def run():
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            network(LATENT, TIME, CONTEXT)

    assert len(layers) >= 8 and saved(run, layers) == []
    plain = rounded("int8")
    attach_lora(plain, rank=2, seed=0, targets=ALL)
    assert len(saved(lambda: plain(LATENT, TIME, CONTEXT), layers)) >= 4  # a Linear layer keeps its weight


def test_a_layer_keeps_nothing_and_its_result_has_the_type_of_autocast():
    layer = next(
        layer for layer in loaded("int8").modules() if isinstance(layer, QuantisedLinear) and layer.bias is not None
    )
    x = torch.randn(5, layer.quantised.shape[1], requires_grad=True)
    sizes = []
    hooks = torch.autograd.graph.saved_tensors_hooks(lambda t: sizes.append(t.nbytes) or t, lambda t: t)
    with hooks, torch.autocast("cpu", torch.bfloat16):
        y = layer(x)
    assert y.dtype == torch.bfloat16 and sum(sizes) == 0
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(y, layer(x), atol=0.02, rtol=0.02)
    y.sum().backward()
    numbers = layer.quantised.numbers(torch.float32)
    torch.testing.assert_close(x.grad, numbers.sum(0).expand_as(x), atol=0.2, rtol=0.02)


def test_a_lora_of_a_quantised_network_fits_the_plain_one(tmp_path):
    network, plain = loaded("int8"), rounded("int8")
    with attach_lora(network, rank=2, alpha=3, seed=0, targets=ALL, dora=True) as lora, torch.no_grad():
        for adapter in lora.by_name.values():
            adapter.lora_B.weight.normal_(std=0.05)
        trained = network(LATENT, TIME, CONTEXT)
        save_lora(tmp_path / "lora.safetensors", lora, base="SANA")
    apply_lora(plain, load_lora(tmp_path / "lora.safetensors"))
    torch.testing.assert_close(plain(LATENT, TIME, CONTEXT), trained, atol=1e-4, rtol=1e-4)
