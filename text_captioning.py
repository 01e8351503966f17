# Copyright 2026 The LAVCap for Transformers authors. Licensed under the Apache License, Version 2.0.
"""Prompts and captions as ids: placeholders for the clip, labels for the caption, padding; and captions out of ids."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from transformers import BatchFeature


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


class CaptionTextMixin:
    """The text side of a processor, which has `tokenizer`, `prompt`, `instruction`, `av_token` and `av_token_id`."""

    @property
    def pad_token_id(self) -> int:
        """What rows are filled up with, masked: the end token where the tokenizer has none, as LLaMA-2's."""
        pad = self.tokenizer.pad_token_id
        return self.tokenizer.eos_token_id if pad is None else pad

    def encode_text(
        self,
        counts: Sequence[int],
        text: str | Sequence[str] | None = None,
        captions: str | Sequence[str] | None = None,
        **options,
    ) -> dict[str, torch.Tensor]:
        """Ids of prompts with `counts` placeholders each, and of captions with labels if there are any.

        Args:
            options: fields of `TextOptions`, such as `padding` and `max_length`.
        """
        options = TextOptions(**options)
        prompts = broadcast("texts", self.instruction if text is None else text, len(counts))
        rows = [self._prompt_ids(prompt, count, options) for prompt, count in zip(prompts, counts, strict=True)]
        if captions is None:
            ids, mask = pad_rows(rows, self.pad_token_id, options, side="left")
            return {"input_ids": ids, "attention_mask": mask}
        answers = [self._answer_ids(caption) for caption in broadcast("captions", captions, len(counts))]
        pairs = list(zip(rows, answers, strict=True))
        ids, mask = pad_rows([row + answer for row, answer in pairs], self.pad_token_id, options, side="right")
        labels, _ = pad_rows([[-100] * len(row) + answer for row, answer in pairs], -100, options, side="right")
        return {"input_ids": ids, "attention_mask": mask, "labels": labels}

    def decode_captions(self, output_ids: torch.Tensor, inputs: BatchFeature | dict | None = None) -> list[str]:
        """Captions from what `generate` returns, each in one line.

        Args:
            output_ids: `(batch, sequence)`.
            inputs: what was given to `generate`; the prompt is cut off by its length. Default: nothing is cut.
        """
        start = 0 if inputs is None else inputs["input_ids"].shape[1]
        texts = self.tokenizer.batch_decode(output_ids[:, start:], skip_special_tokens=True)
        return [" ".join(text.split()) for text in texts]

    def _prompt_ids(self, text: str, count: int, options: TextOptions) -> list[int]:
        """Ids of a prompt; its parts are encoded each on its own, as the released code does."""
        prompt = text if self.av_token in text or not count else self.prompt.replace("{instruction}", text)
        parts = prompt.replace("{av}", self.av_token).split(self.av_token)
        if len(parts) != 1 + (count > 0):
            raise ValueError(
                f"The prompt holds {len(parts) - 1} placeholders {self.av_token}, expected {int(count > 0)}: "
                f"{prompt!r}"
            )
        bos, start = self.tokenizer.bos_token, []
        if bos is not None and options.add_special_tokens:
            parts[0] = parts[0].removeprefix(bos)  # of a template that writes it
            start = [self.tokenizer.bos_token_id]
        before, *after = (self.tokenizer(part, add_special_tokens=False)["input_ids"] for part in parts)
        return start + before + [self.av_token_id] * count + sum(after, [])

    def _answer_ids(self, caption: str) -> list[int]:
        if self.av_token in caption:
            raise ValueError(f"The caption holds the placeholder {self.av_token}, expected words: {caption!r}")
        return self.tokenizer(caption, add_special_tokens=False)["input_ids"] + [self.tokenizer.eos_token_id]


def broadcast(name: str, texts: str | Sequence[str], count: int) -> list[str]:
    """One text for each of `count` clips, from a single one or as many."""
    texts = [texts] * count if isinstance(texts, str) else list(texts)
    if len(texts) != count:
        raise ValueError(f"Got {len(texts)} {name} for {count} clips, expected one per clip or a single one.")
    return texts


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
