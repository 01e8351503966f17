"""Test clips do not choose checkpoints: refused by name and by content, and marked where it is allowed."""

import json
import shutil

import pytest

from lavcap.data.leakage import Origin, audiocaps_test_ids, check_selection, clips_of_a_test, keys_of_tests, origins
from lavcap.data.manifest import write_split
from lavcap.data.schema import DataError
from lavcap.data.splits import load_split
from lavcap.provenance import inherited_provenance, write_provenance
from lavcap.training.data import DataArguments, load_rows


@pytest.fixture
def world(toy_world, tmp_path):
    return shutil.copytree(toy_world, tmp_path / "world")


def test_the_list_is_the_one_that_lavcap_and_avcap_report_on():
    ids = audiocaps_test_ids()
    assert len(ids) == 944 and {"7fmOlUlwoNg", "6BJ455B1aAs", "_xylo5_IiaM"} <= ids
    assert all(len(name) == 11 for name in ids)


def clips(*names: str) -> list[Origin]:
    return [Origin(name, name) for name in names]


@pytest.mark.parametrize("split", ["test", "Test", "audiocaps_test", "test_v2", "test-944", "mytest", "testset"])
def test_a_split_that_is_called_test_is_refused(split):
    with pytest.raises(DataError, match="--select_model_on_test_split true, which marks all results"):
        check_selection(clips("a", "b"), frozenset(), split, allowed=False)
    assert check_selection(clips("a", "b"), frozenset(), split, allowed=True) is True


@pytest.mark.parametrize("split", ["latest", "val", "contest"])
def test_names_that_only_contain_the_letters_are_no_test(split):
    assert check_selection(clips("a"), frozenset(), split, allowed=False) is False


def test_a_renamed_test_split_is_known_by_its_clips(world):
    for end in (".json", "_coco.json"):
        shutil.copy(world / f"test{end}", world / f"valid{end}")
    shutil.copytree(world / "test", world / "valid")
    with pytest.raises(DataError, match="6 of 6 clips of the validation split 'valid' are clips of a test split"):
        load_rows(DataArguments(data_dir=str(world), validation_split="valid"))
    rows = load_rows(DataArguments(data_dir=str(world), validation_split="valid", select_model_on_test_split=True))
    assert rows.provenance["selected_on_test"] is True
    assert load_rows(DataArguments(data_dir=str(world))).provenance["selected_on_test"] is False


def test_a_test_split_is_known_in_whichever_of_the_folders_it_is(world, tmp_path):
    write_split(tmp_path / "other", "heldout", list(load_split(world, "test")), {})
    options = {"data_dir": str(world), "validation_data_dir": str(tmp_path / "other"), "validation_split": "heldout"}
    with pytest.raises(DataError, match="6 of 6 clips of the validation split 'heldout' are clips of a test split"):
        load_rows(DataArguments(**options))
    write_split(tmp_path / "both", "testing", list(load_split(world, "val")), {})
    with pytest.raises(DataError, match="6 of 6 clips of the validation split 'val' are clips of a test split"):
        load_rows(
            DataArguments(data_dir=str(tmp_path / "both"), train_split="testing", validation_data_dir=str(world))
        )


@pytest.mark.parametrize(
    "name",
    ["7fmOlUlwoNg", "Y7fmOlUlwoNg", "7fmOlUlwoNg_20000_30000", "Y7fmOlUlwoNg.wav", "7fmOlUlwoNg_20000_30000.mp4"],
)
def test_one_clip_of_audiocaps_own_test_list_is_enough(world, name):
    rows = json.loads((world / "val.json").read_text())
    rows[2]["youtube_id"] = name
    (world / "val.json").write_text(json.dumps(rows))
    (world / "val_coco.json").unlink()
    with pytest.raises(DataError, match=rf"1 of 6 clips .* \({name}, …\)"):
        load_rows(DataArguments(data_dir=str(world)))


def test_clips_are_known_by_what_they_were_taken_from(world):
    row = load_split(world, "val")[0] | {"id": "clip 1", "youtube_id": "7fmOlUlwoNg"}
    write_split(world, "chosen", [row], {})
    assert clips_of_a_test(origins(load_split(world, "chosen")), keys_of_tests([world])) == ["clip 1"]
    assert clips_of_a_test(origins(load_split(world, "val")), keys_of_tests([world])) == []


def test_ids_that_begin_anew_in_every_split_are_no_sign_of_a_test(tmp_path, world):
    for split in ("train", "val", "test"):
        rows = load_split(world, split)
        numbered = [row | {"id": str(number), "youtube_id": None} for number, row in enumerate(rows)]
        write_split(tmp_path, split, numbered, {})
    rows = load_rows(DataArguments(data_dir=str(tmp_path)))
    assert rows.provenance["selected_on_test"] is False and rows.provenance["trained_on_test_clips"] == 0


def test_training_on_test_clips_is_said_noted_and_inherited(world, tmp_path, caplog):
    rows = load_rows(DataArguments(data_dir=str(world), train_split="test"))
    assert "6 of 6 clips of test are clips of a test split" in caplog.text
    assert rows.provenance["trained_on_test_clips"] == 6
    write_provenance(tmp_path / "first", rows.provenance)
    write_provenance(tmp_path / "other", {"selected_on_test": True})
    later = inherited_provenance({"selected_on_test": False}, [tmp_path / "first", tmp_path / "other"])
    assert later == {"selected_on_test": True, "trained_on_test_clips": 6}
