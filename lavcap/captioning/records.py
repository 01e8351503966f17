"""What is said of a window of a clip, and its forms: lines, subtitles, objects and tables."""

import csv
import io
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby, zip_longest
from typing import Any


@dataclass(frozen=True)
class Caption:
    """A caption, the number of its tokens with the end token, and the mean logarithm of their probabilities."""

    text: str
    tokens: int
    mean_log_probability: float


@dataclass(frozen=True)
class Record:
    """What is said of one window of a clip.

    Args:
        clip: name of the file.
        start, end: of the window, in seconds from the beginning of the file; `None` of a picture, which has no time.
        captions: most probable first; none of a window that holds nothing, or cannot be used.
        modalities: what was looked at, `"audio+video"`, `"audio"`, `"video"` or `""`.
        duration: of the whole file in seconds; `None` of a picture.
        silent: whether the sound is below the level of silence, and counts as missing.
        notes: what a user should know, such as damage.
        error: why the window, or with `start` `None` the whole clip, cannot be used.
    """

    clip: str
    start: float | None = None
    end: float | None = None
    captions: tuple[Caption, ...] = ()
    modalities: str = ""
    duration: float | None = None
    silent: bool = False
    notes: tuple[str, ...] = ()
    error: str | None = None

    @property
    def caption(self) -> str:
        """The most probable caption; empty where there is none."""
        return self.captions[0].text if self.captions else ""

    def as_object(self) -> dict[str, Any]:
        """For JSON: times in whole milliseconds, and without what says nothing."""
        start, end, duration = (
            None if time is None else round(time, 3) for time in (self.start, self.end, self.duration)
        )
        if self.error is not None:
            content = {"clip": self.clip, "start": start, "end": end, "error": self.error}
            return {name: value for name, value in content.items() if value is not None}
        best = asdict(self.captions[0]) if self.captions else {"text": "", "tokens": 0, "mean_log_probability": None}
        content = {"clip": self.clip, "start": start, "end": end, "caption": best.pop("text"), **best}
        content |= {"modalities": self.modalities, "duration": duration}
        if len(self.captions) > 1:
            content["captions"] = [asdict(caption) for caption in self.captions]
        content |= {"silent": True} if self.silent else {}
        return content | ({"notes": list(self.notes)} if self.notes else {})

    @classmethod
    def from_object(cls, content: dict[str, Any]) -> "Record":
        """The record that [`as_object`] wrote."""
        given = dict(content)
        best = {name: given.pop(name, None) for name in ("caption", "tokens", "mean_log_probability")}
        captions = [Caption(**each) for each in given.pop("captions", ())]
        if not captions and best["tokens"]:
            captions = [Caption(best["caption"], best["tokens"], best["mean_log_probability"])]
        return cls(**given | {"captions": tuple(captions), "notes": tuple(given.pop("notes", ()))})


def time_stamp(seconds: float, point: str = ".") -> str:
    """`01:02:03.456`, as subtitles have it; SubRip with a comma for a `point`."""
    milliseconds = round(1000 * seconds)
    minutes, rest = divmod(milliseconds, 60_000)
    return f"{minutes // 60:02d}:{minutes % 60:02d}:{rest // 1000:02d}{point}{rest % 1000:03d}"


def clock(seconds: float) -> str:
    """`0:04`, `1:02:03.5`: a time as people write it."""
    stamp = time_stamp(seconds)
    return stamp.removesuffix(".000").removeprefix("00:").removeprefix("0")


def to_txt(records: Sequence[Record]) -> str:
    """A line for each window: its times, where there are several, and the caption."""
    timed = len(records) > 1
    return "".join(f"{_span(each)}\t{each.caption}\n" if timed else f"{each.caption}\n" for each in records)


def to_srt(records: Sequence[Record]) -> str:
    """SubRip."""
    cues = enumerate(_cues(records), 1)
    return "\n".join(f"{n}\n{_span_of(start, end, ',')}\n{text}\n" for n, (start, end, text) in cues)


def to_vtt(records: Sequence[Record]) -> str:
    """WebVTT, https://www.w3.org/TR/webvtt1/."""
    cues = [f"{_span_of(start, end)}\n{_escaped(text)}\n" for start, end, text in _cues(records)]
    return "\n".join(["WEBVTT\n", *cues])


def to_json(records: Sequence[Record]) -> str:
    """A list of one object for each window."""
    return json.dumps([record.as_object() for record in records], indent=2, ensure_ascii=False) + "\n"


def to_jsonl(records: Sequence[Record]) -> str:
    """One object on each line."""
    return "".join(json.dumps(record.as_object(), ensure_ascii=False) + "\n" for record in records)


def to_csv(records: Sequence[Record]) -> str:
    """A table with one line for each window."""
    names = ("clip", "start", "end", "caption", "tokens", "mean_log_probability", "modalities", "duration", "error")
    file = io.StringIO()
    table = csv.DictWriter(file, names, extrasaction="ignore", lineterminator="\n")
    table.writeheader()
    table.writerows(record.as_object() for record in records)
    return file.getvalue()


FORMATS: dict[str, Callable[[Sequence[Record]], str]] = {
    "txt": to_txt,
    "srt": to_srt,
    "vtt": to_vtt,
    "json": to_json,
    "jsonl": to_jsonl,
    "csv": to_csv,
}
EMPTY = "\u00a0"  # a space that does not break: players leave out a cue of nothing
TABLES = ("jsonl", "csv")  # of all clips; the others are written for each


# -------------------------------------------------------------------------------------------------------- internals


def _cues(records: Sequence[Record]) -> list[tuple[float, float, str]]:
    """Start, end and text; neighbouring windows that say the same are one, and an empty caption is one, too.

    Windows may overlap, what is shown does not: a cue ends where the next one begins.
    """
    timed = [record for record in records if record.start is not None and record.error is None]
    cues = []
    for text, same in groupby(timed, key=lambda record: record.caption):
        same = list(same)
        cues.append((same[0].start, same[-1].end, text))
    after = [start for start, _, _ in cues[1:]]
    pairs = zip_longest(cues, after, fillvalue=math.inf)
    return [(start, min(end, later), text or EMPTY) for (start, end, text), later in pairs]


def _span(record: Record) -> str:
    return "" if record.start is None else _span_of(record.start, record.end)


def _span_of(start: float, end: float, point: str = ".") -> str:
    return f"{time_stamp(start, point)} --> {time_stamp(end, point)}"


def _escaped(text: str) -> str:
    """Characters that mean something in a cue of WebVTT by their names."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
