"""Files that find no room: one line names the file or folder, whichever library writes, and nothing is left of it."""

import errno
import os
import resource
import sys

import numpy as np
import pyarrow as pa
import pytest
import torch
from interrupted_runs import limit_files
from pyarrow import parquet
from safetensors.torch import save_file

from lavcap.endings import errors_in_one_line
from lavcap.files import whole_file, whole_folder


@pytest.fixture
def small_files():
    """No file takes more than 1,000 bytes."""
    limit_files(1000)
    yield
    limit_files(resource.RLIM_INFINITY)


ZEROS = np.zeros(10_000)
WRITERS = {
    "text": lambda path: path.write_text("x" * 10_000),
    "array": lambda path: np.save(path.open("wb"), ZEROS),
    "pickle": lambda path: torch.save({"x": torch.from_numpy(ZEROS)}, path),
    "safetensors": lambda path: save_file({"x": torch.from_numpy(ZEROS)}, path),
    "parquet": lambda path: parquet.write_table(pa.table({"x": np.random.default_rng(0).random(10_000)}), path),
}


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
@pytest.mark.parametrize("whole", [whole_file, whole_folder])
def test_a_disk_that_is_full_is_named_whichever_library_writes(tmp_path, small_files, capsys, write, whole):
    place = tmp_path / "out" / "result"
    with pytest.raises(SystemExit), errors_in_one_line(), whole(place) as partial:
        write(partial / "file" if partial.is_dir() else partial)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {place}: could not be written (") and "; make room there, or " in line
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS])
def test_what_takes_no_more_is_told_with_what_to_do(tmp_path, capsys, number):
    with pytest.raises(SystemExit), errors_in_one_line(), whole_file(tmp_path / "a"):
        raise OSError(number, os.strerror(number), "/elsewhere")  # as of a copy, which names what it reads
    advice = "make room there, or have it written elsewhere."
    said = capsys.readouterr().err
    assert said == f"error: {tmp_path / 'a'}: could not be written ({os.strerror(number)}); {advice}\n"


def test_other_errors_keep_their_words(tmp_path):
    for error in (KeyError("a mistake"), RuntimeError("shapes differ"), PermissionError(errno.EACCES, "no", "b")):
        with pytest.raises(type(error)) as kept, whole_file(tmp_path / "a"):
            raise error
        assert kept.value is error


def test_a_full_standard_output_is_told(tmp_path, monkeypatch, capsys):
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        with pytest.raises(SystemExit), errors_in_one_line():
            print("a caption")
    assert capsys.readouterr().err.startswith("error: standard output: could not be written (No space left on device)")
