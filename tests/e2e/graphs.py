"""The usual beginning of a graph, and its KSampler."""

from e2e.server import Graph

PROMPT, NEGATIVE = "a red apple on a wooden table", "a white cat, highly detailed, in a windowsill"
SCALE = 0.41407  # LATENT holds raw latents, sana_core's are of unit variance
KSAMPLER = {"seed": 3, "steps": 3, "cfg": 4.5, "sampler_name": "euler", "scheduler": "simple", "denoise": 1.0}


class Parts:
    """Model, text encoder, VAE, two conditionings and an empty latent of 128 x 96."""

    def __init__(self, g=None, model="sana.safetensors", vae="dcae.safetensors", latent=None, plain=False):
        """g: the graph they are added to, by default one of their own. plain: the host calls sana_core's own network,
        loaded from the same file, in place of the pack's.
        """
        self.g = g = Graph() if g is None else g
        self.model = g.add("UNETLoader", unet_name=model, weight_dtype="default")
        if plain:
            self.model = g.add("TestPlainNetwork", model=self.model, unet_name=model)
        self.clip = g.add("SanaNativeLoadTextEncoder", text_encoder="gemma.safetensors")
        self.vae = g.add("VAELoader", vae_name=vae)
        self.positive = g.add("CLIPTextEncode", clip=self.clip, text=PROMPT)
        self.negative = g.add("CLIPTextEncode", clip=self.clip, text=NEGATIVE)
        self.latent = latent or self.empty()

    def empty(self, width=128, height=96, batch=1):
        return self.g.add("EmptyLatentImage", width=width, height=height, batch_size=batch)

    def image(self):
        """The input picture: IMAGE, and as output 1 the MASK of its transparent half."""
        return self.g.add("LoadImage", image="picture.png")

    def encoded(self):
        """The input picture as LATENT, and its MASK."""
        image = self.image()
        return self.g.add("VAEEncode", pixels=image, vae=self.vae), image[1]

    def links(self, **changes):
        """What every KSampler is connected to."""
        names = {"model": self.model, "positive": self.positive, "negative": self.negative, "latent_image": self.latent}
        return {**names, **changes}

    def sample(self, **changes):
        """KSampler's LATENT, with whatever stands in `changes`."""
        return self.g.add("KSampler", **KSAMPLER | self.links(**changes))

    def advanced(self, guider=None, *, sampler=None, sigmas=None, noise=None, latent=None):
        """SamplerCustomAdvanced's LATENT, by default of the same run as KSampler's."""
        g = self.g
        return g.add(
            "SamplerCustomAdvanced",
            noise=noise or g.add("RandomNoise", noise_seed=KSAMPLER["seed"]),
            guider=guider or self.guider(),
            sampler=sampler or g.add("KSamplerSelect", sampler_name="euler"),
            sigmas=sigmas or g.add("BasicScheduler", model=self.model, scheduler="simple", steps=3, denoise=1.0),
            latent_image=latent or self.latent,
        )

    def guider(self):
        links = {"model": self.model, "positive": self.positive, "negative": self.negative}
        return self.g.add("CFGGuider", cfg=KSAMPLER["cfg"], **links)

    def decode(self, latent):
        return self.g.add("VAEDecode", samples=latent, vae=self.vae)

    def picture(self, **changes):
        """KSampler's result as IMAGE."""
        return self.decode(self.sample(**changes))


def latents(server, build, **parts):
    """What `build(parts)` makes, a LATENT: (B, 32, h, w) of unit variance."""
    made = Parts(**parts)
    return server.latents(made.g, build(made)) * SCALE


def pictures(server, build, **parts):
    """What `build(parts)` makes, an IMAGE: (B, H, W, 3), levels of 0 to 255."""
    made = Parts(**parts)
    return server.pictures(made.g, build(made)).astype(int)
