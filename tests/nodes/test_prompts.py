"""What the model remembers of prompts from step to step: computed once, and never used where it is not the same."""

import weakref
from functools import partial
from itertools import count, repeat

import folder_paths
import pytest
import tiny
import tiny_lora
import torch
from agreement import assert_agree, error
from comfy import hooks as comfy_hooks
from comfy.patcher_extension import WrappersMP
from comfy.samplers import calc_cond_batch
from comfy_extras import nodes_hooks
from e2e import in_process
from recorder import Recorder
from safetensors.torch import save_file
from sana_pack.nodes.bridge import loading, prompts, sampling, transformer
from sana_pack.nodes.bridge import vae as vae_bridge
from sana_pack.sana_core.transformer import caption, replay

import nodes as comfy_nodes

GENERATOR = torch.Generator().manual_seed(7)
STATES = [torch.randn(1, length, 48, generator=GENERATOR) for length in (9, 5)]  # positive, negative
NOISE = torch.randn(2, 32, 3, 4, generator=GENERATOR)
PICTURE = torch.rand(1, 96, 128, 3, generator=GENERATOR)
STEPS = 5
DEPTH = 2


@pytest.fixture(scope="module", autouse=True)
def folders(models):
    for kind in ("controlnet", "loras"):
        folder_paths.add_model_folder_path(kind, str(models / kind))
    (models / "loras").mkdir(exist_ok=True)
    factors = tiny_lora.factors(tiny.transformer(caption_channels=48))
    save_file(tiny_lora.peft(factors), models / "loras" / "prompts.safetensors")


@pytest.fixture
def model(file):
    return loading.load_model(file("diffusion_models", "sana.safetensors"))


def conditioning(positive=STATES[0], negative=STATES[1]):
    return [[positive, {}]], [[negative, {}]]


def sample(model, conditioning, noise=NOISE, steps=STEPS, cfg=4.5):
    sigmas = sampling.make_sigmas(model, "flow_dpm", steps)
    return in_process.sample(model, conditioning, noise, sampling.make_sampler("flow_dpm"), sigmas, cfg=cfg)


def counted(*networks):
    """A list that grows by the rows of each key projection of a prompt."""
    rows = []
    for network in networks:
        for block in network.transformer_blocks:
            block.attn2.to_k.register_forward_hook(lambda _, given, found: rows.append(len(found)))
    return rows


def without_memory(monkeypatch, run):
    with monkeypatch.context() as patch:
        patch.setattr(transformer.ComfySana, "_joined", lambda *_: None)
        return run()


def test_once_in_a_whole_run_of_ksampler(model, file):
    """With positive and negative prompt, two pictures, a ControlNet and a LoRA."""
    network = comfy_nodes.ControlNetLoader().load_controlnet("control.safetensors")[0]
    vae = vae_bridge.load_vae(file("vae", "dcae.safetensors"))
    conds = comfy_nodes.ControlNetApplyAdvanced().apply_controlnet(
        *conditioning(), network, PICTURE, 1.0, 0.0, 1.0, vae=vae
    )
    (patched,) = comfy_nodes.LoraLoaderModelOnly().load_lora_model_only(model, "prompts.safetensors", 0.5)
    rows = counted(model.model.diffusion_model, network.control_model)
    latent = {"samples": torch.zeros(2, 32, 3, 4)}
    drawn = comfy_nodes.common_ksampler(patched, 0, STEPS, 4.5, "euler", "simple", *conds, latent)[0]["samples"]
    depth = DEPTH + len(network.control_model.transformer_blocks)
    assert rows == [2] * depth  # a row for each prompt, not for each picture
    comfy_nodes.common_ksampler(patched, 0, STEPS, 4.5, "euler", "simple", *conds, latent)
    assert len(rows) == 2 * depth and drawn.isfinite().all()


