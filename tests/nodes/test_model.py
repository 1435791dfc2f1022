"""SANA as the host's model: noise levels, conditioning, types, memory."""

import dataclasses
import importlib.util
import types
from pathlib import Path

import pytest
import tiny
import torch
from agreement import assert_agree
from e2e.comfyui import REASON

model = pytest.importorskip("sana_pack.nodes.bridge.model", reason=REASON)
prompts = pytest.importorskip("sana_pack.nodes.bridge.prompts", reason=REASON)
loading = pytest.importorskip("sana_pack.nodes.bridge.loading", reason=REASON)
config = pytest.importorskip("sana_pack.sana_core.config", reason=REASON)
kernels = pytest.importorskip("sana_pack.sana_core.kernels.choice", reason=REASON)
kit = pytest.importorskip("sana_pack.sana_core.kit", reason=REASON)
schedules = pytest.importorskip("sana_pack.sana_core.samplers.schedules", reason=REASON)
transformer = pytest.importorskip("sana_pack.sana_core.transformer.model", reason=REASON)
model_sampling = pytest.importorskip("comfy.model_sampling", reason=REASON)
samplers = pytest.importorskip("comfy.samplers", reason=REASON)
management = pytest.importorskip("comfy.model_management", reason=REASON)
cli_args = pytest.importorskip("comfy.cli_args", reason=REASON)
sd = pytest.importorskip("comfy.sd", reason=REASON)


@pytest.fixture(scope="module")
def patcher(file):
    return loading.load_model(file("diffusion_models", "sana.safetensors"))


def sana(**changes):
    fields = dataclasses.asdict(tiny.transformer_config())
    return model.Sana(
        {
            "image_model": "sana",
            "config": config.TransformerConfig(**{**fields, **changes}),
            "sampling": config.SamplingDefaults(),
        }
    )


@pytest.mark.parametrize("steps, shift, expected", [
    (20, 3, "999 982 963 944 922 899 874 847 817 785 749 710 666 617 562 499 428 345 249 136"),
    (18, 3, "999 980 959 937 912 886 856 824 789 749 705 655 599 535 461 374 272 149"),
    (20, 6, "999 991 981 971 959 947 933 917 899 879 856 830 799 763 719 666 599 513 399 239"),
])  # fmt: skip
def test_released_timesteps(patcher, steps, shift, expected):
    sigmas = schedules.flow_dpm_sigmas(steps, shift)[:-1]
    timesteps = patcher.model.model_sampling.timestep(sigmas).float().trunc()
    assert timesteps.int().tolist() == [int(timestep) for timestep in expected.split()]


@pytest.mark.parametrize("shift", [1.0, 3.0, 6.0])
def test_the_first_noise_level_is_pure_noise(shift):
    sampling = model.SanaModelSampling(types.SimpleNamespace(sampling_settings={"shift": shift}))
    noise, latent = torch.ones(2, 32, 2, 2), torch.full((2, 32, 2, 2), 5.0)
    first, second = schedules.flow_dpm_sigmas(20, shift)[:2]
    assert torch.equal(sampling.noise_scaling(first, noise, latent), noise)
    assert_agree(sampling.noise_scaling(second, noise, latent), second * noise + (1 - second) * latent, 1e-6)
    noisy = sampling.noise_scaling(first, torch.zeros_like(noise), latent)  # as KSamplerAdvanced without noise
    assert_agree(noisy, (1 - first) * latent, 1e-6)


def test_noise_levels_per_item():
    sampling = model.SanaModelSampling(types.SimpleNamespace(sampling_settings={"shift": 3.0}))
    noise, latent = torch.ones(2, 32, 2, 2), torch.zeros(2, 32, 2, 2)
    found = sampling.noise_scaling(torch.tensor([0.9997, 0.5]).reshape(2, 1, 1, 1), noise, latent)
    assert found[:, 0, 0, 0].tolist() == [1.0, 0.5]
    assert isinstance(sampling, model_sampling.CONST)


def test_sprint_schedule(file):
    sprint = loading.load_model(file("diffusion_models", "sprint.safetensors"))
    sigmas = samplers.calculate_sigmas(sprint.model.model_sampling, "simple", 2)
    assert_agree(sigmas, torch.tensor([1.0, 0.78271, 0.0]), 1e-4)  # sin t / (sin t + cos t) at 1.5708, 1.3 and 0


