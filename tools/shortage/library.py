"""Jobs of the library: a load, a text encode, a step, a decode."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from sana_core import SanaPipeline, apply_lora, load_lora, load_pipeline
from sana_core.quantiser.convert import quantise_file
from sana_core.sources import NANO, NANO_FILES

from .trial import Job, network_state

SETTINGS: dict[str, Any] = {"width": 64, "height": 64, "steps": 2, "seed": 1}
CONTROLNET = NANO / "controlnet" / "sana_nano_controlnet.safetensors"
LORA = NANO / "loras" / "sana_nano_style.safetensors"
LARGE = {"width": 160, "height": 128}  # in tiles of 128: two
PROMPT = "a red apple"


def jobs(part: str) -> Iterator[Job]:
    """The jobs of "load", "encode", "step" or "decode"."""
    yield from {"load": _loads, "encode": _encodes, "step": _steps, "decode": _decodes}[part]()


def draw(pipeline: SanaPipeline, **settings: Any) -> Tensor:
    return pipeline(PROMPT, output="tensor", **{**SETTINGS, **settings})


@contextmanager
def copying() -> Iterator[None]:
    """Inside, `.to(device)` copies from the CPU to the CPU too, as it does between devices: offloading needs memory."""
    to = torch.Tensor.to
    torch.Tensor.to = lambda tensor, *args, **more: (  # pyright: ignore[reportAttributeAccessIssue]
        tensor.clone() if args == (torch.device("cpu"),) else to(tensor, *args, **more)
    )
    try:
        yield
    finally:
        torch.Tensor.to = to


def _offloaded(job: Job) -> Job:
    def work(subject: Any) -> Any:
        with copying():
            return job.work(subject)

    return replace(job, name=f"{job.name} (offload)", work=work)


def _state(pipeline: SanaPipeline) -> Iterable[Any]:
    networks = (pipeline.transformer, pipeline.text_encoder, pipeline.autoencoder, pipeline.controlnet)
    return network_state(*(network for network in networks if network is not None))


def _loads() -> Iterator[Job]:
    def load(name: str, source: Any, **options: Any) -> Job:
        return Job(
            name=f"load {name}",
            work=lambda _: load_pipeline(source, device="cpu", **options),
            result=lambda _, pipeline: [draw(pipeline)],
        )

    yield load("safetensors", "nano")
    yield load("with ControlNet, bfloat16", "nano", controlnet=CONTROLNET, dtype=torch.bfloat16, offload=True)
    with tempfile.TemporaryDirectory() as folder:
        files = {"autoencoder": NANO_FILES.autoencoder, "text_encoder": NANO_FILES.text_encoder}
        pickle, quantised = Path(folder) / "nano.pth", Path(folder) / "nano_int8.safetensors"
        torch.save({"state_dict": load_file(NANO_FILES.transformer)}, pickle)
        quantise_file(NANO_FILES.transformer, quantised, "int8")
        yield load("pth", {**files, "transformer": pickle})
        yield load("quantised", {**files, "transformer": quantised})
        yield from _loras(load_pipeline({**files, "transformer": quantised}, device="cpu"), "quantised weights")
    yield from _loras(load_pipeline("nano", device="cpu"), "plain weights")


def _loras(pipeline: SanaPipeline, name: str) -> Iterator[Job]:
    yield Job(
        name=f"LoRA on {name}",
        prepare=lambda: copy.deepcopy(pipeline.transformer),
        work=lambda network: apply_lora(network, load_lora(LORA), 0.7),
        result=lambda network, _: network.state_dict().values(),
        state=network_state,
    )


def _encodes() -> Iterator[Job]:
    for offload in (False, True):
        pipeline = load_pipeline("nano", device="cpu", offload=offload)
        run = pipeline.resolve(PROMPT, "a cat", negative_mask="positive", guidance_scale=4.5, **SETTINGS)
        job = Job(
            name="encode a text",
            prepare=lambda pipeline=pipeline: pipeline,
            work=lambda pipeline, run=run: pipeline.encode_text(run),
            result=lambda _, texts: [part for text in texts for part in text if part is not None],
            state=_state,
        )
        yield _offloaded(job) if offload else job


def _steps() -> Iterator[Job]:
    nano = load_pipeline("nano", device="cpu", controlnet=CONTROLNET)
    offloaded = load_pipeline("nano", device="cpu", controlnet=CONTROLNET, offload=True)
    sprint = load_pipeline("nano-sprint", device="cpu")
    picture = torch.linspace(0.0, 1.0, 3 * 64 * 64, dtype=torch.float32, device="cpu").view(1, 3, 64, 64)
    for name, pipeline, settings in (
        ("text to image", nano, {}),
        ("perturbed attention", nano, {"pag_scale": 2.0}),
        ("ControlNet", nano, {"control_image": picture}),
        ("text to image", offloaded, {}),
        ("ControlNet", offloaded, {"control_image": picture}),
        ("image to image", nano, {"image": picture, "strength": 0.9, "mask": picture[:, :1]}),
        ("Sprint", sprint, {}),
    ):
        run = pipeline.resolve(PROMPT, **{**SETTINGS, **settings})
        texts = pipeline.encode_text(run)
        job = Job(
            name=f"steps of {name}",
            prepare=lambda pipeline=pipeline: pipeline,
            work=lambda pipeline, run=run, texts=texts: pipeline.sample(run, texts, pipeline.start(run)),
            state=_state,
            spares="image" in settings or "control_image" in settings,  # their pictures are encoded
        )
        yield _offloaded(job) if pipeline.offload else job


def _decodes() -> Iterator[Job]:
    for name, settings, options, more in (
        ("two pictures", {"batch_size": 2}, {}, {}),
        ("a picture of two tiles", LARGE, {}, {}),
        ("a picture of two tiles, memory stays short", LARGE, {}, {"lasts": True}),
        ("a picture of two tiles", LARGE, {"offload": True}, {}),
    ):
        pipeline = load_pipeline("nano", device="cpu", **options)
        latents = pipeline(PROMPT, output="latent", **{**SETTINGS, **settings})
        job = Job(
            name=f"decode {name}",
            prepare=lambda pipeline=pipeline: pipeline,
            work=lambda pipeline, latents=latents: pipeline.decode(latents, pil=False),
            state=_state,
            spares=True,
            **more,
        )
        yield _offloaded(job) if pipeline.offload else job
