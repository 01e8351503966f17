"""Clips cut by several processes; one that crashes or hangs is ended and costs its clip, and the others go on."""

from collections.abc import Iterable, Iterator

from lavcap.preparation.cutting import Job, Outcome, cut_clip
from lavcap.workers import work_through


CLIP_TIMEOUT = 300.0  # seconds that a process may work on a clip


def cut_clips(
    jobs: Iterable[tuple[str, Job]], num_proc: int, clip_timeout: float = CLIP_TIMEOUT
) -> Iterator[tuple[str, Outcome]]:
    """Outcomes of jobs by name, in the order in which they are done.

    Args:
        jobs, num_proc: as of [`work_through`].
        clip_timeout: seconds after which a process that gives no answer is ended.

    Raises:
        OSError: something cannot be written, or no process can be started.
    """
    return work_through(_cut, jobs, num_proc, clip_timeout, _failed)


def _cut(job: Job) -> Iterator[Outcome]:
    yield cut_clip(job)


def _failed(job: Job, reason: str) -> Outcome:
    media = job.media.audio or job.media.video
    return Outcome(unreadable=f"{media.path}: {reason}; convert it, to mp4 or wav say.")
