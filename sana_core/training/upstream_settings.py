"""What a configuration of NVIDIA's Sana (configs/sana_config/*.yaml) means for our training."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..errors import InputError, shortened
from .came import BETAS, EPS
from .optimizers import ADAM_BETAS, ADAM_EPS
from .setting_values import NUMBER, NUMBERS, WHOLE, checked, shown

log = logging.getLogger("sana")
SECTIONS = ("data", "model", "vae", "text_encoder", "scheduler", "train")
TABLES = ("optimizer", "lr_schedule_args", "auto_lr", "resume_from", "caption_proportion")  # inside sections
RATE_BATCH = 256  # for which upstream's learning rates are given; it scales them for another batch (auto_lr)

NAMES = {
    "data.data_dir": "data",
    "data.image_size": "pixels",
    "data.clip_thr_temperature": "caption_temperature",
    "model.image_size": "pixels",
    "model.mixed_precision": "precision",
    "model.load_from": "model",
    "model.resume_from": "resume",
    "model.resume_from.checkpoint": "resume",
    "resume_from.checkpoint": "resume",
    "model.multi_scale": "buckets",
    "model.class_dropout_prob": "caption_dropout",
    "scheduler.flow_shift": "shift",
    "scheduler.logit_mean": "time_mean",
    "scheduler.logit_std": "time_std",
    "train.seed": "seed",
    "train.train_batch_size": "at_once",
    "train.num_epochs": "epochs",
    "train.grad_checkpointing": "checkpointing",
    "train.gradient_clip": "clip",
    "train.optimizer.type": "optimizer",
    "train.optimizer.lr": "rate",
    "train.optimizer.weight_decay": "weight_decay",
    "train.optimizer.betas": "betas",
    "train.optimizer.eps": "eps",
    "train.lr_schedule_args.num_warmup_steps": "warmup",
    "train.ema_rate": "average",
    "train.log_interval": "log_every",
    "train.eval_sampling_steps": "sample_every",
    "train.use_fsdp": "shard",
    "train.work_dir": "folder",
    "load_from": "model",
    "resume_from": "resume",
    "work_dir": "folder",
}
"""Their names, and what we call the same."""
WORDS = {
    "model.mixed_precision": {"fp16": "float16", "bf16": "bfloat16", "fp32": "float32", "no": "float32"},
    "train.optimizer.type": {
        "CAMEWrapper": "came",
        "CAME": "came",
        "CAME8BitWrapper": "came8bit",
        "AdamW": "adamw",
        "AdamW8bitWrapper": "adamw8bit",
        "AdamW8bit": "adamw8bit",
    },
}
"""Their words, and ours."""
ONLY = {
    "scheduler.weighting_scheme": ("logit_normal",),
    "scheduler.noise_schedule": ("linear_flow",),
    "scheduler.predict_v": (True,),
    "scheduler.predict_flow_v": (True,),
    "scheduler.pred_sigma": (False,),
    "train.lr_schedule": ("constant",),
    "train.optimizer.block_size": (2048,),
    "train.optimizer.min_8bit_size": (16384,),
}
"""What another value of would be another training than ours."""
READ_APART = ("train.gradient_accumulation_steps", "train.auto_lr.rule", "data.caption_proportion.prompt")


@dataclass
class Found:
    """values: by our names.  origin: their name of each.  ignored: their names that mean nothing here."""

    values: dict[str, Any] = field(default_factory=dict)
    origin: dict[str, str] = field(default_factory=dict)
    ignored: list[str] = field(default_factory=list)


def is_upstream(content: Mapping[Any, Any]) -> bool:
    """Has it the sections of NVIDIA's configurations? Ours has none."""
    return any(isinstance(content.get(section), Mapping) for section in SECTIONS)


