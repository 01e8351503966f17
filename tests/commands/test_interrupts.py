"""Ctrl-C, which a terminal sends to every process of a command: one line, exit status 130, and nothing is lost."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from accelerate import Accelerator, skip_first_batches
from media_files import write_media
from recipes import TINY
from stranger import import_path, run_inside
from torch.utils.data import DataLoader

from conftest import ROOT
from containers_captioning import _Bytes
from lavcap.captioning.loading import Options, WindowLoader, failed
from lavcap.endings import interrupts_left_to_this_process
from lavcap.preparation.cutting import Job, Settings
from lavcap.preparation.media import Media, MediaFile
from lavcap.preparation.pool import _cut
from lavcap.progress_log import read_log
from lavcap.training.data import with_own_workers
from lavcap.workers import ANSWER, READY, _Worker, work_through


# Says when Python itself and what every command begins with are there: its own start is not the project's.
BEGINNING = """
import runpy, sys, lavcap.endings
sys.argv.pop(0)
print(flush=True)
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.fixture(autouse=True)
def as_in_a_terminal():
    """A shell has what it starts in the background ignore Ctrl-C, and that is inherited."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def interrupted(delay: float | Callable[[], bool], script: str, *arguments: object) -> tuple[int, str]:
    """Exit status of a command and what it says, with a Ctrl-C after some seconds, or when it is time."""
    command = [sys.executable, "-c", BEGINNING, str(ROOT / script), *map(str, arguments)]
    environment = os.environ | {"PYTHONPATH": import_path()}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, env=environment, text=True, start_new_session=True, **pipes) as process:
        process.stdout.readline()
        if callable(delay):
            while process.poll() is None and not delay():
                time.sleep(0.01)
        else:
            time.sleep(delay)
        os.killpg(process.pid, signal.SIGINT)
        return process.wait(60), process.stderr.read()


def check_few_lines(status: int, errors: str):
    lines = [line for line in errors.splitlines() if line and "%|" not in line]
    assert status == 130 and lines[-1] == "interrupted" and len(lines) < 4, errors


def test_a_process_that_is_started_leaves_interrupts_to_this_one():
    command = [sys.executable, "-c", "import os, signal; os.kill(os.getpid(), signal.SIGINT); print('on')"]
    with pytest.raises(KeyboardInterrupt), interrupts_left_to_this_process():
        signal.raise_signal(signal.SIGINT)  # while it starts: told afterwards
        done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "on\n")
    assert subprocess.run(command, stderr=subprocess.DEVNULL).returncode == -signal.SIGINT


class Interrupted:
    """Items that are read while a Ctrl-C arrives."""

    def __len__(self):
        return 4

    def __getitem__(self, index: int) -> int:
        os.kill(os.getpid(), signal.SIGINT)
        return index


def test_workers_of_loaders_leave_interrupts_to_the_training():
    """Also in an epoch that is continued, of which the library makes another loader."""
    loader = with_own_workers(Accelerator(cpu=True).prepare(DataLoader(Interrupted(), num_workers=1)), 0)
    assert [batch.item() for batch in loader] == [0, 1, 2, 3]
    assert [batch.item() for batch in skip_first_batches(loader, 2)] == [2, 3]


def test_workers_of_a_preparation_leave_interrupts_to_it_while_they_start(tmp_path):
    write_media(tmp_path / "a.mp4", seconds=1)
    media = Media(video=MediaFile(str(tmp_path / "a.mp4")))
    worker = _Worker(_cut, ("a", Job("a", str(tmp_path / "out"), Settings(window=1), None, media)), 60)
    try:
        while not worker.line.poll(0.01):
            os.kill(worker.process.pid, signal.SIGINT)
        assert worker.news()[0] == READY
        worker.begin(worker.named)
        assert worker.line.poll(60)
        kind, outcome = worker.news()
        assert kind == ANSWER and outcome.audio is not None
    finally:
        worker.end()


SLOW = pytest.mark.slow


@pytest.mark.whole
@pytest.mark.parametrize("delay", [1.0, *(pytest.param(delay, marks=SLOW) for delay in (0.1, 0.5, 1.5, 2.0, 3.0))])
def test_a_preparation_ends_in_one_line(tmp_path, delay):
    write_media(tmp_path / "a.mp4", seconds=1)
    names = [f"{number}.mp4" for number in range(200)]
    for name in names:
        (tmp_path / name).hardlink_to(tmp_path / "a.mp4")
    (tmp_path / "captions.csv").write_text("file,caption\n" + "".join(f"{name},a tone begins\n" for name in names))
    options = ("--annotations", tmp_path / "captions.csv", "--media", tmp_path, "--split", "train")
    options += ("--window", 1, "--num_proc", 2, "--output", tmp_path / "prepared")
    check_few_lines(*interrupted(delay, "scripts/prepare_audiocaps.py", *options))


@pytest.mark.slow
@pytest.mark.parametrize("delay", [0.1, 3, 6, 9, 12, 15])
def test_a_training_ends_in_one_line(toy_world, tmp_path, delay):
    fields = {"data_dir": str(toy_world), "tokenizer_name": str(toy_world / "tokenizer"), "report_to": "none"}
    fields |= {"dataloader_num_workers": 2, "cache_features": False, "max_steps": 10_000, "eval_steps": 3}
    fields |= {"output_dir": str(tmp_path / "run"), "use_cpu": True, "disable_tqdm": True, "save_steps": 5}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(TINY | fields))
    check_few_lines(*interrupted(delay, "train_hf.py", tmp_path / "recipe.yaml"))


def test_an_interrupt_while_a_file_is_read_is_not_lost(processor, tmp_path, monkeypatch):
    """PyAV passes over what is raised in the reading of a file, and takes the file for damaged."""
    read, coming = _Bytes.read, [signal.SIGINT]

    def read_interrupted(self, size: int) -> bytes:
        while coming:
            os.kill(os.getpid(), coming.pop())
        return read(self, size)

    monkeypatch.setattr(_Bytes, "read", read_interrupted)
    film = write_media(tmp_path / "a.wav", audio="pcm_s16le", video=None)
    with pytest.raises(KeyboardInterrupt):
        list(work_through(WindowLoader(processor, Options()), [("a", (film, 0, 0.0))], 0, 60, failed))


@pytest.mark.whole
@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=SLOW)])
def test_a_captioning_ends_in_one_line_and_goes_on_where_it_was(saved_model, tmp_path, workers):
    film = write_media(tmp_path / "long.wav", seconds=48, audio="pcm_s16le", video=None)  # 100 windows
    command = ("scripts/caption.py", film, "--model", saved_model, "--batch_size", 2, "--silence_db=-inf")
    command += ("--output_format", "jsonl", "--output_dir")
    output, whole = tmp_path / "out", tmp_path / "whole"
    assert run_inside(*command, whole).returncode == 0
    check_few_lines(*interrupted(lambda: len(known(output)) >= 4, *command, output, "--num_workers", workers))
    begun = known(output)
    assert 4 <= len(begun) < 100 and not (output / "captions.jsonl").exists()
    assert run_inside(*command, output).returncode == 0
    assert begun.items() < known(output).items()
    assert captions(output) == captions(whole) and len(captions(whole)) == 100


def known(output: Path) -> dict[str, dict]:
    """What the log of a folder of captions holds."""
    log = output / ".progress" / "captions-0.jsonl"
    return read_log(log)[1] if log.exists() else {}


def captions(output: Path) -> list[tuple[float, float, str]]:
    records = map(json.loads, (output / "captions.jsonl").read_text(encoding="utf-8").splitlines())
    return [(record["start"], record["end"], record["caption"]) for record in records]
