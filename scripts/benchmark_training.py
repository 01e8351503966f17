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
from typing import TYPE_CHECKING, Any, NamedTuple

from lavcap.arguments import Parser, positive
from lavcap.endings import errors_in_one_line, interrupts_left_to_this_process, printable


if TYPE_CHECKING:
    from torch import Tensor

    from modeling_captioning import CaptioningModel


INSTRUCTION_WORDS, CAPTION_WORDS = 19, 19  # each a token; a caption ends in one more
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
        from lavcap.models.loading import choose_device, device_name

        recipe = _read(args.recipe)
        device, _ = choose_device(args.device)
        rows = list(_measure_all(recipe, args, device))
    recipe_name, machine = printable(args.recipe), device_name(device)
    print(f"{recipe_name} with random weights on {machine}, {rows[0].trained:,} parameters trained\n")
    print("| batch | gradient checkpointing | step, s | clips per second | peak memory, GiB |\n|---|---|---|---|---|")
    for row in rows:
        speed = "does not fit | " if row.step is None else f"{row.step:.3g} | {row.batch_size / row.step:.3g}"
        memory = "" if row.step is None else f"{row.memory:.3g}"
        print(f"| {row.batch_size} | {'yes' if row.checkpointing else 'no'} | {speed} | {memory} |")
    return 0


def _read(path: str) -> dict[str, Any]:
    from lavcap.training.recipe import read_recipe

    recipe = read_recipe(path)
    if not isinstance(recipe.get("model_config"), dict):
        raise ValueError(f"{path}: has no model_config, expected a recipe that tells the sizes of its model.")
    return recipe


def _measure_all(recipe: dict[str, Any], args: argparse.Namespace, device: str):
    # A fresh process: peaks of memory are its own, and what did not fit leaves nothing behind.
    context = multiprocessing.get_context("spawn")
    for checkpointing in (False, True):
        for batch_size in args.batch_sizes:
            with interrupts_left_to_this_process():
                pool = context.Pool(1)
            with pool:
                yield pool.apply(measure, (recipe, batch_size, checkpointing, args.steps, device))


def measure(recipe: dict[str, Any], batch_size: int, checkpointing: bool, steps: int, device: str) -> Row:
    """Train for a few steps on random clips."""
    import torch

    from lavcap.models.lora import add_lora, num_trained
    from lavcap.training.meter import peak_memory

    torch.manual_seed(0)
    model = _random_model(recipe, device)
    batch = _random_batch(model, batch_size, device)
    model = (add_lora(model, recipe["lora"]) if recipe.get("lora") else model).train()
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-6)
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


def _random_model(recipe: dict[str, Any], device: str) -> "CaptioningModel":
    """Drawn where it is trained: on an accelerator that takes seconds for a 7B. What it encodes is stored already."""
    import torch

    from lavcap.models.families import DEFAULT_FAMILY, config_class, model_class
    from parts_captioning import as_dtype, cast

    family = recipe["model_config"].get("model_type", DEFAULT_FAMILY)
    config = config_class(family)(**recipe["model_config"])
    dtype = as_dtype(recipe.get("model_dtype")) or torch.float32
    with torch.device(device):
        model = cast(model_class(family)._from_config(config, dtype=dtype), dtype)
    if model.feature_encoder_name:
        setattr(model, model.feature_encoder_name, None)
    return model


def _random_batch(model: "CaptioningModel", size: int, device: str) -> "dict[str, Tensor]":
    """Clips of a whole window with captions, as a data loader gives them."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    from lavcap.models.families import processor_class

    words = Tokenizer(models.WordLevel({"<s>": 0, "</s>": 1, "word": 2}, unk_token="word"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, bos_token="<s>", eos_token="</s>", unk_token="word")
    processor = processor_class(model.config.model_type).from_config(model.config, tokenizer)
    blank = processor.blank_features(model.stored_feature_size)
    clips = [{name: torch.randn_like(feature) for name, feature in blank.items()} for _ in range(size)]
    texts = {"text": " ".join(["word"] * INSTRUCTION_WORDS), "captions": " ".join(["word"] * CAPTION_WORDS)}
    return {name: tensor.to(device) for name, tensor in processor.batch(clips, **texts).items()}


def _wait(device: str):
    import torch

    if device != "cpu":
        torch.accelerator.synchronize()


if __name__ == "__main__":
    sys.exit(main())
