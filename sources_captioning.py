# Copyright 2026 The LAVCap for Transformers authors. Licensed under the Apache License, Version 2.0.
"""Where media come from: files, folders, bytes, open files and addresses, all of which become one of two things."""

import base64
import binascii
import io
import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes, urlsplit
from urllib.request import url2pathname


IMAGE_SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".webp"})
# fmt: off
MEDIA_SUFFIXES = frozenset({
    ".3gp", ".aac", ".aif", ".aiff", ".amr", ".avi", ".flac", ".flv", ".gif", ".m2ts", ".m4a", ".m4v",
    ".mka", ".mkv", ".mov", ".mp2", ".mp3", ".mp4", ".mpeg", ".mpg", ".mts", ".oga", ".ogg", ".ogv", ".opus",
    ".ts", ".wav", ".webm", ".wma", ".wmv",
})
# fmt: on
AUDIO_SUFFIXES = frozenset(
    {".aac", ".aif", ".aiff", ".amr", ".flac", ".m4a", ".mka", ".mp2", ".mp3", ".oga", ".ogg", ".opus", ".wav", ".wma"}
)


class MediaError(ValueError):
    """A file cannot be used as a clip. The message is one line: the file, what was found, what to do."""


@dataclass(frozen=True)
class StoredFile:
    """A media file or an image that is held in memory, as data sets store them.

    Args:
        name: what messages call it.
        data: its bytes.
    """

    name: str
    data: bytes = field(repr=False)

    def __str__(self) -> str:
        return self.name


Source = Path | StoredFile
KINDS = "a path, file:// or data: address, bytes, an open binary file, or {'bytes', 'path'}"


def is_source(item: Any) -> bool:
    """Whether an item is what [`as_source`] takes, and no array, picture or list of items."""
    if isinstance(item, Mapping):
        return bool(item.keys() & {"bytes", "path"}) and "array" not in item
    kinds = (str, os.PathLike, bytes, bytearray, memoryview, StoredFile)
    return isinstance(item, kinds) or callable(getattr(item, "read", None))


def as_source(item: Any) -> Source:
    """The file that is meant, on disk or in memory.

    Args:
        item: a path; a `file://` or `data:` address; bytes; an open binary file, which is read from where it stands
            to its end; `{"bytes", "path"}`, as data sets store undecoded media.

    Raises:
        MediaError: an address of another kind, a file that is open as text, or nothing in it.
        TypeError: anything else.
    """
    if isinstance(item, StoredFile):
        return item
    if isinstance(item, str):
        return _of_text(item)
    if isinstance(item, os.PathLike):
        return Path(os.fsdecode(item))
    if isinstance(item, (bytes, bytearray, memoryview)):
        return StoredFile(f"{memoryview(item).nbytes:,} bytes", bytes(item))
    if isinstance(item, Mapping) and is_source(item):
        return _of_column(item)
    if callable(getattr(item, "read", None)):
        return _of_open_file(item)
    raise TypeError(f"Got {_kind(item)} for a medium, expected {KINDS}.")


def check_file(path: Path):
    """Refuse what is no regular file before it is opened: a pipe would block, a device would never end.

    Raises:
        MediaError: with the reason.
    """
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        raise MediaError(f"{path}: no such file; check the path.") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in its name
        raise _unreadable(path, error) from error
    if stat.S_ISDIR(mode):
        raise MediaError(f"{path}: is a folder, expected a file; pass one that is in it.")
    if not stat.S_ISREG(mode):
        raise MediaError(f"{path}: is a pipe or a device, expected a regular file; save it to one, and pass that.")


def openable(source: Source) -> Path | io.BytesIO:
    """What a reader of files takes."""
    return io.BytesIO(source.data) if isinstance(source, StoredFile) else source


def first_bytes(source: Source, count: int) -> tuple[bytes, int]:
    """The beginning of a file, and the number of its bytes.

    Raises:
        MediaError: it cannot be read.
    """
    if isinstance(source, StoredFile):
        return source.data[:count], len(source.data)
    try:
        with source.open("rb") as file:
            return file.read(count), file.seek(0, io.SEEK_END)
    except OSError as error:
        raise _unreadable(source, error) from error


def is_folder(source: Source) -> bool:
    """Whether a path leads to a folder; what cannot be looked at is none, and refused where it is read."""
    return isinstance(source, Path) and os.path.isdir(source)


