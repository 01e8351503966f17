"""Arguments that commands share."""

import argparse
import difflib
import socket
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any, NoReturn

from lavcap.documents import parse_json
from lavcap.endings import printable


LEAST_RESAMPLES = 100  # of fewer the ends of an interval are chance


class Parser(argparse.ArgumentParser):
    """Argument parser with a script's docstring as its help, and errors in one line."""

    def __init__(self, description: str | None, **options):
        options.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(description=description, allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {printable(message)}; see {self.prog} --help\n")


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


def port(text: str) -> int:
    """Argument type of the ports of servers."""
    if not text.isdecimal() or not 1 <= int(text) <= 65535:
        raise argparse.ArgumentTypeError(f"got {text!r}, expected 1 to 65535")
    return int(text)


def check_free(host: str, port: int):
    """Refuse a port at which another program listens, before a model is loaded.

    Raises:
        OSError: with what to do.
    """
    try:
        socket.create_server((host, port), reuse_port=False).close()
    except OSError as error:
        reason = str(error.strerror).partition(" (")[0]  # behind it Python names the address again
        raise OSError(f"--port {port}: cannot be used at {host} ({reason}); pass another one.") from error


def add_bootstrap(parser: Any):
    """Argument of how intervals are drawn: `bootstrap`."""
    parser.add_argument(
        "--bootstrap", type=_resamples, default=1000, help="sets drawn for the intervals, 100 or more; 0: none"
    )


def _resamples(text: str) -> int:
    number = not_negative(text)
    if 0 < number < LEAST_RESAMPLES:
        raise argparse.ArgumentTypeError(f"got {number}, expected 0 or at least {LEAST_RESAMPLES}")
    return number


def add_model_options(parser: Any):
    """Arguments that change a model where it is loaded: `parts_from` and `config_overrides`."""
    parser.add_argument(
        "--parts_from", help="folder whose parts replace those of the model, such as an aligned audio tower"
    )
    parser.add_argument(
        "--config_overrides",
        type=_object,
        help="fields of the model's configuration to change, as JSON: '{\"use_prefix\": true}'",
    )


def _object(text: str) -> dict[str, Any]:
    try:
        return parse_object(text, "config_overrides")
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def check_packages(what: str, packages: Sequence[str], extra: str):
    """Refuse to go on without packages that only some users need.

    Args:
        what: needs them.
        extra: of this project, which installs them.

    Raises:
        ImportError: with what to install.
    """
    lacking = [name for name in packages if find_spec(name) is None]
    if lacking:
        raise ImportError(f"{what} needs {', '.join(lacking)}: pip install 'lavcap[{extra}]'.")


def listed(names: Sequence[str], most: int = 20) -> str:
    """Names for a message of one line: the first ones, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def reject_unknown(kind: str, names: Any, known: set[str]):
    """Refuse names that are not known; the nearest known one is told."""
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(str(name), known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"known are {listed(sorted(known))}."
            raise ValueError(f"{name!r} is not {kind}; {hint}")


def parse_object(text: str, name: str) -> dict[str, Any]:
    """Object from JSON text given on the command line."""
    try:
        value = parse_json(text)
    except ValueError as error:
        raise ValueError(f"{name} is not readable as JSON ({error}); mend it, or write it in the recipe.") from error
    if not isinstance(value, dict):
        raise ValueError(f"{name} is a {type(value).__name__}, expected an object of fields.")
    return value
