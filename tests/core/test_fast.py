"""The switch of the fast paths: what they are, that they change no picture, and that they stay off where they must."""

import copy

import pytest
import tiny
import torch
from recorder import Recorder
from torch._dynamo.testing import CompileCounterWithBackend

from sana_core.errors import InputError
from sana_core.fast import fast_paths, make_fast, use_kernels
from sana_core.kernels import choice
from sana_core.kernels.choice import CHOSEN, PLAIN, Operation, kernels_for, relative_error
from sana_core.pipeline import load_pipeline
from sana_core.samplers.denoiser import make_denoiser
from sana_core.training.lora_layers import attach_lora
from sana_core.transformer.replay import EAGER_CALLS, Replay, is_heard

CPU = torch.device("cpu")
LATENT = torch.randn(2, 32, 4, 6, generator=torch.Generator().manual_seed(1))
CONTEXT = torch.randn(2, 7, 96, generator=torch.Generator().manual_seed(2))
TIME = torch.tensor([999.0, 250.5])


# --- the switch


def test_every_layer_of_a_network_changes_over():
    network = tiny.transformer()
    use_kernels(network, PLAIN)
    layers = [layer for layer in network.modules() if "kernels" in vars(layer)]
    assert len(layers) == 1 + 2 * network.config.depth and all(layer.kernels is PLAIN for layer in layers)
    assert all(layer.kit.kernels is PLAIN for layer in network.modules() if "kit" in vars(layer))
    assert kernels_for("off") is PLAIN and kernels_for("auto") is kernels_for("max") is CHOSEN


def test_unknown_words():
    with pytest.raises(InputError, match='fast="quick", expected one of auto, off, max'):
        kernels_for("quick")
    with pytest.raises(InputError, match="fast"):
        load_pipeline(fast="quick")


@pytest.mark.parametrize("fast", ["off", "auto"])
def test_the_embedded_model_draws_the_same(fast):
    expected = load_pipeline("nano-sprint")("a red apple", seed=1, output="latent")
    assert torch.equal(load_pipeline("nano-sprint", fast=fast)("a red apple", seed=1, output="latent"), expected)


def test_the_report_says_why():
    assert fast_paths("off", CPU) == ["all fast paths are off"]
    lines = fast_paths("auto", CPU)
    assert lines == [
        "Triton kernels: off, they need an NVIDIA GPU",
        "CUDA graphs: off, they need an NVIDIA GPU",
        "compiled blocks: off, they need fast=max",
    ]
    assert fast_paths("max", CPU)[-1] == "compiled blocks: on"


def test_a_recording_is_not_promised_to_models_of_few_steps(monkeypatch):
    monkeypatch.setattr("sana_core.transformer.replay.obstacle", lambda device: None)
    assert fast_paths("auto", CPU)[1].startswith("CUDA graphs: on")
    assert fast_paths("auto", CPU, few_steps=True)[1] == "CUDA graphs: off, the model draws in a few steps"
    assert "move" in fast_paths("auto", CPU, stays=False, few_steps=True)[1]


def test_the_log_of_a_pipeline_says_what_was_asked_for(caplog):
    with caplog.at_level("INFO", "sana"):
        load_pipeline("nano-sprint")
        assert "compiled blocks" not in caplog.text
        load_pipeline("nano-sprint", fast="max")
    assert "compiled blocks: on" in caplog.text


def test_blocks_run_uncompiled_where_nothing_can_be_compiled(monkeypatch, caplog):
    def no_compiler(*_):
        raise OSError("no C++ compiler")

    model = tiny.transformer()
    expected = model(LATENT, TIME, CONTEXT)
    torch._dynamo.reset()
    model.compile_blocks(backend=no_compiler)
    for _ in range(2):
        assert torch.equal(model(LATENT, TIME, CONTEXT), expected)
    assert caplog.text.count("the blocks are not compiled") == 1 and "no C++ compiler" in caplog.text


# --- one product for q, k and v


@pytest.mark.parametrize("qk_norm", [False, True])
def test_joined_projections(qk_norm):
    model = tiny.transformer(qk_norm=qk_norm).requires_grad_(False)
    expected, weights = model(LATENT, TIME, CONTEXT), copy.deepcopy(model.state_dict())
    model.join_projections()
    torch.testing.assert_close(model(LATENT, TIME, CONTEXT), expected, rtol=1e-5, atol=1e-6)
    assert all(torch.equal(tensor, weights[key]) for key, tensor in model.state_dict().items())
    attention = model.blocks[0].attn1
    assert attention.to_k.weight.data_ptr() == attention.joined[224:].data_ptr()
    attention.to_v.weight.mul_(2.0)
    twice = model(LATENT, TIME, CONTEXT)
    model.blocks[0].attn1.joined = None
    torch.testing.assert_close(model(LATENT, TIME, CONTEXT), twice, rtol=1e-5, atol=1e-6)
    assert not torch.allclose(twice, expected)


