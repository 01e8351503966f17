# Copyright 2026 The LAVCap for Transformers authors. Licensed under the Apache License, Version 2.0.
"""What time it is in a container: time stamps of all streams as seconds of one clip."""

from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any


JUMP_SECONDS = 0.5  # by which a clock goes back where another recording begins in the same file


@dataclass
class Track:
    """What the packets of a stream cover, in seconds from the start of the container.

    Args:
        index: of the stream in the container.
        last: start of its last packet within the window; `None`: it has none there.
        end: of the last packet.
        complete: followed to its end, not only past the end of the window.
        packets: those that were followed; `None`: there are too many to be kept.
        times: starts of these, in order; none where a clock goes back.
        offsets: what is added to its time stamps, section by section: a clock that goes back begins another one.
    """

    index: int
    last: float | None = None
    end: float = 0.0
    complete: bool = True
    packets: list[Any] | None = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    offsets: list[float] = field(default_factory=lambda: [0.0])


class Clock:
    """Time stamps of packets as seconds from the start of a container.

    Where a stream's clock goes back, as in files that were put one behind the other, a section begins, in which the
    other streams follow; it comes after all that was before.
    """

    def __init__(self, origin: float):
        self.origin = origin
        self._packets: dict[str, dict[int, array]] = {}  # starts by kind and section
        self._visited: dict[str, list[int]] = {}  # sections, in order
        self._latest: dict[str, float] = {}
        self._ends: dict[str, dict[int, float]] = {}  # of the last packet, by kind and section
        self._starts: list[float] = []  # of sections, by their own clock

    def add(self, kind: str, packet: Any) -> float:
        """Take a packet that has a time; its start, as far as is known by now."""
        base = float(packet.time_base)
        start = packet.pts * base - self.origin
        stamp = start if packet.dts is None else packet.dts * base - self.origin
        if kind not in self._visited:
            self._visited[kind] = [0]
        elif stamp < self._latest[kind] - JUMP_SECONDS:
            own = self._visited[kind][-1]
            self._visited[kind].append(max(own + 1, len(self._starts) - 1))
        self._latest[kind] = stamp
        section = self._visited[kind][-1]
        while len(self._starts) <= section:
            self._starts.append(start)
        self._starts[section] = min(self._starts[section], start)
        self._packets.setdefault(kind, {}).setdefault(section, array("d")).append(start)
        end = start + (packet.duration or 0) * base
        ends = self._ends.setdefault(kind, {})
        ends[section] = max(ends.get(section, end), end)
        return start + self._section_offsets()[section]

    def offsets(self, kind: str) -> list[float]:
        """What is added to the time stamps of a stream, section by section."""
        offsets = self._section_offsets()
        return [offsets[section] for section in self._visited.get(kind, [0])]

    def times(self, kind: str) -> Iterator[float]:
        """Starts of a stream's packets."""
        offsets = self._section_offsets()
        for section, starts in self._packets.get(kind, {}).items():
            yield from (start + offsets[section] for start in starts)

    def end(self, kind: str) -> float:
        """Of a stream's last packet."""
        offsets = self._section_offsets()
        return max((end + offsets[section] for section, end in self._ends.get(kind, {}).items()), default=0.0)

    def _section_offsets(self) -> list[float]:
        offsets = [0.0]
        for section in range(1, len(self._starts)):
            before = max((ends[section - 1] for ends in self._ends.values() if section - 1 in ends), default=0.0)
            offsets.append(offsets[-1] + before - self._starts[section])
        return offsets
