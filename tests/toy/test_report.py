"""What the report counts."""

import dataclasses

import numpy as np
import pytest

from lavcap.evaluation.predictions import Prediction
from lavcap.toy.accuracy import accuracy_table
from lavcap.toy.report import event_mass
from lavcap.toy.world import paraphrase_captions, sample_clip


def test_accuracy_counts_each_part_of_each_event_in_its_place():
    clips = {clip.id: clip for clip in (sample_clip("test", index) for index in range(40))}
    right = [Prediction(clip.id, "audio+video", clip.captions[0], []) for clip in clips.values()]
    table = accuracy_table(right, clips)["audio+video"]
    assert sum(row["events"] for row in table.values()) == 80
    assert all(row[part] == 1 for row in table.values() for part in ("colour", "shape", "sound", "all three"))

    def silent(clip):
        events = [dataclasses.replace(event, sound="beep") for event in clip.events]
        return paraphrase_captions(events, clip.background)[0]

    wrong = [Prediction(clip.id, "video", silent(clip), []) for clip in clips.values()]
    rows = accuracy_table(wrong, clips)["video"].values()
    beeps = sum(event.sound == "beep" for clip in clips.values() for event in clip.events)
    assert sum(row["sound"] * row["events"] for row in rows) == pytest.approx(beeps)
    assert all(row["colour"] == 1 for row in rows)


def test_seen_and_unseen_pairs_are_counted_apart():
    clips = {clip.id: clip for clip in (sample_clip("test", index) for index in range(40))}
    table = accuracy_table([Prediction(clip.id, "audio", "", []) for clip in clips.values()], clips)["audio"]
    unseen = sum(event.unseen for clip in clips.values() for event in clip.events)
    assert table["unseen pairs"]["events"] == unseen and table["seen pairs"]["events"] == 80 - unseen
    assert table["unseen pairs"]["all three"] == 0


def test_event_mass_is_one_for_an_even_plan_and_more_for_an_aligned_one():
    clips = {clip.id: clip for clip in (sample_clip("test", index) for index in range(20))}
    even = dict.fromkeys(clips, np.ones((10, 25)))
    assert event_mass(even, clips) == pytest.approx(1)
    video, audio = (np.arange(10) + 0.5) * 0.4, (np.arange(25) + 0.5) * 0.16
    diagonal = np.exp(-((video[:, None] - audio[None]) ** 2) / 0.5)
    aligned = dict.fromkeys(clips, diagonal / diagonal.mean())
    assert event_mass(aligned, clips) > 1.5