@pytest.mark.parametrize("tokens, mask, padded, counted", [
    (7, None, 32, [7, 7]),
    (32, None, 32, [32, 32]),
    (300, None, 320, [300, 300]),
    (9, torch.tensor([[1, 1, 1, 0, 0, 0, 0, 0, 0], [1] * 9]), 32, [3, 9]),
    (9, torch.tensor([[1, 1, 1, 0]]), 32, [8, 8]),  # five tokens were added by a node that does not know of masks
    (2, torch.tensor([[1, 0, 1, 1]]), 32, [1, 1]),
])  # fmt: skip
def test_padded_context(tokens, mask, padded, counted):
    context = torch.randn(2, tokens, 48)
    states, found = prompts.padded_context(context, mask)
    assert states.shape == (2, padded, 48) and found.shape == (2, padded)
    assert found.sum(dim=1).tolist() == counted
    assert torch.equal(states[:, :tokens], context) and not states[:, tokens:].any() and not found[:, tokens:].any()


def test_prompts_of_any_length_can_run_as_one_batch(patcher):
    conds = [
        patcher.model.extra_conds(cross_attn=torch.randn(1, length, 48), device="cpu", noise=None) for length in (3, 41)
    ]
    assert all(conds[0][key].can_concat(conds[1][key]) for key in ("c_crossattn", "attention_mask"))
    assert conds[0]["attention_mask"].concat([conds[1]["attention_mask"]]).sum(dim=1).tolist() == [3, 41]
    assert conds[0]["c_crossattn"].concat([conds[1]["c_crossattn"]]).shape == (2, 64, 48)
    wider = patcher.model.extra_conds(cross_attn=torch.randn(1, 3, 49))
    assert not conds[0]["c_crossattn"].can_concat(wider["c_crossattn"])
    assert "guidance" not in conds[0]


def test_guidance_is_sprints_alone(file):
    sprint = loading.load_model(file("diffusion_models", "sprint.safetensors")).model
    assert sprint.extra_conds(cross_attn=torch.randn(1, 3, 48))["guidance"].cond.tolist() == [4.5]
    assert sprint.extra_conds(cross_attn=torch.randn(1, 3, 48), guidance=2.0)["guidance"].cond.tolist() == [2.0]


def test_a_batch_of_two_prompts_is_two_batches_of_one(patcher):
    noise = torch.randn(2, 32, 3, 4)
    prompts = [torch.randn(1, length, 48) for length in (5, 17)]
    states = torch.zeros(2, 17, 48)
    mask = torch.zeros(2, 17, dtype=torch.long)
    for row, prompt in enumerate(prompts):
        states[row, : prompt.shape[1]], mask[row, : prompt.shape[1]] = prompt[0], 1

    def sample(noise, states, extra):
        guider = samplers.CFGGuider(patcher)
        guider.set_conds([[states, extra]], [[prompts[0], {}]])
        guider.set_cfg(4.5)
        return guider.sample(
            noise,
            torch.zeros_like(noise),
            samplers.sampler_object("euler"),
            torch.tensor([0.9997, 0.6, 0.3, 0.0]),
            seed=0,
        )

    together = sample(noise, states, {"attention_mask": mask})
    alone = torch.cat([sample(noise[row : row + 1], prompts[row], {}) for row in range(2)])
    assert_agree(together, alone, 1e-5)


F32, F16, BF16 = torch.float32, torch.float16, torch.bfloat16


@pytest.mark.parametrize("fp16_trained, types", [(False, [BF16, F32]), (None, [BF16, F32]), (True, [F16, F32])])
def test_types_are_those_of_the_release(fp16_trained, types):
    assert sana(fp16_trained=fp16_trained).supported_inference_dtypes == types


class Gpu:
    """What the host asks its device for, of one that has both 16-bit types or one of them."""

    def __init__(self, monkeypatch, fp16=True, bf16=True):
        monkeypatch.setattr(management, "should_use_fp16", lambda *args, **kwargs: fp16)
        monkeypatch.setattr(management, "should_use_bf16", lambda *args, **kwargs: bf16)


