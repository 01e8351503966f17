"""What goes into shards is passed on: media of the data set, and of folders that the user names."""

import os
import shutil

import pytest
from stranger import run_inside

from lavcap.data.manifest import write_split
from lavcap.data.schema import DataError
from lavcap.data.shards import check_folders
from lavcap.data.splits import load_split


@pytest.fixture
def outside(toy_world, tmp_path):
    """A data set that names the media of another folder."""
    rows = load_split(toy_world, "val").to_list()
    write_split(tmp_path / "data", "val", rows, {"expected": len(rows)})
    return tmp_path / "data"


def test_media_of_other_folders_need_to_be_allowed(outside, toy_world, tmp_path):
    arguments = ("scripts/write_shards.py", "--data_dir", outside, "--split", "val", "--output", tmp_path / "shards")
    refused = run_inside(*arguments)
    assert refused.returncode == 2 and "lies outside of" in refused.stderr and "allow it: --media" in refused.stderr
    assert not (tmp_path / "shards").exists()
    allowed = run_inside(*arguments, "--media", toy_world)
    assert allowed.returncode == 0, allowed.stderr


def test_a_link_out_of_the_data_set_is_none_of_it(toy_world, tmp_path):
    folder = shutil.copytree(toy_world / "val", tmp_path / "world" / "val").parent
    for name in ("val.json", "val_coco.json"):
        shutil.copy(toy_world / name, folder)
    check_folders(load_split(folder, "val"), [folder])
    (folder / "val" / "waveforms").rename(tmp_path / "elsewhere")
    os.symlink(tmp_path / "elsewhere", folder / "val" / "waveforms")
    with pytest.raises(DataError, match=r"elsewhere/.*lies outside of"):
        check_folders(load_split(folder, "val"), [folder])
    check_folders(load_split(folder, "val"), [folder, tmp_path / "elsewhere"])
