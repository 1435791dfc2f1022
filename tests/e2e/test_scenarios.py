"""ComfyUI's own nodes on SANA models, through the HTTP queue of a real server.

Each scenario is a function that builds a graph and returns the node whose IMAGE is looked at; its name is the test's.
Pictures are 128 x 96 unless a scenario says otherwise. Tiny random models draw nothing to look at, so the tests ask for
size, life, and who equals whom.
"""

import numpy as np
import pytest
from e2e.server import Graph

PROMPT, NEGATIVE = "a red apple on a wooden table", "a white cat, highly detailed, in a windowsill"
SCENARIOS = {}
SIZES = {}  # (batch, height, width), where it is not (1, 96, 128)


def scenario(function=None, *, size=(1, 96, 128)):
    if function is None:
        return lambda function: scenario(function, size=size)
    SCENARIOS[function.__name__] = function
    SIZES[function.__name__] = size
    return function


class Parts:
    """The usual beginning of a graph."""

    def __init__(self, g, model="sana.safetensors", vae="dcae.safetensors", latent=None):
        self.g = g
        self.model = g.add("UNETLoader", unet_name=model, weight_dtype="default")
        self.clip = g.add("SanaNativeLoadTextEncoder", text_encoder="gemma.safetensors")
        self.vae = g.add("VAELoader", vae_name=vae)
        self.positive = g.add("CLIPTextEncode", clip=self.clip, text=PROMPT)
        self.negative = g.add("CLIPTextEncode", clip=self.clip, text=NEGATIVE)
        self.latent = latent or g.add("EmptyLatentImage", width=128, height=96, batch_size=1)

    def sample(self, **changes):
        """KSampler with whatever stands in `changes`."""
        settings = {"seed": 3, "steps": 3, "cfg": 4.5, "sampler_name": "euler", "scheduler": "simple", "denoise": 1.0}
        links = {"model": self.model, "positive": self.positive, "negative": self.negative, "latent_image": self.latent}
        return self.g.add("KSampler", **{**settings, **links, **changes})

    def picture(self, **changes):
        return self.g.add("VAEDecode", samples=self.sample(**changes), vae=self.vae)

    def encoded(self):
        """The input picture as a latent, and its mask."""
        image = self.g.add("LoadImage", image="picture.png")
        return self.g.add("VAEEncode", pixels=image, vae=self.vae), image


# --- loaders


@scenario
def unet_loader(g):
    return Parts(g).picture()


@scenario
def unet_loader_original_pth(g):
    return Parts(g, "sana.pth").picture()


@scenario
def unet_loader_prefixed(g):
    return Parts(g, "sana_prefixed.safetensors").picture()


@scenario
def unet_loader_sana15(g):
    return Parts(g, "sana15.safetensors").picture()


@scenario
def unet_loader_fp8(g):
    parts = Parts(g)
    model = g.add("UNETLoader", unet_name="sana.safetensors", weight_dtype="fp8_e4m3fn")
    return parts.picture(model=model)


@scenario
def vae_loader_original(g):
    return Parts(g, vae="dcae_mit.safetensors").picture()


@scenario
def vae_loader_lite(g):
    return Parts(g, vae="dcae_lite.safetensors").picture()


@scenario
def load_sana(g):
    loader = g.add(
        "SanaNativeLoad",
        model="sana.safetensors",
        text_encoder="gemma.safetensors",
        vae="dcae.safetensors",
        native_size="auto",
        weight_dtype="default",
    )
    parts = Parts(g)
    parts.positive = g.add("CLIPTextEncode", clip=loader[1], text=PROMPT)
    parts.vae = loader[2]
    return parts.picture(model=loader[0])


# --- latents


@scenario(size=(1, 64, 192))
def empty_latent_wide(g):
    return Parts(g, latent=g.add("EmptyLatentImage", width=192, height=64, batch_size=1)).picture()


@scenario(size=(1, 64, 96))
def empty_latent_odd_size(g):
    return Parts(g, latent=g.add("EmptyLatentImage", width=104, height=72, batch_size=1)).picture()


@scenario(size=(2, 96, 128))
def empty_latent_batch(g):
    return Parts(g, latent=g.add("EmptyLatentImage", width=128, height=96, batch_size=2)).picture()


@scenario
def empty_sd3_latent(g):
    return Parts(g, latent=g.add("EmptySD3LatentImage", width=128, height=96, batch_size=1)).picture()


