"""What a training recipe costs at its sizes, with random weights: step time, clips per second, peak memory."""

import multiprocessing
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from lavcap.benchmarks.measure import Bench, Cost, Row, spread
from lavcap.benchmarks.models import batch_of, model_of
from lavcap.endings import interrupts_left_to_this_process


CAPTION_WORDS = 19  # each a token; a caption ends in one more
WARM_UP_STEPS, STEPS = 2, 20
LONG_SECONDS, LONG_STEPS = 10.0, 5  # after so many seconds so many steps are enough


@dataclass(frozen=True)
class Way:
    """How a step is made.

    Args:
        name: for a row.
        all_logits: of positions without a label, too, and the optimiser's step tensor by tensor: as released.
        checkpointing: activations are made again on the way back.
    """

    name: str
    all_logits: bool = False
    checkpointing: bool = False


RELEASED = Way("all logits, plain AdamW", all_logits=True)
WAYS = (Way(""), Way(", gradient checkpointing", checkpointing=True))


@dataclass(frozen=True)
class Steps:
    """What steps took.

    Args:
        times: seconds of each; `None`: they do not fit.
        memory: peak in GiB.
        trained: number of trained parameters; 0 where not even the model fits.
        operations: multiplications and additions of a step.
    """

    times: list[float] | None
    memory: float
    trained: int
    operations: float


def measure_training(bench: Bench, recipe: dict[str, Any], batch_sizes: Sequence[int] = (4, 16, 32)) -> Iterator[Row]:
    """One optimiser step per batch of clips of a whole window with stored visual features and captions of 20 tokens,
    without and with gradient checkpointing. Nothing is downloaded. Each row is of a process of its own: peaks of
    memory are its own, and what did not fit leaves nothing behind.

    Args:
        recipe: with `model_config`, and `lora`, `model_dtype` and `bf16` where it has them.
    """
    steps = 1 if bench.tiny else STEPS
    for batch_size in (2,) if bench.tiny else batch_sizes:
        released = _alone(recipe, batch_size, RELEASED, steps, str(bench.device))
        for way in WAYS:
            ours = _alone(recipe, batch_size, way, steps, str(bench.device))
            yield _row(bench, batch_size, way, ours, released)


def measure_steps(recipe: dict[str, Any], batch_size: int, way: Way, steps: int, device: str) -> Steps:
    """Train on one batch, over and over."""
    from lavcap.models.lora import num_trained
    from lavcap.training.meter import peak_memory

    trained = 0
    options = {"half_precision": bool(recipe.get("bf16")), "fused": not way.all_logits}
    try:
        model, batch = random_training(recipe, batch_size, device, way.all_logits)
        trained = num_trained(model)
        if way.checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        times = run_steps(model, batch, WARM_UP_STEPS + steps, **options)[WARM_UP_STEPS:]
        memory = peak_memory(torch.device(device))
        with FlopCounterMode(display=False) as counter:
            run_steps(model, batch, 1, **options)
    except torch.OutOfMemoryError:
        return Steps(None, 0.0, trained, 0.0)
    return Steps(times, memory, trained, counter.get_total_flops())


def random_training(
    recipe: dict[str, Any], batch_size: int, device: str, all_logits: bool = False
) -> tuple[torch.nn.Module, dict[str, torch.Tensor]]:
    """The model of a recipe, ready to be trained, and a batch for it."""
    from lavcap.models.lora import add_lora
    from lavcap.training.losses import wanted_logits

    torch.manual_seed(0)
    model = model_of(recipe, device)
    batch = batch_of(model, batch_size, device, CAPTION_WORDS)
    batch |= {} if all_logits else wanted_logits(batch)
    return (add_lora(model, recipe["lora"]) if recipe.get("lora") else model).train(), batch


def run_steps(
    model: torch.nn.Module, batch: dict[str, Any], steps: int, half_precision: bool = False, fused: bool = True
) -> list[float]:
    """Seconds of each step of a new AdamW, all on the same batch; long ones are fewer.

    Raises:
        torch.OutOfMemoryError: a step does not fit.
    """
    device, trained = batch["labels"].device.type, [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-6, **{"fused": True} if fused else {"foreach": False})
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
        if sum(times) > LONG_SECONDS and len(times) >= WARM_UP_STEPS + LONG_STEPS:
            break
    return times


# -------------------------------------------------------------------------------------------------------- internals


def _alone(*args: Any) -> Steps:
    """Steps in a process of their own."""
    with interrupts_left_to_this_process():
        pool = multiprocessing.get_context("spawn").Pool(1)
    with pool:
        return pool.apply(measure_steps, args)


def _row(bench: Bench, batch_size: int, way: Way, ours: Steps, released: Steps) -> Row:
    case = f"batch {batch_size}{way.name}"
    if ours.times is None:
        return Row("training", case, None, None, facts={"does not fit": True, "trained": ours.trained})
    step = statistics.median(ours.times)
    base = released.times and statistics.median(released.times)
    limit, limit_ratio = bench.limit(Cost(operations=ours.operations), step)
    facts = {
        "clips per second": round(batch_size / step, 2),
        "peak GiB": round(ours.memory, 2),
        "peak GiB of the baseline": round(released.memory, 2) if base else "does not fit",
        "trained": ours.trained,
        "repeats": len(ours.times),
    }
    return Row(
        "training",
        case,
        1000 * step,
        1000 * spread(ours.times),
        RELEASED.name,
        base and 1000 * base,
        base and base / step,
        limit,
        limit_ratio,
        facts,
    )
