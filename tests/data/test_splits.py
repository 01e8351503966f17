"""Data sets in AudioCaps' layout: what is read, what is missing, and what a batch holds."""

import json
import shutil
from pathlib import Path

import pyarrow as pa
import pytest
from datasets import Dataset, load_dataset
from pyarrow import parquet
from tiny_models import tiny_config

from lavcap.data import manifest
from lavcap.data.manifest import FACTS, read_facts, read_manifest, shards_of, write_split
from lavcap.data.schema import CLIP_COLUMNS, DataError
from lavcap.data.splits import check_usable, load_split, load_splits, one_row_per_caption, read_split
from processing_lavcap import LavcapProcessor


@pytest.fixture
def world(toy_world, tmp_path):
    """A copy that a test may damage."""
    return shutil.copytree(toy_world, tmp_path / "world")


def test_rows_hold_existing_media_and_all_captions(toy_world):
    rows = load_split(toy_world, "test")
    assert len(rows) == 6
    for row in rows:
        folders = [Path(frame["path"]).parent.name for frame in row["frames"]]
        assert row["audio"]["path"].endswith(".wav") and folders == [f"frame_{number}" for number in range(20)]
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


def test_a_clip_without_captions_stays_one_training_row(prepared):
    captions = ([], None, ["rain", "wind"])
    rows = [row | {"captions": each} for row, each in zip(load_split(prepared, "train"), captions, strict=False)]
    write_split(prepared, "train", rows, {})
    flat = one_row_per_caption(load_split(prepared, "train"))
    assert flat["captions"] == [[], [], ["rain"], ["wind"]]
    assert flat["id"] == [rows[index]["id"] for index in (0, 1, 2, 2)]


def test_a_data_set_of_media_elsewhere_finds_them_whatever_folder_is_worked_in(world, tmp_path, monkeypatch):
    monkeypatch.chdir(world.parent)
    rows = load_split(world.name, "train")  # whose media bear names that hold for this folder
    write_split("captioned", "train", rows, {})
    monkeypatch.chdir(tmp_path)
    assert load_split(world.parent / "captioned", "train")["audio"] == load_split(world, "train")["audio"]


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


def test_bad_coco_captions_are_all_named(world):
    annotations = [3, {"caption": "rain"}, {"image_id": "a", "caption": 5}, {"image_id": "b", "caption": "wind"}]
    (world / "val_coco.json").write_text(json.dumps({"annotations": annotations}))
    message = r"3 of 4 annotations cannot be used: annotation 0 \(a int.*1 \(no image_id\).*2 \(a reference is a int"
    with pytest.raises(DataError, match=message):
        load_split(world, "val")


def test_what_is_wrong_with_several_splits_is_said_at_once(world):
    for split in ("train", "val"):
        next((world / split / "waveforms").iterdir()).unlink()
    with pytest.raises(DataError) as caught:
        load_splits([(world, "train"), (world, "val")])
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
        ('[{"caption": "rain", "audio_path": "../../a.wav"}]', r"audio_path '../../a\.wav' leads out of the data set"),
        ('[{"caption": "rain", "audio_path": "/etc/a.wav"}]', r"audio_path '/etc/a\.wav' leads out of the data set"),
        ('[{"caption": "rain", "video_path": "x/../../a.jpg"}]', r"video_path .* leads out of the data set"),
        ('[{"caption": "rain", "audio_path": "C:\\\\a.wav"}]', "leads out of the data set"),
        (
            '[{"caption": "rain", "audio_path": "a.wav", "start_time": 1e300}]',
            "start_time is 1e.300, expected seconds",
        ),
        (
            '[{"caption": "rain", "audio_path": "a.wav", "start_time": "x"}]',
            r"row 0 \(start_time is 'x', expected sec",
        ),
        ('[{"caption": "\\ud83d", "audio_path": "a.wav"}]', r"row 0 \(caption holds half of a surrogate pair"),
    ],
)
def test_bad_annotations_are_refused_with_all_reasons(tmp_path, text, message):
    (tmp_path / "val.json").write_text(text)
    with pytest.raises(DataError, match=message):
        load_split(tmp_path, "val")


def test_an_unknown_split_is_named(tmp_path):
    with pytest.raises(DataError, match=r"dev\.json: no such file"):
        load_split(tmp_path, "dev")


def test_rows_that_a_baseline_cannot_use_are_named(toy_world, fitting_config, tokenizer):
    rows = load_split(toy_world, "train")
    config = tiny_config(fusion="audio_only", text_config={"vocab_size": fitting_config.text_config.vocab_size})
    changed = [row | {"audio": None} if index < 2 else row for index, row in enumerate(rows)]
    silent = Dataset(pa.Table.from_pylist(changed, schema=CLIP_COLUMNS.arrow_schema))
    hearing = LavcapProcessor.from_config(config, tokenizer)
    names = f"{rows[0]['id']}, {rows[1]['id']}"
    with pytest.raises(DataError, match=f"2 of 24 clips have no audio.*leave out their rows: {names}"):
        check_usable(silent, hearing)
    check_usable(silent, LavcapProcessor.from_config(fitting_config, tokenizer))


@pytest.fixture
def prepared(world):
    """A manifest of the training clips, less one that is missing."""
    rows = list(load_split(world, "train"))
    (world / "train.json").unlink()
    write_split(world, "train", rows[1:], {"expected": 24, "missing": {rows[0]["id"]: "no media"}})
    return world


