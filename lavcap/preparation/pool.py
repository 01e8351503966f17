"""Clips cut by several processes; one that brings its process down is found and named, and the others go on."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager

from lavcap.preparation.cutting import Job, Outcome, cut_clip


JOBS_PER_PROCESS = 2  # handed out at a time: their media may be held in memory
NamedJob = tuple[str, Job]


def cut_clips(jobs: Iterable[NamedJob], num_proc: int) -> Iterator[tuple[str, Outcome]]:
    """Outcomes of jobs by name, in the order in which they are done.

    Args:
        jobs: taken as they are needed.
        num_proc: processes; 0 works in this one, where a decoder that crashes ends everything.

    Raises:
        OSError: something cannot be written, or no process can be started.
    """
    if num_proc == 0:
        yield from ((name, cut_clip(job)) for name, job in jobs)
        return
    jobs, suspects = iter(jobs), []
    while True:
        yield from _cut_until_crash(jobs, num_proc, suspects)
        if not suspects:
            return
        yield from _cut_one_by_one(suspects)
        suspects.clear()


# -------------------------------------------------------------------------------------------------------- internals


def _cut_until_crash(
    jobs: Iterator[NamedJob], num_proc: int, suspects: list[NamedJob]
) -> Iterator[tuple[str, Outcome]]:
    """Outcomes up to the end, or up to a crash: the jobs that were under way are then the suspects."""
    pending: dict[Future, NamedJob] = {}
    with _pool(num_proc) as pool:
        for name, job in jobs:
            try:
                pending[pool.submit(cut_clip, job)] = name, job
            except BrokenProcessPool:
                suspects.append((name, job))
            while len(pending) >= JOBS_PER_PROCESS * num_proc or (suspects and pending):
                yield from _finished(pending, suspects)
            if suspects:
                return
        while pending:
            yield from _finished(pending, suspects)


def _finished(pending: dict[Future, NamedJob], suspects: list[NamedJob]) -> Iterator[tuple[str, Outcome]]:
    done, _ = wait(pending, return_when=FIRST_COMPLETED)
    for future in done:
        name, job = pending.pop(future)
        try:
            outcome = future.result()
        except BrokenProcessPool:
            suspects.append((name, job))
        else:
            yield name, outcome


def _cut_one_by_one(suspects: list[NamedJob]) -> Iterator[tuple[str, Outcome]]:
    remaining = list(suspects)
    while remaining:
        with _pool(1) as pool:
            _check_starts(pool)
            while remaining:
                name, job = remaining.pop(0)
                try:
                    yield name, pool.submit(cut_clip, job).result()
                except BrokenProcessPool:
                    yield name, Outcome(unreadable=_crash(job))
                    break


def _crash(job: Job) -> str:
    media = job.media.sound or job.media.film
    return f"{media.path}: brings the decoder down (its process ended); convert it, to mp4 or wav say."


def _check_starts(pool: ProcessPoolExecutor):
    try:
        pool.submit(os.getpid).result()
    except BrokenProcessPool as error:
        raise ChildProcessError("worker processes end as soon as they start; is there memory left?") from error


@contextmanager
def _pool(num_proc: int) -> Iterator[ProcessPoolExecutor]:
    context = multiprocessing.get_context("spawn")  # decoders' threads do not survive a fork
    pool = ProcessPoolExecutor(num_proc, mp_context=context, initializer=_begin)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def _begin():
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent says what an interrupt means
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent():
    multiprocessing.parent_process().join()
    os._exit(1)
