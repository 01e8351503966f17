"""Processes that cut clips: one that hangs or crashes costs its clip, and none outlives the work."""

import multiprocessing
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from conftest import ROOT
from lavcap.data.wav import write_wav
from lavcap.preparation.cutting import Job, Settings
from lavcap.preparation.media import Media, MediaFile
from lavcap.preparation.pool import cut_clips
from lavcap.workers import work_through


LIMIT = 4.0  # seconds; a clip of these tests takes milliseconds once its process has loaded the decoder


class Bomb(str):
    """A name whose arrival ends the process, as a decoder may."""

    def __reduce__(self):
        return os._exit, (7,)


class Sleeper(str):
    """A name whose arrival never ends, as a decoder may."""

    def __reduce__(self):
        return time.sleep, (1000,)


def job(folder, name: str, path=None) -> tuple[str, Job]:
    media = Media(audio=MediaFile(str(folder / f"{name}.wav") if path is None else path))
    return name, Job(name, str(folder / "out"), Settings(1.0, 2, 32), None, media)


@pytest.fixture
def sounds(tmp_path):
    for name in ("a", "b", "c", "d"):
        write_wav(str(tmp_path / f"{name}.wav"), np.full(16_000, 99, np.int16))
    return tmp_path


@pytest.mark.parametrize("num_proc", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_a_clip_that_hangs_or_crashes_is_named_and_the_others_go_on(sounds, num_proc):
    jobs = [
        job(sounds, "a"),
        job(sounds, "hangs", Sleeper(f"{sounds}/hangs.wav")),
        job(sounds, "b"),
        job(sounds, "bomb", Bomb("x.wav")),
    ]
    outcomes = dict(cut_clips([*jobs, job(sounds, "c"), job(sounds, "d")], num_proc, LIMIT))
    reasons = {name: outcome.unreadable for name, outcome in outcomes.items()}
    assert reasons == {
        **dict.fromkeys("abcd"),
        "hangs": f"{sounds}/hangs.wav: got no answer in 4 s; convert it, to mp4 or wav say.",
        "bomb": "x.wav: brings the decoder down (its process ended); convert it, to mp4 or wav say.",
    }
    assert not multiprocessing.active_children()


def _count(job: tuple[str, int]):
    """Numbers up to a limit, which a file tells; -1 ends the process."""
    path, limit = job
    for number in range(abs(limit)):
        Path(path).write_text(str(number))
        yield number
    if limit < 0:
        os._exit(7)


def test_a_job_may_have_many_answers_of_which_few_are_made_ahead(tmp_path):
    path = tmp_path / "number"
    jobs = [("long", (str(path), 50_000)), ("ends", (str(tmp_path / "other"), -2))]
    answers = work_through(_count, jobs, 1, 60.0, lambda job, reason: f"{Path(job[0]).name}: {reason}")
    assert [next(answers) for _ in range(3)] == [("long", 0), ("long", 1), ("long", 2)]
    time.sleep(0.5)
    while not (number := path.read_text()):  # between the two halves of a write
        pass
    assert int(number) < 20_000  # it waits where its line is full
    assert list(answers)[-3:] == [
        ("ends", 0),
        ("ends", 1),
        ("ends", "other: brings the decoder down (its process ended)"),
    ]


def test_time_that_the_taker_of_answers_spends_is_not_that_of_a_job(tmp_path):
    jobs = [(name, (str(tmp_path / name), 2)) for name in "ab"]
    found = []
    for answer in work_through(_count, jobs, 2, 3.0, lambda job, reason: reason):
        found.append(answer)
        time.sleep(4.0 if len(found) == 1 else 0)
    assert sorted(found) == [("a", 0), ("a", 1), ("b", 0), ("b", 1)]


def test_work_that_is_given_up_leaves_no_process(sounds):
    outcomes = cut_clips((job(sounds, name) for name in "abcd"), 2)
    next(outcomes)
    assert multiprocessing.active_children()
    outcomes.close()
    assert not multiprocessing.active_children()


def test_what_cannot_be_written_ends_the_work(sounds):
    (sounds / "out").write_text("no folder")
    name, shorter = job(sounds, "a")
    shorter = Job(shorter.stem, shorter.output, Settings(0.2, 2, 32), None, shorter.media)
    with pytest.raises(OSError, match="out"):
        list(cut_clips([(name, shorter)], 1))
    assert not multiprocessing.active_children()


def test_a_process_that_cuts_clips_loads_no_more_than_the_decoder():
    code = "import sys, lavcap.preparation.pool; print(*sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert not {"torch", "transformers", "datasets", "pyarrow"} & set(result.stdout.split())
