"""Each network beside its reference: the same weights, the same inputs, in float32 and in the type it runs in.

The two are loaded one after the other, and their results are compared on the CPU. So no more memory is needed than one
of them takes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TypeAlias

import torch

from ..precision import dtype_name
from . import ours, theirs
from .checks import LARGEST, UNCHECKED, Check, Trouble, attempt, compared, error
from .setup import Inputs, Outputs, Read, Setup, Told, place_for, release

Side: TypeAlias = Callable[[Setup, torch.device, torch.dtype], Outputs]
PLAIN_OPERATIONS = "plain operations (--fast off)"
QUANTISED = "the numbers that its quantised weights stand for"


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A network on both sides. parameters: how many numbers it has.  dtype: it runs in.  words: what each output is.
    plain: outputs that repeat another one without fast paths -> that one.
    """

    network: str
    against: str
    parameters: int
    dtype: torch.dtype
    ours: Side
    theirs: Side
    words: dict[str, str]
    plain: dict[str, str] = field(default_factory=dict)
    note: str = ""


def compare(pair: Pair, setup: Setup, told: Told) -> list[Check]:
    """In float32 first, which shows how much rounding does to the reference in the type that it runs in."""
    checks: list[Check] = []
    exact: Outputs = {}
    for dtype in dict.fromkeys((torch.float32, pair.dtype)):
        place = place_for(pair.parameters, dtype, setup.device)
        if place is None:
            needed = pair.parameters * dtype.itemsize / 1e9
            checks += _unchecked(pair, dtype, f"it takes more than {needed:.1f} GB, which are not free")
            continue
        found = _run(pair.ours, setup, place, dtype, f"{pair.network}: {dtype_name(dtype)} on {place}", told)
        if dtype == pair.dtype and isinstance(found, dict):
            checks += _fast_paths(pair, found, dtype)
        expected = _run(pair.theirs, setup, place, dtype, f"{pair.against}: {dtype_name(dtype)} on {place}", told)
        checks += _verdicts(pair, found, expected, exact, dtype, "" if place == setup.device else f" on {place}")
        if dtype == torch.float32 and isinstance(expected, dict):
            exact = expected
    return checks


def pairs(setup: Setup, inputs: Inputs, parameters: dict[str, int]) -> Iterator[Pair]:
    """All networks but the text encoder, which makes the inputs of the others. parameters: of each, by name."""
    clamp = "" if setup.config.fp16_trained is False else "both with float16's clamp"
    yield Pair(
        network="transformer",
        against="diffusers' SanaTransformer2DModel",
        parameters=parameters["transformer"],
        dtype=setup.dtype,
        ours=partial(ours.transformer, inputs=inputs),
        theirs=partial(theirs.transformer, inputs=inputs),
        words={"forward": "one prediction", "trajectory": f"4 steps with guidance ({setup.sampling.sampler})"},
        plain={"plain forward": "forward", "plain trajectory": "trajectory"},
        note=clamp,
    )
    if setup.controlnet is not None:
        yield Pair(
            network="ControlNet",
            against="diffusers' SanaControlNetModel",
            parameters=parameters["transformer"] + parameters["controlnet"],
            dtype=setup.dtype,
            ours=partial(ours.controlled, inputs=inputs),
            theirs=partial(theirs.controlled, inputs=inputs),
            words={"forward": "one prediction with it, in diffusers' order"},
            note=clamp,
        )
    yield Pair(
        network="autoencoder",
        against="diffusers' AutoencoderDC",
        parameters=parameters["autoencoder"],
        dtype=setup.companions,
        ours=ours.autoencoder,
        theirs=theirs.autoencoder,
        words={"encode": "encode", "decode": "decode"},
        plain={"plain encode": "encode", "plain decode": "decode"},
    )


def text_pair(setup: Setup, parameters: int, read: Read) -> Pair:
    """The text encoder. read: gets what it makes of the prompts."""
    return Pair(
        network="text encoder",
        against="transformers' Gemma2Model",
        parameters=parameters,
        dtype=setup.companions,
        ours=partial(ours.text_encoder, read=read),
        theirs=partial(theirs.text_encoder, read=read),
        words={"states": "states of two prompts"},
        note="the same class: what is compared is how it is loaded",
    )


def _run(
    side: Side, setup: Setup, place: torch.device, dtype: torch.dtype, words: str, told: Told
) -> Outputs | Trouble:
    told(words)
    with torch.no_grad(), _exact_float32():
        found = attempt(lambda: side(setup, place, dtype))
    release(setup.device)
    return found


def _verdicts(
    pair: Pair, found: Outputs | Trouble, expected: Outputs | Trouble, exact: Outputs, dtype: torch.dtype, place: str
) -> list[Check]:
    if isinstance(found, Trouble):
        return _unchecked(pair, dtype, f"ours: {found.words}", found.verdict)
    if isinstance(expected, Trouble):
        return _unchecked(pair, dtype, f"reference: {expected.words}")
    return [
        compared(
            f"{pair.network}, {words}",
            pair.against,
            dtype,
            found[output],
            expected[output],
            rounding=error(expected[output], exact[output]) if output in exact else 0.0,
            note=pair.note,
            place=place,
        )
        for output, words in pair.words.items()
    ]


def _fast_paths(pair: Pair, found: Outputs, dtype: torch.dtype) -> list[Check]:
    checks = [
        compared(f"{pair.network}, {pair.words[fast]}", PLAIN_OPERATIONS, dtype, found[fast], found[plain])
        for plain, fast in pair.plain.items()
        if plain in found
    ]
    if "kernels" in found:  # these round the inputs of layers too, so only what is quite wrong shows
        what, kernels = f"{pair.network}, {pair.words['forward']} as drawn", found["kernels"]
        checks.append(compared(what, QUANTISED, dtype, kernels, found["forward"], allowed=LARGEST))
    return checks


def _unchecked(pair: Pair, dtype: torch.dtype, why: str, verdict: str = UNCHECKED) -> list[Check]:
    return [
        Check(what=f"{pair.network}, {words}", against=pair.against, dtype=dtype_name(dtype), verdict=verdict, note=why)
        for words in pair.words.values()
    ]


@contextmanager
def _exact_float32() -> Iterator[None]:
    """Convolutions of a GPU calculate in float32 itself, not in TF32."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before
