"""Order of the tests, and where their fixtures are. Nothing is downloaded."""

import os
from pathlib import Path

import library_tests


os.environ["HF_HUB_OFFLINE"] = "1"

ROOT = Path(__file__).resolve().parent.parent
# The families, and what they share.
KINDS = sorted(path.stem.removeprefix("modeling_") for path in ROOT.glob("modeling_*.py"))
FLAT_FILES = sorted(path for kind in KINDS for path in ROOT.glob(f"*_{kind}.py"))  # travel to the Hub

# Transformers' own tests are there once `make contract` has fetched them.
collect_ignore_glob = [] if library_tests.FOLDER.is_dir() else ["contract/*"]

FIXTURES = sorted(path.stem for path in (ROOT / "tests" / "fixtures").glob("*.py"))


def pytest_configure(config):
    for name in library_tests.MARKERS:
        config.addinivalue_line("markers", f"{name}: of Transformers' own tests")
    hands_tests_out = config.getoption("numprocesses", None)  # and needs no library for that
    for name in () if hands_tests_out else FIXTURES:
        config.pluginmanager.import_plugin(name)


# Files that take longest, each in one worker: begun first, so that no worker is left with one at the end.
LONGEST = (
    "test_interruptions",
    "test_contract_model",
    "test_conversion",
    "test_families",
    "test_full_disks",
    "test_documentation",
    "test_processes",
)


def pytest_collection_modifyitems(items):
    """Files stay together, for the fixtures of each; within one the slow tests come last."""
    files = list(dict.fromkeys(item.path for item in items))
    files.sort(key=lambda path: LONGEST.index(path.stem) if path.stem in LONGEST else len(LONGEST))
    place = {path: number for number, path in enumerate(files)}
    items.sort(key=lambda item: (place[item.path], item.get_closest_marker("slow") is not None))
