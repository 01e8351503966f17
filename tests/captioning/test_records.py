"""Forms of captions: what subtitles, objects and tables hold, read by other programs."""

import csv
import io
import json

import av
import pytest

from lavcap.captioning.records import (
    FORMATS,
    Caption,
    Record,
    time_stamp,
    to_csv,
    to_json,
    to_jsonl,
    to_srt,
    to_txt,
    to_vtt,
)


def said(text: str, start: float | None, end: float | None, **fields) -> Record:
    return Record("a clip.mp4", start, end, (Caption(text, 4, -0.5),), "audio", 3725.0, **fields)


WINDOWS = [
    said("rain falls", 0.0, 10.0),
    said("rain falls", 9.0, 19.0),
    said("a <b> & c", 18.0, 28.0),
    Record("a clip.mp4", 27.0, 37.0, duration=3725.0),
    said("a dog barks", 3715.5, 3725.0),
]
CUES = [(0, 18, "rain falls"), (18, 27, "a <b> & c"), (27, 37, ""), (3715.5, 3725, "a dog barks")]


def cues(text: str, form: str) -> list[tuple[float, float, str]]:
    """Start, end and text of subtitles, as FFmpeg reads them."""
    with av.open(io.BytesIO(text.encode()), format={"srt": "srt", "vtt": "webvtt"}[form]) as container:
        found = [
            (float(packet.pts * packet.time_base), float(packet.duration * packet.time_base), bytes(packet))
            for packet in container.demux()
            if packet.pts is not None
        ]
    return [(start, start + length, content.decode()) for start, length, content in found]


def test_subtitles_are_read_by_another_program():
    found = cues(to_srt(WINDOWS), "srt")
    assert [(start, end) for start, end, _ in found] == [(start, end) for start, end, _ in CUES]
    assert [text.strip() for _, _, text in found] == [text for _, _, text in CUES]  # a space that does not break
    found = cues(to_vtt(WINDOWS), "vtt")
    assert [(start, end) for start, end, _ in found] == [(start, end) for start, end, _ in CUES]
    assert found[1][2] == "a &lt;b&gt; &amp; c"


def test_neighbours_that_say_the_same_are_kept_apart_as_objects():
    rows = json.loads(to_json(WINDOWS))
    assert len(rows) == 5 and [row["start"] for row in rows] == [0.0, 9.0, 18.0, 27.0, 3715.5]
    assert rows[0] == {
        "clip": "a clip.mp4",
        "start": 0.0,
        "end": 10.0,
        "caption": "rain falls",
        "tokens": 4,
        "mean_log_probability": -0.5,
        "modalities": "audio",
        "duration": 3725.0,
    }
    assert [json.loads(line) for line in to_jsonl(WINDOWS).splitlines()] == rows
    assert [row["caption"] for row in csv.DictReader(io.StringIO(to_csv(WINDOWS)))] == [row["caption"] for row in rows]


@pytest.mark.parametrize(
    "record",
    [
        *WINDOWS,
        said("rain", None, None),
        said("rain", 0.0, 3.0, silent=True, notes=("holds 2 tracks",)),
        Record("b.mp4", 0.0, 3.0, (Caption("a", 1, -1.0), Caption("b", 2, -2.0)), "video", 3.0),
        Record("b.mp4", error="b.mp4: no such file"),
        Record("b.mp4", 3.0, 6.0, error="b.mp4: damaged"),
    ],
)
def test_a_record_comes_back_as_it_was(record):
    assert Record.from_object(json.loads(json.dumps(record.as_object()))) == record


def test_lines_have_times_where_there_are_several():
    assert to_txt(WINDOWS[:1]) == "rain falls\n"
    assert to_txt(WINDOWS[:2]).splitlines()[1] == "00:00:09.000 --> 00:00:19.000\train falls"


@pytest.mark.parametrize("form", FORMATS)
def test_clips_without_windows_make_no_trouble(form):
    FORMATS[form]([Record("a.mp4", error="a.mp4: no such file")])
    FORMATS[form]([said("a picture", None, None)])
    FORMATS[form]([])


def test_time_stamps_carry():
    assert time_stamp(59.9996) == "00:01:00.000" and time_stamp(3725.25, ",") == "01:02:05,250"
    assert time_stamp(360_000) == "100:00:00.000"
