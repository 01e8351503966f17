"""The code of a family: the files that a saved model takes along."""

from transformers.dynamic_module_utils import get_relative_import_files

from conftest import ROOT


def closure(entry: str) -> set[str]:
    """Names of a flat file and of those that it imports."""
    return {entry, *(ROOT.joinpath(file).name for file in get_relative_import_files(ROOT / entry))}


def code_of(family: str) -> set[str]:
    """Names of the files of a family and of those that they import."""
    entries = (f"{kind}_{family}.py" for kind in ("configuration", "modeling", "processing"))
    return {name for entry in entries for name in closure(entry)}
