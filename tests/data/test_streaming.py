"""Streams of shards: every row once, in an order of the seed's, by any number of processes, from any place."""

import os
import shutil
from collections import Counter
from itertools import chain
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from datasets import load_dataset
from media_files import write_media
from pyarrow import parquet
from stranger import run_inside
from torch.utils.data import DataLoader

from lavcap.data.augmentation import Augmentation
from lavcap.data.collation import TrainingCollator
from lavcap.data.dataset import ClipDataset, read_features
from lavcap.data.manifest import read_facts, shards_of, write_parquet, write_split
from lavcap.data.schema import SHARD_COLUMNS, DataError
from lavcap.data.shards import find_shards, write_shards
from lavcap.data.splits import load_split
from lavcap.data.streaming import ClipStream
from lavcap.training.arguments import DataArguments
from lavcap.training.data import as_model_inputs, load_rows
from sources_captioning import StoredFile


@pytest.fixture(scope="module")
def shards(toy_world, tmp_path_factory) -> Path:
    """24 training clips with a caption each, in 5 files, and 6 test clips with five captions each, in 2 files."""
    folder = tmp_path_factory.mktemp("streams") / "shards ü"
    options = ("--data_dir", toy_world, "--split", "train", "test", "--output", folder, "--rows_per_shard", 5)
    done = run_inside("scripts/write_shards.py", *options)
    assert done.returncode == 0 and "24 clips of train" in done.stdout, done.stderr
    return folder


@pytest.fixture(scope="module")
def stream(shards, processor):
    """Streams of the shards, whose clips are read once; keywords as of `ClipStream`."""
    read = {}

    def read_once(row, *options):
        if row["id"] not in read:
            read[row["id"]] = read_features(row, *options)
        return dict(read[row["id"]])

    def build(batch_size: int = 4, epoch: int = 0, split: str = "train", **options) -> ClipStream:
        built = ClipStream(find_shards(shards, split), processor, batch_size, **options)
        built.set_epoch(epoch)
        return built

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lavcap.data.streaming.read_features", read_once)
        yield build


def keys(items) -> list[tuple[str, str]]:
    return [(item["id"], item["captions"][0]) for item in items]


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_stream_gives_every_caption_once_with_the_features_of_its_clip(stream, toy_world, processor, split):
    rows = load_split(toy_world, split)
    items = list(stream(split=split))
    assert len(items) == len(stream(split=split)) == {"train": 24, "test": 30}[split]
    wanted = [(row["id"], caption) for row in rows for caption in row["captions"]]
    assert Counter(keys(items)) == Counter(wanted) and keys(items) != wanted
    row = next(row for row in rows if row["id"] == items[7]["id"])
    for name, value in read_features(row, processor).items():
        assert torch.equal(items[7]["features"][name], value)


def test_seeds_and_epochs_give_other_orders_and_the_same_ones_again(stream):
    first = keys(stream(seed=1))
    assert first == keys(stream(seed=1)) != keys(stream(seed=2))
    assert Counter(first) == Counter(keys(stream(seed=1, epoch=1))) and first != keys(stream(seed=1, epoch=1))


def test_draws_are_those_of_a_map_style_set(stream, toy_world, processor):
    rows = load_split(toy_world, "train")
    item = next(iter(stream(seed=3, epoch=2)))
    clip = rows.select([rows["id"].index(item["id"])]).map(lambda _: {"captions": item["captions"]})
    dataset = ClipDataset(clip, processor, seed=3)
    dataset.set_epoch(2)
    assert dataset[0]["seed"] == item["seed"]


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # more processes than this machine has cores
@pytest.mark.parametrize("workers", [1, 3, 7])
def test_loader_processes_change_nothing(stream, workers):
    plain = [keys(batch) for batch in DataLoader(stream(), batch_size=4, collate_fn=list)]
    loader = DataLoader(stream(), batch_size=4, collate_fn=list, num_workers=workers)
    assert [keys(batch) for batch in loader] == plain
    assert len(loader) == len(plain) == 6


@pytest.mark.parametrize(("processes", "batch_size"), [(2, 4), (2, 5), (3, 7), (4, 50)])
def test_processes_share_the_rows_without_overlap_or_loss(stream, processes, batch_size):
    """24 rows; what fills up the last batch are the first rows, for all processes must take as many steps."""
    parts = [list(stream(batch_size, process_index=index, num_processes=processes)) for index in range(processes)]
    assert len({len(part) for part in parts}) == 1
    lengths = {len(stream(batch_size, process_index=index, num_processes=processes)) for index in range(processes)}
    assert lengths == {len(parts[0])}
    step = batch_size * processes
    starts = range(0, len(parts[0]), batch_size)
    together = [item for start in starts for part in parts for item in part[start : start + batch_size]]
    alone = keys(stream(batch_size))
    assert keys(together[:24]) == alone and keys(together[24:]) == (alone * 8)[: -24 % step]
    assert ["repeated" in item for item in together] == [False] * 24 + [True] * (-24 % step)