@scenario
def empty_sana_latent(g):
    latent = g.add(
        "SanaNativeEmptyLatent", resolution="custom", resolution__width=128, resolution__height=96, batch_size=1
    )
    return Parts(g, latent=latent).picture()


@scenario
def latent_from_batch(g):
    batch = g.add("EmptyLatentImage", width=128, height=96, batch_size=2)
    return Parts(g, latent=g.add("LatentFromBatch", samples=batch, batch_index=1, length=1)).picture()


@scenario(size=(1, 192, 256))
def upscaled_second_pass(g):
    parts = Parts(g)
    larger = g.add("LatentUpscaleBy", samples=parts.sample(), upscale_method="bilinear", scale_by=2.0)
    return parts.picture(latent_image=larger, denoise=0.5)


@scenario(size=(2, 96, 128))
def repeated_latent(g):
    parts = Parts(g)
    return parts.picture(latent_image=g.add("RepeatLatentBatch", samples=parts.latent, amount=2))


# --- pictures as a start


@scenario
def vae_round_trip(g):
    parts = Parts(g)
    return g.add("VAEDecode", samples=parts.encoded()[0], vae=parts.vae)


@scenario
def image_to_image(g):
    parts = Parts(g)
    return parts.picture(latent_image=parts.encoded()[0], denoise=0.5)


@scenario
def noise_mask(g):
    parts = Parts(g)
    latent, image = parts.encoded()
    return parts.picture(latent_image=g.add("SetLatentNoiseMask", samples=latent, mask=image[1]))


@scenario
def vae_encode_for_inpaint(g):
    parts = Parts(g)
    image = g.add("LoadImage", image="picture.png")
    return parts.picture(
        latent_image=g.add("VAEEncodeForInpaint", pixels=image, vae=parts.vae, mask=image[1], grow_mask_by=6)
    )


@scenario
def inpaint_model_conditioning(g):
    parts = Parts(g)
    image = g.add("LoadImage", image="picture.png")
    inpaint = g.add(
        "InpaintModelConditioning",
        positive=parts.positive,
        negative=parts.negative,
        vae=parts.vae,
        pixels=image,
        mask=image[1],
        noise_mask=True,
    )
    return parts.picture(positive=inpaint[0], negative=inpaint[1], latent_image=inpaint[2])


@scenario
def differential_diffusion(g):
    parts = Parts(g)
    latent, image = parts.encoded()
    masked = g.add("SetLatentNoiseMask", samples=latent, mask=image[1])
    return parts.picture(model=g.add("DifferentialDiffusion", model=parts.model, strength=1.0), latent_image=masked)


@scenario
def vae_decode_tiled(g):
    parts = Parts(g)
    return g.add(
        "VAEDecodeTiled",
        samples=parts.sample(),
        vae=parts.vae,
        tile_size=128,
        overlap=32,
        temporal_size=64,
        temporal_overlap=8,
    )


@scenario
def vae_encode_tiled(g):
    parts = Parts(g)
    image = g.add("LoadImage", image="picture.png")
    tiled = g.add(
        "VAEEncodeTiled", pixels=image, vae=parts.vae, tile_size=128, overlap=32, temporal_size=64, temporal_overlap=8
    )
    return parts.picture(latent_image=tiled, denoise=0.5)


# --- samplers


def sampled_with(name, scheduler="simple"):
    def build(g):
        return Parts(g).picture(sampler_name=name, scheduler=scheduler)

    build.__name__ = f"ksampler_{name}_{scheduler}"
    return scenario(build)


for name in ("dpmpp_2m", "dpmpp_2m_sde", "uni_pc", "res_multistep", "lcm", "er_sde", "heun", "ddim", "euler_ancestral"):
    sampled_with(name)
for name in ("normal", "sgm_uniform", "beta", "karras"):
    sampled_with("euler", name)


@scenario
def ksampler_advanced_in_two_parts(g):
    parts = Parts(g)
    links = {"model": parts.model, "positive": parts.positive, "negative": parts.negative}
    settings = {**links, "noise_seed": 3, "steps": 3, "cfg": 4.5, "sampler_name": "euler", "scheduler": "simple"}
    first = {
        "add_noise": "enable",
        "start_at_step": 0,
        "end_at_step": 2,
        "return_with_leftover_noise": "enable",
        "latent_image": parts.latent,
    }
    half = g.add("KSamplerAdvanced", **settings, **first)
    second = {
        "add_noise": "disable",
        "start_at_step": 2,
        "end_at_step": 99,
        "return_with_leftover_noise": "disable",
        "latent_image": half,
    }
    return g.add("VAEDecode", samples=g.add("KSamplerAdvanced", **settings, **second), vae=parts.vae)


