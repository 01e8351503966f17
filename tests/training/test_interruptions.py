"""Runs that are killed, at any moment, end with the model of one that is not."""

import dataclasses
import json
import random
import shutil
import signal
import socket
import time
from pathlib import Path

import pytest
import torch
from finished_runs import differences, flip_a_bit, untimed, weights
from interrupted_runs import (
    UNLIMITED,
    Run,
    answer_checkpoint,
    die_at_half_a_file,
    die_in_step,
    die_writing_state,
    exit_code,
    finish,
    in_rank,
    restore,
    run_command,
    start,
    states,
    take_snapshots,
)
from safetensors.torch import load_file
from stranger import run_inside

from lavcap.data.dataset import read_features
from lavcap.files import UNFINISHED
from lavcap.training.checkpoints import RECORD, is_complete, last_checkpoint
from lavcap.training.resume import find_checkpoint
from modeling_lavcap import LavcapForConditionalGeneration


pytestmark = pytest.mark.whole


KILLED = -signal.SIGKILL


def check_whole_checkpoints_alone(run: Run):
    """As a killed run leaves its folder: what bears the name of a checkpoint is complete."""
    assert all(is_complete(folder) for folder in run.output.glob("checkpoint-*"))
    model = run.output / "model.safetensors"
    if model.exists():
        load_file(model)
        LavcapForConditionalGeneration.from_pretrained(run.output)


KINDS = ["map-style", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("stream", "LoRA"))]


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_that_is_killed_in_a_step_ends_with_the_model_of_one_that_is_not(runs, tmp_path, monkeypatch, kind):
    """Of a stream it reads again only what is yet to be trained on: three of six steps of four clips."""
    killed = dataclasses.replace(runs[kind], output=tmp_path / "run")
    assert exit_code(die_in_step, killed, 5) == KILLED
    assert last_checkpoint(killed.output).endswith("checkpoint-3")
    read = []
    monkeypatch.setattr(
        "lavcap.data.streaming.read_features", lambda row, *options: read.append(row) or read_features(row, *options)
    )
    killed.finish(resume=True)
    assert len(read) == (12 if kind == "stream" else 0)
    assert differences(killed, runs[kind]) == []
    before, after = weights(killed.model), weights(killed.output)
    assert sum(not torch.equal(after[name], before.get(name, after[name] * 0)) for name in after) > 10


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["map-style", "stream"])
def test_workers_that_persist_change_nothing_for_a_run_that_is_continued(runs, tmp_path, kind):
    """From its second epoch on, so that the continued run meets the start of a third; with evaluations between."""
    options = {"dataloader_num_workers": 1, "dataloader_persistent_workers": True, "max_steps": 12, "save_steps": 6}
    options |= {"save_total_limit": 2} | ({} if kind == "stream" else {"eval_strategy": "steps", "eval_steps": 2})
    whole, continued = (dataclasses.replace(runs[kind], output=tmp_path / name, options=options) for name in "ab")
    whole.finish()
    shutil.copytree(whole.output, continued.output)
    shutil.rmtree(continued.output / "checkpoint-12")
    continued.finish(resume=True)
    assert differences(continued, whole, "checkpoint-12") == []


@pytest.mark.parametrize("logging_steps", [pytest.param(1, marks=pytest.mark.slow), 4])
def test_the_loss_of_a_run_is_that_of_all_its_steps(run, tmp_path, logging_steps):
    """Killed where steps are logged that are saved, and where they are not yet."""
    run.options["logging_steps"] = logging_steps
    whole = dataclasses.replace(run, output=tmp_path / "whole")
    expected = whole.finish().state.log_history[-1]
    assert exit_code(die_in_step, run, 5) == KILLED
    found = run.finish(resume=True).state.log_history[-1]
    assert untimed(found) == untimed(expected) and expected["train_loss"] > 1 and expected["total_flos"] > 0


def test_processes_are_forked_from_one_that_has_imported_everything():
    assert exit_code(exec, "import sys; sys.exit('interrupted_runs' not in sys.modules)") == 0


