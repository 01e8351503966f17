"""The declared range of Transformers, and what someone outside of it is told."""

import re
import subprocess
import sys

import pytest
import transformers
from packaging.version import Version
from stranger import run_stranger

from configuration_captioning import OLDEST_TRANSFORMERS
from conftest import ROOT


IMPORT_UNDER = """
import transformers
transformers.__version__ = {version!r}
{statement}
"""


def run(statement: str, version: str) -> subprocess.CompletedProcess:
    script = IMPORT_UNDER.format(statement=statement, version=version)
    return subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)


@pytest.mark.slow
@pytest.mark.parametrize("statement", ["import configuration_lavcap", "from lavcap import LavcapProcessor"])
def test_an_older_version_is_told_both_versions_in_one_sentence(statement):
    result = run(statement, "5.3.0")
    assert result.returncode == 1
    assert result.stderr.strip().splitlines()[-1] == (
        "RuntimeError: LAVCap needs Transformers 5.10.4 or newer, but 5.3.0 is installed: "
        "pip install --upgrade 'transformers>=5.10.4'"
    )


@pytest.mark.slow
def test_the_floor_itself_is_let_in():
    assert run("import configuration_lavcap", OLDEST_TRANSFORMERS).returncode == 0


def test_setup_declares_the_same_floor_and_the_tests_run_within_it():
    (declared,) = re.findall(r'"transformers>=([\d.]+),<6"', (ROOT / "setup.py").read_text())
    assert Version(declared) == Version(OLDEST_TRANSFORMERS) <= Version(transformers.__version__) < Version("6")


@pytest.mark.slow
def test_an_older_version_is_told_so_by_the_auto_classes_too(saved_model, tmp_path):
    script = """
import json, sys
from transformers import AutoModel, AutoProcessor
sys.modules["transformers"].__version__ = "5.3.0"  # some imports make that module anew
told = []
for auto_class in (AutoProcessor, AutoModel):
    try:
        auto_class.from_pretrained(sys.argv[1], trust_remote_code=True)
    except RuntimeError as error:
        told.append(str(error))
print(json.dumps(told))
"""
    told = run_stranger(script, str(saved_model), folder=tmp_path, HF_HOME=str(tmp_path)).printed
    assert len(told) == 2
    for sentence in told:
        assert "LAVCap needs Transformers 5.10.4 or newer, but 5.3.0 is installed" in sentence
