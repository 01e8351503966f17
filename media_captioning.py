# Copyright 2026 The LAVCap for Transformers authors. Licensed under the Apache License, Version 2.0.
"""Sound and frames from media files, decoded by PyAV: one function for every container and every gap."""

import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import chain, groupby
from pathlib import Path
from typing import Any

import numpy as np


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
# Containers that store how long they are; elsewhere the duration is a guess from the bit rate.
EXACT_CONTAINERS = frozenset({"avi", "flac", "matroska", "mov", "mp4", "wav", "webm"})
LOUDEST_SAMPLE = 8.0  # decoders and filters overshoot full scale, which is 1, but not by this much
CUT_SHORT_SECONDS = 0.5  # streams of a sound file may end this much before the container says
# Containers whose packets say when they are after a jump; elsewhere the time would be a guess from the bit rate.
SEEKABLE_CONTAINERS = frozenset({"avi", "flac", "matroska", "mov", "mp4", "ogg", "wav", "webm"})
LEAD_SECONDS = 1.0  # decoded before a window and dropped: codecs need what came before, streams are out of step


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


@dataclass(frozen=True)
class Clip:
    """Decoded window of a clip.

    Args:
        waveform: mono samples in [-1, 1], `(samples,)` float32; `None` without sound.
        frames: evenly spaced pictures, `(video_frames, height, width, 3)` uint8 RGB; `None` without picture.
        duration: length of the whole file in seconds; `None` if it has no time, as loose frames.
        sampling_rate: of the waveform in Hz.
    """

    waveform: np.ndarray | None
    frames: np.ndarray | None
    duration: float | None
    sampling_rate: int | None = None

    @property
    def modalities(self) -> str:
        """`"audio+video"`, `"audio"` or `"video"`."""
        present = {"audio": self.waveform is not None, "video": self.frames is not None}
        return "+".join(name for name, there in present.items() if there)


