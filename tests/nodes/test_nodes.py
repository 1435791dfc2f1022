"""The pack's nodes: what the editor sees of them, what they return, and one clear message for what they cannot use."""

import inspect
import re

import pytest
import torch
from e2e.comfyui import REASON

pack_nodes = pytest.importorskip("sana_pack.nodes", reason=REASON)
latents = pytest.importorskip("sana_pack.sana_core.latents", reason=REASON)
latent_nodes = pytest.importorskip("sana_pack.nodes.latent", reason=REASON)
errors = pytest.importorskip("sana_pack.sana_core.errors", reason=REASON)
schedules = pytest.importorskip("sana_pack.sana_core.samplers.schedules", reason=REASON)
folder_paths = pytest.importorskip("folder_paths", reason=REASON)
api = pytest.importorskip("comfy_api.latest", reason=REASON)
comfy_nodes = pytest.importorskip("nodes", reason=REASON)

BY_ID = {node.define_schema().node_id: node for node in pack_nodes.NODES}


@pytest.fixture(autouse=True)
def model_folders(models):
    """The tiny models in the host's folders."""
    for kind in ("diffusion_models", "text_encoders", "vae"):
        folder_paths.add_model_folder_path(kind, str(models / kind))


@pytest.fixture(scope="module")
def loaded(models):
    load = pack_nodes.SanaNativeLoad.execute(
        "sana.safetensors", "gemma.safetensors", "dcae.safetensors", "auto", "default"
    )
    return load.result


def run(name, **inputs):
    return BY_ID[f"SanaNative{name}"].execute(**inputs).result


# --- what the editor sees


@pytest.mark.parametrize("name", BY_ID)
def test_schema(name):
    node, schema = BY_ID[name], BY_ID[name].GET_SCHEMA()
    assert node.__bases__ == (api.io.ComfyNode,)
    assert re.search(rf'node_id="{name}"', inspect.getsource(node))  # literal, for the manager's scanner
    assert name.startswith("SanaNative") and schema.category.split("/")[0] == "SANA"
    assert schema.description and schema.search_aliases
    nested = [part for entry in schema.inputs for part in entry.get_all()]
    without = [entry.id for entry in nested if not entry.tooltip] + [
        output.id for output in schema.outputs if not output.tooltip
    ]
    assert without == []
    assert len(inspect.getsource(node.execute).split("io.NodeOutput:")[-1].strip().splitlines()) <= 15


@pytest.mark.parametrize("name", BY_ID)
def test_nodes_fit_the_hosts_interface(name):
    """What the host passes is what `execute` takes, under the names that the editor shows."""
    info = BY_ID[name].GET_NODE_INFO_V1()
    parameters = dict(inspect.signature(BY_ID[name].execute).parameters)
    required, optional = (list(info["input"].get(section, {})) for section in ("required", "optional"))
    rest = [key for key, value in parameters.items() if value.kind is inspect.Parameter.VAR_KEYWORD]
    for key in rest:  # takes all other inputs
        parameters.pop(key)
        parameters |= {other: inspect.Parameter(other, inspect.Parameter.KEYWORD_ONLY) for other in required}
    assert set(parameters) == {*required, *optional}
    assert {key for key, value in parameters.items() if value.default is inspect.Parameter.empty} == set(required)
    assert info["input_order"].get("required", []) == required and info["name"] == name
    assert info["display_name"].startswith(("SANA", "Load SANA", "Empty SANA", "Quantize SANA"))
    assert len(info["output"]) == len(info["output_name"]) == len(info["output_tooltips"]) > 0
    makes_a_file = name in ("SanaNativeQuantize", "SanaNativeTrainLora")
    assert info["output_node"] == makes_a_file  # previews and final pictures never share a node


# --- loading


def test_load(loaded):
    model, clip, vae = loaded
    assert [type(part).__name__ for part in (model.model, clip, vae)] == ["SanaModel", "CLIP", "SanaVAE"]


def test_load_choices():
    model = run(
        "Load",
        model="sana.safetensors",
        text_encoder="gemma.safetensors",
        vae="dcae_mit.safetensors",
        native_size="2k",
        weight_dtype="bfloat16",
    )[0]
    assert model.model.diffusion_model.config.position.base_size == 64
    assert model.model_dtype() == torch.bfloat16


