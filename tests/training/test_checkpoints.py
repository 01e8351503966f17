"""Checkpoints of runs that are killed, of disks that are full, and what a run may continue from."""

import contextlib
import dataclasses
import errno
import json
import os
import random
import re
import shutil
import signal
import socket
import time
from pathlib import Path

import pytest
import torch
import yaml
from interrupted_runs import (
    Run,
    answer_checkpoint,
    count_changes,
    die_at_change,
    die_in_step,
    die_writing_state,
    exit_code,
    fill_disk,
    finish,
    in_rank,
    run_command,
    start,
)
from safetensors.torch import load_file
from stranger import run_inside

from conftest import tiny_model
from lavcap.data.shards import write_shards
from lavcap.data.splits import load_split
from lavcap.files import UNFINISHED, publish_folder, publish_model
from lavcap.models.lora import freeze
from lavcap.training.checkpoints import RECORD, CheckpointError, is_complete, last_checkpoint
from lavcap.training.publisher import Publisher
from lavcap.training.resume import find_checkpoint
from modeling_lavcap import LavcapForConditionalGeneration
from processing_lavcap import LavcapProcessor


KILLED = -signal.SIGKILL


@pytest.fixture(scope="module")
def start_model(fitting_config, tokenizer, tmp_path_factory) -> Path:
    """A model with dropout in the encoder and in the language model."""
    folder = tmp_path_factory.mktemp("start") / "model"
    text = {"vocab_size": fitting_config.text_config.vocab_size, "attention_dropout": 0.1}
    audio = {"hidden_dropout": 0.1, "attention_dropout": 0.1}
    model = tiny_model(text_config=text, audio_config=audio)
    model.save_pretrained(folder)
    LavcapProcessor.from_config(model.config, tokenizer).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def shards(toy_world, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("shards")
    write_shards(load_split(toy_world, "train"), folder, "train", {}, rows_per_shard=7)
    return folder


@pytest.fixture(scope="module")
def runs(toy_world, shards, start_model, tmp_path_factory) -> dict[str, Run]:
    """Runs of each kind that nothing interrupts."""
    folder = tmp_path_factory.mktemp("whole")
    kinds = {
        "map-style": Run(toy_world, start_model, folder / "map-style"),
        "stream": Run(shards, start_model, folder / "stream", streaming=True),
        "LoRA": Run(toy_world, start_model, folder / "LoRA", lora=True),
    }
    for run in kinds.values():
        run.finish()
    return kinds


@pytest.fixture
def run(runs, tmp_path) -> Run:
    return dataclasses.replace(runs["map-style"], output=tmp_path / "run", options={})


def weights(folder: Path) -> dict[str, torch.Tensor]:
    (file,) = folder.glob("*model.safetensors")
    return load_file(file)


def untimed(record: dict[str, float]) -> dict[str, float]:
    """A record of a log without what no two runs have in common."""
    timed = ("_runtime", "_per_second", "_gib")
    return {name: value for name, value in record.items() if not name.endswith(timed)}


def differences(found: Run, expected: Run, last: str = "checkpoint-6") -> list[str]:
    """Files of the run and of its last checkpoint that differ in any bit, but for times and paths."""
    different = []
    for place in (".", last):
        first, second = weights(found.output / place), weights(expected.output / place)
        different += [f"{place}: {name}" for name in first if not torch.equal(first[name], second[name])]
        if first.keys() != second.keys():
            different.append(f"{place}: tensors")
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth"):
        first, second = (each.output / last / name for each in (found, expected))
        if first.read_bytes() != second.read_bytes():
            different.append(name)
    first, second = (json.loads((each.output / "trainer_state.json").read_text()) for each in (found, expected))
    records = [[untimed(entry) for entry in state["log_history"]] for state in (first, second)]
    if records[0] != records[1] or first["global_step"] != second["global_step"]:
        different.append("trainer_state.json")
    return different


def check_whole_checkpoints_alone(run: Run):
    """As a killed run leaves its folder: what bears the name of a checkpoint is complete."""
    assert all(is_complete(folder) for folder in run.output.glob("checkpoint-*"))
    model = run.output / "model.safetensors"
    if model.exists():
        load_file(model)
        LavcapForConditionalGeneration.from_pretrained(run.output)


@pytest.mark.parametrize("kind", ["map-style", "stream", "LoRA"])
def test_a_run_that_is_killed_in_a_step_ends_with_the_model_of_one_that_is_not(runs, tmp_path, kind):
    killed = dataclasses.replace(runs[kind], output=tmp_path / "run")
    assert exit_code(die_in_step, killed, 5) == KILLED
    assert last_checkpoint(killed.output).endswith("checkpoint-3")
    killed.finish(resume=True)
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


@pytest.mark.parametrize("logging_steps", [1, 4])
def test_the_loss_of_a_run_is_that_of_all_its_steps(run, tmp_path, logging_steps):
    """Killed where steps are logged that are saved, and where they are not yet."""
    run.options["logging_steps"] = logging_steps
    whole = dataclasses.replace(run, output=tmp_path / "whole")
    expected = whole.finish().state.log_history[-1]
    assert exit_code(die_in_step, run, 5) == KILLED
    found = run.finish(resume=True).state.log_history[-1]
    assert untimed(found) == untimed(expected) and expected["train_loss"] > 1 and expected["total_flos"] > 0


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


def killed_and_continued(run: Run, moment: int) -> int | None:
    """Kill a run before a change of its folder, then finish it: the step that it went on from."""
    assert exit_code(die_at_change, run, moment) == KILLED
    check_whole_checkpoints_alone(run)
    last = last_checkpoint(run.output)
    run.finish(resume=last is not None)
    assert not (run.output / UNFINISHED).exists()
    return last and int(last.rpartition("-")[2])


def number_of_changes(run: Run, folder: Path) -> int:
    counted = dataclasses.replace(run, output=folder / "counted")
    assert exit_code(count_changes, counted, folder / "count") == 0
    return int((folder / "count").read_text())


def check_killed_at(moments, run: Run, folder: Path) -> set[int | None]:
    steps = set()
    for moment in moments:
        killed = dataclasses.replace(run, output=folder / f"killed at {moment}")
        steps.add(killed_and_continued(killed, moment))
        assert differences(killed, run) == [], moment
        shutil.rmtree(killed.output)
    return steps


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "number"), [("map-style", 4), ("LoRA", 4)])
def test_a_run_that_is_killed_in_a_save_goes_on_from_the_last_complete_checkpoint(runs, tmp_path, kind, number):
    """At moments from the first save to the last; the test below takes every one."""
    changes = number_of_changes(runs[kind], tmp_path)
    moments = range(20, changes + 1, (changes - 20) // (number - 1))
    assert check_killed_at(moments, runs[kind], tmp_path) == {None, 3, 6}


@pytest.mark.scale
@pytest.mark.parametrize(("kind", "first"), [("map-style", 1), ("stream", 5), ("LoRA", 9)])
def test_any_moment_of_a_save_is_one_to_go_on_from(runs, tmp_path, kind, first):
    """Every twelfth moment: the three kinds of runs share them out."""
    changes = number_of_changes(runs[kind], tmp_path)
    assert check_killed_at(range(first, changes + 1, 12), runs[kind], tmp_path) == {None, 3, 6}


@pytest.mark.scale
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


@pytest.mark.parametrize("largest_file", [9_000, 100_000, 300_000], ids=["code", "weights", "optimizer"])
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


@pytest.mark.parametrize(("number", "is_full"), [(errno.ENOSPC, True), (errno.EFBIG, True), (errno.EACCES, False)])
def test_a_disk_that_is_full_before_the_first_step_is_said(run, monkeypatch, number, is_full):
    def write_note(folder, note):
        raise OSError(number, os.strerror(number), f"{folder}/training_data.json")

    monkeypatch.setattr("lavcap.training.trainer.write_note", write_note)
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


# ---------------------------------------------------------------------------------------- what a run continues from


@pytest.fixture
def finished(runs, run) -> Run:
    """A copy of a finished run, with a second checkpoint."""
    shutil.copytree(runs["map-style"].output, run.output)
    shutil.copytree(run.output / "checkpoint-6", run.output / "checkpoint-7")
    return run


def test_a_broken_checkpoint_is_left_aside_and_what_is_half_written_is_removed(finished, caplog):
    (finished.output / UNFINISHED / "checkpoint-9").mkdir(parents=True)
    os.truncate(finished.output / "checkpoint-7" / "optimizer.pt", 100)
    found = find_checkpoint(finished.arguments_to_resume("true"))
    assert found == str(finished.output / "checkpoint-6")
    assert "checkpoint-7 not complete, and left aside" in caplog.text
    finished.trainer().train(resume_from_checkpoint=found)
    assert not (finished.output / UNFINISHED).exists()


def test_a_broken_checkpoint_that_is_named_is_refused_with_what_it_lacks(finished):
    broken = finished.output / "checkpoint-7"
    size = (broken / "optimizer.pt").stat().st_size
    os.truncate(broken / "optimizer.pt", 100)
    (broken / "scheduler.pt").unlink()
    with pytest.raises(CheckpointError) as refused:
        find_checkpoint(finished.arguments_to_resume(broken))
    lacking = f"it lacks optimizer.pt (100 of {size:,} bytes), scheduler.pt"
    assert f"{broken}: is not complete, {lacking}; the last complete one is" in str(refused.value)
    assert str(refused.value).endswith("checkpoint-6.")


def test_checkpoints_that_are_all_broken_do_not_begin_the_run_anew(finished):
    for number in (6, 7):
        (finished.output / f"checkpoint-{number}" / "optimizer.pt").unlink()
    with pytest.raises(CheckpointError, match="holds no complete checkpoint; checkpoint-7 lacks optimizer.pt"):
        find_checkpoint(finished.arguments_to_resume("true"))


def test_a_checkpoint_of_unknown_origin_is_taken_by_name_alone(finished, caplog):
    for number in (6, 7):
        (finished.output / f"checkpoint-{number}" / RECORD).unlink()
    with pytest.raises(CheckpointError, match=f"checkpoint-7 lacks {RECORD}"):
        find_checkpoint(finished.arguments_to_resume("true"))
    named = str(finished.output / "checkpoint-7")
    assert find_checkpoint(finished.arguments_to_resume(named)) == named
    assert "whether all of its files are whole is not known" in caplog.text
    (Path(named) / "trainer_state.json").unlink()
    with pytest.raises(CheckpointError, match="is not complete"):
        find_checkpoint(finished.arguments_to_resume(named))


def flip_a_bit(file: Path):
    content = bytearray(file.read_bytes())
    content[len(content) * 2 // 3] ^= 0x10
    file.write_bytes(content)


def test_a_damaged_checkpoint_is_left_aside_with_the_names_of_its_files(finished, caplog):
    damaged = finished.output / "checkpoint-7"
    for name in ("model.safetensors", "optimizer.pt"):
        flip_a_bit(damaged / name)
    assert is_complete(damaged)
    assert find_checkpoint(finished.arguments_to_resume("true")) == str(finished.output / "checkpoint-6")
    files = "is damaged, model.safetensors, optimizer.pt do not hold what was saved"
    assert f"{damaged}: {files}; it is left aside" in caplog.text
    with pytest.raises(CheckpointError) as refused:
        find_checkpoint(finished.arguments_to_resume(damaged))
    assert str(refused.value) == f"{damaged}: {files}; another complete one is {finished.output / 'checkpoint-6'}."
    with pytest.raises(CheckpointError, match="checkpoint-7: is damaged, model.safetensors, optimizer.pt do not hold"):
        finished.trainer().train(resume_from_checkpoint=True)


@pytest.mark.parametrize(
    "name", ["model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json", "config.json"]
)
def test_one_flipped_bit_in_the_last_checkpoint_is_an_error(finished, name):
    shutil.rmtree(finished.output / "checkpoint-7")
    flip_a_bit(finished.output / "checkpoint-6" / name)
    expected = (
        rf"holds no complete checkpoint; checkpoint-6 is damaged, {re.escape(name)} does not hold what was saved"
    )
    with pytest.raises(CheckpointError, match=expected):
        find_checkpoint(finished.arguments_to_resume("true"))


def test_a_checkpoint_without_checksums_is_taken(finished):
    path = finished.output / "checkpoint-7" / RECORD
    manifest = json.loads(path.read_text())
    assert manifest.pop("crc32").keys() == manifest["files"].keys()
    path.write_text(json.dumps(manifest))
    assert find_checkpoint(finished.arguments_to_resume("true")) == str(path.parent)


@pytest.mark.parametrize("content", ["{}", '{"step": 3}', '{"files": {}}', "null", '"x"', "{", "[]", None])
def test_a_list_of_files_that_cannot_be_read_makes_a_checkpoint_incomplete(finished, content, caplog):
    path = finished.output / "checkpoint-7" / RECORD
    wrong_sizes = json.dumps(json.loads(path.read_text()) | {"files": {"optimizer.pt": "large"}})
    path.write_text(wrong_sizes if content is None else content)
    assert find_checkpoint(finished.arguments_to_resume("true")) == str(finished.output / "checkpoint-6")
    assert "checkpoint-7 not complete, and left aside" in caplog.text
    lacking = f"checkpoint-7: is not complete, it lacks a readable {RECORD}; the last complete one is .*checkpoint-6"
    with pytest.raises(CheckpointError, match=lacking):
        find_checkpoint(finished.arguments_to_resume(path.parent))


def test_a_run_without_a_checkpoint_begins_anew(run, caplog):
    run.output.mkdir()
    with pytest.raises(CheckpointError, match="holds no checkpoint to resume from"):
        find_checkpoint(run.arguments_to_resume("true"))
    (run.output / "training_data.json").write_text("{}")
    assert find_checkpoint(run.arguments_to_resume("true")) is None
    assert "begins anew" in caplog.text


def test_going_back_in_a_run_needs_a_folder_of_its_own(finished, tmp_path):
    named = finished.output / "checkpoint-6"
    with pytest.raises(CheckpointError, match=r"holds newer checkpoints than checkpoint-6 \(checkpoint-7\)"):
        find_checkpoint(finished.arguments_to_resume(named))
    elsewhere = dataclasses.replace(finished, output=tmp_path / "new")
    assert find_checkpoint(elsewhere.arguments_to_resume(named)) == str(named)


def test_checkpoints_without_the_optimizer_cannot_be_continued(run):
    run.options["save_only_model"] = True
    run.finish()
    with pytest.raises(CheckpointError, match="checkpoint-6 lacks the state of the optimizer"):
        find_checkpoint(run.arguments_to_resume("true"))
    with pytest.raises(CheckpointError, match="was saved with save_only_model"):
        find_checkpoint(run.arguments_to_resume(run.output / "checkpoint-6"))


def test_another_engine_is_refused_and_other_settings_are_said(finished, caplog):
    path = finished.output / "checkpoint-7" / RECORD
    manifest = json.loads(path.read_text())
    finished.options |= {"learning_rate": 0.5, "gradient_accumulation_steps": 1}
    path.write_text(json.dumps(manifest | {"num_processes": 4}))
    finished.trainer().train(resume_from_checkpoint=True)
    (said,) = [record.message for record in caplog.records if "other settings" in record.message]
    for change in ("gradient_accumulation_steps: 2, now 1", "learning_rate: 0.01, now 0.5", "processes: 4, now 1"):
        assert change in said
    path.write_text(json.dumps(manifest | {"num_processes": 2, "engine": "DeepSpeed ZeRO-2"}))
    with pytest.raises(CheckpointError, match=r"by 2 processes \(DeepSpeed ZeRO-2\), got 1 \(replicas\)"):
        finished.trainer().train(resume_from_checkpoint=True)


def test_settings_of_the_model_and_of_the_data_are_compared_too(finished, caplog):
    finished.options |= {"neftune_noise_alpha": 5.0, "train_sampling_strategy": "sequential"}
    finished.options |= {"dataloader_drop_last": True}
    trainer = finished.trainer()
    config = trainer.model.config
    config.alignment_loss_weight, config.alignment_weights, config.sinkhorn_epsilon = 0.0, "plan", 0.5
    config.text_config.attention_dropout = 0.2
    trainer.model.language_model.to(torch.bfloat16)
    trainer.train(resume_from_checkpoint=True)
    (said,) = [record.message for record in caplog.records if "other settings" in record.message]
    for change in (
        "neftune_noise_alpha: None, now 5.0",
        "train_sampling_strategy: random, now sequential",
        "dataloader_drop_last: False, now True",
        "model_config.alignment_loss_weight: 1.0, now 0.0",
        "model_config.alignment_weights: log_plan, now plan",
        "model_config.sinkhorn_epsilon: 0.1, now 0.5",
        "model_config.text_config.attention_dropout: 0.1, now 0.2",
        "dtypes: ['torch.float32'], now ['torch.bfloat16', 'torch",
    ):
        assert change in said


@pytest.mark.parametrize("layer", [0, 1])
def test_a_state_of_the_optimizer_is_not_put_on_other_tensors(run, layer):
    """Of as many tensors, and of fewer."""
    frozen = run.trainer()
    freeze(frozen.model, ["language_model.model.layers.0"])
    frozen.train()
    other = run.trainer()
    freeze(other.model, [f"language_model.model.layers.{number}" for number in range(1, 2)] * layer)
    with pytest.raises(CheckpointError, match="cannot be continued from: it trains other tensors: ") as refused:
        other.train(resume_from_checkpoint=True)
    names = r"\(language_model\.model\.layers\.{}\.self_attn\.q_proj\.weight, .* more\)"
    expected = (r"\d+ that are frozen here " + names.format(1) + " and ") * layer
    expected += r"\d+ that it does not have " + names.format(0)
    assert re.search(f"other tensors: {expected}; continue with the recipe", str(refused.value)), refused.value


def test_another_optimizer_is_refused_with_both_names(finished):
    finished.options["optim"] = "sgd"
    with pytest.raises(CheckpointError, match=r"cannot be continued from: its optimizer is adamw_\w+, got sgd; "):
        finished.trainer().train(resume_from_checkpoint=True)
    finished.options["optim"] = "adamw_torch"
    assert finished.trainer().train(resume_from_checkpoint=True).global_step == 6


def test_the_same_settings_are_not_warned_of(finished, caplog):
    shutil.rmtree(finished.output / "checkpoint-7")
    finished.trainer().train(resume_from_checkpoint=True)
    assert "other settings" not in caplog.text


# -------------------------------------------------------------------------------------------- best, rotation, folders


@pytest.fixture
def best_first(run) -> Run:
    """A run whose metric, the loss taken for a score, is best at its first step."""
    run.options |= {"eval_strategy": "steps", "eval_steps": 1, "save_steps": 1, "load_best_model_at_end": True}
    run.options |= {"metric_for_best_model": "eval_loss", "greater_is_better": True}
    return run


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


@pytest.fixture(scope="module")
def recipe(toy_world, start_model, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("recipe") / "recipe.yaml"
    fields = {"data_dir": str(toy_world), "model_name_or_path": str(start_model), "use_cpu": True, "seed": 7}
    fields |= {"max_steps": 6, "save_steps": 3, "save_total_limit": 1, "per_device_train_batch_size": 4}
    fields |= {"eval_strategy": "steps", "eval_steps": 3, "instructions": ["released"], "audio_only_rate": 0.2}
    fields |= {"frequency_mask": 16, "noise": True, "max_new_tokens": 4, "num_beams": 1, "disable_tqdm": True}
    fields |= {"report_to": "none", "cache_features": True}
    path.write_text(yaml.safe_dump(fields | {"learning_rate": 1e-2}))
    return path


UNLIMITED = -1


@pytest.mark.slow
def test_the_command_continues_after_a_kill(recipe, tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert run_inside("train_hf.py", recipe, "--output_dir", whole).returncode == 0
    fatal = "checkpoint-6/trainer_state.json"
    assert exit_code(run_command, killed, tmp_path / "errors", fatal, UNLIMITED, str(recipe)) == KILLED
    assert [path.name for path in killed.glob("checkpoint-*")] == ["checkpoint-3"]
    done = run_inside("train_hf.py", recipe, "--output_dir", killed, "--resume_from_checkpoint", "true")
    assert done.returncode == 0, done.stderr[-2000:]
    expected = weights(whole)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in weights(killed).items())
    results = (json.loads((folder / "eval_results.json").read_text()) for folder in (whole, killed))
    assert len({result["eval_loss"] for result in results}) == 1
    assert {path.name for path in whole.iterdir()} == {path.name for path in killed.iterdir()}


@pytest.mark.parametrize(
    ("place", "largest_file", "reason"),
    [("file/run", UNLIMITED, "Not a directory"), ("gone/run", UNLIMITED, "No such file"), ("run", 1000, "too large")],
    ids=["below a file", "below a link to nothing", "on a full disk"],
)
def test_the_command_refuses_a_folder_that_it_cannot_write_before_any_work(
    recipe, tmp_path, place, largest_file, reason
):
    (tmp_path / "file").touch()
    (tmp_path / "gone").symlink_to(tmp_path / "nothing")
    status = exit_code(run_command, tmp_path / place, tmp_path / "errors", "no file", largest_file, str(recipe))
    (line,) = (tmp_path / "errors").read_text().splitlines()
    assert status == 2 and line.startswith(f"error: {tmp_path / place}: cannot be written (") and reason in line
    assert line.endswith("make room there, or name another folder with --output_dir.")
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_the_command_ends_in_one_line_on_a_full_disk(recipe, tmp_path):
    status = exit_code(run_command, tmp_path / "run", tmp_path / "errors", "no file", 300_000, str(recipe))
    errors = (tmp_path / "errors").read_text()
    (line,) = [line for line in errors.splitlines() if line.startswith("error: ")]
    assert status == 2 and "checkpoint-3 could not be written" in line and "Traceback" not in errors