def replaced(layer):
    layer.weight = torch.nn.Parameter(2 * layer.weight, requires_grad=False)


def other_data(layer):
    layer.weight.data = 2 * layer.weight


def hooked(layer):
    layer.register_forward_hook(lambda _, given, found: 2 * found)


def other_forward(layer):
    forward = layer.forward
    layer.forward = lambda x: 2 * forward(x)


def other_class(layer):
    class Doubled(torch.nn.Linear):
        def forward(self, x):
            return 2 * super().forward(x)

    layer.__class__ = Doubled


@pytest.mark.parametrize("change", [replaced, other_data, hooked, other_forward, other_class])
@pytest.mark.parametrize("name", ["to_q", "to_k", "to_v"])
def test_a_changed_projection_is_heard(change, name):
    models = [tiny.transformer().requires_grad_(False) for _ in range(2)]
    models[0].join_projections()
    plain = models[0](LATENT, TIME, CONTEXT)
    for model in models:
        change(getattr(model.blocks[0].attn1, name))
    found, expected = (model(LATENT, TIME, CONTEXT) for model in models)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    assert (name == "to_v") != torch.allclose(found, plain)  # linear attention divides by the length of q and k


def test_moved_and_trained_models():
    model = tiny.transformer()
    model.join_projections()
    moved = copy.deepcopy(model).double()
    assert moved(LATENT.double(), TIME, CONTEXT.double()).dtype == torch.float64
    model.requires_grad_(True)(LATENT, TIME, CONTEXT).sum().backward()
    assert model.blocks[0].attn1.to_k.weight.grad.abs().max() > 0
    model = tiny.transformer().requires_grad_(False)
    model.join_projections()
    adapters = attach_lora(model, rank=2, seed=0)
    model(LATENT, TIME, CONTEXT).sum().backward()
    assert all(parameter.grad is not None for parameter in adapters.parameters())


# --- compiled blocks


@pytest.mark.slow
def test_all_blocks_sizes_and_lengths_share_a_few_graphs():
    torch._dynamo.reset()
    counter, model = CompileCounterWithBackend("eager"), tiny.transformer(depth=4).requires_grad_(False)
    expected = tiny.transformer(depth=4)
    choice.prepare(CPU)
    model.compile_blocks(backend=counter)
    for height, width, length, masked in [(4, 6, 7, False), (8, 6, 9, False), (10, 12, 30, True), (5, 7, 12, True)]:
        generator = torch.Generator().manual_seed(length)
        latent = torch.randn(2, 32, height, width, generator=generator)
        states = torch.randn(2, length, 96, generator=generator)
        mask = torch.tensor([[True] * length, [True] * 3 + [False] * (length - 3)]) if masked else None
        with torch.no_grad():
            caption = model.caption(states, mask, remember=True)
            found = [model(latent, TIME, caption) for _ in range(2)]
        torch.testing.assert_close(found[0], expected(latent, TIME, states, mask), rtol=1e-4, atol=1e-5)
        assert torch.equal(*found)
    assert counter.frame_count == 4  # the first block and the others, with and without a mask
    twin = copy.deepcopy(model)
    twin.blocks[0].attn2.to_v.weight.mul_(2.0)
    assert torch.equal(model(latent, TIME, states, mask), found[0])
    assert not torch.allclose(twin(latent, TIME, states, mask), found[0])


# --- replayed predictions


@pytest.fixture
def working():
    yield
    Replay.off = None


def run(model, predict, steps=6, **add_ons):
    prompts = [(CONTEXT[row : row + 1], None) for row in range(2)]
    denoise = make_denoiser(model, *prompts, guidance_scale=4.5, predict=predict, **add_ons)
    with torch.no_grad():
        return [denoise(LATENT[:1] * (1 + step), 0.9 - 0.1 * step) for step in range(steps)]


@pytest.mark.parametrize("add_ons", [{}, {"pag_scale": 2.0, "pag_layers": (1,)}])
@pytest.mark.parametrize("changes", [{}, {"qk_norm": True, "guidance_embed": True}])
def test_a_replayed_run(working, changes, add_ons):
    model, recorder = tiny.transformer(**changes), Recorder()
    found = run(model, Replay(model, recorder), **add_ons)
    assert all(torch.equal(a, b) for a, b in zip(found, run(model, None, **add_ons)))
    kinds = 1 + bool(add_ons)
    assert recorder.recorded == kinds and recorder.replayed == kinds * (6 - EAGER_CALLS)


