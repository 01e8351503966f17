"""Times of a part and of a baseline, taken in turn, and how far both are from what the machine can do."""

import ctypes
import gc
import os
import statistics
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import torch

from lavcap.models.loading import device_name


REPEATS, TINY_REPEATS = 20, 3
WARM_UP = 3  # runs that do not count
LONG_SECONDS, LONG_REPEATS = 2.0, 5  # what takes longer, in seconds, is repeated less
MATRIX, TINY_MATRIX = 2048, 256  # rows of the matrices by which the rate of operations is measured
PROCESS = Path("/proc/self")  # of Linux; elsewhere memory is not told
MEBIBYTE = 1024  # of the kibibytes there
LEAST_MEMORY = 2  # MiB that say something
COPIED, TINY_COPIED = 256 << 20, 4 << 20  # bytes of what is copied, by which the bandwidth is measured


@dataclass(frozen=True)
class Cost:
    """What must be done at least.

    Args:
        operations: multiplications and additions.
        bytes: that are read and written.
    """

    operations: float = 0.0
    bytes: float = 0.0


@dataclass(frozen=True)
class Row:
    """One line of the results.

    Args:
        part, case: what was measured, such as `"transport"` and `"batch 32"`.
        median_ms, spread_ms: of its runs, and the distance of their quartiles.
        baseline, baseline_ms: what it is compared with, and the median of that, run by run in turn.
        ratio: `baseline_ms / median_ms`.
        limit: what bounds it, and by how much: `"bytes: 1.2 ms"`.
        limit_ratio: share of the limit that is reached, 1 at most.
        facts: what else is known, such as clips per second or MiB.
    """

    part: str
    case: str
    median_ms: float | None
    spread_ms: float | None
    baseline: str | None = None
    baseline_ms: float | None = None
    ratio: float | None = None
    limit: str | None = None
    limit_ratio: float | None = None
    facts: dict[str, Any] = field(default_factory=dict)

    def as_object(self) -> dict[str, Any]:
        """For JSON, times to the microsecond and shares to four digits."""
        rounded = {name: round(each, 3 if name.endswith("_ms") else 4) for name, each in self._numbers().items()}
        return asdict(self) | rounded

    def _numbers(self) -> dict[str, float]:
        return {name: each for name, each in asdict(self).items() if isinstance(each, float)}


class Bench:
    """Measures on one device.

    Args:
        device, dtype: that are measured.
        tiny: small sizes and few repeats, to see that it works.
    """

    def __init__(self, device: str = "cpu", dtype: torch.dtype = torch.float32, tiny: bool = False):
        self.device, self.dtype, self.tiny = torch.device(device), dtype, tiny

    def compare(
        self,
        part: str,
        case: str,
        run: Callable[[], Any],
        baseline: str | None = None,
        baseline_run: Callable[[], Any] | None = None,
        cost: Cost | None = None,
        **facts: Any,
    ) -> Row:
        """Measure a part and its baseline, one after the other in turn, so that both see the same machine.

        Args:
            run, baseline_run: what is timed; what they return is dropped.
            baseline: name of the other.
            cost: of the part, from which its limit follows.
            facts: for the row; numbers of things that a run makes under `per_second` become rates.
        """
        runs = [run] if baseline_run is None else [run, baseline_run]
        times = self._times(runs)
        median = statistics.median(times[0])
        base = statistics.median(times[1]) if baseline_run else None
        limit, limit_ratio = self.limit(cost, median) if cost else (None, None)
        made = facts.pop("per_second", {})
        facts |= {f"{name} per second": round(number / median, 2) for name, number in made.items()}
        return Row(
            part,
            case,
            1000 * median,
            1000 * spread(times[0]),
            baseline,
            base and 1000 * base,
            base and base / median,
            limit,
            limit_ratio,
            facts | {"repeats": len(times[0])},
        )

    @cached_property
    def operations_per_second(self) -> float:
        """Multiplications and additions of a large matrix product."""
        rows = TINY_MATRIX if self.tiny else MATRIX
        matrix = torch.randn(rows, rows, device=self.device, dtype=self.dtype)
        (times,) = self._times([lambda: matrix @ matrix])
        return 2 * rows**3 / min(times)

    @cached_property
    def bytes_per_second(self) -> float:
        """Of a copy of much memory, read and written."""
        number = TINY_COPIED if self.tiny else COPIED
        source = torch.ones(number // 4, device=self.device, dtype=torch.float32)
        target = torch.empty_like(source)
        (times,) = self._times([lambda: target.copy_(source)])
        return 2 * number / min(times)

    def limit(self, cost: Cost, seconds: float) -> tuple[str, float]:
        """What bounds something of this cost, and the share of that limit which it reaches in its time."""
        limits = {
            "operations": cost.operations / self.operations_per_second,
            "bytes": cost.bytes / self.bytes_per_second,
        }
        name = max(limits, key=limits.get)
        return f"{name}: {1000 * limits[name]:.3g} ms", limits[name] / seconds

    def machine(self) -> dict[str, Any]:
        """What the numbers are of."""
        import transformers

        return {
            "device": device_name(str(self.device)),
            "dtype": str(self.dtype).removeprefix("torch."),
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "tiny": self.tiny,
        }

    # ------------------------------------------------------------------------------------------------- internals

    def _times(self, runs: list[Callable[[], Any]]) -> list[list[float]]:
        """Seconds of each run, in turn, after some that do not count."""
        first = [self._time(run) for run in runs]
        is_long = sum(first) > LONG_SECONDS
        if self.tiny and is_long:
            return [[seconds] for seconds in first]
        repeats = TINY_REPEATS if self.tiny else LONG_REPEATS if is_long else REPEATS
        for _ in range(0 if self.tiny or is_long else WARM_UP):
            for run in runs:
                run()
        times: list[list[float]] = [[] for _ in runs]
        for _ in range(repeats):
            for own, run in zip(times, runs, strict=True):
                own.append(self._time(run))
        return times

    def _time(self, run: Callable[[], Any]) -> float:
        self._wait()
        start = time.perf_counter()
        run()
        self._wait()
        return time.perf_counter() - start

    def _wait(self):
        if self.device.type != "cpu":
            torch.accelerator.synchronize()


def busy_seconds() -> float:
    """Seconds that the cores of this machine have worked, for whomever."""
    return sum(psutil.cpu_times()[:3])


def cores_left(seconds: float, busy: float, own: float) -> float:
    """Cores that others have left to what was measured.

    Args:
        seconds: that it took, `busy` of the cores meanwhile, and `own` of them for itself.
    """
    cores = psutil.cpu_count(logical=False) or os.cpu_count() or 1
    return max(cores - (busy - own) / seconds, own / seconds)


def most_memory(run: Callable[[], Any]) -> int | None:
    """The most MiB that a run takes beside what there is before; `None` where that cannot be told, or is little."""
    with suppress(AttributeError):  # of a C library other than GNU's
        ctypes.CDLL(None).malloc_trim(0)
    gc.collect()
    pa.default_memory_pool().release_unused()
    try:
        (PROCESS / "clear_refs").write_text("5")  # from here on the largest is sought
        before = _of_process("VmRSS")
        result = run()
        most = _of_process("VmHWM") - before
    except OSError:
        return None
    del result
    return round(most) if most >= LEAST_MEMORY else None


def _of_process(name: str) -> float:
    """MiB."""
    lines = (PROCESS / "status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:")) / MEBIBYTE


def spread(times: list[float]) -> float:
    """Distance of the quartiles."""
    first, _, third = statistics.quantiles(times, n=4) if len(times) > 1 else (times[0],) * 3
    return third - first
