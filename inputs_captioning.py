# Copyright 2026 The LAVCap for Transformers authors. Licensed under the Apache License, Version 2.0.
"""What users pass for clips, in all its forms: sorted by clip, and turned into arrays."""

import numbers
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch


try:  # inside a package: the Hub's module cache
    from .bounds_captioning import SAMPLING_RATES
    from .pictures_captioning import array_to_rgb, image_to_rgb, is_picture, read_image, read_images
    from .sources_captioning import IMAGE_SUFFIXES, KINDS, Source, StoredFile, as_source, is_source
except ImportError:  # as a plain module: a clone, or after `pip install`
    from bounds_captioning import SAMPLING_RATES
    from pictures_captioning import array_to_rgb, image_to_rgb, is_picture, read_image, read_images
    from sources_captioning import IMAGE_SUFFIXES, KINDS, Source, StoredFile, as_source, is_source


SAMPLES = "samples (an array or tensor), {'array', 'sampling_rate'}, or a pair of rate and samples"


class ClipInputs(NamedTuple):
    """What was passed for one clip; `None` for what it lacks. Files are those of [`as_source`]."""

    audio: Any = None
    video: Any = None
    video_features: Any = None


def sort_by_clip(audio: Any, images: Any, videos: Any, video_features: Any) -> list[ClipInputs]:
    """The parts of each clip, from single items or lists of them as a processor takes them.

    Raises:
        ValueError: lists of different lengths; a clip with two videos, or with images and a video.
    """
    columns = {
        "audio": _as_list(_with_sources(audio), _is_single_audio),
        "images": _as_list(_with_sources(images), _is_single_image),
        "videos": _as_list(_with_sources(videos), _is_single_video),
        "video_features": _as_list(video_features, lambda item: getattr(item, "ndim", None) == 2),
    }
    count = max(map(len, columns.values()))
    for name, column in columns.items():
        if len(column) not in (0, count):
            raise ValueError(f"Got {len(column)} {name} for {count} clips, expected one per clip; use None for gaps.")
    rows = zip(*(column or [None] * count for column in columns.values()), strict=True)
    return [ClipInputs(heard, _one_video(stills, seen), features) for heard, stills, seen, features in rows]


def as_files(media: Any) -> list[Source]:
    """One file, or a list of them, on disk or in memory, from what [`as_source`] takes."""
    if is_source(media) or isinstance(media, Mapping) or not hasattr(media, "__iter__"):
        return [as_source(media)]
    return [as_source(medium) for medium in media]


def is_file(item: Any) -> bool:
    """Whether an item of a clip's inputs is a file, on disk or in memory."""
    return isinstance(item, (Path, StoredFile))


def to_samples(audio: Any, sampling_rate: Any) -> tuple[np.ndarray, int]:
    """Samples as they came, `(samples,)` or of several channels, and their rate in Hz.

    Args:
        audio: array, tensor or list; `{"array", "sampling_rate"}`; a pair of the rate and those, in either order; or
            a decoder of `datasets`.
        sampling_rate: where `audio` does not tell.

    Raises:
        TypeError: anything else.
        ValueError: a rate that is none.
    """
    if isinstance(audio, Mapping):
        if audio.get("array") is None or "sampling_rate" not in audio:
            raise ValueError(f"Got audio with {sorted(audio) or 'no keys'}, expected 'array' and 'sampling_rate'.")
        audio, sampling_rate = audio["array"], audio["sampling_rate"]
    elif _is_pair(audio):  # of gradio the rate comes first, of librosa the samples
        audio, sampling_rate = audio if isinstance(audio[1], numbers.Real) else audio[::-1]
    elif hasattr(audio, "get_all_samples"):
        decoded = audio.get_all_samples()
        audio, sampling_rate = decoded.data, decoded.sample_rate
    if not hasattr(audio, "ndim") and not isinstance(audio, (list, tuple)):
        raise TypeError(f"Got {type(audio).__name__} for audio, expected {SAMPLES}; or {KINDS}.")
    return to_numpy(audio, "audio"), _checked_rate(sampling_rate)


def to_frames(video: Any, choose: Callable[[int], Sequence[int]]) -> np.ndarray:
    """Pictures of a video, `(num_frames, height, width, 3)` uint8 RGB.

    Args:
        video: a picture, a list of pictures or of their files, or an array `(video_frames, height, width, 3)`.
        choose: which to take of how many.
    """
    if hasattr(video, "convert"):
        video = [video]
    if not hasattr(video, "__len__") or isinstance(video, Mapping):
        raise TypeError(f"Got {type(video).__name__} for a video, expected pictures, an array, or {KINDS}.")
    if not len(video):
        raise ValueError("Got a video of 0 frames, expected at least one: pass videos=None for no picture.")
    taken = choose(len(video))
    if all(is_file(picture) for picture in video):
        return read_images(video, taken)
    frames = [_to_rgb(video[number]) for number in taken]
    sizes = {frame.shape[:2] for frame in frames}
    if len(sizes) > 1:
        raise ValueError(f"The frames of a video have sizes {sorted(sizes)}, expected one (height, width).")
    return np.stack(frames)