def test_the_time_of_a_run_is_that_of_all_its_parts(finished, caplog):
    path = finished.output / "checkpoint-7" / RECORD
    manifest = json.loads(path.read_text())
    first = json.loads((finished.output / "trainer_state.json").read_text())["log_history"][-1]
    totals = manifest["totals"]
    assert 0 < totals["seconds"] < first["train_runtime"] + 1 and totals["logged_step"] == 6
    path.write_text(json.dumps(manifest | {"totals": totals | {"seconds": 1000.0}}))
    last = finished.trainer().train(resume_from_checkpoint=True).metrics
    assert 1000 < last["train_runtime"] < 1100 and last["train_loss"] == first["train_loss"]
    assert last["train_steps_per_second"] == pytest.approx(6 / last["train_runtime"], abs=1e-3)
    path.write_text(json.dumps(manifest | {"totals": {"seconds": "long"}}))
    assert finished.trainer().train(resume_from_checkpoint=True).metrics["train_runtime"] < 100
    assert "checkpoint-7: has no totals" in caplog.text


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_that_is_killed_in_a_save_goes_on_from_the_last_complete_checkpoint(runs, tmp_path, kind):
    """In the second one, where the files of tensors are half-written; the test below has every moment."""
    killed = dataclasses.replace(runs[kind], output=tmp_path / "run")
    assert exit_code(die_at_half_a_file, killed, "checkpoint-6/optimizer.pt") == KILLED
    check_whole_checkpoints_alone(killed)
    assert (killed.output / UNFINISHED / "checkpoint-6").is_dir()
    assert last_checkpoint(killed.output).endswith("checkpoint-3")
    killed.finish(resume=True)
    assert not (killed.output / UNFINISHED).exists()
    assert differences(killed, runs[kind]) == []


def what_is_left(folder: Path) -> tuple:
    """What a run that goes on in a folder can tell of its end; that of others with the same is taken for the same."""
    model = [path.name for path in folder.glob("*") if path.is_file()]
    unfinished = sorted(path.name for path in (folder / UNFINISHED).glob("*"))
    checkpoints = sorted(path.name for path in folder.glob("checkpoint-*"))
    return (*checkpoints, "and", *unfinished, any("model" in name for name in model))


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_every_moment_of_a_save_is_one_to_go_on_from(runs, tmp_path, kind):
    """What is there before each change of the folder is whole; what differs for a run that goes on is gone on from."""
    watched = dataclasses.replace(runs[kind], output=tmp_path / "run")
    assert exit_code(take_snapshots, watched, tmp_path / "snapshots") == 0
    left, steps, tried = dataclasses.replace(runs[kind], output=tmp_path / "left"), set(), set()
    for number, state in enumerate(states(tmp_path / "snapshots")):
        restore(tmp_path / "snapshots", state, left.output)
        check_whole_checkpoints_alone(left)
        if (found := what_is_left(left.output)) not in tried:
            tried.add(found)
            last = last_checkpoint(left.output)
            steps.add(last and int(last.rpartition("-")[2]))
            if last:  # as the command does
                assert find_checkpoint(left.arguments_to_resume("true")) == last
            left.finish(resume=last is not None)
            assert not (left.output / UNFINISHED).exists(), (number, found)
            assert differences(left, runs[kind]) == [], (number, found)
    assert steps == {None, 3, 6}


@pytest.mark.slow
def test_a_run_that_is_killed_again_and_again_ends_with_the_same_model(runs, tmp_path):
    draw, killed = random.Random(0), dataclasses.replace(runs["map-style"], output=tmp_path / "run")
    seconds = deaths = 0
    for name in ("first", "second"):  # the first one waits for its server
        begin = time.perf_counter()
        start(finish, dataclasses.replace(killed, output=tmp_path / name), False).join()
        seconds = time.perf_counter() - begin
    for _ in range(6):
        process = start(finish, killed, last_checkpoint(killed.output) is not None)
        process.join(draw.uniform(0.2, 0.9) * seconds)
        process.kill()
        process.join()
        deaths += process.exitcode == KILLED
        check_whole_checkpoints_alone(killed)
    killed.finish(resume=last_checkpoint(killed.output) is not None)
    assert deaths > 0 and differences(killed, runs["map-style"]) == []


# ------------------------------------------------------------------------------------------------ several processes


def two_processes(work, *arguments) -> list:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    return [start(in_rank, rank, port, work, *arguments) for rank in range(2)]


def finished_processes(work, *arguments) -> list[int]:
    processes = two_processes(work, *arguments)
    for process in processes:
        process.join(120)
    return [process.exitcode for process in processes]


