"""What a training recipe costs at its sizes, with random weights: step time, clips per second, peak memory."""

import multiprocessing
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from lavcap.benchmarks.measure import Bench, Row, spread
from lavcap.endings import interrupts_left_to_this_process
from modeling_captioning import CaptioningModel


INSTRUCTION_WORDS, CAPTION_WORDS = 19, 19  # each a token; a caption ends in one more
WARM_UP_STEPS, STEPS = 2, 10


def measure_training(bench: Bench, recipe: dict[str, Any], batch_sizes: Iterator[int] = (4, 16, 32)) -> Iterator[Row]:
    """One optimiser step per batch of clips of a whole window with stored visual features and captions of 20 tokens,
    without and with gradient checkpointing. Nothing is downloaded. Each row is of a process of its own: peaks of
    memory are its own, and what did not fit leaves nothing behind.

    Args:
        recipe: with `model_config`, and `lora`, `model_dtype` and `bf16` where it has them.
    """
    context, first = multiprocessing.get_context("spawn"), {}
    for checkpointing in (False, True):
        for batch_size in (2,) if bench.tiny else batch_sizes:
            with interrupts_left_to_this_process():
                pool = context.Pool(1)
            steps = 1 if bench.tiny else STEPS
            with pool:
                times, memory, trained = pool.apply(
                    measure_steps, (recipe, batch_size, checkpointing, steps, str(bench.device))
                )
            yield _row(batch_size, checkpointing, times, memory, trained, first)


def read_training_recipe(path: str | Path) -> dict[str, Any]:
    """A recipe that tells the sizes of its model.

    Raises:
        ValueError: it does not.
    """
    from lavcap.training.recipe import read_recipe

    recipe = read_recipe(path)
    if not isinstance(recipe.get("model_config"), dict):
        raise ValueError(f"{path}: has no model_config, expected a recipe that tells the sizes of its model.")
    return recipe


def measure_steps(
    recipe: dict[str, Any], batch_size: int, checkpointing: bool, steps: int, device: str
) -> tuple[list[float] | None, float, int]:
    """Seconds of each step, `None` of a batch that does not fit; peak memory in GiB; number of trained parameters."""
    from lavcap.models.lora import num_trained
    from lavcap.training.meter import peak_memory

    model, batch = random_training(recipe, batch_size, device)
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    try:
        times = run_steps(model, batch, WARM_UP_STEPS + steps, bool(recipe.get("bf16")))
    except torch.OutOfMemoryError:
        return None, 0.0, num_trained(model)
    return times[WARM_UP_STEPS:], peak_memory(torch.device(device)), num_trained(model)


def random_training(
    recipe: dict[str, Any], batch_size: int, device: str
) -> tuple[torch.nn.Module, dict[str, torch.Tensor]]:
    """The model of a recipe, ready to be trained, and a batch for it."""
    from lavcap.models.lora import add_lora

    torch.manual_seed(0)
    model = _random_model(recipe, device)
    batch = _random_batch(model, batch_size, device)
    return (add_lora(model, recipe["lora"]) if recipe.get("lora") else model).train(), batch


def run_steps(
    model: torch.nn.Module, batch: dict[str, torch.Tensor], steps: int, half_precision: bool = False
) -> list[float]:
    """Seconds of each step of a new AdamW, all on the same batch.

    Raises:
        torch.OutOfMemoryError: a step does not fit.
    """
    device = next(iter(batch.values())).device.type
    optimizer = torch.optim.AdamW([weight for weight in model.parameters() if weight.requires_grad], lr=1e-6)
    times = []
    for _ in range(steps):
        start = time.perf_counter()
        with torch.autocast(device, torch.bfloat16, enabled=half_precision):
            loss = model(**batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if device != "cpu":
            torch.accelerator.synchronize()
        times.append(time.perf_counter() - start)
    return times


def _row(
    batch_size: int,
    checkpointing: bool,
    times: list[float] | None,
    memory: float,
    trained: int,
    without: dict[int, float | None],
) -> Row:
    case = f"batch {batch_size}{', gradient checkpointing' if checkpointing else ''}"
    if times is None:
        return Row("training", case, None, None, facts={"does not fit": True, "trained": trained})
    step = statistics.median(times)
    if not checkpointing:
        without[batch_size] = step
    base = without.get(batch_size) if checkpointing else None
    facts = {"clips per second": round(batch_size / step, 2), "peak GiB": round(memory, 2), "trained": trained}
    name = "without checkpointing" if base else None
    return Row(
        "training",
        case,
        1000 * step,
        1000 * spread(times),
        name,
        base and 1000 * base,
        base and base / step,
        facts=facts,
    )


def _random_model(recipe: dict[str, Any], device: str) -> CaptioningModel:
    """Drawn where it is trained: on an accelerator that takes seconds for a 7B. What it encodes is stored already."""
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


def _random_batch(model: CaptioningModel, size: int, device: str) -> dict[str, torch.Tensor]:
    """Clips of a whole window with captions, as a data loader gives them."""
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
