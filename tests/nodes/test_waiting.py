"""A step reads no number off the model's device: the host would wait for the GPU there."""

import traceback

import pytest
import torch
from comfy import samplers as host
from sana_pack.nodes.bridge import control, guidance, loading, sampling, steps
from sana_pack.nodes.bridge import vae as vae_bridge
from torch.utils._python_dispatch import TorchDispatchMode

import nodes as comfy_nodes

STEPS = 4
MIDDLE = {"start": 0.1, "end": 0.6}
UNREADABLE = torch.empty(1, device="meta")  # a number that cannot be read


class Reads(TorchDispatchMode):
    """Where numbers are read off tensors, by the last line of the pack that did it ("host" for none)."""

    def __init__(self):
        super().__init__()
        self.lines = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.overloadpacket in (torch.ops.aten._local_scalar_dense, torch.ops.aten.is_nonzero):
            stack = traceback.extract_stack()
            frames = [frame for frame in stack if "sana_core" in frame.filename or "bridge" in frame.filename]
            self.lines.append(f"{frames[-1].filename}:{frames[-1].lineno} {frames[-1].line}" if frames else "host")
        return func(*args, **(kwargs or {}))


@pytest.fixture(scope="module")
def patcher(file):
    return loading.load_model(file("diffusion_models", "sana.safetensors"))


@pytest.fixture(scope="module")
def positive(file):
    """A conditioning with a ControlNet."""
    vae = vae_bridge.load_vae(file("vae", "dcae.safetensors"))
    network = control.load_control(file("controlnet", "control.pth"))
    picture = torch.rand(1, 64, 96, 3)

    def make(start, end):
        conditioning = [[torch.randn(1, 5, 48), {}]]
        apply = comfy_nodes.ControlNetApplyAdvanced().apply_controlnet
        return apply(conditioning, conditioning, network, picture, 1.0, start, end, vae=vae)[0]

    return make


def reads_in_steps(patcher, positive, sampler):
    """Reads in a run, those before the first forward left out, and the number of forwards."""
    mode, forwards = Reads(), []

    def wrapper(apply_model, args):
        forwards.append(len(mode.lines))
        return apply_model(args["input"], args["timestep"], **args["c"])

    model = patcher.clone()
    model.set_model_unet_function_wrapper(wrapper)
    guider = host.CFGGuider(model)
    guider.set_conds(positive, [[torch.randn(1, 3, 48), {}]])
    guider.set_cfg(4.5)
    noise, sigmas = torch.randn(1, 32, 2, 3), sampling.make_sigmas(patcher, "flow_dpm", STEPS)
    with mode:
        guider.sample(noise, torch.zeros_like(noise), sampler, sigmas, seed=0)
    return mode.lines[forwards[0] :], len(forwards)


@pytest.mark.parametrize("name", ["flow_dpm", "flow_euler"])
def test_the_packs_solvers_read_nothing(patcher, positive, name):
    """With guidance, a ControlNet, PAG and an interval, each in a part of the steps."""
    part = steps.Interval(**MIDDLE)
    guided = guidance.guidance_interval(guidance.perturbed_attention(patcher, 2.0, "1", 0.0, part), part)
    lines, forwards = reads_in_steps(guided, positive(*MIDDLE.values()), sampling.make_sampler(name))
    assert [line for line in lines if line != "host"] == []
    assert STEPS < forwards < 3 * STEPS  # the unconditional prompt and PAG ran in some of them


def test_the_hosts_solvers_read_nothing_where_all_steps_are_meant(patcher, positive):
    always = steps.Interval(start=0.0, end=1.0)
    guided = guidance.guidance_interval(guidance.perturbed_attention(patcher, 2.0, "1", 0.0, always), always)
    lines, forwards = reads_in_steps(guided, positive(0.0, 1.0), host.sampler_object("euler"))
    assert [line for line in lines if line != "host"] == []
    assert forwards == 3 * STEPS


def test_a_known_noise_level_is_not_read(patcher):
    at = steps.at_sigma({}, 0.7)["transformer_options"]
    assert steps.step_sigma(UNREADABLE, at) == 0.7
    assert steps.step_sigma(torch.tensor([0.25, 0.25]), {}) == 0.25
    part = steps.Interval(**MIDDLE)
    low, high = (patcher.model.model_sampling.percent_to_sigma(MIDDLE[name]) for name in ("end", "start"))
    for sigma in (0.99, 0.7, 0.1, low, high):
        known = steps.at_sigma({}, sigma)["transformer_options"]
        assert part.holds(patcher.model, UNREADABLE, known) == (low <= sigma <= high)
    pag = guidance.PerturbedAttention((1,), 2.0, 0.001, part)
    assert pag._scale(patcher.model, UNREADABLE, at) == pytest.approx(1.7)
    with pytest.raises(RuntimeError):
        part.holds(patcher.model, UNREADABLE, {})