def test_two_processes_train_the_model_that_one_trains(runs, saved_model, tmp_path):
    """Losses and weights of two processes with two clips each are those of one with twice as many steps between."""
    options = {"logging_steps": 1, "learning_rate": 1e-3}
    alone = dataclasses.replace(runs["map-style"], model=saved_model, output=tmp_path / "alone", options=options)
    both = dataclasses.replace(alone, output=tmp_path / "both", options=options | {"gradient_accumulation_steps": 1})
    losses = [entry["loss"] for entry in alone.finish().state.log_history if "loss" in entry]
    assert finished_processes(finish, both) == [0, 0]
    history = json.loads((both.output / "trainer_state.json").read_text())["log_history"]
    assert [entry["loss"] for entry in history if "loss" in entry] == pytest.approx(losses, abs=1e-4)
    expected, start_weights = weights(alone.output), weights(saved_model)
    for name, tensor in weights(both.output).items():
        if "batch_norm" not in name:  # whose statistics move once a step, where one process moves them twice
            torch.testing.assert_close(tensor, expected[name], atol=1e-4, rtol=0)
    assert sum(not torch.equal(expected[name], start_weights[name]) for name in expected) > 10


@pytest.mark.slow
@pytest.mark.scale  # on a CPU, Accelerate 1.10 cannot resume several processes: torch.load refuses its cpu:0
def test_a_process_of_two_that_is_killed_in_a_save_leaves_no_checkpoint(run, tmp_path):
    whole = dataclasses.replace(run, output=tmp_path / "whole")
    assert finished_processes(finish, whole) == [0, 0]
    first, second = two_processes(die_writing_state, run, 1, 6)
    second.join(120)
    first.kill()  # as the launcher does
    first.join()
    assert second.exitcode == KILLED
    assert [path.name for path in run.output.glob("checkpoint-*")] == ["checkpoint-3"]
    assert (run.output / UNFINISHED / "checkpoint-6").is_dir()
    assert finished_processes(finish, run, True) == [0, 0]
    assert not (run.output / UNFINISHED).exists()
    expected = weights(whole.output)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in weights(run.output).items())
    for name in ("rng_state_0.pth", "rng_state_1.pth", "optimizer.pt"):
        files = (each.output / "checkpoint-6" / name for each in (run, whole))
        assert len({file.read_bytes() for file in files}) == 1
    assert json.loads((run.output / "checkpoint-6" / RECORD).read_text())["num_processes"] == 2


@pytest.mark.slow
@pytest.mark.parametrize("broken", ["lost", "damaged"])
def test_all_processes_go_on_from_a_checkpoint_that_all_of_them_have(finished, tmp_path, broken):
    """As on two machines with disks of their own: one has not finished its last save, or what it saved was damaged."""
    shutil.copytree(finished.output, tmp_path / "other")
    if broken == "lost":
        (tmp_path / "other" / "checkpoint-7" / "optimizer.pt").unlink()
    else:
        flip_a_bit(finished.output / "checkpoint-7" / "optimizer.pt")
    folders = (finished.output, tmp_path / "other")
    assert finished_processes(answer_checkpoint, finished, folders) == [0, 0]
    assert {(folder / "answer").read_text() for folder in folders} == {"checkpoint-6"}


# ------------------------------------------------------------------------------------------------------- the command


@pytest.mark.slow
def test_the_command_continues_after_a_kill(short_recipe, tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert run_inside("train_hf.py", short_recipe, "--output_dir", whole).returncode == 0
    fatal = "checkpoint-6/trainer_state.json"
    assert exit_code(run_command, killed, tmp_path / "errors", fatal, UNLIMITED, str(short_recipe)) == KILLED
    assert [path.name for path in killed.glob("checkpoint-*")] == ["checkpoint-3"]
    done = run_inside("train_hf.py", short_recipe, "--output_dir", killed, "--resume_from_checkpoint", "true")
    assert done.returncode == 0, done.stderr[-2000:]
    expected = weights(whole)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in weights(killed).items())
    results = (json.loads((folder / "eval_results.json").read_text()) for folder in (whole, killed))
    assert len({result["eval_loss"] for result in results}) == 1
    assert {path.name for path in whole.iterdir()} == {path.name for path in killed.iterdir()}
    again = ("train_hf.py", short_recipe, "--output_dir", killed, "--resume_from_checkpoint", "true")
    done, refused = run_inside(*again), run_inside(*again, "--max_steps", "5")
    assert done.returncode == 0 and "Nothing was left to do: " in done.stdout, done.stderr[-2000:]
    (error,) = [line for line in refused.stderr.splitlines() if line.startswith("error: ")]
    assert refused.returncode == 2 and "is of step 6, but the run is to end at step 5: raise max_steps" in error
