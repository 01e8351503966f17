"""The house: which room may import which, and what no room may know."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from conftest import FLAT_FILES, ROOT


BASE = {"flat", "documents", "files", "hub", "arguments", "endings", "provenance", "progress_log", "workers"}
# What each room may import beside itself: data flows prepare -> read -> build -> train -> evaluate -> publish.
ROOMS = {
    "documents": set(),
    "files": set(),
    "hub": set(),
    "arguments": {"documents", "endings"},
    "endings": {"files", "hub"},
    "provenance": {"flat", "documents", "files", "arguments"},
    "progress_log": {"documents", "files"},
    "workers": {"endings"},
    "data": BASE,
    "preparation": BASE | {"data"},
    "models": BASE | {"data"},
    "evaluation": BASE | {"data", "models"},
    "publishing": BASE | {"data", "models", "evaluation"},
    "training": BASE | {"data", "models", "evaluation", "publishing"},
    "conversion": BASE | {"data", "models"},
    "captioning": BASE | {"data", "models"},
    "drawing": set(),
    "page": BASE | {"captioning", "drawing", "models"},
    "serving": BASE | {"models"},
    "benchmarks": {*BASE, "captioning", "data", "models", "toy", "training"},
    "toy": BASE | {"data", "drawing", "preparation", "models", "evaluation"},
    "experiments": {*BASE, "data", "models", "evaluation", "toy", "train_hf"},
}
ROOMS |= {"commands": {*ROOMS, "flat"}, "__main__": {"commands"}}
MOST_FILES = 15  # of a room, its `__init__.py` among them
PACKAGE = ROOT / "lavcap"


def imported(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield from [f"lavcap.{alias.name}" for alias in node.names] if node.module == "lavcap" else [node.module]
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def room_of(module: str) -> str | None:
    """Room of a module of this project; none for others."""
    if module.startswith("lavcap."):
        return module.split(".")[1]
    return "flat" if module in {path.stem for path in FLAT_FILES} else module if module == "train_hf" else None


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_only_rooms_below_it(room):
    files = [PACKAGE / f"{room}.py"] if (PACKAGE / f"{room}.py").exists() else sorted((PACKAGE / room).rglob("*.py"))
    assert files
    backwards = [
        f"{path.relative_to(ROOT)} imports {module}"
        for path in files
        for module in imported(path)
        if room_of(module) not in {None, room, *ROOMS[room]}
    ]
    assert not backwards


def test_every_room_is_known_and_none_is_crowded():
    found = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert found == {"__init__", *ROOMS}
    folders = [PACKAGE, *(path for path in (*PACKAGE.iterdir(), *(ROOT / "tests").iterdir()) if path.is_dir())]
    crowded = {str(folder): len(list(folder.glob("*.py"))) for folder in folders if folder.name != "flat"}
    assert not {name: count for name, count in crowded.items() if count > MOST_FILES}


def test_flat_files_import_nothing_of_the_package():
    backwards = [
        f"{path.name} imports {module}"
        for path in FLAT_FILES
        for module in imported(path)
        if module.split(".")[0] in ("lavcap", "train_hf", "scripts")
    ]
    assert not backwards
