"""Every hook into ComfyUI, so that its own loaders recognise SANA files.

The model configuration is added to the host's list, and three functions get a wrapper that acts on SANA's exact keys
and passes everything else through: `model_detection.detect_unet_config`, `sd.VAE.__init__` and
`controlnet.load_controlnet_state_dict`. The functions that LoRA files go through get one that acts for SANA's models
alone: `lora.model_lora_keys_unet` and `lora.model_lora_keys_clip` (further names), `lora.load_lora` (what names cannot
say: fused layers, exact DoRA, wrong files), `utils.load_torch_file` (PEFT's configuration goes with the tensors of a
file) and two functions of the node Train LoRA (an existing LoRA goes on from its own effect).
`latent_preview.get_previewer` gets one for previews of SANA's latents, and the node Save Image one that adds how a
picture was drawn to its file. If a hook cannot be
installed, the pack's own loader nodes still work: while they load a file, they put their own result in the place of
`model_detection.model_config_from_unet`.
"""

from __future__ import annotations

import functools
import inspect
import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import comfy.controlnet
import comfy.lora
import comfy.model_base
import comfy.model_detection
import comfy.sd
import comfy.supported_models
import comfy.utils
import latent_preview

from ...sana_core.checkpoint.canonical import controlnet_prefix
from ...sana_core.checkpoint.fit import naming
from .control import build_control
from .detection import detect, is_sana
from .latent_format import SanaLatent
from .lora import SanaKeys, gemma_keys, load_patches, transformer_keys, with_config
from .lora_training import continued
from .model import Sana, SanaModel
from .parameters import write_parameters
from .tiny_previewer import sana_previewer
from .vae import init_vae, is_dcae

log = logging.getLogger("sana")
MARK = "wrapped_for_sana"


def install() -> None:
    """Install the hooks, once. A host that knows SANA itself is left alone."""
    if hasattr(comfy.model_base, "Sana"):
        log.info("this ComfyUI knows SANA itself: its loaders are left as they are")
        return
    loaders = (_add_model_config, _wrap_model_detection, _wrap_vae, _wrap_controlnet)
    for hook in (
        *loaders,
        _wrap_lora_keys,
        _wrap_load_lora,
        _wrap_load_torch_file,
        _wrap_lora_training,
        _wrap_previews,
        _wrap_save_image,
    ):
        try:
            hook()
        except (AttributeError, TypeError, ValueError) as error:
            lost = "ComfyUI's own loaders will not recognise all SANA files: use the Load SANA node"
            said = lost if hook in loaders else "a part of what this pack adds to ComfyUI is not there"
            log.warning("%s (%s: %s)", said, hook.__name__, error)


def _wrap_previews() -> None:
    """`get_previewer(device, latent_format)` -> what shows latents while they are sampled, or None."""
    host = latent_preview.get_previewer
    if hasattr(host, MARK):
        return

    def get_previewer(device: Any, latent_format: Any) -> Any:
        if not isinstance(latent_format, SanaLatent):
            return host(device, latent_format)
        return sana_previewer(device, latent_format, latent_preview.args.preview_method)

    latent_preview.get_previewer = _marked(get_previewer, host)


