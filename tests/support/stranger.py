"""Scripts in processes of their own, among them one that has the libraries but not this project."""

import io
import json
import os
import runpy
import subprocess
import sys
from contextlib import chdir, redirect_stderr, redirect_stdout
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from conftest import FLAT_FILES, ROOT


WITHOUT_PROJECT = f"""
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {sorted({"lavcap", *(path.stem for path in FLAT_FILES)})}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Absent())
"""


class Result(NamedTuple):
    """What a script printed, as JSON, and what it said on stderr."""

    printed: dict | list
    errors: str


def run_script(script: str, *arguments: str, folder: Path, **environment: str) -> Result:
    command = [sys.executable, "-c", script, *arguments]
    result = subprocess.run(command, cwd=folder, env=os.environ | environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return Result(json.loads(result.stdout), result.stderr)


def run_stranger(script: str, *arguments: str, folder: Path, **environment: str) -> Result:
    """As `run_script`, but of this project only what Transformers itself fetches can be imported."""
    return run_script(WITHOUT_PROJECT + script, *arguments, folder=folder, **environment)


def link_libraries(folder: Path) -> Path:
    """A folder to import from: the libraries of this environment, and nothing that makes this project importable."""
    folder.mkdir()
    for entry in Path(find_spec("torch").origin).parents[1].iterdir():
        if "lavcap" not in entry.name and entry.suffix != ".pth":
            (folder / entry.name).symlink_to(entry)
    return folder


def import_path() -> str:
    """`PYTHONPATH` of a process that imports modules of the tests, wherever these are."""
    return os.pathsep.join(filter(None, (str(ROOT), *sys.path)))


def run_inside(script: str, *arguments: object, folder: Path = ROOT) -> subprocess.CompletedProcess:
    """A script of this project run in this process and a working folder: seconds faster than one of its own."""
    output, errors = io.StringIO(), io.StringIO()
    argv, sys.argv = sys.argv, [script, *map(str, arguments)]
    try:
        with redirect_stdout(output), redirect_stderr(errors), chdir(folder):
            runpy.run_path(str(ROOT / script), run_name="__main__")
            code = 0
    except SystemExit as error:
        code = error.code or 0
    finally:
        sys.argv = argv
    return subprocess.CompletedProcess(argv, code, output.getvalue(), errors.getvalue())
