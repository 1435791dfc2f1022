"""What ComfyUI's KSampler must come to, from sana_core's parts and the same files."""

import numpy as np
import torch
from e2e.graphs import KSAMPLER, NEGATIVE, PROMPT
from PIL import Image

from sana_core import load_pipeline
from sana_core.latents import noise
from sana_core.samplers.denoiser import make_denoiser
from sana_core.samplers.flow_euler import sample_flow_euler

SPRINT_SHIFT = 3.6025


class Core:
    """sana_core's networks, and the host's rules of when and how they are called."""

    def __init__(self, server, model="sana.safetensors", vae="dcae.safetensors"):
        models = server.base / "models"
        files = {"transformer": models / "diffusion_models" / model, "autoencoder": models / "vae" / vae}
        text_encoder = {"text_encoder": models / "text_encoders" / "gemma.safetensors"}
        self.pipeline = load_pipeline({**files, **text_encoder}, device="cpu")
        self.transformer = self.pipeline.transformer
        self.positive, self.negative = self.text(PROMPT), self.text(NEGATIVE)
        self.picture = server.base / "input" / "picture.png"

    def text(self, prompt):
        """CLIPTextEncode puts SANA's instruction before every prompt."""
        return self.pipeline.text_encoder.encode([prompt], instruction="default")

    def shift(self):
        return SPRINT_SHIFT if self.transformer.config.guidance_embed else self.pipeline.defaults.shift

    def simple(self, steps=KSAMPLER["steps"], denoise=1.0, shift=None):
        """The schedule "simple": every so many of 1000 sigmas, the last `steps` of them."""
        sigmas = shifted(torch.arange(1, 1001) / 1000, shift or self.shift())
        whole = int(steps / denoise)
        grid = [sigmas[-(1 + int(index * 1000 / whole))] for index in range(whole)]
        return torch.tensor([*grid, 0.0])[-(steps + 1) :]

    @torch.no_grad()
    def pixels(self):
        """The input picture, (1, 3, 96, 128) in 0..1."""
        with Image.open(self.picture) as picture:
            return torch.from_numpy(np.asarray(picture.convert("RGB")).copy()).permute(2, 0, 1)[None] / 255.0

    def predict(self, positive=None, negative=None, cfg=KSAMPLER["cfg"], batch=1, **more):
        """`denoise(x, sigma)` of the two prompts, for a batch of latents."""
        texts = (
            tuple(part.expand(batch, *part.shape[1:]) for part in text)
            for text in (positive or self.positive, negative or self.negative)
        )
        return make_denoiser(self.transformer, *texts, guidance_scale=cfg, **more)

    def guided(self, conditional, unconditional=None, cfg=KSAMPLER["cfg"]):
        """`denoise(x, sigma)` of two such functions, by default of the negative prompt for the second."""
        unconditional = unconditional or self.predict(self.negative, cfg=1.0)
        return lambda x, sigma: torch.lerp(unconditional(x, sigma), conditional(x, sigma), cfg)

    @torch.no_grad()
    def ksampler(self, *, seed=3, steps=3, cfg=4.5, denoise=1.0, start=None, mask=None, drawn=None, **changes):
        """Euler on the schedule "simple". Latents (B, 32, h, w) of unit variance.

        start: latents to begin with; mask: (B, 1, h, w), how much of a cell is redrawn; drawn: the noise, of `start`'s
        shape; changes: `grid`, sigmas in place of the schedule's, `predict`, or arguments of it.
        """
        start = torch.zeros(1, 32, 3, 4) if start is None else start
        drawn = noise(start.shape, seed) if drawn is None else drawn
        grid = changes.pop("grid", None)
        grid = self.simple(steps, denoise) if grid is None else grid
        predict = changes.pop("predict", None) or self.predict(cfg=cfg, batch=len(start), **changes)

        def noisy(sigma):
            return drawn if sigma >= 0.999 else sigma * drawn + (1.0 - sigma) * start  # from there on: pure noise

        def redraw(x, sigma):
            return torch.lerp(start, predict(torch.lerp(noisy(sigma), x, mask), sigma), mask)

        return sample_flow_euler(predict if mask is None else redraw, noisy(grid[0].item()), grid)

    @torch.no_grad()
    def decode(self, latents):
        """(B, H, W, 3), levels of 0 to 255, cut off as ComfyUI does."""
        levels = self.pipeline.decode(latents, pil=False) * 255.0
        return levels.permute(0, 2, 3, 1).clamp(0, 255).byte().numpy().astype(int)

    @torch.no_grad()
    def encode(self, pixels):
        """Pixels (B, 3, H, W) in 0..1 -> latents of unit variance."""
        return self.pipeline.autoencoder.encode(pixels * 2.0 - 1.0)


def shifted(time, shift):
    """sigma of a time in 0..1 (SD3, arXiv:2403.03206, eq. 23)."""
    return shift * time / (1.0 + (shift - 1.0) * time)
