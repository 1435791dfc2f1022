"""Key names of the published layouts, as tables: a foreign key -> the canonical (diffusers) key or keys.

Placeholders: {i} and {j} are numbers, {p} is "weight" or "bias", {qk} is "q" or "k", {conv} one of the three
convolutions of GLUMBConv. Several targets share a fused tensor, cut along its first dimension; no target means that the
tensor is not used. Sources: NVlabs/Sana `diffusion/model/nets/sana_multi_scale.py`, mit-han-lab/efficientvit
`models/efficientvit/dc_ae.py`, diffusers' conversion scripts.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ..errors import CheckpointError
from ..quantised.formats import MARK, SIDES, Format
from .weights import quantised_layers

KeyMap = tuple[tuple[str, tuple[str, ...]], ...]


def _under(foreign: str, canonical: str, key_map: KeyMap) -> KeyMap:
    """The same table one level deeper."""
    return tuple((foreign + key, tuple(canonical + target for target in targets)) for key, targets in key_map)


_BLOCK: KeyMap = (
    ("scale_shift_table", ("scale_shift_table",)),
    ("attn.qkv.weight", ("attn1.to_q.weight", "attn1.to_k.weight", "attn1.to_v.weight")),
    ("attn.{qk}_norm.weight", ("attn1.norm_{qk}.weight",)),
    ("attn.proj.{p}", ("attn1.to_out.0.{p}",)),
    ("cross_attn.q_linear.{p}", ("attn2.to_q.{p}",)),
    ("cross_attn.kv_linear.{p}", ("attn2.to_k.{p}", "attn2.to_v.{p}")),
    ("cross_attn.{qk}_norm.weight", ("attn2.norm_{qk}.weight",)),
    ("cross_attn.proj.{p}", ("attn2.to_out.0.{p}",)),
    ("mlp.{conv}_conv.conv.{p}", ("ff.conv_{conv}.{p}",)),
)

TRANSFORMER_NVLABS: KeyMap = (
    ("x_embedder.proj.{p}", ("patch_embed.proj.{p}",)),
    ("t_block.1.{p}", ("time_embed.linear.{p}",)),
    ("y_embedder.y_proj.fc{i}.{p}", ("caption_projection.linear_{i}.{p}",)),
    ("attention_y_norm.weight", ("caption_norm.weight",)),
    ("final_layer.linear.{p}", ("proj_out.{p}",)),
    ("final_layer.scale_shift_table", ("scale_shift_table",)),
    *_under("blocks.{i}.", "transformer_blocks.{i}.", _BLOCK),
    ("pos_embed", ()),
    ("y_embedder.y_embedding", ()),  # the caption of dropped prompts, used in training only
    ("mask_token", ()),
)

TIME_EMBED_NVLABS: KeyMap = (
    ("t_embedder.mlp.0.{p}", ("time_embed.emb.timestep_embedder.linear_1.{p}",)),
    ("t_embedder.mlp.2.{p}", ("time_embed.emb.timestep_embedder.linear_2.{p}",)),
)

GUIDED_TIME_EMBED_NVLABS: KeyMap = (
    ("t_embedder.mlp.0.{p}", ("time_embed.timestep_embedder.linear_1.{p}",)),
    ("t_embedder.mlp.2.{p}", ("time_embed.timestep_embedder.linear_2.{p}",)),
    ("cfg_embedder.mlp.0.{p}", ("time_embed.guidance_embedder.linear_1.{p}",)),
    ("cfg_embedder.mlp.2.{p}", ("time_embed.guidance_embedder.linear_2.{p}",)),
    ("logvar_linear.{p}", ()),  # the training loss's weighting
)

CONTROLNET_NVLABS: KeyMap = (  # the file may hold the whole model besides, which is not used
    ("controlnet.0.before_proj.{p}", ("input_block.{p}",)),
    ("controlnet.{i}.after_proj.{p}", ("controlnet_blocks.{i}.{p}",)),
    *_under("controlnet.{i}.copied_block.", "transformer_blocks.{i}.", _BLOCK),
    *((key, ()) for key, _ in TRANSFORMER_NVLABS + GUIDED_TIME_EMBED_NVLABS),
)

_STAGE: KeyMap = (
    ("main.conv1.conv.{p}", ("conv1.{p}",)),
    ("main.conv2.conv.{p}", ("conv2.{p}",)),
    ("main.conv2.norm.{p}", ("norm.{p}",)),
    ("context_module.main.qkv.conv.weight", ("attn.to_q.weight", "attn.to_k.weight", "attn.to_v.weight")),
    ("context_module.main.aggreg.0.0.weight", ("attn.to_qkv_multiscale.0.proj_in.weight",)),
    ("context_module.main.aggreg.0.1.weight", ("attn.to_qkv_multiscale.0.proj_out.weight",)),
    ("context_module.main.proj.conv.weight", ("attn.to_out.weight",)),
    ("context_module.main.proj.norm.{p}", ("attn.norm_out.{p}",)),
    ("local_module.main.{conv}_conv.conv.{p}", ("conv_out.conv_{conv}.{p}",)),
    ("local_module.main.point_conv.norm.{p}", ("conv_out.norm.{p}",)),
)
_DOWNSAMPLE: KeyMap = (("main.conv.{p}", ("conv.{p}",)),)
_UPSAMPLE: KeyMap = (("main.conv.conv.{p}", ("conv.{p}",)),)

AUTOENCODER_MIT: KeyMap = (
    ("encoder.project_in.conv.{p}", ("encoder.conv_in.{p}",)),
    ("encoder.project_out.main.op_list.0.conv.{p}", ("encoder.conv_out.{p}",)),
    ("decoder.project_in.main.conv.{p}", ("decoder.conv_in.{p}",)),
    ("decoder.project_out.op_list.0.{p}", ("decoder.norm_out.{p}",)),
    ("decoder.project_out.op_list.2.conv.{p}", ("decoder.conv_out.{p}",)),
    ("decoder.project_out.op_list.2.conv.conv.{p}", ("decoder.conv_out.conv.{p}",)),  # Lite
    *_under("encoder.stages.{i}.op_list.{j}.", "encoder.down_blocks.{i}.{j}.", _STAGE + _DOWNSAMPLE),
    *_under("decoder.stages.{i}.op_list.{j}.", "decoder.up_blocks.{i}.{j}.", _STAGE + _UPSAMPLE),
)

_PLACEHOLDERS = {"i": "[0-9]+", "j": "[0-9]+", "p": "weight|bias", "qk": "[qk]", "conv": "inverted|depth|point"}


def rename(tensors: Mapping[str, Tensor], key_map: KeyMap) -> dict[str, Tensor]:
    """Tensors under their canonical names. Fused ones are cut, keys that the table does not know keep their names.

    Side tensors of a quantised layer go where its weight goes. Raises CheckpointError for a fused weight in a format
    whose rows cannot be cut.
    """
    rules = [(_pattern(key), targets) for key, targets in key_map]
    layers = quantised_layers(tensors)
    renamed: dict[str, Tensor] = {}
    for key, tensor in tensors.items():
        layer, _, name = key.rpartition(".")
        side = layer in layers and name not in ("weight", "bias")
        sought = f"{layer}.weight" if side else key
        matches = ((pattern.fullmatch(sought), targets) for pattern, targets in rules)
        match, targets = next(((match, targets) for match, targets in matches if match), (None, (sought,)))
        values = match.groupdict() if match else {}
        names = [target.format(**values) for target in targets]
        if side:
            names = [target.removesuffix("weight") + name for target in names]
        if len(names) > 1 and layer in layers:
            _check_rows(layer, layers[layer], len(names))
        rows = tensors.get(sought, tensor).shape[:1]  # a side tensor of as many rows as the weight belongs to the rows
        shared = side and (name == MARK or tensor.shape[:1] != rows)
        renamed.update(zip(names, (tensor,) * len(names) if shared else _rows(tensor, len(names))))
    return renamed


def _rows(tensor: Tensor, count: int) -> Sequence[Tensor]:
    return tensor.chunk(count) if count > 1 and tensor.ndim else (tensor,)


def _check_rows(layer: str, form: Format, count: int) -> None:
    if not form.rows:
        raise CheckpointError(
            f"{layer} holds {count} layers in one, quantised as {form.name}, which cannot be cut: quantise the model "
            "under diffusers' names"
        )


def foreign_key(key: str, key_map: KeyMap) -> str:
    """The inverse of `rename` for one key: what a canonical key is called in the layout of `key_map`."""
    layer, _, side = key.rpartition(".")
    if side in SIDES:
        return foreign_key(f"{layer}.weight", key_map).removesuffix("weight") + side
    for foreign, targets in key_map:
        for target in targets:
            match = _pattern(target).fullmatch(key)
            if match:
                return foreign.format(**match.groupdict())
    return key


def foreign_tensors(tensors: Mapping[str, Tensor], key_map: KeyMap) -> dict[str, Tensor]:
    """The inverse of `rename`: canonical tensors in the layout of `key_map`, fused where it fuses them. Keys that the
    table does not know keep their names.
    """
    parts: dict[str, dict[int, Tensor]] = {}
    for key, tensor in tensors.items():
        place = foreign_key(key, key_map)
        parts.setdefault(place, {})[_place_in(place, key, key_map)] = tensor
    return {
        key: torch.cat([found[place] for place in sorted(found)]) if len(found) > 1 else found[0]
        for key, found in parts.items()
    }


def _place_in(foreign: str, key: str, key_map: KeyMap) -> int:
    """Which of the targets of a foreign key a canonical key is."""
    for name, targets in key_map:
        match = _pattern(name).fullmatch(foreign)
        if match:
            return [target.format(**match.groupdict()) for target in targets].index(key)
    return 0


@functools.cache
def _pattern(key: str) -> re.Pattern[str]:
    pattern = re.escape(key)
    for name, values in _PLACEHOLDERS.items():
        pattern = pattern.replace(rf"\{{{name}\}}", f"(?P<{name}>{values})")
    return re.compile(pattern)
