# Copyright 2026 The LAVCap for Transformers authors. Licensed under the Apache License, Version 2.0.
"""What users pass for clips, in all its forms: sorted by clip, and turned into arrays."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch


try:  # inside a package: the Hub's module cache
    from .media_captioning import IMAGE_SUFFIXES, read_images
except ImportError:  # as a plain module: a clone, or after `pip install`
    from media_captioning import IMAGE_SUFFIXES, read_images


class ClipInputs(NamedTuple):
    """What was passed for one clip; `None` for what it lacks."""

    audio: Any = None
    video: Any = None
    video_features: Any = None


def sort_by_clip(audio: Any, images: Any, videos: Any, video_features: Any) -> list[ClipInputs]:
    """The parts of each clip, from single items or lists of them as a processor takes them.

    Raises:
        ValueError: lists of different lengths; a clip with two videos, or with images and a video.
    """
    columns = {
        "audio": _as_list(audio, _is_single_audio),
        "images": _as_list(images, _is_single_image),
        "videos": _as_list(videos, _is_single_video),
        "video_features": _as_list(video_features, lambda item: getattr(item, "ndim", None) == 2),
    }
    count = max(map(len, columns.values()))
    for name, column in columns.items():
        if len(column) not in (0, count):
            raise ValueError(f"Got {len(column)} {name} for {count} clips, expected one per clip; use None for gaps.")
    rows = zip(*(column or [None] * count for column in columns.values()), strict=True)
    return [ClipInputs(heard, _one_video(stills, seen), features) for heard, stills, seen, features in rows]


def is_path(item: Any) -> bool:
    return isinstance(item, (str, Path))


def to_frames(video: Any, choose: Callable[[int], Sequence[int]]) -> np.ndarray:
    """Pictures of a video, `(num_frames, height, width, 3)` uint8 RGB.

    Args:
        video: an image, a list of images or of their paths, or an array `(video_frames, height, width, 3)`.
        choose: which to take of how many.
    """
    if hasattr(video, "convert"):
        video = [video]
    if not len(video):
        raise ValueError("Got a video of 0 frames, expected at least one: pass videos=None for no picture.")
    numbers = choose(len(video))
    if is_path(video[0]):
        return read_images(video, numbers)
    frames = [_to_rgb(video[number]) for number in numbers]
    sizes = {frame.shape[:2] for frame in frames}
    if len(sizes) > 1:
        raise ValueError(f"The frames of a video have sizes {sorted(sizes)}, expected one (height, width).")
    return np.stack(frames)


def to_numpy(array: Any) -> np.ndarray:
    """Array of whatever holds numbers: a tensor on any device and of any dtype, a list, an array."""
    if isinstance(array, torch.Tensor):
        array = array.detach().cpu()
        array = array.float() if array.is_floating_point() else array
        return array.numpy()
    return np.asarray(array)


# -------------------------------------------------------------------------------------------------------- internals


def _as_list(items: Any, is_single: Callable[[Any], bool]) -> list:
    if items is None:
        return []
    if not hasattr(items, "__len__") and not is_path(items) and not hasattr(items, "convert"):
        items = list(items)  # an iterator: looking at it would use it up
    return [items] if is_single(items) else list(items)


def _is_single_audio(item: Any) -> bool:
    if is_path(item) or isinstance(item, dict) or np.isscalar(item):
        return True
    return hasattr(item, "ndim") or (len(item) > 0 and np.isscalar(item[0]) and not is_path(item[0]))


def _is_single_image(item: Any) -> bool:
    return is_path(item) or hasattr(item, "convert") or getattr(item, "ndim", None) in (2, 3)


def _is_single_video(item: Any) -> bool:
    """One path, one image, one array of frames, or one list of images or their paths; a list of those is a batch."""
    if is_path(item) or hasattr(item, "convert"):
        return True
    if hasattr(item, "ndim"):
        return item.ndim == 4
    first = next((part for part in item if part is not None), None)
    if is_path(first):
        return all(_is_image_path(part) for part in item)
    return hasattr(first, "convert") or getattr(first, "ndim", None) in (2, 3)


def _is_image_path(item: Any) -> bool:
    return is_path(item) and Path(item).suffix.lower() in IMAGE_SUFFIXES


def _one_video(images: Any, video: Any) -> Any:
    """What is seen in a clip. A video may come in a list of its own, and images are its frames."""
    if isinstance(video, (list, tuple)):
        alone = [part for part in video if getattr(part, "ndim", None) == 4 or isinstance(part, (list, tuple))]
        alone = alone or [part for part in video if is_path(part) and not _is_image_path(part)]
        if len(alone) > 1:
            raise ValueError(f"Got {len(alone)} videos for one clip, expected one: pass a list of clips.")
        video = alone[0] if alone else video or None
    if images is None or (isinstance(images, (list, tuple)) and not images):
        return video
    if video is not None:
        raise ValueError("Got images and a video for one clip, expected one of them: images are taken for its frames.")
    return [images] if is_path(images) or getattr(images, "ndim", None) in (2, 3) else images


def _to_rgb(image: Any) -> np.ndarray:
    """Image as `(height, width, 3)` uint8: PIL in any mode, or an array, grey or RGB, channels last or first."""
    if hasattr(image, "convert"):
        return np.asarray(image.convert("RGB"))
    array = to_numpy(image)
    if array.ndim == 3 and array.shape[-1] not in (1, 3) and array.shape[0] in (1, 3):
        array = array.transpose(1, 2, 0)
    array = array[..., None] if array.ndim == 2 else array
    if array.ndim != 3 or array.shape[-1] not in (1, 3):
        raise ValueError(f"A video frame has shape {array.shape}, expected (height, width, 3) RGB.")
    floating = np.issubdtype(array.dtype, np.floating) or array.dtype == np.bool_
    if not (array.min() >= 0 and array.max() <= (1 if floating else 255)):  # NaN is neither
        raise ValueError(
            f"A video frame of {array.dtype} holds values from {array.min():.3g} to {array.max():.3g}, expected "
            "floating point in [0, 1] or integers in [0, 255]."
        )
    if floating:
        array = (array * 255.0).round()
    return np.broadcast_to(array.astype(np.uint8), (*array.shape[:2], 3))
