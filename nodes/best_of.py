"""The best of many pictures."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io
from torch import Tensor

from ..sana_core.pipeline import checks
from .bridge.links import check_links
from .bridge.scoring import best_of, choice_error, host_scorer, scorer_names

SCORER = io.Custom("SANA_SCORER")  # any function (pictures, prompts) -> scores


class SanaNativeLoadScorer(io.ComfyNode):
    """What says how good a picture is."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SanaNativeLoadScorer",
            display_name="Load SANA Scorer",
            category="SANA/loaders",
            description="Loads what says how well a picture suits its prompt, for SANA Best Of N: a CLIP model, "
            "NVIDIA's verifier, or a preference model of the package imscore.",
            search_aliases=["clip score", "verifier", "nvila", "pickscore", "hpsv2", "imagereward", "scorer"],
            inputs=[
                io.Combo.Input(
                    "scorer",
                    options=scorer_names(),
                    tooltip="A folder in models/sana_scorers: a CLIP model as transformers saves it, or NVIDIA's "
                    "NVILA-Lite-2B-Verifier. Models of imscore are listed where that package is installed.",
                ),
            ],
            outputs=[SCORER.Output(display_name="scorer", tooltip="For SANA Best Of N.")],
        )

    @classmethod
    def validate_inputs(cls, scorer: str) -> bool | str:
        return choice_error(scorer) or True

    @classmethod
    def execute(cls, scorer: str) -> io.NodeOutput:
        return io.NodeOutput(host_scorer(scorer))


class SanaNativeBestOf(io.ComfyNode):
    """The best pictures of a batch, by a scorer."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SanaNativeBestOf",
            display_name="SANA Best Of N",
            category="SANA/tools",
            description="Keeps the best pictures of a batch: those that a scorer finds nearest to the prompt. If the "
            "scorer fails, the first pictures are kept and the node says why.",
            search_aliases=[
                "best of n",
                "inference-time scaling",
                "pick best",
                "select image",
                "rank images",
                "rerank",
            ],
            inputs=[
                io.Image.Input("images", tooltip="A batch of pictures of one prompt."),
                io.String.Input("prompt", multiline=True, tooltip="What they should show."),
                SCORER.Input("scorer", tooltip="From Load SANA Scorer, or from a node of another pack."),
                io.Int.Input("keep", default=1, min=1, max=4096, tooltip="How many pictures are kept, the best first."),
                io.Latent.Input(
                    "latents",
                    optional=True,
                    tooltip="Optional: the latents of the same batch, to keep the best of them.",
                ),
            ],
            outputs=[
                io.Image.Output(display_name="images", tooltip="The best pictures, the best first."),
                io.Latent.Output(display_name="latents", tooltip="Their latents, if latents are connected."),
                io.String.Output(display_name="scores", tooltip="The scores of all pictures, the best first."),
                io.Image.Output(
                    display_name="plot", tooltip="The best score that is expected of 1, 2, 4 ... pictures of these."
                ),
            ],
        )

    @classmethod
    def execute(
        cls, images: Tensor, prompt: str, scorer: Any, keep: int, latents: dict[str, Any] | None = None
    ) -> io.NodeOutput:
        check_links(images=images, scorer=scorer, latents=latents)
        best = best_of(images, checks.text("prompt", prompt), scorer, keep, latents)
        return io.NodeOutput(best.images, best.latents, best.report, best.plot)
