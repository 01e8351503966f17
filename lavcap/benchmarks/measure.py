"""Times of a part and of a baseline, taken in turn, and how far both are from what the machine can do."""

import ctypes
import gc
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import torch

from lavcap.models.loading import device_name
from lavcap.workers import status_of_process, usable_cores


REPEATS, TINY_REPEATS = 20, 3
WARM_UP = 3  # runs that do not count
# What takes longer than so many seconds is repeated so often, and from the first of them on not run again.
ONCE, LONG = 100.0, ((20.0, 1), (2.0, 5))
ROOT = Path(__file__).resolve().parents[2]
LIBRARIES = ("torch", "transformers", "numpy", "av")
MATRIX, TINY_MATRIX = 2048, 256  # rows of the matrices by which the rate of operations is measured
LEAST_MEMORY = 2  # MiB that say something
COPIED, TINY_COPIED = 256 << 20, 4 << 20  # bytes of what is copied, by which the bandwidth is measured


@dataclass(frozen=True)
class Cost:
    """What must be done at least.

    Args:
        operations: multiplications and additions.
        bytes: that are read and written.
        dtype: in which it is computed; default: that which is measured.
    """

    operations: float = 0.0
    bytes: float = 0.0
    dtype: torch.dtype | None = None


@dataclass(frozen=True)
class Row:
    """One line of the results.

    Args:
        part, case: what was measured, such as `"transport"` and `"batch 32"`.
        median_ms, spread_ms: of its runs, and the distance of their quartiles.
        baseline, baseline_ms: what it is compared with, and the median of that, run by run in turn.
        ratio: `baseline_ms / median_ms`.
        limit: what bounds it, and by how much: `"bytes: 1.2 ms"`.
        limit_ratio: what that takes, as a share of `median_ms`.
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
        self._rates: dict[torch.dtype, float] = {}

    def compare(
        self,
        part: str,
        case: str,
        run: Callable[[], Any],
        baseline: str | None = None,
        baseline_run: Callable[[], Any] | None = None,
        limit: Cost | tuple[str, Callable[[], Any]] | None = None,
        **facts: Any,
    ) -> Row:
        """Measure a part and its baseline, one after the other in turn, so that both see the same machine.

        Args:
            run, baseline_run: what is timed; what they return is dropped.
            baseline: name of the other.
            limit: what the part costs at least; or a piece of it without which it cannot be done, which is run in
                turn, too, and its name.
            facts: for the row; numbers of things that a run makes under `per_second` become rates.
        """
        floor = limit if isinstance(limit, tuple) else None
        times = self._times([each for each in (run, baseline_run, floor and floor[1]) if each is not None])
        median = statistics.median(times[0])
        base = statistics.median(times[1]) if baseline_run else None
        bound, limit_ratio = None, None
        if floor:
            least = statistics.median(times[-1])
            bound, limit_ratio = f"{floor[0]}: {1000 * least:.3g} ms", least / median
        elif isinstance(limit, Cost):
            bound, limit_ratio = self.limit(limit, median)
            facts |= {} if limit.dtype in (None, self.dtype) else {"dtype": _name(limit.dtype)}
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
            bound,
            limit_ratio,
            facts | {"repeats": len(times[0])},
        )

    def operations_per_second(self, dtype: torch.dtype | None = None) -> float:
        """Multiplications and additions of a large matrix product."""
        dtype = dtype or self.dtype
        if dtype not in self._rates:
            rows = TINY_MATRIX if self.tiny else MATRIX
            matrix = torch.randn(rows, rows, device=self.device, dtype=dtype)
            (times,) = self._times([lambda: matrix @ matrix])
            self._rates[dtype] = 2 * rows**3 / min(times)
        return self._rates[dtype]

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
            "operations": cost.operations / self.operations_per_second(cost.dtype),
            "bytes": cost.bytes / self.bytes_per_second,
        }
        name = max(limits, key=limits.get)
        return f"{name}: {1000 * limits[name]:.3g} ms", limits[name] / seconds

    def machine(self) -> dict[str, Any]:
        """What the numbers are of."""
        return {
            "device": device_name(str(self.device)),
            "processor": _processor(),
            "cores": usable_cores(),
            "threads": torch.get_num_threads(),
            "dtype": _name(self.dtype),
            "python": platform.python_version(),
            **{name: version(name) for name in LIBRARIES},
            "commit": _commit(),
            "date": time.strftime("%Y-%m-%d"),
            "tiny": self.tiny,
        }

    def forget(self):
        """Give back the memory that is no longer used, and seek the peak of the device anew."""
        gc.collect()
        module = torch.get_device_module(self.device)
        for name in ("empty_cache", "reset_peak_memory_stats"):
            if hasattr(module, name):
                getattr(module, name)()

    # ------------------------------------------------------------------------------------------------- internals

    def _times(self, runs: list[Callable[[], Any]]) -> list[list[float]]:
        """Seconds of each run, in turn, after some that do not count: of the first ones, which may import or compile.

        What takes long has one of them, or none.
        """
        once = [self._time(run) for run in runs]
        if not self.tiny and sum(once) <= ONCE:
            once = [self._time(run) for run in runs]
        seconds = sum(once)
        repeats = TINY_REPEATS if self.tiny else next((number for limit, number in LONG if seconds > limit), REPEATS)
        if repeats == 1 or (self.tiny and seconds > LONG[-1][0]):
            return [[seconds] for seconds in once]
        for _ in range(WARM_UP - 2 if repeats == REPEATS else 0):
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


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _processor() -> str:
    """Its name, where the system tells it."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()


def _commit() -> str | None:
    """Of a clone; nothing where there is none."""
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty"]
    with suppress(OSError, subprocess.CalledProcessError):
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    return None


def busy_seconds() -> float:
    """Seconds that the cores of this machine have worked, for whomever."""
    return sum(psutil.cpu_times()[:3])


def cores_left(seconds: float, busy: float, own: float) -> float:
    """Cores that others have left to what was measured.

    Args:
        seconds: that it took, `busy` of the cores meanwhile, and `own` of them for itself.
    """
    cores = os.cpu_count() or 1
    return max(cores - (busy - own) / seconds, own / seconds)


def most_memory(run: Callable[[], Any]) -> int | None:
    """The most MiB that a run takes beside what there is before; `None` where that cannot be told, or is little."""
    with suppress(AttributeError):  # of a C library other than GNU's
        ctypes.CDLL(None).malloc_trim(0)
    gc.collect()
    pa.default_memory_pool().release_unused()
    try:
        Path("/proc/self/clear_refs").write_text("5")  # from here on the largest is sought
        before = status_of_process("VmRSS")
        result = run()
        most = status_of_process("VmHWM") - before
    except OSError:
        return None
    del result
    return round(most) if most >= LEAST_MEMORY else None


def spread(times: list[float]) -> float:
    """Distance of the quartiles."""
    first, _, third = statistics.quantiles(times, n=4) if len(times) > 1 else (times[0],) * 3
    return third - first
