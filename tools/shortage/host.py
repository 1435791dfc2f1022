"""Jobs of ComfyUI in this process, with this pack: its loaders, CLIP Text Encode, KSampler, SANA Generate, VAE Decode.

After a shortage the host unloads all models; it knows CUDA's error alone, so after another one they stay as they are.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))
from e2e import in_process  # noqa: E402

if "sana_pack" not in sys.modules:
    in_process.start()
import comfy.controlnet  # noqa: E402
import comfy.model_management as management  # noqa: E402
import comfy.sd  # noqa: E402
import comfy.utils  # noqa: E402
from sana_pack.nodes.bridge import control, loading, sampling, text_encoder, vae  # noqa: E402
from sana_pack.sana_core.kernels.choice import CHOSEN  # noqa: E402
from sana_pack.sana_core.pipeline.request import Request  # noqa: E402
from sana_pack.sana_core.sources import NANO, NANO_FILES  # noqa: E402
from sana_pack.sana_core.transformer.replay import Replay  # noqa: E402

import nodes  # noqa: E402

from . import trial  # noqa: E402
from .trial import Job, network_state  # noqa: E402

comfy.utils.set_progress_bar_enabled(False)
trial.CHOSEN, trial.Replay = CHOSEN, Replay  # those of the pack in the host
MODEL, TEXT, VAE = (str(path) for path in (NANO_FILES.transformer, NANO_FILES.text_encoder, NANO_FILES.autoencoder))
LORA, CONTROL = NANO / "loras" / "sana_nano_style.safetensors", NANO / "controlnet" / "sana_nano_controlnet.safetensors"
LATENT = torch.zeros(1, 32, 2, 2)


def jobs(part: str) -> Iterator[Job]:
    """The jobs of "load", "encode", "step" or "decode"."""
    yield from {"load": _loads, "encode": _encodes, "step": _steps, "decode": _decodes}[part]()


def quietly(work: Callable[..., Any]) -> Callable[..., Any]:
    """As the host runs nodes: without gradients."""

    def run(*given: Any) -> Any:
        with torch.inference_mode():
            return work(*given)

    return run


def job(name: str, work: Callable[[Any], Any], *patchers: Any, **more: Any) -> Job:
    """patchers: of models that are unloaded after a failure, and then are as they were."""

    def state(_: Any) -> Iterable[Any]:
        management.unload_all_models()
        return network_state(*(patcher.model for patcher in patchers))

    more = {"state": state, **more} if patchers else more
    if "result" in more:
        more["result"] = quietly(more["result"])
    return Job(name=name, work=quietly(work), **more)


def encode(clip: Any) -> list:
    return nodes.CLIPTextEncode().encode(clip, "a red apple")[0]


def ksampler(model: Any, positive: list, negative: list) -> Tensor:
    latent = {"samples": LATENT}
    return nodes.common_ksampler(model, 1, 2, 4.5, "euler", "simple", positive, negative, latent)[0]["samples"]


def _loads() -> Iterator[Job]:
    text = quietly(lambda: encode(text_encoder.load_text_encoder(TEXT)))()
    latent = torch.linspace(-1.0, 1.0, 32 * 4).view(1, 32, 2, 2)
    for name, load in (
        ("Load SANA Model", loading.load_model),
        ("Load Diffusion Model", comfy.sd.load_diffusion_model),
    ):
        yield job(name, lambda _, load=load: load(MODEL), result=lambda _, model: [ksampler(model, text, text)])
    yield job(
        "Load SANA Text Encoder",
        lambda _: text_encoder.load_text_encoder(TEXT),
        result=lambda _, clip: [encode(clip)[0][0]],
    )
    yield job("Load SANA VAE", lambda _: vae.load_vae(VAE), result=lambda _, made: [made.decode(latent)])
    yield job(
        "Load ControlNet Model",
        lambda _: comfy.controlnet.load_controlnet(str(CONTROL)),
        result=lambda _, made: made.control_model.state_dict().values(),
    )


def _encodes() -> Iterator[Job]:
    clip = text_encoder.load_text_encoder(TEXT)
    yield job("CLIP Text Encode", lambda _: encode(clip)[0][0], clip.patcher)
    yield job("CLIP Text Encode, models stay", lambda _: encode(clip)[0][0])


def _steps() -> Iterator[Job]:
    """The host's attention goes on in a smaller way where CUDA's error tells it of a shortage."""
    model, clip, autoencoder = loading.load_model(MODEL), text_encoder.load_text_encoder(TEXT), vae.load_vae(VAE)
    text = quietly(lambda: encode(clip))()
    yield job("KSampler", lambda _: ksampler(model, text, text), model, spares=True)
    yield job("KSampler, models stay", lambda _: ksampler(model, text, text), spares=True)
    request = Request("a red apple", steps=2, width=64, height=64, seed=1)
    generate = lambda _: sampling.generate(model, clip, request)["samples"]  # noqa: E731
    yield job("SANA Generate", generate, model, clip.patcher, spares=True)

    def with_lora(_: Any) -> Tensor:
        patched = comfy.sd.load_lora_for_models(model, None, comfy.utils.load_torch_file(str(LORA)), 0.7, 0.0)[0]
        return ksampler(patched, text, text)

    yield job("LoRA and KSampler", with_lora, model, spares=True)
    yield job("LoRA and KSampler, models stay", with_lora, holds=True, spares=True)
    network = control.load_control(str(CONTROL))
    applied = control.Control(network=network, image=torch.full((1, 64, 64, 3), 0.5), vae=autoencoder)

    def with_control(_: Any) -> Tensor:
        return ksampler(model, *applied.applied(text, text))

    yield job("ControlNet and KSampler", with_control, model, autoencoder.patcher, spares=True)
    yield job("ControlNet and KSampler, models stay", with_control, spares=True)


def _decodes() -> Iterator[Job]:
    autoencoder = vae.load_vae(VAE)
    latent = torch.linspace(-1.0, 1.0, 32 * 20).view(1, 32, 4, 5)
    yield job("VAE Decode", lambda _: autoencoder.decode(latent), autoencoder.patcher, spares=True)
    yield job("VAE Decode, models stay", lambda _: autoencoder.decode(latent), spares=True)
    yield job("VAE Decode, memory stays short", lambda _: autoencoder.decode(latent), spares=True, lasts=True)
    exact = lambda _: vae.decode_in_tiles(autoencoder, latent, 128, None)  # noqa: E731
    yield job("SANA VAE Decode (Tiled)", exact, autoencoder.patcher, spares=True)
    picture = torch.linspace(0.0, 1.0, 64 * 96 * 3).view(1, 64, 96, 3)
    yield job("VAE Encode", lambda _: autoencoder.encode(picture), autoencoder.patcher, spares=True)
