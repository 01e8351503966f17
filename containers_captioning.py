# Copyright 2026 The LAVCap for Transformers authors. Licensed under the Apache License, Version 2.0.
"""Containers of media, read by PyAV: how they are opened, which of their streams are meant, their frames."""

import io
import re
from collections.abc import Iterable, Iterator, Set
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np


try:  # inside a package: the Hub's module cache
    from .bounds_captioning import (
        LOST_SHARE,
        MAX_OPENING_BYTES,
        MAX_PIXELS,
        MAX_SEARCHED_BYTES,
        Deadline,
        check_rate,
        check_size,
    )
    from .clocks_captioning import JUMP_SECONDS, Clock, Track
    from .sounds_captioning import LOUDEST_SAMPLE, peak_of
    from .sources_captioning import MediaError, Source, StoredFile, check_file, first_bytes, one_line
except ImportError:  # as a plain module: a clone, or after `pip install`
    from bounds_captioning import (
        LOST_SHARE,
        MAX_OPENING_BYTES,
        MAX_PIXELS,
        MAX_SEARCHED_BYTES,
        Deadline,
        check_rate,
        check_size,
    )
    from clocks_captioning import JUMP_SECONDS, Clock, Track
    from sounds_captioning import LOUDEST_SAMPLE, peak_of
    from sources_captioning import MediaError, Source, StoredFile, check_file, first_bytes, one_line


# Demuxers that may read a file, by FFmpeg's names: none that opens another file or a socket.
FORMATS = (
    *("aac", "ac3", "aiff", "amr", "amrnb", "amrwb", "asf", "au", "avi", "caf", "eac3", "flac", "flv", "gif"),
    *("matroska", "webm", "mov", "mp4", "m4a", "3gp", "3g2", "mj2", "mp3", "mpeg", "mpegts", "ogg", "srt", "w64"),
    *("wav", "webvtt"),
)
# Containers that store how long they are; elsewhere the duration is a guess from the bit rate.
EXACT_CONTAINERS = frozenset({"avi", "flac", "matroska", "mov", "mp4", "wav", "webm"})
# Containers whose packets say when they are after a jump; elsewhere the time would be a guess from the bit rate.
SEEKABLE_CONTAINERS = frozenset({"avi", "flac", "matroska", "mov", "mp4", "ogg", "wav", "webm"})
FROM_ZERO = frozenset({"matroska", "webm"})  # their duration is the time of the end, also where the start is not 0
UNTIMED_CONTAINERS = frozenset({"avi"})  # the times of packets are guesses from the bit rate
CUT_SHORT_SECONDS = 0.5  # streams of a sound file may end this much before the container says
LIMITED_SECONDS = 600.0  # of a long medium, that are looked at within one time limit
LEAD_SECONDS = 1.0  # decoded before a window and dropped: codecs need what came before, streams are out of step
BUFFER_BYTES = 2**18
MAX_FAILED_READS = 1000  # of a damaged file
KEPT_BYTES = 64 << 20  # of packets, up to which a file is read once; a longer one is read for each of its streams
# Codecs of which frames that are of no use to others can be left out, and the others stay what they are. Frames of
# HEVC say so of their own layer of time alone, and packets of MPEG-4 may hold two.
SKIPPING_CODECS = frozenset({"h264", "mpeg2video", "vp8"})
SENSES = {"audio": "sound", "video": "picture"}
_LOG_LEVEL = Lock()  # PyAV has one for all threads


@dataclass(frozen=True)
class Window:
    """What is wanted of a file, in seconds from the start of its container."""

    start: float
    end: float