def test_the_batches_before_an_interruption_are_not_decoded_again(stream, processor, monkeypatch):
    whole = [keys(batch) for batch in DataLoader(stream(), batch_size=4, collate_fn=list)]
    decoded = []
    monkeypatch.setattr(
        "lavcap.data.streaming.read_features",
        lambda row, *_: decoded.append(row["id"]) or read_features(row, processor),
    )
    resumed = stream()
    resumed.set_epoch(0, skipped_batches=4)
    batches = list(DataLoader(resumed, batch_size=4, collate_fn=list))
    assert len(batches) == 6 and [keys(batch) for batch in batches[4:]] == whole[4:] and len(decoded) == 8
    collator = TrainingCollator(processor)
    assert [dict(collator(batch)) for batch in batches[:4]] == [{}] * 4


def test_shards_hold_what_is_needed_and_are_a_data_set_for_others(shards, toy_world):
    files = shards_of(shards, "train")
    assert [file.name for file in files] == [f"train-{number:05}-of-00005.parquet" for number in range(5)]
    rows = load_dataset(str(shards))["train"]
    originals = {row["id"]: row for row in load_split(toy_world, "train")}
    for row in rows:
        original = originals.pop(row["id"])
        assert row["audio"]["bytes"] == Path(original["audio"]["path"]).read_bytes()
        assert [frame["bytes"] for frame in row["frames"]] == [
            Path(frame["path"]).read_bytes() for frame in original["frames"]
        ]
    assert not originals


def test_shards_can_be_read_by_index_too(shards, toy_world, processor):
    rows = load_split(shards, "train")
    assert set(rows["id"]) == set(load_split(toy_world, "train")["id"])
    assert set(ClipDataset(rows, processor)[0]["features"]) == {"input_features", "pixel_values_videos"}


def test_of_a_film_its_sound_alone_goes_in(tmp_path, processor):
    film = write_media(tmp_path / "film.mp4", seconds=0.4)
    row = {"id": "a", "audio": {"bytes": None, "path": str(film)}, "frames": None, "captions": ["a beep"]}
    write_split(tmp_path / "prepared", "train", [row], {})
    write_shards(load_split(tmp_path / "prepared", "train"), tmp_path / "shards", "train", {})
    stored = load_dataset(str(tmp_path / "shards"))["train"][0]["audio"]["bytes"]
    assert len(stored) < 14_000
    heard, expected = (processor.load_clip(file, video=False).waveform for file in (StoredFile("a", stored), film))
    np.testing.assert_allclose(heard, expected, atol=1 / 32767)


def test_a_clip_without_captions_is_streamed_once(toy_world, tmp_path, processor):
    first, *rest = load_split(toy_world, "val")
    rows = [first | {"captions": []}, *rest]
    write_split(tmp_path / "prepared", "val", rows, {})
    write_shards(load_split(tmp_path / "prepared", "val"), tmp_path / "shards", "val", {})
    items = list(ClipStream(find_shards(tmp_path / "shards", "val"), processor, 4))
    assert [item["captions"] for item in items if item["id"] == rows[0]["id"]] == [[]] and len(items) == 26


def test_shards_that_cannot_be_streamed_are_refused(shards, toy_world, tmp_path):
    with pytest.raises(DataError, match="write them with scripts/write_shards.py"):
        find_shards(tmp_path, "train")
    write_split(tmp_path, "train", list(load_split(toy_world, "train")), {})
    with pytest.raises(DataError, match="holds paths of media, expected the media themselves"):
        find_shards(tmp_path, "train")
    with pytest.raises(DataError, match="holds shards of train; name another --output"):
        write_shards(load_split(toy_world, "train"), shards, "train", {})
    part = tmp_path / "part" / "data"
    part.mkdir(parents=True)
    for file in shards_of(shards, "train")[1:]:
        (part / file.name).hardlink_to(file)
    with pytest.raises(DataError, match="4 of 5 shards of train; copy or write them again"):
        find_shards(tmp_path / "part", "train")


