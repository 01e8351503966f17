# Copyright 2026 The LAVCap for Transformers authors. Licensed under the Apache License, Version 2.0.
"""Options of a processor's call: sorted, checked, and the padding and the tensors that they ask for."""

from typing import Any, NamedTuple

import torch
from transformers import BatchFeature, ProcessorMixin
from transformers.processing_utils import ProcessingKwargs


# What means something here, besides the options of the text and of the image processor.
AUDIO_OPTIONS = frozenset({"device", "sampling_rate"})
VIDEO_OPTIONS = frozenset({"do_sample_frames", "num_frames"})
# Options of image processors that this processor sets itself.
NOT_FOR_IMAGES = frozenset({"return_tensors", "data_format", "input_data_format", "device"})


class TextOptions(NamedTuple):
    """Options of a processor's call that concern its text, with the meaning that tokenizers give them.

    Args:
        padding: `True` or `"longest"`, `"max_length"`, `False` or `"do_not_pad"`.
        max_length: in tokens, placeholders included.
        pad_to_multiple_of: round the padded length up.
        padding_side: `"left"` or `"right"`; default: left of prompts, right of prompts with captions.
        truncation: refuse rows longer than `max_length`; they are never cut, as placeholders would be lost.
        add_special_tokens: begin with the tokenizer's BOS token, if it has one.
    """

    padding: bool | str = True
    max_length: int | None = None
    pad_to_multiple_of: int | None = None
    padding_side: str | None = None
    truncation: bool | str = False
    add_special_tokens: bool = True


class CallOptions(NamedTuple):
    """Options of one call, by what they concern; `text` holds fields of [`TextOptions`]."""

    text: dict[str, Any]
    audio: dict[str, Any]
    images: dict[str, Any]
    videos: dict[str, Any]
    return_tensors: str | None


DEFAULTS = CallOptions({}, {}, {}, {}, "pt")  # of a call without options


def known_options(image_processor) -> set[str]:
    """Names of all options that processors of the library take, whether or not they mean something here."""
    groups = ProcessingKwargs.__annotations__
    names = {name for group in groups.values() for name in getattr(group, "__annotations__", {})}
    return {"common_kwargs", *groups} | names | _image_options(image_processor)


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
    if given.get("num_frames") is not None and given["num_frames"] < 1:
        raise ValueError(f"num_frames is {given['num_frames']}, expected at least 1.")
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


def pad_rows(
    rows: list[list[int]], value: int, options: TextOptions, side: str
) -> tuple[torch.Tensor | list[list[int]], torch.Tensor | list[list[int]]]:
    """Rows of one length and their mask, both `(batch, sequence)` int64; lists, where rows stay of unequal lengths.

    Args:
        value: that fills the rows.
        side: where, unless `options` say.

    Raises:
        ValueError: unknown padding; a row is longer than `max_length` and `truncation` is on.
    """
    side = options.padding_side or side
    if side not in ("left", "right"):
        raise ValueError(f"padding_side is {side!r}, expected 'left' or 'right'.")
    length = _padded_length(max(map(len, rows)), options)
    if length is None:
        if len(set(map(len, rows))) > 1:
            return rows, [[1] * len(row) for row in rows]
        length = len(rows[0])
    ids = torch.full((len(rows), length), value)
    mask = torch.zeros_like(ids)
    for index, row in enumerate(rows):
        place = slice(length - len(row), None) if side == "left" else slice(0, len(row))
        ids[index, place] = torch.tensor(row)
        mask[index, place] = 1
    return ids, mask


def _padded_length(longest: int, options: TextOptions) -> int | None:
    """Length to pad to; `None` for no padding."""
    padding, limit = getattr(options.padding, "value", options.padding), options.max_length
    if options.truncation not in (False, "do_not_truncate") and limit is not None and longest > limit:
        raise ValueError(
            f"A text has {longest} tokens, placeholders included, expected at most max_length ({limit}): cutting it "
            "would lose placeholders or the end; shorten the text, or raise max_length."
        )
    if padding in (False, None, "do_not_pad"):
        return None
    if padding not in (True, "longest", "max_length"):
        raise ValueError(f"padding is {padding!r}, expected True, 'longest', 'max_length' or False.")
    if padding == "max_length":
        if limit is None:
            raise ValueError("padding is 'max_length', but max_length is not given: pass it, in tokens.")
        longest = max(longest, limit)
    step = options.pad_to_multiple_of or 1
    return -(-longest // step) * step
