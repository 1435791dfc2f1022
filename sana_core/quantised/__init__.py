"""Quantised weights: formats, making files of them, computing with them."""
