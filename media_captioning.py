# Copyright 2026 The LAVCap for Transformers authors. Licensed under the Apache License, Version 2.0.
"""Windows of sound and frames out of media: one function for every container, folder, picture and gap."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np


try:  # inside a package: the Hub's module cache
    from .containers_captioning import (
        Reading,
        Window,
        choose_streams,
        decoding,
        duration_of,
        follow,
        frames_of,
        is_exact,
        jump,
        note_choice,
        opened,
        stated_duration,
    )
    from .pictures_captioning import is_picture, read_image, read_images
    from .scenes_captioning import scene_cuts
    from .sounds_captioning import AUDIBLE, Sound, cancel, check_samples, peak_of
    from .sources_captioning import MediaError, Source, as_source, check_file, is_folder, list_images
    from .windows_captioning import SHORTEST_TAIL, Pictures, Sounds, plan_windows, shown_times
except ImportError:  # as a plain module: a clone, or after `pip install`
    from containers_captioning import (
        Reading,
        Window,
        choose_streams,
        decoding,
        duration_of,
        follow,
        frames_of,
        is_exact,
        jump,
        note_choice,
        opened,
        stated_duration,
    )
    from pictures_captioning import is_picture, read_image, read_images
    from scenes_captioning import scene_cuts
    from sounds_captioning import AUDIBLE, Sound, cancel, check_samples, peak_of
    from sources_captioning import MediaError, Source, as_source, check_file, is_folder, list_images
    from windows_captioning import SHORTEST_TAIL, Pictures, Sounds, plan_windows, shown_times


@dataclass(frozen=True)
class Clip:
    """Decoded window of a clip.

    Args:
        waveform: mono samples in [-1, 1], `(samples,)` float32; `None` without sound.
        frames: evenly spaced pictures, `(video_frames, height, width, 3)` uint8 RGB; `None` without picture.
        duration: length of the whole file in seconds; `None` if it has no time, as loose frames.
        sampling_rate: of the waveform in Hz.
        notes: what a user should know of the file: a choice among its tracks, damage, silence. Each follows its name.
    """

    waveform: np.ndarray | None
    frames: np.ndarray | None
    duration: float | None
    sampling_rate: int | None = None
    notes: tuple[str, ...] = ()

    @property
    def modalities(self) -> str:
        """`"audio+video"`, `"audio"` or `"video"`."""
        present = {"audio": self.waveform is not None, "video": self.frames is not None}
        return "+".join(name for name, there in present.items() if there)


def read_clip(
    medium: Any,
    sampling_rate: int | None,
    num_frames: int,
    window: float,
    audio: bool = True,
    video: bool = True,
    start: float = 0.0,
    channels: str = "mean",
    decoder_threads: int = 0,
) -> Clip:
    """Decode one window of a clip.

    Args:
        medium: what [`as_source`] takes: a media file with sound, picture or both, a picture, or a folder of them.
        sampling_rate: of the returned waveform, in Hz; `None`: that of the file.
        num_frames: pictures to take, at the centres of as many equal parts of what the window holds.
        window: in seconds.
        audio, video: whether to decode the sound, the picture.
        start: of the window, in seconds from the beginning of the file. What comes before it is not decoded, where
            the container has times or an index to jump by.
        channels: of several, which are heard: their `"mean"` or the `"first"`.
        decoder_threads: of the picture; fewer where others are decoded meanwhile, 0: as many as are of use alone.

    Raises:
        MediaError: missing, unreadable, cut short, empty in the window, without sound and picture, with samples
            that are NaN, infinite or far beyond full scale, or beyond the bounds of `bounds_captioning`.
    """
    source = as_source(medium)
    if (still := _read_still(source, num_frames, video)) is not None:
        return still
    span = Window(start, start + window)
    reading = Reading(source, span, _kinds(audio, video), decoder_threads=decoder_threads)
    ((_, clip),) = _read_file(reading, sampling_rate, num_frames, channels, lambda duration: [reading.window])
    if isinstance(clip, MediaError):
        raise clip
    if not clip.modalities:
        raise MediaError(
            f"{source}: lasts {clip.duration:.1f} s and holds nothing from {start:g} s on; pass an earlier start."
            if start > 0
            else f"{source}: is empty, 0 s of sound and picture; pass a clip that holds some."
        )
    return clip


def read_windows(
    medium: Any,
    sampling_rate: int | None,
    num_frames: int,
    window: float,
    audio: bool = True,
    video: bool = True,
    start: float = 0.0,
    end: float | None = None,
    overlap: float = 0.0,
    shortest: float = SHORTEST_TAIL,
    scene_cut: float | None = None,
    channels: str = "mean",
    decoder_threads: int = 0,
) -> Iterator[tuple[Window, Clip | MediaError]]:
    """Decode a medium window by window, in one pass: memory does not grow with its length.

    Args:
        start, end: of what is read, in seconds from the beginning of the file; default: to its end.
        overlap: seconds that a window begins before the end of the one before it.
        shortest: seconds that the last window has at least; what is left over is not read.
        scene_cut: how much of the picture must change, from 0 to 1, so that a window begins; `None`: it begins none.
        decoder_threads: of the picture of a medium that is a single window, fewer where others are decoded meanwhile;
            0: as many as are of use to it alone.
        others: as of [`read_clip`].

    Yields:
        Each window, in seconds from the beginning of the file, with what it holds: a clip, which has no modalities
        where the file has a hole; or the reason why it cannot be used, such as damage, which costs the others nothing.
        A picture or a folder of them is one window of no length.

    Raises:
        MediaError: as [`read_clip`], of the file as a whole.
    """
    source = as_source(medium)
    if (still := _read_still(source, num_frames, video)) is not None:
        yield Window(0.0, 0.0), still
        return
    reading = Reading(source, Window(start, float("inf") if end is None else end), _kinds(audio, video), long=True)

    cuts = [] if scene_cut is None or not video else scene_cuts(source, scene_cut, start, end)

    def plan(duration: float) -> list[Window]:
        last = min(duration, reading.window.end)
        if last <= start:
            raise MediaError(
                f"{source}: lasts {duration:.1f} s and holds nothing from {start:g} s on; pass an earlier start."
            )
        windows = plan_windows(source, start, last, window, overlap, shortest, cuts)
        if len(windows) == 1:
            reading.decoder_threads = decoder_threads
        return windows

    yield from _read_file(reading, sampling_rate, num_frames, channels, plan)


def read_duration(medium: Any) -> float:
    """Length of a media file in seconds: as its container says, or as its packets add up. Nothing is decoded.

    Raises:
        MediaError: missing or unreadable.
    """
    reading = Reading(as_source(medium), Window(0.0, float("inf")))
    with decoding(reading.source), opened(reading) as container:
        if is_exact(container) and (stated := stated_duration(container)):
            return stated
        return max(track.end for track in follow(reading, container, choose_streams(reading, container)).values())


def even_indices(length: int, count: int) -> list[int]:
    """Indices of the items at the centres of `count` equal parts of a sequence; short ones repeat items."""
    return [int((part + 0.5) * length / count) for part in range(count)]


# -------------------------------------------------------------------------------------------------------- internals


def _kinds(audio: bool, video: bool) -> tuple[str, ...]:
    return tuple(kind for kind, wanted in (("audio", audio), ("video", video)) if wanted)


def _read_still(source: Source, num_frames: int, video: bool) -> Clip | None:
    """A picture, or a folder of frames; `None`: it is another file."""
    if is_folder(source):
        if not video:
            raise MediaError(f"{source}: a folder of frames, which has no sound; pass a file that has.")
        images = list_images(source)
        return Clip(None, read_images(images, even_indices(len(images), num_frames)), None)
    if isinstance(source, Path):
        check_file(source)
    if not is_picture(source):
        return None
    if not video:
        raise MediaError(f"{source}: a picture, which has no sound; pass a file that has.")
    return Clip(None, np.stack([read_image(source)] * num_frames), None)


def _read_file(
    reading: Reading, rate: int | None, num_frames: int, channels: str, plan: Callable[[float], Sequence[Window]]
) -> Iterator[tuple[Window, Clip | MediaError]]:
    """Windows that are planned when the length of the file is known, with what they hold."""
    with decoding(reading.source), ExitStack() as stack:
        container = stack.enter_context(opened(reading))
        streams = choose_streams(reading, container)
        note_choice(reading, container, streams)
        jumped = jump(container, reading.window)
        tracks = follow(reading, container, streams)
        windows = plan(duration := duration_of(reading, container, tracks))
        sounds = pictures = None
        if "audio" in tracks:
            rate = rate or streams["audio"].codec_context.sample_rate
            timed = stack.enter_context(frames_of(reading, container, tracks["audio"], jumped))
            sounds = Sounds(timed, rate, channels)
        if "video" in tracks and (last := tracks["video"].last) is not None:
            track, end = tracks["video"], max(tracks["video"].end, last)
            wanted = shown_times(track.times, windows, end, num_frames) if track.times else None
            timed = stack.enter_context(frames_of(reading, container, track, jumped, wanted))
            pixel_aspect = streams["video"].sample_aspect_ratio
            pictures = Pictures(timed, windows, end, num_frames, pixel_aspect and float(pixel_aspect))
        for window in windows:
            if reading.long:
                reading.renew()
            yield window, _taken(reading, window, sounds, pictures, duration, rate)


def _taken(
    reading: Reading,
    window: Window,
    sounds: Sounds | None,
    pictures: Pictures | None,
    duration: float,
    rate: int | None,
) -> Clip | MediaError:
    """What a window holds, or why that cannot be used."""
    sound, frames = sounds and sounds.take(window), pictures and pictures.take(window)
    try:
        waveform = sound and _waveform(reading, sound)
        reading.check_losses()
    except MediaError as error:
        return error
    notes, reading.notes = tuple(reading.notes), []
    return Clip(waveform, frames, duration, None if waveform is None else rate, notes)


def _waveform(reading: Reading, sound: Sound) -> np.ndarray | None:
    waveform = sound.waveform()
    if waveform is None:
        return None
    check_samples(waveform, f"{reading.source}: its sound", MediaError)
    peak = peak_of(waveform)
    if cancel(sound.peak, peak):
        reading.notes.append("has channels that cancel each other, so that their mean is silence; pass one of them")
    elif peak < AUDIBLE and reading.notes:  # of several tracks: another one may be meant
        reading.notes.append("is silent there")
    if sound.holes:
        missing = sum(end - start for start, end in sound.holes)
        reading.notes.append(f"lacks {missing:.2f} s of sound from {sound.holes[0][0]:.2f} s on, which are silence")
    return waveform
