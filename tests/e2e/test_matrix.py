"""Every kind of release with every add-on in every task: ComfyUI's result is that of sana_core.

The pack's sampler runs against the pipeline as it is. KSampler has grids of its own, so its results are compared with
sana_core's parts on those grids. Both run on a real server, from the same files and seeds.
"""

import functools

import pytest
import tiny_lora
import torch
from agreement import assert_agree
from e2e.server import Graph
from PIL import Image
from safetensors.torch import save_file

from sana_core import apply_lora, load_lora, load_pipeline
from sana_core.pictures.images import mask_latents
from sana_core.samplers.flow_euler import sample_flow_euler
from sana_core.samplers.scm import sample_scm

PROMPT, NEGATIVE = "a red apple on a wooden table", "a white cat"
SCALE, GUIDANCE, SEED, LAYER = 0.41407, 4.5, 7, 1
WIDTH, HEIGHT, STEPS, DENOISE = 128, 96, 4, 0.5
CONTROL, PAG, LORA = 0.8, 2.0, 0.7
FILES = {  # kind of release -> (transformer, ControlNet as wide as it)
    "1.0": ("sana.pth", "control.pth"),
    "trained in float16": ("sana_fp16.safetensors", "control.pth"),
    "1.5": ("sana15.safetensors", "control_288.safetensors"),
    "2K": ("sana_2k.pth", "control.safetensors"),
    "4K": ("sana_4k.pth", "control_alone.pth"),
    "Sprint": ("sprint.pth", "control.pth"),
}
ADD_ONS = {
    "plain": (),
    "LoRA": ("lora",),
    "ControlNet": ("control",),
    "PAG": ("pag",),
    "all": ("lora", "control", "pag"),
}
TASKS = ("text to image", "image to image", "inpaint")


@pytest.fixture(scope="module")
def pipelines(server):
    """By release and whether a LoRA is on it."""
    models = server.base / "models"

    @functools.cache
    def pipeline(release, lora):
        transformer, control = FILES[release]
        files = {
            "transformer": models / "diffusion_models" / transformer,
            "controlnet": models / "controlnet" / control,
        }
        rest = {
            "autoencoder": models / "vae" / "dcae.safetensors",
            "text_encoder": models / "text_encoders" / "gemma.safetensors",
        }
        loaded = load_pipeline({**files, **rest}, device="cpu")
        path = models / "loras" / lora_name(release)
        if not path.exists():
            path.parent.mkdir(exist_ok=True)
            save_file(tiny_lora.peft(tiny_lora.factors(loaded.transformer)), path)
        if lora:
            apply_lora(loaded.transformer, load_lora(path), LORA)
        return loaded

    return pipeline


def lora_name(release):
    return f"{FILES[release][0].partition('.')[0]}_lora.safetensors"


