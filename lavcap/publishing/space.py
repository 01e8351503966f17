"""A page on the Hub, a Space, for a model that is published there: `lavcap demo` with the code that it needs."""

import ast
import re
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from importlib.metadata import requires, version
from pathlib import Path

from huggingface_hub import SpaceCardData

from lavcap.publishing.card import sign
from lavcap.publishing.paths import CODE


ROOT = Path(__file__).resolve().parents[2]  # of a clone, or of what is installed
APP, REQUIREMENTS, EXAMPLES = "app.py", "requirements.txt", "examples"
PAGE = "lavcap.page.app"
DATA = ("lavcap/page/style.css",)  # files of the page that no import names
OURS = (APP, REQUIREMENTS, f"{EXAMPLES}/*", "lavcap/*", *CODE)
NEEDS = ("matplotlib",)  # beside what the project always needs; the Hub puts Gradio in by the card
CARD_TEXT = """
The page of [{model}](https://huggingface.co/{model}): drop or record a clip, and read what can be heard in it. It does
not write down what people say.

`app.py` starts it; `lavcap/` and the files beside it are what it needs of LAVCap for Transformers.
"""
APP_TEXT = '''"""The page of {model}."""

from pathlib import Path

from lavcap.page.app import show


show("{model}", examples=sorted(Path("{folder}").glob("*")))
'''


def space_files(model: str, licence: str, examples: Sequence[Path] = ()) -> dict[str, Path | bytes]:
    """Files of the Space by their names, as paths or content.

    Args:
        model: name on the Hub of the model that the page shows.
        licence: identifier of the Hub, as the model's card has it.
        examples: media files that visitors may try.

    Raises:
        ValueError: two examples of one name, or one that is not there.
    """
    shown = {f"{EXAMPLES}/{path.name}": path for path in examples}
    if len(shown) < len(examples):
        raise ValueError("--space_examples: has two files of one name; rename one.")
    for path in examples:
        if not path.is_file():
            raise ValueError(f"--space_examples {path}: no such file.")
    code = [*_imported(PAGE), *(ROOT / name for name in DATA), *(path for name in CODE for path in ROOT.glob(name))]
    return {
        **shown,
        **{path.relative_to(ROOT).as_posix(): path for path in code},
        APP: APP_TEXT.format(model=model, folder=EXAMPLES).encode(),
        REQUIREMENTS: "".join(f"{line}\n" for line in _requirements()).encode(),
        "README.md": _card(model, licence).encode(),
    }


def is_part_of_a_page(name: str) -> bool:
    """Whether a file of a Space belongs to a page of ours; `README.md` is for its signature to tell."""
    return any(fnmatchcase(name, pattern) for pattern in OURS)


# -------------------------------------------------------------------------------------------------------- internals


def _card(model: str, licence: str) -> str:
    data = SpaceCardData(
        title=model.rpartition("/")[2],
        sdk="gradio",
        sdk_version=version("gradio"),
        python_version="3.11",
        app_file=APP,
        models=[model],
        license=licence,
        short_description="Read what can be heard in a film",
    )
    return sign(f"---\n{data}\n---\n{CARD_TEXT.format(model=model)}")


def _requirements() -> list[str]:
    always = [line for line in requires("lavcap") or () if "extra ==" not in line]
    needed = [line for line in requires("lavcap") or () if re.match(rf"({'|'.join(NEEDS)})\b.*extra == .demo", line)]
    return sorted(always + [line.partition(";")[0].strip() for line in needed])


def _imported(module: str) -> list[Path]:
    """Files of the package that a module imports, and those that these import, wherever in them."""
    found, waiting = {}, [module]
    while waiting:
        name = waiting.pop()
        if name in found or (path := _file_of(name)) is None:
            continue
        found[name] = path
        waiting += [name.rpartition(".")[0], *_imports(path)]
    return sorted(set(found.values()))


def _imports(path: Path) -> Iterator[str]:
    """Modules that a file names; those of a package are among the names that are taken of it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (each.name for each in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{each.name}" for each in node.names)


def _file_of(module: str) -> Path | None:
    """File of a module of the package; `None`: it is another's, or no module."""
    if module.partition(".")[0] != "lavcap":
        return None
    place = ROOT.joinpath(*module.split("."))
    return next((file for file in (place.with_suffix(".py"), place / "__init__.py") if file.is_file()), None)
