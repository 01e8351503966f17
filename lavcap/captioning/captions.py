"""Captions of a batch of windows, with what each is worth."""

from collections.abc import Sequence
from typing import Any

import torch

from lavcap.captioning.records import Caption
from modeling_captioning import CaptioningModel
from processing_captioning import CaptioningProcessor


DIGITS = 4  # of a logarithm: what lies behind them depends on the other clips of a batch


@torch.no_grad()
def write_captions(
    model: CaptioningModel,
    processor: CaptioningProcessor,
    clips: Sequence[dict[str, torch.Tensor]],
    instruction: str | None = None,
    num_captions: int = 1,
    **options: Any,
) -> list[list[Caption]]:
    """Captions for each clip, the most probable first.

    Args:
        clips: features of each clip, from [`CaptioningProcessor.clip_features`].
        instruction: what to ask; default: the processor's.
        num_captions: of each clip; the beams are made as many where they are fewer and nothing is sampled.
        options: for `generate`; default: the model's `generation_config`.
    """
    inputs = processor.batch(clips, text=instruction).to(model.device)
    if num_captions > 1:
        options = {"num_return_sequences": num_captions} | options
        beams = options.get("num_beams") or model.generation_config.num_beams or 1
        if not (options.get("do_sample") or (model.generation_config.do_sample and beams == 1)):
            options["num_beams"] = max(beams, num_captions)
    written = model.generate(**inputs, output_logits=True, return_dict_in_generate=True, **options)
    tokens, means = mean_log_probabilities(model, written, inputs["input_ids"].shape[1])
    texts = processor.decode_captions(written, inputs)
    found = [Caption(*each) for each in zip(texts, tokens, means, strict=True)]
    groups = [found[start : start + num_captions] for start in range(0, len(found), num_captions)]
    return [sorted(group, key=lambda caption: -caption.mean_log_probability) for group in groups]


def mean_log_probabilities(model: CaptioningModel, written: Any, prompt: int) -> tuple[list[int], list[float]]:
    """Tokens of each caption, the end token among them, and the mean natural logarithm of their probabilities.

    These are the model's own, before anything that decoding does to them: one step's logits, normalised.

    Args:
        written: output of `generate`, with `logits`; a beam search has `beam_indices`, too.
        prompt: length of the prompt, in tokens.
    """
    ids = written.sequences[:, prompt : prompt + len(written.logits)]
    beams = getattr(written, "beam_indices", None)
    rows = torch.arange(len(ids), device=ids.device)[:, None].expand(-1, ids.shape[1])
    if beams is not None:
        rows = beams[:, : ids.shape[1]].clamp(min=0)
    ends = torch.as_tensor(model.generation_config.eos_token_id, device=ids.device).flatten()
    is_end = torch.isin(ids, ends)
    there = (is_end.cumsum(dim=1) - is_end.long()) == 0  # up to the first end token
    total = torch.zeros(len(ids), dtype=torch.float32, device=ids.device)
    for step in range(ids.shape[1]):
        logits = written.logits[step].float()[rows[:, step]]
        chosen = logits.gather(1, ids[:, step : step + 1])[:, 0] - logits.logsumexp(dim=1)
        total += torch.where(there[:, step], chosen, 0.0)
    tokens = there.sum(dim=1)
    means = total / tokens.clamp(min=1)
    return tokens.tolist(), [round(mean, DIGITS) for mean in means.tolist()]
