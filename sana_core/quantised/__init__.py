"""Quantised weights: their formats, and how they are made."""
