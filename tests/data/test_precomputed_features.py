"""Stored visual features: equal to those of the frames, resumable, and refused where they are not the model's."""

import copy
import json
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from stranger import run_inside
from tiny_models import tiny_config, tiny_model
from transformers import CLIPVisionModelWithProjection

from lavcap.data.dataset import ClipDataset, read_features
from lavcap.data.precomputed_features import check_features_fit, encoder_name, note_encoder
from lavcap.data.schema import DataError, stored_features_of
from lavcap.data.shards import find_shards, write_shards
from lavcap.data.splits import check_usable, load_split, one_row_per_caption, read_split
from lavcap.data.streaming import ClipStream
from lavcap.training.data import DataArguments, TrainingRows, as_model_inputs
from processing_lavcap import LavcapProcessor
from sources_captioning import MediaError


def extract(data_dir: Path, *options: object, split: str = "val") -> subprocess.CompletedProcess:
    command = ("scripts/extract_visual_features.py", "--data_dir", data_dir, "--split", split, "--device", "cpu")
    return run_inside(*command, *options)


@pytest.fixture(scope="module")
def world(toy_world, saved_model, tmp_path_factory):
    """A world whose validation split has features of the saved model."""
    world = shutil.copytree(toy_world, tmp_path_factory.mktemp("features") / "world")
    done = extract(world, "--model", saved_model, "--batch_size", 4)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "features of 6 clips by model; 0 clips have no picture" in done.stdout
    return world


@pytest.fixture
def damaged(world, tmp_path):
    """A copy that a test may damage."""
    return shutil.copytree(world, tmp_path / "damaged")


def test_stored_features_give_the_logits_of_the_frames(world, toy_world, model, processor):
    stored, seen = load_split(world, "val")[2], load_split(toy_world, "val")[2]
    assert stored["video_features"].endswith(f"{Path(seen['audio']['path']).stem}.npy")
    batches = [processor.batch([read_features(row, processor)], captions="rain falls") for row in (stored, seen)]
    assert "video_features" in batches[0] and "pixel_values_videos" in batches[1]
    with torch.no_grad():
        by_features, by_frames = (model(**batch).logits for batch in batches)
    torch.testing.assert_close(by_features, by_frames, atol=1e-5, rtol=1e-5)


def test_files_are_arrays_as_the_released_code_reads_them(world):
    files = sorted(stored_features_of(world, "val").glob("*.npy"))
    assert len(files) == 6
    for file in files:
        array = np.load(file)
        assert array.shape == (4, 24) and array.dtype == np.float32
    facts = json.loads((stored_features_of(world, "val") / "features.json").read_text())
    assert len(facts.pop("weights")) == 32
    assert facts == {
        "model": "model",
        "frame_sampler": "centres of equal parts",
        "num_frames": 4,
        "hidden_size": 24,
        "dtype": "float32",
    }


def test_a_second_run_does_what_is_left_and_nothing_else(damaged, saved_model):
    folder = stored_features_of(damaged, "val")
    gone, *kept = sorted(folder.glob("*.npy"))
    expected = np.load(gone)
    gone.unlink()
    with pytest.raises(DataError, match=f"lacks the features of 1 of 6 clips with frames \\({gone.name}, …\\)"):
        load_split(damaged, "val")
    times = [file.stat().st_mtime_ns for file in kept]
    assert extract(damaged, "--model", saved_model).returncode == 0
    assert np.allclose(np.load(gone), expected, atol=1e-6)
    assert [file.stat().st_mtime_ns for file in kept] == times


def test_features_of_another_origin_are_not_mixed(damaged, saved_model):
    kept = {file: file.read_bytes() for file in stored_features_of(damaged, "val").iterdir()}
    refused = extract(damaged, "--model", saved_model, "--dtype", "bfloat16")
    assert refused.returncode == 2 and "dtype 'float32', now 'bfloat16'" in refused.stderr
    assert {file: file.read_bytes() for file in stored_features_of(damaged, "val").iterdir()} == kept


