"""What commands share: errors of the user in one line with exit status 2, and folders that are not overwritten."""

import argparse
import difflib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from lavcap.files import share


class Parser(argparse.ArgumentParser):
    """Argument parser with a script's docstring as its help, and errors in one line."""

    def __init__(self, description: str | None, **options):
        options.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(description=description, allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message}; see {self.prog} --help\n")


def positive(text: str) -> int:
    """Argument type of counts: 1, 2, …"""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"got {text!r}, expected a whole number of at least 1")
    return int(text)


def not_negative(text: str) -> int:
    """Argument type of counts that may be none: 0, 1, …"""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"got {text!r}, expected a whole number of at least 0")
    return int(text)


def listed(names: Sequence[str], most: int = 20) -> str:
    """Names for a message of one line: the first ones, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def reject_unknown(kind: str, names: Any, known: set[str]):
    """Refuse names that are not known; the nearest known one is told."""
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(str(name), known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(sorted(known))}."
            raise ValueError(f"{name!r} is not {kind}; {hint}")


def parse_object(text: str, name: str) -> dict[str, Any]:
    """Object from JSON text given on the command line."""
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{name} is not readable as JSON ({error}); mend it, or write it in the recipe.") from error
    if not isinstance(value, dict):
        raise ValueError(f"{name} is a {type(value).__name__}, expected an object of fields.")
    return value


@contextmanager
def errors_in_one_line(kinds: tuple[type[Exception], ...] = (ValueError, OSError)) -> Iterator[None]:
    """Turn bad input into `error: …` on standard error and exit status 2; other exceptions keep their traceback.

    `kinds` are the exceptions that bad input raises.

    With `LAVCAP_TRACEBACK=1` in the environment bad input shows its traceback too.
    """
    try:
        yield
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    except kinds as error:
        if os.environ.get("LAVCAP_TRACEBACK"):
            raise
        sys.stderr.write(f"error: {error}\n")  # at once: processes of one run write at the same time
        sys.exit(2)


def check_new_folder(folder: str | Path, option: str):
    """Refuse a folder that holds anything, so that no earlier result is lost."""
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder}: holds another run; name a new folder with {option}, or move this one away.")


def check_writable(folder: str | Path, option: str):
    """Refuse a folder that cannot be made or takes no file, before hours of work; nothing is left of the trial."""
    folder = Path(folder).absolute()
    try:
        place = next(path for path in (folder, *folder.parents) if os.path.lexists(path))
        with tempfile.TemporaryFile(dir=place) as file:
            file.write(bytes(2**16))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise ValueError(
            f"{folder}: cannot be written ({error.strerror}); make room there, or name another folder with {option}."
        ) from error


@contextmanager
def whole_folder(folder: str | Path, option: str = "--output") -> Iterator[Path]:
    """A folder that appears when it is complete: write into what this yields; on failure nothing is left of it."""
    check_new_folder(folder, option)
    folder = Path(folder).absolute()
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        yield partial
        share(partial)
        if folder.exists():
            folder.rmdir()
        partial.rename(folder)
    except BaseException:
        shutil.rmtree(partial)
        raise
