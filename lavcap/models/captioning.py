"""Captions for many clips: which clips are meant, and one batch of them through a model."""

import os
import select
import stat
import sys
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import torch

from bounds_captioning import MAX_STREAM_BYTES, Deadline
from modeling_captioning import CaptioningModel
from processing_captioning import CaptioningProcessor
from sources_captioning import (
    IMAGE_SUFFIXES,
    MEDIA_SUFFIXES,
    MediaError,
    Source,
    StoredFile,
    as_source,
    is_folder,
    list_folder,
)


Item = TypeVar("Item")
PIPES = ("/dev/stdin", "/dev/fd/", "/proc/self/fd/")


def caption_features(
    model: CaptioningModel,
    processor: CaptioningProcessor,
    clips: Sequence[dict[str, torch.Tensor]],
    instruction: str | None = None,
    **options,
) -> list[str]:
    """Caption one batch of clips.

    Args:
        clips: features of each clip, from [`CaptioningProcessor.clip_features`].
        instruction: what to ask; default: the processor's.
        options: for `generate`; default: the model's `generation_config`.
    """
    inputs = processor.batch(clips, text=instruction).to(model.device)
    return processor.decode_captions(model.generate(**inputs, **options), inputs)


def list_clips(paths: Iterable[str | Path]) -> list[Source]:
    """Clips that are meant by some paths: files, folders of frames, folders of clips, which are opened, and pipes.

    Raises:
        MediaError: a folder holds no clip, or media files and loose images side by side; a pipe gives too much, or
            does not end.
    """
    return [clip for path in paths for clip in _clips_of(path)]


def read_pipe(path: str | Path) -> StoredFile:
    """All bytes of a pipe, within the time and number of bytes that a clip may take.

    Args:
        path: `-`, `/dev/stdin`, or `/dev/fd/N`, as shells call a command's output.

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


def _is_pipe(path: str | Path) -> bool:
    if str(path) == "-":
        return True
    if not str(path).startswith(PIPES):
        return False
    with suppress(OSError):
        return stat.S_ISFIFO(os.stat(path).st_mode) or stat.S_ISSOCK(os.stat(path).st_mode)
    return False


def _clips_of(path: str | Path) -> list[Source]:
    if _is_pipe(path):
        return [read_pipe(path)]
    path = as_source(path)
    if not is_folder(path):
        return [path]
    entries = list_folder(path)
    media = [entry for entry in entries if entry.suffix.lower() in MEDIA_SUFFIXES]
    images = [entry for entry in entries if entry.suffix.lower() in IMAGE_SUFFIXES]
    if media and images:
        raise MediaError(
            f"{path}: holds {len(media)} media files and {len(images)} images; put the frames of a clip into a folder "
            "of their own."
        )
    if not media and not images:
        raise MediaError(f"{path}: a folder with neither media files nor images; pass a clip or a folder of clips.")
    return media or [path]


def generation_options(**options: Any) -> dict[str, Any]:
    """Those options of `generate` that were given; the others stay with the model's `generation_config`."""
    return {name: value for name, value in options.items() if value is not None}
