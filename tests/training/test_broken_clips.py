"""Clips that cannot be read in mid-run: reported once, left out, and too many at some share."""

import copy
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from media_files import write_floats
from recipes import TINY
from safetensors.torch import load_file
from stranger import run_inside
from tiny_models import tiny_config

from conftest import ROOT
from lavcap.data.collation import EvaluationCollator, TrainingCollator
from lavcap.data.dataset import ClipDataset
from lavcap.data.schema import DataError
from lavcap.data.shards import find_shards, write_shards
from lavcap.data.splits import load_split
from lavcap.data.streaming import ClipStream
from lavcap.training.broken_clips import BrokenClips, TrainingStopped
from processing_lavcap import LavcapProcessor
from sources_captioning import MediaError


@pytest.fixture
def world(toy_world, tmp_path):
    return shutil.copytree(toy_world, tmp_path / "world")


def break_sounds(world, split: str, count: int) -> list[str]:
    """Cut the sound of the first clips of a split short; their ids."""
    rows = load_split(world, split).select(range(count))
    for row in rows:
        with open(row["audio"]["path"], "r+b") as file:
            file.truncate(2000)
    return rows["id"]


def test_a_tolerant_set_says_why_a_clip_is_broken_and_another_one_raises(world, processor):
    (name,) = break_sounds(world, "val", 1)
    rows = load_split(world, "val")
    item = ClipDataset(rows, processor, tolerant=True)[0]
    assert item["id"] == name and item["features"] == {} and "is cut short" in item["broken"]
    assert ClipDataset(rows, processor, tolerant=True)[1]["features"]
    with pytest.raises(MediaError, match="is cut short"):
        ClipDataset(rows, processor)[0]
    with pytest.raises(ValueError, match="1 of 6 clips cannot be read"):
        ClipDataset(rows, processor, cache=True, tolerant=True).preload("Reading")


@pytest.mark.parametrize("sample", [np.nan, np.inf])
def test_a_clip_whose_sound_is_not_finite_is_broken_by_id_and_path(world, processor, sample):
    rows = load_split(world, "val")
    path = rows[1]["audio"]["path"]
    write_floats(Path(path), np.array([0.1, sample] * 8000))
    reason = ClipDataset(rows, processor, tolerant=True)[1]["broken"]
    assert reason.startswith(f"{path}: its sound holds NaN or infinite samples")
    with pytest.raises(DataError, match=rf"1 of 6 clips cannot be read.*\n  {path}: its sound holds NaN"):
        ClipDataset(rows, processor, cache=True).preload("Reading")


def test_a_stream_and_its_loader_processes_pass_broken_clips_on(toy_world, processor, tmp_path):
    rows = load_split(toy_world, "val")
    write_shards(rows, tmp_path, "val", {})
    stream = ClipStream(find_shards(tmp_path, "val"), processor, batch_size=2)
    stream._rows = lambda epoch: ({**row, "audio": {"bytes": b"RIFF", "path": "a.wav"}} for row in rows)
    loader = torch.utils.data.DataLoader(stream, 2, collate_fn=EvaluationCollator(processor), num_workers=2)
    first = next(iter(loader))
    assert first["clip_ids"] == rows["id"][:2] and list(first["broken"]) == rows["id"][:2]
    assert "a.wav" in first["broken"][rows["id"][0]]


def test_a_clip_without_the_one_modality_of_a_baseline_is_broken(toy_world, fitting_config, tokenizer):
    config = tiny_config(fusion="audio_only", text_config={"vocab_size": fitting_config.text_config.vocab_size})
    processor = LavcapProcessor.from_config(config, copy.deepcopy(tokenizer))
    item = ClipDataset(load_split(toy_world, "val"), processor)[0]
    batch = TrainingCollator(processor)([item, item | {"id": "b", "features": {}}])
    assert batch["broken"] == {"b": "has no audio, which the model takes"}


def test_each_broken_clip_is_reported_once_with_its_reason(tmp_path, caplog):
    for _ in range(2):  # the second time as after an interruption
        broken = BrokenClips(tmp_path, most=1.0, reports=True)
        broken.count(4, 2, [("a", "is cut short"), ("b", "no such file")])
        broken.count(4, 1, [("a", "is cut short")])
        broken.note([("v", "is text"), ("a", "is cut short")], "validation")
        assert (broken.num_read, broken.num_broken) == (8, 3)
    lines = [json.loads(line) for line in (tmp_path / "broken_clips.jsonl").read_text().splitlines()]
    assert [(line["id"], line["split"]) for line in lines] == [
        ("a", "training"),
        ("b", "training"),
        ("v", "validation"),
        ("a", "validation"),
    ]
    assert [record.message for record in caplog.records].count("Broken training clip a: is cut short") == 2


def test_a_few_broken_clips_are_not_too_many_unless_none_is_allowed(tmp_path):
    found = [(f"clip{number}", "is cut short") for number in range(5)]
    few = BrokenClips(tmp_path, most=0.01, reports=True)
    few.note([("v", "is text")], "validation")
    few.count(8, 4, found[:4])
    BrokenClips(tmp_path, most=0.01, reports=True).count(500, 5, found)
    with pytest.raises(TrainingStopped, match=r"5 of 499 clips read \(1.0%\) are broken, max_broken_share is 1.0%"):
        BrokenClips(tmp_path, most=0.01, reports=True).count(499, 5, found)
    with pytest.raises(TrainingStopped, match="1 of 8 clips read .* is 0.0%: clip0; .*broken_clips.jsonl has the"):
        BrokenClips(tmp_path, most=0.0, reports=True).count(8, 1, found[:1])


