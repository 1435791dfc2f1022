"""LoRA on a real server: ComfyUI's loaders, its hooks and the pack's node give what sana_core gives; wrong files get
one message.
"""

import copy

import pytest
import tiny
import tiny_lora
import torch
from agreement import assert_agree, error
from e2e.server import ExecutionFailed, Graph
from e2e.test_agreement import NEGATIVE, PROMPT, own_solver, sampled
from e2e.tiny_files import TEXT_WIDTH
from safetensors.torch import save_file

from sana_core.checkpoint.load import load_transformer
from sana_core.lora import apply_lora, load_lora
from sana_core.pipeline import load_pipeline

SETTINGS = {"width": 128, "height": 96, "steps": 6, "guidance_scale": 4.5, "seed": 3, "output": "latent"}
STRENGTH = 0.7


def gemma_factors():
    generator = torch.Generator().manual_seed(8)
    shapes = {f"layers.{i}.self_attn.v_proj": (16, 48) for i in range(3)}
    return {
        name: (
            torch.randn(tiny_lora.RANK, width, generator=generator),
            torch.randn(rows, tiny_lora.RANK, generator=generator) * 0.05,
        )
        for name, (rows, width) in shapes.items()
    }


def sdxl():
    name = "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn1_to_q"
    return {f"{name}.lora_up.weight": torch.ones(8, 2), f"{name}.lora_down.weight": torch.ones(2, 8)}


@pytest.fixture(scope="module")
def loras(server):
    """ComfyUI's folder with a LoRA in every dialect, one that has a part for Gemma, and wrong ones."""
    folder = server.base / "models" / "loras"
    folder.mkdir(exist_ok=True)
    network = tiny.transformer(caption_channels=TEXT_WIDTH)
    factors, other = tiny_lora.factors(network), tiny_lora.factors(network, seed=99)
    files = {name.replace(" ", "_"): (dialect(factors), None) for name, dialect in tiny_lora.DIALECTS.items()}
    files["metadata"] = tiny_lora.peft(factors, folded=False), tiny_lora.stated()
    files["second"] = tiny_lora.kohya(other), None
    files["gemma"] = (
        {**tiny_lora.kohya(factors), **tiny_lora.kohya(gemma_factors(), "lora_te_"), "nothing.alpha": torch.ones(())},
        None,
    )
    files["width"] = (
        tiny_lora.peft(tiny_lora.factors(tiny.transformer(caption_channels=TEXT_WIDTH, hidden_size=288))),
        None,
    )
    files["sdxl"] = sdxl(), None
    for name, (tensors, metadata) in files.items():
        save_file(
            {key: tensor.contiguous() for key, tensor in tensors.items()}, folder / f"{name}.safetensors", metadata
        )
    return folder


@pytest.fixture(scope="module")
def core(server):
    models = server.base / "models"
    files = {"transformer": "diffusion_models/sana", "autoencoder": "vae/dcae", "text_encoder": "text_encoders/gemma"}
    return load_pipeline({part: models / f"{name}.safetensors" for part, name in files.items()}, device="cpu")


def expected(core, server, loras, **strengths):
    """Latents of sana_core's pipeline with these LoRAs."""
    pipeline = copy.copy(core)
    pipeline.transformer = load_transformer(
        server.base / "models/diffusion_models/sana.safetensors", dtype=torch.float32
    )
    for name, strength in strengths.items():
        apply_lora(pipeline.transformer, load_lora(loras / f"{name}.safetensors"), strength)
    return pipeline(PROMPT, NEGATIVE, **SETTINGS)


def found(server, load):
    """Latents from a graph in which `load(g, model, clip)` gives MODEL and CLIP, and what to do to a conditioning, if
    anything.
    """
    g = Graph()
    model = g.add("UNETLoader", unet_name="sana.safetensors", weight_dtype="default")
    model, clip, *change = load(g, model, g.add("SanaNativeLoadTextEncoder", text_encoder="gemma.safetensors"))
    positive = g.add("SanaNativeTextEncode", clip=clip, text=PROMPT, instruction="upstream")
    negative = g.add("SanaNativeTextEncode", clip=clip, text=NEGATIVE, instruction="none")
    for function in change:
        positive, negative = function(positive), function(negative)
    latent = g.add("EmptyLatentImage", width=128, height=96, batch_size=1)
    return sampled(
        server, g, model, g.add("RandomNoise", noise_seed=3), positive, negative, latent, own_solver(g), steps=6
    )


def stock(g, model, clip, name, strength=STRENGTH, strength_clip=STRENGTH):
    strengths = {"strength_model": strength, "strength_clip": strength_clip}
    node = g.add("LoraLoader", model=model, clip=clip, lora_name=f"{name}.safetensors", **strengths)
    return node[0], node[1]