@dataclass
class Reading:
    """The reading of one clip.

    Args:
        source: its file.
        window: what is wanted of it.
        kinds: of its streams, `"audio"` and `"video"`.
        notes: what there is to say of it, each to follow its name.
        long: more than one window is read; the time limit holds for each, and for so much of what is looked at
            before.
        decoder_threads: of the picture's decoder; 0: as many as are of use to it alone.
    """

    source: Source
    window: Window
    kinds: tuple[str, ...] = ("audio", "video")
    notes: list[str] = field(default_factory=list)
    losses: dict[str, "Loss"] = field(default_factory=dict)
    long: bool = False
    decoder_threads: int = 0
    bytes: dict[Any, "_Bytes"] = field(default_factory=dict)  # of its open containers

    def __post_init__(self):
        self.renew()
        self._seen = 0.0

    def renew(self):
        """Begin the time limit again."""
        self.deadline = Deadline(self.source)

    def advance(self, time: float):
        """Begin it again where so much of a long medium has been looked at."""
        if self.long and time > self._seen + LIMITED_SECONDS:
            self._seen = time
            self.renew()

    def check_losses(self):
        """Note packets that no decoder took since the last time.

        Raises:
            MediaError: these are too many.
        """
        losses, self.losses = self.losses, {}
        for kind, loss in losses.items():
            packets = f"{loss.lost} of {loss.lost + loss.taken} packets of its {SENSES[kind]}"
            if loss.lost > LOST_SHARE * (loss.taken + loss.lost):
                raise MediaError(
                    f"{self.source}: {packets} cannot be decoded ({loss.reason}); copy the file again, or convert it."
                )
            if loss.lost:
                self.notes.append(f"{packets}, {loss.seconds:.2f} s, cannot be decoded and are left out")


@dataclass
class Loss:
    """Packets of a stream that were decoded, and those that were not, with their seconds and a reason."""

    taken: int = 0
    lost: int = 0
    seconds: float = 0.0
    reason: str = ""


@contextmanager
def decoding(source: Source) -> Iterator[None]:
    """Whatever a decoder makes of a strange file becomes that file's error: the other clips must not suffer."""
    try:
        yield
    except MediaError:
        raise
    except Exception as error:
        raise MediaError(f"{source}: cannot be decoded ({one_line(error)}); convert it, to mp4 or wav say.") from error


@contextmanager
def opened(reading: Reading) -> Iterator[Any]:
    """A container of a known format, which reads nothing but its own bytes."""
    import av

    source = reading.source
    if isinstance(source, Path):
        check_file(source)
    options = {"format_whitelist": ",".join(FORMATS), "protocol_whitelist": "none", "max_pixels": str(MAX_PIXELS)}
    options["correct_ts_overflow"] = "0"  # FFmpeg would take a clock that goes back for one that ran over
    try:
        _check_riff_size(source)
        with (
            _Bytes(reading) as data,
            av.open(data, options=options, buffer_size=BUFFER_BYTES, metadata_errors="replace") as container,
        ):
            reading.bytes[container] = data
            try:
                yield container
            finally:
                del reading.bytes[container]
    except (av.FFmpegError, OSError) as error:
        # ArgumentError is FFmpeg's word for a format that is not among those above.
        reason = "no format of ours" if isinstance(error, av.error.ArgumentError) else one_line(error.strerror)
        reason = reason if first_bytes(source, 1)[0] else "it holds 0 bytes"
        raise MediaError(
            f"{source}: not readable as media, or damaged ({reason}); check that it plays, or copy it again."
        ) from error


def choose_streams(reading: Reading, container: Any) -> dict[str, Any]:
    """The wanted streams that the container holds, by modality: the default one, or the first that can be decoded.

    Raises:
        MediaError: there is none, or one that asks for too much.
    """
    found, missing = {}, []
    for kind in reading.kinds:
        streams = [stream for stream in container.streams if stream.type == kind and not _is_aside(stream)]
        usable = [stream for stream in streams if stream.codec_context is not None]
        if usable:
            found[kind] = min(usable, key=lambda stream: not _is_default(stream))
        elif streams:
            missing.append(f"{SENSES[kind]} that no decoder here knows ({_codec_name(container, streams[0])})")
    if not found:
        sought = "no " + " and no ".join(SENSES[kind] for kind in reading.kinds)
        sought = "neither sound nor picture" if len(reading.kinds) == 2 else sought
        kinds = ", ".join(sorted({stream.type for stream in container.streams})) or "no streams"
        also = f", {missing[0]}" if missing else ""
        raise MediaError(f"{reading.source}: holds {sought} (found {kinds}{also}); pass a clip that has some.")
    if "audio" in found:
        check_rate(reading.source, found["audio"].codec_context.sample_rate)
    if "video" in found:
        check_size(reading.source, found["video"].codec_context.width, found["video"].codec_context.height)
    reading.notes += [f"holds {each}, which is left out" for each in missing]
    return found


