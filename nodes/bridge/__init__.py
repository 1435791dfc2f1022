"""The only code that touches ComfyUI's modules: SANA's networks and samplers as the host's own objects."""