def advanced(parts, guider, sampler=None, sigmas=None):
    g = parts.g
    sampler = sampler or g.add("KSamplerSelect", sampler_name="euler")
    sigmas = sigmas or g.add("BasicScheduler", model=parts.model, scheduler="simple", steps=3, denoise=1.0)
    noise = g.add("RandomNoise", noise_seed=3)
    run = g.add(
        "SamplerCustomAdvanced", noise=noise, guider=guider, sampler=sampler, sigmas=sigmas, latent_image=parts.latent
    )
    return g.add("VAEDecode", samples=run, vae=parts.vae)


@scenario
def sampler_custom_advanced(g):
    parts = Parts(g)
    return advanced(
        parts, g.add("CFGGuider", model=parts.model, positive=parts.positive, negative=parts.negative, cfg=4.5)
    )


@scenario
def sampler_custom(g):
    parts = Parts(g)
    sampler = g.add("KSamplerSelect", sampler_name="euler")
    sigmas = g.add("BasicScheduler", model=parts.model, scheduler="simple", steps=3, denoise=1.0)
    links = {"model": parts.model, "positive": parts.positive, "negative": parts.negative, "latent_image": parts.latent}
    run = g.add("SamplerCustom", add_noise=True, noise_seed=3, cfg=4.5, sampler=sampler, sigmas=sigmas, **links)
    return g.add("VAEDecode", samples=run, vae=parts.vae)


@scenario
def basic_guider(g):
    parts = Parts(g)
    return advanced(parts, g.add("BasicGuider", model=parts.model, conditioning=parts.positive))


@scenario
def ksampler_without_guidance(g):
    return Parts(g).picture(cfg=1.0)


@scenario
def dual_cfg_guider(g):
    parts = Parts(g)
    links = {"model": parts.model, "cond1": parts.positive, "cond2": parts.negative, "negative": parts.negative}
    return advanced(parts, g.add("DualCFGGuider", **links, cfg_conds=4.0, cfg_cond2_negative=2.0, style="regular"))


@scenario
def split_sigmas(g):
    parts = Parts(g)
    guider = g.add("CFGGuider", model=parts.model, positive=parts.positive, negative=parts.negative, cfg=4.5)
    sampler = g.add("KSamplerSelect", sampler_name="euler")
    parted = g.add(
        "SplitSigmas",
        sigmas=g.add("BasicScheduler", model=parts.model, scheduler="simple", steps=3, denoise=1.0),
        step=1,
    )
    links = {"guider": guider, "sampler": sampler}
    noise = g.add("RandomNoise", noise_seed=3)
    first = g.add("SamplerCustomAdvanced", noise=noise, sigmas=parted[0], latent_image=parts.latent, **links)
    second = g.add("SamplerCustomAdvanced", noise=g.add("DisableNoise"), sigmas=parted[1], latent_image=first, **links)
    return g.add("VAEDecode", samples=second, vae=parts.vae)


@scenario
def sana_sampler_and_sigmas(g):
    parts = Parts(g)
    guider = g.add("CFGGuider", model=parts.model, positive=parts.positive, negative=parts.negative, cfg=4.5)
    sigmas = g.add("SanaNativeSigmas", model=parts.model, schedule="flow_dpm", steps=3, shift=0.0, denoise=1.0)
    return advanced(parts, guider, g.add("SanaNativeSampler", sampler="flow_dpm"), sigmas)


@scenario
def sana_generate(g):
    parts = Parts(g)
    settings = {"width": 128, "height": 96, "seed": 3, "steps": 3, "cfg": 0.0, "denoise": 1.0}
    run = g.add("SanaNativeGenerate", model=parts.model, clip=parts.clip, prompt=PROMPT, negative_prompt="", **settings)
    return g.add("VAEDecode", samples=run, vae=parts.vae)


# --- conditioning


@scenario
def sana_text_encode(g):
    parts = Parts(g)
    return parts.picture(positive=g.add("SanaNativeTextEncode", clip=parts.clip, text=PROMPT, instruction="upstream"))


@scenario
def conditioning_combine(g):
    parts = Parts(g)
    return parts.picture(
        positive=g.add("ConditioningCombine", conditioning_1=parts.positive, conditioning_2=parts.negative)
    )


@scenario
def conditioning_concat(g):
    parts = Parts(g)
    return parts.picture(
        positive=g.add("ConditioningConcat", conditioning_to=parts.positive, conditioning_from=parts.negative)
    )


