# Copyright 2026 The LAVCap for Transformers authors. Licensed under the Apache License, Version 2.0.
"""CED's weights (Dinkel et al., arXiv 2308.11957) under our names, and what they tell of its sizes."""

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn


try:  # inside a package: the Hub's module cache
    from .parts_captioning import read_part
    from .weights_captioning import WeightsError, check_values, rename, renamed, shorten
except ImportError:  # as a plain module: a clone, or after `pip install`
    from parts_captioning import read_part
    from weights_captioning import WeightsError, check_values, rename, renamed, shorten


# CED's names (https://github.com/RicherMans/CED, `models/audiotransformer.py`), its Hub port's and LAVCap's
CED_NAMES = (
    (re.compile(r"^encoder\."), ""),
    (re.compile(r"^init_bn\.(1\.)?"), "batch_norm."),
    (re.compile(r"^patch_embed\.proj\."), "patch_embed."),
    (re.compile(r"^blocks\.(\d+)\.norm([12])\."), r"layers.\1.layer_norm\2."),
    (re.compile(r"^blocks\.(\d+)\.attn\.proj\."), r"layers.\1.self_attn.out_proj."),
    (re.compile(r"^blocks\.(\d+)\.attn\."), r"layers.\1.self_attn."),
    (re.compile(r"^blocks\."), "layers."),
    (re.compile(r"^norm\."), "layer_norm."),
)
CED_UNUSED = (
    (re.compile(r"^(encoder\.)?output_?layer\."), "CED's tagging head"),
    (re.compile(r"^(encoder\.)?front_end\."), "CED's own filter bank"),
)
CED_HEAD_SIZE = 64  # channels per attention head, in every published size of CED


def read_ced(path: str | Path, own_type: str) -> tuple[dict[str, torch.Tensor], dict]:
    """Weights of CED under the names of `LavcapAudioModel`, and the fields of its configuration that they tell.

    Args:
        path: file, folder, or name on the Hub.
        own_type: `model_type` of a saved audio tower, whose configuration tells all fields.

    Raises:
        WeightsError: unreadable, unsafe, or not the weights of CED.
    """
    saved, tensors = read_part(path, own_type)
    try:
        weights, fields = ced_tower(tensors)
        return weights, fields | saved
    except WeightsError as error:
        raise error.of(path) from error


def ced_weights(tensors: Mapping[str, torch.Tensor]) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """CED's tensors under the names of `LavcapAudioModel`, and those that it does without, with the reason.

    Stacked `attn.qkv` are split into query, key and value by thirds. Names that CED does not have are kept.
    """
    return renamed(tensors, CED_NAMES, CED_UNUSED)


def ced_name(name: str) -> str:
    """Our name of a tensor of CED."""
    return rename(name, CED_NAMES)


def ced_tower(tensors: Mapping[str, torch.Tensor]) -> tuple[dict[str, torch.Tensor], dict[str, int]]:
    """Usable weights of `LavcapAudioModel` out of the tensors of CED, and what they tell of its configuration."""
    weights, _ = ced_weights(tensors)
    check_values(weights)
    return weights, _ced_sizes(weights)


def _ced_sizes(weights: Mapping[str, torch.Tensor]) -> dict[str, int]:
    """Fields of `LavcapAudioConfig` that the tensors of an audio tower tell; the window is not among them.

    Raises:
        WeightsError: these are no weights of CED.
    """
    needed = {"patch_embed.weight": 4, "batch_norm.weight": 1, "time_pos_embed": 4, "layers.0.mlp.fc1.weight": 2}
    if any(name not in weights or weights[name].ndim != axes for name, axes in needed.items()):
        raise WeightsError(
            f"Got {len(weights)} tensors named {shorten(weights)}, expected those of CED: patch_embed.proj.weight, "
            "init_bn.1.weight, time_pos_embed, blocks.0.mlp.fc1.weight, …"
        )
    width, _, patch, _ = weights["patch_embed.weight"].shape
    layers = {int(found.group(1)) for name in weights if (found := re.match(r"layers\.(\d+)\.", name))}
    sizes = {
        "hidden_size": width,
        "intermediate_size": weights["layers.0.mlp.fc1.weight"].shape[0],
        "num_hidden_layers": len(layers),  # a gap shows when they are loaded
        "num_mel_bins": weights["batch_norm.weight"].shape[0],
        "patch_size": patch,
    }
    if width % CED_HEAD_SIZE == 0:
        sizes["num_attention_heads"] = width // CED_HEAD_SIZE
    return sizes


def fit_time_positions(table: torch.Tensor, length: int) -> torch.Tensor:
    """Time positions `(1, hidden, 1, time)` for another window: cut, or interpolated as LAVCap does with CED's.

    Source: released `models/ced/audiotransformer.py`; bilinear, corners not aligned.
    """
    if table.shape[-1] >= length:
        return table[..., :length].contiguous()
    stretched = nn.functional.interpolate(table.float(), size=(1, length), mode="bilinear", align_corners=False)
    return stretched.to(table.dtype)