def own(g, model, clip, name, strength=STRENGTH, strength_clip=STRENGTH):
    strengths = {"strength_model": strength, "strength_clip": strength_clip}
    node = g.add("SanaNativeLoadLora", model=model, clip=clip, lora_name=f"{name}.safetensors", **strengths)
    return node[0], node[1]


LOADERS = {"stock": stock, "own": own}


@pytest.mark.parametrize("loader, dialect", [
    ("stock", "diffusers"), ("stock", "peft"), ("stock", "comfyui"), ("stock", "kohya"), ("stock", "onetrainer"),
    ("stock", "simpletuner"), ("stock", "nvlabs"), ("stock", "nvlabs_kohya"), ("stock", "metadata"),
    ("own", "diffusers"), ("own", "nvlabs"), ("own", "metadata"),
])  # fmt: skip
def test_agreement(server, core, loras, loader, dialect):
    latents = found(server, lambda g, model, clip: LOADERS[loader](g, model, clip, dialect))
    wanted = expected(core, server, loras, **{dialect: STRENGTH})
    assert_agree(latents, wanted, 1e-4)
    assert error(latents, expected(core, server, loras)) > 0.1


def test_model_only_and_two_in_a_row(server, core, loras):
    def load(g, model, clip):
        model = g.add("LoraLoaderModelOnly", model=model, lora_name="kohya.safetensors", strength_model=0.7)
        return own(g, model, clip, "second", -0.4)

    assert_agree(found(server, load), expected(core, server, loras, kohya=0.7, second=-0.4), 1e-4)


@pytest.mark.parametrize("loader", LOADERS)
def test_strength_zero(server, core, loras, loader):
    latents = found(server, lambda g, model, clip: LOADERS[loader](g, model, clip, "kohya", 0.0, 0.0))
    assert_agree(latents, expected(core, server, loras), 1e-4)


@pytest.mark.parametrize("loader", LOADERS)
def test_gemma(server, core, loras, loader):
    latents = found(server, lambda g, model, clip: LOADERS[loader](g, model, clip, "gemma", 0.0, 1.0))
    pipeline = copy.copy(core)
    pipeline.text_encoder = copy.deepcopy(core.text_encoder)
    apply_lora(pipeline.text_encoder, load_lora(loras / "gemma.safetensors"))
    assert_agree(latents, pipeline(PROMPT, NEGATIVE, **SETTINGS), 1e-4)
    assert error(latents, expected(core, server, loras)) > 0.01


@pytest.mark.parametrize("dialect", ["diffusers", "onetrainer", "nvlabs"])
def test_hook(server, core, loras, dialect):
    """As a hook on both prompts a LoRA does what it does in the model."""

    def load(g, model, clip):
        hooks = g.add("CreateHookLoraModelOnly", lora_name=f"{dialect}.safetensors", strength_model=STRENGTH)
        same = {"strength": 1.0, "set_cond_area": "default", "hooks": hooks}
        return model, clip, lambda conditioning: g.add("ConditioningSetProperties", cond_NEW=conditioning, **same)

    assert_agree(found(server, load), expected(core, server, loras, **{dialect: STRENGTH}), 1e-4)


def test_bypass(server, core, loras):
    """ComfyUI's loader that leaves the weights alone, as quantised models need; here factors in convolution shape."""

    def load(g, model, clip):
        return g.add(
            "LoraLoaderBypassModelOnly", model=model, lora_name="diffusers.safetensors", strength_model=STRENGTH
        ), clip

    assert_agree(found(server, load), expected(core, server, loras, diffusers=STRENGTH), 1e-4)


def test_report(server, loras):
    g = Graph()
    model = g.add("UNETLoader", unet_name="sana.safetensors", weight_dtype="default")
    node = g.add(
        "SanaNativeLoadLora", model=model, lora_name="gemma.safetensors", strength_model=0.5, strength_clip=1.0
    )
    preview = g.add("PreviewAny", source=node[2])
    first, *lines = server.run(g)[preview.id]["text"][0].splitlines()
    assert first.endswith("gemma.safetensors: 24 modules of the transformer at strength 0.5")
    assert lines[:3] == ["kind: LoRA", "rank: 4", "alpha: 2"]
    assert lines[3].startswith("9 keys of the text encoder: lora_te_layers_0_self_attn_v_proj.alpha")
    assert lines[4:] == ["1 keys unmatched: nothing.alpha"]
    assert "1 keys fit nothing in this model and are not used: nothing.alpha" in server.output()


@pytest.mark.parametrize("loader", LOADERS)
@pytest.mark.parametrize("name, said", [
    ("width", r"of another model\. Its change of .* is \(288, 48\), the weight here is \(224, 48\)\. Use a LoRA"),
    ("sdxl", "expected a LoRA of this SANA transformer, found a Stable Diffusion or SDXL LoRA"),
])  # fmt: skip
def test_wrong_files(server, loras, loader, name, said):
    with pytest.raises(ExecutionFailed, match=said):
        found(server, lambda g, model, clip: LOADERS[loader](g, model, clip, name))
