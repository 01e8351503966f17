"""How captioning and training scale over processes: a model of it, and its check by processes on a CPU."""

import resource
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from lavcap.benchmarks.captioning import save_model
from lavcap.benchmarks.commands import run_python
from lavcap.benchmarks.engines import ALONE, REPLICAS, Steps, train_together
from lavcap.benchmarks.films import write_films
from lavcap.benchmarks.measure import Bench, Row, busy_seconds, cores_left, spread


PROCESSES, TINY_PROCESSES = (1, 2, 4), (1, 2)
CLIPS, FEW_CLIPS = 32, 4  # that are captioned, by which the start is told from the work
REPEATS, STEPS = 3, 10  # of a launch, of training


# -------------------------------------------------------------------------------------------------------- the model


class Work(NamedTuple):
    """What one process takes that has the machine to itself.

    Args:
        seconds: until it is done.
        core_seconds: of all its threads.
    """

    seconds: float
    core_seconds: float

    def among(self, processes: int, cores: float) -> float:
        """Seconds until as many processes have done it, each its own, on cores that they share."""
        return max(self.seconds, processes * self.core_seconds / cores)


def most_clips(clips: int, processes: int) -> int:
    """Clips of the process that has most: they are dealt one by one."""
    return -(-clips // processes)


def captioning_seconds(clips: int, processes: int, cores: float, start: Work, clip: Work) -> float:
    """Until the last process is done: they start, and each captions its clips.

    Args:
        cores: of all processes together; those that decode are the limit where they take longer than the model.
        start, clip: of one process.
    """
    return start.among(processes, cores) + most_clips(clips, processes) * clip.among(processes, cores)


def sent_by_replicas(gradients: int, processes: int) -> float:
    """Bytes that each process sends in a step of DDP, ZeRO-1 or ZeRO-2: about twice the gradients of what is trained.

    A sum around a ring is a reduce-scatter and an all-gather, `(processes - 1) / processes` of the bytes each. ZeRO-1
    and ZeRO-2 leave the gradients apart after the first, and gather weights by the second: the same volume (ZeRO,
    arXiv 1910.02054, sections 7.1 and 7.2). With LoRA the gradients are those of the adapter.
    """
    return 2 * gradients * (processes - 1) / processes


def sent_by_shards(weights: int, gradients: int, processes: int) -> float:
    """Bytes that each process sends in a step of FSDP or ZeRO-3: about twice all weights, and once the gradients.

    The weights are gathered for the forward pass and again for the backward pass, the frozen ones with them; the
    gradients of what is trained are summed up where they belong. Where all is trained this is three times the weights
    (ZeRO, arXiv 1910.02054, section 7.2; PyTorch FSDP, arXiv 2304.11277, section 3.2).
    """
    return (2 * weights + gradients) * (processes - 1) / processes


def step_seconds(compute: float, sent: float, bandwidth: float, collectives: int = 0, latency: float = 0.0) -> float:
    """Of a training step whose communication hides behind nothing; at best the shorter of the two is hidden.

    Args:
        compute: seconds of one process alone.
        sent, bandwidth: bytes that a process sends, and can send in a second.
        collectives, latency: how often all exchange something, and seconds until anything of it arrives.
    """
    return compute + sent / bandwidth + collectives * latency


# -------------------------------------------------------------------------------------------------------- its check


def measure_scaling(bench: Bench) -> Iterator[Row]:
    """Captioning and training by processes of one thread each on this machine's CPU, against what the model makes of
    one process alone, the cores, and the bandwidth among processes."""
    counts = TINY_PROCESSES if bench.tiny else PROCESSES
    yield from _captioning(bench, counts)
    yield from _training(bench, counts)


def _captioning(bench: Bench, counts: Sequence[int]) -> Iterator[Row]:
    """`accelerate launch -m lavcap caption` on a folder of films of 10 s. One process on a few and on all of them, and
    the launch of a command that does nothing, tell what the start costs and what a clip."""
    few, clips = (1, 3) if bench.tiny else (FEW_CLIPS, CLIPS)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = save_model(folder / "model", bench)
        length = 1 if bench.tiny else 10
        films = [write_films(folder / str(count), list(map(str, range(count))), length) for count in (few, clips)]
        options = ["--model", model, "--device", "cpu", "--output_dir", folder / "captions", "--overwrite"]
        runs: dict[Any, list[_Launch]] = {"launch": [], "few": [], **{count: [] for count in counts}}
        for _ in range(1 if bench.tiny else REPEATS):
            runs["launch"].append(_launched(1, "--help"))
            runs["few"].append(_launched(1, "caption", films[0], *options))
            for count in counts:
                runs[count].append(_launched(count, "caption", films[1], *options))
    launch, first, whole = (_work(runs[name]) for name in ("launch", "few", 1))
    clip = Work(*((each - other) / (clips - few) for each, other in zip(whole, first, strict=True)))
    start = Work(*(each - few * own - other for each, own, other in zip(first, clip, launch, strict=True)))
    for count in counts:
        seconds = [run.seconds for run in runs[count]]
        cores = statistics.median(run.cores for run in runs[count])
        predicted = launch.seconds + captioning_seconds(clips, count, cores, start, clip)
        facts = {"cores left": round(cores, 2), "core s of the start": round(start.core_seconds, 2)}
        facts["core s of a clip"] = round(clip.core_seconds, 3)
        yield _row(f"caption {clips} clips", count, seconds, predicted, facts)


class _Launch(NamedTuple):
    """What a launch of several processes took, and the cores that others left to it."""

    seconds: float
    core_seconds: float
    cores: float


def _launched(processes: int, *words: object) -> _Launch:
    """`lavcap` in several processes, as people start them."""
    launch = ["-m", "accelerate.commands.launch", "--quiet", "--num_processes", processes]
    launch += ["--multi_gpu"] * (processes > 1)  # else it starts one process where there is no GPU
    start, before, busy = time.perf_counter(), _of_children(), busy_seconds()
    run_python(*launch, "-m", "lavcap", *words, OMP_NUM_THREADS="1")
    seconds, own, busy = time.perf_counter() - start, _of_children() - before, busy_seconds() - busy
    return _Launch(seconds, own, cores_left(seconds, busy, own))


def _of_children() -> float:
    """Seconds of the cores that processes of this one took, and theirs, which have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _work(launches: Sequence[_Launch]) -> Work:
    return Work(*(statistics.median(column) for column in list(zip(*launches, strict=True))[:2]))


def _training(bench: Bench, counts: Sequence[int]) -> Iterator[Row]:
    """Steps of the random model by one process, and by several that have replicas of it or share its weights out."""
    found = {count: train_together(count, 1 if bench.tiny else STEPS) for count in counts}
    for count, (together, bandwidth, latency) in found.items():
        for (engine, trained), steps in together.items():
            alone = found[1][0][ALONE, trained]
            compute = Work(statistics.median(alone.times), alone.core_seconds).among(count, steps.cores)
            sent = _sent(engine, steps, count)
            predicted = step_seconds(compute, sent, bandwidth, steps.collectives, latency)
            facts = {
                "cores left": round(steps.cores, 2),
                "MB sent": round(steps.sent / 1e6, 2),
                "MB by formula": round(sent / 1e6, 2),
            }
            if count > 1:
                facts |= {"MB per second": round(bandwidth / 1e6), "latency ms": round(1000 * latency, 2)}
            yield _row(f"{engine}, {trained} trained", count, steps.times, predicted, facts)


def _sent(engine: str, steps: Steps, processes: int) -> float:
    if engine == REPLICAS:
        return sent_by_replicas(steps.gradients, processes)
    return sent_by_shards(steps.weights, steps.gradients, processes)


def _row(case: str, processes: int, times: Sequence[float], predicted: float, facts: dict[str, Any]) -> Row:
    """Of one process there is nothing to predict: it is what the others are predicted from."""
    median = statistics.median(times)
    baseline = (None,) * 3 if processes == 1 else ("by the model", 1000 * predicted, predicted / median)
    case = f"{case}, {processes} process{'es' * (processes > 1)}"
    return Row("scaling", case, 1000 * median, 1000 * spread(times), *baseline, facts=facts)
