"""What commands load before they know what they are asked for."""

import json
import subprocess
import sys

import pytest
from media_files import write_media

from conftest import ROOT


HELP = """
import json, runpy, sys
from contextlib import redirect_stdout
from io import StringIO

told = {}
for script in sys.argv[1:]:
    sys.argv, printed = [script, "--help"], StringIO()
    try:
        with redirect_stdout(printed):
            runpy.run_path(script, run_name="__main__")
    except SystemExit as stopped:
        loaded = sorted({"torch", "transformers", "numpy"} & {*sys.modules})
        told[script] = [stopped.code, printed.getvalue()[:6], loaded]
print(json.dumps(told))
"""
CAPTION = """
import runpy, sys

sys.argv = ["caption.py", *sys.argv[1:]]
try:
    runpy.run_path("scripts/caption.py", run_name="__main__")
except SystemExit as stopped:
    assert not stopped.code
needless = {"datasets", "pandas", "pyarrow", "peft", "bitsandbytes", "matplotlib", "sklearn", "pycocoevalcap"}
print(sorted(needless & {*sys.modules}))
"""


def run(script: str, *arguments: object) -> subprocess.CompletedProcess:
    command = [sys.executable, "-c", script, *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)


def test_the_help_of_every_script_needs_no_library_that_takes_seconds_to_load():
    scripts = [str(path) for path in sorted((ROOT / "scripts").glob("*.py"))]
    told = json.loads(run(HELP, *scripts).stdout)
    assert told == {script: [0, "usage:", []] for script in scripts} and len(told) > 10


@pytest.mark.slow
def test_a_caption_loads_nothing_beyond_need_and_says_nothing_of_kernels(saved_model, tmp_path):
    clip = write_media(tmp_path / "clip.mp4", seconds=0.4)
    result = run(CAPTION, clip, "--model", saved_model)
    caption, loaded = result.stdout.splitlines()
    assert caption and loaded == "[]" and "kernels" not in result.stderr
