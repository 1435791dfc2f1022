"""Prompt to picture: the three networks, a request, and what a run starts from."""

from .pipeline import SanaPipeline, load_pipeline

__all__ = ["SanaPipeline", "load_pipeline"]
