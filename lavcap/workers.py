"""Jobs done side by side: by processes, of which one that crashes or hangs costs its job alone, or by threads."""

import multiprocessing
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from itertools import chain, islice
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Generic, TypeVar

from lavcap.endings import interrupts_left_to_this_process


END_TIMEOUT = 10.0  # seconds; one that waits for a broken disk cannot even be killed, and is left behind
MOST_THREADS = 8  # something of twice as many jobs is in memory
READY, ANSWER, DONE, ERROR = range(4)  # what a process sends
Job = TypeVar("Job")
Answer = TypeVar("Answer")
Work = Callable[[Job], Iterable[Answer]]


def work_through(
    work: Work,
    jobs: Iterable[tuple[str, Job]],
    num_proc: int,
    timeout: float,
    failed: Callable[[Job, str], Answer],
) -> Iterator[tuple[str, Answer]]:
    """Answers to jobs by name: of processes in the order in which they come, of threads in the order of the jobs.

    Of each job at most one answer waits to be taken: what is made ahead stays small.

    Args:
        work: the answers to a job, one or many; goes to the processes, and so can be pickled.
        jobs: taken as they are needed.
        num_proc: processes; 0 works in threads of this one, where a decoder that crashes or hangs ends everything.
        timeout: seconds without an answer, while one is waited for, after which a process is ended.
        failed: the last answer to a job whose process ended or was ended, and why.

    Raises:
        OSError: something cannot be written, or no process can be started.
    """
    if num_proc == 0:
        yield from _in_threads(work, iter(jobs))
        return
    jobs, workers = iter(jobs), []
    try:
        while True:
            while len(workers) < num_proc and (named := next(jobs, None)) is not None:
                workers.append(_Worker(work, named, timeout))
            if not workers:
                return
            for worker in _with_news(workers):
                kind, answer = worker.news()
                if kind == ERROR:
                    raise answer
                if kind == READY:
                    worker.begin(worker.named)
                elif kind == ANSWER or worker.ended:
                    answer = failed(worker.named[1], answer) if worker.ended else answer
                    before = time.monotonic()
                    yield worker.named[0], answer
                    for each in workers:  # what the taker of answers does meanwhile is not their time
                        each.deadline += time.monotonic() - before
                if worker.ended or (kind == DONE and (named := next(jobs, None)) is None):
                    workers.remove(worker)
                    worker.end()
                elif kind == DONE:
                    worker.begin(named)
    finally:
        for worker in workers:
            worker.end()


def usable_cores() -> int:
    """Cores of the machine that this process may use; those that were launched together on it share them."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // int(os.environ.get("LOCAL_WORLD_SIZE", 1)))


def threads_of_each(jobs: int, processes: int = 0) -> int:
    """Threads that each of some jobs done side by side may start, so that no core idles.

    Args:
        processes: that do them; 0: threads of this one.
    """
    return max(1, usable_cores() // max(1, min(jobs, processes or MOST_THREADS)))


def side_by_side() -> int:
    """How many jobs that take a core each are done at a time."""
    return min(usable_cores(), MOST_THREADS)


def status_of_process(name: str) -> float:
    """Memory of this process in MiB, by its name in the system's table: `"VmRSS"`, what it holds, or `"VmHWM"`, the
    most that it held.

    Raises:
        OSError: the system has no such table; Linux has.
    """
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:")) / 1024  # of KiB


def most_resident() -> float:
    """The most memory that this process has held, in MiB."""
    with suppress(OSError):  # Linux, where a new program does not begin with the peak of what started it
        return status_of_process("VmHWM")
    import resource  # Unix alone has it

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 1024  # bytes, or KiB


def end_with_parent():
    """Have this process end when the one that began it does, however that ends."""
    threading.Thread(target=_outlive_nobody, daemon=True).start()


# -------------------------------------------------------------------------------------------------------- internals


def _in_threads(work: Work, jobs: Iterator[tuple[str, Job]]) -> Iterator[tuple[str, Answer]]:
    """Answers in the order of the jobs, made where no Ctrl-C arrives: PyAV would swallow it.

    Twice as many jobs are begun as there are threads: while one of them waits for its turn, another one is done.
    """
    end, count = object(), side_by_side()
    begun: deque[tuple[str, Iterator[Answer], Future]] = deque()
    threads = ThreadPoolExecutor(count)
    try:
        while True:
            for name, job in islice(jobs, 2 * count - len(begun)):
                answers = chain.from_iterable(map(work, [job]))
                begun.append((name, answers, threads.submit(next, answers, end)))
            if not begun:
                return
            name, answers, coming = begun.popleft()
            if (answer := coming.result()) is not end:
                begun.appendleft((name, answers, threads.submit(next, answers, end)))
                yield name, answer
    finally:
        threads.shutdown(cancel_futures=True)


class _Worker(Generic[Job]):
    """A process that does one job at a time, with a line to it of its own: whose job it was is always known."""

    def __init__(self, work: Work, named: tuple[str, Job], timeout: float):
        self.timeout = timeout
        self.started = self.ended = False
        self.deadline = float("inf")  # until it has started
        self.named = named
        context = multiprocessing.get_context("spawn")  # decoders' threads do not survive a fork
        self.line, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, work), daemon=True)
        with interrupts_left_to_this_process():
            self.process.start()
        theirs.close()  # so that its end is heard

    def begin(self, named: tuple[str, Job]):
        """Hand out a job; what a process that is ending does not take, its end tells."""
        self.named = named
        self.deadline = time.monotonic() + self.timeout
        with suppress(BrokenPipeError, ConnectionResetError):
            self.line.send(named[1])

    def news(self) -> tuple[int, object]:
        """What the process sent; `DONE` with a reason, and `ended`, where it sends nothing any more.

        Raises:
            OSError: the process ended as soon as it started.
        """
        if not self.line.poll():
            return self._failed(f"got no answer in {self.timeout:g} s")
        try:
            kind, content = self.line.recv()
        except (EOFError, ConnectionResetError) as error:
            if not self.started:
                message = "worker processes end as soon as they start; is there memory left?"
                raise ChildProcessError(message) from error
            return self._failed("brings the decoder down (its process ended)")
        self.started = True
        self.deadline = time.monotonic() + self.timeout
        return kind, content

    def _failed(self, reason: str) -> tuple[int, str]:
        self.end()
        return DONE, reason

    def end(self):
        self.ended = True
        self.process.kill()
        self.process.join(END_TIMEOUT)
        self.line.close()


def _with_news(workers: Sequence[_Worker]) -> list[_Worker]:
    """Workers that have answered, have ended or are past their time; waits until there is one."""
    deadline = min(worker.deadline for worker in workers)
    seconds = None if deadline == float("inf") else max(0.0, deadline - time.monotonic())
    answered = wait([worker.line for worker in workers], seconds)
    return [worker for worker in workers if worker.line in answered or worker.deadline <= time.monotonic()]


def _serve(line: Connection, work: Work):
    """What a worker process does: say that it is there, then answer jobs, or say what ends the work."""
    end_with_parent()
    with suppress(EOFError, BrokenPipeError):  # the parent is gone
        line.send((READY, None))
        while True:
            job = line.recv()
            try:
                for answer in work(job):
                    line.send((ANSWER, answer))
                line.send((DONE, None))
            except BrokenPipeError:
                raise
            except OSError as error:
                line.send((ERROR, error))


def _outlive_nobody():
    multiprocessing.parent_process().join()
    os._exit(1)
