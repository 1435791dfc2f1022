"""What this machine has: PyTorch and its cards, ComfyUI, and which model files are what and why. Nothing is loaded."""
