"""Clips that come through a pipe, as of another program: read whole, within the time and bytes of a clip."""

import os
import select
import stat
import sys
from contextlib import suppress
from pathlib import Path

from bounds_captioning import MAX_STREAM_BYTES, Deadline
from sources_captioning import MediaError, StoredFile


PIPES = ("/dev/stdin", "/dev/fd/", "/proc/self/fd/")


def is_pipe(path: str | Path) -> bool:
    """Whether a name is that of a pipe: `-`, `/dev/stdin`, or `/dev/fd/N`, as shells call a command's output."""
    if str(path) == "-":
        return True
    if not str(path).startswith(PIPES):
        return False
    with suppress(OSError):
        return stat.S_ISFIFO(os.stat(path).st_mode) or stat.S_ISSOCK(os.stat(path).st_mode)
    return False


def read_pipe(path: str | Path) -> StoredFile:
    """All bytes of a pipe, within the time and number of bytes that a clip may take.

    Raises:
        MediaError: it gives more, or does not end.
    """
    deadline, parts, count = Deadline(path), [], 0
    descriptor = os.dup(sys.stdin.fileno()) if str(path) == "-" else os.open(path, os.O_RDONLY)
    with open(descriptor, "rb", buffering=0) as file:
        while True:
            while not select.select([file], [], [], 1.0)[0]:
                deadline.check()
            deadline.check()
            part = file.read(2**20)
            if not part:
                return StoredFile(str(path), b"".join(parts))
            parts.append(part)
            count += len(part)
            if count > MAX_STREAM_BYTES:
                raise MediaError(
                    f"{path}: gives more than {MAX_STREAM_BYTES >> 20} MiB; save it to a file, and pass that."
                )
