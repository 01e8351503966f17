"""What commands share: arguments, and errors of the user in one line with exit status 2."""

import argparse
import difflib
import json
import os
import re
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing import resource_tracker
from typing import Any, NoReturn

from lavcap.files import FULL
from lavcap.hub import cleaned_logs, concerns_hub, explain, without_tokens


CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]")  # characters that steer a terminal, but the end of a line


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
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"{name} is not readable as JSON ({error}); mend it, or write it in the recipe.") from error
    if not isinstance(value, dict):
        raise ValueError(f"{name} is a {type(value).__name__}, expected an object of fields.")
    return value


@contextmanager
def interrupts_left_to_this_process() -> Iterator[None]:
    """Start processes that take no Ctrl-C, which a terminal sends to all of them: this one alone says what it means.

    They are held back from it by what they inherit, before any code of theirs runs; one that comes meanwhile reaches
    this process afterwards.
    """
    resource_tracker.ensure_running()  # it would let interrupts through where it is started by the first process
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def end_at_interrupts():
    """Have a command end at Ctrl-C without a traceback while it imports, which takes seconds and loses nothing.

    Afterwards `signal.default_int_handler` is to be put back, for [`errors_in_one_line`].
    """
    signal.signal(signal.SIGINT, lambda *_: os._exit(_say_interrupted()))


@contextmanager
def errors_in_one_line(kinds: tuple[type[Exception], ...] = (ValueError, OSError)) -> Iterator[None]:
    """Turn bad input into `error: …` on standard error and exit status 2; other exceptions keep their traceback.

    `kinds` are the exceptions that bad input raises. Whatever the Hub's library raises is bad input, too.

    What a console cannot show, or what would steer it, such as in the name of a file, is shown by its code; a reader
    that has had enough, such as `head`, ends the command without a word. With `LAVCAP_TRACEBACK=1` in the environment
    bad input shows its traceback too.
    """
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        with cleaned_logs():
            yield
        sys.stdout.flush()
    except KeyboardInterrupt:
        sys.exit(_say_interrupted())
    except BrokenPipeError:
        _close_output()
        sys.exit(128 + signal.SIGPIPE)
    except Exception as error:
        of_hub = concerns_hub(error)
        if os.environ.get("LAVCAP_TRACEBACK") or not (of_hub or isinstance(error, kinds)):
            raise
        message = explain(error) if of_hub else without_tokens(CONTROL.sub(_code, _message(error)))
        sys.stderr.write(f"error: {message}\n")  # at once: processes of one run write at the same time
        sys.exit(2)


def _code(found: re.Match) -> str:
    return found[0].encode("unicode_escape").decode()


def _say_interrupted() -> int:
    sys.stderr.write("interrupted\n")
    return 128 + signal.SIGINT


def _message(error: Exception) -> str:
    """What is said of an error; of a disk that takes no more, what to do."""
    if not isinstance(error, OSError) or error.errno not in FULL:
        return str(error)
    if error.filename is None:  # all files have their names
        _close_output()
    place = error.filename or "standard output"
    return f"{place}: could not be written ({error.strerror}); make room there, or have it written elsewhere."


def _close_output():
    """Leave nothing to be said at the end, where saying it would fail once more."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
