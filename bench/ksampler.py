"""A guided run inside ComfyUI: its KSampler against diffusers' loop, in one process, on the weights of one file.

Runs with ComfyUI's Python, from the folder of the pack; COMFYUI_DIR names ComfyUI's, else ~/comfy/ComfyUI is taken.
diffusers must be importable there: `pip install --no-deps --target FOLDER diffusers`, and PYTHONPATH=FOLDER.
"""

from __future__ import annotations

import asyncio
import importlib.util
import os
import sys
import tempfile
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench.cases import LOOP_ERROR, Case, Maker, blocks_said, reference, sized, words
from bench.plans import Plan
from bench.variants import GUIDANCE, Step, diffusers_loop, make_step
from sana_core.geometry import DC_AE_F32

ROOT = Path(__file__).parents[1]
SEED = 0


def folder() -> Path:
    return Path(os.environ.get("COMFYUI_DIR") or Path.home() / "comfy" / "ComfyUI")


def cases(plan: Plan) -> list[Maker]:
    """Raises SystemExit where ComfyUI or diffusers cannot be imported."""
    if not (folder() / "main.py").is_file():
        raise SystemExit(f"there is no ComfyUI at {folder()}: set COMFYUI_DIR to its folder")
    missing = [name for name in ("comfy_kitchen", "av", "diffusers") if importlib.util.find_spec(name) is None]
    if missing:
        raise SystemExit(f"{', '.join(missing)} cannot be imported: run with ComfyUI's Python.\n\n{__doc__}")
    dtypes = plan.dtypes[:1] if plan.device.type == "cpu" else plan.dtypes  # on the CPU ComfyUI computes in float32
    return [partial(case, plan, name, dtype) for name in plan.networks for dtype in dtypes]


@cache
def start(cpu: bool) -> None:
    """Import ComfyUI as its main.py would, with an empty base directory, then the pack as ComfyUI does.

    ComfyUI's `nodes` is imported first: the pack has a folder of that name.
    """
    sys.path.insert(0, str(folder()))
    import comfy.options

    comfy.options.enable_args_parsing(False)
    from comfy.cli_args import args

    args.cpu = cpu
    args.base_directory = tempfile.mkdtemp(prefix="comfyui-")
    import comfy.utils

    import nodes  # noqa: F401

    comfy.utils.set_progress_bar_enabled(False)
    spec = importlib.util.spec_from_file_location(
        "sana_pack", ROOT / "__init__.py", submodule_search_locations=[str(ROOT)]
    )
    assert spec is not None and spec.loader is not None
    pack = sys.modules["sana_pack"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(pack)
    asyncio.run(asyncio.run(pack.comfy_entrypoint()).on_load())  # pyright: ignore[reportAttributeAccessIssue]


def case(plan: Plan, network: str, dtype: torch.dtype) -> Case:
    """All steps of KSampler with "euler" and "simple", and Euler's steps through the same noise levels."""
    start(plan.device.type == "cpu")
    import comfy.samplers

    pixels, steps = plan.loop_pixels, plan.loop_steps
    config = sized(plan.network(network), pixels)
    theirs = reference(plan, config, pixels, dtype)
    model = loaded(theirs, dtype)
    step = make_step(config, pixels, plan.tokens[0], plan.device, dtype)
    sampling = model.get_model_object("model_sampling")
    sigmas = comfy.samplers.calculate_sigmas(sampling, "simple", steps).tolist()
    loop = diffusers_loop(theirs, with_noise(step), sigmas, truncate=True)
    return Case(
        section="comfyui",
        name=f"{network}, {steps} steps, {pixels} px, {words(dtype)}, {plan.tokens[0]} tokens" + blocks_said(plan),
        variants={
            "diffusers": lambda: loop() / DC_AE_F32.scaling_factor,
            "KSampler": partial(ksampler, model, step, steps),
        },
        largest_error=LOOP_ERROR[dtype],
    )


def loaded(theirs: Any, dtype: torch.dtype) -> Any:
    """ComfyUI's MODEL of a file with the weights, by the loader behind Load Diffusion Model."""
    import comfy.sd
    from safetensors.torch import save_file

    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "sana.safetensors"
        save_file({name: tensor.contiguous() for name, tensor in theirs.state_dict().items()}, path)
        return comfy.sd.load_diffusion_model(str(path), model_options={"dtype": dtype})


def with_noise(step: Step) -> Step:
    """The step with the noise that KSampler makes of its seed."""
    import comfy.sample

    return replace(step, noise=comfy.sample.prepare_noise(torch.zeros(step.noise.shape), SEED).to(step.noise))


def ksampler(model: Any, step: Step, steps: int) -> Tensor:
    """The node's work, loading included, as ComfyUI does it."""
    from nodes import common_ksampler  # pyright: ignore[reportAttributeAccessIssue]

    negative, positive = ([[prompt, {}]] for prompt in (step.prompts[0], step.prompts[-1]))
    latent = {"samples": torch.zeros(step.noise.shape)}
    cfg = 1.0 if step.config.guidance_embed else GUIDANCE  # Sprint has its scale as an input
    (result,) = common_ksampler(model, SEED, steps, cfg, "euler", "simple", positive, negative, latent)
    return result["samples"].to(step.noise)
