"""The world in which a picture tells what would be heard."""

import json
from collections import Counter

import numpy as np
import pytest
from PIL import Image
from stranger import run_inside

from lavcap.data.splits import load_split
from lavcap.evaluation.predictions import Prediction
from lavcap.toy.accuracy import accuracy_section, is_right, sound_table
from lavcap.toy.dataset import write_toy_world
from lavcap.toy.natural import (
    EXCEPTION_SHARE,
    NATURAL_SPLITS,
    TINTS,
    TYPICAL_SOUNDS,
    is_exception,
    sample_natural_clip,
)
from lavcap.toy.rendering import render_frame
from lavcap.toy.world import SOUNDS, ParsedCaption, ToyClip, parse_caption


def clips(split: str, count: int = 400) -> list[ToyClip]:
    return [sample_natural_clip(split, index, seed=7) for index in range(count)]


def test_each_sound_is_typical_of_one_kind_that_neither_colour_nor_shape_tells_alone():
    assert sorted(TYPICAL_SOUNDS.values()) == sorted(SOUNDS)
    for part in zip(*TYPICAL_SOUNDS, strict=True):
        assert max(Counter(part).values()) == 2


def test_exceptions_have_their_share_and_two_objects_never_one_sound():
    events = [event for clip in clips("train", 1500) for event in clip.events]
    assert np.mean([is_exception(event) for event in events]) == pytest.approx(EXCEPTION_SHARE, abs=0.02)
    assert all(len({event.sound for event in clip.events}) == 2 for clip in clips("test", 1500))
    assert {(event.colour, event.shape) for event in events} == set(TYPICAL_SOUNDS)


def test_a_clip_depends_on_seed_split_and_index_alone():
    assert sample_natural_clip("test", 5, 1) == sample_natural_clip("test", 5, 1)
    drawn = {sample_natural_clip(split, 0, 1).events for split in NATURAL_SPLITS}
    assert len(drawn) == len(NATURAL_SPLITS)
    with pytest.raises(ValueError, match="'dev'.*pictures_val, prefix"):
        sample_natural_clip("dev", 0)


def test_captions_of_sounds_name_what_is_heard_and_no_looks():
    for clip in clips("test", 60):
        for caption in clip.captions:
            parsed = parse_caption(caption)
            assert set(parsed.sounds) == {event.sound for event in clip.events} and len(parsed.sounds) == 2
            assert parsed.background == clip.background
            assert parsed.colours == parsed.shapes == ()


def test_captions_of_pictures_say_what_the_looks_tell():
    parsed: list[tuple[ParsedCaption, ToyClip]] = [
        (parse_caption(caption), clip) for clip in clips("pictures") for caption in clip.captions
    ]
    for caption, clip in parsed:
        assert set(caption.sounds) == {TYPICAL_SOUNDS[event.colour, event.shape] for event in clip.events}
        kinds = [TYPICAL_SOUNDS[kind] for kind in zip(caption.colours, caption.shapes, strict=True)]
        assert kinds in ([], list(caption.sounds))  # each object with its own sound
    assert 0.4 < np.mean([bool(caption.colours) for caption, _ in parsed]) < 0.6
    exceptions = [clip for _, clip in parsed if any(map(is_exception, clip.events))]
    assert exceptions  # whose sound the picture does not tell


def test_a_background_is_seen_by_its_tint():
    for clip in clips("val", 60):
        corner = render_frame(clip, 2.0)[0, 0].astype(int)
        distances = {name: np.abs(corner - tint).max() for name, tint in TINTS.items()}
        assert min(distances, key=distances.get) == clip.background


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("natural") / "world"
    written = write_toy_world(folder, 16, 3, 4, videos=1, seed=3, world="natural")
    assert [written[split] for split in ("pictures", "pictures_val", "prefix", "train", "val", "test")] == [
        48, 3, 16, 16, 3, 4,
    ]  # fmt: skip
    return folder


@pytest.mark.parametrize(
    ("split", "sound", "picture"),
    [("pictures", False, True), ("prefix", False, True), ("train", True, True), ("test", True, False)],
)
def test_splits_have_the_media_that_they_are_for(world, split, sound, picture):
    rows = load_split(world, split)
    for row in rows:
        assert (row["audio"] is not None) == sound and (row["frames"] is not None) == picture
    truth = json.loads((world / f"{split}_events.json").read_text())
    clip = ToyClip.from_dict(truth[rows[0]["id"]])
    assert clip == sample_natural_clip(split, 0, seed=3) and clip.world == "natural"
    if picture:
        assert len(rows[0]["frames"]) == 1
        with Image.open(rows[0]["frames"][0]["path"]) as frame:  # the middle of the clip
            error = np.abs(np.asarray(frame).astype(int) - render_frame(clip, 2.0)).mean()
        assert error < 4


def test_words_of_a_caption_are_right_in_any_order(world):
    truth = {clip.id: clip for clip in clips("test", 50)}
    first = next(iter(truth.values()))
    right = [Prediction(clip.id, "audio", clip.captions[k % 5], []) for k, clip in enumerate(truth.values())]
    row = sound_table(right, truth)["audio"]
    assert row["clips"] == 50
    assert all(row[name] == 1 for name in ("typical", "exceptional", "right", "background", "all"))
    assert all(is_right(prediction, truth) for prediction in right)

    heard = {event.sound for event in first.events}
    wrong = next(sound for sound in SOUNDS if sound not in heard)
    half = Prediction(first.id, "audio", f"{first.events[0].sound} and {wrong}", [])
    row = sound_table([half], {first.id: first})["audio"]
    assert row["right"] == 0.5 and row["all"] == 0 and not is_right(half, truth)
    shares = [row[name] for name in ("typical", "exceptional") if row[name] == row[name]]
    assert np.mean(shares) == 0.5
    assert "| audio | 50 | 100.0% | 100.0% | 100.0% | 100.0% | 100.0% |" in accuracy_section(right, truth)


def test_films_of_it_are_refused(tmp_path):
    done = run_inside("scripts/make_toy_world.py", "--raw", "--world", "natural", "--output", tmp_path / "world")
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "--raw with --world natural" in done.stderr