def test_a_clip_with_unreadable_frames_costs_the_others_nothing(damaged, saved_model):
    shutil.rmtree(stored_features_of(damaged, "val"))
    row = load_split(damaged, "val")[3]
    Path(row["frames"][7]["path"]).write_bytes(b"noise")
    done = extract(damaged, "--model", saved_model)
    assert done.returncode == 2 and f"error: {row['id']}: " in done.stderr and "Traceback" not in done.stderr
    assert len(list(stored_features_of(damaged, "val").glob("*.npy"))) == 5
    rest, missing = read_split(damaged, "val")
    assert row["id"] not in rest["id"] and len(rest) == 5 and row["frames"][7]["path"] in missing[row["id"]]
    assert len(load_split(damaged, "val", skip_missing_media=True)) == 5
    shutil.copy(row["frames"][6]["path"], row["frames"][7]["path"])
    assert extract(damaged, "--model", saved_model).returncode == 0 and len(load_split(damaged, "val")) == 6


def test_clip_itself_gives_the_features_of_a_model_that_holds_it(toy_world, model, processor, tmp_path):
    world = shutil.copytree(toy_world, tmp_path / "world")
    model.vision_tower.save_pretrained(tmp_path / "my-clip")
    done = extract(world, "--model", tmp_path / "my-clip", "--num_frames", 4)
    assert done.returncode == 0, done.stderr[-2000:]
    row = load_split(world, "val")[0]
    pixels = read_features(load_split(toy_world, "val")[0], processor)["pixel_values_videos"]
    with torch.no_grad():
        expected = model.get_video_features(pixels[None]).pooler_output[0]
    torch.testing.assert_close(read_features(row, processor)["video_features"], expected, atol=1e-5, rtol=1e-5)


def test_half_precision_features_are_close(toy_world, saved_model, tmp_path, world):
    other = shutil.copytree(toy_world, tmp_path / "world")
    assert extract(other, "--model", saved_model, "--dtype", "bfloat16").returncode == 0
    for file in stored_features_of(other, "val").glob("*.npy"):
        exact = np.load(stored_features_of(world, "val") / file.name)
        assert 0 < np.square(np.load(file) - exact).mean() < 0.03**2 * np.square(exact).mean()


def test_released_features_take_the_place_of_frames(toy_world, processor, tmp_path, model):
    """Without features.json and without frames, in the layout of the released code."""
    world = shutil.copytree(toy_world, tmp_path / "world")
    shutil.rmtree(world / "val" / "frames")
    folder = stored_features_of(world, "val")
    folder.mkdir(parents=True)
    arrays = {}
    for row in json.loads((world / "val.json").read_text()):
        arrays[row["youtube_id"]] = np.random.default_rng(0).normal(size=(4, 24)).astype(np.float16)
        np.save(folder / row["audio_path"].replace(".wav", ".npy"), arrays[row["youtube_id"]])
    rows = load_split(world, "val")
    item = ClipDataset(rows, processor)[1]
    assert np.array_equal(item["features"]["video_features"].numpy(), arrays[item["id"]].astype(np.float32))
    check_features_fit(model, processor, world, "val", rows[0]["video_features"])
    next(folder.glob("*.npy")).unlink()  # a clip with neither frames nor features lacks its picture
    with pytest.raises(DataError, match="1 of 6 clips lack media"):
        load_split(world, "val")


def test_a_picture_alone_may_be_stored(damaged, fitting_config, tokenizer):
    config = tiny_config(fusion="video_only", text_config={"vocab_size": fitting_config.text_config.vocab_size})
    check_usable(load_split(damaged, "val"), LavcapProcessor.from_config(config, tokenizer))


def test_features_of_another_encoder_stop_with_both_names(world, model, processor):
    example = load_split(world, "val")[0]["video_features"]
    for name, said in (
        ("openai/clip-vit-base-patch32", "clip-vit-base-patch32"),
        ("model", "model"),
        (None, "a fresh one"),
    ):
        other = tiny_model(vision_model_name=name)
        torch.nn.init.normal_(other.vision_tower.visual_projection.weight)
        with pytest.raises(DataError, match=rf"model 'model \(\w{{8}}\)', the model's is '{said} \(\w{{8}}\)'"):
            check_features_fit(other, processor, world, "val", example)
    longer = copy.deepcopy(processor)
    longer.num_video_frames = 6
    with pytest.raises(DataError, match="num_frames 4, the model's is 6"):
        check_features_fit(model, longer, world, "val", example)
    wide = tiny_model(vision_config={"projection_dim": 32}, audio_config={"hidden_size": 32, "num_attention_heads": 4})
    with pytest.raises(DataError, match="hidden_size 24, the model's is 32"):
        check_features_fit(wide, processor, world, "val", example)
    named = tiny_model(has_vision_tower=False, vision_model_name="openai/clip-vit-base-patch32")
    with pytest.raises(DataError, match="model 'model', the model's is 'clip-vit-base-patch32'"):
        check_features_fit(named, processor, world, "val", example)


