"""One guided step, in diffusers and in sana_core, in all the ways it can be run. New ways are added here.

Both get the same latent, time and prompts. A prompt of `tokens` tokens and an empty negative prompt run as a batch of
two, the negative first. diffusers sees them as its pipeline hands them over: padded to 300 tokens, with a mask.
sana_core sees the tokens alone, and computes the keys and values of a prompt once, as its pipeline does.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from bench.networks import transformer_like
from bench.paired import Run
from sana_core.config import TransformerConfig
from sana_core.geometry import DC_AE_F32
from sana_core.samplers.denoiser import EncodedText, batch_contexts, make_denoiser
from sana_core.transformer.model import SanaTransformer
from sana_core.transformer.replay import Replay

PADDED = 300  # tokens of a prompt in diffusers
GUIDANCE = 4.5
WARM_UPS = 3  # runs before a CUDA graph is captured


@dataclass(frozen=True, kw_only=True)
class Step:
    """What one step is given. prompts: the negative one, if there is guidance by two predictions, and the prompt."""

    config: TransformerConfig
    noise: Tensor  # (1, 32, h, w), float32
    prompts: list[Tensor]  # (1, tokens, caption channels)
    time: float = 500.0

    @property
    def texts(self) -> list[EncodedText]:
        return [(states, None) for states in self.prompts]

    def latent(self) -> Tensor:
        return torch.cat([self.noise] * len(self.prompts)).to(self.prompts[0].dtype)

    def times(self) -> Tensor:
        return self.noise.new_full((len(self.prompts),), self.time)

    def guidance(self) -> Tensor | None:
        """Sprint's, which is an input of the network."""
        return self.noise.new_full((len(self.prompts),), GUIDANCE) if self.config.guidance_embed else None


def make_step(config: TransformerConfig, pixels: int, tokens: int, device: torch.device, dtype: torch.dtype) -> Step:
    """Random inputs, the same for the same arguments."""
    generator = torch.Generator().manual_seed(pixels + tokens)
    side = pixels // DC_AE_F32.downscale
    noise = torch.randn(1, config.latent_channels, side, side, generator=generator).to(device)
    lengths = [tokens] if config.guidance_embed else [1, tokens]
    prompts = [torch.randn(1, n, config.caption_channels, generator=generator).to(device, dtype) for n in lengths]
    return Step(config=config, noise=noise, prompts=prompts)


def padded(step: Step) -> tuple[Tensor, Tensor]:
    """Text states (B, 300, C) and mask (B, 300) of 0 and 1, as diffusers' pipeline makes them."""
    shape = (len(step.prompts), max(PADDED, *(states.shape[1] for states in step.prompts)))
    states = step.prompts[0].new_zeros(*shape, step.config.caption_channels)
    mask = step.prompts[0].new_zeros(shape)
    for row, prompt in enumerate(step.prompts):
        states[row, : prompt.shape[1]] = prompt[0]
        mask[row, : prompt.shape[1]] = 1
    return states, mask


def diffusers_call(network: Any, step: Step) -> Callable[[Tensor, Tensor], Tensor]:
    """(latent, times) -> velocity, by diffusers' network."""
    states, mask = padded(step)
    guidance = step.guidance()

    def call(latent: Tensor, times: Tensor) -> Tensor:
        return network(
            hidden_states=latent,
            encoder_hidden_states=states,
            encoder_attention_mask=mask,
            timestep=times * step.config.timestep_scale,
            guidance=None if guidance is None else guidance * 0.1,
            return_dict=False,
        )[0]

    return call


def diffusers_step(network: Any, step: Step) -> Run:
    return partial(diffusers_call(network, step), step.latent(), step.times())


def own_step(network: SanaTransformer, step: Step, *, remember: bool = True, replay: bool = False) -> Run:
    """remember: keys and values of the prompts are computed once, as in the pipeline.  replay: as a CUDA graph where
    the pipeline does so.
    """
    latent, times, guidance = step.latent(), step.times(), step.guidance()
    text = batch_contexts(step.texts)
    if not remember:
        return lambda: network(latent, times, *text, guidance=guidance)
    caption, predict = network.caption(*text, remember=True), Replay(network) if replay else network
    return lambda: predict(latent, times, caption, guidance=guidance)


