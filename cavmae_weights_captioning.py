# Copyright 2026 The LAVCap for Transformers authors. Licensed under the Apache License, Version 2.0.
"""CAV-MAE's weights (https://github.com/YuanGongND/cav-mae, and AVCap's) under our names, and the sizes they tell."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel


try:  # inside a package: the Hub's module cache
    from .cavmae_captioning import TUBELET, CavMaeConfig, CavMaeModel
    from .parts_captioning import load_part, read_part
    from .weights_captioning import WeightsError, check_values, load_strictly, shorten, split_qkv
except ImportError:  # as a plain module: a clone, or after `pip install`
    from cavmae_captioning import TUBELET, CavMaeConfig, CavMaeModel
    from parts_captioning import load_part, read_part
    from weights_captioning import WeightsError, check_values, load_strictly, shorten, split_qkv


MODALITIES = {"a": "audio", "v": "video"}  # by the letter in CAV-MAE's names
WAYS = {"": "joint", "_a": "audio", "_v": "video"}
CAVMAE_NAMES = (
    (re.compile(r"^module\."), ""),
    (re.compile(r"^patch_embed_([av])\.proj\."), lambda found: f"{MODALITIES[found[1]]}_patch_embed."),
    (re.compile(r"^pos_embed_([av])$"), lambda found: f"{MODALITIES[found[1]]}_pos_embed"),
    (re.compile(r"^modality_([av])$"), lambda found: f"{MODALITIES[found[1]]}_modality_embed"),
    (re.compile(r"^norm(_[av])?\."), lambda found: f"layer_norm.{WAYS[found[1] or '']}."),
    (
        re.compile(r"^blocks_u\.(\d+)\.norm([12])(_[av])?\."),
        lambda found: f"joint_layers.{found[1]}.layer_norm{found[2]}.{WAYS[found[3] or '']}.",
    ),
    (
        re.compile(r"^blocks_([av])\.(\d+)\.norm([12])\."),
        lambda found: f"{MODALITIES[found[1]]}_layers.{found[2]}.layer_norm{found[3]}.",
    ),
    (re.compile(r"^blocks_u\."), "joint_layers."),
    (re.compile(r"^blocks_([av])\."), lambda found: f"{MODALITIES[found[1]]}_layers."),
    (re.compile(r"\.attn\.proj\."), ".self_attn.out_proj."),
    (re.compile(r"\.attn\."), ".self_attn."),
)
CAVMAE_UNUSED = (
    (re.compile(r"blocks_[av]\.\d+\.norm[12]_[av]\."), "LayerNorms that these layers never go through"),
    (re.compile(r"(decoder_|mask_token)"), "the decoder of CAV-MAE's pretraining"),
    (re.compile(r"mlp_head\."), "CAV-MAE's tagging head"),
)
HEADS = 12  # of every published CAV-MAE, and of AVCap
IMAGE_SIZE = 224


def load_cavmae(part: str | Path | PreTrainedModel, fields: dict[str, Any] | None = None) -> CavMaeModel:
    """The encoder from its authors' file, from a folder or a name on the Hub, or the loaded one.

    Args:
        fields: of [`CavMaeConfig`], where they shall differ from what a file tells. Of another number of frames the
            patches and positions of the picture begin anew, as released; of a `mode` the other modality is left out.

    Raises:
        WeightsError: unreadable, unsafe, or not the weights of CAV-MAE.
        ValueError: fields for an encoder that has its own.
    """
    if isinstance(part, PreTrainedModel) or not (Path(part).is_file() or fields):
        if fields:
            raise ValueError("Got audio_visual_config beside an encoder that has its own: leave it out.")
        return load_part(CavMaeModel, part, "auto")
    saved, tensors = read_part(part, CavMaeConfig.model_type)
    try:
        if saved:
            return encoder_of(tensors, saved | (fields or {}), saved)
        weights, _ = cavmae_weights(tensors)
        told = cavmae_fields(weights, fields or {})
        return encoder_of(weights, told | (fields or {}), told)
    except WeightsError as error:
        raise WeightsError(f"{part}: {error}") from error


def encoder_of(
    weights: Mapping[str, torch.Tensor], fields: dict[str, Any], told: dict[str, Any] | None = None
) -> CavMaeModel:
    """Encoder of a configuration with all of its weights, under our names.

    Args:
        told: fields of the model that the weights are of; default: `fields`.

    Raises:
        WeightsError: missing weights, or such as have no place.
    """
    check_values(weights)
    config = CavMaeConfig(**fields)
    weights = {name: tensor for name, tensor in weights.items() if is_built(name, config)}
    if told is not None and "video" in config.modalities and told["num_video_frames"] != config.num_video_frames:
        fresh = CavMaeModel(config)  # random weights of a picture's patches, as the released code leaves them
        for name in ("video_patch_embed.weight", "video_patch_embed.bias", "video_pos_embed"):
            weights[name] = fresh.get_parameter(name).data
    with torch.device("meta"):
        model = CavMaeModel._from_config(config)
    load_strictly(model, weights)
    return model.eval()


def is_built(name: str, config: CavMaeConfig) -> bool:
    """Whether an encoder of this `mode` has the tensor of a name, of those that one of both modalities has."""
    others = {"audio", "video"} - set(config.modalities)
    parts = [part for piece in name.split(".") for part in piece.split("_")]
    return not others.intersection(parts) and not (others and "joint" in name.split("."))


def cavmae_weights(tensors: Mapping[str, torch.Tensor]) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """CAV-MAE's tensors under the names of [`CavMaeModel`], and those that it does without, with the reason.

    Stacked `attn.qkv` are split into query, key and value by thirds. Names that CAV-MAE does not have are kept.
    """
    weights, unused = {}, {}
    for name, tensor in tensors.items():
        plain = name.removeprefix("module.")
        reason = next((reason for pattern, reason in CAVMAE_UNUSED if pattern.match(plain)), None)
        if reason is not None:
            unused[name] = reason
            continue
        placed = split_qkv(cavmae_name(name), tensor)
        if twice := weights.keys() & placed.keys():
            raise WeightsError(f"{name}: fills {shorten(sorted(twice))} a second time, expected each tensor once.")
        weights |= placed
    return weights, unused


def cavmae_name(name: str) -> str:
    """Our name of a tensor of CAV-MAE."""
    for pattern, replacement in CAVMAE_NAMES:
        name = pattern.sub(replacement, name)
    return name


def cavmae_fields(weights: Mapping[str, torch.Tensor], given: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of [`CavMaeConfig`] that the weights tell; the size of pictures and the heads are the published ones.

    Args:
        weights: under our names.
        given: fields that are known: `image_size` and `num_attention_heads` are taken from here.

    Raises:
        WeightsError: these are no weights of CAV-MAE.
    """
    needed = {"audio_patch_embed.weight": 4, "audio_pos_embed": 3, "audio_layers.0.mlp.fc1.weight": 2}
    needed |= {"video_pos_embed": 3, "joint_layers.0.mlp.fc1.weight": 2}
    if any(name not in weights or weights[name].ndim != axes for name, axes in needed.items()):
        raise WeightsError(
            f"got {len(weights)} tensors named {shorten(weights)}, expected those of CAV-MAE: "
            "patch_embed_a.proj.weight, pos_embed_a, pos_embed_v, blocks_a.0.mlp.fc1.weight, "
            "blocks_u.0.mlp.fc1.weight, …"
        )
    width, _, patch, _ = weights["audio_patch_embed.weight"].shape
    image_size = given.get("image_size", IMAGE_SIZE)
    bands = given.get("num_mel_bins", CavMaeConfig.num_mel_bins)
    several = weights["video_patch_embed.weight"].ndim == 5
    times = weights["video_pos_embed"].shape[1] // (image_size // patch) ** 2
    return {
        "hidden_size": width,
        "intermediate_size": weights["audio_layers.0.mlp.fc1.weight"].shape[0],
        "num_attention_heads": given.get("num_attention_heads", HEADS),
        "num_modality_layers": _count(weights, "audio_layers"),
        "num_joint_layers": _count(weights, "joint_layers"),
        "num_mel_bins": bands,
        "max_frames": weights["audio_pos_embed"].shape[1] * patch * patch // bands,
        "image_size": image_size,
        "num_video_frames": TUBELET * times if several else 1,
        "patch_size": patch,
    }


def _count(weights: Mapping[str, torch.Tensor], layers: str) -> int:
    """Layers that there are weights of; a gap shows when they are loaded."""
    return len({name.split(".")[1] for name in weights if name.startswith(f"{layers}.")})