def test_a_model_is_known_by_its_encoders_weights_not_by_its_name(world, model, processor, saved_model, tmp_path):
    example = load_split(world, "val")[0]["video_features"]
    for dtype in (torch.float32, torch.bfloat16):
        copied = type(model).from_pretrained(shutil.copytree(saved_model, tmp_path / str(dtype)), dtype=dtype)
        check_features_fit(copied, processor, world, "val", example)
        note_encoder(copied, world, "val", example)
        assert copied.config.vision_model_name == "model"


def test_features_follow_frames_that_change(damaged, saved_model):
    row = load_split(damaged, "val")[1]
    before = np.load(row["video_features"])
    for frame in row["frames"]:
        Image.new("RGB", (64, 64), "red").save(frame["path"])
    assert extract(damaged, "--model", saved_model).returncode == 0
    assert not np.allclose(np.load(row["video_features"]), before, atol=0.1)


def test_features_are_not_extracted_of_shards(toy_world, saved_model, tmp_path):
    write_shards(load_split(toy_world, "val"), tmp_path, "val", {})
    refused = extract(tmp_path, "--model", saved_model)
    assert refused.returncode == 2 and "holds val as shards" in refused.stderr


def test_a_model_without_an_encoder_remembers_whose_features_it_learnt(world, processor):
    blind = tiny_model(has_vision_tower=False)
    note_encoder(blind, world, "val", load_split(world, "val")[0]["video_features"])
    assert blind.config.vision_model_name == "model"


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((4, 24, 1), np.float32), r"holds float32 of shape \(4, 24, 1\)"),
        (np.zeros((4, 24), np.int64), "holds int64"),
        (np.zeros((7, 24), np.float32), "npy: of 7 frames, expected 4"),
        (np.zeros((4, 10), np.float32), "npy: 10 wide, expected 24"),
        (np.full((4, 24), np.nan, np.float32), "expected finite"),
        (np.array([{}]), "not readable as an array"),
    ],
)
def test_files_that_are_no_features_are_refused(damaged, processor, array, message):
    row = load_split(damaged, "val")[0]
    np.save(row["video_features"], array)
    with pytest.raises(MediaError, match=message):
        read_features(row, processor, 24)


@pytest.mark.parametrize("streaming", [False, True])
def test_one_feature_file_of_another_width_is_a_broken_clip_of_its_own(damaged, processor, tmp_path, streaming):
    rows = load_split(damaged, "val")
    np.save(rows[0]["video_features"], np.zeros((4, 10), np.float32))
    facts = {"visual_features": json.loads((stored_features_of(damaged, "val") / "features.json").read_text())}
    write_shards(rows, tmp_path / "shards", "val", facts)
    args = DataArguments(str(tmp_path / "shards" if streaming else damaged), "val", "val", str(damaged))
    args.streaming = streaming
    train = find_shards(args.data_dir, "val") if streaming else one_row_per_caption(rows)
    run = SimpleNamespace(per_device_train_batch_size=2, seed=0, process_index=0, world_size=1)
    model = tiny_model(has_vision_tower=False)
    for items in as_model_inputs(TrainingRows(train, rows, {}, 1), args, model, processor, run):
        items = items if isinstance(items, ClipStream) else [items[index] for index in range(len(items))]
        assert {item["id"]: item["broken"] for item in items if "broken" in item}.keys() == {rows[0]["id"]}
    assert items[0]["broken"].endswith(".npy: 10 wide, expected 24 as the model's; extract it again.")


def test_a_model_knows_its_encoder_by_its_published_name(model, tmp_path):
    tower = CLIPVisionModelWithProjection(model.config.vision_config)
    tower.save_pretrained(tmp_path / "my-clip")
    loaded = type(model).from_parts(
        audio=model.audio_tower, vision=str(tmp_path / "my-clip"), text=model.language_model, num_video_frames=4
    )
    assert encoder_name(loaded) == "my-clip"
    loaded.save_pretrained(tmp_path / "saved")
    assert encoder_name(type(model).from_pretrained(tmp_path / "saved")) == "my-clip"
