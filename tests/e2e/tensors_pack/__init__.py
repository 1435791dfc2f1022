"""A node pack for tests alone: NOISE, CONDITIONING and LATENT from tensors in a safetensors file, and a MODEL whose
network is sana_core's own.
"""

import functools
import sys
from pathlib import Path

import folder_paths
import torch
from comfy_api.latest import ComfyExtension, io
from safetensors.torch import load_file

sys.path.append(str(Path(__file__).resolve().parents[3]))  # last, as the pack has a `nodes` of its own
from sana_core import load_transformer


class GivenNoise:
    """What SamplerCustomAdvanced expects of NOISE."""

    seed = 0

    def __init__(self, latents):
        self.latents = latents

    def generate_noise(self, latent):
        return self.latents


class TestTensors(io.ComfyNode):
    """Keys `noise`, `positive`, `negative` and, for the two conditionings, `positive_mask` and `negative_mask`."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="TestTensors",
            category="test",
            inputs=[io.String.Input("path")],
            outputs=[io.Noise.Output(), io.Conditioning.Output(), io.Conditioning.Output(), io.Latent.Output()],
        )

    @classmethod
    def execute(cls, path):
        tensors = load_file(path)
        conditionings = []
        for name in ("positive", "negative"):
            mask = {"attention_mask": tensors[f"{name}_mask"]} if f"{name}_mask" in tensors else {}
            conditionings.append([[tensors[name], mask]])
        return io.NodeOutput(GivenNoise(tensors["noise"]), *conditionings, {"samples": tensors["noise"] * 0})


@functools.cache
def plain_transformer(path):
    return load_transformer(path, device="cpu", dtype=torch.float32)


class TestPlainNetwork(io.ComfyNode):
    """The same model for every other node, but it is sana_core's transformer in plain PyTorch that is called."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="TestPlainNetwork",
            category="test",
            inputs=[io.Model.Input("model"), io.String.Input("unet_name")],
            outputs=[io.Model.Output()],
        )

    @classmethod
    def execute(cls, model, unet_name):
        transformer = plain_transformer(folder_paths.get_full_path_or_raise("diffusion_models", unet_name))
        whole = not transformer.config.guidance_embed

        def predict(apply_model, given):
            """x0 of latents (B, 32, h, w) at noise levels (B,)."""
            x, sigma, conds = given["input"], given["timestep"], given["c"]
            timestep = (1000.0 * sigma).trunc() if whole else 1000.0 * sigma
            texts = conds["c_crossattn"], conds["attention_mask"].bool()
            velocity = transformer(x, timestep, *texts, guidance=conds.get("guidance"))
            return x - sigma[:, None, None, None] * velocity

        changed = model.clone()
        changed.set_model_unet_function_wrapper(predict)
        return io.NodeOutput(changed)


class TestExtension(ComfyExtension):
    async def get_node_list(self):
        return [TestTensors, TestPlainNetwork]


async def comfy_entrypoint():
    return TestExtension()
