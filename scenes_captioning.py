# Copyright 2026 The LAVCap for Transformers authors. Licensed under the Apache License, Version 2.0.
"""Where the picture of a film changes."""

from collections.abc import Iterable, Iterator
from contextlib import suppress
from fractions import Fraction
from itertools import pairwise
from typing import Any


try:  # inside a package: the Hub's module cache
    from .containers_captioning import Reading, Window, choose_streams, decoding, follow, frames_of, jump, opened
    from .sources_captioning import as_source
except ImportError:  # as a plain module: a clone, or after `pip install`
    from containers_captioning import Reading, Window, choose_streams, decoding, follow, frames_of, jump, opened
    from sources_captioning import as_source


SHORTEST_SCENE = 1.0  # seconds: of changes that follow each other sooner the first one counts
EDGE = 320  # pixels of the longer edge of the pictures that are compared


def scene_cuts(medium: Any, threshold: float = 0.3, start: float = 0.0, end: float | None = None) -> list[float]:
    """Times at which the picture of a film changes, in seconds from the beginning of the file.

    Args:
        threshold: how much must change, from 0 to 1, by FFmpeg's score of scenes.
        start, end: of what is looked at; default: to the end.

    Raises:
        MediaError: the file cannot be used.
    """
    reading = Reading(as_source(medium), Window(start, float("inf") if end is None else end), long=True)
    with decoding(reading.source), opened(reading) as container:
        streams = choose_streams(reading, container)
        if "video" not in streams:
            return []
        jumped = jump(container, reading.window)
        track = follow(reading, container, {"video": streams["video"]})["video"]
        with frames_of(reading, container, track, jumped) as timed:
            return _apart(_changes(reading, timed, threshold))


# -------------------------------------------------------------------------------------------------------- internals


def _apart(cuts: Iterable[float]) -> list[float]:
    taken: list[float] = []
    for cut in cuts:
        if cut - (taken[-1] if taken else 0.0) >= SHORTEST_SCENE:
            taken.append(cut)
    return taken


def _changes(reading: Reading, timed: Iterator[tuple[float | None, Any]], threshold: float) -> Iterator[float]:
    """Times of frames that are unlike the one before."""
    graph = form = None
    for time, frame in timed:
        if time is None:
            continue
        if time >= reading.window.end:
            return
        reading.advance(time)
        before, form = form, (frame.width, frame.height, frame.format.name)
        if form != before:  # a broadcast may change it within the stream
            graph = _scene_filter(frame, threshold)
        graph.push(frame)
        with suppress(BlockingIOError):  # the frame is like the one before
            graph.pull()
            if time > reading.window.start:
                yield time


def _scene_filter(frame: Any, threshold: float) -> Any:
    """FFmpeg's filter that passes frames with which a scene begins."""
    import av

    graph = av.filter.Graph()
    form = {"width": frame.width, "height": frame.height, "format": frame.format.name}
    nodes = [
        graph.add_buffer(**form, time_base=frame.time_base or Fraction(1, 1000)),
        graph.add("scale", f"{EDGE}:{EDGE}:force_original_aspect_ratio=decrease"),
        graph.add("select", f"gt(scene,{threshold:f})"),
        graph.add("buffersink"),
    ]
    for before, after in pairwise(nodes):
        before.link_to(after)
    graph.configure()
    return graph
