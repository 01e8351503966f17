# Copyright 2026 The LAVCap for Transformers authors. Licensed under the Apache License, Version 2.0.
"""Pretrained parts of a model: finding, loading and casting them."""

import json
import os
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import GenerationConfig, PreTrainedConfig, PreTrainedModel
from transformers.utils import cached_file


try:  # inside a package: the Hub's module cache
    from .weights_captioning import WEIGHT_SUFFIXES, WeightsError, read_weights, shorten
except ImportError:  # as a plain module: a clone, or after `pip install`
    from weights_captioning import WEIGHT_SUFFIXES, WeightsError, read_weights, shorten


# What the library wants of a saved decoding by one beam: options of several are its defaults.
WITHOUT_BEAMS = {"length_penalty": 1.0, "early_stopping": False}
HUB_OPTIONS = ("cache_dir", "local_files_only", "revision", "subfolder", "token")


def load_part(kind: type, part: str | Path | PreTrainedModel, dtype: torch.dtype | str, **options) -> PreTrainedModel:
    """A pretrained part with all its weights; options as of `from_pretrained`.

    Raises:
        WeightsError: some are missing, which the library would make up.
    """
    if isinstance(part, nn.Module):
        return part
    try:
        model, report = kind.from_pretrained(part, dtype=dtype, output_loading_info=True, **options)
    except (SafetensorError, RuntimeError) as error:
        raise WeightsError(f"{part}: its weights are damaged or of another size ({error}).") from error
    missing = sorted(report["missing_keys"])
    if missing:
        raise WeightsError(
            f"{part}: lacks {len(missing)} tensors ({shorten(missing)}), expected all of a {type(model).__name__}."
        )
    return model


def as_dtype(dtype: torch.dtype | str | None) -> torch.dtype | None:
    """A dtype given as such or by its name; `None` and `"auto"` leave the choice to the weights."""
    if dtype in (None, "auto") or isinstance(dtype, torch.dtype):
        return None if dtype == "auto" else dtype
    found = getattr(torch, str(dtype), None)
    if not isinstance(found, torch.dtype):
        raise ValueError(f"dtype is {dtype!r}, expected a torch dtype, its name, or 'auto'.")
    return found


def read_json(path: str | Path | None) -> dict:
    """Content of a JSON file, an object; nothing if there is none."""
    if path is None:
        return {}
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except (RecursionError, ValueError) as error:
        raise ValueError(f"{path}: not readable as JSON ({error}); copy or save it again.") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: holds a {type(content).__name__}, expected an object; copy or save it again.")
    return content


def hub_options(options: dict) -> dict:
    """Those of the options of `from_pretrained` that say which files of a repository are meant."""
    return {name: options[name] for name in HUB_OPTIONS if options.get(name) is not None}


def find_file(name_or_path: str | Path | None, file: str, options: dict) -> str | None:
    """Local path of a file of a folder or of a Hub repository, if it is there; options as of `from_pretrained`."""
    if name_or_path is None:
        return None
    return cached_file(
        str(name_or_path),
        file,
        **hub_options(options),
        _raise_exceptions_for_gated_repo=False,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
    )


def published_name(part: str | Path | PreTrainedModel) -> str | None:
    """Name on the Hub; of a folder its last part: the rest of its path means nothing elsewhere."""
    name = getattr(part, "name_or_path", None) if isinstance(part, nn.Module) else str(part)
    return Path(name).resolve().name if name and os.path.exists(name) else name or None


def location(part: str | Path | PreTrainedModel | None) -> str | None:
    """Where a part can be loaded from again: its name on the Hub, or the absolute path of its file or folder."""
    name = getattr(part, "name_or_path", None) if isinstance(part, nn.Module) else part
    return str(Path(name).resolve()) if name and os.path.exists(name) else str(name) if name else None


def cast(part: nn.Module, dtype: torch.dtype, kept: Collection[str] = ()) -> nn.Module:
    """The part in another dtype, but for tensors below a module or of a name among `kept`: these are in float32."""
    for name, tensor in (*part.named_parameters(), *part.named_buffers()):
        if tensor.is_floating_point():
            tensor.data = tensor.data.to(dtype if set(kept).isdisjoint(name.split(".")) else torch.float32)
    return part


def caption_decoding(base: GenerationConfig | PreTrainedConfig, **options: Any) -> GenerationConfig:
    """Decoding by `options` with the special ids of a language model, whose own sampling is not for captions."""
    pad = base.eos_token_id if base.pad_token_id is None else base.pad_token_id
    pad = pad[0] if isinstance(pad, list) else pad
    if options.get("num_beams") == 1:
        options |= WITHOUT_BEAMS
    return GenerationConfig(
        bos_token_id=base.bos_token_id,
        eos_token_id=base.eos_token_id,
        pad_token_id=pad,
        **options,
    )


def read_part(part: str | Path, *model_types: str) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """What the configuration beside a part's weights tells, if it is of a known kind, and the weights.

    Args:
        part: a file of weights, a folder, or a name on the Hub.
        model_types: of the known kinds; other configurations tell nothing.

    Raises:
        WeightsError: unreadable or unsafe.
    """
    if not os.path.exists(part) and Path(part).suffix in WEIGHT_SUFFIXES:
        raise WeightsError(f"{part}: no such file; check the path.")
    saved = {} if os.path.isfile(part) else read_json(find_file(part, "config.json", {}))
    file = part if os.path.exists(part) else cached_file(str(part), "model.safetensors")
    return saved if saved.get("model_type") in model_types else {}, read_weights(file)