def test_few_steps_are_not_recorded(working):
    model, recorder = tiny.transformer(), Recorder()
    run(model, Replay(model, recorder), steps=EAGER_CALLS)
    assert recorder.recorded == 0


def test_large_pictures_and_controlnets_are_not_recorded(working):
    model, recorder = tiny.transformer(depth=1), Recorder()
    predict, caption = Replay(model, recorder), model.caption(CONTEXT[:1], remember=True)
    with torch.no_grad():
        for _ in range(EAGER_CALLS + 2):
            predict(torch.randn(1, 32, 32, 33), TIME[:1], caption)
            predict(LATENT[:1], TIME[:1], model.caption(CONTEXT[:1]))
    assert recorder.recorded == 0


def test_a_replay_that_differs_is_not_used(working, caplog):
    model, recorder = tiny.transformer(), Recorder(factor=1.01)
    found = run(model, Replay(model, recorder))
    assert all(torch.equal(a, b) for a, b in zip(found, run(model, None)))
    assert recorder.replayed == 1 and len(caplog.messages) == 1
    assert "not replayed as CUDA graphs: a replay is 0.01 off" in caplog.text and "0.01 off" in Replay.off
    run(model, Replay(model, recorder))
    assert recorder.recorded == 1


def test_a_recording_that_fails(working, caplog):
    def fails(function, device):
        raise RuntimeError("operation not permitted when stream is capturing")

    model = tiny.transformer()
    found = run(model, Replay(model, fails))
    assert all(torch.equal(a, b) for a, b in zip(found, run(model, None)))
    assert "not permitted" in caplog.text


def test_a_shortage_of_memory_ends_recordings_of_one_run_alone(working, caplog):
    def fails(function, device):
        try:
            raise torch.OutOfMemoryError("CUDA out of memory")
        finally:
            raise RuntimeError("the capture was not ended")  # what leaving a capture says of any error in it

    model, recorder = tiny.transformer(), Recorder()
    found = run(model, Replay(model, fails))
    assert all(torch.equal(a, b) for a, b in zip(found, run(model, None)))
    assert len(caplog.messages) == 1 and "there is not enough memory" in caplog.text and Replay.off is None
    run(model, Replay(model, recorder))
    assert recorder.recorded == 1


# --- the choice of a kernel


def operation(kernel, monkeypatch):
    def double(x, *, by=2.0):
        return x * by

    made = Operation(double)
    monkeypatch.setattr(Operation, "kernel", property(lambda self: kernel))
    monkeypatch.setattr(choice, "obstacle", lambda device: None)
    return made


def test_a_kernel_is_compared_once_for_each_shape(monkeypatch):
    calls = []

    def kernel(x, *, by=2.0):
        calls.append(x.shape)
        return x * by * (1 + 1e-6)

    double = operation(kernel, monkeypatch)
    x = torch.ones(3)
    first, second = double(x), double(x)
    assert torch.equal(first, 2 * x) and torch.equal(second, 2 * x * (1 + 1e-6))  # the first result is the plain one
    assert torch.equal(double(torch.ones(4)), 2 * torch.ones(4))
    assert len(calls) == 3 and double.off is None
    assert torch.equal(double(x.double()), 2 * x.double()) and len(calls) == 3  # no kernel in float64


@pytest.mark.parametrize("result", [lambda x: x * 2.01, lambda x: x * float("nan")])
def test_a_kernel_that_disagrees_is_switched_off(monkeypatch, caplog, result):
    double = operation(result, monkeypatch)
    x = torch.ones(3)
    assert torch.equal(double(x), 2 * x) and torch.equal(double(x), 2 * x)
    assert len(caplog.messages) == 1 and "the Triton kernel double is not used" in caplog.text
    assert copy.deepcopy(double) is double


def test_a_kernel_that_fails_is_switched_off(monkeypatch, caplog):
    def kernel(x):
        raise RuntimeError("no C compiler was found")

    double = operation(kernel, monkeypatch)
    assert torch.equal(double(torch.ones(3)), 2 * torch.ones(3)) and "no C compiler" in caplog.text


@pytest.mark.parametrize("said", [MemoryError(), RuntimeError("Triton Error [CUDA]: out of memory")])
def test_a_shortage_of_memory_says_nothing_of_a_kernel(monkeypatch, said):
    def kernel(x):
        raise said

    double = operation(kernel, monkeypatch)
    with pytest.raises(type(said)):
        double(torch.ones(3))
    assert double.off is None