def _wrap_save_image() -> None:
    """`SaveImage.save_images(images, filename_prefix="ComfyUI", prompt=None, extra_pnginfo=None)` -> what was saved."""
    node = sys.modules["nodes"].SaveImage
    host = node.save_images
    if hasattr(host, MARK):
        return

    def save_images(self: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
        saved = host(self, *args, **kwargs)
        write_parameters(kwargs.get("prompt"), saved)
        return saved

    node.save_images = _marked(save_images, host)


def other_copy() -> Path | None:
    """Folder of another copy of this pack whose hooks are installed, or None.

    Two copies cannot work side by side: the hooks of the first one make models of its own classes, and the nodes of the
    second one refuse them as models of another family.
    """
    for config in comfy.supported_models.models:
        same = config.__name__ == Sana.__name__ and config.__module__.endswith(".nodes.bridge.model")
        if same and config is not Sana:
            return Path(config.__init__.__code__.co_filename).parents[2]
    return None


def _add_model_config() -> None:
    if Sana not in comfy.supported_models.models:
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


@contextmanager
def recognised_as(model_config: Sana) -> Iterator[None]:
    """Inside this block the host's loaders use `model_config` instead of their own detection.

    So the pack's own loader works without the other hooks. The host loads models in one thread.
    """
    host = comfy.model_detection.model_config_from_unet

    def model_config_from_unet(state_dict: dict, unet_key_prefix: str, *_: Any, **__: Any) -> Sana:
        model_config.quant_config = comfy.utils.detect_layer_quantization(state_dict, unet_key_prefix)
        return model_config

    comfy.model_detection.model_config_from_unet = model_config_from_unet
    try:
        yield
    finally:
        comfy.model_detection.model_config_from_unet = host


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


def _wrap_controlnet() -> None:
    """`load_controlnet_state_dict(state_dict, model=None, model_options={})` -> the host's ControlNet, or None."""
    host = comfy.controlnet.load_controlnet_state_dict
    if hasattr(host, MARK):
        return
    signature = inspect.signature(host)
    signature.bind({}, model=None, model_options={})  # a host with other arguments is not wrapped

    def load_controlnet_state_dict(*args: Any, **kwargs: Any) -> Any:
        given = signature.bind(*args, **kwargs).arguments
        if controlnet_prefix(given["state_dict"]) is None:
            return host(*args, **kwargs)
        with naming("this SANA ControlNet"):
            return build_control(given["state_dict"], model_options=given.get("model_options"))

    comfy.controlnet.load_controlnet_state_dict = _marked(load_controlnet_state_dict, host)


def _wrap_lora_keys() -> None:
    """`model_lora_keys_unet(model, key_map={})` and `model_lora_keys_clip(model, key_map={})` -> {name in LoRA files:
    weight's key}.
    """
    unet, clip = comfy.lora.model_lora_keys_unet, comfy.lora.model_lora_keys_clip
    if hasattr(unet, MARK):
        return

    def model_lora_keys_unet(model: Any, *args: Any, **kwargs: Any) -> dict:
        keys = unet(model, *args, **kwargs)
        return transformer_keys(model, keys) if isinstance(model, SanaModel) else keys

    def model_lora_keys_clip(model: Any, *args: Any, **kwargs: Any) -> dict:
        return gemma_keys(model, clip(model, *args, **kwargs))

    comfy.lora.model_lora_keys_unet = _marked(model_lora_keys_unet, unet)
    comfy.lora.model_lora_keys_clip = _marked(model_lora_keys_clip, clip)


def _wrap_load_lora() -> None:
    """`load_lora(lora, to_load, log_missing=True)` -> {key of the weight: adapter}."""
    host = comfy.lora.load_lora
    if hasattr(host, MARK):
        return

    def load_lora(lora: dict, to_load: dict, *args: Any, **kwargs: Any) -> dict:
        if not isinstance(to_load, SanaKeys):
            return host(lora, to_load, *args, **kwargs)
        return load_patches(host, lora, to_load, *args, **kwargs)

    comfy.lora.load_lora = _marked(load_lora, host)


def _wrap_load_torch_file() -> None:
    """`load_torch_file(ckpt, safe_load=False, device=None, return_metadata=False)` -> tensors, or tensors and metadata.

    All loaders of LoRA files read with it. Most do not ask for the metadata, in which PEFT states alpha.
    """
    host = comfy.utils.load_torch_file
    if hasattr(host, MARK):
        return
    signature = inspect.signature(host)
    signature.bind("", safe_load=True, return_metadata=True)  # a host with other arguments is not wrapped

    def load_torch_file(ckpt: str, *args: Any, **kwargs: Any) -> Any:
        given = signature.bind(ckpt, *args, **kwargs)
        wanted = given.arguments.get("return_metadata", False)
        given.arguments["return_metadata"] = True
        tensors, metadata = host(*given.args, **given.kwargs)
        tensors = with_config(tensors, ckpt, metadata)
        return (tensors, metadata) if wanted else tensors

    comfy.utils.load_torch_file = _marked(load_torch_file, host)


def _wrap_lora_training() -> None:
    """`_setup_lora_adapters(mp, existing_weights, algorithm, lora_dtype, rank)` and its twin for the bypass mode
    -> (trained parameters by name, ...). The host loads its nodes under file names, before those of packs.
    """
    names = ("_setup_lora_adapters", "_setup_lora_adapters_bypass")
    for module in [module for name, module in sys.modules.items() if name.endswith("nodes_train")]:
        for name in names:
            host = getattr(module, name, None)
            if host is not None and not hasattr(host, MARK):
                setattr(module, name, _marked(functools.partial(continued, host), host))


def _marked(wrapper: Callable, host: Callable) -> Callable:
    wrapper = functools.wraps(host)(wrapper)
    setattr(wrapper, MARK, True)
    return wrapper
