"""What is done with a prompt before it is encoded: is it against the policy, and in which style is it drawn?"""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..sana_core.errors import InputError
from ..sana_core.pipeline import checks
from ..sana_core.safety import ACTIONS, THRESHOLD
from ..sana_core.styles import NO_STYLE, STYLES, styled
from .bridge.links import check_links
from .bridge.shield import checked_prompt


class SanaNativeCheckPrompt(io.ComfyNode):
    """A prompt that ShieldGemma has read."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SanaNativeCheckPrompt",
            display_name="SANA Check Prompt",
            category="SANA/conditioning",
            description="Asks ShieldGemma whether a prompt is against the policy of NVIDIA's demo. Such a prompt stops "
            "the run, or is replaced by a harmless one. Negative prompts and pictures are not checked.",
            search_aliases=["shieldgemma", "safety check", "nsfw filter", "prompt filter", "moderation", "guard"],
            inputs=[
                io.Clip.Input(
                    "shield",
                    tooltip="ShieldGemma-2B from Load SANA Text Encoder (Gemma). SANA's own Gemma-2 fits too, but its "
                    "answers mean nothing.",
                ),
                io.String.Input(
                    "prompt",
                    multiline=True,
                    dynamic_prompts=True,
                    tooltip="The prompt as you wrote it, without a style.",
                ),
                io.Float.Input(
                    "threshold",
                    default=THRESHOLD,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="A prompt above this probability is against the policy. NVIDIA's demo takes 0.2. A lower "
                    "one stops more prompts.",
                ),
                io.Combo.Input(
                    "action",
                    options=list(ACTIONS),
                    default=ACTIONS[0],
                    tooltip="refuse: the run stops with a message. replace: a red heart is drawn instead, as in "
                    "NVIDIA's demo, and the log says so.",
                ),
            ],
            outputs=[
                io.String.Output(
                    display_name="prompt",
                    tooltip="The prompt if it passes, for SANA Prompt Style, SANA Text Encode or SANA Generate.",
                ),
                io.Float.Output(
                    display_name="probability",
                    tooltip="How probable it is that the prompt is against the policy, 0 to 1.",
                ),
            ],
        )

    @classmethod
    def execute(cls, shield: Any, prompt: str, threshold: float, action: str) -> io.NodeOutput:
        check_links(shield=shield)
        if shield is None:
            raise InputError("there is no shield: connect ShieldGemma-2B from Load SANA Text Encoder (Gemma)")
        return io.NodeOutput(*checked_prompt(shield, checks.text("prompt", prompt), threshold, action))


class SanaNativeStyle(io.ComfyNode):
    """A prompt in one of the styles of NVIDIA's demo."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SanaNativeStyle",
            display_name="SANA Prompt Style",
            category="SANA/conditioning",
            description="Puts the words of a style around a prompt and before a negative prompt, as NVIDIA's demo "
            "does.",
            search_aliases=["style template", "sana style", "prompt styler", "cinematic", "anime", "pixel art"],
            inputs=[
                io.String.Input(
                    "prompt", multiline=True, dynamic_prompts=True, tooltip="What to draw, without words of style."
                ),
                io.String.Input(
                    "negative_prompt",
                    multiline=True,
                    dynamic_prompts=True,
                    tooltip="What not to draw. It follows the style's own words without a comma, as in NVIDIA's demo: "
                    "begin it with one.",
                ),
                io.Combo.Input(
                    "style",
                    options=list(STYLES),
                    default=NO_STYLE,
                    tooltip="One of NVIDIA's ten. (No style) changes nothing.",
                ),
            ],
            outputs=[
                io.String.Output(
                    display_name="prompt",
                    tooltip="The prompt in the style, for SANA Text Encode or SANA Generate.",
                ),
                io.String.Output(
                    display_name="negative_prompt",
                    tooltip="The negative prompt of the style and yours, for the negative side.",
                ),
            ],
        )

    @classmethod
    def execute(cls, prompt: str, negative_prompt: str, style: str) -> io.NodeOutput:
        texts = checks.text("prompt", prompt), checks.text("negative_prompt", negative_prompt)
        return io.NodeOutput(*styled(*texts, style))
