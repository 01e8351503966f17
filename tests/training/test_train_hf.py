"""The training command: refusals before any work, and the whole job on a world of 24 clips."""

import json
import re
import subprocess
import sys

import pytest
import torch
import yaml
from recipes import TINY
from safetensors.torch import load_file
from stranger import run_inside
from tiny_models import tiny_model

import train_hf
from conftest import ROOT


@pytest.fixture
def recipe(toy_world, tmp_path):
    path = tmp_path / "recipe.yaml"
    fields = TINY | {
        "data_dir": str(toy_world),
        "tokenizer_name": str(toy_world / "tokenizer"),
        "output_dir": str(tmp_path / "run"),
    }
    path.write_text(yaml.safe_dump(fields))
    return path


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--label_smoothing_factor=0.1", "label_smoothing_factor is 0.1, expected 0"),
        ("--train_sampling_strategy=group_by_length", "is 'group_by_length', expected 'random' or 'sequential'"),
        ("--optim=schedule_free_adamw", "optim is 'schedule_free_adamw', which cannot be had here .*schedulefree"),
    ],
)
def test_what_the_trainer_cannot_do_with_a_lavcap_is_refused_in_one_line(recipe, monkeypatch, capsys, option, message):
    monkeypatch.setattr("transformers.trainer_optimizer.is_schedulefree_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["train_hf.py", str(recipe), "--use_cpu", "true", "--report_to", "none", option])
    with pytest.raises(SystemExit) as stop:
        train_hf.main()
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert stop.value.code == 2 and len(errors) == 1 and re.search(message, errors[0])
    assert not (recipe.parent / "run" / "trainer_state.json").exists()


QUICK = ("--metrics", "bleu_1", "bleu_4", "rouge_l", "cider_d")  # those without Java

UNTRAINABLE = {
    "half": lambda model: model.half(),
    "blind": lambda model: model,
}


def launch(*command: object) -> subprocess.CompletedProcess:
    """A process of its own, or those that it starts."""
    return subprocess.run([sys.executable, *map(str, command)], cwd=ROOT, capture_output=True, text=True)


@pytest.mark.slow
def test_the_whole_job_from_recipe_to_report(recipe, tmp_path, toy_world):
    settings = ROOT / "configs" / "accelerate" / "one_process.yaml"
    command = ("-m", "accelerate.commands.launch", "--quiet", "--config_file", settings, "train_hf.py")
    trained = launch(*command, recipe)
    assert trained.returncode == 0, trained.stderr[-2000:]
    assert "pin_memory" not in trained.stderr
    model = tmp_path / "run"
    for name in ("modeling_lavcap.py", "processing_lavcap.py", "media_captioning.py", "configuration_lavcap.py"):
        assert (model / name).is_file()
    assert json.loads((model / "generation_config.json").read_text())["num_beams"] == 2
    assert any((model / "runs").rglob("events.out.tfevents.*"))
    history = json.loads((model / "trainer_state.json").read_text())["log_history"]
    assert [entry["step"] for entry in history if "eval_bleu_4" in entry] == [3, 6]

    again = run_inside("train_hf.py", recipe)
    assert again.returncode == 2 and "holds another run" in again.stderr
    more = run_inside("train_hf.py", recipe, "--resume_from_checkpoint", "true", "--max_steps", "8")
    assert more.returncode == 0, more.stderr[-2000:]
    assert json.loads((model / "trainer_state.json").read_text())["global_step"] == 8

    evaluation = tmp_path / "evaluation"
    command = ("scripts/evaluate.py", "--model", model, "--data_dir", toy_world, "--output", evaluation, *QUICK)
    scored = run_inside(*command)
    assert scored.returncode == 0, scored.stderr[-2000:]
    results = json.loads((evaluation / "results.json").read_text())
    assert list(results["modalities"]) == ["audio+video", "audio", "video", "audio+other_video"]
    assert all(row["expected"] == row["scored"] == 6 for row in results["modalities"].values())
    assert len((evaluation / "predictions.jsonl").read_text().splitlines()) == 24
    assert f"| {results['modalities']['audio']['metrics']['bleu_1']:.4f} |" in scored.stdout
    kept = (evaluation / "results.json").read_bytes()
    assert run_inside(*command).returncode == 2 and (evaluation / "results.json").read_bytes() == kept

    report = tmp_path / "report"
    command = ("scripts/write_report.py", "--model", model, "--data_dir", toy_world)
    written = launch(*command, "--evaluation", evaluation, "--output", report)
    assert written.returncode == 0, written.stderr[-2000:]
    text = (report / "report.md").read_text()
    for heading in ("Scores on the test split", "Right words", "Captions", "Loss", "Transport plan"):
        assert f"## {heading}" in text
    assert ", resumed from checkpoint-6; seed " in text
    for picture in ("loss_curve.png", "transport_plan.png"):
        assert (report / picture).stat().st_size > 10_000 and picture in text

    captioned = run_inside("scripts/caption.py", toy_world / "videos" / "new_clip.mp4", "--model", model)
    assert captioned.returncode == 0 and captioned.stdout.count("\n") >= 1


@pytest.mark.slow
@pytest.mark.parametrize("modality", ["audio", "video"])
def test_a_single_modality_baseline_goes_the_whole_way(modality, recipe, tmp_path, toy_world):
    model, evaluation, report = tmp_path / "run", tmp_path / "evaluation", tmp_path / "report"
    trained = run_inside(
        "train_hf.py", recipe, "--model_config", json.dumps({"fusion": f"{modality}_only"}), "--max_steps", "3"
    )
    assert trained.returncode == 0, trained.stderr[-2000:]
    data = ("--model", model, "--data_dir", toy_world)
    scored = run_inside("scripts/evaluate.py", *data, "--output", evaluation, *QUICK)
    assert scored.returncode == 0, scored.stderr[-2000:]
    results = json.loads((evaluation / "results.json").read_text())
    assert list(results["modalities"]) == [modality] and results["modalities"][modality]["scored"] == 6
    written = run_inside("scripts/write_report.py", *data, "--evaluation", evaluation, "--output", report)
    assert written.returncode == 0, written.stderr[-2000:]
    assert f"From {modality}." in (report / "report.md").read_text()
    captioned = run_inside("scripts/caption.py", toy_world / "videos" / "new_clip.mp4", "--model", model, "--json")
    records = [json.loads(line) for line in captioned.stdout.splitlines()]
    assert captioned.returncode == 0 and modality in {record["modalities"] for record in records} <= {modality, ""}


@pytest.mark.slow
def test_two_processes_on_a_stream_train_the_model_of_one_with_twice_the_batch(recipe, tmp_path, toy_world):
    """On the picture alone: BatchNorm, at the input of the sound, has the statistics of each process."""
    shards = ("--data_dir", toy_world, "--split", "train", "--output", tmp_path / "shards", "--rows_per_shard", "7")
    assert run_inside("scripts/write_shards.py", *shards).returncode == 0
    options = ("--data_dir", tmp_path / "shards", "--validation_data_dir", toy_world, "--streaming", "true")
    options += ("--cache_features", "false", "--audio_only_rate", "0", "--video_only_rate", "0", "--optim", "sgd")
    options += ("--model_config", json.dumps({"fusion": "video_only"}), "--learning_rate", "0.5")
    models = {}
    for processes, batch_size in ((1, 6), (2, 3)):
        folder = tmp_path / f"of {processes}"
        command = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", processes)
        command += ("train_hf.py", recipe, "--use_cpu", "true", *options)
        done = launch(*command, "--output_dir", folder, "--per_device_train_batch_size", batch_size)
        assert done.returncode == 0, done.stderr[-3000:]
        models[processes] = load_file(folder / "model.safetensors")
        state = json.loads((folder / "trainer_state.json").read_text())
        losses = [entry["loss"] for entry in state["log_history"] if "loss" in entry]
        assert state["global_step"] == 6 and state["epoch"] == 1.5 and losses[-1] < losses[0]
    for name, weight in models[1].items():
        torch.testing.assert_close(models[2][name], weight, atol=1e-4, rtol=1e-4)


@pytest.mark.slow
def test_two_processes_contrast_the_clips_of_their_own_batches(recipe, tmp_path):
    """As one process does that accumulates the two batches: clips of other processes are not gathered."""
    options = ("--optim", "sgd", "--learning_rate", "0.5", "--max_steps", "1")
    options += ("--audio_only_rate", "0", "--video_only_rate", "0", "--train_sampling_strategy", "sequential")
    models = {}
    for processes, weight in ((1, 0.5), (2, 0.5), (1, 0)):
        folder, batches = tmp_path / f"{processes}, {weight}", 2 // processes
        objective = json.dumps({"alignment_objective": "clips", "alignment_loss_weight": weight})
        command = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", processes)
        command += ("train_hf.py", recipe, "--use_cpu", "true", *options, "--output_dir", folder)
        command += ("--model_config", objective)
        done = launch(*command, "--per_device_train_batch_size", 3, "--gradient_accumulation_steps", batches)
        assert done.returncode == 0, done.stderr[-3000:]
        saved = load_file(folder / "model.safetensors")
        models[processes, weight] = {name: each for name, each in saved.items() if each.is_floating_point()}
    for name, expected in models[1, 0.5].items():
        if "running_" not in name:  # BatchNorm's, which each process has of its own clips
            torch.testing.assert_close(models[2, 0.5][name], expected, atol=1e-5, rtol=1e-4)
    moved = [name for name, expected in models[1, 0.5].items() if not torch.equal(models[1, 0][name], expected)]
    assert any("audio_tower" in name for name in moved) and any("vision_tower" in name for name in moved)


def test_an_option_that_the_first_step_stumbles_over_is_told_in_one_line(recipe, tmp_path):
    options = ("--output_dir", tmp_path / "run", "--dataloader_persistent_workers", "true")
    done = run_inside("train_hf.py", recipe, *options)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert line.startswith("error: The first step cannot be taken (ValueError: persistent_workers option needs")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--fusion", "x"), "'fusion' is not an option"),
        (("--model_config", '{"fusion": "tempcat"}'), "fusion is 'tempcat', expected one of 'concat_time'"),
        (("--model_config", '{"fussion": "tempcat"}'), "did you mean fusion?"),
        (("--resume_from_checkpoint", "nowhere/checkpoint-3"), "nowhere/checkpoint-3: no such checkpoint"),
        (("--tokenizer_name", "no/such/tokenizer"), "no/such/tokenizer: no such folder"),
        (("--data_dir", "nowhere"), "nowhere/train.json: no such file"),
        (("--audio_only_rate", "2"), "expected shares of the training clips"),
        (("--frequency_mask", "65"), "frequency_mask is 65, wider than the filter bank, which has 64"),
        (("--validation_split", "test"), "6 of 6 clips of the validation split 'test' are clips of a test split"),
        (("--streaming", "true"), "Got streaming with cache_features"),
        (("--shuffle_buffer", "0"), "shuffle_buffer is 0, expected at least 1"),
        (("--max_train_clips", "0"), "max_train_clips is 0, expected at least 1"),
        (("--resume_from_checkpoint", "true"), "holds no checkpoint to resume from"),
        (("--model_name_or_path", "no/such/model"), "no/such/model: no such folder"),
        (("--model_name_or_path", "half"), "half: has float16 weights, which overflow in training"),
        (
            ("--text_model", "llama", "--model_name_or_path", "x"),
            "Got model_name_or_path and text_model, expected one",
        ),
        (("--audio_model", "ced.pt"), "Got audio_model without text_model; name the language model, too"),
        (("--freeze", "clip"), "Got 'clip' to train or to freeze, expected parts of the model: audio_tower"),
        (("--freeze", "clip", "--lora", '{"r": 2}'), "Got lora and freeze; with lora everything but"),
        (("--lora", '{"r": 2}'), "Got lora for a fresh model, expected pretrained weights below it"),
        (("--load_in_4bit", "true"), "load_in_4bit needs lora: 4 bits are not trained"),
        (("--text_model", "no/such/llama", "--audio_model", "ced.pt"), "no/such/llama"),
        (("--report_to", "wandb"), "report_to is 'wandb', but that package is not installed"),
        (("--metric_for_best_model", "cider"), "metric_for_best_model is 'cider', expected one of loss, bleu_1"),
        (("--early_stopping_patience", "2"), "early_stopping_patience is 2, which needs metric_for_best_model"),
        (
            ("--model_config", '{"alignment_objective": "clips"}', "--per_device_train_batch_size", "1"),
            "per_device_train_batch_size is 1, expected at least 2",
        ),
        (("--max_broken_share", "2"), "max_broken_share is 2.0, expected 0 to 1"),
        (("--per_device_train_batch_size", "0"), "per_device_train_batch_size is 0, expected at least 1"),
        (("--gradient_accumulation_steps", "0"), "gradient_accumulation_steps is 0, expected at least 1"),
        (("--dataloader_num_workers", "-1"), "dataloader_num_workers is -1, expected 0 to 1024"),
        (("--learning_rate", "-1"), "learning_rate is -1.0, expected at least 0"),
        (("--learning_rate", "nan"), "learning_rate is nan, expected at least 0"),
        (("--max_steps", "0"), "max_steps is 0, expected at least 1, or -1 for num_train_epochs"),
        (("--num_train_epochs", "0", "--max_steps", "-1"), "num_train_epochs is 0.0, expected at least 1e-09"),
        (("--num_beams", "0"), "num_beams is 0, expected 1 to 256"),
        (("--generation_num_beams", "0"), "generation_num_beams is 0, expected 1 to 256"),
        (("--lr_scheduler_kwargs", '{"nothing": 1}'), "lr_scheduler_kwargs is {'nothing': 1}, which"),
        (("--fsdp", "full_shard"), "fsdp"),
        (("--fsdp_config", '{"a": 1}'), "Got fsdp_config without fsdp"),
        (("--accelerator_config", '{"a": 1}'), "cannot be used (TypeError: AcceleratorConfig"),
        (("--remove_unused_columns", "true"), "remove_unused_columns is True, expected False"),
        (("--eval_do_concat_batches", "false"), "eval_do_concat_batches is False, expected True: captions are scored"),
        (("--neftune_noise_alpha", "-1"), "neftune_noise_alpha is -1.0, expected at least 0"),
        (("--optim_args", "a"), "optim is 'adamw_torch_fused', which cannot be had here"),
        (("--fp16", "true"), "fp16 is on, but a CPU does not train in it"),
        (("--dataloader_drop_last", "true", "--per_device_train_batch_size", "5000"), "leaves nothing of"),
        (("--generation_config", "no/such/decoding"), "no/such/decoding: no such folder"),
        (("--model_name_or_path", "blind"), "blind: has no vision tower, so it takes stored video_features"),
    ],
)
def test_bad_options_end_in_one_line_and_status_2(recipe, tmp_path, options, message, monkeypatch, capsys, processor):
    import train_hf

    if options[1] in UNTRAINABLE:
        model = UNTRAINABLE[options[1]](tiny_model(has_vision_tower=options[1] != "blind"))
        model.save_pretrained(tmp_path / options[1])
        processor.save_pretrained(tmp_path / options[1])
        options = (options[0], str(tmp_path / options[1]))
    monkeypatch.setattr(sys, "argv", ["train_hf.py", str(recipe), *options])
    with pytest.raises(SystemExit) as stopped:
        train_hf.main()
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert stopped.value.code == 2 and len(errors) == 1 and message in errors[0]
    assert not (tmp_path / "run").exists()
