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
    from .configuration_captioning import check_choice
    from .parts_captioning import read_part
    from .weights_captioning import WeightsError, check_values, load_strictly, renamed, shorten
except ImportError:  # as a plain module: a clone, or after `pip install`
    from cavmae_captioning import TUBELET, CavMaeConfig, CavMaeModel
    from configuration_captioning import check_choice
    from parts_captioning import read_part
    from weights_captioning import WeightsError, check_values, load_strictly, renamed, shorten


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
VIDEO_PATCHES = ("fresh", "inflated")


def load_cavmae(
    part: str | Path | PreTrainedModel, fields: dict[str, Any] | None = None, video_patches: str = "fresh"
) -> CavMaeModel:
    """The encoder from its authors' file, from a folder or a name on the Hub, or the loaded one.

    Args:
        fields: of [`CavMaeConfig`], where they shall differ from what the weights are of: another number of frames,
            or a `mode` that leaves a modality out.
        video_patches: with another number of frames: `"fresh"` or `"inflated"`, see [`fit_frames`].

    Raises:
        WeightsError: unreadable, unsafe, or not the weights of CAV-MAE.
        ValueError: fields for an encoder that has its own.
    """
    check_choice("video_patches", video_patches, VIDEO_PATCHES)
    if isinstance(part, PreTrainedModel):
        if fields:
            raise ValueError("Got audio_visual_config beside a loaded encoder, which has its own: leave it out.")
        return part
    saved, tensors = read_part(part, CavMaeConfig.model_type)
    try:
        weights = tensors if saved else cavmae_weights(tensors)[0]
        told = saved or cavmae_fields(weights, fields or {})
        config = CavMaeConfig(**told | (fields or {}))
        fitted = fit_frames(weights, CavMaeConfig(**told), config, video_patches)
        encoder = encoder_of(fitted, config)
        encoder.has_fresh_patches = fitted is not weights and video_patches == "fresh"
        return encoder
    except WeightsError as error:
        raise error.of(part) from error


def encoder_of(weights: Mapping[str, torch.Tensor], config: CavMaeConfig) -> CavMaeModel:
    """Encoder of a configuration with all of its weights, under our names; those of a modality that its `mode` leaves
    out are not looked at.

    Raises:
        WeightsError: missing weights, or such as have no place.
    """
    check_values(weights)
    with torch.device("meta"):
        model = CavMaeModel._from_config(config)
    load_strictly(model, {name: tensor for name, tensor in weights.items() if is_built(name, config)})
    return model.eval()


def fit_frames(
    weights: dict[str, torch.Tensor], theirs: CavMaeConfig, config: CavMaeConfig, video_patches: str
) -> dict[str, torch.Tensor]:
    """Weights for clips of another number of frames than those that an encoder was trained on.

    Args:
        theirs: configuration of the weights; config: the wanted one.
        video_patches: what becomes of the patches and positions of the picture: `"fresh"`, they begin anew, as the
            released `load_pretrained` leaves them; `"inflated"`, the patch of one frame is spread over two, and the
            positions of a frame are repeated in time.
    """
    alike = theirs.video_grid == config.video_grid and (theirs.num_video_frames > 1) == (config.num_video_frames > 1)
    if alike or "video" not in config.modalities:
        return weights
    fresh = CavMaeModel(config)
    weight, bias = "video_patch_embed.weight", "video_patch_embed.bias"
    renewed = {name: fresh.get_parameter(name).data for name in (weight, bias, "video_pos_embed")}
    if video_patches == "inflated":
        patch = weights[weight]
        if patch.ndim < renewed[weight].ndim:
            patch = patch[:, :, None].expand_as(renewed[weight]) / TUBELET
        elif patch.ndim > renewed[weight].ndim:
            patch = patch.sum(dim=2)
        place = weights["video_pos_embed"].unflatten(1, (theirs.video_grid[0], -1))[:, :1]
        times = config.video_grid[0]
        renewed = {weight: patch, bias: weights[bias], "video_pos_embed": place.repeat(1, times, 1, 1).flatten(1, 2)}
    return weights | {name: tensor.contiguous() for name, tensor in renewed.items()}


def is_built(name: str, config: CavMaeConfig) -> bool:
    """Whether an encoder of this `mode` has the tensor of a name, of those that one of both modalities has."""
    others = {"audio", "video"} - set(config.modalities)
    parts = [part for piece in name.split(".") for part in piece.split("_")]
    return not others.intersection(parts) and not (others and "joint" in name.split("."))


def cavmae_weights(tensors: Mapping[str, torch.Tensor]) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """CAV-MAE's tensors under the names of [`CavMaeModel`], and those that it does without, with the reason.

    Stacked `attn.qkv` are split into query, key and value by thirds. Names that CAV-MAE does not have are kept.
    """
    return renamed(tensors, CAVMAE_NAMES, CAVMAE_UNUSED)


def cavmae_fields(weights: Mapping[str, torch.Tensor], given: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of [`CavMaeConfig`] that the weights tell; the size of pictures and the heads are the published ones.

    Args:
        weights: under our names.
        given: fields that are known: `mode`, `image_size` and `num_attention_heads` are taken from here. Of the mode
            `audio` nothing else is looked at.

    Raises:
        WeightsError: these are no weights of CAV-MAE.
    """
    hears_only = given.get("mode") == "audio"
    needed = {"audio_patch_embed.weight": 4, "audio_pos_embed": 3, "audio_layers.0.mlp.fc1.weight": 2}
    needed |= {"joint_layers.0.mlp.fc1.weight": 2} | ({} if hears_only else {"video_pos_embed": 3})
    if any(name not in weights or weights[name].ndim != axes for name, axes in needed.items()):
        raise WeightsError(
            f"got {len(weights)} tensors named {shorten(weights)}, expected those of CAV-MAE: "
            "patch_embed_a.proj.weight, pos_embed_a, pos_embed_v, blocks_a.0.mlp.fc1.weight, "
            "blocks_u.0.mlp.fc1.weight, …"
        )
    width, _, patch, _ = weights["audio_patch_embed.weight"].shape
    bands = given.get("num_mel_bins", CavMaeConfig.num_mel_bins)
    sizes = {
        "hidden_size": width,
        "intermediate_size": weights["audio_layers.0.mlp.fc1.weight"].shape[0],
        "num_attention_heads": given.get("num_attention_heads", HEADS),
        "num_modality_layers": _count(weights, "audio_layers"),
        "num_joint_layers": _count(weights, "joint_layers"),
        "num_mel_bins": bands,
        "max_frames": weights["audio_pos_embed"].shape[1] * patch * patch // bands,
        "patch_size": patch,
    }
    if hears_only:
        return sizes | {"mode": "audio"}
    image_size = given.get("image_size", IMAGE_SIZE)
    several = weights["video_patch_embed.weight"].ndim == 5
    times = weights["video_pos_embed"].shape[1] // (image_size // patch) ** 2
    return sizes | {"image_size": image_size, "num_video_frames": TUBELET * times if several else 1}


def _count(weights: Mapping[str, torch.Tensor], layers: str) -> int:
    """Layers that there are weights of; a gap shows when they are loaded."""
    return len({name.split(".")[1] for name in weights if name.startswith(f"{layers}.")})
