"""What ends a command early, or cannot be read or shown, is one line or none, and never a traceback."""

import errno
import logging
import os
import subprocess
import sys

import pytest

from conftest import ROOT
from lavcap.arguments import Parser, parse_object
from lavcap.benchmarks.models import read_training_recipe
from lavcap.data.manifest import read_facts
from lavcap.data.references import coco_annotations
from lavcap.data.schema import DataError
from lavcap.documents import read_json
from lavcap.endings import errors_in_one_line
from lavcap.evaluation.predictions import read_predictions, read_references
from lavcap.files import check_writable
from lavcap.models.weight_files import find_weights
from lavcap.preparation.annotations import read_annotations
from lavcap.training.recipe import parse_recipe
from train_hf import TrainingArguments
from weights_captioning import WeightsError, itemised, read_weights


DEEP = "[" * 100_000
READERS = {
    "a JSON file": (".json", lambda path: read_json(path, "mend it")),
    "annotations": (".json", read_annotations),
    "lines of annotations": (".jsonl", read_annotations),
    "a recipe": (".yaml", lambda path: parse_recipe((TrainingArguments,), [str(path)])),
    "an option": (".json", lambda path: parse_object(path.read_text(), "--lora")),
    "an index of weights": (".index.json", read_weights),
    "an index of a model": (".index.json", lambda path: find_weights(path.parent)),
}


@pytest.mark.parametrize("kind", READERS)
def test_what_is_nested_too_deeply_is_refused_as_other_damage_is(tmp_path, kind):
    suffix, read = READERS[kind]
    path = tmp_path / f"model.safetensors{suffix}"
    path.write_text(DEEP)
    with pytest.raises(ValueError) as raised:
        read(path)
    assert "\n" not in str(raised.value) and len(str(raised.value)) < 400


TEXT_FILES = {name: READERS[name] for name in ("a JSON file", "annotations", "a recipe")} | {
    "references": (".json", read_references),
    "predictions": (".jsonl", read_predictions),
    "a recipe to measure": (".yaml", read_training_recipe),
    "a manifest": ("manifest.json", lambda path: read_facts(path.parent)),
}


@pytest.mark.parametrize("kind", TEXT_FILES)
def test_pipes_are_refused_before_they_are_waited_for(tmp_path, kind):
    suffix, read = TEXT_FILES[kind]
    path = tmp_path / (suffix if suffix == "manifest.json" else f"a{suffix}")
    os.mkfifo(path)
    with pytest.raises((ValueError, OSError)) as raised:
        read(path)
    assert str(raised.value).startswith(f"{path}: ") and "\n" not in str(raised.value)
    assert "a pipe or a device, expected a regular file" in str(raised.value)


def test_references_that_are_nested_too_deeply_are_in_no_known_layout():
    assert coco_annotations(DEEP.encode()) is None


PRINTS = """
import sys
sys.path.insert(0, {root!r})
from lavcap.endings import errors_in_one_line
with errors_in_one_line():
    for number in range(100_000):
        print("r\\udce4in \\u96e8", number)
"""


def run_printing(encoding: str, shell: str) -> subprocess.CompletedProcess:
    command = f"{sys.executable} -c '{PRINTS.format(root=str(ROOT)).replace(chr(39), chr(34))}' {shell}"
    environment = {"PYTHONIOENCODING": encoding, "PATH": "/usr/bin:/bin"}
    return subprocess.run(["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True, env=environment)


@pytest.mark.parametrize("encoding", ["ascii", "utf-8"])
def test_a_name_that_a_console_cannot_show_is_shown_by_its_codes(encoding):
    done = run_printing(encoding, "> /dev/null")
    assert done.returncode == 0 and done.stderr == ""


def test_a_reader_that_has_had_enough_ends_a_command_without_a_word():
    done = run_printing("utf-8", "| head -n 1")
    assert done.stdout.startswith("r\\udce4in") and done.stderr == "" and done.returncode in (0, 141)


HOSTILE = "\x1b[31mclip\x9b\t\n  error: a\u2028b\u202ec.mp4"
SHOWN = "\\x1b[31mclip\\x9b\\t\\n  error: a\\u2028b\\u202ec.mp4"


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ValueError(f"{HOSTILE}: no."), f"{SHOWN}: no."),
        (DataError(f"{HOSTILE}: 1 bad:", [HOSTILE]), f"{SHOWN}: 1 bad:\n  {SHOWN}"),
        (DataError.joined([DataError("1 bad:", [HOSTILE]), DataError("none.")]), f"1 bad:\n  {SHOWN}\nnone."),
        (WeightsError("no fit.", *itemised("too many", [HOSTILE])).of("a"), f"a: no fit.\n1 too many:\n  {SHOWN}"),
        (OSError(errno.ENAMETOOLONG, "File name too long", "a" * 6000), f"{'a' * 200}…{'a' * 199}: too long for the "),
        (ValueError(f"{'a' * 6000}: no such folder."), f"{'a' * 200}…{'a' * 199}: no such folder."),
    ],
)
def test_a_name_that_would_steer_a_terminal_is_shown_by_its_codes(capsys, error, said):
    with pytest.raises(SystemExit), errors_in_one_line():
        raise error
    assert capsys.readouterr().err.startswith(f"error: {said}")


def test_names_in_logs_and_of_arguments_are_shown_by_their_codes(caplog, capsys):
    with errors_in_one_line():
        for name in ("lavcap.data.splits", "processing_captioning", "other"):
            logging.getLogger(name).warning("%s: left out", HOSTILE)
    assert [record.getMessage() for record in caplog.records] == [f"{SHOWN}: left out"] * 2 + [f"{HOSTILE}: left out"]
    with pytest.raises(SystemExit):
        Parser("a command").parse_args([HOSTILE])
    assert f"unrecognized arguments: {SHOWN};" in capsys.readouterr().err


def test_a_folder_of_too_long_a_name_is_refused_before_work():
    with pytest.raises(ValueError, match="cannot be written .File name too long.; make room there, or name another"):
        check_writable("a" * 6000, "--output_dir")