class Run:
    """One graph: the model and its conditioning with the add-ons, and the latent of the task."""

    def __init__(self, release, add_ons, task, *, given=None, hooked=False):
        """given: path of tensors for noise, prompts and latent. hooked: the LoRA comes by hooks of the prompts."""
        self.g = g = Graph()
        self.sprint = release == "Sprint"
        transformer, control = FILES[release]
        self.model = g.add("UNETLoader", unet_name=transformer, weight_dtype="default")
        vae = g.add("VAELoader", vae_name="dcae.safetensors")
        clip = g.add("SanaNativeLoadTextEncoder", text_encoder="gemma.safetensors")
        self.noise = g.add("RandomNoise", noise_seed=SEED)
        self.positive = g.add("CLIPTextEncode", clip=clip, text=PROMPT)
        self.negative = g.add("SanaNativeTextEncode", clip=clip, text=NEGATIVE, instruction="none")
        if given:
            tensors = g.add("TestTensors", path=str(given))
            self.noise, self.positive, self.negative = tensors[0], tensors[1], tensors[2]
        picture = g.add("LoadImage", image="picture.png")
        if self.sprint:
            self.positive = g.add("FluxGuidance", conditioning=self.positive, guidance=GUIDANCE)
        lora = {"lora_name": lora_name(release), "strength_model": LORA}
        if "lora" in add_ons and hooked:
            properties = {
                "strength": 1.0,
                "set_cond_area": "default",
                "hooks": g.add("CreateHookLoraModelOnly", **lora),
            }
            self.positive = g.add("ConditioningSetProperties", cond_NEW=self.positive, **properties)
            self.negative = g.add("ConditioningSetProperties", cond_NEW=self.negative, **properties)
        elif "lora" in add_ons:
            self.model = g.add("LoraLoaderModelOnly", model=self.model, **lora)
        if "control" in add_ons:
            net = g.add("ControlNetLoader", control_net_name=control)
            settings = {"strength": CONTROL, "start_percent": 0.0, "end_percent": 1.0, "image": picture, "vae": vae}
            applied = g.add(
                "ControlNetApplyAdvanced",
                positive=self.positive,
                negative=self.negative,
                control_net=net,
                **settings,
            )
            self.positive, self.negative = applied[0], applied[1]
        if "pag" in add_ons:
            settings = {
                "scale": PAG,
                "layers": str(LAYER),
                "adaptive_scale": 0.0,
                "start_percent": 0.0,
                "end_percent": 1.0,
            }
            self.model = g.add("SanaNativePerturbedAttention", model=self.model, **settings)
        if given:
            self.latent = tensors[3]
        elif task == "text to image":
            self.latent = g.add("EmptyLatentImage", width=WIDTH, height=HEIGHT, batch_size=1)
        else:
            self.latent = g.add("VAEEncode", pixels=picture, vae=vae)
        if task == "inpaint":
            self.latent = g.add("SetLatentNoiseMask", samples=self.latent, mask=picture[1])

    def advanced(self, server, denoise=1.0, steps=STEPS):
        g, cfg = self.g, 1.0 if self.sprint else GUIDANCE
        name = "scm" if self.sprint else "flow_dpm"
        guider = g.add("CFGGuider", model=self.model, positive=self.positive, negative=self.negative, cfg=cfg)
        sigmas = g.add("SanaNativeSigmas", model=self.model, schedule=name, steps=steps, shift=0.0, denoise=denoise)
        nodes = {"noise": self.noise, "sampler": g.add("SanaNativeSampler", sampler=name)}
        run = g.add("SamplerCustomAdvanced", guider=guider, sigmas=sigmas, latent_image=self.latent, **nodes)
        return server.latents(g, run) * SCALE

    def ksampler(self, server, denoise):
        settings = {"seed": SEED, "steps": STEPS, "cfg": 1.0 if self.sprint else GUIDANCE, "denoise": denoise}
        names = {"sampler_name": "lcm" if self.sprint else "euler", "scheduler": "simple"}
        links = {"model": self.model, "positive": self.positive, "negative": self.negative, "latent_image": self.latent}
        return server.latents(self.g, self.g.add("KSampler", **settings, **names, **links)) * SCALE


def host_grid(pipeline, denoise):
    """ComfyUI's "simple" schedule: every so many of 1000 sigmas."""
    shift = 3.6025 if pipeline.transformer.config.guidance_embed else pipeline.defaults.shift
    time = torch.arange(1, 1001) / 1000
    sigmas, steps = shift * time / (1 + (shift - 1) * time), int(STEPS / denoise)
    return torch.tensor([*(sigmas[-(1 + int(index * 1000 / steps))] for index in range(steps)), 0.0])[-(STEPS + 1) :]


def by_parts(pipeline, denoise, task, picture, **settings):
    """What KSampler does, with sana_core's parts."""
    sprint = pipeline.transformer.config.guidance_embed
    chosen = {"width": WIDTH, "height": HEIGHT, "steps": STEPS, "guidance_scale": GUIDANCE, "seed": SEED}
    run = pipeline.resolve(PROMPT, NEGATIVE, **chosen, sampler="scm" if sprint else "flow_dpm", **settings)
    begin = pipeline.start(run)
    predict = pipeline.denoiser(run, pipeline.encode_text(run), begin.control)
    sigmas = host_grid(pipeline, denoise)
    x = start = begin.noise
    call = predict
    if task != "text to image":
        original = pipeline.encode_image(picture, run)
        x = sigmas[0] * x + (1 - sigmas[0]) * original
    if task == "inpaint":
        mask = mask_latents(
            Image.open(picture.filename).getchannel("A").point(lambda alpha: 255 - alpha), WIDTH, HEIGHT
        )

        def call(x, sigma):
            kept = sigma * start + (1 - sigma) * original
            return torch.lerp(original, predict(torch.lerp(kept, x, mask), sigma), mask)

    if not sprint:
        return sample_flow_euler(call, x, sigmas)
    generator = torch.Generator().manual_seed(SEED + 1)  # the host's own draw on the CPU
    return sample_scm(call, x, sigmas, step_noise=(torch.randn(x.shape, generator=generator) for _ in range(STEPS)))