@scenario
def conditioning_average(g):
    parts = Parts(g)
    links = {"conditioning_to": parts.positive, "conditioning_from": parts.negative}
    return parts.picture(positive=g.add("ConditioningAverage", **links, conditioning_to_strength=0.5))


@scenario
def conditioning_zero_out(g):
    parts = Parts(g)
    return parts.picture(negative=g.add("ConditioningZeroOut", conditioning=parts.positive))


@scenario
def conditioning_timestep_range(g):
    parts = Parts(g)
    early = g.add("ConditioningSetTimestepRange", conditioning=parts.positive, start=0.0, end=0.5)
    late = g.add("ConditioningSetTimestepRange", conditioning=parts.negative, start=0.5, end=1.0)
    return parts.picture(positive=g.add("ConditioningCombine", conditioning_1=early, conditioning_2=late))


@scenario
def conditioning_area_percentage(g):
    parts = Parts(g)
    area = g.add(
        "ConditioningSetAreaPercentage", conditioning=parts.negative, width=0.5, height=1.0, x=0.0, y=0.0, strength=1.0
    )
    return parts.picture(positive=g.add("ConditioningCombine", conditioning_1=parts.positive, conditioning_2=area))


@scenario
def conditioning_area(g):
    parts = Parts(g)
    return parts.picture(
        positive=g.add("ConditioningSetArea", conditioning=parts.positive, width=64, height=64, x=0, y=0, strength=1.0)
    )


@scenario
def conditioning_mask(g):
    parts = Parts(g)
    image = g.add("LoadImage", image="picture.png")
    masked = g.add(
        "ConditioningSetMask", conditioning=parts.negative, mask=image[1], strength=1.0, set_cond_area="default"
    )
    return parts.picture(positive=g.add("ConditioningCombine", conditioning_1=parts.positive, conditioning_2=masked))


# --- model patches


@scenario
def model_sampling_sd3(g):
    parts = Parts(g)
    return parts.picture(model=g.add("ModelSamplingSD3", model=parts.model, shift=6.0))


@scenario
def rescale_cfg(g):
    parts = Parts(g)
    return parts.picture(model=g.add("RescaleCFG", model=parts.model, multiplier=0.7))


@scenario
def renorm_cfg(g):
    parts = Parts(g)
    return parts.picture(model=g.add("RenormCFG", model=parts.model, cfg_trunc=100.0, renorm_cfg=1.0))


@scenario
def skip_layer_guidance(g):
    parts = Parts(g)
    settings = {
        "double_layers": "1",
        "single_layers": "",
        "scale": 3.0,
        "start_percent": 0.0,
        "end_percent": 1.0,
        "rescaling_scale": 0.0,
    }
    return parts.picture(model=g.add("SkipLayerGuidanceDiT", model=parts.model, **settings))


@scenario
def stock_perturbed_attention_guidance(g):
    parts = Parts(g)
    return parts.picture(model=g.add("PerturbedAttentionGuidance", model=parts.model, scale=3.0))


@scenario
def easy_cache(g):
    parts = Parts(g)
    settings = {"reuse_threshold": 3.0, "start_percent": 0.1, "end_percent": 0.95, "verbose": True}
    return parts.picture(model=g.add("EasyCache", model=parts.model, **settings), steps=8)


@scenario
def without_easy_cache(g):
    return Parts(g).picture(steps=8)


@scenario
def flux_guidance(g):
    parts = Parts(g)
    return parts.picture(positive=g.add("FluxGuidance", conditioning=parts.positive, guidance=2.0))


@scenario
def model_merge_all_of_one(g):
    parts = Parts(g)
    other = g.add("UNETLoader", unet_name="sana_other.safetensors", weight_dtype="default")
    return parts.picture(model=g.add("ModelMergeSimple", model1=parts.model, model2=other, ratio=1.0))


@scenario
def model_merge_half(g):
    parts = Parts(g)
    other = g.add("UNETLoader", unet_name="sana_other.safetensors", weight_dtype="default")
    return parts.picture(model=g.add("ModelMergeSimple", model1=parts.model, model2=other, ratio=0.5))


# --- Sprint


@scenario
def sprint(g):
    return Parts(g, "sprint.safetensors").picture(sampler_name="lcm", steps=2, cfg=1.0)


@scenario
def sprint_original_pth(g):
    return Parts(g, "sprint.pth").picture(sampler_name="lcm", steps=2, cfg=1.0)


