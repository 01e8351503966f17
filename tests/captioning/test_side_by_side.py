"""Clips that are decoded side by side by threads: what comes of them, in which order, and what is left at the end."""

import io
import subprocess
import sys
import threading
from collections import Counter
from contextlib import redirect_stdout
from itertools import count

import numpy as np
import pytest
from clock_films import write_clock

import media_captioning
from lavcap import workers
from lavcap.captioning.loading import Options, WindowLoader, failed
from lavcap.captioning.media_list import list_media
from lavcap.captioning.outputs import Printed
from lavcap.captioning.run import Captioning
from lavcap.workers import work_through


THREADS = 3
WAIT = 20.0  # seconds, until what does not come is given up


@pytest.fixture(autouse=True)
def cores(monkeypatch):
    monkeypatch.setattr(workers, "usable_cores", lambda: THREADS)


@pytest.mark.parametrize(("cores", "jobs", "threads"), [(16, 2, 8), (16, 100, 2), (2, 2, 1), (2, 100, 1), (1, 5, 1)])
def test_few_films_share_the_cores_out(monkeypatch, cores, jobs, threads):
    monkeypatch.setattr(workers, "usable_cores", lambda: cores)
    assert workers.threads_of_each(jobs) == threads
    assert workers.threads_of_each(jobs, processes=4) == max(1, cores // min(jobs, 4))


def test_processes_that_were_launched_together_share_the_cores(monkeypatch):
    monkeypatch.undo()
    alone = workers.usable_cores()
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert workers.usable_cores() == max(1, alone // 2)


def test_the_peak_of_memory_is_that_of_the_process_and_not_of_its_parent():
    probe = "from lavcap.workers import most_resident; print(most_resident())"
    held = [bytearray(300 << 20)]  # written to, and so resident
    held[0][:: 1 << 12] = b"1" * len(held[0][:: 1 << 12])
    assert workers.most_resident() > 300
    assert 5 < float(subprocess.check_output([sys.executable, "-c", probe])) < 200


def answers(work, jobs):
    return work_through(work, jobs, 0, 60, failed)


def test_films_side_by_side_give_what_each_gives_alone_in_their_order(processor, tmp_path):
    """The third one is damaged: that costs nothing but itself."""
    lengths = (0.4, 1.3, 0.5, 0.3, 0.9, 0.2, 0.4)
    films = [write_clock(tmp_path / f"{number}.mp4", seconds) for number, seconds in enumerate(lengths)]
    films[2].write_bytes(films[2].read_bytes()[:700])
    jobs = [(film.name, (film, 0, 0.0)) for film in films]
    alone = WindowLoader(processor, Options())
    wanted = [(name, loaded) for name, job in jobs for loaded in alone(job)]
    assert [name for name, loaded in wanted if loaded is not None and loaded.error] == ["2.mp4"]
    found = list(answers(WindowLoader(processor, Options(), decoder_threads=1), jobs))
    assert [name for name, _ in found] == [name for name, _ in wanted] and len(found) == 16
    for (_, ours), (_, theirs) in zip(found, wanted, strict=True):
        assert (ours is None) == (theirs is None)
        if ours is not None:
            assert vars(ours) | {"features": ...} == vars(theirs) | {"features": ...}
            assert ours.features.keys() == theirs.features.keys()
            assert all(np.array_equal(each, theirs.features[name]) for name, each in ours.features.items())


def test_a_folder_is_captioned_as_its_films_are_one_by_one(model, processor, tmp_path, monkeypatch):
    films = [write_clock(tmp_path / f"{number}.mp4", 0.2 + 0.2 * number) for number in range(5)]
    real, readings = media_captioning.Reading, []

    def captioned(*paths) -> str:
        with redirect_stdout(io.StringIO()) as printed:
            work = Captioning(model, processor, Printed("jsonl", True), Options(), batch_size=1)
            work.run(list_media([str(path) for path in paths]), lambda clip, message: pytest.fail(message))
        return printed.getvalue()

    def noted(*args, **options):
        reading = real(*args, **options)
        readings.append(reading)
        return reading

    monkeypatch.setattr(media_captioning, "Reading", noted)
    together = captioned(tmp_path)
    assert sorted(reading.decoder_threads for reading in readings) == [0, 0, 0, 1, 1]  # 1: films of one window
    readings.clear()
    assert together == "".join(map(captioned, films)) and together.count("\n") == 8
    assert {reading.decoder_threads for reading in readings} == {0}


def test_as_many_jobs_are_done_at_once_as_there_are_cores():
    meeting = threading.Barrier(THREADS, timeout=WAIT)

    def work(job: int):
        meeting.wait()  # fails where the others do not come
        yield job

    assert list(answers(work, [(str(job), job) for job in range(2 * THREADS)])) == [
        (str(job), job) for job in range(2 * THREADS)
    ]


def test_answers_come_in_the_order_of_the_jobs_also_where_later_ones_are_there_first():
    later = threading.Event()

    def work(job: str):
        if job == "first":
            assert later.wait(WAIT)
        else:
            later.set()
        yield f"{job} 1"
        yield f"{job} 2"

    jobs = [(name, name) for name in ("first", "second")]
    assert list(answers(work, jobs)) == [(job, f"{job} {number}") for job, _ in jobs for number in (1, 2)]


def test_one_answer_to_each_job_is_made_ahead_of_few_jobs():
    made, lock = Counter(), threading.Lock()

    def work(job: int):
        for number in range(50):
            with lock:
                made[job] += 1
            yield number

    coming = answers(work, ((str(job), job) for job in count()))
    for _ in range(20):
        assert next(coming)[0] == "0"
        assert made[0] <= 21 and set(made) <= set(range(2 * THREADS))
        assert all(number <= 1 for job, number in made.items() if job)
    coming.close()


def test_an_error_of_the_system_comes_when_its_job_has_its_turn():
    def work(job: int):
        if job == 2:
            raise OSError("no room")
        yield job

    coming = answers(work, [(str(job), job) for job in range(5)])
    assert [next(coming), next(coming)] == [("0", 0), ("1", 1)]
    with pytest.raises(OSError, match="no room"):
        next(coming)


def test_work_that_is_given_up_leaves_no_thread_and_begins_nothing_more():
    begun, before = [], set(threading.enumerate())

    def work(job: int):
        begun.append(job)
        yield job

    coming = answers(work, ((str(job), job) for job in count()))
    for _ in range(4):
        next(coming)
    coming.close()
    left = len(begun)
    assert set(threading.enumerate()) <= before
    assert left <= 4 + 2 * THREADS
