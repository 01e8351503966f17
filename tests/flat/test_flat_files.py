"""The flat files: importable as plain modules and inside a package alike, and of a family exactly its own travel."""

import ast

import pytest
from family_code import closure, code_of

from conftest import FLAT_FILES, ROOT


def imports(nodes: list[ast.stmt]) -> list[tuple[str, list[str]]]:
    return [(node.module, [alias.name for alias in node.names]) for node in nodes if isinstance(node, ast.ImportFrom)]


@pytest.mark.parametrize("file", FLAT_FILES, ids=lambda file: file.stem)
def test_both_branches_import_the_same(file):
    tree = ast.parse(file.read_text(encoding="utf-8"))
    known = {path.stem for path in FLAT_FILES}
    doubled = [node for node in tree.body if isinstance(node, ast.Try)]
    for node in doubled:
        (handler,) = node.handlers
        assert imports(node.body) == imports(handler.body)
        assert all(each.level == 1 for each in node.body) and not any(each.level for each in handler.body)
    own = [name for node in doubled for name, _ in imports(node.body)]
    assert set(own) <= known
    alone = [name for name, _ in imports(tree.body) if name in known]
    assert not alone, "an import that works in a clone and not on the Hub"


@pytest.mark.parametrize(
    ("family", "folder"), [("lavcap", "saved_model"), ("avcap", "saved_avcap"), ("dali", "saved_dali")]
)
def test_exactly_the_closure_of_the_family_travels_to_the_hub(family, folder, request):
    saved = {path.name: path.read_bytes() for path in request.getfixturevalue(folder).glob("*.py")}
    assert saved == {name: (ROOT / name).read_bytes() for name in code_of(family)}
    others = {path.stem.rpartition("_")[2] for path in FLAT_FILES} - {family, "captioning"}
    assert not [name for name in saved if name.removesuffix(".py").rpartition("_")[2] in others]


def test_no_shared_file_imports_a_family():
    for file in FLAT_FILES:
        if file.stem.endswith("_captioning"):
            assert all(name.endswith("_captioning.py") for name in closure(file.name)), file.name
