"""Each command once in a process of its own, which has imported nothing: other tests run them in their own one."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from media_files import write_media
from model_parts import LORA, assemble, write_parts
from released_files import ced_file
from released_reference import OPTIONS, random_state
from stranger import run_inside
from tiny_models import tiny_config

from conftest import ROOT
from lavcap.models.lora import add_lora, save_adapter


pytestmark = pytest.mark.whole


def run(*command: object) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, *map(str, command)], cwd=ROOT, capture_output=True, text=True)


@pytest.fixture
def adapter(tmp_path, processor) -> Path:
    """An adapter on parts, as training writes it."""
    (tmp_path / "parts").mkdir()
    write_parts(tmp_path / "parts", text_config={"vocab_size": len(processor.tokenizer) - 1})
    save_adapter(add_lora(assemble(tmp_path / "parts"), LORA), tmp_path / "adapter")
    processor.save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter"


def test_a_clip_is_captioned_in_a_line_for_each_window(saved_model, tmp_path):
    clip = write_media(tmp_path / "clip.mp4", seconds=1.2)
    result = run("scripts/caption.py", clip, "--model", saved_model)
    assert result.returncode == 0 and result.stdout.count("\n") == 3
    assert "error" not in result.stderr


def test_a_toy_world_is_written_and_summed_up(tmp_path):
    counts = ("--train_clips", 16, "--validation_clips", 1, "--test_clips", 1, "--videos", 0)
    result = run("scripts/make_toy_world.py", "--output", tmp_path, *counts, "--workers", 2)
    assert result.returncode == 0, result.stderr
    assert "16 train, 1 validation, 1 test" in result.stdout
    assert len(json.loads((tmp_path / "train.json").read_text())) == 16


@pytest.mark.slow
def test_a_model_is_scored(saved_model, toy_world, tmp_path):
    options = ("--max_clips", 1, "--modalities", "audio", "--metrics", "bleu_1", "--bootstrap", 0)
    data = ("--model", saved_model, "--data_dir", toy_world)
    result = run("scripts/evaluate.py", *data, "--output", tmp_path / "scores", *options)
    assert result.returncode == 0, result.stderr
    assert json.loads((tmp_path / "scores" / "results.json").read_text())["scored"] == 1


@pytest.mark.slow
def test_visual_features_are_stored(saved_model, toy_world, tmp_path):
    world = shutil.copytree(toy_world, tmp_path / "world")
    options = ("--data_dir", world, "--split", "val", "--model", saved_model)
    result = run("scripts/extract_visual_features.py", *options)
    assert result.returncode == 0 and "features of 6 clips" in result.stdout, result.stderr


def test_clips_are_prepared(tmp_path):
    write_media(tmp_path / "a.mp4", seconds=1)
    (tmp_path / "captions.csv").write_text("file,caption\na.mp4,a tone begins\n")
    options = ("--annotations", tmp_path / "captions.csv", "--media", tmp_path, "--split", "train")
    options += ("--window", 1, "--num_proc", 1, "--output", tmp_path / "prepared")
    result = run("scripts/prepare_audiocaps.py", *options)
    assert result.returncode == 0 and "# train: 1 of 1 clips are in the manifest" in result.stdout, result.stderr


@pytest.mark.slow
def test_the_file_of_an_encoder_is_converted(tmp_path):
    state = random_state(OPTIONS | {"num_heads": 4, "embed_dim": 256, "fusion_type": "ot_tempcat", "enc_lora": True})
    torch.save(ced_file(state), tmp_path / "ced.pt")
    result = run("scripts/convert_checkpoint.py", "--checkpoint", tmp_path / "ced.pt", "--output", tmp_path / "ced")
    assert result.returncode == 0 and (tmp_path / "ced" / "model.safetensors").is_file(), result.stderr


@pytest.mark.slow
def test_shards_are_written(toy_world, tmp_path):
    result = run("scripts/write_shards.py", "--data_dir", toy_world, "--split", "val", "--output", tmp_path)
    assert result.returncode == 0 and "6 clips of val" in result.stdout, result.stderr


@pytest.mark.slow
def test_an_adapter_is_folded_in_and_put_up_for_others(adapter, tmp_path):
    result = run("scripts/merge_lora.py", adapter, "--output", tmp_path / "merged")
    assert result.returncode == 0 and "its logits differ by at most" in result.stdout, result.stderr
    options = ("--dry_run", tmp_path / "upload", "--with_language_model")
    result = run("scripts/push_to_hub.py", tmp_path / "merged", "me/merged", *options)
    assert result.returncode == 0 and (tmp_path / "upload" / "model.safetensors").is_file(), result.stderr


@pytest.mark.slow
def test_what_a_recipe_costs_is_measured_without_its_weights(tmp_path):
    config = tiny_config()
    parts = {name: getattr(config, name).to_diff_dict() for name in ("audio_config", "vision_config", "text_config")}
    recipe = {"model_config": parts | {"num_video_frames": 4}, "model_dtype": "bfloat16", "bf16": True, "lora": LORA}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    options = ("--part", "training", "--tiny", "--device", "cpu", "--output", tmp_path / "rows.json", "--recipe")
    result = run("scripts/benchmark.py", *options, tmp_path / "recipe.yaml")
    assert result.returncode == 0, result.stderr[-2000:]
    rows = json.loads((tmp_path / "rows.json").read_text())
    assert [row["case"] for row in rows] == ["batch 2", "batch 2, gradient checkpointing"]
    assert all(row["median_ms"] > 0 and row["facts"]["peak GiB"] > 0.1 for row in rows)
    (tmp_path / "empty.yaml").write_text("lora: {}")
    result = run_inside("scripts/benchmark.py", *options, tmp_path / "empty.yaml")
    assert result.returncode == 2 and "empty.yaml: has no model_config" in result.stderr


@pytest.mark.parametrize(
    "parts",
    [
        ["transport", "dali_transport", "dali_entropic", "filter_bank", "media", "loading"],
        ["captioning", "avcap_search", "folder", "decoding", "throughput"],
        pytest.param(["start_up", "long_film"], marks=pytest.mark.slow),
        pytest.param(["data_set", "growth"], marks=pytest.mark.slow),
        pytest.param(["training"], marks=pytest.mark.slow),
        pytest.param(["scaling"], marks=pytest.mark.slow),
    ],
)
def test_parts_are_measured_against_baselines(parts, tmp_path):
    options = ["--part", *parts, "--tiny", "--device", "cpu", "--output", tmp_path / "rows.json"]
    result = run_inside("scripts/benchmark.py", *options)
    assert result.returncode == 0, result.stderr[-2000:]
    rows = json.loads((tmp_path / "rows.json").read_text())
    assert list(dict.fromkeys(row["part"] for row in rows)) == parts
    assert len([line for line in result.stdout.splitlines() if line.startswith("| ")]) == len(rows) + 1
    picture = tmp_path / "rows_growth.svg"
    assert ("<svg" in picture.read_text()) if "growth" in parts else not picture.exists()
    for row in rows:
        assert row["median_ms"] > 0 and row["machine"]["tiny"]
        assert row["facts"].get("same_caption", True)
        if row["baseline"] is not None:
            assert row["ratio"] == pytest.approx(row["baseline_ms"] / row["median_ms"], rel=1e-2)
        if row["limit"] is not None:
            assert row["limit_ratio"] > 0
