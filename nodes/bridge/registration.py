"""Every hook into ComfyUI, so that its own loaders recognise SANA files.

The model configuration is added to the host's list, and two functions get a wrapper that acts on SANA's exact keys and passes everything
else through: `model_detection.detect_unet_config` and `sd.VAE.__init__`. Where a hook cannot be installed, the pack's own loader nodes
do without it.
"""

from __future__ import annotations

import functools
import inspect
import logging
from collections.abc import Callable
from typing import Any

import comfy.model_base
import comfy.model_detection
import comfy.sd
import comfy.supported_models

from ...sana_core.checkpoint.load import naming
from .detection import detect, is_sana
from .model import Sana
from .vae import init_vae, is_dcae

log = logging.getLogger("sana")
MARK = "wrapped_for_sana"


def install() -> None:
    """Install the hooks, once. A host that knows SANA itself is left alone."""
    if hasattr(comfy.model_base, "Sana"):
        log.info("this ComfyUI knows SANA itself: its loaders are left as they are")
        return
    for hook in (_add_model_config, _wrap_model_detection, _wrap_vae):
        try:
            hook()
        except (AttributeError, TypeError, ValueError) as error:
            log.warning("ComfyUI's own loaders will not recognise all SANA files (%s: %s); use the Load SANA node", hook.__name__, error)


def _add_model_config() -> None:
    if not any(config.unet_config == Sana.unet_config for config in comfy.supported_models.models):
        comfy.supported_models.models.insert(0, Sana)


def _wrap_model_detection() -> None:
    """`detect_unet_config(state_dict, key_prefix, metadata=None)` -> the host's description of a model, or None."""
    host = comfy.model_detection.detect_unet_config
    if hasattr(host, MARK):
        return

    def detect_unet_config(state_dict: dict, key_prefix: str, *args: Any, **kwargs: Any) -> dict | None:
        if not is_sana(state_dict, key_prefix):
            return host(state_dict, key_prefix, *args, **kwargs)
        metadata = args[0] if args else kwargs.get("metadata")
        own = {key.removeprefix(key_prefix): tensor for key, tensor in state_dict.items() if key.startswith(key_prefix)}
        with naming("this SANA file"):
            return detect(own, metadata)

    comfy.model_detection.detect_unet_config = _marked(detect_unet_config, host)


def _wrap_vae() -> None:
    """`VAE.__init__(self, sd=None, device=None, config=None, dtype=None, metadata=None)`."""
    host = comfy.sd.VAE.__init__
    if hasattr(host, MARK):
        return
    signature = inspect.signature(host)
    signature.bind(None, sd={}, device=None, dtype=None)  # a host with other arguments is not wrapped

    def __init__(self: comfy.sd.VAE, *args: Any, **kwargs: Any) -> None:
        given = signature.bind(self, *args, **kwargs).arguments
        if given.get("config") is None and is_dcae(given.get("sd") or {}):
            init_vae(self, given["sd"], device=given.get("device"), dtype=given.get("dtype"))
        else:
            host(self, *args, **kwargs)

    comfy.sd.VAE.__init__ = _marked(__init__, host)


def _marked(wrapper: Callable, host: Callable) -> Callable:
    wrapper = functools.wraps(host)(wrapper)
    setattr(wrapper, MARK, True)
    return wrapper
