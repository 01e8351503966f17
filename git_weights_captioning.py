# Copyright 2026 The LAVCap for Transformers authors. Licensed under the Apache License, Version 2.0.
"""GIT's text decoder out of its authors' files (https://github.com/microsoft/GenerativeImage2Text), of AVCap's, and of
Transformers' folders, under our names, and the sizes it tells."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel


try:  # inside a package: the Hub's module cache
    from .git_captioning import GitTextConfig, GitTextModel
    from .parts_captioning import load_part, read_part
    from .weights_captioning import WeightsError, check_values, load_strictly, renamed, shorten
except ImportError:  # as a plain module: a clone, or after `pip install`
    from git_captioning import GitTextConfig, GitTextModel
    from parts_captioning import load_part, read_part
    from weights_captioning import WeightsError, check_values, load_strictly, renamed, shorten


GIT_NAMES = (
    (re.compile(r"^module\."), ""),
    # its authors' and AVCap's
    (re.compile(r"^textual\.embedding\.words\."), "embeddings.word_embeddings."),
    (re.compile(r"^textual\.embedding\.positions\."), "embeddings.position_embeddings."),
    (re.compile(r"^textual\.embedding\.layer_norm\."), "embeddings.layer_norm."),
    (re.compile(r"^textual\.transformer\.encoder\.layer\."), "layers."),
    (re.compile(r"^textual\.output\."), "output."),
    # Transformers'
    (re.compile(r"^git\.embeddings\.(word|position)_embeddings\."), r"embeddings.\1_embeddings."),
    (re.compile(r"^git\.embeddings\.LayerNorm\."), "embeddings.layer_norm."),
    (re.compile(r"^git\.encoder\.layer\."), "layers."),
)
GIT_UNUSED = (
    (re.compile(r"(git\.)?image_encoder\."), "GIT's image encoder"),
    (re.compile(r"(textual|git)\.visual_projection\."), "GIT's projection of image tokens"),
    (re.compile(r"(git\.)?img_temp(e|o)ral_embedding"), "GIT's positions of frames"),
    (re.compile(r"(git\.embeddings|textual\.embedding)\.position_ids$"), "a count of the positions"),
)
HEADS = 12  # of the text decoder of every published GIT
LIBRARY_TYPE = "git"  # of Transformers' GIT, whose configuration tells more than its weights
LIBRARY_FIELDS = (
    *("num_attention_heads", "hidden_act", "hidden_dropout_prob", "attention_probs_dropout_prob"),
    *("layer_norm_eps", "initializer_range", "bos_token_id", "eos_token_id", "pad_token_id"),
)


def load_git(part: str | Path | PreTrainedModel, fields: dict[str, Any] | None = None) -> GitTextModel:
    """The text decoder from GIT's own file, from a folder of either kind or a name on the Hub, or the loaded one.

    Args:
        fields: of [`GitTextConfig`], where they shall differ from what the file tells.

    Raises:
        WeightsError: unreadable, unsafe, or not the weights of GIT.
    """
    if isinstance(part, PreTrainedModel):
        return load_part(GitTextModel, part, "auto")
    saved, tensors = read_part(part, GitTextConfig.model_type, LIBRARY_TYPE)
    try:
        weights, _ = git_weights(tensors)
        return decoder_of(weights, fields_of_part(saved, weights, fields or {}))
    except WeightsError as error:
        raise error.of(part) from error


def fields_of_part(
    saved: Mapping[str, Any], weights: Mapping[str, torch.Tensor], fields: Mapping[str, Any]
) -> dict[str, Any]:
    """Fields of [`GitTextConfig`] as a part's configuration, or else its weights, tell them; `fields` come first."""
    if saved.get("model_type") == GitTextConfig.model_type:
        return dict(saved) | fields
    known = {name: saved[name] for name in LIBRARY_FIELDS if name in saved}
    if "layer_norm_eps" in known:
        known["embedding_norm_eps"] = known["layer_norm_eps"]  # one for all LayerNorms
    known |= fields
    return git_fields(weights, known) | known


def decoder_of(weights: Mapping[str, torch.Tensor], fields: dict[str, Any]) -> GitTextModel:
    """Decoder of a configuration with all of its weights, under our names.

    An output layer with other weights than the word embedding keeps its own.

    Raises:
        WeightsError: missing weights, or such as have no place.
    """
    check_values(weights)
    words, head = weights.get("embeddings.word_embeddings.weight"), weights.get("output.weight")
    tied = head is None or (words is not None and torch.equal(words, head))
    weights = dict(weights) | ({"output.weight": words} if tied and words is not None else {})
    with torch.device("meta"):
        model = GitTextModel._from_config(GitTextConfig(**fields | {"tie_word_embeddings": tied}))
    load_strictly(model, weights)
    model.tie_weights()
    return model.eval()


def git_weights(tensors: Mapping[str, torch.Tensor]) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """GIT's tensors under the names of [`GitTextModel`], and those that it does without, with the reason.

    Names that GIT does not have are kept.
    """
    return renamed(tensors, GIT_NAMES, GIT_UNUSED)


def git_fields(weights: Mapping[str, torch.Tensor], given: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of [`GitTextConfig`] that the weights tell.

    Args:
        weights: under our names.
        given: fields that are known: `num_attention_heads` is taken from here.

    Raises:
        WeightsError: these are no weights of GIT.
    """
    names = {
        "words": "embeddings.word_embeddings.weight",
        "positions": "embeddings.position_embeddings.weight",
        "middle": "layers.0.intermediate.dense.weight",
    }
    if any(name not in weights or weights[name].ndim != 2 for name in names.values()):
        raise WeightsError(
            f"got {len(weights)} tensors named {shorten(weights)}, expected those of GIT: "
            "textual.embedding.words.weight, textual.transformer.encoder.layer.0.intermediate.dense.weight, …"
        )
    shapes = {what: weights[name].shape for what, name in names.items()}
    width = shapes["words"][1]
    fields = {
        "vocab_size": shapes["words"][0],
        "hidden_size": width,
        "max_position_embeddings": shapes["positions"][0],
        "intermediate_size": shapes["middle"][0],
        "num_hidden_layers": len({name.split(".")[1] for name in weights if name.startswith("layers.")}),
    }
    return fields | {"num_attention_heads": given.get("num_attention_heads", HEADS)}
