"""Steps of training by processes of this machine's CPU, by the engines that share the work out among them."""

import math
import statistics
import tempfile
import time
from collections.abc import Callable
from datetime import timedelta
from multiprocessing import get_context
from typing import NamedTuple

import psutil
import torch
from torch import distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from lavcap.benchmarks.measure import busy_seconds, cores_left
from lavcap.benchmarks.models import random_model
from lavcap.benchmarks.training import WARM_UP_STEPS, random_training, run_steps
from lavcap.endings import interrupts_left_to_this_process


ALONE, REPLICAS, SHARDS = "one process", "DDP", "FSDP2"
LORA = {"r": 8, "target_modules": r".*(audio_tower|language_model)\..*\.(q_proj|v_proj)"}
BUCKET = 25 << 20  # bytes of gradients that DDP sends together
SUMMED, SUMS = 4 << 20, 10  # bytes that are summed up over the processes to know the bandwidth, and how often
LONGEST = timedelta(minutes=5)  # that processes wait for each other


class Steps(NamedTuple):
    """Steps of training, as one of several processes sees them.

    Args:
        times: seconds of each.
        core_seconds: of one.
        cores: that others have left to the processes.
        sent: bytes that a process sends in one, as the machine's network has counted them.
        collectives: in one, by the engine's rules.
        weights, gradients: bytes of all weights, and of those that are trained.
    """

    times: list[float]
    core_seconds: float
    cores: float
    sent: float
    collectives: int
    weights: int
    gradients: int


class Together(NamedTuple):
    """What processes have found.

    Args:
        steps: by engine and by what is trained.
        bandwidth: bytes per second that each process sends when all sum something up around a ring.
        latency: seconds that they take to sum up one number.
    """

    steps: dict[tuple[str, str], Steps]
    bandwidth: float
    latency: float


def train_together(processes: int, steps: int) -> Together:
    """Steps of the random model, one clip and one thread to a process, by each engine, whole and with LoRA."""
    with tempfile.TemporaryDirectory() as folder, interrupts_left_to_this_process():
        jobs = [(rank, processes, steps, f"file://{folder}/meeting") for rank in range(processes)]
        with get_context("spawn").Pool(processes) as pool:
            return pool.starmap(_train, jobs, chunksize=1)[0]


def _train(rank: int, processes: int, steps: int, meeting: str) -> Together:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", meeting, LONGEST, processes, rank)
    config = random_model("cpu", torch.float32)[0].config.to_dict()
    engines: dict[str, Callable[[nn.Module], nn.Module]] = {ALONE: lambda model: model}
    if processes > 1:
        engines = {REPLICAS: nn.parallel.DistributedDataParallel, SHARDS: _shards}
    found = {
        (engine, trained): _steps({"model_config": config, "lora": lora}, share, processes, steps)
        for engine, share in engines.items()
        for trained, lora in {"all weights": None, "LoRA": LORA}.items()
    }
    together = Together(found, *_link(processes))
    distributed.destroy_process_group()
    return together


def _steps(recipe: dict, share: Callable[[nn.Module], nn.Module], processes: int, steps: int) -> Steps:
    model, batch = random_training(recipe, 1, "cpu")
    weights = sum(weight.nbytes for weight in model.parameters())
    gradients = sum(weight.nbytes for weight in model.parameters() if weight.requires_grad)
    # DDP sends buckets of gradients, and BatchNorm's statistics; a shard is gathered twice, and its gradients once.
    collectives = 3 * (1 + len(_layers(model))) if share is _shards else 1 + math.ceil(gradients / BUCKET)
    model = share(model)
    run_steps(model, batch, WARM_UP_STEPS)
    distributed.barrier()
    sent, spent, busy = _all_sent(), time.process_time(), busy_seconds()
    times = run_steps(model, batch, steps)
    spent, busy = time.process_time() - spent, busy_seconds() - busy
    distributed.barrier()
    cores = cores_left(sum(times), busy, processes * spent)
    sent = (_all_sent() - sent) / processes / steps
    return Steps(times, spent / steps, cores, sent, collectives, weights, gradients)


def _layers(model: nn.Module) -> list[nn.Module]:
    return [layer for module in model.modules() if isinstance(module, nn.ModuleList) for layer in module]


def _shards(model: nn.Module) -> nn.Module:
    """The model with its weights shared out, layer by layer, as `fsdp2.yaml` asks for."""
    mesh = init_device_mesh("cpu", (distributed.get_world_size(),))
    for layer in _layers(model):
        fully_shard(layer, mesh=mesh)
    return fully_shard(model, mesh=mesh)


def _all_sent() -> int:
    """Bytes that processes of this machine have sent to each other."""
    counted = psutil.net_io_counters(pernic=True)
    return sum(each.bytes_sent for name, each in counted.items() if name.startswith("lo"))


def _link(processes: int) -> tuple[float, float]:
    """Bandwidth and latency of a sum over processes."""
    latency, whole = (_sum_seconds(count) for count in (1, SUMMED // 4))
    sent = 2 * SUMMED * (processes - 1) / processes
    return (sent / (whole - latency), latency) if processes > 1 else (math.inf, 0.0)


def _sum_seconds(numbers: int) -> float:
    summed, times = torch.ones(numbers), []
    for _ in range(SUMS):
        distributed.barrier()
        start = time.perf_counter()
        distributed.all_reduce(summed)
        times.append(time.perf_counter() - start)
    return statistics.median(times)
