"""Ten thousand damaged files: each is read or refused in a line of ours, in seconds, within the memory of its bounds.

Few of them in `make test`, with a seed of their own; `make hostile` takes all.
"""

import json
import os
import subprocess
import sys

import pytest
from hostile import KINDS
from stranger import import_path

from conftest import ROOT


MOST_MIB, MOST_SECONDS = 1024, 60  # of one file; the machine may have other work
MOST_OF_ALL = 1800  # seconds, of a process


def run(seed: int, count: int, *kinds: str) -> dict[str, dict]:
    environment = os.environ | {"PYTHONPATH": import_path(), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, ROOT / "tests" / "support" / "hostile.py", str(seed), str(count), *kinds]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT, timeout=MOST_OF_ALL)
    assert done.returncode == 0, f"{kinds}, seed {seed}: ended by {done.returncode}\n{done.stderr[-2000:]}"
    return json.loads(done.stdout)


def assert_held(found: dict, count: int):
    assert found["foreign"] == [] and sum(found["outcomes"].values()) == count
    assert found["longest"] < MOST_SECONDS and found["grown_mib"] < MOST_MIB
    assert min(found["outcomes"].get(outcome, 0) for outcome in ("read", "refused")) > count / 100


def test_some_damaged_files_are_read_or_refused_in_one_line():
    quick = [kind for kind in KINDS if kind != "settings"]  # of which each is a model to load
    for found in run(42, 100, *quick).values():
        assert_held(found, 100)
    assert_held(run(42, 30, "settings")["settings"], 30)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("kind", KINDS)
def test_thousands_of_damaged_files_are_read_or_refused_in_one_line(kind, seed):
    count = 100 if kind == "settings" else 500
    assert_held(run(seed, count, kind)[kind], count)
