"""How a command ends: errors of the user in one line with exit status 2, Ctrl-C, readers that leave, full disks."""

import errno
import logging
import os
import re
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker

from lavcap.files import FULL
from lavcap.hub import cleaned_logs, concerns_hub, explain, without_tokens


# Characters that steer a terminal, end a line, or turn the direction of what follows.
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")
LONG_WORD = re.compile(r"(\S{200})\S{600,}(\S{200})")  # such as the name of a file that can be none
OURS = re.compile(r"lavcap(\..*)?|(.*\.)?\w+_captioning")  # loggers


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

    An error has one line, or those of its attribute `lines`. What a console cannot show, or what would steer it, such
    as in the name of a file, is shown by its code, here and in what is logged (see [`printable`]); a reader
    that has had enough, such as `head`, ends the command without a word. With `LAVCAP_TRACEBACK=1` in the environment
    bad input shows its traceback too.
    """
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        with cleaned_logs(), _printable_logs():
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
        message = explain(error) if of_hub else without_tokens("\n".join(map(printable, _lines(error))))
        sys.stderr.write(f"error: {message}\n")  # at once: processes of one run write at the same time
        sys.exit(2)


def printable(text: object) -> str:
    """A name, or other text of one line, with its control characters as codes: what commands print names by."""
    return CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), str(text))


@contextmanager
def _printable_logs() -> Iterator[None]:
    """Have log records of this project, which name files and clips, be [`printable`]."""
    make = logging.getLogRecordFactory()

    def make_printable(*args, **options) -> logging.LogRecord:
        record = make(*args, **options)
        if OURS.fullmatch(record.name):
            record.msg, record.args = printable(record.getMessage()), ()
        return record

    logging.setLogRecordFactory(make_printable)
    try:
        yield
    finally:
        logging.setLogRecordFactory(make)


def _lines(error: Exception) -> list[str]:
    """Lines of the message of an error, without the middle of words that are too long for any name."""
    told = getattr(error, "lines", None)
    lines = told if isinstance(told, list) and told else [_message(error)]
    return [LONG_WORD.sub(r"\1…\2", str(line)) for line in lines]


def _say_interrupted() -> int:
    sys.stderr.write("interrupted\n")
    return 128 + signal.SIGINT


def _message(error: Exception) -> str:
    """What is said of an error; of a disk that takes no more, what to do."""
    if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG and error.filename:
        return f"{error.filename}: too long for the name of a file or folder; check it."
    if not isinstance(error, OSError) or error.errno not in FULL:
        return str(error)
    if error.filename is None:  # all files have their names
        _close_output()
    place = error.filename or "standard output"
    return f"{place}: could not be written ({error.strerror}); make room there, or have it written elsewhere."


def _close_output():
    """Leave nothing to be said at the end, where saying it would fail once more."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
