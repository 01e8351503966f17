# Copyright 2026 The LAVCap for Transformers authors. Licensed under the Apache License, Version 2.0.
"""Sound as samples of one channel: mixed down, resampled, and put where its time stamps say."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain, groupby
from typing import Any

import numpy as np


HOLE_SECONDS = 0.05  # by which time stamps may be out of step without a hole; codecs and clocks are by less
LOUDEST_SAMPLE = 8.0  # decoders and filters overshoot full scale, which is 1, but not by this much
CANCELLED = 1e-3  # loudest sample of a mean of channels, by that of the channels, where they cancel each other
AUDIBLE = 1e-3  # loudest sample of what is no silence: -60 dB


def to_mono(waveform: np.ndarray, channels: str = "mean") -> np.ndarray:
    """`(samples,)` of `(samples,)`, `(channels, samples)` or `(samples, channels)`; channels are the fewer.

    Args:
        channels: their `"mean"` or the `"first"`.

    Raises:
        ValueError: another shape or dtype, or samples that are NaN, infinite or far beyond full scale.
    """
    waveform = np.asarray(waveform)
    if waveform.dtype.kind not in "iuf":
        raise ValueError(f"audio holds {waveform.dtype}, expected samples: floating point in [-1, 1], or integers.")
    if waveform.dtype.kind in "iu" and waveform.dtype.itemsize > 4:
        raise ValueError(
            f"audio holds {waveform.dtype} samples, whose full scale is unknown, expected floating point in [-1, 1] "
            "or integers of the sound's own dtype, such as int16."
        )
    if waveform.dtype.kind == "u":
        waveform = waveform / (np.iinfo(waveform.dtype).max / 2) - 1
    elif waveform.dtype.kind == "i":
        waveform = waveform / -float(np.iinfo(waveform.dtype).min)
    if waveform.ndim == 2:
        axis = int(np.argmin(waveform.shape))
        waveform = waveform.take(0, axis) if channels == "first" else waveform.mean(axis=axis)
    if waveform.ndim != 1:
        raise ValueError(f"audio has shape {waveform.shape}, expected (samples,) or (channels, samples).")
    check_samples(waveform, "audio", ValueError)
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


def peak_of(samples: np.ndarray) -> float:
    """The loudest of some samples, 0 of none."""
    return float(np.abs(samples).max(initial=0.0))


def check_samples(waveform: np.ndarray, name: str, kind: type[ValueError]):
    """Raises:
    ValueError: of that kind: samples that are NaN, infinite or far beyond full scale.
    """
    if not np.isfinite(waveform).all():
        raise kind(f"{name} holds NaN or infinite samples, expected finite ones in [-1, 1]; replace it.")
    if (loudest := peak_of(waveform)) > LOUDEST_SAMPLE:
        raise kind(
            f"{name} holds samples up to {loudest:.0f}, expected floating point in [-1, 1]: divide by full scale, or "
            "give integers their own dtype."
        )


def cancel(channels_peak: float, mono_peak: float) -> bool:
    """Whether channels, each of which is heard, are silence together."""
    return channels_peak > AUDIBLE and mono_peak < CANCELLED * channels_peak


@dataclass
class Sound:
    """Samples of one channel within a window, as they are decoded.

    Args:
        rate: sampling rate in Hz.
        channels: of several, which are heard: their `"mean"` or the `"first"`.
        length: of the window, in seconds.
    """

    rate: int
    channels: str
    length: float
    peak: float = 0.0  # loudest sample of any channel, of those in the window
    holes: list[tuple[float, float]] = field(default_factory=list)  # seconds where nothing is, from when to when
    _parts: list[tuple[int, np.ndarray]] = field(default_factory=list)
    _end: int | None = None  # where the next sample belongs, in samples from the start of the window

    def take(self, timed: Iterable[tuple[float | None, Any]]):
        """Decoded frames of PyAV, with their times in seconds from the start of the window, up to its end.

        A frame that comes too early loses what there is already; before one that comes late there is silence.
        """
        limit = round(self.length * self.rate)
        for _, run in groupby(timed, key=_Run()):
            start, first = next(run)
            position = (self._end or 0) if start is None else round(start * self.rate)
            if self._end is not None and abs(position - self._end) <= HOLE_SECONDS * self.rate:
                position = self._end
            for part in self._resampled(chain([first], (frame for _, frame in run)), limit - position):
                self._put(position, part)
                position += len(part)
                if position >= limit:
                    return

    def waveform(self) -> np.ndarray | None:
        """What the window holds, `(samples,)` float32, up to the last sample; `None` if that is nothing."""
        if not self._parts:
            return None
        waveform = np.zeros(min(self._end, round(self.length * self.rate)), np.float32)
        for position, part in self._parts:
            waveform[position : position + len(part)] = part[: max(0, len(waveform) - position)]
        return waveform

    def _put(self, position: int, part: np.ndarray):
        """Take samples `(samples, channels)` that belong there."""
        skipped = max(0, -position if self._end is None else max(self._end, 0) - position)
        if skipped >= len(part):
            end = position + len(part)
            self._end = end if self._end is None else max(self._end, end)
            return
        position, part = position + skipped, part[skipped:]
        room = round(self.length * self.rate) - position
        if room <= 0:
            return
        self.peak = max(self.peak, peak_of(part[:room]))
        if self._end is not None and position > max(self._end, 0):
            self.holes.append((max(self._end, 0) / self.rate, position / self.rate))
        self._parts.append((position, part[:, 0] if self.channels == "first" else part.mean(axis=1)))
        self._end = position + len(part)

    def _resampled(self, frames: Iterator, room: int) -> Iterator[np.ndarray]:
        """Samples of frames of one form, `(samples, channels)`, of which so many are wanted.

        Frames are joined, up to a second: one by one, most of the time goes into calls. No more of them are taken
        than it needs.
        """
        import av

        # Packed: PyAV reads the planes of 8 channels without a layout from where there are none, and the process ends.
        resampler, fifo = av.AudioResampler(format="flt", rate=self.rate), av.AudioFifo()
        for frame in frames:
            frame.pts = None  # its time is known; the queue would refuse a clock that stumbles
            fifo.write(frame)
            if fifo.samples >= min(1, room / self.rate) * frame.sample_rate:
                for samples in map(_samples, resampler.resample(fifo.read())):
                    room -= len(samples)
                    yield samples
        rest = fifo.read()
        for given in [None] if rest is None else [rest, None]:  # None empties the resampler
            yield from map(_samples, resampler.resample(given))


def _samples(packed: Any) -> np.ndarray:
    """`(samples, channels)` of a frame."""
    return packed.to_ndarray().reshape(-1, packed.layout.nb_channels)


class _Run:
    """Key of frames that follow each other without a hole, and in one form: streams of broadcasts change theirs."""

    def __init__(self):
        self.number, self.form, self.end = 0, None, 0.0

    def __call__(self, timed: tuple[float | None, Any]) -> int:
        time, frame = timed
        form = frame.layout.name, frame.sample_rate, frame.format.name
        if form != self.form or (time is not None and abs(time - self.end) > HOLE_SECONDS):
            self.number, self.form = self.number + 1, form
            self.end = self.end if time is None else time
        self.end += frame.samples / frame.sample_rate
        return self.number
