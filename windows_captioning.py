# Copyright 2026 The LAVCap for Transformers authors. Licensed under the Apache License, Version 2.0.
"""Windows of a medium, one behind the other: which there are, and what each holds, by one pass over the streams."""

import math
from bisect import bisect_right
from collections import deque
from collections.abc import Iterator, Sequence
from heapq import heappop, heappush
from itertools import pairwise
from typing import Any

import numpy as np


try:  # inside a package: the Hub's module cache
    from .bounds_captioning import MAX_WINDOWS
    from .containers_captioning import LEAD_SECONDS, Window
    from .pictures_captioning import frame_to_rgb
    from .sounds_captioning import Sound
    from .sources_captioning import MediaError
except ImportError:  # as a plain module: a clone, or after `pip install`
    from bounds_captioning import MAX_WINDOWS
    from containers_captioning import LEAD_SECONDS, Window
    from pictures_captioning import frame_to_rgb
    from sounds_captioning import Sound
    from sources_captioning import MediaError


SAME_SECONDS = 1e-6  # times that differ by less are one, computed in two ways
SHORTEST_TAIL = 0.1  # seconds behind the last whole window that make another one: codecs fill up their last packet
Timed = Iterator[tuple[float | None, Any]]  # decoded frames of PyAV, with their times in seconds


def plan_windows(
    name: object,
    start: float,
    end: float,
    length: float,
    overlap: float = 0.0,
    shortest: float = SHORTEST_TAIL,
    cuts: Sequence[float] = (),
) -> list[Window]:
    """Windows that cover a span of a medium; the last one ends with it, and may be shorter.

    Args:
        name: of the medium, for the message.
        start, end: of the span, in seconds.
        length: of a window, in seconds.
        overlap: seconds that a window begins before the end of the one before it.
        shortest: seconds that the last window has at least; what is left over is not covered.
        cuts: times at which windows begin anew, as where the picture changes.

    Raises:
        MediaError: these are more than [`MAX_WINDOWS`].
    """
    step, starts = length - overlap, []
    edges = [start, *(cut for cut in cuts if start < cut < end), end]
    for first, last in pairwise(edges):
        number = 1 + max(0, math.ceil((last - first - length - shortest) / step))
        if len(starts) + number > MAX_WINDOWS:
            raise MediaError(
                f"{name}: lasts {end - start:,.0f} s, more than {MAX_WINDOWS:,} windows; pass a part of it."
            )
        starts += [(first + step * index, last) for index in range(number)]
    return [Window(each, max(each, min(each + length, last))) for each, last in starts]


def frame_times(start: float, end: float, count: int) -> list[float]:
    """When the pictures of a span are taken, in seconds: at the centres of as many equal parts of it."""
    return [start + (part + 0.5) * (end - start) / count for part in range(count)]


def shown_times(times: Sequence[float], windows: Sequence[Window], end: float, num_frames: int) -> set[float]:
    """When the frames begin that are on screen when pictures of windows are taken.

    Args:
        times: when frames begin, in order, in seconds.
        windows, end, num_frames: as of [`Pictures`].
    """
    targets = (
        target + step
        for window in windows
        for target in frame_times(window.start, min(end, window.end), num_frames)
        for step in (-SAME_SECONDS, SAME_SECONDS)
    )
    return {times[max(0, bisect_right(times, target) - 1)] for target in targets}


class Sounds:
    """The sound of windows, whose starts and ends do not go back.

    Args:
        timed: decoded frames of a stream.
        rate, channels: as of [`Sound`].
    """

    def __init__(self, timed: Timed, rate: int, channels: str):
        self._timed, self._rate, self._channels = timed, rate, channels
        self._kept: deque[tuple[float, float, Any]] = deque()  # start, end and frame, of what is needed again
        self._end = 0.0

    def take(self, window: Window) -> Sound:
        sound = Sound(self._rate, self._channels, window.end - window.start)
        sound.take((time - window.start, frame) for time, frame in self._frames(window.start - LEAD_SECONDS))
        return sound

    def _frames(self, start: float) -> Timed:
        """Frames that end after a time: those that were decoded before, then others."""
        while self._kept and self._kept[0][1] < start:
            self._kept.popleft()
        for time, _, frame in list(self._kept):
            yield time, frame
        for time, frame in self._timed:
            time = self._end if time is None else time  # it follows the one before it
            self._end = time + frame.samples / frame.sample_rate
            if self._end >= start:
                self._kept.append((time, self._end, frame))
                yield time, frame


class Pictures:
    """The frames of windows, at the centres of equal parts of each.

    Args:
        timed: decoded frames of a stream.
        windows: whose starts and ends do not go back; those where the picture has ended have none.
        end: of the picture, in seconds.
        num_frames: of a window.
        pixel_aspect: width of a pixel by its height; `None`: square.
    """

    def __init__(
        self, timed: Timed, windows: Sequence[Window], end: float, num_frames: int, pixel_aspect: float | None
    ):
        self._timed, self._end, self._num_frames, self._pixel_aspect = timed, end, num_frames, pixel_aspect
        self._waiting = deque(windows)
        self._targets: list[tuple[float, float]] = []  # times, with the starts of their windows
        self._taken: dict[float, np.ndarray] = {}  # by the starts of windows
        self._missing: dict[float, int] = {}  # frames that are not there yet
        self._shown = self._rgb = self._size = None
        self._ahead = next(timed, None)

    def take(self, window: Window) -> np.ndarray | None:
        """`(num_frames, height, width, 3)` uint8 RGB; `None`: the picture has ended, or there is none."""
        while self._waiting and self._waiting[0].start <= window.end:
            self._add(self._waiting.popleft())
        if window.start not in self._missing:
            return None
        while self._missing[window.start]:
            target, start = heappop(self._targets)
            if (rgb := self._shown_at(target)) is None:
                return None
            if start not in self._taken:
                self._taken[start] = np.empty((self._num_frames, *rgb.shape), np.uint8)
            self._taken[start][-self._missing[start]] = rgb
            self._missing[start] -= 1
        del self._missing[window.start]
        return self._taken.pop(window.start)

    def _add(self, window: Window):
        end = min(self._end, window.end)
        if window.start and end <= window.start:
            return
        self._missing[window.start] = self._num_frames
        for target in frame_times(window.start, end, self._num_frames):
            heappush(self._targets, (target, window.start))

    def _shown_at(self, target: float) -> np.ndarray | None:
        """What is on screen at a time: the last frame that began before it."""
        while self._ahead is not None and (self._shown is None or (self._ahead[0] or 0.0) <= target):
            self._shown, self._rgb = self._ahead[1], None
            self._size = self._size or (self._shown.width, self._shown.height)
            self._ahead = next(self._timed, None)
        if self._shown is not None and self._rgb is None:
            self._rgb = frame_to_rgb(self._shown, *self._size, self._pixel_aspect)
        return self._rgb