@pytest.mark.parametrize("choice, fp16_trained", [("auto", None), ("float16", True), ("bfloat16", False)])
def test_trained_precision(choice, fp16_trained):
    files = {"model": "sana.safetensors", "text_encoder": "gemma.safetensors", "vae": "dcae.safetensors"}
    model = run("Load", **files, native_size="auto", weight_dtype="default", trained_precision=choice)[0]
    assert model.model.diffusion_model.config.fp16_trained is fp16_trained


@pytest.mark.parametrize("slot, kind, said", [
    ("model", "vae", "expected a SANA transformer, found a DC-AE autoencoder"),
    ("model", "text_encoders", "expected a SANA transformer, found a Gemma-2 text encoder"),
    ("text_encoder", "diffusion_models", "expected a Gemma-2 text encoder, found a SANA transformer"),
    ("vae", "diffusion_models", "expected the DC-AE autoencoder of SANA, found a SANA transformer"),
])  # fmt: skip
def test_a_file_in_the_wrong_slot(monkeypatch, models, slot, kind, said):
    files = {"diffusion_models": "sana.safetensors", "text_encoders": "gemma.safetensors", "vae": "dcae.safetensors"}
    slots = {"model": "diffusion_models", "text_encoder": "text_encoders", "vae": "vae"}
    monkeypatch.setitem(
        folder_paths.folder_names_and_paths, slots[slot], ([str(models / kind)], {".safetensors"})
    )  # copied there
    chosen = {name: files[folder] for name, folder in slots.items()} | {slot: files[kind]}
    with pytest.raises(errors.CheckpointError, match=said):
        run("Load", **chosen, native_size="auto", weight_dtype="default")


# --- text


@pytest.mark.parametrize("instruction, start", [
    ({"instruction": "upstream"}, 'Given a user prompt, generate an "Enhanced prompt"'),
    ({"instruction": "diffusers"}, "Given a user prompt, generate an 'Enhanced prompt'"),
    ({"instruction": "none"}, "a red apple"),
    ({"instruction": "own text", "own_instruction": "Draw: "}, "Draw: a red apple"),
])  # fmt: skip
def test_text_encode(loaded, instruction, start):
    conditioning, report = run("TextEncode", clip=loaded[1], text="a red apple", **instruction)
    text, _, counts = report.rpartition("\n\n")
    assert text.startswith(start) and text.endswith("a red apple")
    read, kept = map(
        int, re.match(r"\[(\d+) tokens read by Gemma, (\d+) of at most 300 seen by SANA\]", counts).groups()
    )
    assert conditioning[0][0].shape == (1, kept, 48)
    assert read == len(loaded[1].tokenizer.pieces.encode(text))


def test_own_text_wants_a_text(loaded):
    with pytest.raises(errors.InputError, match="own_instruction is empty: connect a text to it, or choose none"):
        run("TextEncode", clip=loaded[1], text="a", instruction="own text")


def test_a_prompt_that_is_no_text(loaded):
    with pytest.raises(errors.InputError, match=r"^text is None, expected a text$"):
        run("TextEncode", clip=loaded[1], text=None, instruction="none")


def test_lowercase_is_as_diffusers_does_it(loaded):
    states = [
        run("TextEncode", clip=loaded[1], text=text, instruction="none", lowercase=lowercase)
        for text, lowercase in ((" A Red APPLE ", True), ("a red apple", False), (" A Red APPLE ", False))
    ]
    assert torch.equal(states[0][0][0][0], states[1][0][0][0])
    assert states[2][1].startswith(" A Red APPLE \n\n")


@pytest.mark.parametrize("negative", ["", "a white cat " * 50])
def test_a_negative_prompt_as_long_as_the_positive_one(loaded, negative):
    positive, _ = run("TextEncode", clip=loaded[1], text="a red apple", instruction="upstream")
    conditioning, report = run("TextEncode", clip=loaded[1], text=negative, instruction="none", positive=positive)
    length = positive[0][0].shape[1]
    assert conditioning[0][0].shape == positive[0][0].shape and conditioning[0][1]["attention_mask"].sum() == length
    end = f"[1 token read by Gemma, {length} of at most 300 seen by SANA, {length - 1} of them padding]"
    assert report.endswith("the end of the prompt was cut off]" if negative else end)
    short = [[positive[0][0], {"attention_mask": torch.tensor([[1, 1, 1, 0, 0, 0, 0]])}]]
    assert run("TextEncode", clip=loaded[1], text="", instruction="none", positive=short)[0][0][0].shape[1] == 3
    longer = [
        [torch.cat([positive[0][0]] * 2, dim=1), positive[0][1]]
    ]  # as ConditioningConcat makes it, which leaves the mask as it was
    assert (
        run("TextEncode", clip=loaded[1], text="", instruction="none", positive=longer)[0][0][0].shape[1] == 2 * length
    )


