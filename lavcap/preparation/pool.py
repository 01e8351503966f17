"""Clips cut by several processes; one that crashes or hangs is ended and costs its clip, and the others go on."""

import multiprocessing
import os
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection, wait

from lavcap.endings import interrupts_left_to_this_process
from lavcap.preparation.cutting import Job, Outcome, cut_clip


CLIP_TIMEOUT = 300.0  # seconds that a process may work on a clip
END_TIMEOUT = 10.0  # seconds; one that waits for a broken disk cannot even be killed, and is left behind
NamedJob = tuple[str, Job]


def cut_clips(
    jobs: Iterable[NamedJob], num_proc: int, clip_timeout: float = CLIP_TIMEOUT
) -> Iterator[tuple[str, Outcome]]:
    """Outcomes of jobs by name, in the order in which they are done.

    Args:
        jobs: taken as they are needed.
        num_proc: processes; 0 works in this one, where a decoder that crashes or hangs ends everything.
        clip_timeout: seconds after which a process that gives no answer is ended.

    Raises:
        OSError: something cannot be written, or no process can be started.
    """
    if num_proc == 0:
        yield from ((name, cut_clip(job)) for name, job in jobs)
        return
    jobs, workers = iter(jobs), []
    try:
        while True:
            while len(workers) < num_proc and (named := next(jobs, None)) is not None:
                workers.append(_Worker(named, clip_timeout))
            if not workers:
                return
            for worker in _with_news(workers):
                if (outcome := worker.outcome()) is None:
                    continue
                yield worker.name, outcome
                if worker.ended or (named := next(jobs, None)) is None:
                    workers.remove(worker)
                    worker.end()
                else:
                    worker.begin(named)
    finally:
        for worker in workers:
            worker.end()


# -------------------------------------------------------------------------------------------------------- internals


class _Worker:
    """A process that cuts one clip at a time, with a line to it of its own: whose clip it was is always known."""

    def __init__(self, named: NamedJob, limit: float):
        self.limit = limit
        self.started = self.ended = False
        self.deadline = float("inf")  # until it has started
        self.name, self.job = named
        context = multiprocessing.get_context("spawn")  # decoders' threads do not survive a fork
        self.line, theirs = context.Pipe()
        self.process = context.Process(target=_work, args=(theirs,), daemon=True)
        with interrupts_left_to_this_process():
            self.process.start()
        theirs.close()  # so that its end is heard

    def begin(self, named: NamedJob):
        """Hand out a clip; what a process that is ending does not take, its end tells."""
        self.name, self.job = named
        self.deadline = time.monotonic() + self.limit
        with suppress(BrokenPipeError, ConnectionResetError):
            self.line.send(self.job)

    def outcome(self) -> Outcome | None:
        """What became of the clip; nothing yet of a process that has just started.

        Raises:
            OSError: something cannot be written, or the process ended as soon as it started.
        """
        if not self.line.poll():
            return self._failed(f"got no answer in {self.limit:g} s")
        try:
            answer = self.line.recv()
        except (EOFError, ConnectionResetError) as error:
            if not self.started:
                message = "worker processes end as soon as they start; is there memory left?"
                raise ChildProcessError(message) from error
            return self._failed("brings the decoder down (its process ended)")
        if answer is None:
            self.started = True
            self.begin((self.name, self.job))
        elif isinstance(answer, OSError):
            raise answer
        return answer

    def _failed(self, reason: str) -> Outcome:
        self.end()
        media = self.job.media.audio or self.job.media.video
        return Outcome(unreadable=f"{media.path}: {reason}; convert it, to mp4 or wav say.")

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


def _work(line: Connection):
    """What a worker process does: say that it is there, then answer jobs with outcomes, or with what ends the work."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with suppress(EOFError, BrokenPipeError):  # the parent is gone
        line.send(None)
        while True:
            line.send(_answer(line.recv()))


def _answer(job: Job) -> Outcome | OSError:
    try:
        return cut_clip(job)
    except OSError as error:
        return error


def _end_with_parent():
    multiprocessing.parent_process().join()
    os._exit(1)