def upstream_settings(content: Mapping[Any, Any], source: str, processes: int) -> Found:
    """What the configuration says, under our names; most values are not checked yet. Raises InputError."""
    given, found = _flat(content), Found()
    for name, value in given.items():
        if name in NAMES:
            _take(found, name, _translated(name, value, f"{source}: {name}"), source)
        elif name in ONLY:
            same = value in ONLY[name] and isinstance(value, bool) == isinstance(ONLY[name][0], bool)
            if not same:
                raise InputError(f"{source}: {name} is {shown(value)}, here it can be {shown(ONLY[name][0])} alone")
        elif name not in READ_APART:
            found.ignored.append(name)
    _leave_out_usual(found, source)
    _read_batch(found, given, source, processes)
    _scale_rate(found, content, source)
    return found


def _flat(content: Mapping[Any, Any]) -> dict[str, Any]:
    """Values by names such as "train.optimizer.lr", those of null left out."""

    def pairs(table: Mapping[Any, Any], inner: tuple[str, ...], prefix: str = "") -> Iterator[tuple[str, Any]]:
        for key, value in table.items():
            name = f"{prefix}{shortened(key if isinstance(key, str) else shown(key))}"
            if key in inner and isinstance(value, Mapping):
                yield from pairs(value, TABLES if not prefix else (), f"{name}.")
            elif value is not None:
                yield name, value

    return dict(pairs(content, (*SECTIONS, "resume_from")))


def _take(found: Found, name: str, value: Any, source: str) -> None:
    """Keep a value under our name."""
    own = NAMES[name]
    if own in found.values and found.values[own] != value:
        raise InputError(f"{source}: {found.origin[own]} and {name} differ: give them the same value")
    if value is not None:
        found.values[own], found.origin[own] = value, name


def _translated(name: str, value: Any, where: str) -> Any:
    if name == "data.data_dir" and isinstance(value, list):
        if len(value) > 1:
            raise InputError(f"{where} names {len(value)} folders: put them into one folder, and name that")
        return value[0] if value else None
    if name not in WORDS:
        return value
    word = "no" if value is False else value  # YAML takes a bare no for false
    if not isinstance(word, str) or word not in WORDS[name]:
        raise InputError(f"{where} is {shown(value)}, expected one of {', '.join(WORDS[name])}")
    return WORDS[name][word]


def _leave_out_usual(found: Found, source: str) -> None:
    """Betas and eps that the optimizer has anyway need no setting."""
    adam = str(found.values.get("optimizer")).startswith("adam")
    usual = {"betas": ADAM_BETAS, "eps": ADAM_EPS} if adam else {"betas": BETAS, "eps": EPS}
    for name, numbers in usual.items():
        if name in found.values and checked(found.values[name], NUMBERS, f"{source}: {found.origin[name]}") == numbers:
            del found.values[name]


def _read_batch(found: Found, given: Mapping[str, Any], source: str, processes: int) -> None:
    """Upstream says what one process computes at once, and how often before a step."""
    at_once, name = found.values.get("at_once"), "train.gradient_accumulation_steps"
    if at_once is None:
        found.ignored += [name] if name in given else []
        return
    each = checked(at_once, WHOLE, f"{source}: {found.origin['at_once']}")
    found.values["batch"] = each * checked(given.get(name, 1), WHOLE, f"{source}: {name}") * processes
    found.origin["batch"] = found.origin["at_once"]


def _scale_rate(found: Found, content: Mapping[Any, Any], source: str) -> None:
    """Upstream scales the learning rate with the batch, also where its configuration does not mention it."""
    train = content.get("train")
    scaling = train.get("auto_lr", {"rule": "sqrt"}) if isinstance(train, Mapping) else None
    if "rate" not in found.values or "batch" not in found.values or not scaling:
        return
    rule = scaling.get("rule", "linear") if isinstance(scaling, Mapping) else scaling
    if rule not in ("sqrt", "linear"):
        raise InputError(f"{source}: train.auto_lr.rule is {shown(rule)}, expected sqrt or linear")
    rate = checked(found.values["rate"], NUMBER, f"{source}: {found.origin['rate']}")
    factor = max(found.values["batch"], 0) / RATE_BATCH
    found.values["rate"] = rate * (math.sqrt(factor) if rule == "sqrt" else factor)
    log.info(
        "%s: the rate is %g, as upstream scales %g for a batch of %d (auto_lr: null keeps it)",
        source, found.values["rate"], rate, found.values["batch"],
    )  # fmt: skip
