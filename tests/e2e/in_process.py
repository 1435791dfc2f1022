"""ComfyUI in this process, on the CPU, with the pack loaded as `sana_pack`. As a pytest plugin (-p e2e.in_process) it
starts by itself.
"""

import asyncio
import importlib.util
import sys
import tempfile
from pathlib import Path

from e2e import comfyui

ROOT = Path(__file__).parents[2]


def possible():
    """Is there a ComfyUI, and has this Python what it needs?"""
    return comfyui.folder() is not None and all(importlib.util.find_spec(name) for name in comfyui.NEEDED)


def start():
    """Import ComfyUI as main.py would with --cpu and an empty base directory, then the pack as ComfyUI does.

    ComfyUI's `nodes` is imported first: the pack has a folder of that name.
    """
    sys.path.insert(0, str(comfyui.folder()))
    import comfy.options

    comfy.options.enable_args_parsing(False)
    from comfy.cli_args import args

    args.cpu = True
    args.base_directory = tempfile.mkdtemp(prefix="comfyui-")
    import nodes  # noqa: F401

    spec = importlib.util.spec_from_file_location(
        "sana_pack", ROOT / "__init__.py", submodule_search_locations=[str(ROOT)]
    )
    pack = sys.modules["sana_pack"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(pack)
    asyncio.run(asyncio.run(pack.comfy_entrypoint()).on_load())


def sample(model, conditioning, noise, sampler, sigmas, *, cfg=4.5, start=None, seed=0, **settings):
    """CFGGuider's and SamplerCustomAdvanced's call, from an empty latent or `start`; latents of unit variance."""
    import torch
    from comfy.samplers import CFGGuider

    guider = CFGGuider(model)
    guider.set_conds(*conditioning)
    guider.set_cfg(cfg)
    start = torch.zeros_like(noise) if start is None else start
    return model.model.latent_format.process_in(guider.sample(noise, start, sampler, sigmas, seed=seed, **settings))


def pytest_configure(config):
    start()