def diffusers_loop(network: Any, step: Step, sigmas: list[float], truncate: bool = False) -> Run:
    """Euler's steps through `sigmas` with guidance, as diffusers' pipeline makes them.

    truncate: the network sees whole timesteps.
    """
    call = diffusers_call(network, step)

    def run() -> Tensor:
        x = step.noise
        for sigma, lower in pairwise(sigmas):
            time = float(int(1000 * sigma)) if truncate else 1000 * sigma
            velocity = call(
                torch.cat([x] * len(step.prompts)).to(step.prompts[0].dtype), step.times().fill_(time)
            ).float()
            if len(velocity) == 2:
                uncond, cond = velocity.chunk(2)
                velocity = uncond + GUIDANCE * (cond - uncond)
            x = x + (lower - sigma) * velocity
        return x

    return run


def own_loop(network: SanaTransformer, step: Step, sigmas: list[float], replay: bool = False) -> Run:
    """The same through `make_denoiser`, keys and values of the prompts included, and the CUDA graph if there is one."""

    def run() -> Tensor:
        *uncond, cond = step.texts
        denoise = make_denoiser(
            network,
            cond,
            uncond[0] if uncond else None,
            guidance_scale=GUIDANCE,
            truncate_timestep=False,
            predict=Replay(network) if replay else None,
        )
        x = step.noise
        for sigma, lower in pairwise(sigmas):
            x = torch.lerp(denoise(x, sigma), x, lower / sigma)
        return x

    return run


def twin(theirs: Any) -> Any:
    """Another of diffusers' networks on the same weights."""
    with torch.device("meta"):
        other = type(theirs).from_config(theirs.config)
    other.load_state_dict(theirs.state_dict(), assign=True)
    for name, buffer in theirs.named_buffers():
        place, _, last = name.rpartition(".")
        other.get_submodule(place).register_buffer(last, buffer, persistent=False)
    return other.eval().requires_grad_(False)


def compiled(theirs: Any) -> Any:
    """A twin whose blocks are compiled, each for the shapes that it meets. diffusers does not name SANA's blocks."""
    torch._dynamo.reset()  # else it counts the sizes of earlier cases, and gives up after eight
    other = twin(theirs)
    other._repeated_blocks = ["SanaTransformerBlock"]
    other.compile_repeated_blocks(dynamic=False)
    return other


def graphed(run: Run) -> Run:
    """The run as a CUDA graph. Its result is overwritten by the next run."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(WARM_UPS):
            run()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = run()

    def replay() -> Tensor:
        graph.replay()
        return result

    return replay


class Lazily:
    """A run that is made at its first call, so that what making takes counts as part of that."""

    def __init__(self, make: Callable[[], Run]) -> None:
        self.make, self.run = make, None

    def __call__(self) -> Tensor:
        self.run = self.run or self.make()
        return self.run()


def cuda_steps(theirs: Any, step: Step, compile_too: bool = True) -> dict[str, Run]:
    """All ways on a GPU, the reference first. Compiled blocks go into graphs too, so that each gain can be told."""
    eager = diffusers_step(theirs, step)
    off, auto = (transformer_like(theirs, step.config, fast) for fast in ("off", "auto"))
    replay = not step.config.guidance_embed  # Sprint's few steps are over before a graph is recorded
    variants: dict[str, Run] = {
        "diffusers": eager,
        "diffusers, CUDA graph": Lazily(lambda: graphed(eager)),
        "sana_core, fast=off": own_step(off, step),
        "sana_core, fast=auto without graphs": own_step(auto, step),
        "sana_core, fast=auto": own_step(auto, step, replay=replay),
    }
    if compile_too:
        faster = diffusers_step(compiled(theirs), step)
        variants |= {
            "diffusers, compiled blocks": faster,
            "diffusers, compiled blocks in a CUDA graph": Lazily(lambda: graphed(faster)),
            "sana_core, fast=max": own_step(transformer_like(theirs, step.config, "max"), step, replay=replay),
        }
    return variants


def cpu_steps(theirs: Any, step: Step) -> dict[str, Run]:
    """diffusers and sana_core as they come."""
    return {
        "diffusers": diffusers_step(theirs, step),
        "sana_core": own_step(transformer_like(theirs, step.config), step),
    }