@pytest.mark.parametrize("stays", [True, False])
def test_projections_are_joined_where_weights_stay(stays):
    model = tiny.transformer()
    make_fast(model, fast="auto", device=torch.device("cuda"), stays=stays)
    assert (model.blocks[0].attn1.joined is not None) == stays


# --- where a fast path would be wrong


def test_a_recording_of_nothing_is_not_used(working, caplog):
    """As a graph on a stream of another GPU would be: the replay leaves the result as it is."""
    model = tiny.transformer()
    found = run(model, Replay(model, lambda function, device: ((lambda: None), function())))
    assert all(torch.equal(a, b) for a, b in zip(found, run(model, None))) and "inf off" in caplog.text


def test_large_batches_are_not_recorded(working):
    model, recorder = tiny.transformer(depth=1), Recorder()
    predict, caption = Replay(model, recorder), model.caption(CONTEXT[:1], remember=True)
    with torch.no_grad():
        for _ in range(EAGER_CALLS + 2):
            predict(torch.randn(9, 32, 32, 32), TIME[:1].repeat(9), caption)
    assert recorder.recorded == 0


def test_networks_with_hooks_are_heard():
    model = tiny.transformer()
    assert not is_heard(model)
    handle = model.blocks[1].ff.register_forward_hook(lambda *_: None)
    assert is_heard(model)
    handle.remove()
    model.blocks[0].ff.conv_depth._conv_forward = lambda *_: None
    assert is_heard(model)


@pytest.mark.parametrize("dim", [1, -1])
def test_kernels_get_channels_side_by_side_alone(monkeypatch, dim):
    def plain(x):
        return 2 * x

    made, calls = Operation(plain), []
    monkeypatch.setattr(Operation, "kernel", property(lambda self: lambda x: calls.append(1) or 2 * x))
    monkeypatch.setattr(choice, "obstacle", lambda device: None)
    monkeypatch.setattr(choice, "ON_MAPS", (plain,) if dim == 1 else ())
    shape = (2, 5, 3, 4)
    right = torch.ones(shape).to(memory_format=torch.channels_last) if dim == 1 else torch.ones(shape)
    wrong = torch.ones(shape) if dim == 1 else torch.ones(shape).transpose(-1, -2)
    made(wrong)
    assert not calls
    made(right)
    assert len(calls) == 1


def test_results_that_are_not_finite():
    nan, x = torch.tensor([1.0, float("nan"), 3.0]), torch.tensor([1.0, 2.0, 3.0])
    assert relative_error(nan, nan) == 0.0 and relative_error(nan, x) == relative_error(x, nan) == float("inf")
    assert relative_error(x * 1.01, x) == pytest.approx(0.01, rel=1e-3)


def circular(layer):
    layer.padding_mode, layer._reversed_padding_repeated_twice = "circular", (1, 1, 1, 1)


def replaced_convolution(layer):
    layer._conv_forward = lambda x, weight, bias: torch.zeros_like(x)


@pytest.mark.parametrize("change", [circular, replaced_convolution])
def test_changed_convolutions_are_heard(change):
    """By nodes that make seamless textures, for example."""
    model = tiny.transformer()
    plain = model(LATENT, TIME, CONTEXT)
    change(model.blocks[0].ff.conv_depth)
    assert not torch.allclose(model(LATENT, TIME, CONTEXT), plain)
    autoencoder, latent = tiny.autoencoder(), LATENT[:1]
    picture = autoencoder.decode(latent)
    for layer in autoencoder.modules():
        if isinstance(layer, torch.nn.Conv2d) and layer.kernel_size == (3, 3) and layer.in_channels > 64:
            circular(layer)
    assert not torch.allclose(autoencoder.decode(latent), picture)


def test_compiled_blocks_see_replaced_weights():
    torch._dynamo.reset()
    models = [tiny.transformer().requires_grad_(False) for _ in range(2)]
    models[0].join_projections()
    models[0].compile_blocks(backend="eager")
    with torch.no_grad():
        models[0](LATENT, TIME, CONTEXT)
        for model in models:
            model.load_state_dict({key: 1.5 * tensor for key, tensor in model.state_dict().items()}, assign=True)
        found, expected = (model(LATENT, TIME, CONTEXT) for model in models)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_networks_can_be_pickled(tmp_path):
    model = tiny.transformer()
    torch.save(model, tmp_path / "model.pt")
    again = torch.load(tmp_path / "model.pt", weights_only=False)
    assert torch.equal(again(LATENT, TIME, CONTEXT), model(LATENT, TIME, CONTEXT))