def note_choice(reading: Reading, container: Any, streams: dict[str, Any]):
    """Say which of several streams was taken."""
    for kind, taken in streams.items():
        alike = [stream for stream in container.streams if stream.type == kind]
        alike = [stream for stream in alike if kind == "audio" or not _is_aside(stream)]
        if len(alike) > 1:
            number = alike.index(taken) + 1
            default = ", the default one," if _is_default(taken) else ""
            reading.notes.append(
                f"holds {len(alike)} tracks of {SENSES[kind]}, of which number {number}{default} is taken"
            )


def follow(reading: Reading, container: Any, streams: dict[str, Any]) -> dict[str, Track]:
    """Follow the packets of some streams, without decoding, to the end of the window or of the container."""
    clock = Clock(_origin(container))
    tracks = {kind: Track(stream.index) for kind, stream in streams.items()}
    by_index = {stream.index: kind for kind, stream in streams.items()}
    stops_early, room = container.duration is not None, KEPT_BYTES
    for packet in _packets(reading, container, *streams.values()):
        if packet is None:
            continue
        kind = by_index[packet.stream.index]
        room -= packet.size
        if room < 0:
            for track in tracks.values():
                track.packets = None
        else:
            tracks[kind].packets.append(packet)
        if packet.pts is not None:
            start = clock.add(kind, packet)
            reading.advance(start)
            # Packets come in decoding order, a little out of step: a second more is enough.
            tracks[kind].complete = not (stops_early and start > reading.window.end + 1)
            if not any(track.complete for track in tracks.values()):
                break
    for kind, track in tracks.items():
        track.offsets = clock.offsets(kind)
        if len(track.offsets) == 1:
            track.times = sorted(clock.times(kind))
        track.last = max((time for time in clock.times(kind) if time < reading.window.end), default=None)
        track.end = clock.end(kind)
        if _is_any(container, frozenset({"mov"})) and streams[kind].duration:
            # A packet of a variable rate lasts until the next one is decoded, which is not the next one shown.
            stream = streams[kind]
            stated = float(((stream.start_time or 0) + stream.duration) * stream.time_base) - _origin(container)
            track.end = max(min(track.end, stated), max(clock.times(kind), default=0.0))
    return tracks


def duration_of(reading: Reading, container: Any, tracks: dict[str, Track]) -> float:
    """Length of the file in seconds, as the container says or as its packets add up.

    Raises:
        MediaError: they end long before the container says.
    """
    found = max(track.end for track in tracks.values())
    stated = stated_duration(container) or found
    exact = _is_any(container, EXACT_CONTAINERS)
    followed = all(track.complete for track in tracks.values())
    everything = {stream.type for stream in container.streams} <= set(tracks)
    if exact and followed and everything and stated - found > CUT_SHORT_SECONDS:
        raise MediaError(
            f"{reading.source}: is cut short, {found:.1f} s of the {stated:.1f} s that it declares; copy the file "
            "again."
        )
    if _is_any(container, frozenset({"mov"})):
        return stated
    return found if followed and not exact else max(stated, found)


def stated_duration(container: Any) -> float | None:
    """Length in seconds that the container tells; a guess where it is none of [`EXACT_CONTAINERS`]."""
    if not container.duration:
        return None
    start = max(0.0, _origin(container)) if _is_any(container, FROM_ZERO) else 0.0
    return container.duration / 1e6 - start


def is_exact(container: Any) -> bool:
    return _is_any(container, EXACT_CONTAINERS)


def jump(container: Any, window: Window) -> bool:
    """Go to a keyframe before the window, if there is a reason to and a way; else stay at the beginning."""
    import av

    target = window.start - LEAD_SECONDS
    if target <= 0 or not _is_any(container, SEEKABLE_CONTAINERS):
        return False
    with suppress(av.FFmpegError):
        container.seek(int((target + _origin(container)) * 1e6))
        return True
    return False