def recipe(world, folder, **fields):
    path = folder / "recipe.yaml"
    given = {"data_dir": str(world), "tokenizer_name": str(world / "tokenizer"), "output_dir": str(folder / "run")}
    given |= {"cache_features": False, "use_cpu": True, "report_to": "none", "disable_tqdm": True}
    path.write_text(yaml.safe_dump(TINY | given | fields))
    return path


@pytest.mark.slow
def test_a_run_goes_on_without_a_few_clips_and_stops_at_too_many(world, tmp_path):
    broken = break_sounds(world, "train", 2)
    unseen = break_sounds(world, "val", 1)
    (endless,) = load_split(world, "train").select([2])
    write_floats(Path(endless["audio"]["path"]), np.full(16_000, np.inf))
    broken = [*broken, endless["id"]]
    done = run_inside(
        "train_hf.py", recipe(world, tmp_path, max_steps=12, eval_steps=6, save_steps=6, disable_tqdm=False)
    )
    assert done.returncode == 0, done.stderr[-2000:]
    lines = (tmp_path / "run" / "broken_clips.jsonl").read_text().splitlines()
    assert sorted(json.loads(line)["id"] for line in lines) == sorted([*broken, *unseen])
    metrics = json.loads((tmp_path / "run" / "eval_results.json").read_text())
    assert metrics["eval_broken_clips"] == 1 and metrics["eval_scored_clips"] == 5
    assert "eval_bleu_1" in metrics and metrics["eval_loss"] > 0
    assert all(tensor.isfinite().all() for tensor in load_file(tmp_path / "run" / "model.safetensors").values())

    more = break_sounds(world, "train", 12)
    options = ("--resume_from_checkpoint", "true", "--max_steps", "24")
    stopped = run_inside("train_hf.py", tmp_path / "recipe.yaml", *options)
    errors = [line for line in stopped.stderr.splitlines() if line.startswith("error: ")]
    assert stopped.returncode == 2 and len(errors) == 1, stopped.stderr[-2000:]
    assert "are broken, max_broken_share is 1.0%" in errors[0] and sum(name in errors[0] for name in more) == 5
    assert "then continue with --resume_from_checkpoint true" in errors[0]
    assert json.loads((tmp_path / "run" / "trainer_state.json").read_text())["global_step"] == 12


JOBS = """
import contextlib, json, os, sys
import train_hf

folder, *jobs = sys.argv[1:]
for number, job in enumerate(jobs):
    sys.argv = ["train_hf.py", *json.loads(job)]
    with open(f"{folder}/{number}.{os.environ['RANK']}", "w") as file, contextlib.redirect_stderr(file):
        try:
            train_hf.main()
        except SystemExit as stop:
            print(f"status {stop.code}", file=file)
"""


@pytest.mark.slow
@pytest.mark.scale
def test_processes_whose_clips_are_broken_keep_in_step_and_stop_together(world, tmp_path):
    """Two processes with a clip each: in many steps one of them, and in some both, have nothing to learn from."""
    broken = break_sounds(world, "train", 12)
    path = recipe(world, tmp_path, per_device_train_batch_size=1, max_steps=12, max_broken_share=1, eval_strategy="no")
    blown_up = ("--learning_rate", "1e30", "--optim", "sgd", "--warmup_steps", "0", "--max_nonfinite_steps", "2")
    options = {"finished": (), "too many": ("--max_broken_share", "0.1"), "blown up": blown_up}
    jobs = [json.dumps([str(path), "--output_dir", str(tmp_path / name), *given]) for name, given in options.items()]
    (tmp_path / "jobs.py").write_text(JOBS)
    command = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")
    command += (tmp_path / "jobs.py", tmp_path, *jobs)
    environment = os.environ | {"PYTHONPATH": str(ROOT), "ACCELERATE_USE_CPU": "true"}
    done = subprocess.run([*command], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr[-3000:]
    said = [[(tmp_path / f"{job}.{rank}").read_text() for rank in range(2)] for job in range(3)]

    assert "status" not in "".join(said[0])
    state = json.loads((tmp_path / "finished" / "trainer_state.json").read_text())
    losses = [entry for entry in state["log_history"] if "loss" in entry]
    assert json.loads((tmp_path / "finished" / "train_results.json").read_text())["processes"] == 2
    assert state["global_step"] == 12 and losses
    for entry in losses:
        assert entry["loss"] == pytest.approx(entry["caption_loss"] + entry["alignment_loss"])
    lines = (tmp_path / "finished" / "broken_clips.jsonl").read_text().splitlines()
    assert sorted(json.loads(line)["id"] for line in lines) == sorted(broken)
    assert all(tensor.isfinite().all() for tensor in load_file(tmp_path / "finished" / "model.safetensors").values())

    for job, message in (
        (1, "are broken, max_broken_share is 10.0%"),
        (2, "is NaN or infinite at step 3 (2 in a row), on"),
    ):
        errors = [[line for line in text.splitlines() if line.startswith("error: ")] for text in said[job]]
        assert errors[0] == errors[1] and len(errors[0]) == 1 and message in errors[0][0]
        assert all("status 2" in text for text in said[job])
    assert not (tmp_path / "blown up" / "model.safetensors").exists()
