"""Test clips do not choose checkpoints: refused by name and by content, and marked where it is allowed."""

import json
import shutil

import pytest

from lavcap.data import load_split
from lavcap.manifest import DataError, write_split
from lavcap.selection import audiocaps_test_ids, check_selection, clips_of_a_test, source_ids
from lavcap.training_data import DataArguments, load_rows


@pytest.fixture
def world(toy_world, tmp_path):
    return shutil.copytree(toy_world, tmp_path / "world")


def test_the_list_is_the_one_that_lavcap_and_avcap_report_on():
    ids = audiocaps_test_ids()
    assert len(ids) == 944 and {"7fmOlUlwoNg", "6BJ455B1aAs", "_xylo5_IiaM"} <= ids
    assert all(len(name) == 11 for name in ids)


@pytest.mark.parametrize("split", ["test", "Test", "audiocaps_test", "test_v2", "test-944"])
def test_a_split_that_is_called_test_is_refused(tmp_path, split):
    with pytest.raises(DataError, match="--select_model_on_test_split true, which marks all results"):
        check_selection(["a", "b"], tmp_path, split, allowed=False)
    assert check_selection(["a", "b"], tmp_path, split, allowed=True) is True


def test_names_that_only_contain_the_letters_are_no_test(tmp_path):
    assert check_selection(["a"], tmp_path, "latest", allowed=False) is False


def test_a_renamed_test_split_is_known_by_its_clips(world):
    for end in (".json", "_coco.json"):
        shutil.copy(world / f"test{end}", world / f"valid{end}")
    shutil.copytree(world / "test", world / "valid")
    with pytest.raises(DataError, match="6 of 6 clips of the validation split 'valid' are clips of a test split"):
        load_rows(DataArguments(data_dir=str(world), validation_split="valid"))
    rows = load_rows(DataArguments(data_dir=str(world), validation_split="valid", select_model_on_test_split=True))
    assert rows.note["selected_on_test"] is True
    assert load_rows(DataArguments(data_dir=str(world))).note["selected_on_test"] is False


def test_one_clip_of_audiocaps_own_test_list_is_enough(world):
    rows = json.loads((world / "val.json").read_text())
    rows[2]["youtube_id"] = "7fmOlUlwoNg"
    (world / "val.json").write_text(json.dumps(rows))
    (world / "val_coco.json").unlink()
    with pytest.raises(DataError, match=r"1 of 6 clips .* \(7fmOlUlwoNg, …\)"):
        load_rows(DataArguments(data_dir=str(world)))


def test_clips_are_known_by_what_they_were_taken_from(world):
    row = load_split(world, "val")[0] | {"id": "7fmOlUlwoNg_20000_30000", "youtube_id": "7fmOlUlwoNg"}
    write_split(world, "chosen", [row], {})
    assert clips_of_a_test(source_ids(load_split(world, "chosen")), world) == ["7fmOlUlwoNg"]
    assert clips_of_a_test(load_split(world, "val")["id"], world) == []


def test_training_on_test_clips_is_said_and_noted(world, caplog):
    rows = load_rows(DataArguments(data_dir=str(world), train_split="test"))
    assert "6 of 6 clips of test are clips of a test split" in caplog.text
    assert rows.note["trained_on_test_clips"] == 6