@contextmanager
def frames_of(
    reading: Reading, container: Any, track: Track, jumped: bool, wanted: Set[float] | None = None
) -> Iterator[Iterator[tuple[float | None, Any]]]:
    """Decoded frames of a stream with their times, in seconds from the start of the container.

    They begin before the window, or at the beginning of a file whose index led behind it. A frame without a time
    follows the one before it.

    Args:
        container: in which the track was followed.
        jumped: whether that was from a keyframe before the window on.
        wanted: starts of the packets whose frames are needed; of others those may be missing that are of no use to
            any. `None`: all are needed.
    """
    with ExitStack() as stack:
        for moved in (jumped, False):
            if track.packets is None:
                container = stack.enter_context(opened(reading))
                moved = moved and jump(container, reading.window)
            timed = _timed(reading, container, track, wanted)
            first = next(timed, None)
            if not moved or (first is not None and (first[0] or 0.0) <= reading.window.start):
                yield chain([first] if first else [], timed)
                return
            # From the beginning on there are packets of which nobody has said whether they are wanted.
            track, wanted = replace(track, packets=None), None


# -------------------------------------------------------------------------------------------------------- internals


class _NoEnd(MediaError):
    """Bytes without a packet."""


class _Bytes:
    """A file's bytes, as FFmpeg asks for them: no other file, within the clip's time, and only so many at a time."""

    def __init__(self, reading: Reading):
        self.name = Path(str(reading.source)).name  # by its ending FFmpeg tells formats that begin alike
        self._reading, self._left = reading, MAX_OPENING_BYTES

    def __enter__(self) -> "_Bytes":
        source = self._reading.source
        self._file = io.BytesIO(source.data) if isinstance(source, StoredFile) else source.open("rb", buffering=0)
        return self

    def __exit__(self, *error: object):
        self._file.close()

    def allow(self, count: int):
        """So many may be read from here on."""
        self._left = count

    def read(self, size: int) -> bytes:
        self._reading.deadline.check()
        data = self._file.read(size)
        self._left -= len(data)
        if self._left < 0:
            name = self._reading.source
            raise _NoEnd(f"{name}: holds many MiB without sound or picture; check that it plays, or copy it again.")
        return data

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()


def _timed(
    reading: Reading, container: Any, track: Track, wanted: Set[float] | None
) -> Iterator[tuple[float | None, Any]]:
    """Frames with their times; packets that no decoder takes are left out and counted."""
    stream, origin, section, latest = container.streams[track.index], _origin(container), 0, None
    if stream.type == "video":
        stream.thread_type, stream.codec_context.thread_count = "AUTO", reading.decoder_threads
    packets = track.packets
    if packets is None:
        packets = _packets(reading, container, stream)
    elif not packets or packets[-1].size:  # they end before the stream does
        packets = [*packets, None]
    untimed = stream.type == "audio" and _is_any(container, UNTIMED_CONTAINERS)
    for frame in _decoded(reading, stream, packets, _Skips(stream, origin, wanted)):
        time = None if frame.time is None else frame.time - origin
        if time is not None:
            if latest is not None and time < latest - JUMP_SECONDS and section + 1 < len(track.offsets):
                section += 1
            first, latest = latest is None, time
            time = None if untimed and not first else time + track.offsets[section]
        yield time, frame


class _Skips:
    """Has a decoder leave out frames that are neither shown nor used by others, packet by packet."""

    def __init__(self, stream: Any, origin: float, wanted: Set[float] | None):
        self._codec, self._base, self._origin = stream.codec_context, float(stream.time_base), origin
        self._wanted = wanted if self._codec.name in SKIPPING_CODECS else None

    def before(self, packet: Any):
        """Tell the decoder whether the frame of a packet is needed."""
        if self._wanted is not None and packet is not None and packet.pts is not None:
            needed = packet.pts * self._base - self._origin in self._wanted
            self._codec.skip_frame = "DEFAULT" if needed else "NONREF"

    def end(self):
        """From here on all are needed: what stands in for a damaged frame is the one before it."""
        if self._wanted is not None:
            self._wanted, self._codec.skip_frame = None, "DEFAULT"