def list_folder(folder: str | os.PathLike) -> list[Path]:
    """Entries of a folder by name, without hidden ones: systems leave files of their own, such as `._frame_0.png`.

    Raises:
        MediaError: it cannot be listed.
    """
    try:
        return sorted(entry for entry in Path(folder).iterdir() if not entry.name.startswith("."))
    except OSError as error:
        raise MediaError(f"{folder}: cannot be listed ({error.strerror}); check its permissions.") from error


def list_images(folder: str | os.PathLike) -> list[Path]:
    """Images of a folder, `frame_2` before `frame_10`."""
    images = [path for path in list_folder(folder) if path.suffix.lower() in IMAGE_SUFFIXES]
    if not images:
        raise MediaError(
            f"{folder}: a folder without images, expected frames named *.jpg or *.png; pass a media file or a folder "
            "of frames."
        )
    return sorted(images, key=lambda path: [int(part) if part.isdigit() else part for part in _digits(path.name)])


def one_line(error: object) -> str:
    """The message of an error without line breaks."""
    return " ".join(str(error).split()) or type(error).__name__


# -------------------------------------------------------------------------------------------------------- internals


def _of_text(text: str) -> Source:
    scheme = text.partition(":")[0].lower()  # RFC 3986: small letters and capitals are one
    if scheme == "data":
        return _of_data_address(text)
    if scheme == "file":
        return _of_file_address(text)
    if "://" in text:
        raise MediaError(f"{text:.200}: an address, not a file; download it, and pass the file.")
    if not text:
        raise MediaError("Got an empty path, expected that of a file or folder.")
    return Path(text)


def _of_file_address(text: str) -> Path:
    """RFC 8089: `file:` and the path, with or without an empty host."""
    try:
        parts = urlsplit(text)
    except ValueError as error:
        raise MediaError(f"{text:.200}: no address of a file ({one_line(error)}), expected file:///….") from error
    if parts.netloc not in ("", "localhost"):
        raise MediaError(f"{text:.200}: names a file of {parts.netloc}, expected one of this machine, file:///….")
    return Path(url2pathname(parts.path))


def _of_data_address(text: str) -> StoredFile:
    """RFC 2397: `data:[<media type>][;base64],<data>`."""
    head, comma, body = text.partition(",")
    if not comma:
        raise MediaError(f"{head[:40]}…: a data: address without data, expected them after a comma.")
    try:
        data = unquote_to_bytes(body)
        data = base64.b64decode(data, validate=True) if head.lower().endswith(";base64") else data
    except binascii.Error as error:
        raise MediaError(f"{head[:40]}: its data are not base64 ({one_line(error)}); encode them again.") from error
    return StoredFile(f"{head[:40]} address of {len(data):,} bytes", data)


def _of_column(item: Mapping[str, Any]) -> Source:
    data, path = item.get("bytes"), item.get("path")
    if data is None and path is None:
        raise MediaError("Got a medium whose bytes and path are None, expected one of them; use None for a gap.")
    if data is None:
        return as_source(path)
    stored = as_source(data)
    if path is None:
        return stored
    if not isinstance(path, (str, bytes, os.PathLike)):
        raise TypeError(f"Got {_kind(path)} for the path of a medium, expected a string or None.")
    return StoredFile(os.fsdecode(path), stored.data)


def _of_open_file(file: Any) -> StoredFile:
    name = getattr(file, "name", None)
    name = name if isinstance(name, str) else "an open file"
    try:
        data = file.read()
    except (OSError, ValueError) as error:
        raise MediaError(f"{name}: cannot be read ({one_line(error)}); open it again, with mode 'rb'.") from error
    if not isinstance(data, (bytes, bytearray, memoryview)):
        raise MediaError(f"{name}: is open as text, expected bytes; open it with mode 'rb'.")
    return StoredFile(name, bytes(data))


def _unreadable(path: Path, error: Exception) -> MediaError:
    reason = getattr(error, "strerror", None) or one_line(error)
    return MediaError(f"{path!s:.200}: cannot be read ({reason}); check the path and its permissions.")


def _kind(item: Any) -> str:
    return "None" if item is None else type(item).__name__


def _digits(name: str) -> list[str]:
    return re.split(r"(\d+)", name)
