"""DC-AE f32c32: pictures to latents of 32 channels at 1/32 of the size, and back."""