def test_a_prompt_that_is_cut_is_reported(loaded):
    conditioning, report = run("TextEncode", clip=loaded[1], text="a white cat " * 300, instruction="upstream")
    assert conditioning[0][0].shape[1] == 300
    assert report.endswith("seen by SANA; the end of the prompt was cut off]")


def test_another_clip_is_refused():
    class Other:
        tokenizer = cond_stage_model = object()

    with pytest.raises(errors.InputError, match="does not take SANA's instruction: load Gemma-2 with Load SANA"):
        run("TextEncode", clip=Other(), text="a", instruction="none")


# --- latents


def test_every_trained_size_is_offered():
    combo = BY_ID["SanaNativeEmptyLatent"].define_schema().inputs[0]
    offered = {option.key: option.inputs[0].options for option in combo.options if option.key != "custom"}
    assert list(offered) == ["1024 px model", "512 px model", "2048 px model", "4096 px model"]
    for key, labels in offered.items():
        bins = latents.RESOLUTION_BINS[int(key.split()[0])].values()
        sizes = [
            run("EmptyLatent", resolution={"resolution": key, "size": label}, batch_size=1)[0]["samples"].shape
            for label in labels
        ]
        assert sizes == [(1, 32, height // 32, width // 32) for height, width in bins]


@pytest.mark.parametrize("size, label", [
    ((1024, 1024), "1:1 - 1024x1024"), ((1344, 768), "16:9 - 1344x768"), ((768, 1344), "9:16 - 768x1344"),
    ((2048, 512), "4:1 - 2048x512"),
    ((1216, 832), "1.46:1 - 1216x832"), ((832, 1216), "1:1.46 - 832x1216"), ((1024, 960), "1.07:1 - 1024x960"),
])  # fmt: skip
def test_size_labels(size, label):
    assert latent_nodes.size_label(*size) == label


def test_custom_size():
    latent = run("EmptyLatent", resolution={"resolution": "custom", "width": 96, "height": 64}, batch_size=3)[0]
    assert latent["samples"].shape == (3, 32, 2, 3) and not latent["samples"].any()
    assert latent["downscale_ratio_spacial"] == 32


@pytest.mark.parametrize("width, height", [(1000, 1024), (0, 1024), (1024, -32)])
def test_sizes_that_are_no_multiple_of_32_are_refused(width, height):
    with pytest.raises(errors.InputError, match="must be a positive multiple of 32"):
        run("EmptyLatent", resolution={"resolution": "custom", "width": width, "height": height}, batch_size=1)


# --- sampling


@pytest.mark.parametrize(
    "name, grid", [("flow_dpm", schedules.flow_dpm_sigmas), ("flow_euler", schedules.flow_euler_sigmas)]
)
def test_sigmas(loaded, name, grid):
    sigmas = run("Sigmas", model=loaded[0], schedule=name, steps=10, shift=0.0, denoise=1.0)[0]
    assert torch.equal(sigmas, grid(10, 3.0))
    assert torch.equal(
        run("Sigmas", model=loaded[0], schedule=name, steps=10, shift=6.0, denoise=1.0)[0], grid(10, 6.0)
    )
    assert torch.equal(
        run("Sigmas", model=loaded[0], schedule=name, steps=10, shift=0.0, denoise=0.5)[0], grid(20, 3.0)[10:]
    )
    assert run("Sigmas", model=loaded[0], schedule=name, steps=10, shift=0.0, denoise=0.0)[0].numel() == 0


DEFAULTS = {"width": 0, "height": 0, "seed": 1, "steps": 0, "cfg": 0.0, "denoise": 1.0}


def spied(model):
    """The model, and a list that gets (sigma, conditioning) of each of its calls."""
    calls = []

    def wrapper(apply_model, args):
        calls.append((args["timestep"][0].item(), args["c"]))
        return apply_model(args["input"], args["timestep"], **args["c"])

    model = model.clone()
    model.set_model_unet_function_wrapper(wrapper)
    return model, calls


def test_generate_with_released_settings(loaded):
    """The file states five steps, guidance 3, shift 2 and 128 x 96 pixels."""
    files = {
        "text_encoder": "gemma.safetensors",
        "vae": "dcae.safetensors",
        "native_size": "auto",
        "weight_dtype": "default",
    }
    model, calls = spied(run("Load", model="sana_stated.safetensors", **files)[0])
    latent = run("Generate", model=model, clip=loaded[1], prompt="a", negative_prompt="", **DEFAULTS)[0]
    assert latent["samples"].shape == (1, 32, 3, 4) and "downscale_ratio_spacial" not in latent
    assert [sigma for sigma, _ in calls] == pytest.approx(schedules.flow_dpm_sigmas(5, 2.0)[:-1].tolist())
    assert all(conditions["c_crossattn"].shape[0] == 2 for _, conditions in calls)  # both prompts in one batch
    other = run("Generate", model=model, clip=loaded[1], prompt="a", negative_prompt="", **{**DEFAULTS, "cfg": 3.0})[0]
    assert torch.equal(latent["samples"], other["samples"])


def test_generate_from_a_picture_keeps_what_the_mask_hides(loaded):
    model, clip, vae = loaded
    start = {"samples": vae.encode(torch.rand(1, 96, 96, 3)), "noise_mask": torch.zeros(1, 1, 96, 96)}
    start["noise_mask"][:, :, :, :32] = 1.0
    settings = {**DEFAULTS, "steps": 4, "cfg": 2.0, "denoise": 0.5}
    latent = run("Generate", model=model, clip=clip, prompt="a", negative_prompt="b", latent=start, **settings)[0]
    assert torch.allclose(latent["samples"][..., 1:], start["samples"][..., 1:], atol=1e-4)
    assert not torch.allclose(latent["samples"][..., 0], start["samples"][..., 0], atol=1e-2)


def test_generate_with_sprint(loaded):
    files = {
        "text_encoder": "gemma.safetensors",
        "vae": "dcae.safetensors",
        "native_size": "auto",
        "weight_dtype": "default",
    }
    sprint, calls = spied(run("Load", model="sprint.safetensors", **files)[0])
    run(
        "Generate",
        model=sprint,
        clip=loaded[1],
        prompt="a",
        negative_prompt="",
        **{**DEFAULTS, "width": 64, "height": 64},
    )
    assert [sigma for sigma, _ in calls] == pytest.approx([1.0, 0.7827], abs=1e-4)
    assert [conditions["guidance"].tolist() for _, conditions in calls] == [
        [4.5],
        [4.5],
    ]  # one forward per step: no unconditional half


def test_generate_refuses_other_models(loaded):
    class Other:
        model = object()

    inputs = {"clip": loaded[1], "prompt": "", "negative_prompt": "", **DEFAULTS}
    with pytest.raises(errors.InputError, match="samples SANA models, got object"):
        run("Generate", model=Other(), **inputs)
    with pytest.raises(errors.InputError, match="multiple of 32"):
        run("Generate", model=loaded[0], **{**inputs, "width": 100})
    with pytest.raises(errors.InputError, match=r"latents \(B, 32, h, w\), got \(B, 16, 4, 4\)"):
        run("Generate", model=loaded[0], latent={"samples": torch.ones(1, 16, 4, 4)}, **inputs)


@pytest.mark.parametrize("inputs", [
    {"clip": 5}, {"clip": "x"}, {"positive": [1]}, {"positive": [["x", {}]]}, {"positive": {"a": 1}},
])  # fmt: skip
def test_a_value_in_the_place_of_a_link(loaded, inputs):
    """What /prompt lets through."""
    given = {"clip": loaded[1], "text": "a cat", "instruction": "none", **inputs}
    with pytest.raises(errors.InputError, match="expected the output of a node: connect one"):
        run("TextEncode", **given)


def test_a_number_in_the_place_of_a_model():
    for name, inputs in (
        ("Sigmas", {"schedule": "flow_dpm", "steps": 2, "shift": 0.0, "denoise": 1.0}),
        ("GuidanceInterval", {"start_percent": 0.0, "end_percent": 1.0}),
        ("LoadLora", {"lora_name": "none", "strength_model": 1.0, "strength_clip": 1.0}),
    ):
        with pytest.raises(errors.InputError, match=r"model is 3, expected"):
            run(name, model=3, **inputs)


def test_the_name_of_a_file_is_a_text():
    assert "expected a text" in BY_ID["SanaNativeLoadVAE"].validate_inputs([1])