@pytest.mark.parametrize("hurried", [False, True], ids=["plain", "--fast fp16_accumulation"])
@pytest.mark.parametrize("fp16_trained, fp16, bf16, stored, chosen", [
    (False, True, True, F32, BF16), (False, True, True, F16, BF16), (False, True, False, F32, F32),
    (False, True, False, F16, F32),
    (True, True, True, F32, F16), (True, True, True, F16, F16), (True, False, True, F16, F32),
    (True, True, True, BF16, F16),
    (None, True, True, F32, BF16), (None, True, False, F32, F32), (None, True, True, BF16, BF16),
])  # fmt: skip
def test_the_host_never_chooses_a_type_that_breaks_the_picture(
    monkeypatch, fp16_trained, fp16, bf16, stored, chosen, hurried
):
    """Neither for weights nor for computation, on GPUs that lack a type, with options that prefer float16."""
    Gpu(monkeypatch, fp16, bf16)
    monkeypatch.setattr(management, "PRIORITIZE_FP16", hurried)
    supported = sana(fp16_trained=fp16_trained).supported_inference_dtypes
    dtype = management.unet_dtype(model_params=10, supported_dtypes=supported, weight_dtype=stored)
    cast = management.unet_manual_cast(dtype, torch.device("cpu"), supported)
    assert (dtype, cast or dtype) == (chosen, chosen)
    fp8 = management.unet_manual_cast(torch.float8_e4m3fn, torch.device("cpu"), supported)  # UNETLoader's weight_dtype
    assert fp8 in (supported if (F16 in supported and fp16) or (BF16 in supported and bf16) else [F32])


@pytest.mark.parametrize("fp16_trained, option, said", [
    (False, "fp16_unet", "trained in bfloat16 but was made to compute in float16"),
    (None, "fp16_unet", "does not tell whether it was trained in it"),
    (True, "bf16_unet", "trained in float16 but was made to compute in bfloat16"),
    (False, "bf16_unet", None), (True, "fp16_unet", None), (None, "bf16_unet", None),
])  # fmt: skip
def test_a_type_forced_on_the_command_line_is_warned_of(monkeypatch, caplog, file, fp16_trained, option, said):
    Gpu(monkeypatch)
    monkeypatch.setattr(cli_args.args, option, True)
    trained = {True: "float16", False: "bfloat16", None: None}[fp16_trained]
    loading.load_model(file("diffusion_models", "sana.safetensors"), trained_precision=trained)
    assert [said in record.getMessage() for record in caplog.records if record.levelname == "WARNING"] == [True] * bool(
        said
    )


