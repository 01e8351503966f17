"""Disks that are full, and folders that cannot be written: said in one line, and the last checkpoint stays."""

import errno
import os
import re

import pytest
from finished_runs import differences
from interrupted_runs import UNLIMITED, exit_code, fill_disk, run_command

from lavcap.training.checkpoints import CheckpointError
from lavcap.training.resume import find_checkpoint


pytestmark = pytest.mark.whole


@pytest.mark.slow
@pytest.mark.parametrize(
    "largest_file",
    [pytest.param(9_000, id="code"), pytest.param(100_000, id="weights"), pytest.param(300_000, id="optimizer")],
)
def test_a_full_disk_is_said_and_the_last_checkpoint_stays(run, runs, tmp_path, largest_file):
    assert exit_code(fill_disk, run, 6, largest_file, tmp_path / "answer") == 2
    message = (tmp_path / "answer").read_text()
    assert message.startswith(f"{run.output}: checkpoint-6 could not be written (")
    assert re.search(r"; [\d,]+\.\d MB are free there, a checkpoint takes about 1\.\d MB, and ", message), message
    assert f"{run.output / 'checkpoint-3'} is complete: make room and continue with" in message
    assert "\n" not in message
    assert [path.name for path in run.output.iterdir() if path.is_dir()] == ["checkpoint-3"]
    run.finish(resume=True)
    assert differences(run, runs["map-style"]) == []


def test_a_full_disk_at_the_first_save_says_what_a_checkpoint_needs(run, tmp_path):
    assert exit_code(fill_disk, run, 3, 300_000, tmp_path / "answer") == 2
    message = (tmp_path / "answer").read_text()
    assert "a checkpoint takes about 0.7 MB, and no checkpoint is complete yet" in message
    assert find_checkpoint(run.arguments_to_resume("true")) is None  # begins anew


@pytest.mark.parametrize(("number", "is_full"), [(errno.ENOSPC, True), (errno.EROFS, True), (errno.EACCES, False)])
def test_a_disk_that_is_full_before_the_first_step_is_said(run, monkeypatch, number, is_full):
    def write_provenance(folder, provenance):
        raise OSError(number, os.strerror(number), f"{folder}/training_data.json")

    monkeypatch.setattr("lavcap.training.trainer.write_provenance", write_provenance)
    with pytest.raises(CheckpointError if is_full else PermissionError) as refused:
        run.trainer().train()
    expected = f"{run.output}/training_data.json could not be written ({os.strerror(number)}); "
    assert (expected in str(refused.value)) == is_full


def test_other_errors_in_a_save_are_not_taken_for_a_full_disk(run, monkeypatch):
    trainer = run.trainer()
    monkeypatch.setattr(trainer.processing_class, "save_pretrained", lambda folder: {}["a mistake"])
    with pytest.raises(KeyError, match="a mistake"):
        trainer.train()
    assert [path.name for path in run.output.iterdir()] == ["training_data.json"]


@pytest.mark.parametrize(
    ("place", "largest_file", "reason"),
    [("file/run", UNLIMITED, "Not a directory"), ("gone/run", UNLIMITED, "No such file"), ("run", 1000, "too large")],
    ids=["below a file", "below a link to nothing", "on a full disk"],
)
def test_the_command_refuses_a_folder_that_it_cannot_write_before_any_work(
    short_recipe, tmp_path, place, largest_file, reason
):
    (tmp_path / "file").touch()
    (tmp_path / "gone").symlink_to(tmp_path / "nothing")
    status = exit_code(run_command, tmp_path / place, tmp_path / "errors", "no file", largest_file, str(short_recipe))
    (line,) = (tmp_path / "errors").read_text().splitlines()
    assert status == 2 and line.startswith(f"error: {tmp_path / place}: cannot be written (") and reason in line
    assert line.endswith("make room there, or name another folder with --output_dir.")
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_the_command_ends_in_one_line_on_a_full_disk(short_recipe, tmp_path):
    status = exit_code(run_command, tmp_path / "run", tmp_path / "errors", "no file", 300_000, str(short_recipe))
    errors = (tmp_path / "errors").read_text()
    (line,) = [line for line in errors.splitlines() if line.startswith("error: ")]
    assert status == 2 and "checkpoint-3 could not be written" in line and "Traceback" not in errors
