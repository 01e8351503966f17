# Copyright 2026 The LAVCap for Transformers authors. Licensed under the Apache License, Version 2.0.
"""Options of a processor's call: sorted, checked, and the tensors that they ask for."""

from collections.abc import Iterable, Mapping
from dataclasses import is_dataclass
from numbers import Integral
from typing import Any, NamedTuple

import torch
from transformers import BatchFeature, ProcessorMixin
from transformers.processing_utils import ProcessingKwargs


try:  # inside a package: the Hub's module cache
    from .configuration_captioning import SIZES
    from .text_captioning import TextOptions
except ImportError:  # as a plain module: a clone, or after `pip install`
    from configuration_captioning import SIZES
    from text_captioning import TextOptions


# What means something here, besides the options of the text and of the image processor.
AUDIO_OPTIONS = frozenset({"device", "sampling_rate"})
VIDEO_OPTIONS = frozenset({"do_sample_frames", "num_frames"})
# Options of image processors that this processor sets itself.
NOT_FOR_IMAGES = frozenset({"return_tensors", "data_format", "input_data_format", "device"})
IMAGE_SIZES = ("size", "crop_size", "pad_size")  # of image processors
# Of sizes; `None` is a default.
BOUNDS = {"num_frames": SIZES["num_video_frames"]} | dict.fromkeys(IMAGE_SIZES, SIZES["image_size"])


class CallOptions(NamedTuple):
    """Options of one call, by what they concern; `text` holds fields of [`TextOptions`]."""

    text: dict[str, Any]
    audio: dict[str, Any]
    images: dict[str, Any]
    videos: dict[str, Any]
    return_tensors: str | None


NO_OPTIONS = CallOptions({}, {}, {}, {}, "pt")  # of a call without options


def known_options(image_processor) -> set[str]:
    """Names of all options that processors of the library take, whether or not they mean something here."""
    groups = ProcessingKwargs.__annotations__
    names = {name for group in groups.values() for name in getattr(group, "__annotations__", {})}
    return {"common_kwargs", *groups} | names | _image_options(image_processor)


def take_call_options(
    image_processor, keywords: dict[str, Any], return_tensors: str | None, processor_kwargs: dict[str, Any] | None
) -> dict[str, Any]:
    """Options of the call among the keywords of a conversation, which leave these to its template."""
    options = {name: keywords.pop(name) for name in list(keywords) if name in known_options(image_processor)}
    return {"return_tensors": return_tensors} | options | (processor_kwargs or {})


def check_bounds(name: str, value: Any, place: str = ""):
    """Refuse a number, or one of several by name or in order, that is out of [`BOUNDS`].

    Args:
        place: what messages put before the name.
    """
    least, most = BOUNDS[name]
    if is_dataclass(value):  # as image processors of the library keep their sizes
        value = {edge: pixels for edge, pixels in vars(value).items() if pixels is not None}
    several = value.values() if isinstance(value, Mapping) else value
    for number in several if isinstance(several, Iterable) and not isinstance(several, str) else (several,):
        if isinstance(number, (float, str)) or (isinstance(number, Integral) and not least <= number <= most):
            raise ValueError(f"{place}{name} is {value!r}, expected {least} to {most}.")


def sort_options(processor: ProcessorMixin, kwargs: dict[str, Any]) -> CallOptions:
    """Options of a call of the processor, flat or in groups, over the defaults of its parts.

    Raises:
        TypeError: an option that the library does not know.
        ValueError: one that means nothing here, or is given twice.
    """
    groups = {name for name in kwargs if name.endswith("_kwargs")}
    given = {name: value for name, value in kwargs.items() if name not in groups}
    for group in groups:
        given |= kwargs[group]
    unknown = sorted((kwargs.keys() | given.keys()) - known_options(processor.image_processor))
    if unknown:
        raise TypeError(f"{type(processor).__name__} got unknown keyword {', '.join(unknown)}: check the spelling.")
    images = _image_options(processor.image_processor)
    usable = AUDIO_OPTIONS | VIDEO_OPTIONS | set(TextOptions._fields) | NOT_FOR_IMAGES | images
    for name, value in given.items():
        if name not in usable and value not in (None, False):
            raise ValueError(
                f"{name} is {value!r}, but means nothing for {processor.config_class.family}: leave it out."
            )
    if given.get("return_attention_mask") is False:
        raise ValueError("return_attention_mask is False, but generation needs the mask: leave it out.")
    for name in BOUNDS:
        check_bounds(name, given.get(name))
    merged = processor._merge_kwargs(ProcessingKwargs, tokenizer_init_kwargs=processor.tokenizer.init_kwargs, **kwargs)
    text = {name: merged["text_kwargs"].get(name) for name in TextOptions._fields}
    # A tokenizer has one side for everything; here prompts are padded on the left, training examples on the right.
    text["padding_side"] = given.get("padding_side")
    return CallOptions(
        text={name: value for name, value in text.items() if value is not None},
        audio=merged["audio_kwargs"],
        images={name: value for name, value in merged["images_kwargs"].items() if name in images - NOT_FOR_IMAGES},
        videos=merged["videos_kwargs"],
        return_tensors=given.get("return_tensors", "pt"),
    )


def _image_options(image_processor) -> set[str]:
    return set(getattr(getattr(image_processor, "valid_kwargs", None), "__annotations__", {}))


def as_batch(data: dict[str, torch.Tensor | list], return_tensors: str | None) -> BatchFeature:
    """A batch of torch tensors, numpy arrays or lists.

    Raises:
        ValueError: unknown kind; rows of unequal lengths that shall be one tensor.
    """
    if return_tensors not in ("pt", "np", None):
        raise ValueError(f"return_tensors is {return_tensors!r}, expected 'pt', 'np' or None for lists.")
    if return_tensors is None:
        return BatchFeature(
            {name: getattr(value, "tolist", lambda value=value: value)() for name, value in data.items()}
        )
    for name, value in data.items():
        if isinstance(value, list):
            raise ValueError(
                f"{name} has rows of {sorted(set(map(len, value)))} tokens, expected one length for a tensor: pass "
                "padding=True, or return_tensors=None for lists."
            )
    return BatchFeature(data, tensor_type=return_tensors)