@pytest.mark.parametrize("cfg", [4.5, 1.0])
@pytest.mark.parametrize("lengths", [(9, 5), (6, 2), (40, 1), (9, 9)])
def test_the_same_as_without(model, monkeypatch, cfg, lengths):
    states = [torch.randn(1, length, 48, generator=torch.Generator().manual_seed(length)) for length in lengths]
    found = sample(model, conditioning(*states), cfg=cfg)
    expected = without_memory(monkeypatch, lambda: sample(model, conditioning(*states), cfg=cfg))
    assert_agree(found, expected, 1e-5)


def test_a_prompt_for_each_picture(model, monkeypatch):
    conds = conditioning(torch.cat([STATES[0], 2 * STATES[0]]))
    rows = counted(model.model.diffusion_model)
    found = sample(model, conds)
    assert rows == [4] * DEPTH
    assert_agree(found, without_memory(monkeypatch, lambda: sample(model, conds)), 1e-5)
    one = sample(model, conditioning(2 * STATES[0]))
    assert_agree(found[1], one[1], 1e-4)


def test_another_lora_strength_is_another_prompt(model, monkeypatch):
    rows, drawn = counted(model.model.diffusion_model), []
    for strength in (0.5, 1.0):
        (patched,) = comfy_nodes.LoraLoaderModelOnly().load_lora_model_only(model, "prompts.safetensors", strength)
        drawn.append(sample(patched, conditioning()))
        assert_agree(drawn[-1], without_memory(monkeypatch, partial(sample, patched, conditioning())), 1e-5)
        del rows[DEPTH:]
    assert rows == [2] * DEPTH and error(*drawn) > 0.01


def hooked(model, strengths):
    """A LoRA as a hook of both prompts, its strength by keyframes (part of the steps, strength)."""
    (group,) = nodes_hooks.CreateHookLoraModelOnly().create_hook_model_only("prompts.safetensors", 1.0)
    frames = comfy_hooks.HookKeyframeGroup()
    for start, strength in strengths:
        frames.add(comfy_hooks.HookKeyframe(strength=strength, start_percent=start))
    group.set_keyframes_on_hooks(frames)
    patched = model.clone()
    patched.register_all_hook_patches(group, comfy_hooks.create_target_dict(comfy_hooks.EnumWeightTarget.Model))
    return patched, comfy_hooks.set_hooks_for_conditioning(conditioning()[0], group), conditioning()[1]


def test_hook_keyframes(model, monkeypatch):
    patched, *conds = hooked(model, [(0.0, 0.0), (0.4, 1.0), (0.8, 0.3)])
    rows = counted(model.model.diffusion_model)
    found = sample(patched, conds)
    computed = len(rows) // DEPTH
    expected = without_memory(monkeypatch, lambda: sample(patched, conds))
    assert_agree(found, expected, 1e-5)
    constant, *conds = hooked(model, [(0.0, 1.0)])
    assert error(found, sample(constant, conds)) > 0.01
    assert 4 <= computed <= 2 + 3 + STEPS  # two prompts apart; the hooked one again for each keyframe


def test_weights_changed_between_steps(file, monkeypatch):
    """By a node that knows nothing of patches: the next step sees it."""

    def run():
        patched = model.clone()
        weight, seen = patched.model.diffusion_model.transformer_blocks[0].attn2.to_k.weight, []

        def wrapper(apply, args):
            seen.append(1)
            if len(seen) == 3:
                weight.mul_(2.0)
            return apply(args["input"], args["timestep"], **args["c"])

        patched.set_model_unet_function_wrapper(wrapper)
        found = sample(patched, conditioning())
        weight.div_(2.0)
        return found

    with torch.inference_mode(False), torch.no_grad():
        model = loading.load_model(file("diffusion_models", "sana.safetensors"))
        found, expected = run(), without_memory(monkeypatch, run)
    assert_agree(found, expected, 1e-5)
    assert error(found, sample(model, conditioning())) > 1e-4