BAD_SHARDS = {
    "renamed columns": (
        lambda table: table.rename_columns({"audio": "sound"}),
        "lacks the columns audio, found id, yo",
    ),
    "whole numbers as ids": (
        lambda table: with_column(table, "id", pa.array(range(len(table)))),
        "its column id holds int64, expected string",
    ),
    "no ids": (lambda table: with_column(table, "id", pa.nulls(len(table), pa.string())), "row 0 has no id"),
    "text as sound": (
        lambda table: with_column(table, "audio", pa.array(["a.wav"] * len(table))),
        "its column audio holds string, expected struct<bytes: binary, path: string>",
    ),
    "sound without bytes": (
        lambda table: with_column(table, "audio", pa.array([{"path": "a.wav"}] * len(table))),
        "its column audio holds struct<path: string>, expected struct",
    ),
    "one text as captions": (
        lambda table: with_column(table, "captions", pa.array(["rain"] * len(table))),
        "its column captions holds string, expected list<",
    ),
    "no rows": (lambda table: table.slice(0, 0), "holds no rows, expected some"),
}


def with_column(table: pa.Table, name: str, values: pa.Array) -> pa.Table:
    return table.set_column(table.column_names.index(name), name, values)


@pytest.fixture
def second_shard(shards, tmp_path) -> Path:
    """The second file of a copy of the training shards, which a test may damage."""
    shutil.copytree(shards / "data", tmp_path / "data")
    return shards_of(tmp_path, "train")[1]


@pytest.mark.parametrize("fault", BAD_SHARDS)
def test_a_shard_of_other_rows_is_refused_by_its_name(second_shard, tmp_path, fault):
    change, message = BAD_SHARDS[fault]
    parquet.write_table(change(parquet.read_table(second_shard)), second_shard)
    with pytest.raises(DataError) as refused:
        find_shards(tmp_path, "train")
    assert str(refused.value).startswith(f"{second_shard}: {message}") and "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (Path.mkdir, "is a folder, expected a file"),
        (lambda path: path.write_text("id,captions\n"), "not readable as parquet ("),
        (os.mkfifo, "is a pipe or a device, expected a regular file"),
    ],
)
def test_what_is_no_shard_is_refused_by_its_name(second_shard, tmp_path, damage, message):
    second_shard.unlink()
    damage(second_shard)
    with pytest.raises(DataError) as refused:
        find_shards(tmp_path, "train")
    assert str(refused.value).startswith(f"{second_shard}: {message}") and "\n" not in str(refused.value)


def test_shards_of_other_writers_are_taken(second_shard, tmp_path, processor):
    """Large strings, null where no clip has a value, empty captions among others, and columns of their own."""
    table = parquet.read_table(second_shard)
    table = with_column(table, "id", table["id"].cast(pa.large_string()))
    table = with_column(table, "youtube_id", pa.nulls(len(table)))
    table = with_column(table, "captions", pa.array([[None, "rain", " "]] * len(table)))
    parquet.write_table(table.append_column("mine", pa.array(range(len(table)))), second_shard)
    second_shard.rename(tmp_path / "data" / "other-00000-of-00001.parquet")
    rows = ClipStream(find_shards(tmp_path, "other"), processor, 4)._rows(0)
    assert [row["captions"] for row in rows] == [["rain"]] * len(table)


@pytest.mark.parametrize("captions", [None, [], [None, " "]])
def test_shards_without_any_caption_are_no_use_to_a_model_that_learns_from_captions(
    second_shard, toy_world, tmp_path, model, processor, captions
):
    rows = [row | {"captions": captions, "youtube_id": None} for row in parquet.read_table(second_shard).to_pylist()]
    write_parquet(tmp_path / "data" / "none-00000-of-00001.parquet", rows, SHARD_COLUMNS)
    fields = {"data_dir": str(tmp_path), "train_split": "none", "validation_data_dir": str(toy_world)}
    arguments = DataArguments(streaming=True, **fields)
    with pytest.raises(DataError, match="no clip of none has a caption, and LavcapForCond.* learns from captions"):
        as_model_inputs(load_rows(arguments), arguments, model, processor, None)


def test_an_interrupted_writer_leaves_no_shards(toy_world, tmp_path):
    rows = load_split(toy_world, "train")
    clips = chain(range(12), [None])

    def interrupt():
        if next(clips) is None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_shards(rows, tmp_path, "train", {}, rows_per_shard=5, on_clip=interrupt)
    assert shards_of(tmp_path, "train") == [] and "train" not in read_facts(tmp_path)
    write_shards(rows, tmp_path, "train", {}, rows_per_shard=5)
    assert len(find_shards(tmp_path, "train")) == 5


def test_streams_are_augmented_as_any_other_set(stream, processor):
    collator = TrainingCollator(processor, Augmentation(time_mask=20, instructions=("What is heard?",)))
    batches = list(DataLoader(stream(), batch_size=4, collate_fn=collator))
    again = list(DataLoader(stream(), batch_size=4, collate_fn=collator, num_workers=2))
    for one, two in zip(batches, again, strict=True):
        assert torch.equal(one["input_features"], two["input_features"])
