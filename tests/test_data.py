"""Data sets in AudioCaps' layout: what is read, what is missing, and what a batch holds."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from datasets import Dataset

from conftest import tiny_config
from lavcap.data import (
    ClipDataset,
    DataError,
    EvaluationCollator,
    TrainingCollator,
    check_usable,
    load_split,
    load_splits,
    one_row_per_caption,
    read_split,
)
from processing_lavcap import LavcapProcessor


@pytest.fixture
def world(toy_world, tmp_path):
    """A copy that a test may damage."""
    return shutil.copytree(toy_world, tmp_path / "world")


def test_rows_hold_existing_media_and_all_captions(toy_world):
    rows = load_split(toy_world, "test")
    assert len(rows) == 6
    for row in rows:
        assert row["audio"].endswith(".wav") and len(row["frames"]) == 20
        assert row["frames"][2].split("/")[-2] == "frame_2" and row["frames"][10].split("/")[-2] == "frame_10"
        assert len(row["captions"]) == 5


def test_the_folders_of_a_split_may_stand_beside_its_annotations(toy_world, world):
    for name in ("waveforms", "frames"):
        shutil.move(world / "val" / name, world / name)
    for split in ("train", "val", "test"):
        shutil.rmtree(world / split)
    assert load_split(world, "val")["id"] == load_split(toy_world, "val")["id"]


def test_without_a_coco_file_the_rows_of_a_clip_are_joined(world):
    rows = json.loads((world / "val.json").read_text())
    (world / "val_coco.json").unlink()
    (world / "val.json").write_text(json.dumps([rows[0], rows[0] | {"caption": "rain falls"}, rows[1]]))
    assert load_split(world, "val")["captions"] == [[rows[0]["caption"], "rain falls"], [rows[1]["caption"]]]


def test_equal_captions_of_two_annotators_both_count(world):
    coco = json.loads((world / "val_coco.json").read_text())
    twice = coco["annotations"][0]
    coco["annotations"].append(twice)
    (world / "val_coco.json").write_text(json.dumps(coco))
    assert load_split(world, "val")["captions"][0].count(twice["caption"]) == 2


def test_training_rows_have_one_caption_each(toy_world):
    rows = load_split(toy_world, "test")
    flat = one_row_per_caption(rows)
    assert len(flat) == 30
    assert [caption for [caption] in flat["captions"]] == [c for captions in rows["captions"] for c in captions]
    assert flat["id"][:5] == [rows["id"][0]] * 5


def test_all_missing_media_are_listed_with_their_number_and_the_way_out(world):
    rows = json.loads((world / "train.json").read_text())
    (world / "train" / "waveforms" / rows[3]["audio_path"]).unlink()
    (world / "train" / "frames" / "frame_7" / rows[5]["video_path"]).unlink()
    with pytest.raises(DataError) as caught:
        load_split(world, "train")
    message = str(caught.value)
    assert "2 of 24 clips lack media" in message and "--skip_missing_media" in message
    assert rows[3]["audio_path"] in message and f"frame_7/{rows[5]['video_path']}" in message
    rest, missing = read_split(world, "train")
    assert len(rest) == 22 and set(missing) == {rows[3]["youtube_id"], rows[5]["youtube_id"]}
    assert load_split(world, "train", skip_missing_media=True)["id"] == rest["id"]


def test_a_row_may_have_sound_alone(world, processor):
    rows = json.loads((world / "val.json").read_text())
    del rows[0]["video_path"]
    (world / "val.json").write_text(json.dumps(rows))
    dataset = ClipDataset(load_split(world, "val"), processor)
    batch = TrainingCollator(processor)([dataset[0], dataset[1]])
    assert batch["video_mask"].tolist() == [False, True] and "audio_mask" not in batch


def test_one_id_for_two_files_is_refused(world):
    rows = json.loads((world / "val.json").read_text())
    rows[1]["youtube_id"] = rows[0]["youtube_id"]
    (world / "val.json").write_text(json.dumps(rows))
    with pytest.raises(DataError, match="give each clip an id of its own"):
        load_split(world, "val")


def test_coco_captions_must_belong_to_the_clips(world):
    coco = json.loads((world / "val_coco.json").read_text())
    coco["annotations"] = [item for item in coco["annotations"] if item["image_id"] != coco["images"][2]["id"]]
    (world / "val_coco.json").write_text(json.dumps(coco))
    with pytest.raises(DataError, match=f"no captions for 1 of 6 clips of val.json: {coco['images'][2]['id']}"):
        load_split(world, "val")
    (world / "val_coco.json").write_text("[1]")
    with pytest.raises(DataError, match="not in COCO's layout"):
        load_split(world, "val")


def test_what_is_wrong_with_several_splits_is_said_at_once(world):
    for split in ("train", "val"):
        next((world / split / "waveforms").iterdir()).unlink()
    with pytest.raises(DataError) as caught:
        load_splits(world, ["train", "val"])
    assert "1 of 24 clips" in str(caught.value) and "1 of 6 clips" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("5", "found int"),
        ('[{"caption": 3, "audio_path": "a.wav"}]', r"row 0 \(caption is a int"),
        ("{", "not readable as JSON"),
        ("[]", "expected a list of rows, one per clip, found list of 0"),
        ('[{"audio_path": "a.wav"}, 3]', r"2 of 2 rows cannot be used: row 0 \(no caption\), row 1 \(a int"),
        ('[{"caption": "rain"}]', r"row 0 \(neither audio_path nor video_path\)"),
    ],
)
def test_bad_annotations_are_refused_with_all_reasons(tmp_path, text, message):
    (tmp_path / "val.json").write_text(text)
    with pytest.raises(DataError, match=message):
        load_split(tmp_path, "val")


def test_an_unknown_split_is_named(tmp_path):
    with pytest.raises(DataError, match=r"dev\.json: no such file"):
        load_split(tmp_path, "dev")


def test_cached_features_are_read_once_and_equal(toy_world, processor):
    rows = load_split(toy_world, "val")
    cached, plain = ClipDataset(rows, processor, cache=True).preload("Reading"), ClipDataset(rows, processor)
    assert cached[2]["features"]["input_features"] is cached[2]["features"]["input_features"]
    for name, value in plain[2]["features"].items():
        assert torch.equal(value, cached[2]["features"][name])


def test_all_unreadable_clips_are_listed_before_anything_is_done(world, processor):
    rows = load_split(world, "val")
    Path(rows[1]["audio"]).write_bytes(b"noise")
    Path(rows[4]["frames"][7]).write_bytes(b"noise")
    with pytest.raises(DataError, match="2 of 6 clips cannot be read") as caught:
        ClipDataset(rows, processor, cache=True).preload("Reading")
    assert rows[1]["audio"] in str(caught.value) and rows[4]["frames"][7] in str(caught.value)


def test_rows_that_a_baseline_cannot_use_are_named(toy_world, fitting_config, tokenizer):
    rows = load_split(toy_world, "train")
    config = tiny_config(fusion="audio_only", text_config={"vocab_size": fitting_config.text_config.vocab_size})
    silent = Dataset.from_list([{**row, "audio": None} if index < 2 else row for index, row in enumerate(rows)])
    hearing = LavcapProcessor.from_config(config, tokenizer)
    names = f"{rows[0]['id']}, {rows[1]['id']}"
    with pytest.raises(DataError, match=f"2 of 24 clips have no audio.*leave out their rows: {names}"):
        check_usable(silent, hearing)
    check_usable(silent, LavcapProcessor.from_config(fitting_config, tokenizer))


def test_hidden_modalities_come_at_the_set_rates_and_stay_in_the_batch(toy_world, processor):
    item = ClipDataset(load_split(toy_world, "val"), processor)[0]
    torch.manual_seed(0)
    batch = TrainingCollator(processor, audio_only_rate=0.3, video_only_rate=0.2)([item] * 400)
    heard, seen = batch["audio_mask"], batch["video_mask"]
    assert (heard | seen).all()
    assert (~seen).float().mean() == pytest.approx(0.3, abs=0.07)
    assert (~heard).float().mean() == pytest.approx(0.2, abs=0.07)
    placeholders = (batch["input_ids"] == processor.av_token_id).sum(dim=1)
    assert torch.equal(placeholders, 3 * heard + 4 * seen)
    assert batch["input_features"].abs().sum(dim=(1, 2)).min() > 0


@pytest.mark.parametrize("rates", [(0.7, 0.4), (-0.1, 0.0)])
def test_impossible_rates_are_refused(processor, rates):
    with pytest.raises(ValueError, match="expected shares of the training clips"):
        TrainingCollator(processor, *rates)


def test_evaluation_batches_hold_the_prompt_alone_beside_the_labels(toy_world, processor):
    dataset = ClipDataset(load_split(toy_world, "val"), processor)
    batch = EvaluationCollator(processor)([dataset[0], dataset[1]])
    width = batch["generation_input_ids"].shape[1]
    assert torch.equal(batch["generation_input_ids"], batch["input_ids"][:, :width])
    assert (batch["labels"][:, :width] == -100).all() and (batch["labels"][:, width] != -100).all()
