"""What a run may continue from, and what is said of other checkpoints."""

import dataclasses
import json
import os
import pickle
import random
import re
import shutil
from pathlib import Path

import pytest
import torch
from finished_runs import flip_a_bit
from safetensors.torch import load_file, save_file

from lavcap.files import UNFINISHED, checksum
from lavcap.models.lora import freeze
from lavcap.training.arguments import early_stopping
from lavcap.training.checkpoints import RECORD, CheckpointError, is_complete
from lavcap.training.resume import check_checkpoint, find_checkpoint
from weights_captioning import WeightsError


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


def test_a_checkpoint_is_read_for_its_checksums_once_by_a_save_and_once_by_a_run_that_continues(finished, monkeypatch):
    read = []

    def counting(file):
        read.append(file.relative_to(finished.output).as_posix())
        return checksum(file)

    for module in ("checkpoints", "checkpoint_writer"):
        monkeypatch.setattr(f"lavcap.training.{module}.checksum", counting)
    named = finished.output / "checkpoint-7"
    files = sorted(f"checkpoint-7/{name}" for name in json.loads((named / RECORD).read_text())["files"])
    for checkpoint in ("true", named):
        found = find_checkpoint(finished.arguments_to_resume(checkpoint))
        finished.trainer().train(resume_from_checkpoint=found)
        assert sorted(read) == files
        read.clear()
    finished.trainer().train(resume_from_checkpoint=str(named))  # as a library, without the command's search
    assert sorted(read) == files
    read.clear()
    dataclasses.replace(finished, options={"max_steps": 8, "save_steps": 8}).trainer().train(str(named))
    saved = sorted(name for name in read if name not in files)
    written = json.loads((finished.output / "checkpoint-8" / RECORD).read_text())["files"]
    assert saved == sorted(f"{UNFINISHED}/checkpoint-8/{name}" for name in written)


def test_a_checkpoint_without_checksums_is_taken(finished):
    path = finished.output / "checkpoint-7" / RECORD
    manifest = json.loads(path.read_text())
    assert manifest.pop("crc32").keys() == manifest["files"].keys()
    path.write_text(json.dumps(manifest))
    assert find_checkpoint(finished.arguments_to_resume("true")) == str(path.parent)


class Code:
    """What a pickle holds that runs a command where it is read without care."""

    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


