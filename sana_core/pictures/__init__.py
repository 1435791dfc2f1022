"""Pictures as tensors, as PIL images and as files; what a ControlNet follows."""
