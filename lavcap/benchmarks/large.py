"""Captions of a model at the sizes of a recipe, such as a 7B, with random weights that are drawn on the device."""

from collections.abc import Callable, Iterator
from typing import Any

import torch

from lavcap.benchmarks.measure import Bench, Row
from lavcap.benchmarks.models import batch_of, model_of, writing_cost
from lavcap.training.meter import peak_memory
from modeling_captioning import CaptioningModel


NEW_TOKENS, FEW_TOKENS = 100, 4
BATCHES = (1, 8, 64, 128, 200)
# Captions of 100 tokens a second by batch, of MiDashengLM-7B on a card of 80 GB, as its model card says.
PUBLISHED = {1: 0.45, 64: 17.0, 200: 25.0}


def measure_decoding(bench: Bench, recipe: dict[str, Any]) -> Iterator[Row]:
    """One clip, token by token: with a cache of a fixed size, for which the library compiles the step on a GPU,
    against one that grows. Every token reads all weights of the language model, which is the limit."""
    model = model_of(recipe, str(bench.device)).eval()
    batch = batch_of(model, 1, str(bench.device))
    weights = sum(each.nbytes for each in model.language_model.parameters())
    tokens = FEW_TOKENS if bench.tiny else NEW_TOKENS
    yield bench.compare(
        "decoding",
        f"batch 1, {tokens} tokens, static cache",
        _generation(model, batch, tokens, cache_implementation="static"),
        "cache that grows",
        _generation(model, batch, tokens),
        writing_cost(model, tokens),
        per_second={"tokens": tokens},
        weights_GB=round(weights / 1e9, 2),
    )


def measure_throughput(bench: Bench, recipe: dict[str, Any]) -> Iterator[Row]:
    """Captions per second of batches of clips, greedy; what does not fit is said."""
    model = model_of(recipe, str(bench.device)).eval()
    tokens = FEW_TOKENS if bench.tiny else NEW_TOKENS
    for size in (1, 2) if bench.tiny else BATCHES:
        batch, case = batch_of(model, size, str(bench.device)), f"batch {size}, {tokens} tokens"
        bench.forget()
        try:
            row = bench.compare(
                "throughput",
                case,
                _generation(model, batch, tokens),
                limit=writing_cost(model, tokens, size),
                per_second={"captions": size},
            )
        except torch.OutOfMemoryError:
            yield Row("throughput", case, None, None, facts={"does not fit": True})
        else:
            row.facts["peak GiB"] = round(peak_memory(bench.device), 2)
            if size in PUBLISHED and not bench.tiny and bench.device.type == "cuda":
                row.facts["captions per second of MiDashengLM-7B"] = PUBLISHED[size]
            yield row


def _generation(
    model: CaptioningModel, batch: dict[str, torch.Tensor], tokens: int, **options: Any
) -> Callable[[], Any]:
    options |= {"max_new_tokens": tokens, "min_new_tokens": tokens, "num_beams": 1, "do_sample": False}
    return lambda: model.generate(**batch, **options)
