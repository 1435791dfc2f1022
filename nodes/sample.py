"""Sampling."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..sana_core.latents import ASPECT_RATIOS
from ..sana_core.pipeline.request import Request
from .bridge.control import Control
from .bridge.links import check_links
from .bridge.sampling import SAMPLER_NAMES, chosen_size, generate, make_sampler, make_sigmas

SAMPLER_TIP = (
    "flow_dpm: Flow-DPM-Solver++, as SANA was released. flow_euler: plain Euler, needs more steps. scm: only for "
    "SANA-Sprint."
)


class SanaNativeSigmas(io.ComfyNode):
    """The released noise schedules."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SanaNativeSigmas",
            display_name="SANA Scheduler",
            category="SANA/sampling",
            description="The noise schedule of the released code, for SamplerCustom and SamplerCustomAdvanced.",
            search_aliases=["sana scheduler", "flow dpm sigmas", "flow shift"],
            inputs=[
                io.Model.Input("model", tooltip="The SANA model. Its own shift is used if yours is 0."),
                io.Combo.Input(
                    "schedule",
                    options=list(SAMPLER_NAMES),
                    tooltip=f"Choose the same as in SANA Sampler Select. {SAMPLER_TIP}",
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
                    tooltip="Moves the schedule towards high noise, which larger pictures need. 0: the model's own, 3 "
                    "up to 2K and 6 for 4K. scm has no shift.",
                ),
                io.Float.Input(
                    "denoise",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="How much of a given picture is redrawn. 1 for text to image.",
                ),
            ],
            outputs=[io.Sigmas.Output(tooltip="Noise levels from about 1 down to 0.")],
        )

    @classmethod
    def execute(cls, model: Any, schedule: str, steps: int, shift: float, denoise: float) -> io.NodeOutput:
        check_links(model=model)
        return io.NodeOutput(make_sigmas(model, schedule, steps, shift or None, denoise))


class SanaNativeSampler(io.ComfyNode):
    """The released solvers."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SanaNativeSampler",
            display_name="SANA Sampler Select",
            category="SANA/sampling",
            description="The released samplers, for SamplerCustom and SamplerCustomAdvanced. Use it with SANA "
            "Scheduler.",
            search_aliases=["flow dpm solver", "flow-dpm-solver++", "flow euler", "sana ksampler"],
            inputs=[io.Combo.Input("sampler", options=list(SAMPLER_NAMES), tooltip=SAMPLER_TIP)],
            outputs=[io.Sampler.Output(tooltip="The sampler, for SamplerCustom or SamplerCustomAdvanced.")],
        )

    @classmethod
    def execute(cls, sampler: str) -> io.NodeOutput:
        return io.NodeOutput(make_sampler(sampler))


RELEASED, RATIO, OWN = "as released", "aspect ratio", "own"


def _settings() -> list[io.Input]:
    """Size and sampling of SANA Generate: the model's own, or chosen ones."""
    sides = [
        io.Int.Input(
            side, default=1024, min=32, max=8192, step=32, tooltip=f"{side.capitalize()} in pixels, a multiple of 32."
        )
        for side in ("width", "height")
    ]
    ratio = io.Combo.Input(
        "ratio",
        options=list(ASPECT_RATIOS),
        default="1:1",
        tooltip="Width to height. The node takes the nearest size that the model was trained on.",
    )
    steps = io.Int.Input("steps", default=20, min=1, max=1000, tooltip="Number of steps: 20 as released, 2 for Sprint.")
    cfg = io.Float.Input(
        "cfg",
        default=4.5,
        min=0.0,
        max=30.0,
        step=0.1,
        tooltip="How closely the picture follows the prompt. SANA was released with 4.5; 2 to 2.5 is softer; 1 is "
        "without guidance.",
    )
    return [
        io.DynamicCombo.Input(
            "size",
            options=[
                io.DynamicCombo.Option(RELEASED, []),
                io.DynamicCombo.Option(RATIO, [ratio]),
                io.DynamicCombo.Option(OWN, sides),
            ],
            optional=True,
            tooltip="Size of the picture. as released: the model's own square. aspect ratio: a size that the model "
            "was trained on. own: your width and height.",
        ),
        io.DynamicCombo.Input(
            "sampling",
            options=[io.DynamicCombo.Option(RELEASED, []), io.DynamicCombo.Option(OWN, [steps, cfg])],
            optional=True,
            tooltip="Steps and cfg. as released: the model's own. own: your numbers.",
        ),
    ]