@pytest.mark.parametrize("load", [sd.load_diffusion_model, loading.load_model])
def test_a_type_forced_by_a_loaders_option_is_warned_of(monkeypatch, caplog, file, load):
    Gpu(monkeypatch)
    path = file("diffusion_models", "sana15.safetensors")
    load(path, {"dtype": F16}) if load is sd.load_diffusion_model else load(path, dtype=F16)
    (warning,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert "black or broken" in warning and "Choose bfloat16" in warning


@pytest.mark.parametrize("load", [sd.load_diffusion_model, loading.load_model])
def test_one_line_tells_what_was_found(caplog, file, load):
    with caplog.at_level("INFO", "sana"):
        load(file("diffusion_models", "sana_2k.pth"))
    line, *fast = [record.getMessage() for record in caplog.records if record.name == "sana"]
    assert (
        "2048 px (by the length of its pos_embed), trained in bfloat16 (as all of SANA-1.5, Sprint, 2K and 4K)" in line
    )
    assert len(fast) == (load is loading.load_model)
    assert all(line.startswith("Triton kernels: off, they need an NVIDIA GPU; CUDA graphs: off") for line in fast)


def test_the_switch_of_the_fast_paths(file):
    """Every layer calls PyTorch's own operations when it is off; the host's copy of a model keeps the choice."""
    fast = {}
    for choice in ("off", "auto"):
        patcher = loading.load_model(file("diffusion_models", "sana.safetensors"), fast=choice)
        load, given = patcher.cached_patcher_init[:2]
        for network in (patcher.model.diffusion_model, load(*given, disable_dynamic=True).model.diffusion_model):
            assert network.fast == choice
            fast.setdefault(choice, []).extend(m.kernels for m in network.modules() if "kernels" in vars(m))
    assert set(map(id, fast["off"])) == {id(kernels.PLAIN)} and set(map(id, fast["auto"])) == {id(kernels.CHOSEN)}


def counted_bytes(wide: config.TransformerConfig, cells: int, batch: int) -> int:
    """Of live tensors in a forward beyond the weights, bfloat16, `cells` latent cells a side."""
    spec = importlib.util.spec_from_file_location(
        "sana_meter", Path(__file__).parents[2] / "sana_core" / "live_memory.py"
    )
    meter = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(meter)
    with torch.device("meta"):
        network = transformer.SanaTransformer(wide, kit.Kit(device="meta", dtype=torch.bfloat16))
        latent, text = (
            torch.empty(batch, 32, cells, cells, dtype=torch.bfloat16),
            torch.empty(batch, 300, 2304, dtype=torch.bfloat16),
        )
        with meter.LiveMemory() as live:
            network(latent, torch.ones(batch), text, torch.ones(batch, 300, dtype=torch.bool))
    return live.peak_bytes


@pytest.mark.parametrize("sizes", [
    {"hidden_size": 2240, "num_heads": 70, "num_cross_heads": 20, "ffn_size": 5600},
    {"hidden_size": 1152, "num_heads": 36, "num_cross_heads": 16, "ffn_size": 2880},
], ids=["1.6B", "0.6B"])  # fmt: skip
@pytest.mark.parametrize("cells, at_most", [(32, 1.15), (64, 1.2), (128, 1.8)])
def test_the_host_expects_what_a_step_with_guidance_takes(sizes, cells, at_most):
    released = sana(**sizes, caption_channels=2304)
    expected = 2 * cells**2 * 2 * 0.01 * released.memory_usage_factor * 2**20  # as the host reckons
    assert 1 <= expected / counted_bytes(released.unet_config["config"], cells, 2) < at_most


def test_latents_of_another_model_are_refused(patcher):
    with pytest.raises(ValueError, match=r"latents \(B, 32, h, w\), got \(B, 16, 4, 4\)"):
        guider = samplers.CFGGuider(patcher)
        guider.set_conds([[torch.randn(1, 3, 48), {}]], [[torch.randn(1, 3, 48), {}]])
        guider.sample(
            torch.randn(1, 16, 4, 4),
            torch.ones(1, 16, 4, 4),
            samplers.sampler_object("euler"),
            torch.tensor([1.0, 0.0]),
            seed=0,
        )


def test_text_of_another_encoder_is_refused(patcher):
    with pytest.raises(ValueError, match="text states are 768 wide, this SANA model takes 48"):
        guider = samplers.CFGGuider(patcher)
        guider.set_conds([[torch.randn(1, 77, 768), {}]], [[torch.randn(1, 77, 768), {}]])
        guider.sample(
            torch.randn(1, 32, 4, 4),
            torch.zeros(1, 32, 4, 4),
            samplers.sampler_object("euler"),
            torch.tensor([1.0, 0.0]),
            seed=0,
        )


def test_torch_compile_gives_the_same_and_compiles_once(file):
    """The host's TorchCompileModel, with a backend that counts instead of generating code."""
    compile_nodes = pytest.importorskip("comfy_api.torch_helpers", reason=REASON)
    compiled = []

    def backend(graph, inputs):
        compiled.append(graph)
        return graph.forward

    plain = loading.load_model(file("diffusion_models", "sana.safetensors"))
    patched = plain.clone()
    compile_nodes.set_torch_compile_wrapper(
        model=patched, backend=backend, options={"guard_filter_fn": without_options}
    )
    torch._dynamo.reset()
    states = torch.randn(1, 5, 48)

    def sample(patcher):
        guider = samplers.CFGGuider(patcher)
        guider.set_conds([[states, {}]], [[states * 0.5, {}]])
        guider.set_cfg(4.5)
        noise = torch.randn(1, 32, 4, 4, generator=torch.Generator().manual_seed(0))
        return guider.sample(
            noise, torch.zeros_like(noise), samplers.sampler_object("euler"), torch.linspace(1, 0, 5), seed=0
        )

    first = sample(patched)
    graphs = len(compiled)
    assert_agree(first, sample(plain), 1e-5)
    assert_agree(sample(patched), first, 1e-6)
    assert graphs > 0 and len(compiled) == graphs  # further steps and runs reuse what was compiled


def without_options(guards):
    """As the host's node filters them."""
    return ["transformer_options" not in guard.name for guard in guards]
