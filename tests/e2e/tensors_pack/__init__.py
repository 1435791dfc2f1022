"""A node pack for tests alone: NOISE, CONDITIONING and LATENT from tensors in a safetensors file."""

from comfy_api.latest import ComfyExtension, io
from safetensors.torch import load_file


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


class TestExtension(ComfyExtension):
    async def get_node_list(self):
        return [TestTensors]


async def comfy_entrypoint():
    return TestExtension()
