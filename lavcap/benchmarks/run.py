"""Parts one after the other, each measured by the function that bears its name."""

from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from transformers.utils import logging

from lavcap.benchmarks.measure import Bench, Row
from lavcap.models.loading import choose_device


# Options that parts take.
OF_A_RECIPE = {"training": ("recipe", "batch_sizes"), "decoding": ("recipe",), "throughput": ("recipe",)}


def measure(
    parts: Mapping[str, str], device: str | None, tiny: bool, options: dict[str, str | Path | Sequence[int]]
) -> Iterator[tuple[Row, dict[str, Any]]]:
    """Rows, as they are known, with the machine that they are of.

    Args:
        parts: modules of this package by the names of the parts.
        options: `recipe` and `batch_sizes`, of parts at the sizes of a recipe.
    """
    from lavcap.benchmarks.models import read_training_recipe

    device, dtype = choose_device(device)
    logging.set_verbosity_error()
    bench = Bench(device, getattr(torch, dtype), tiny)
    if OF_A_RECIPE.keys() & parts.keys():
        options = {**options, "recipe": read_training_recipe(options["recipe"])}
    machine = bench.machine()
    for name, module in parts.items():
        function = getattr(import_module(f"lavcap.benchmarks.{module}"), f"measure_{name}")
        taken = {option: options[option] for option in OF_A_RECIPE.get(name, ())}
        for row in function(bench, **taken):
            yield row, machine
        bench.forget()
