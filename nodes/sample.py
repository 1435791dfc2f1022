"""Sampling."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..sana_core.pipeline.request import Request
from .bridge.sampling import SAMPLER_NAMES, generate, make_sampler, make_sigmas

SAMPLER_TIP = (
    "flow_dpm is Flow-DPM-Solver++, which SANA was released with; flow_euler needs more steps; "
    "scm is for SANA-Sprint alone."
)


class SanaNativeSigmas(io.ComfyNode):
    """The released noise schedules."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SanaNativeSigmas",
            display_name="SANA Sigmas",
            category="SANA",
            description="The exact noise schedule of the released code, for SamplerCustomAdvanced.",
            search_aliases=["sana scheduler", "flow dpm sigmas", "flow shift"],
            inputs=[
                io.Model.Input("model", tooltip="The SANA model; its shift is used where yours is 0."),
                io.Combo.Input(
                    "schedule", options=list(SAMPLER_NAMES), tooltip=f"The sampler's own grid. {SAMPLER_TIP}"
                ),
                io.Int.Input(
                    "steps",
                    default=20,
                    min=1,
                    max=1000,
                    tooltip="Number of steps: 14 to 20 for flow_dpm, about 28 for flow_euler, 1 to 4 for scm.",
                ),
                io.Float.Input(
                    "shift",
                    default=0.0,
                    min=0.0,
                    max=100.0,
                    step=0.1,
                    tooltip="Moves the schedule towards high noise, which larger pictures need. "
                    "0: the model's own, 3 up to 2K and 6 for 4K. scm has none.",
                ),
                io.Float.Input(
                    "denoise",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="How much of a given picture is redrawn; 1 for text to image.",
                ),
            ],
            outputs=[io.Sigmas.Output(tooltip="Noise levels from about 1 down to 0.")],
        )

    @classmethod
    def execute(cls, model: Any, schedule: str, steps: int, shift: float, denoise: float) -> io.NodeOutput:
        return io.NodeOutput(make_sigmas(model, schedule, steps, shift or None, denoise))


class SanaNativeSampler(io.ComfyNode):
    """The released solvers."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SanaNativeSampler",
            display_name="SANA Sampler",
            category="SANA",
            description="The released solvers, for SamplerCustomAdvanced together with SANA Sigmas.",
            search_aliases=["flow dpm solver", "flow-dpm-solver++", "flow euler", "sana ksampler"],
            inputs=[io.Combo.Input("sampler", options=list(SAMPLER_NAMES), tooltip=SAMPLER_TIP)],
            outputs=[io.Sampler.Output(tooltip="The solver, for SamplerCustomAdvanced or SamplerCustom.")],
        )

    @classmethod
    def execute(cls, sampler: str) -> io.NodeOutput:
        return io.NodeOutput(make_sampler(sampler))


class SanaNativeGenerate(io.ComfyNode):
    """A whole run with the released settings."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SanaNativeGenerate",
            display_name="SANA Generate",
            category="SANA",
            description="Prompt to latent in one node, sampled the way the model was released. "
            "Decode the result with VAE Decode.",
            search_aliases=["sana simple", "sana text to image", "sana txt2img", "sana ksampler"],
            inputs=[
                io.Model.Input("model", tooltip="A SANA model."),
                io.Clip.Input("clip", tooltip="Its Gemma-2 from Load SANA or Load SANA Text Encoder."),
                io.String.Input(
                    "prompt",
                    multiline=True,
                    dynamic_prompts=True,
                    tooltip="What the picture shows. SANA's instruction is put before it.",
                ),
                io.String.Input(
                    "negative_prompt",
                    multiline=True,
                    default="",
                    tooltip="What to keep out of the picture. May be empty.",
                ),
                io.Int.Input(
                    "width",
                    default=0,
                    min=0,
                    max=8192,
                    step=32,
                    tooltip="In pixels, a multiple of 32. 0: the model's own.",
                ),
                io.Int.Input(
                    "height",
                    default=0,
                    min=0,
                    max=8192,
                    step=32,
                    tooltip="In pixels, a multiple of 32. 0: the model's own.",
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=2**64 - 1,
                    control_after_generate=True,
                    tooltip="Of the noise: another seed, another picture.",
                ),
                io.Int.Input(
                    "steps", default=0, min=0, max=1000, tooltip="Number of steps. 0: as released, 20, or 2 for Sprint."
                ),
                io.Float.Input(
                    "cfg",
                    default=0.0,
                    min=0.0,
                    max=30.0,
                    step=0.1,
                    tooltip="How closely the prompt is followed. 0: as released, 4.5.",
                ),
                io.Float.Input(
                    "denoise",
                    default=1.0,
                    min=0.01,
                    max=1.0,
                    step=0.01,
                    tooltip="How much of a connected picture is redrawn; 1 for text to image.",
                    advanced=True,
                ),
                io.Latent.Input(
                    "latent",
                    optional=True,
                    tooltip="In place of width and height: an empty latent, or a picture from VAE Encode to start "
                    "from.",
                ),
            ],
            outputs=[io.Latent.Output(tooltip="The picture as a latent, for VAE Decode.")],
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        clip: Any,
        prompt: str,
        negative_prompt: str,
        width: int,
        height: int,
        seed: int,
        steps: int,
        cfg: float,
        denoise: float,
        latent: dict[str, Any] | None = None,
    ) -> io.NodeOutput:
        size = {} if latent else {"width": width or None, "height": height or None}
        settings = {**size, "steps": steps or None, "guidance_scale": cfg or None}  # 0: the model's own
        request = Request(prompt, negative_prompt=negative_prompt, seed=seed, **settings)
        return io.NodeOutput(generate(model, clip, request, denoise=denoise, latent=latent))
