"""Weights in few bits: the formats of ComfyUI and of GGUF, how they are read, made and computed with."""
