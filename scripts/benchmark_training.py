#!/usr/bin/env python
"""Measure what a training recipe costs on this machine: step time, clips per second and peak memory, by batch size.

    python scripts/benchmark_training.py configs/lavcap_llama2_7b.yaml --batch_sizes 4 16 32

Nothing is downloaded: the model has the recipe's sizes and random weights, on which time and memory do not depend.
Each row runs in a process of its own, with and without gradient checkpointing: clips of a whole window with stored
visual features, captions of 20 tokens, one optimiser step per batch. Prints a Markdown table; of a batch that does not
fit it says so.
"""

import argparse
import multiprocessing
import statistics
import sys
import time
from typing import Any, NamedTuple

import torch
import yaml
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import nn
from transformers import PreTrainedTokenizerFast

from lavcap.commands import Parser, errors_in_one_line, positive
from lavcap.models.building import plain
from lavcap.models.loading import (
    DEFAULT_FAMILY,
    choose_device,
    config_class,
    device_name,
    model_class,
    processor_class,
)
from lavcap.models.lora import add_lora, num_trained
from lavcap.training.meter import peak_memory
from modeling_captioning import CaptioningModel
from parts_captioning import as_dtype, cast


CAPTION_TOKENS, PROMPT_TOKENS = 20, 24
WARM_UP_STEPS = 2


class Row(NamedTuple):
    """One line of the table; memory in GiB, times in seconds."""

    batch_size: int
    checkpointing: bool
    step: float | None
    memory: float
    trained: int


def main() -> int:
    parser = Parser(__doc__)
    parser.add_argument(
        "recipe", help="YAML file with model_config, and lora, model_dtype, optimiser where it has them"
    )
    parser.add_argument("--batch_sizes", type=positive, nargs="+", default=[4, 16, 32], help="clips per step")
    parser.add_argument("--steps", type=positive, default=10, help="steps to measure, after 2 to warm up")
    parser.add_argument("--device", help="cpu, cuda, mps …; default: an accelerator if there is one")
    args = parser.parse_args()
    with errors_in_one_line():
        recipe = _read(args.recipe)
        device, _ = choose_device(args.device)
        rows = list(_measure_all(recipe, args, device))
    print(f"{args.recipe} with random weights on {device_name(device)}, {rows[0].trained:,} parameters trained\n")
    print("| batch | gradient checkpointing | step, s | clips per second | peak memory, GiB |\n|---|---|---|---|---|")
    for row in rows:
        speed = "does not fit | " if row.step is None else f"{row.step:.3g} | {row.batch_size / row.step:.3g}"
        memory = "" if row.step is None else f"{row.memory:.3g}"
        print(f"| {row.batch_size} | {'yes' if row.checkpointing else 'no'} | {speed} | {memory} |")
    return 0


def _read(path: str) -> dict[str, Any]:
    with open(path, encoding="utf-8") as file:
        recipe = yaml.safe_load(file)
    if not isinstance(recipe, dict) or "model_config" not in recipe:
        raise ValueError(f"{path}: has no model_config, expected a recipe that tells the sizes of its model.")
    return recipe


def _measure_all(recipe: dict[str, Any], args: argparse.Namespace, device: str):
    # A fresh process: peaks of memory are its own, and what did not fit leaves nothing behind.
    context = multiprocessing.get_context("spawn")
    for checkpointing in (False, True):
        for batch_size in args.batch_sizes:
            with context.Pool(1) as pool:
                yield pool.apply(measure, (recipe, batch_size, checkpointing, args.steps, device))


def measure(recipe: dict[str, Any], batch_size: int, checkpointing: bool, steps: int, device: str) -> Row:
    """Train for a few steps on random clips."""
    torch.manual_seed(0)
    model = _random_model(recipe, device).train()
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-6)
    batch = _batch(plain(model), batch_size, device)
    times = []
    try:
        for _ in range(WARM_UP_STEPS + steps):
            start = time.perf_counter()
            with torch.autocast(device.split(":")[0], torch.bfloat16, enabled=bool(recipe.get("bf16"))):
                loss = model(**batch).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            _wait(device)
            times.append(time.perf_counter() - start)
    except torch.OutOfMemoryError:
        return Row(batch_size, checkpointing, None, 0, num_trained(model))
    step = statistics.median(times[WARM_UP_STEPS:])
    return Row(batch_size, checkpointing, step, peak_memory(torch.device(device)), num_trained(model))


def _random_model(recipe: dict[str, Any], device: str) -> nn.Module:
    """Drawn where it is trained: on an accelerator that takes seconds for a 7B."""
    fields = dict(recipe["model_config"])
    config = config_class(fields.pop("model_type", DEFAULT_FAMILY))(**fields)
    dtype = as_dtype(recipe.get("model_dtype")) or torch.float32
    with torch.device(device):
        model = cast(model_class(config.model_type)._from_config(config, dtype=dtype), dtype)
    if model.stored_feature_size is not None and model.feature_encoder is not None:
        setattr(model, model.feature_encoder_name, None)  # its features are stored
    return add_lora(model, recipe["lora"]) if recipe.get("lora") else model


def _batch(model: CaptioningModel, size: int, device: str) -> dict[str, torch.Tensor]:
    processor = processor_class(model.config.model_type).from_config(model.config, _tokenizer())
    clips = [processor.blank_features(model.stored_feature_size)] * size
    text, caption = "word " * PROMPT_TOKENS, "word " * (CAPTION_TOKENS - 1)  # and the token that ends it
    batch = processor.batch(clips, text=text, captions=caption)
    return {
        name: (torch.randn_like(tensor) if tensor.is_floating_point() else tensor).to(device)
        for name, tensor in batch.items()
    }


def _tokenizer() -> PreTrainedTokenizerFast:
    """One that knows a single word: what a caption says costs nothing."""
    words = {name: number for number, name in enumerate(("<pad>", "<s>", "</s>", "word"))}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="word"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)


def _wait(device: str):
    if device != "cpu":
        torch.accelerator.synchronize()


if __name__ == "__main__":
    sys.exit(main())
