"""Weights in few bits: the formats of ComfyUI and of GGUF, their numbers, and layers that hold them."""
