"""The free world with kinds of objects that have their typical sound."""

import numpy as np
import pytest

from lavcap.data.splits import load_split
from lavcap.evaluation.predictions import Prediction
from lavcap.toy.accuracy import accuracy_section, accuracy_table, is_right
from lavcap.toy.dataset import read_truth, write_toy_world
from lavcap.toy.natural import EXCEPTION_SHARE, TYPICAL_SOUNDS, is_exception, sample_typical_clip
from lavcap.toy.world import CAPTION_TEMPLATES, SPLITS, ToyClip, caption_accuracy


def clips(split: str, count: int) -> dict[str, ToyClip]:
    drawn = (sample_typical_clip(split, index, seed=7) for index in range(count))
    return {clip.id: clip for clip in drawn}


def test_a_clip_depends_on_seed_split_and_index_alone():
    assert sample_typical_clip("test", 5, 1) == sample_typical_clip("test", 5, 1)
    drawn = [sample_typical_clip(split, 0, 1) for split in SPLITS]
    assert len({clip.events for clip in drawn}) == len({clip.id for clip in drawn}) == len(SPLITS)
    with pytest.raises(ValueError, match="'pictures'.*train, val, test, new"):
        sample_typical_clip("pictures", 0)


def test_kinds_make_their_sounds_but_for_their_share_of_exceptions():
    drawn = clips("train", 1500).values()
    events = [event for clip in drawn for event in clip.events]
    assert np.mean([is_exception(event) for event in events]) == pytest.approx(EXCEPTION_SHARE, abs=0.02)
    looks = [[(each.colour, each.shape) for each in (*clip.events, *clip.distractors)] for clip in drawn]
    assert {len(seen) for seen in looks} == {2, 3, 4} and all(len(set(seen)) == len(seen) for seen in looks)
    assert {look for seen in looks for look in seen} == set(TYPICAL_SOUNDS)


def test_captions_tell_objects_and_sounds_in_their_order():
    drawn = clips("test", 60)
    for clip in drawn.values():
        assert len(clip.captions) == len(CAPTION_TEMPLATES)
        for caption in clip.captions:
            found = caption_accuracy(caption, clip)
            assert found["background"]
            assert all(event[part] for event in found["events"] for part in ("colour", "shape", "sound"))
    assert all(len(clip.captions) == 1 for clip in clips("train", 5).values())


def test_typical_and_exceptional_pairs_are_counted_apart():
    truth = clips("test", 60)
    right = [Prediction(clip.id, "audio+video", clip.captions[0], []) for clip in truth.values()]
    table = accuracy_table(right, truth)["audio+video"]
    exceptions = sum(is_exception(event) for clip in truth.values() for event in clip.events)
    assert list(table) == ["typical pairs", "exceptional pairs"]
    assert table["exceptional pairs"]["events"] == exceptions and table["typical pairs"]["events"] == 120 - exceptions
    assert all(is_right(prediction, truth) for prediction in right)
    section = accuracy_section(right, truth)
    assert "typical of another kind" in section and f"| {exceptions} | 100.0% | 100.0% | 100.0% | 100.0% |" in section


def test_it_is_written_as_the_free_world_is(tmp_path):
    written = write_toy_world(tmp_path / "world", 16, 3, 4, videos=1, seed=3, world="typical")
    assert {name: written[name] for name in ("train", "val", "test")} == {"train": 16, "val": 3, "test": 4}
    rows = load_split(tmp_path / "world", "test")
    assert all(len(row["frames"]) == 20 and row["audio"] for row in rows)
    truth = read_truth(tmp_path / "world", "test")
    assert all(clip == sample_typical_clip("test", index, 3) for index, clip in enumerate(truth.values()))