@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("kind", ["function", WrappersMP.APPLY_MODEL, WrappersMP.DIFFUSION_MODEL])
def test_other_nodes_that_change_the_prompt_are_heard(model, monkeypatch, kind, in_place):
    def changed(states, step):
        if step == "constant":
            return 1.1 * states
        return states.mul_(1.1) if in_place else states * (1 + 0.2 * step)

    def run(constant=False):
        patched, steps = model.clone(), repeat("constant") if constant else count()

        def function(apply, args):
            c = args["c"]
            return apply(
                args["input"], args["timestep"], **{**c, "c_crossattn": changed(c["c_crossattn"], next(steps))}
            )

        def apply_model(executor, x, t, c_concat, c_crossattn, *rest, **named):
            return executor(x, t, c_concat, changed(c_crossattn, next(steps)), *rest, **named)

        def diffusion_model(executor, x, t, context, *rest, **named):
            return executor(x, t, changed(context, next(steps)), *rest, **named)

        if kind == "function":
            patched.set_model_unet_function_wrapper(function)
        else:
            wrapper = apply_model if kind == WrappersMP.APPLY_MODEL else diffusion_model
            patched.add_wrapper(kind, wrapper)
        return sample(patched, conditioning())

    found = run()
    # a change in place is of this step alone, as it is in the host, which joins the prompts anew in each step
    assert_agree(found, without_memory(monkeypatch, lambda: run(constant=in_place)), 1e-5)
    assert error(found, sample(model, conditioning())) > 0.01


def test_a_wrapper_that_changes_nothing_costs_no_reuse(model):
    patched = model.clone()
    patched.set_model_unet_function_wrapper(lambda run, args: run(args["input"], args["timestep"], **args["c"]))
    rows = counted(model.model.diffusion_model)
    sample(patched, conditioning())
    assert rows == [2] * DEPTH


def test_block_patches_see_every_step(model, monkeypatch):
    def run():
        patched, steps = model.clone(), []

        def block(args, extra):
            steps.append(1)
            return extra["original_block"]({**args, "txt": args["txt"] * (1 + 0.1 * len(steps))})

        patched.set_model_patch_replace(block, "dit", "double_block", 1)
        return sample(patched, conditioning())

    assert_agree(run(), without_memory(monkeypatch, run), 1e-5)


def test_it_is_given_back_after_the_run(model, monkeypatch):
    made = []

    class Caption(caption.Caption):
        def __init__(self, *args, **options):
            super().__init__(*args, **options)
            if self.remember:
                made.append(weakref.ref(self))

    monkeypatch.setattr("sana_pack.sana_core.transformer.model.Caption", Caption)
    sample(model, conditioning())
    assert len(made) == 1 and made[0]() is None


def test_of_many_companions_only_the_last_few_are_kept():
    first, *others = (prompts.Prompt(torch.randn(1, 32, 8), torch.ones(1, 32, dtype=torch.long)) for _ in range(9))
    made = [weakref.ref(first.joined([other], 1)[0]) for other in others]
    assert [reference() is not None for reference in made] == [False] * 4 + [True] * 4
    assert first.joined([others[-1]], 1)[0] is made[-1]()


@pytest.fixture
def recorder(monkeypatch):
    """As on a GPU, with the recorder for its graphs."""
    made = Recorder()
    monkeypatch.setattr(transformer, "obstacle", lambda device: None)
    monkeypatch.setattr(prompts, "Replay", lambda predict: replay.Replay(predict, made))
    return made


def test_predictions_are_replayed(model, recorder, monkeypatch):
    expected = without_memory(monkeypatch, lambda: sample(model, conditioning(), steps=8))
    assert recorder.replayed == 0
    found = sample(model, conditioning(), steps=8)
    assert_agree(found, expected, 1e-5)
    assert recorder.replayed == 8 - replay.EAGER_CALLS
    sample(model, conditioning(), steps=8)
    assert recorder.replayed == 2 * (8 - replay.EAGER_CALLS)  # another run records anew


def test_sprint_is_not_recorded(file, recorder):
    sprint = loading.load_model(file("diffusion_models", "sprint.safetensors"))
    sample(sprint, conditioning(), steps=5, cfg=1.0)
    assert recorder.recorded == 0


