"""Which files are meant: files, folders with all that lies below, patterns, lists, addresses and pipes."""

import glob
import os
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from lavcap.captioning.pipes import is_pipe, read_pipe
from sources_captioning import (
    IMAGE_SUFFIXES,
    MEDIA_SUFFIXES,
    MediaError,
    Source,
    as_source,
    check_file,
    is_folder,
    list_folder,
)


@dataclass(frozen=True)
class Medium:
    """A clip that shall be captioned.

    Args:
        source: its file, or folder of frames.
        place: where its captions belong below a folder of results: its path from the folder that was named.
    """

    source: Source
    place: PurePosixPath

    def __str__(self) -> str:
        return str(self.source)


@dataclass(frozen=True)
class Refused:
    """What was named and is no clip, with the reason; `left_out` tells of files beside clips."""

    name: str
    reason: MediaError
    left_out: bool = False


def list_media(arguments: Iterable[str]) -> list[Medium | Refused]:
    """Clips that are meant by some arguments, each once, in the order in which they are named.

    Args:
        arguments: a file; a folder, of which all media below it are taken, and each folder of pictures alone as the
            frames of one clip; a pattern with `*`, `?`, `[…]` and `**`; a `file://` or `data:` address; `-`,
            `/dev/stdin` or `/dev/fd/N`, which are read.
    """
    found: dict[str, Medium | Refused] = {}
    for argument in arguments:
        for item in _named_by(argument):
            found.setdefault(str(item) if isinstance(item, Medium) else item.name, item)
    return list(found.values())


def read_list(path: str) -> list[str]:
    """Paths that stand in a text file, or on standard input, `-`: one on each line; empty ones are left out.

    Raises:
        ValueError: it cannot be read as UTF-8.
        OSError: it is not there.
    """
    try:
        text = sys.stdin.read() if path == "-" else Path(path).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not readable as UTF-8 ({error}), expected a path on each line.") from error
    return [line for line in text.splitlines() if line.strip()]


# -------------------------------------------------------------------------------------------------------- internals


def _named_by(argument: str) -> Iterator[Medium | Refused]:
    try:
        if is_pipe(argument):
            yield Medium(read_pipe(argument), PurePosixPath("stdin"))
        elif glob.has_magic(argument) and not os.path.lexists(argument):
            yield from _matching(argument)
        elif is_folder(source := as_source(argument)):
            yield from _below(source)
        else:
            if isinstance(source, Path):
                check_file(source)
            yield Medium(source, PurePosixPath(_name(source)))
    except MediaError as error:
        yield Refused(argument, error)


def _matching(pattern: str) -> Iterator[Medium | Refused]:
    matches = sorted(glob.glob(pattern, recursive=True))
    clips = [path for path in matches if Path(path).suffix.lower() in MEDIA_SUFFIXES | IMAGE_SUFFIXES]
    clips = clips or [path for path in matches if os.path.isdir(path)]
    if not clips:
        raise MediaError(f"{pattern}: matches {len(matches)} files, none of them a medium; check the pattern.")
    root = Path(os.path.commonpath([os.path.dirname(path) or "." for path in clips]))
    for path in clips:
        if os.path.isdir(path):
            yield from _below(Path(path))
        else:
            yield Medium(Path(path), PurePosixPath(Path(path).relative_to(root)))


def _below(folder: Path) -> Iterator[Medium | Refused]:
    """All clips of a folder and of those in it; links are followed, but none twice."""
    empty, seen, waiting = True, set(), [folder]
    while waiting:
        place = waiting.pop()
        if (real := os.path.realpath(place)) in seen:
            continue
        seen.add(real)
        try:
            entries = list_folder(place)
        except MediaError as error:
            empty = False
            yield Refused(str(place), error)
            continue
        media = [entry for entry in entries if entry.suffix.lower() in MEDIA_SUFFIXES and not entry.is_dir()]
        images = [entry for entry in entries if entry.suffix.lower() in IMAGE_SUFFIXES and not entry.is_dir()]
        if images and not media:
            empty = False
            yield Medium(place, PurePosixPath(place.relative_to(folder)) / ("" if place != folder else place.name))
        for path in media:
            empty = False
            yield Medium(path, PurePosixPath(path.relative_to(folder)))
        if images and media:
            reason = MediaError(
                f"{place}: {len(images)} of its files are pictures beside {len(media)} media files, and left out; put "
                "the frames of a clip into a folder of their own."
            )
            yield Refused(str(place), reason, left_out=True)
        waiting += [entry for entry in reversed(entries) if os.path.isdir(entry)]
    if empty:
        raise MediaError(f"{folder}: holds neither media files nor images, nor do folders in it; pass a clip.")


def _name(source: Source) -> str:
    return Path(str(source)).name if isinstance(source, Path) else "clip"
