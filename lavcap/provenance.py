"""What a model says of its origin: a note beside its weights, which every later model and result takes along."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lavcap.documents import read_json
from lavcap.files import replace_json
from parts_captioning import find_file


PROVENANCE_FILE = "training_data.json"


def read_provenance(name_or_path: str | Path) -> dict[str, Any]:
    """What a model, a folder or a name on the Hub, notes of its training; nothing if it notes nothing.

    Raises:
        ValueError: the note cannot be read.
    """
    path = find_file(name_or_path, PROVENANCE_FILE, {})
    provenance = read_json(path, "train the model again, or mend it") if path else {}
    return provenance if isinstance(provenance, dict) else {}


def inherited_provenance(provenance: dict[str, Any], earlier: Iterable[str | Path]) -> dict[str, Any]:
    """The note of a run that starts from earlier models: what a test has told or taught them stays."""
    notes = [provenance, *map(read_provenance, earlier)]
    return provenance | {
        "selected_on_test": any(each.get("selected_on_test") for each in notes),
        "trained_on_test_clips": max(each.get("trained_on_test_clips", 0) for each in notes),
    }


def write_provenance(folder: str | Path, provenance: dict[str, Any]):
    """Note beside a model what it was trained and selected on; `selected_on_test` marks its results for good."""
    replace_json(Path(folder) / PROVENANCE_FILE, provenance)