def read_clip(
    path: str | Path | StoredFile,
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
        path: a media file with sound, picture or both, or a folder of images (a clip without sound).
        sampling_rate: of the returned waveform, in Hz; `None`: that of the file.
        num_frames: pictures to take, at the centres of as many equal parts of what the window holds.
        window: in seconds.
        audio, video: whether to decode the sound, the picture.
        start: of the window, in seconds from the beginning of the file. What comes before it is not decoded, where
            the container has times or an index to jump by.
        channels: of several, which are heard: their `"mean"` or the `"first"`.

    Raises:
        MediaError: missing, unreadable, cut short, empty in the window, without sound and picture, or with samples
            that are NaN, infinite or far beyond full scale.
    """
    if not isinstance(path, StoredFile):
        if "://" in str(path):
            raise MediaError(f"{path}: an address, not a file; download it, and pass the file.")
        path = Path(path)
        if path.is_dir() and not video:
            raise MediaError(f"{path}: a folder of frames, which has no sound; pass a file that has.")
        if path.is_dir():
            images = list_images(path)
            return Clip(None, read_images(images, even_indices(len(images), num_frames)), None)
    with _decoding(path):
        sound = _Sound(sampling_rate, channels)
        return _read_file(path, sound, num_frames, _Window(start, start + window), audio, video)


def read_duration(path: str | Path | StoredFile) -> float:
    """Length of a media file in seconds: as its container says, or as its packets add up. Nothing is decoded.

    Raises:
        MediaError: missing or unreadable.
    """
    path = path if isinstance(path, StoredFile) else Path(path)
    with _decoding(path), _opened(path) as container:
        if container.duration and _is_any(container, EXACT_CONTAINERS):
            return container.duration / 1e6
        streams = _streams(path, container, audio=True, video=True)
        return max(span.end for span in _spans(container, streams, _Window(0.0, float("inf"))).values())


def _read_file(
    path: Path | StoredFile, sound: "_Sound", num_frames: int, window: "_Window", audio: bool, video: bool
) -> Clip:
    with _opened(path) as container:
        streams = _streams(path, container, audio, video)
        _jump(container, window)
        spans = _spans(container, streams, window)
        duration = _checked_duration(path, container, spans)
        if sound.rate is None and "audio" in streams:
            sound = _Sound(streams["audio"].rate, sound.channels)
    waveform = _read_waveform(path, sound, window) if "audio" in spans else None
    frames = _read_frames(path, spans["video"], num_frames, window) if "video" in spans else None
    if waveform is None and frames is None and window.start > 0:
        raise MediaError(
            f"{path}: lasts {duration:.1f} s and holds nothing from {window.start:g} s on; pass an earlier start."
        )
    if waveform is None and frames is None:
        raise MediaError(f"{path}: is empty, 0 s of sound and picture; pass a clip that holds some.")
    return Clip(waveform, frames, duration, None if waveform is None else sound.rate)


def list_folder(folder: str | Path) -> list[Path]:
    """Entries of a folder by name."""
    try:
        return sorted(Path(folder).iterdir())
    except OSError as error:
        raise MediaError(f"{folder}: cannot be listed ({error.strerror}); check its permissions.") from error


def list_images(folder: str | Path) -> list[Path]:
    """Images of a folder, `frame_2` before `frame_10`."""
    images = [path for path in list_folder(folder) if path.suffix.lower() in IMAGE_SUFFIXES]
    if not images:
        raise MediaError(
            f"{folder}: a folder without images, expected frames named *.jpg or *.png; pass a media file or a folder "
            "of frames."
        )
    return sorted(images, key=lambda path: [int(part) if part.isdigit() else part for part in _digits(path.name)])


def read_images(paths: Sequence[str | Path | StoredFile], numbers: Sequence[int]) -> np.ndarray:
    """Some images of a sequence, `(len(numbers), height, width, 3)` uint8; all must have one size."""
    from PIL import Image, ImageOps

    frames = {}
    for index in sorted(set(numbers)):
        try:
            with Image.open(_openable(paths[index])) as image:
                frames[index] = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
        except FileNotFoundError:
            raise MediaError(f"{paths[index]}: no such file; check the path.") from None
        except (Image.DecompressionBombError, OSError, SyntaxError) as error:
            raise MediaError(f"{paths[index]}: not a readable image ({_one_line(error)}); replace it.") from error
        first = next(iter(frames.values()))
        if frames[index].shape != first.shape:
            raise MediaError(
                f"{paths[index]}: {frames[index].shape[1]}x{frames[index].shape[0]} pixels among frames of "
                f"{first.shape[1]}x{first.shape[0]}; give all frames of a clip one size."
            )
    return np.stack([frames[index] for index in numbers])


def even_indices(length: int, count: int) -> list[int]:
    """Indices of the items at the centres of `count` equal parts of a sequence; short ones repeat items."""
    return [int((part + 0.5) * length / count) for part in range(count)]


def to_mono(waveform: np.ndarray, channels: str = "mean") -> np.ndarray:
    """`(samples,)` of `(samples,)`, `(channels, samples)` or `(samples, channels)`; channels are the fewer.

    Args:
        channels: their `"mean"` or the `"first"`.
    """
    waveform = np.asarray(waveform)
    if np.issubdtype(waveform.dtype, np.integer) and waveform.dtype.itemsize > 4:
        raise ValueError(
            f"audio holds {waveform.dtype} samples, whose full scale is unknown, expected floating point in [-1, 1] "
            "or integers of the sound's own dtype, such as int16."
        )
    if np.issubdtype(waveform.dtype, np.unsignedinteger):
        waveform = waveform / (np.iinfo(waveform.dtype).max / 2) - 1
    elif np.issubdtype(waveform.dtype, np.integer):
        waveform = waveform / -float(np.iinfo(waveform.dtype).min)
    if waveform.ndim == 2:
        axis = int(np.argmin(waveform.shape))
        waveform = waveform.take(0, axis) if channels == "first" else waveform.mean(axis=axis)
    if waveform.ndim != 1:
        raise ValueError(f"audio has shape {waveform.shape}, expected (samples,) or (channels, samples).")
    _check_samples(waveform, "audio", ValueError)
    return waveform.astype(np.float32)


def resample(waveform: np.ndarray, from_rate: int, to_rate: int) -> np.ndarray:
    """Mono samples `(samples,)` at another rate (Hz), by libswresample."""
    import av

    if from_rate == to_rate or not len(waveform):
        return waveform
    frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(waveform[None]), format="fltp", layout="mono")
    frame.sample_rate = from_rate
    resampler = av.AudioResampler(format="fltp", rate=to_rate)
    parts = [part.to_ndarray()[0] for given in (frame, None) for part in resampler.resample(given)]
    return np.concatenate([*parts, np.zeros(1, np.float32)])[: round(len(waveform) * to_rate / from_rate)]


# -------------------------------------------------------------------------------------------------------- internals


@dataclass(frozen=True)
class _Window:
    """What is wanted of a file, in seconds from the start of its container."""

    start: float
    end: float


@dataclass(frozen=True)
class _Sound:
    """What is wanted of a sound: its sampling rate in Hz, and which of several channels, their `"mean"` or the
    `"first"`."""

    rate: int | None
    channels: str


@dataclass
class _Span:
    """What the packets of a stream cover, in seconds from the start of the container."""

    times: list[float] = field(default_factory=list)
    end: float = 0.0
    complete: bool = True  # followed to its end, not only past the end of the window


def _openable(file: str | Path | StoredFile) -> str | Path | io.BytesIO:
    return io.BytesIO(file.data) if isinstance(file, StoredFile) else file


@contextmanager
def _decoding(path: Path | StoredFile) -> Iterator[None]:
    try:
        yield
    except MediaError:
        raise
    except Exception as error:  # whatever a decoder makes of a strange file: the other clips must not suffer
        raise MediaError(f"{path}: cannot be decoded ({_one_line(error)}); convert it, to mp4 or wav say.") from error


@contextmanager
def _opened(path: Path | StoredFile) -> Iterator:
    import av

    if isinstance(path, Path) and not path.exists():
        raise MediaError(f"{path}: no such file; check the path.")
    try:
        _check_riff_size(path)
        # A relative name with a colon would be a protocol.
        with av.open(str(path.absolute()) if isinstance(path, Path) else _openable(path)) as container:
            if container.format.name == "tty":  # FFmpeg draws plain text as a film
                raise MediaError(f"{path}: is text, not media; pass a video, sound or image file.")
            yield container
    except (av.FFmpegError, OSError) as error:
        raise MediaError(
            f"{path}: not readable as media, or damaged ({_one_line(error.strerror)}); check that it plays, or "
            "copy it again."
        ) from error


def _check_riff_size(path: Path | StoredFile):
    """FFmpeg trims a RIFF file (wav, avi) to what is there, so its header is compared with the file here."""
    with io.BytesIO(path.data) if isinstance(path, StoredFile) else path.open("rb") as file:
        head = file.read(8)
        size = file.seek(0, io.SEEK_END)
    declared = int.from_bytes(head[4:8], "little") + 8
    streamed = declared - 8 in (0, 0xFFFFFFFF)  # written without knowing the length
    if head[:4] == b"RIFF" and not streamed and size < declared:
        raise MediaError(
            f"{path}: is cut short, {size:,} of the {declared:,} bytes that it declares; copy the file again."
        )


def _audio_stream(container):
    return next(iter(container.streams.audio), None)


def _video_stream(container):
    import av

    cover = av.stream.Disposition.attached_pic  # the picture on a record's sleeve is not a film
    return next((stream for stream in container.streams.video if not stream.disposition & cover), None)


def _streams(path: Path | StoredFile, container, audio: bool, video: bool) -> dict:
    """The wanted streams that the container holds, by modality."""
    found = {
        "audio": _audio_stream(container) if audio else None,
        "video": _video_stream(container) if video else None,
    }
    found = {kind: stream for kind, stream in found.items() if stream is not None}
    if not found:
        sought = "neither sound nor picture" if audio and video else "no sound" if audio else "no picture"
        kinds = ", ".join(sorted({stream.type for stream in container.streams})) or "no streams"
        raise MediaError(f"{path}: holds {sought} (found {kinds}); pass a clip that has some.")
    return found


def _origin(container) -> float:
    return (container.start_time or 0) / 1e6  # FFmpeg counts a container's time in microseconds


def _is_any(container, formats: frozenset[str]) -> bool:
    return not formats.isdisjoint(container.format.name.split(","))


def _jump(container, window: _Window) -> bool:
    """Go to a keyframe before the window, if there is a reason to and a way; else stay at the beginning."""
    import av

    target = window.start - LEAD_SECONDS
    if target <= 0 or not _is_any(container, SEEKABLE_CONTAINERS):
        return False
    with suppress(av.FFmpegError):
        container.seek(int((target + _origin(container)) * 1e6))
        return True
    return False


def _spans(container, streams: dict, window: _Window) -> dict[str, _Span]:
    """Follow the packets of some streams, without decoding, to the end of the window or of the container."""
    origin, stops_early = _origin(container), container.duration is not None
    spans = {kind: _Span() for kind in streams}
    by_index = {stream.index: spans[kind] for kind, stream in streams.items()}
    for packet in container.demux(*streams.values()):
        if packet.pts is None:
            continue
        span = by_index[packet.stream.index]
        start = float(packet.pts * packet.time_base) - origin
        span.end = max(span.end, start + float((packet.duration or 0) * packet.time_base))
        if start < window.end:
            span.times.append(start)
        # Packets come in decoding order, a little out of step: a second more is enough.
        span.complete = not (stops_early and start > window.end + 1)
        if not any(span.complete for span in spans.values()):
            break
    return spans


def _checked_duration(path: Path | StoredFile, container, spans: dict[str, _Span]) -> float:
    found = max(span.end for span in spans.values())
    declared = container.duration / 1e6 if container.duration else found
    exact = _is_any(container, EXACT_CONTAINERS)
    followed = all(span.complete for span in spans.values())
    everything = {stream.type for stream in container.streams} <= set(spans)
    if exact and followed and everything and declared - found > CUT_SHORT_SECONDS:
        raise MediaError(
            f"{path}: is cut short, {found:.1f} s of the {declared:.1f} s that it declares; copy the file again."
        )
    return found if followed and not exact else max(declared, found)


@contextmanager
def _frames_from(path: Path | StoredFile, kind: str, window: _Window) -> Iterator[Iterator[tuple[float, Any]]]:
    """Decoded frames of a stream with their times, in seconds from the start of the container.

    They begin before the window, or at the beginning of a file whose index led behind it.
    """
    find = {"audio": _audio_stream, "video": _video_stream}[kind]
    for jumping in (True, False):
        with _opened(path) as container:
            jumped = jumping and _jump(container, window)
            stream = find(container)
            if kind == "video":
                stream.thread_type = "AUTO"
            origin = _origin(container)
            timed = (((frame.time or 0.0) - origin, frame) for frame in container.decode(stream))
            first = next(timed, None)
            if not jumped or (first is not None and first[0] <= window.start):
                yield chain([first] if first else [], timed)
                return


def _read_waveform(path: Path | StoredFile, sound: _Sound, window: _Window) -> np.ndarray | None:
    limit = round((window.end - window.start) * sound.rate)
    with _frames_from(path, "audio", window) as timed:
        first = next(timed, None)
        if first is None:
            return None
        lead = position = round((first[0] - window.start) * sound.rate)
        frames, parts = (frame for _, frame in chain([first], timed)), []
        for part in _mono_parts(frames, sound):
            if position + len(part) > 0:
                parts.append(part[max(0, -position) :])
            position += len(part)
            if position >= limit:
                break
    if not parts:
        return None
    # Sound may start after the picture: silence keeps the two in step.
    waveform = np.pad(np.concatenate(parts), (max(0, lead), 0))[:limit].astype(np.float32)
    _check_samples(waveform, f"{path}: its sound", MediaError)
    return waveform


def _check_samples(waveform: np.ndarray, name: str, kind: type[ValueError]):
    if not np.isfinite(waveform).all():
        raise kind(f"{name} holds NaN or infinite samples, expected finite ones in [-1, 1]; replace it.")
    if (loudest := np.abs(waveform).max(initial=0)) > LOUDEST_SAMPLE:
        raise kind(
            f"{name} holds samples up to {loudest:.0f}, expected floating point in [-1, 1]: divide by full scale, or "
            "give integers their own dtype."
        )


def _mono_parts(frames: Iterator, sound: _Sound) -> Iterator[np.ndarray]:
    """Resampled sound of one channel; where a stream changes its form, as broadcasts do, it begins anew."""
    import av

    for _, alike in groupby(frames, key=lambda frame: (frame.layout.name, frame.sample_rate, frame.format.name)):
        # Packed: PyAV reads the planes of 8 channels without a layout from where there are none, and the process ends.
        resampler = av.AudioResampler(format="flt", rate=sound.rate)
        for frame in chain(alike, [None]):  # None empties the resampler
            for part in resampler.resample(frame):
                samples = part.to_ndarray().reshape(-1, part.layout.nb_channels)
                yield samples[:, 0] if sound.channels == "first" else samples.mean(axis=1)


def _read_frames(path: Path | StoredFile, span: _Span, num_frames: int, window: _Window) -> np.ndarray | None:
    if not span.times:
        return None
    end = min(max(span.end, span.times[-1]), window.end)
    if window.start and end <= window.start:
        return None
    targets = [window.start + (part + 0.5) * (end - window.start) / num_frames for part in range(num_frames)]
    taken, previous = [], None
    with _frames_from(path, "video", window) as timed:
        for time, frame in timed:
            # The frame on screen at a target is the last one that began before it.
            while len(taken) < num_frames and previous is not None and targets[len(taken)] < time:
                taken.append(previous)
            previous = frame
            if len(taken) == num_frames:
                break
    if previous is None:
        return None
    taken += [previous] * (num_frames - len(taken))
    size = taken[0].width, taken[0].height  # a broadcast may change its own within the stream
    images = {id(frame): _upright(frame, *size) for frame in taken}
    return np.stack([images[id(frame)] for frame in taken])


def _upright(frame, width: int, height: int) -> np.ndarray:
    """RGB of a frame, `(height, width, 3)` uint8, then turned upright as its display matrix says."""
    image = frame.to_ndarray(format="rgb24", width=width, height=height)
    return np.rot90(image, k=round(frame.rotation / 90))


def _digits(name: str) -> list[str]:
    return re.split(r"(\d+)", name)


def _one_line(error: object) -> str:
    return " ".join(str(error).split())
