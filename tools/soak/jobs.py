"""What the soak asks the server for: pictures of many kinds, and what each of them has to be."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import product
from random import Random

from e2e.server import Graph

THINGS = ("a red apple", "a penguin", "a sunflower", "a fox", "an orange")
NANO = {"text_encoder": "sana_nano_text.safetensors", "vae": "sana_nano_vae.safetensors"}
TINY = {"text_encoder": "gemma_2_2b_fp16.safetensors", "vae": "sana_dc_ae_f32c32_1.1.safetensors"}
MODELS = {
    "sana_nano.safetensors": NANO,
    "sana_nano_sprint.safetensors": NANO,
    "Sana_1600M_1024px_BF16.pth": TINY,
    "SANA1.5_1.6B_1024px.pth": TINY,
    "Sana_Sprint_1.6B_1024px.pth": TINY,
    "Sana_600M_1024px_MultiLing_int8.safetensors": TINY | {"text_encoder": "gemma_2_2b_fp16_fp8.safetensors"},
}
LORAS = {"sana_nano.safetensors": ("sana_nano_style.safetensors", "sana_nano_subject.safetensors")}
CONTROLNETS = {
    "sana_nano.safetensors": "sana_nano_controlnet.safetensors",
    "Sana_1600M_1024px_BF16.pth": "Sana_1600M_1024px_BF16_ControlNet_HED.pth",
}
SIZES = ((256, 256), (224, 320), (320, 192), (256, 384))
WAYS = ("generate", "ksampler", "advanced")
WRONG = ("Sana_1600M_1024px_BF16.pth", "sana_nano_style.safetensors")  # a LoRA of another model
REFUSAL = "this LoRA was trained on a model with"


@dataclass(frozen=True)
class Job:
    """A picture, or two of one prompt. way: the node that samples."""

    model: str
    way: str
    width: int
    height: int
    prompt: str
    seed: int
    steps: int
    batch: int = 1
    lora: str | None = None
    strength: float = 1.0
    control: str | None = None
    tiles: bool = False

    @property
    def is_wrong(self) -> bool:
        """Is it refused?"""
        return (self.model, self.lora) == WRONG

    def graph(self, prefix: str) -> Graph:
        """As a prompt. prefix: of the names of its pictures."""
        g = Graph()
        load = g.add(
            "SanaNativeLoad", model=self.model, native_size="auto", weight_dtype="default", **MODELS[self.model]
        )
        model, clip, vae = load, load[1], load[2]
        if self.lora is not None:
            lora = g.add(
                "SanaNativeLoadLora",
                model=model,
                clip=clip,
                lora_name=self.lora,
                strength_model=self.strength,
                strength_clip=self.strength,
            )
            model, clip = lora, lora[1]
        latent = g.add("EmptyLatentImage", width=self.width, height=self.height, batch_size=self.batch)
        samples = {"generate": self._generate, "ksampler": self._ksampler, "advanced": self._advanced}[self.way](
            g, model, clip, vae, latent
        )
        if self.tiles:
            picture = g.add("SanaNativeDecodeTiled", samples=samples, vae=vae, tile_size="256", method="exact")
        else:
            picture = g.add("VAEDecode", samples=samples, vae=vae)
        g.add("SaveImage", images=picture, filename_prefix=prefix)
        return g

    def _generate(self, g, model, clip, vae, latent):
        inputs = {}
        if self.control is not None:
            net = g.add("SanaNativeLoadControlNet", control_net=self.control, order="upstream")
            inputs = {"control_net": net, "control_image": g.add("LoadImage", image="example.png"), "vae": vae}
        return g.add(
            "SanaNativeGenerate",
            model=model,
            clip=clip,
            latent=latent,
            prompt=self.prompt,
            negative_prompt="",
            width=0,
            height=0,
            steps=0,
            cfg=0.0,
            seed=self.seed,
            denoise=1.0,
            size="as released",
            sampling="own",
            sampling__steps=self.steps,
            sampling__cfg=3.0,
            **inputs,
        )

    def _prompts(self, g, clip):
        return [g.add("CLIPTextEncode", clip=clip, text=text) for text in (self.prompt, "")]

    def _ksampler(self, g, model, clip, vae, latent):
        positive, negative = self._prompts(g, clip)
        return g.add(
            "KSampler",
            model=model,
            positive=positive,
            negative=negative,
            latent_image=latent,
            seed=self.seed,
            steps=self.steps,
            cfg=3.0,
            sampler_name="euler",
            scheduler="simple",
            denoise=1.0,
        )

    def _advanced(self, g, model, clip, vae, latent):
        positive, negative = self._prompts(g, clip)
        return g.add(
            "SamplerCustomAdvanced",
            noise=g.add("RandomNoise", noise_seed=self.seed),
            guider=g.add("CFGGuider", model=model, positive=positive, negative=negative, cfg=3.0),
            sampler=g.add("KSamplerSelect", sampler_name="dpmpp_2m"),
            sigmas=g.add("BasicScheduler", model=model, scheduler="simple", steps=self.steps, denoise=1.0),
            latent_image=latent,
        )


def drawn(random: Random, count: int) -> list[Job]:
    """Different jobs, one in twenty of them refused."""
    kinds = list(product(MODELS, WAYS))
    jobs: dict[Job, None] = {}
    while len(jobs) < count:
        model, way = kinds[len(jobs) % len(kinds)]
        width, height = random.choice(SIZES)
        job = Job(
            model=model,
            way=way,
            width=width,
            height=height,
            prompt=random.choice(THINGS),
            seed=random.randrange(1000),
            steps=random.randint(2, 4),
            batch=random.choice((1, 1, 2)),
            lora=random.choice((None, *LORAS.get(model, ()))),
            strength=random.choice((0.5, 1.0)),
            control=CONTROLNETS.get(model) if way == "generate" and random.random() < 0.5 else None,
            tiles=random.random() < 0.3,
        )
        if len(jobs) % 20 == 19:
            job = replace(job, model=WRONG[0], lora=WRONG[1], control=None)
        jobs[job] = None
    return list(jobs)
