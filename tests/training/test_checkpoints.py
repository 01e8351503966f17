"""Checkpoints: whole on the disk before they have their name, the best of them kept, and models replaced at once."""

import contextlib
import dataclasses
import os
import shutil
import signal
from pathlib import Path

import pytest
import torch
from finished_runs import weights
from interrupted_runs import Run, die_in_step, exit_code

from lavcap.files import UNFINISHED, publish_folder, publish_model
from lavcap.training.checkpoints import is_complete, last_checkpoint
from lavcap.training.publisher import Publisher


KILLED = -signal.SIGKILL


def test_every_file_of_a_checkpoint_reaches_the_disk_before_the_checkpoint_has_its_name(run, monkeypatch):
    synced, sync = set(), os.fsync

    def noting_sync(descriptor):
        synced.add(os.fstat(descriptor).st_ino)
        sync(descriptor)

    def checking_rename(partial, folder):
        files = [path for path in (partial, *partial.rglob("*")) if path.name != UNFINISHED]
        assert len(files) > 20 and all(path.stat().st_ino in synced for path in files)
        publish_folder(partial, folder)

    monkeypatch.setattr(os, "fsync", noting_sync)
    monkeypatch.setattr("lavcap.training.checkpoint_writer.publish_folder", checking_rename)
    trainer = run.trainer()
    trainer.train()
    assert last_checkpoint(run.output).endswith("checkpoint-6")
    weights = [*run.output.rglob("*.safetensors")]
    assert weights and all(path.stat().st_mode & 0o044 for path in weights)  # where the umask is the usual one


def test_only_whole_checkpoints_are_pushed(run, monkeypatch):
    pushed = []
    monkeypatch.setattr(Publisher, "push_checkpoint", lambda self, folder: pushed.append(folder))
    trainer = run.trainer()
    monkeypatch.setattr(trainer.args, "save_total_limit", None)
    monkeypatch.setattr(trainer.args, "push_to_hub", True)
    trainer.train()
    assert pushed == [run.output / "checkpoint-3", run.output / "checkpoint-6"] and all(map(is_complete, pushed))


# -------------------------------------------------------------------------------------------- best, rotation, folders


@pytest.fixture
def best_first(run) -> Run:
    """A run whose metric, the loss taken for a score, is best at its first step."""
    run.options |= {"eval_strategy": "steps", "eval_steps": 1, "save_steps": 1, "load_best_model_at_end": True}
    run.options |= {"metric_for_best_model": "eval_loss", "greater_is_better": True}
    return run


@pytest.mark.slow
def test_the_best_checkpoint_outlives_rotation_a_kill_and_a_move(best_first, tmp_path):
    whole = dataclasses.replace(best_first, output=tmp_path / "whole")
    state = whole.finish().state
    assert state.best_global_step == 1 and state.best_model_checkpoint == str(whole.output / "checkpoint-1")
    assert exit_code(die_in_step, best_first, 5) == KILLED
    assert sorted(path.name for path in best_first.output.glob("checkpoint-*")) == ["checkpoint-1", "checkpoint-4"]
    moved = dataclasses.replace(best_first, output=tmp_path / "moved")
    best_first.output.rename(moved.output)
    trainer = moved.finish(resume=True)
    assert trainer.state.best_model_checkpoint == str(moved.output / "checkpoint-1")
    first, second = weights(moved.output), weights(whole.output)
    assert all(torch.equal(first[name], second[name]) for name in second)
    best = weights(moved.output / "checkpoint-1")
    assert all(torch.equal(first[name], best[name]) for name in best)


@pytest.mark.slow
def test_a_best_checkpoint_that_is_gone_is_said_and_sought_anew(best_first, caplog):
    assert exit_code(die_in_step, best_first, 5) == KILLED
    shutil.rmtree(best_first.output / "checkpoint-1")
    trainer = best_first.finish(resume=True)
    assert "the best is sought anew" in caplog.text
    assert trainer.state.best_global_step in (5, 6) and Path(trainer.state.best_model_checkpoint).is_dir()


def test_no_more_checkpoints_are_kept_than_asked_for(run):
    run.options |= {"save_steps": 1, "save_total_limit": 2}
    run.finish()
    assert sorted(path.name for path in run.output.glob("checkpoint-*")) == ["checkpoint-5", "checkpoint-6"]


def test_a_model_never_has_shards_of_two(tmp_path):
    shards = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
    for old, new in ((shards, ("model.safetensors",)), (("model.safetensors",), shards), (shards, shards)):
        folder, partial = tmp_path / "model", tmp_path / "model" / UNFINISHED / "model"
        shutil.rmtree(folder, ignore_errors=True)
        partial.mkdir(parents=True)
        for place, names in ((folder, old), (partial, new)):
            for name in (*names, "config.json", *(["model.safetensors.index.json"] if len(names) > 1 else [])):
                (place / name).write_text(place.name if place == folder else "new")
        publish_model(partial, folder)
        index = {"model.safetensors.index.json"} if len(new) > 1 else set()
        assert {path.name for path in folder.iterdir()} == {*new, "config.json", *index}
        assert all((folder / name).read_text() == "new" for name in new)


@pytest.mark.parametrize("moment", range(1, 9))
def test_a_model_that_is_replaced_is_the_old_one_the_new_one_or_none(tmp_path, monkeypatch, moment):
    """Two shards by two: stopped before the n-th change of the folder."""
    names = ["config.json", *(f"model-0000{i}-of-00002.safetensors" for i in (1, 2)), "model.safetensors.index.json"]
    folder, partial = tmp_path / "model", tmp_path / "model" / UNFINISHED / "model"
    partial.mkdir(parents=True)
    for name in names:
        (folder / name).write_text("old")
        (partial / name).write_text("new")
    changes = []

    def counted(change):
        def changed(*args, **kwargs):
            changes.append(args)
            if len(changes) == moment:
                raise KeyboardInterrupt
            return change(*args, **kwargs)

        return changed

    for name in ("unlink", "replace"):
        monkeypatch.setattr(Path, name, counted(getattr(Path, name)))
    with contextlib.suppress(KeyboardInterrupt):
        publish_model(partial, folder)
    if (folder / names[-1]).exists():  # without an index the shards are not found
        assert len({(folder / name).read_text() for name in names[1:]}) == 1
