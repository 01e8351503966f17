# Copyright 2026 The LAVCap for Transformers authors. Licensed under the Apache License, Version 2.0.
"""Rows of ids: one text for each clip, padding, and the options that tokenizers have for it."""

from collections.abc import Sequence
from typing import NamedTuple

import torch


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


def broadcast(name: str, texts: str | Sequence[str], count: int) -> list[str]:
    """One text for each of `count` clips, from a single one or as many."""
    texts = [texts] * count if isinstance(texts, str) else list(texts)
    if len(texts) != count:
        raise ValueError(f"Got {len(texts)} {name} for {count} clips, expected one per clip or a single one.")
    for number, text in enumerate(texts):
        if not isinstance(text, str):
            raise ValueError(f"Got {type(text).__name__} as number {number} of {name}, expected text for every clip.")
    return texts


def check_caption(caption: str, *marks: str | None):
    """Refuse a caption that holds what is no word: a placeholder, or the token that ends captions.

    Raises:
        ValueError: with what it holds.
    """
    for mark in marks:
        if mark and mark in caption:
            raise ValueError(f"The caption {caption!r:.200} holds {mark!r}, expected words alone.")


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
