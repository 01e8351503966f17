"""Clips as model features: what is cached, what cannot be read, and the seeds of their draws."""

import shutil
from pathlib import Path

import pytest
import torch
from media_files import write_media

from lavcap.data.dataset import ClipDataset, read_features
from lavcap.data.schema import DataError
from lavcap.data.splits import load_split, one_row_per_caption
from processing_avcap import AvcapFeatureExtractor, AvcapProcessor


def test_cached_features_are_read_once_and_equal(toy_world, processor):
    rows = load_split(toy_world, "val")
    cached, plain = ClipDataset(rows, processor, cache=True).preload("Reading"), ClipDataset(rows, processor)
    assert cached[2]["features"]["input_features"] is cached[2]["features"]["input_features"]
    for name, value in plain[2]["features"].items():
        assert torch.equal(value, cached[2]["features"][name])


def test_all_unreadable_clips_are_listed_before_anything_is_done(toy_world, tmp_path, processor):
    rows = load_split(shutil.copytree(toy_world, tmp_path / "world"), "val")
    names = rows[1]["audio"]["path"], rows[4]["frames"][7]["path"]
    for name in names:
        Path(name).write_bytes(b"noise")
    with pytest.raises(DataError, match="2 of 6 clips cannot be read") as caught:
        ClipDataset(rows, processor, cache=True).preload("Reading")
    assert all(name in str(caught.value) for name in names)


def test_media_that_are_held_in_memory_give_the_features_of_their_files(toy_world, processor):
    row = load_split(toy_world, "val")[0]

    def held(medium):
        return {"bytes": Path(medium["path"]).read_bytes(), "path": None}

    stored = row | {"audio": held(row["audio"]), "frames": [held(frame) for frame in row["frames"]]}
    expected = read_features(row, processor)
    for name, value in read_features(stored, processor).items():
        assert torch.equal(value, expected[name])


def test_a_sound_whose_rate_is_kept_has_the_features_of_its_file(avcap_processor, tmp_path):
    path = write_media(tmp_path / "tone.mp4", 0.4, video=None, rate=44100)
    extractor = AvcapFeatureExtractor(max_frames=48, keeps_rate=True)
    processor = AvcapProcessor(extractor, avcap_processor.image_processor, avcap_processor.tokenizer)
    row = {"audio": {"path": str(path), "bytes": None}, "frames": None}
    found = read_features(row, processor)["input_features"]
    torch.testing.assert_close(found, processor(path)["input_features"][0])


def test_draws_differ_by_caption_epoch_and_seed_and_by_nothing_else(toy_world, processor):
    rows = one_row_per_caption(load_split(toy_world, "val"))
    dataset = ClipDataset(rows, processor, cache=True, seed=3)
    seeds = [dataset[index]["seed"] for index in range(len(rows))]
    assert len(set(seeds)) == len(rows)
    dataset.set_epoch(1)
    later = [dataset[index]["seed"] for index in range(len(rows))]
    assert not set(later) & set(seeds)
    dataset.set_epoch(0)
    assert dataset[7]["seed"] == ClipDataset(rows.select([7]), processor, seed=3)[0]["seed"] == seeds[7]
    assert ClipDataset(rows, processor, seed=4)[7]["seed"] != seeds[7]


def test_loader_processes_that_already_run_see_the_epoch_change(toy_world, processor):
    rows = one_row_per_caption(load_split(toy_world, "val")).select(range(4))
    dataset = ClipDataset(rows, processor)
    loader = torch.utils.data.DataLoader(
        dataset, batch_size=2, num_workers=1, persistent_workers=True, collate_fn=lambda items: items
    )
    first = [item["seed"] for batch in loader for item in batch]
    dataset.set_epoch(1)
    assert not {item["seed"] for batch in loader for item in batch} & set(first)
