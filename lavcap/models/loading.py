"""A trained model and its processor, loaded to run: from which folder, on which device, in which dtype."""

import os
import platform
from pathlib import Path
from typing import TypeVar

import torch
from safetensors import SafetensorError

from configuration_lavcap import LavcapConfig
from lavcap.data.precomputed_features import check_sees
from modeling_lavcap import LavcapForConditionalGeneration
from parts_captioning import read_json
from processing_lavcap import LavcapProcessor


Item = TypeVar("Item")


def load_model(
    name_or_path: str | Path, device: str | None = None, dtype: str | None = None, sees_media: bool = True
) -> tuple[LavcapForConditionalGeneration, LavcapProcessor]:
    """Model in evaluation mode, and its processor.

    Args:
        name_or_path: folder written by `save_pretrained`, or name on the Hub.
        device, dtype: as [`choose_device`].
        sees_media: refuse a model that takes stored features only.
    """
    check_model_name(name_or_path)
    device, dtype = choose_device(device, dtype)
    processor = LavcapProcessor.from_pretrained(name_or_path)
    try:
        model = LavcapForConditionalGeneration.from_pretrained(name_or_path, dtype=getattr(torch, dtype))
    except SafetensorError as error:
        raise ValueError(f"{name_or_path}: its weights are damaged ({error}); copy or train it again.") from error
    if sees_media:
        check_sees(model, name_or_path)
    return model.to(device).eval(), processor


def check_name(name_or_path: str | Path, has_owner: bool = True):
    """Refuse what is neither a folder nor can be a name on the Hub.

    `has_owner`: whether it must be a name with its owner; old models have none, such as `gpt2`.
    """
    path = Path(name_or_path)
    is_short = len(path.parts) == 1 and not has_owner
    is_name = (is_short or len(path.parts) == 2) and not path.is_absolute() and path.parts[0] not in (".", "..")
    if not is_name and not path.exists():
        raise ValueError(f"{path}: no such folder, and not a name on the Hub (owner/model); check the path.")


def choose_device(device: str | None = None, dtype: str | None = None) -> tuple[str, str]:
    """Name of the device and of the dtype to run in.

    Args:
        device: default: an accelerator if there is one, else the CPU.
        dtype: default: bfloat16 on an accelerator, float32 on the CPU.

    Raises:
        ValueError: a device that cannot be used here.
    """
    if device is None:
        device = str(torch.accelerator.current_accelerator()) if torch.accelerator.is_available() else "cpu"
    _check_device(device)
    return device, dtype or ("float32" if torch.device(device).type == "cpu" else "bfloat16")


def device_name(device: str) -> str:
    """What a device is called in tables of measurements."""
    if torch.device(device).type == "cpu":
        return f"{os.cpu_count()} CPU cores ({platform.machine()})"
    module = torch.get_device_module(device)
    return module.get_device_name() if hasattr(module, "get_device_name") else device


def check_model_name(name_or_path: str | Path):
    """Refuse a folder that is missing or holds no LAVCap model, before anything is looked up on the Hub."""
    path = Path(name_or_path)
    check_name(path)
    if not path.exists():
        return
    if not (path / "config.json").is_file():
        raise ValueError(f"{path}: holds no config.json, expected a folder written by save_pretrained or train_hf.py.")
    kind = read_json(path / "config.json").get("model_type")
    if kind != LavcapConfig.model_type:
        raise ValueError(f"{path}: holds a model of type {kind!r}, expected 'lavcap'; pass a LAVCap model.")


def _check_device(device: str):
    try:
        torch.zeros(1, device=device)
    except (AssertionError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"device {device!r} cannot be used here ({reason}); leave --device out, or use cpu."
        ) from error