def patched_block(patched):
    patched.set_model_patch_replace(lambda args, extra: extra["original_block"](args), "dit", "double_block", 1)


def overridden_attention(patched):
    options = patched.model_options["transformer_options"]
    options["optimized_attention_override"] = lambda function, *args, **named: function(*args, **named)


def wrapped(patched):
    patched.set_model_unet_function_wrapper(lambda run, args: run(args["input"], args["timestep"], **args["c"]))


def switched_off(patched):
    patched.model.diffusion_model.fast = "off"


@pytest.mark.parametrize("change", [patched_block, overridden_attention, wrapped, switched_off])
def test_nothing_is_replayed_where_steps_may_differ(model, recorder, change):
    patched = model.clone()
    change(patched)
    sample(patched, conditioning(), steps=6)
    assert recorder.replayed == 0


def test_weights_that_are_not_all_there_are_not_replayed(model, recorder, monkeypatch):
    monkeypatch.setattr(type(model), "loaded_size", lambda self: self.model_size() - 1)
    sample(model, conditioning(), steps=6)
    assert recorder.replayed == 0


def test_a_prompt_in_which_nothing_counts(model, monkeypatch):
    conds = conditioning()[0], [[STATES[1], {"attention_mask": torch.zeros(1, 5)}]]
    found = sample(model, conds)
    assert_agree(found, without_memory(monkeypatch, lambda: sample(model, conds)), 1e-5)


@pytest.mark.parametrize("in_place", [False, True])
def test_states_that_a_node_puts_into_the_conditioning(model, monkeypatch, in_place):
    """`sampler_calc_cond_batch_function` gets the conditioning before it is joined."""

    def run():
        patched, steps = model.clone(), count()

        def calculate(args):
            step = next(steps)
            for cond in [cond for conds in args["conds"] for cond in conds or ()]:
                text = cond["model_conds"]["c_crossattn"]
                if in_place:
                    text.cond.mul_(1.2)
                elif step == 2:
                    text.cond = torch.zeros_like(text.cond)
            return calc_cond_batch(args["model"], args["conds"], args["input"], args["sigma"], args["model_options"])

        patched.set_model_sampler_calc_cond_batch_function(calculate)
        return sample(patched, conditioning())

    found = run()
    monkeypatch.setattr(prompts.Prompt, "is_of", lambda *_: False)  # as the host joins them
    assert_agree(found, run(), 1e-5)
    assert error(found, sample(model, conditioning())) > 0.01


def test_a_block_patch_that_changes_the_text_in_place(model, monkeypatch):
    def run():
        patched = model.clone()

        def block(args, extra):
            args["txt"].mul_(1.2)
            return extra["original_block"](args)

        patched.set_model_patch_replace(block, "dit", "double_block", 1)
        return sample(patched, conditioning())

    found = run()
    assert_agree(found, without_memory(monkeypatch, run), 1e-5)
    assert error(found, sample(model, conditioning())) > 1e-3


def patched_object(patched):
    patched.add_object_patch("diffusion_model.transformer_blocks.1.ff.forward", lambda x, grid: torch.zeros_like(x))


def hooked_block(patched):
    patched.model.diffusion_model.transformer_blocks[1].register_forward_hook(lambda *_: None)


@pytest.mark.parametrize("change", [patched_object, hooked_block])
def test_nothing_is_replayed_where_other_code_runs_inside(model, recorder, change):
    patched = model.clone()
    change(patched)
    sample(patched, conditioning(), steps=6)
    assert recorder.replayed == 0


def test_weights_that_left_and_came_back_are_recorded_anew(model, recorder, monkeypatch):
    whole, steps = type(model).model_size, count()
    monkeypatch.setattr(type(model), "loaded_size", lambda self: whole(self) - (next(steps) == 4))
    sample(model, conditioning(), steps=8)
    # recorded and replayed in steps 3 and 4; away in the fifth; then from the start: two as usual, one recorded
    assert recorder.replayed == 3
