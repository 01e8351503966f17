"""Programs that score captions, as processes of their own: with a time limit, and with their words if they fail."""

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path


class MetricUnavailable(RuntimeError):
    """A metric cannot be computed here. The message is the reason, as it stands in the table of results."""


def run_program(
    name: str,
    command: Sequence[str],
    text: str,
    seconds: float,
    folder: str | Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> str:
    """What a program prints when it is given `text`; the program is gone when this returns, however it returns.

    Args:
        name: what the message calls it.
        text: all of its standard input, sent as UTF-8.
        seconds: after these the program and its children are killed.
        folder: its working directory.

    Raises:
        MetricUnavailable: it does not start, ends with another status than 0, or takes too long.
    """
    try:
        # A session of its own: a wrapper script and the Java it started can be ended together.
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=folder,
            env=environment,
            start_new_session=True,
        )
    except OSError as error:
        raise MetricUnavailable(f"{name} does not start: {command[0]}: {error.strerror}") from error
    with process:
        try:
            output, errors = process.communicate(text.encode("utf-8", "replace"), timeout=seconds)
        except subprocess.TimeoutExpired:
            _end(process)
            raise MetricUnavailable(f"{name} gave no answer within {seconds:.0f} s") from None
        except BaseException:
            _end(process)
            raise
    if process.returncode:
        said = errors.decode("utf-8", "replace") or output.decode("utf-8", "replace")
        raise MetricUnavailable(f"{name} ended with {_status(process.returncode)}: {_first_line(said)}")
    return output.decode("utf-8", "replace")


def _end(process: subprocess.Popen):
    if os.name == "posix":
        os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()
    process.wait()


def _status(code: int) -> str:
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"status {code}"


def _first_line(text: str, longest: int = 300) -> str:
    """The first line that names an error, else the first line."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    telling = [line for line in lines if "Error" in line or "Exception" in line]
    return (telling or lines or ["it said nothing"])[0][:longest]