@pytest.mark.parametrize("sampler", ["SamplerCustomAdvanced", "KSampler"])
@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("add_ons", ADD_ONS)
@pytest.mark.parametrize("release", FILES)
def test_comfyui_and_sana_core_agree(server, pipelines, release, add_ons, task, sampler):
    chosen, denoise = ADD_ONS[add_ons], DENOISE if task == "image to image" else 1.0
    pipeline = pipelines(release, "lora" in chosen)
    picture = Image.open(server.base / "input" / "picture.png")
    settings = {}
    if "control" in chosen:
        settings |= {"control_image": picture, "control_scale": CONTROL}
    if "pag" in chosen:
        settings |= {"pag_scale": PAG, "pag_layers": [LAYER]}
    run = Run(release, chosen, task)
    with torch.no_grad():
        if sampler == "KSampler":
            assert_agree(run.ksampler(server, denoise), by_parts(pipeline, denoise, task, picture, **settings), 1e-3)
            return
        if task == "image to image":
            settings |= {"image": picture, "strength": DENOISE}
        if task == "inpaint":
            settings |= {"image": picture, "mask": picture.getchannel("A").point(lambda alpha: 255 - alpha)}
        size = {"width": WIDTH, "height": HEIGHT, "steps": round(STEPS / denoise), "guidance_scale": GUIDANCE}
        assert_agree(
            run.advanced(server, denoise),
            pipeline(PROMPT, NEGATIVE, seed=SEED, output="latent", **size, **settings),
            1e-3,
        )


@pytest.mark.parametrize("release", FILES)
def test_add_ons_change_the_result(server, pipelines, release):
    pipelines(release, False)  # writes the LoRA
    results = [Run(release, ADD_ONS[add_ons], "text to image").advanced(server) for add_ons in ADD_ONS]
    for index, result in enumerate(results):
        assert all((result - other).abs().max() > 1e-2 for other in results[:index])


@pytest.mark.parametrize("release", FILES)
def test_a_lora_by_hooks_with_the_other_add_ons(server, pipelines, release):
    pipelines(release, False)
    hooked, loaded = (
        Run(release, ADD_ONS["all"], "text to image", hooked=hooked).advanced(server) for hooked in (True, False)
    )
    assert_agree(hooked, loaded, 1e-4)


@pytest.mark.parametrize("release", FILES)
def test_a_batch_of_two_prompts_with_all_add_ons_is_two_batches_of_one(server, pipelines, release, tmp_path):
    encoder = pipelines(release, False).text_encoder
    states, mask = encoder.encode(["a cat", f"{PROMPT}, {NEGATIVE}"], instruction="default")
    negative, noise = (
        encoder.encode([NEGATIVE])[0],
        torch.randn(2, 32, 3, 4, generator=torch.Generator().manual_seed(1)),
    )

    def run(rows):
        path = tmp_path / f"{rows.start}-{rows.stop}.safetensors"
        tensors = {
            "noise": noise[rows],
            "positive": states[rows],
            "positive_mask": mask[rows].long(),
            "negative": negative,
        }
        save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, path)
        steps = 1 if release == "Sprint" else STEPS  # more draw noise, which is another for a batch
        return Run(release, ADD_ONS["all"], "text to image", given=path).advanced(server, steps=steps)

    assert_agree(run(slice(0, 2)), torch.cat([run(slice(0, 1)), run(slice(1, 2))]), 1e-4)
