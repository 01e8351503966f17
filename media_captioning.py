# Copyright 2026 The LAVCap for Transformers authors. Licensed under the Apache License, Version 2.0.
"""A window of sound and frames out of media: one function for every container, folder, picture and gap."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np


try:  # inside a package: the Hub's module cache
    from .clocks_captioning import Track
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
    from .pictures_captioning import frame_to_rgb, is_picture, read_image, read_images
    from .sounds_captioning import AUDIBLE, Sound, cancel, check_samples, peak_of
    from .sources_captioning import MediaError, as_source, check_file, is_folder, list_images
except ImportError:  # as a plain module: a clone, or after `pip install`
    from clocks_captioning import Track
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
    from pictures_captioning import frame_to_rgb, is_picture, read_image, read_images
    from sounds_captioning import AUDIBLE, Sound, cancel, check_samples, peak_of
    from sources_captioning import MediaError, as_source, check_file, is_folder, list_images


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

    Raises:
        MediaError: missing, unreadable, cut short, empty in the window, without sound and picture, with samples
            that are NaN, infinite or far beyond full scale, or beyond the bounds of `bounds_captioning`.
    """
    source = as_source(medium)
    if is_folder(source):
        if not video:
            raise MediaError(f"{source}: a folder of frames, which has no sound; pass a file that has.")
        images = list_images(source)
        return Clip(None, read_images(images, even_indices(len(images), num_frames)), None)
    if isinstance(source, Path):
        check_file(source)
    if is_picture(source):
        if not video:
            raise MediaError(f"{source}: a picture, which has no sound; pass a file that has.")
        return Clip(None, np.stack([read_image(source)] * num_frames), None)
    kinds = tuple(kind for kind, wanted in (("audio", audio), ("video", video)) if wanted)
    with decoding(source):
        return _read_file(Reading(source, Window(start, start + window), kinds), sampling_rate, num_frames, channels)


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


def _read_file(reading: Reading, rate: int | None, num_frames: int, channels: str) -> Clip:
    with opened(reading) as container:
        streams = choose_streams(reading, container)
        note_choice(reading, container, streams)
        jump(container, reading.window)
        tracks = follow(reading, container, streams)
        duration = duration_of(reading, container, tracks)
        if "audio" in streams:
            rate = rate or streams["audio"].codec_context.sample_rate
        pixel_aspect = streams["video"].sample_aspect_ratio if "video" in streams else None
    waveform = frames = None
    if "audio" in tracks:
        waveform = _read_waveform(reading, tracks["audio"], rate, channels)
    if "video" in tracks:
        frames = _read_frames(reading, tracks["video"], num_frames, pixel_aspect and float(pixel_aspect))
    reading.check_losses()
    if waveform is None and frames is None:
        start = reading.window.start
        raise MediaError(
            f"{reading.source}: lasts {duration:.1f} s and holds nothing from {start:g} s on; pass an earlier start."
            if start > 0
            else f"{reading.source}: is empty, 0 s of sound and picture; pass a clip that holds some."
        )
    return Clip(waveform, frames, duration, None if waveform is None else rate, tuple(reading.notes))


def _read_waveform(reading: Reading, track: Track, rate: int, channels: str) -> np.ndarray | None:
    window = reading.window
    sound = Sound(rate, channels, window.end - window.start)
    with frames_of(reading, track) as timed:
        sound.take((None if time is None else time - window.start, frame) for time, frame in timed)
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


def _read_frames(reading: Reading, track: Track, num_frames: int, pixel_aspect: float | None) -> np.ndarray | None:
    window = reading.window
    if not track.times:
        return None
    end = min(max(track.end, track.times[-1]), window.end)
    if window.start and end <= window.start:
        return None
    targets = [window.start + (part + 0.5) * (end - window.start) / num_frames for part in range(num_frames)]
    taken: list[np.ndarray] = []
    shown = shown_rgb = size = None
    with frames_of(reading, track) as timed:
        for time, frame in timed:
            size = size or (frame.width, frame.height)
            # The frame on screen at a target is the last one that began before it.
            while len(taken) < num_frames and shown is not None and targets[len(taken)] < (time or 0.0):
                shown_rgb = frame_to_rgb(shown, *size, pixel_aspect) if shown_rgb is None else shown_rgb
                taken.append(shown_rgb)
            if len(taken) == num_frames:
                break
            shown, shown_rgb = frame, None
    if shown is None:
        return None
    if len(taken) < num_frames:
        taken += [frame_to_rgb(shown, *size, pixel_aspect)] * (num_frames - len(taken))
    return np.stack(taken)