def _number(kind: Any, name: str, what: str, **limits: Any) -> io.Input:
    """A setting of prompts over the API, where 0 is the model's own; the editor shows `size` and `sampling`."""
    return kind.Input(
        name,
        default=0,
        min=0,
        **limits,
        socketless=True,
        extra_dict={"hidden": True},
        tooltip=f"{what}, for prompts over the API. 0: the model's own.",
    )


class SanaNativeGenerate(io.ComfyNode):
    """A whole run with the released settings."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SanaNativeGenerate",
            display_name="SANA Generate",
            category="SANA",
            description="From prompt to latent in one node, with the settings that the model was released with. "
            "Connect VAE Decode to see the picture.",
            search_aliases=["sana simple", "sana text to image", "sana txt2img", "sana ksampler"],
            inputs=[
                io.Model.Input("model", tooltip="A SANA model."),
                io.Clip.Input("clip", tooltip="Its Gemma-2 from Load SANA or Load SANA Text Encoder (Gemma)."),
                io.String.Input(
                    "prompt",
                    multiline=True,
                    dynamic_prompts=True,
                    tooltip="What the picture shows. Write sentences. The node puts SANA's instruction before it.",
                ),
                io.String.Input(
                    "negative_prompt",
                    multiline=True,
                    default="",
                    tooltip="What the picture should not show. May be empty. SANA-Sprint ignores it.",
                ),
                _number(io.Int, "width", "Width in pixels", max=8192, step=32),
                _number(io.Int, "height", "Height in pixels", max=8192, step=32),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=2**64 - 1,
                    control_after_generate=True,
                    tooltip="Start of the noise: another seed gives another picture.",
                ),
                _number(io.Int, "steps", "Number of steps", max=1000),
                _number(io.Float, "cfg", "Guidance scale", max=30.0, step=0.1),
                io.Float.Input(
                    "denoise",
                    default=1.0,
                    min=0.01,
                    max=1.0,
                    step=0.01,
                    tooltip="How much of a connected picture is redrawn. 1 for text to image.",
                    advanced=True,
                ),
                io.Latent.Input(
                    "latent",
                    optional=True,
                    tooltip="Instead of a size: an empty latent, or a picture from VAE Encode to start from.",
                ),
                *_settings(),
                io.ControlNet.Input("control_net", optional=True, tooltip="A ControlNet from Load SANA ControlNet."),
                io.Image.Input(
                    "control_image", optional=True, tooltip="The picture that the ControlNet follows, such as edges."
                ),
                io.Vae.Input(
                    "vae", optional=True, tooltip="DC-AE from Load SANA. The ControlNet needs it to read the picture."
                ),
                io.Float.Input(
                    "control_strength",
                    default=1.0,
                    min=0.0,
                    max=10.0,
                    step=0.01,
                    optional=True,
                    tooltip="How closely the picture follows the ControlNet. 1: as released. 0: not at all.",
                    advanced=True,
                ),
            ],
            outputs=[io.Latent.Output(tooltip="The picture as a latent, for VAE Decode.")],
            hidden=[io.Hidden.prompt],
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
        size: dict[str, Any] | None = None,
        sampling: dict[str, Any] | None = None,
        control_net: Any = None,
        control_image: Any = None,
        vae: Any = None,
        control_strength: float = 1.0,
    ) -> io.NodeOutput:
        check_links(model=model, clip=clip, latent=latent)
        own = sampling or {}
        settings: dict[str, Any] = {
            "steps": own.get("steps", steps) or None,
            "guidance_scale": own.get("cfg", cfg) or None,
        }
        if latent is None:
            settings |= chosen_size(model, size or {}, width, height)
        request = Request(prompt, negative_prompt=negative_prompt, seed=seed, **settings)
        control = Control.of(control_net, control_image, vae, control_strength)
        whole = getattr(cls.hidden, "prompt", None)  # not of a node that runs alone
        return io.NodeOutput(
            generate(model, clip, request, denoise=denoise, latent=latent, control=control, prompt=whole)
        )
