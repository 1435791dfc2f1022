"""The same random LoRA in every dialect that files have, shared by the tests."""

import json

import torch

RANK, ALPHA = 4, 2.0
ATTENTION = [
    "attn1.to_q",
    "attn1.to_k",
    "attn1.to_v",
    "attn1.to_out.0",
    "attn2.to_q",
    "attn2.to_k",
    "attn2.to_v",
    "attn2.to_out.0",
]
BLOCK = [*ATTENTION, "ff.conv_inverted", "ff.conv_point"]
OUTSIDE = ["patch_embed.proj", "caption_projection.linear_1", "time_embed.linear", "proj_out"]
NVLABS = {
    "attn.qkv": ["attn1.to_q", "attn1.to_k", "attn1.to_v"],
    "attn.proj": ["attn1.to_out.0"],
    "cross_attn.q_linear": ["attn2.to_q"],
    "cross_attn.kv_linear": ["attn2.to_k", "attn2.to_v"],
    "cross_attn.proj": ["attn2.to_out.0"],
    "mlp.inverted_conv.conv": ["ff.conv_inverted"],
    "mlp.point_conv.conv": ["ff.conv_point"],
    "x_embedder.proj": ["patch_embed.proj"],
    "y_embedder.y_proj.fc1": ["caption_projection.linear_1"],
    "t_block.1": ["time_embed.linear"],
    "final_layer.linear": ["proj_out"],
}
SHARED = {
    module: group[0] for group in NVLABS.values() for module in group
}  # q, k, v have one down-projection, as in the fused layer


def modules(depth):
    return [*OUTSIDE, *(f"transformer_blocks.{index}.{name}" for index in range(depth) for name in BLOCK)]


def factors(model, depth=2, size=0.5, seed=0):
    """{module: (down (r, in), up (out, r))} for the modules of a SANA transformer."""
    found, downs = {}, {}
    for module in modules(depth):
        weight = model.get_submodule(module).weight.flatten(1)
        before, _, name = module.rpartition(".attn")
        shared = f"{before}.attn{name}" if not before else f"{before}.{SHARED[module.removeprefix(before + '.')]}"
        generator = torch.Generator().manual_seed(seed + len(found))
        down = downs.setdefault(shared, torch.randn(RANK, weight.shape[1], generator=generator))
        found[module] = (down, torch.randn(weight.shape[0], RANK, generator=generator) * size / weight.shape[1])
    return found


def deltas(factors):
    """{module: difference of the weight as a matrix} at strength 1."""
    return {module: ALPHA / RANK * up @ down for module, (down, up) in factors.items()}


def peft(factors, prefix="transformer.", folded=True):
    """lora_A and lora_B without alpha; folded: the scale is in B, else it has to be stated elsewhere."""
    scale = ALPHA / RANK if folded else 1.0
    tensors = {}
    for module, (down, up) in factors.items():
        shape = (1, 1) if ".conv_" in module or "patch_embed" in module else ()
        tensors[f"{prefix}{module}.lora_A.weight"] = down.clone().reshape(*down.shape, *shape)
        tensors[f"{prefix}{module}.lora_B.weight"] = (up * scale).reshape(*up.shape, *shape)
    return tensors


def kohya(factors, prefix="lora_unet_", down="lora_down", up="lora_up"):
    """Named with "_" for "." after a prefix without a dot, and with alpha."""
    tensors = {}
    for module, (first, second) in factors.items():
        name = prefix + (module if prefix.endswith(".") or not prefix else module.replace(".", "_"))
        tensors |= {
            f"{name}.{down}.weight": first.clone(),
            f"{name}.{up}.weight": second,
            f"{name}.alpha": torch.tensor(ALPHA),
        }
    return tensors


def fused(factors):
    """The same factors under NVlabs' names."""
    found = {}
    for module in factors:
        block = module.split(".")[1] if module.startswith("transformer_blocks.") else None
        before = "" if block is None else f"transformer_blocks.{block}."
        name, group = next((name, group) for name, group in NVLABS.items() if module.removeprefix(before) in group)
        down = factors[module][0]
        found[name if block is None else f"blocks.{block}.{name}"] = (
            down,
            torch.cat([factors[before + part][1] for part in group]),
        )
    return found


def config(r=RANK, alpha=ALPHA, **more):
    return {"r": r, "lora_alpha": alpha, **more}


def stated(component="transformer.", **more):
    """Safetensors metadata in which diffusers keeps PEFT's configuration."""
    return {"lora_adapter_metadata": json.dumps({component + key: value for key, value in config(**more).items()})}


DIALECTS = {
    "diffusers": peft,
    "peft": lambda factors: peft(factors, "base_model.model."),
    "peft in diffusers": lambda factors: peft(factors, "transformer.base_model.model."),
    "bare": lambda factors: peft(factors, ""),
    "comfyui": lambda factors: kohya(factors, "diffusion_model.", "lora_A", "lora_B"),
    "kohya": kohya,
    "onetrainer": lambda factors: kohya(factors, "lora_transformer_"),
    "onetrainer dotted": lambda factors: kohya(factors, "transformer."),
    "simpletuner": lambda factors: kohya(factors, "lycoris_"),
    "nvlabs": lambda factors: kohya(fused(factors), ""),
    "nvlabs kohya": lambda factors: kohya(fused(factors)),
}