@scenario
def sprint_with_guidance(g):
    parts = Parts(g, "sprint.safetensors")
    guided = g.add("FluxGuidance", conditioning=parts.positive, guidance=4.5)
    return parts.picture(positive=guided, sampler_name="lcm", steps=2, cfg=1.0)


@scenario
def sprint_with_other_guidance(g):
    parts = Parts(g, "sprint.safetensors")
    guided = g.add("FluxGuidance", conditioning=parts.positive, guidance=1.0)
    return parts.picture(positive=guided, sampler_name="lcm", steps=2, cfg=1.0)


@scenario
def sprint_with_model_sampling(g):
    parts = Parts(g, "sprint.safetensors")
    shifted = g.add("ModelSamplingSD3", model=parts.model, shift=3.6025)
    return parts.picture(model=shifted, sampler_name="lcm", steps=2, cfg=1.0)


# --- the tests


@pytest.fixture(scope="module")
def pictures(server):
    """The pictures of a scenario by name, each drawn once."""
    drawn = {}

    def draw(name):
        if name not in drawn:
            graph = Graph()
            drawn[name] = server.pictures(graph, SCENARIOS[name](graph))
        return drawn[name]

    return draw


@pytest.mark.parametrize("name", SCENARIOS)
def test_scenario_runs(pictures, name):
    found = pictures(name)
    assert found.shape == (*SIZES[name], 3)
    assert found.std() > 1.0  # not one colour


SAME = [
    ("unet_loader_original_pth", "unet_loader"),
    ("unet_loader_prefixed", "unet_loader"),
    ("vae_loader_original", "unet_loader"),
    ("load_sana", "unet_loader"),
    ("empty_sd3_latent", "unet_loader"),
    ("empty_sana_latent", "unet_loader"),
    ("sampler_custom_advanced", "unet_loader"),
    ("sampler_custom", "unet_loader"),
    ("ksampler_advanced_in_two_parts", "unet_loader"),
    ("split_sigmas", "unet_loader"),
    ("basic_guider", "ksampler_without_guidance"),
    ("sana_text_encode", "unet_loader"),
    ("flux_guidance", "unet_loader"),
    ("model_merge_all_of_one", "unet_loader"),
    ("sprint_original_pth", "sprint"),
    ("sprint_with_guidance", "sprint"),
    ("sprint_with_model_sampling", "sprint"),
]
DIFFERENT = [
    ("unet_loader_sana15", "unet_loader"),
    ("vae_loader_lite", "unet_loader"),
    ("image_to_image", "unet_loader"),
    ("image_to_image", "vae_round_trip"),
    ("conditioning_combine", "unet_loader"),
    ("conditioning_concat", "unet_loader"),
    ("conditioning_average", "unet_loader"),
    ("conditioning_zero_out", "unet_loader"),
    ("conditioning_timestep_range", "unet_loader"),
    ("conditioning_area_percentage", "conditioning_combine"),
    ("conditioning_mask", "conditioning_combine"),
    ("model_sampling_sd3", "unet_loader"),
    ("rescale_cfg", "unet_loader"),
    ("skip_layer_guidance", "unet_loader"),
    ("stock_perturbed_attention_guidance", "unet_loader"),
    ("easy_cache", "without_easy_cache"),
    ("model_merge_half", "unet_loader"),
    ("ksampler_without_guidance", "unet_loader"),
    ("dual_cfg_guider", "unet_loader"),
    ("sprint_with_other_guidance", "sprint"),
]


@pytest.mark.parametrize("name, other", SAME)
def test_same_picture(pictures, name, other):
    difference = np.abs(pictures(name).astype(int) - pictures(other).astype(int))
    assert difference.max() <= 1  # of 255


@pytest.mark.parametrize("name, other", DIFFERENT)
def test_different_picture(pictures, name, other):
    difference = np.abs(pictures(name).astype(int) - pictures(other).astype(int))
    assert difference.mean() > 0.5


def test_second_of_a_batch(pictures):
    assert (
        np.abs(pictures("latent_from_batch")[0].astype(int) - pictures("empty_latent_batch")[1].astype(int)).max() <= 1
    )


@pytest.mark.parametrize("name", ["noise_mask", "differential_diffusion"])
def test_only_what_lies_under_the_mask_changes(pictures, name):
    """The mask is the left half, two latent cells of four; the decoder sees the whole picture, so the far side moves a
    little.
    """
    change = np.abs(pictures(name)[0].astype(int) - pictures("vae_round_trip")[0].astype(int)).mean(axis=(0, 2))
    assert change[:64].mean() > 4 * change[96:].mean()
