"""What the report counts."""

import dataclasses
import json

import numpy as np
import pytest
from PIL import Image

from lavcap.evaluation.predictions import Prediction
from lavcap.toy.accuracy import accuracy_table
from lavcap.toy.plan import event_mass
from lavcap.toy.report import draw_loss_curve
from lavcap.toy.timeline import RIGHT, WRONG, long_clip_section
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
    assert event_mass(even, clips) == pytest.approx((1, 1))
    video, audio = (np.arange(10) + 0.5) * 0.4, (np.arange(25) + 0.5) * 0.16
    diagonal = np.exp(-((video[:, None] - audio[None]) ** 2) / 0.5)
    own, other = event_mass(dict.fromkeys(clips, diagonal / diagonal.mean()), clips)
    assert own > 1.5 and other < 0.5


def test_mass_of_a_plan_is_that_of_the_blocks_of_its_events():
    clip = sample_clip("test", 0)
    video, audio = (np.arange(40) + 0.5) * 0.1, (np.arange(80) + 0.5) * 0.05
    first, second = (lambda times, event=event: (times >= event.start) & (times < event.end) for event in clip.events)
    plan = np.zeros((40, 80))
    plan[np.ix_(first(video), first(audio))] = 3
    plan[np.ix_(second(video), second(audio))] = 5
    plan[np.ix_(first(video), second(audio))] = 1
    assert event_mass({clip.id: plan}, {clip.id: clip}) == pytest.approx((4, 0.5))


def test_a_long_clip_is_drawn_with_what_was_written_of_each_window(tmp_path):
    scenes = [sample_clip("new", index) for index in (1, 2)]
    (tmp_path / "long_clip.json").write_text(json.dumps([scene.to_dict() for scene in scenes]))
    records = [
        {
            "clip": "long_clip.mp4",
            "start": 0.0,
            "end": 4.0,
            "caption": scenes[0].captions[1],
            "mean_log_probability": -0.25,
        },
        {"clip": "long_clip.mp4", "start": 4.0, "end": 8.0, "caption": "a dog barks", "mean_log_probability": -2.0},
        {"clip": "new_clip.mp4", "start": 0.0, "end": 4.0, "caption": "rain", "mean_log_probability": -1.0},
        {"clip": "b.mp4", "error": "b.mp4: no such file"},
    ]
    (tmp_path / "captions.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    drawn = tmp_path / "long_clip.png"
    section = long_clip_section(tmp_path / "captions.jsonl", tmp_path / "long_clip.json", drawn)
    rows = [line for line in section.splitlines() if " s | " in line]
    assert [row.split(" | ")[3] for row in rows] == [scene.captions[0] for scene in scenes]
    assert rows[0].endswith("| -0.25 |") and "(long_clip.png)" in section
    with Image.open(drawn) as picture:
        colours = np.asarray(picture.convert("RGB")).reshape(-1, 3)
    for edge in (RIGHT, WRONG):
        assert (colours == [int(edge[place : place + 2], 16) for place in (1, 3, 5)]).all(axis=1).sum() > 100


@pytest.mark.parametrize("scores", [[], [{"step": 2, "eval_loss": 0.4, "eval_cider_d": 1.5}]])
def test_losses_are_drawn_with_and_without_validation(scores, tmp_path):
    history = [{"step": 1, "caption_loss": 0.5}, {"step": 2, "caption_loss": 0.3}, *scores]
    draw_loss_curve(history, ["caption_loss"], tmp_path / "curve.png")
    assert Image.open(tmp_path / "curve.png").size > (400, 300)
