"""A trained model and its processor, loaded to run: from which folder, on which device, in which dtype."""

import os
import platform
from pathlib import Path
from typing import Any

import torch

from lavcap.models.decoding import try_decoding
from lavcap.models.families import errors_of, load_processor, model_class, type_of
from lavcap.models.saved_weights import check_finite_model, check_saved_model, put_parts
from modeling_captioning import CaptioningModel
from processing_captioning import CaptioningProcessor


def load_model(
    name_or_path: str | Path,
    device: str | None = None,
    dtype: str | None = None,
    sees_media: bool = True,
    parts_from: str | Path | None = None,
    overrides: dict[str, Any] | None = None,
) -> tuple[CaptioningModel, CaptioningProcessor]:
    """Model in evaluation mode, and its processor.

    Args:
        name_or_path: folder written by `save_pretrained`, or name on the Hub.
        device, dtype: as [`choose_device`].
        sees_media: refuse a model that takes stored features only.
        parts_from: folder, or name on the Hub, whose parts the model shall have in place of its own.
        overrides: fields of the configuration to change, see [`load_processor`].

    Raises:
        WeightsError: the folder's weights are not those of the model that its configuration describes, or damaged.
        ValueError: no captioner, no decoding, or a device that cannot be used.
    """
    device, dtype = choose_device(device, dtype)
    check_saved_model(name_or_path)
    overrides = overrides or {}
    processor = load_processor(name_or_path, overrides)
    kind = model_class(type_of(name_or_path))
    with errors_of(name_or_path):
        model = kind.from_pretrained(name_or_path, dtype=getattr(torch, dtype), **overrides)
    if parts_from is not None:
        put_parts(model, parts_from)
    if sees_media and not model.takes_media:
        from lavcap.data.precomputed_features import check_sees  # needs `datasets`, which takes a second to load

        check_sees(model, name_or_path)
    model = model.to(device).eval()
    check_finite_model(name_or_path, model)
    try_decoding(model, processor, name_or_path)
    return model, processor


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


# -------------------------------------------------------------------------------------------------------- internals


def _check_device(device: str):
    try:
        torch.zeros(1, device=device)
    except (AssertionError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"device {device!r} cannot be used here ({reason}); leave --device out, or use cpu."
        ) from error