def to_features(features: Any) -> torch.Tensor:
    """Stored visual features, `(video_frames, hidden)` float32.

    Raises:
        ValueError: another shape, or values that are NaN or infinite.
    """
    features = torch.as_tensor(to_numpy(features, "video_features"), dtype=torch.float32)
    if features.ndim != 2 or not features.numel():
        raise ValueError(f"video_features has shape {tuple(features.shape)}, expected (video_frames, hidden).")
    if not features.isfinite().all():
        raise ValueError("video_features holds NaN or infinite values, expected finite ones: make them again.")
    return features


def to_numpy(array: Any, name: str = "an input") -> np.ndarray:
    """Array of whatever holds numbers: a tensor on any device and of any dtype, a list, an array.

    Raises:
        ValueError: with its name: lists of different lengths, or of other things.
    """
    if isinstance(array, torch.Tensor):
        array = array.detach().cpu()
        array = array.float() if array.is_floating_point() else array
        return array.numpy()
    try:
        array = np.asarray(array)
    except ValueError as error:  # lists of different lengths
        raise ValueError(f"{name} is no array ({' '.join(str(error).split())}); expected one length.") from error
    if array.dtype.kind not in "biuf":
        raise ValueError(f"{name} holds {array.dtype}, expected numbers.")
    return array


# -------------------------------------------------------------------------------------------------------- internals


def _with_sources(items: Any) -> Any:
    """Items with every file among them as a path or as bytes with a name: an open file can be read but once."""
    if is_source(items):
        return as_source(items)
    if isinstance(items, (list, tuple)) and any(is_source(item) or isinstance(item, (list, tuple)) for item in items):
        return [_with_sources(item) for item in items] if not _is_pair(items) else items
    return items


def _as_list(items: Any, is_single: Callable[[Any], bool]) -> list:
    if items is None:
        return []
    if is_file(items) or isinstance(items, Mapping) or hasattr(items, "convert") or hasattr(items, "get_all_samples"):
        return [items]
    if not hasattr(items, "__len__"):
        if not hasattr(items, "__iter__"):
            return [items]  # a number, or what else is refused where it is looked at
        items = list(items)  # an iterator: looking at it would use it up
    return [items] if is_single(items) else list(items)


def _is_pair(item: Any) -> bool:
    """A sampling rate and samples."""
    if not isinstance(item, tuple) or len(item) != 2:
        return False
    rates = [isinstance(part, numbers.Real) for part in item]
    return sum(rates) == 1 and (hasattr(item[rates[0]], "ndim") or isinstance(item[rates[0]], list))


def _is_single_audio(item: Any) -> bool:
    return hasattr(item, "ndim") or _is_pair(item) or (len(item) > 0 and np.isscalar(item[0]))


def _is_single_image(item: Any) -> bool:
    return getattr(item, "ndim", None) in (2, 3)


def _is_single_video(item: Any) -> bool:
    """One array of frames, or one list of pictures or their files; a list of those is a batch."""
    if hasattr(item, "ndim"):
        return item.ndim == 4
    first = next((part for part in item if part is not None), None)
    if is_file(first):
        return all(_is_picture_file(part) for part in item)
    return hasattr(first, "convert") or getattr(first, "ndim", None) in (2, 3)


def _is_picture_file(item: Any) -> bool:
    if isinstance(item, StoredFile):
        return is_picture(item)
    return isinstance(item, Path) and item.suffix.lower() in IMAGE_SUFFIXES


def _one_video(images: Any, video: Any) -> Any:
    """What is seen in a clip. A video may come in a list of its own, and images are its frames."""
    if isinstance(video, (list, tuple)):
        alone = [part for part in video if getattr(part, "ndim", None) == 4 or isinstance(part, (list, tuple))]
        alone = alone or [part for part in video if is_file(part) and not _is_picture_file(part)]
        if len(alone) > 1:
            raise ValueError(f"Got {len(alone)} videos for one clip, expected one: pass a list of clips.")
        video = alone[0] if alone else video or None
    if images is None or (isinstance(images, (list, tuple)) and not images):
        return video
    if video is not None:
        raise ValueError("Got images and a video for one clip, expected one of them: images are taken for its frames.")
    return [images] if is_file(images) or getattr(images, "ndim", None) in (2, 3) else images


def _to_rgb(picture: Any) -> np.ndarray:
    """A picture as `(height, width, 3)` uint8: a file, an object of Pillow, or an array."""
    if is_file(picture):
        return read_image(picture)
    if hasattr(picture, "convert"):
        return image_to_rgb(picture)
    if not hasattr(picture, "ndim") and not isinstance(picture, (list, tuple)):
        raise TypeError(f"Got {type(picture).__name__} for a picture, expected one of Pillow, an array, or {KINDS}.")
    return array_to_rgb(to_numpy(picture, "A video frame"))


def _checked_rate(sampling_rate: Any) -> int:
    number = isinstance(sampling_rate, numbers.Real) and not isinstance(sampling_rate, bool)
    if not number or not 0 < sampling_rate <= SAMPLING_RATES[1]:
        raise ValueError(
            f"sampling_rate is {sampling_rate!r:.40}, expected samples per second, such as 44100, and at most "
            f"{SAMPLING_RATES[1]:,}."
        )
    return round(sampling_rate)