def _decoded(reading: Reading, stream: Any, packets: Iterable[Any], skips: _Skips) -> Iterator[Any]:
    import av

    for packet in packets:
        reading.deadline.check()
        loss = reading.losses.setdefault(stream.type, Loss())
        skips.before(packet)
        try:
            frames = stream.decode(packet)
        except av.FFmpegError as error:
            if isinstance(error, MemoryError):
                raise
            skips.end()
            loss.lost, loss.reason = loss.lost + 1, one_line(error.strerror)
            loss.seconds += float((packet.duration or 0) * (packet.time_base or 0))
            continue
        loss.taken += 1
        for frame in frames:
            if _is_noise(stream, frame):
                loss.lost, loss.reason = loss.lost + 1, "it gives noise far beyond full scale"
                loss.seconds += frame.samples / frame.sample_rate
            else:
                yield frame


def _is_noise(stream: Any, frame: Any) -> bool:
    """Whether a codec made of damage what no recording holds; what is stored as samples is left to be refused."""
    if stream.type != "audio" or stream.codec_context.name.startswith("pcm_") or "flt" not in frame.format.name:
        return False
    planes, samples = 1, frame.samples * frame.layout.nb_channels
    if frame.format.is_planar:  # PyAV counts one plane too many of 8 channels, and an array of all ends the process
        planes, samples = frame.layout.nb_channels, frame.samples
    peaks = [peak_of(np.frombuffer(plane, np.float32)[:samples]) for plane in frame.planes[:planes]]
    return not all(peak <= LOUDEST_SAMPLE for peak in peaks)  # NaN is not


def _packets(reading: Reading, container: Any, *streams: Any) -> Iterator[Any]:
    """Packets of some streams, and at the end an empty one of each, or `None`.

    Where a file is damaged, reading goes on behind that; where nothing more comes for long, it ends.
    """
    import av

    found = 0
    for _ in range(MAX_FAILED_READS):
        reading.bytes[container].allow(MAX_SEARCHED_BYTES)
        try:
            for packet in container.demux(*streams):
                reading.deadline.check()
                found += 1
                yield packet
                reading.bytes[container].allow(MAX_SEARCHED_BYTES)
            return
        except av.error.InvalidDataError:
            continue
        except _NoEnd:
            if not found:
                raise
            yield None
            return


def _check_riff_size(source: Source):
    """FFmpeg trims a RIFF file (wav, avi) to what is there, so its header is compared with the file here."""
    head, size = first_bytes(source, 8)
    declared = int.from_bytes(head[4:8], "little") + 8
    streamed = declared - 8 in (0, 0xFFFFFFFF)  # written without knowing the length
    if head[:4] == b"RIFF" and not streamed and size < declared:
        raise MediaError(
            f"{source}: is cut short, {size:,} of the {declared:,} bytes that it declares; copy the file again."
        )


def _is_aside(stream: Any) -> bool:
    """Whether a stream is none of what is heard and seen: words that describe pictures, a record's sleeve."""
    import av

    marks = av.stream.Disposition
    aside = {
        "audio": marks.visual_impaired | marks.descriptions,
        "video": marks.attached_pic | marks.timed_thumbnails,
    }
    return bool(stream.disposition & aside[stream.type])


def _is_default(stream: Any) -> bool:
    import av

    return bool(stream.disposition & av.stream.Disposition.default)


def _codec_name(container: Any, stream: Any) -> str:
    """The four characters by which the container calls a codec, which FFmpeg tells in its description alone."""
    import av

    with _LOG_LEVEL:
        level = av.logging.get_level()
        av.logging.set_level(av.logging.INFO)
        try:
            described = container.dumps_format()
        finally:
            av.logging.set_level(level)
    found = re.search(rf"Stream #0:{stream.index}\b.*?: (?:Audio|Video): (\w+)(?: \(([^/)]+) /)?", described)
    return (found[2] if found and found[2] else found[1] if found else "unknown").strip()


def _origin(container: Any) -> float:
    return (container.start_time or 0) / 1e6  # FFmpeg counts a container's time in microseconds


def _is_any(container: Any, formats: frozenset[str]) -> bool:
    return not formats.isdisjoint(container.format.name.split(","))
