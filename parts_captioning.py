# Copyright 2026 The LAVCap for Transformers authors. Licensed under the Apache License, Version 2.0.
"""Pretrained parts of a model: finding, loading and casting them."""

import copy
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import AutoModelForCausalLM, GenerationConfig, PreTrainedConfig, PreTrainedModel
from transformers.utils import cached_file


try:  # inside a package: the Hub's module cache
    from .weights_captioning import WEIGHT_SUFFIXES, WeightsError, ced_tower, read_weights, shorten
except ImportError:  # as a plain module: a clone, or after `pip install`
    from weights_captioning import WEIGHT_SUFFIXES, WeightsError, ced_tower, read_weights, shorten


# Statistics and the scale must not lose bits, whatever dtype the rest is loaded in.
KEPT_IN_FLOAT32 = frozenset({"batch_norm", "logit_scale"})
HUB_OPTIONS = ("cache_dir", "local_files_only", "revision", "subfolder", "token")
RELEASED_DECODING = {"num_beams": 4, "max_new_tokens": 200, "do_sample": False}


def check_parts(options: dict, audio: object, vision: object):
    """Refuse parts that a fusion has no use for, or a missing one, and options that a loaded part would ignore."""
    fusion = options.get("fusion", "concat_time")
    if audio is None and fusion != "video_only":
        raise ValueError(f"Got no audio part for fusion={fusion!r}, expected CED: pass audio.")
    for name, part, baseline in (("audio", audio, "video_only"), ("vision", vision, "audio_only")):
        if part is not None and fusion == baseline:
            raise ValueError(f"Got {name}={part!r} for fusion={fusion!r}, which has no such tower: leave it out.")
    if "torch_dtype" in options:
        raise TypeError("Got torch_dtype, expected dtype.")
    own = {"text_config": True, "vision_config": vision is not None, "audio_config": isinstance(audio, nn.Module)}
    for name in options.keys() & {name for name, has_own in own.items() if has_own}:
        raise ValueError(f"Got {name} beside a part that has one of its own: leave it out.")


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


def read_ced(path: str | Path, own_type: str) -> tuple[dict[str, torch.Tensor], dict]:
    """Weights of CED under the names of `LavcapAudioModel`, and the fields of its configuration that they tell.

    Args:
        path: file, folder, or name on the Hub.
        own_type: `model_type` of a saved audio tower, whose configuration tells all fields.

    Raises:
        WeightsError: unreadable, unsafe, or not the weights of CED.
    """
    if not Path(path).exists() and Path(path).suffix in WEIGHT_SUFFIXES:
        raise WeightsError(f"{path}: no such file; check the path.")
    saved = {} if Path(path).is_file() else read_json(find_file(path, "config.json", {}))
    file = path if Path(path).exists() else cached_file(str(path), "model.safetensors")
    tensors = read_weights(file)
    try:
        weights, fields = ced_tower(tensors)
        return weights, fields | (saved if saved.get("model_type") == own_type else {})
    except WeightsError as error:
        raise WeightsError(f"{path}: {error}") from error


def as_dtype(dtype: torch.dtype | str | None) -> torch.dtype | None:
    """A dtype given as such or by its name; `None` and `"auto"` leave the choice to the weights."""
    if dtype in (None, "auto") or isinstance(dtype, torch.dtype):
        return None if dtype == "auto" else dtype
    found = getattr(torch, str(dtype), None)
    if not isinstance(found, torch.dtype):
        raise ValueError(f"dtype is {dtype!r}, expected a torch dtype, its name, or 'auto'.")
    return found


def read_json(path: str | Path | None) -> dict:
    """Content of a JSON file; nothing if there is none."""
    if path is None:
        return {}
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: not readable as JSON ({error}); copy or save it again.") from error


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


def quantized_language_model(quantization_config: Any, config: PreTrainedConfig) -> Any:
    """A quantisation that spares everything but the layers of the language model, unless it names what it spares.

    The towers, the fusion, the projection and the head cost little memory and much accuracy.
    """
    fields = ("llm_int8_skip_modules", "modules_to_not_convert")
    if isinstance(quantization_config, dict):
        kinds = {"load_in_4bit", "load_in_8bit", "bnb_4bit_quant_type"} & quantization_config.keys()
        spared = fields[0] if kinds else fields[1]
        if quantization_config.get(spared) is None:
            quantization_config = quantization_config | {spared: _beside_the_layers(config)}
        return quantization_config
    for field in fields:
        if getattr(quantization_config, field, ()) is None:
            quantization_config = copy.deepcopy(quantization_config)
            setattr(quantization_config, field, _beside_the_layers(config))
    return quantization_config


def _beside_the_layers(config: PreTrainedConfig) -> list[str]:
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config.text_config)
    heads = [name for name, module in model.named_modules() if module is model.get_output_embeddings()]
    return ["audio_tower", "vision_tower", "fusion", "multi_modal_projector"] + [
        f"language_model.{name}" for name in heads
    ]


def published_name(part: str | Path | PreTrainedModel) -> str | None:
    """Name on the Hub; of a folder its last part: the rest of its path means nothing elsewhere."""
    name = getattr(part, "name_or_path", None) if isinstance(part, nn.Module) else str(part)
    return Path(name).resolve().name if name and Path(name).exists() else name or None


def location(part: str | Path | PreTrainedModel | None) -> str | None:
    """Where a part can be loaded from again: its name on the Hub, or the absolute path of its file or folder."""
    name = getattr(part, "name_or_path", None) if isinstance(part, nn.Module) else part
    return str(Path(name).resolve()) if name and Path(name).exists() else str(name) if name else None


def cast(part: nn.Module, dtype: torch.dtype) -> nn.Module:
    """The part in another dtype, but for what must not lose bits."""
    for name, tensor in (*part.named_parameters(), *part.named_buffers()):
        if tensor.is_floating_point():
            tensor.data = tensor.data.to(torch.float32 if keeps_float32(name) else dtype)
    return part


def keeps_float32(name: str) -> bool:
    """Whether a tensor of the model stays in float32, whatever dtype the rest has."""
    return not KEPT_IN_FLOAT32.isdisjoint(name.split("."))


def released_decoding(base: GenerationConfig | PreTrainedConfig) -> GenerationConfig:
    """Beam search as released, with the special ids of a language model; its sampling is not for captions."""
    pad = base.eos_token_id if base.pad_token_id is None else base.pad_token_id
    pad = pad[0] if isinstance(pad, list) else pad
    return GenerationConfig(
        bos_token_id=base.bos_token_id,
        eos_token_id=base.eos_token_id,
        pad_token_id=pad,
        **RELEASED_DECODING,
    )