def test_a_manifest_takes_the_place_of_the_layout(prepared):
    rows, missing = read_split(prepared, "train")
    assert len(rows) == 23 and list(missing.values()) == ["no media"]
    assert all(Path(frame["path"]).is_file() for row in rows for frame in [row["audio"], *row["frames"]])
    # What its preparation left out was reported then, and stops nothing.
    assert load_split(prepared, "train")["id"] == rows["id"]


def test_a_prepared_folder_may_move(prepared, tmp_path):
    moved = prepared.rename(tmp_path / "somewhere else")
    audio = load_split(moved, "train")[3]["audio"]["path"]
    assert Path(audio).is_file() and audio.startswith(str(moved))


def test_a_manifest_is_a_data_set_for_others_too(prepared):
    rows = load_dataset(str(prepared))["train"]
    assert rows.features == CLIP_COLUMNS and rows["id"] == load_split(prepared, "train")["id"]


MEDIUM = pa.struct({"bytes": pa.binary(), "path": pa.string()})
LARGE_MEDIUM = pa.struct({"path": pa.large_string(), "size": pa.int8(), "bytes": pa.large_binary()})


@pytest.mark.parametrize(
    ("medium", "lists"), [(MEDIUM, pa.list_(MEDIUM)), (LARGE_MEDIUM, pa.large_list(LARGE_MEDIUM)), (MEDIUM, pa.null())]
)
def test_paths_of_a_manifest_become_absolute_whatever_its_writer_calls_the_types(medium, lists, tmp_path, monkeypatch):
    monkeypatch.setattr(manifest, "ROWS_AT_A_TIME", 2)

    def placed(folder: str) -> tuple[list, list]:
        below, absolute = {"bytes": None, "path": f"{folder}a.wav"}, {"bytes": None, "path": "/b.wav"}
        held = {"bytes": b"", "path": "c.wav"}
        frames = [[below, absolute], None, [], [None, held]]
        return [below, None, held, absolute], [None] * 4 if lists == pa.null() else frames

    audio, frames = (pa.array(each, kind) for each, kind in zip(placed(""), (medium, lists), strict=True))
    names, numbers = ["a", "b", "c", "d"], pa.array([0] * 4)
    columns = [names, pa.nulls(4), numbers, numbers, audio, frames, [["a"], [], None, ["b", "c"]]]
    (tmp_path / "data").mkdir()
    parquet.write_table(pa.table(columns, list(CLIP_COLUMNS)), tmp_path / "data" / "train-00000-of-00001.parquet")
    rows = read_manifest(tmp_path, "train")
    assert rows.features == CLIP_COLUMNS and rows["id"][:] == names
    assert (rows["audio"][:], rows["frames"][:]) == placed(f"{tmp_path}/")


def test_splits_of_a_manifest_do_not_disturb_each_other(prepared):
    rows = list(read_manifest(prepared, "train"))
    write_split(prepared, "train_small", rows[:2], {"expected": 2})
    assert len(read_manifest(prepared, "train")) == 23 and len(read_manifest(prepared, "train_small")) == 2
    assert set(read_facts(prepared)) == {"train", "train_small"}
    write_split(prepared, "train", rows[:5], {"expected": 5})
    assert len(read_manifest(prepared, "train")) == 5 and len(shards_of(prepared, "train")) == 1


def test_bad_manifests_are_refused(prepared):
    file = shards_of(prepared, "train")[0]
    Dataset.from_dict({"id": ["a"]}).to_parquet(file)
    with pytest.raises(DataError, match="lacks the columns youtube_id"):
        load_split(prepared, "train")
    file.write_bytes(b"noise")
    with pytest.raises(DataError, match="not readable as parquet"):
        load_split(prepared, "train")
    (prepared / "manifest.json").write_text("{")
    with pytest.raises(DataError, match="not readable as JSON"):
        load_split(prepared, "train")


@pytest.mark.parametrize("embedded", [False, True])
def test_two_rows_of_one_id_are_refused(prepared, embedded):
    rows = load_split(prepared, "train").to_list()[:3]
    write_split(prepared, "train", [*rows, rows[2] | {"audio": rows[0]["audio"]}], {"embedded": embedded})
    with pytest.raises(
        DataError, match=r"row 3 has the id (\S+) of row 2 of train-00000-of-00001\.parquet; give each"
    ):
        load_split(prepared, "train")


@pytest.mark.parametrize(
    "content",
    ["null", "7", "[1]", '{"val": null}', '{"val": [[]]}', *(f'{{"val": {{"{name}": [[7]]}}}}' for name in FACTS)],
)
def test_a_manifest_of_other_kinds_is_refused_in_one_line(prepared, content):
    (prepared / "manifest.json").write_text(content)
    with pytest.raises(DataError, match=r"manifest\.json: .*; prepare the data set again\.$") as refused:
        load_split(prepared, "val")
    assert "\n" not in str(refused.value)


def test_a_list_of_failed_features_of_another_kind_is_refused(prepared):
    folder = prepared / "visual_feature" / "val"
    folder.mkdir(parents=True)
    (folder / "failed.json").write_text("[7]")
    with pytest.raises(DataError, match=r"failed\.json: holds a list, expected an object; extract the features again"):
        load_split(prepared, "val")
