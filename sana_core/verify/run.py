"""Everything that is verified, part by part. A part that fails is a line of the report, and the others go on."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..checkpoint.files import component_folder
from ..checkpoint.load import load_autoencoder, load_controlnet, load_transformer
from ..device import pick_device
from ..doctor import machine as machines
from ..doctor.quiet import heard
from ..doctor.search import Found, look_at
from ..errors import InputError
from ..pipeline.request import Request
from ..precision import companion_dtype, dtype_name, loaded_dtype
from ..quantised.layers import QuantisedWeight
from ..sources import PipelineFiles, pipeline_files, released_sampling
from ..text.load import load_text_encoder
from ..text.tokenizer import read_tokenizer
from . import measure, networks
from .checks import Check, Trouble, attempt
from .picture import fault
from .report import Report
from .scrub import scrubber
from .setup import Read, Setup, Told, random_text, release

Source = str | Path | Mapping[str, str | Path]


def prepare(
    source: Source,
    *,
    controlnet: Path | None = None,
    device: str | None = None,
    dtype: torch.dtype | None = None,
    variant: str | None = None,
    trained_precision: str | None = None,
    fast: str = "auto",
    offload: bool = False,
) -> tuple[Setup, dict[str, int]]:
    """Look at the files: every key and shape. Returns the setup, and how many numbers each network has.

    Raises SanaError for whatever cannot be drawn with.
    """
    place, files = pick_device(device), pipeline_files(source)
    if place.type == "meta":
        raise InputError("the device meta computes nothing: use cpu or cuda")
    if controlnet is not None:
        files = replace(files, controlnet=controlnet)
    with heard():
        options: dict[str, Any] = {"variant": variant, "trained_precision": trained_precision}
        transformer = load_transformer(files.transformer, device="meta", **options)
        shapes: dict[str, nn.Module] = {
            "transformer": transformer,
            "autoencoder": load_autoencoder(files.autoencoder, device="meta"),
            "text encoder": load_text_encoder(files.text_encoder, device="meta"),
        }
        if files.controlnet is not None:
            network = load_controlnet(files.controlnet, device="meta")
            network.check_base(transformer.config)
            shapes["controlnet"] = network
        sampling = released_sampling(files, transformer.config, variant)
    text: Any = shapes["text encoder"].config
    _check_tokenizer(files, text.vocab_size)
    width, expected = text.hidden_size, transformer.config.caption_channels
    if width != expected:
        raise InputError(
            f"the text encoder is {width} wide and the transformer reads {expected}: they belong to different models"
        )
    if dtype is None and place.type == "cpu":  # as `load_pipeline` decides
        dtype = torch.float32
    stored = transformer.scale_shift_table.dtype
    setup = Setup(
        files=files,
        device=place,
        dtype=dtype or loaded_dtype(transformer.config, stored, place),
        chosen=dtype,
        companions=companion_dtype(dtype, place),
        config=transformer.config,
        sampling=sampling,
        variant=variant,
        trained_precision=trained_precision,
        fast=fast,
        offload=offload,
    )
    return setup, {part: _numbers(network) for part, network in shapes.items()}


def _check_tokenizer(files: PipelineFiles, pieces: int) -> None:
    """Raise SanaError if the text encoder, which knows so many pieces, has none or that of another model."""
    if files.tokenizer is not None:
        size = read_tokenizer(files.tokenizer).size
        if size != pieces:
            raise InputError(
                f"{files.tokenizer} has {size} pieces and the text encoder {pieces}: they belong to different models"
            )
        return
    path = component_folder(files.text_encoder, "text_encoder")
    parts = look_at(path, path, torch.device("cpu")).parts
    if not any(part.tokenizer for part in parts):
        raise InputError(f"{path}: this Gemma-2 comes without tokenizer: name one by --tokenizer")


def verify(setup: Setup, numbers: Mapping[str, int], wanted: Request, told: Told) -> Report:
    """Compare, measure, draw. numbers: of each network, see `prepare`."""
    logging.getLogger("bitsandbytes").addHandler(logging.NullHandler())  # diffusers imports it, nothing here uses it
    with heard(logging.WARNING) as warnings:
        machine = machines.look(setup.device)
        files = attempt(lambda: _files(setup))
        checks = _networks(setup, dict(numbers), told)
        drawn = _drawn(setup, wanted, told)
    release(setup.device)
    clean = scrubber(_paths(setup))
    report = Report(
        machine=machine,
        files=[] if isinstance(files, Trouble) else files,
        device=str(setup.device),
        dtype=dtype_name(setup.dtype),
        checks=checks,
        warnings=[clean(warning) for warning in warnings],
        clean=clean,
    )
    if isinstance(drawn, Trouble):
        report.trouble, report.failed = clean(drawn.words), drawn.unexpected
    else:
        report.drawn, report.fault = drawn, fault(drawn.picture, drawn.latents)
        report.checks += drawn.checks
    report.checks = [replace(check, note=clean(check.note)) for check in report.checks]
    return report


def _networks(setup: Setup, numbers: dict[str, int], told: Told) -> list[Check]:
    read = Read()
    checks = networks.compare(networks.text_pair(setup, numbers["text encoder"], read), setup, told)
    inputs = read.inputs or random_text(setup.config.caption_channels)
    for pair in networks.pairs(setup, inputs, numbers):
        checks += networks.compare(pair, setup, told)
    return checks


def _drawn(setup: Setup, wanted: Request, told: Told) -> measure.Drawn | Trouble:
    """The picture; once more with one network at a time on the card if all three do not fit."""
    drawn = attempt(lambda: measure.draw(setup, wanted, told))
    if isinstance(drawn, Trouble) and not drawn.unexpected and setup.device.type != "cpu" and not setup.offload:
        release(setup.device)
        told(f"{drawn.words}: once more with --offload")
        drawn = attempt(lambda: measure.draw(replace(setup, offload=True), wanted, told))
    return drawn


def _files(setup: Setup) -> list[Found]:
    """What each file is. Names alone are kept of their paths."""
    return [look_at(path, path, setup.device) for path in _paths(setup)]


def _paths(setup: Setup) -> list[Path]:
    files = setup.files
    paths = [
        component_folder(files.transformer, "transformer"),
        component_folder(files.text_encoder, "text_encoder"),
        component_folder(files.autoencoder, "vae"),
    ]
    if files.controlnet is not None:
        paths.append(component_folder(files.controlnet, "controlnet"))
    return paths


def _numbers(network: nn.Module) -> int:
    """Of a network on the meta device; quantised layers count as what they stand for."""
    total = sum(parameter.numel() for parameter in network.parameters())
    for module in network.modules():
        if isinstance(module, QuantisedWeight):
            total += module.shape[0] * module.shape[1]
    return total
