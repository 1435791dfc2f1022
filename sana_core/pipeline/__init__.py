"""Prompt to picture: the request, the networks, and what a run starts from."""

from .load import load_pipeline
from .pipeline import Result, SanaPipeline
from .request import Request, Resolved

__all__ = ["Request", "Resolved", "Result", "SanaPipeline", "load_pipeline"]