def spoiled(file: Path, fault: str) -> bytes:
    """Content of a file of a checkpoint that is of no use."""
    if fault == "a tensor":
        torch.save(torch.ones(3), file)
    elif fault == "code":
        torch.save({"state": Code(file.parent / "run"), "param_groups": []}, file)
    elif fault == "code of another pickle":
        return pickle.dumps(Code(file.parent / "run"))
    elif fault == "of another file":
        return file.with_name("trainer_state.json" if file.suffix != ".json" else RECORD).read_bytes()
    whole = file.read_bytes()
    return {"empty": b"", "cut": whole[: len(whole) // 2], "noise": random.Random(0).randbytes(500)}.get(fault, whole)


@pytest.mark.parametrize(
    "fault", ["empty", "cut", "noise", "a tensor", "of another file", "code", "code of another pickle"]
)
@pytest.mark.parametrize(
    "name", ["optimizer.pt", "scheduler.pt", "rng_state.pth", "rng_state_1.pth", "trainer_state.json"]
)
def test_a_state_of_no_use_is_named_even_where_nothing_tells_what_it_held(finished, name, fault):
    damaged = finished.output / "checkpoint-7"
    shutil.copyfile(damaged / "rng_state.pth", damaged / "rng_state_1.pth")  # as of several processes
    (damaged / name).write_bytes(spoiled(damaged / name, fault))
    record = json.loads((damaged / RECORD).read_text())
    record["files"][name], record["crc32"][name] = (damaged / name).stat().st_size, checksum(damaged / name)
    (damaged / RECORD).write_text(json.dumps(record))
    assert find_checkpoint(finished.arguments_to_resume("true")) == str(finished.output / "checkpoint-6")
    with pytest.raises(CheckpointError) as refused:
        find_checkpoint(finished.arguments_to_resume(damaged))
    (damaged / RECORD).unlink()
    with pytest.raises(CheckpointError, match=r"checkpoint-7: is (damaged|not complete)") as without_record:
        find_checkpoint(finished.arguments_to_resume(damaged))
    hint = f"another complete one is {finished.output / 'checkpoint-6'}."
    assert str(refused.value) == f"{damaged}: is damaged, {name} does not hold what was saved; {hint}"
    assert "\n" not in str(without_record.value) and not (damaged / "run").exists()


@pytest.mark.parametrize("text", ['{"global_step": "7"}', '{"global_step": 7, "log_history": 5}', "{}", "[" * 100_000])
def test_progress_that_tells_no_step_is_damage(finished, text):
    (finished.output / "checkpoint-7" / RECORD).unlink()
    (finished.output / "checkpoint-7" / "trainer_state.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"checkpoint-7: is (damaged|not complete)"):
        find_checkpoint(finished.arguments_to_resume(finished.output / "checkpoint-7"))


def test_an_optimizer_of_other_tensors_is_refused_where_nothing_tells_which_they_were(finished):
    checkpoint = finished.output / "checkpoint-7"
    (checkpoint / RECORD).unlink()
    other = torch.optim.SGD([torch.nn.Parameter(torch.ones(3))]).state_dict()
    torch.save(other, checkpoint / "optimizer.pt")
    with pytest.raises(CheckpointError, match=r"its optimizer\.pt is of another model \(loaded state dict has"):
        finished.trainer().train(resume_from_checkpoint=str(checkpoint))


@pytest.mark.parametrize("kind", ["map-style", pytest.param("LoRA", marks=pytest.mark.slow)])
def test_weights_of_another_shape_are_refused_with_both_shapes(runs, tmp_path, kind):
    checkpoint = shutil.copytree(runs[kind].output / "checkpoint-6", tmp_path / "checkpoint-6")
    model = dataclasses.replace(runs[kind], output=tmp_path / "run").trainer().model
    check_checkpoint(model, checkpoint)
    (file,) = checkpoint.glob("*model.safetensors")
    tensors = load_file(file)
    name = min(name for name, tensor in tensors.items() if tensor.ndim == 2 and "q_proj" in name)
    tensors[name] = torch.cat([tensors[name]] * 2)
    save_file(tensors, file, {"format": "pt"})
    rows, columns = tensors[name].shape
    with pytest.raises(WeightsError) as refused:
        check_checkpoint(model, checkpoint)
    fault = "1 of its tensors have another shape than the recipe describes"
    assert f"{fault} ({name} [{rows}, {columns}] for [{rows // 2}, {columns}])" in str(refused.value)


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


def test_a_run_that_is_to_end_before_its_checkpoint_is_refused(finished):
    finished.options |= {"max_steps": 4}
    with pytest.raises(
        CheckpointError, match=r"checkpoint-7: is of step 6, but the run is to end at step 4: raise max"
    ):
        finished.trainer().train(resume_from_checkpoint=True)
    finished.options |= {"max_steps": -1, "num_train_epochs": 1}
    with pytest.raises(
        CheckpointError, match=r"checkpoint-7: is of step 6, but the run is to end at step 5: raise max"
    ):
        finished.trainer().train(resume_from_checkpoint=True)


def test_a_finished_run_knows_that_nothing_is_left(finished):
    trainer = finished.trainer()
    assert trainer.train(resume_from_checkpoint=True).global_step == 6 and trainer.continuation.is_over
    finished.options |= {"max_steps": 7, "save_steps": 7}
    trainer = finished.trainer()
    assert trainer.train(resume_from_checkpoint=True).global_step == 7 and not trainer.continuation.is_over


def test_a_run_may_begin_to_watch_for_an_early_stop_when_it_is_continued(finished):
    watched = {"early_stopping_patience": 1, "metric_for_best_model": "loss", "eval_strategy": "steps"}
    finished.options |= watched | {"eval_steps": 1, "save_steps": 1}
    for steps in (7, 8):  # the second time from a checkpoint that has its state
        finished.options["max_steps"] = steps
        trainer = finished.trainer()
        for callback in early_stopping(trainer.args):
            trainer.add_callback(callback)
        assert trainer.train(resume_from_checkpoint=True).global_step == steps
        state = json.loads((finished.output / f"checkpoint-{steps}" / "trainer_state.json").read_text())
        assert state["stateful_callbacks"]["EarlyStoppingCallback"]["args"]["early_stopping_patience"] == 1
