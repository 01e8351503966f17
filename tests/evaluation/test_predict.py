"""What the model is given by modality, and what results say."""

import json

import pytest
import torch

from lavcap.data.dataset import ClipDataset
from lavcap.data.splits import load_split
from lavcap.evaluation.names import OTHER_VIDEO
from lavcap.evaluation.predict import (
    available_modalities,
    has_modality,
    keep_modality,
    other_clips,
    predict,
)
from lavcap.evaluation.predictions import Prediction, read_predictions
from lavcap.evaluation.results import (
    PREDICTIONS,
    compare_sets,
    describe_references,
    format_comparison,
    format_preflight,
    format_results,
    format_table,
    summarise,
    with_main_set,
    write_results,
)
from lavcap.provenance import read_provenance


MISSING = {"meteor": "no Java on PATH", "spice": "no Java on PATH", "spider": "no spice", "fense": "no models"}
CAPTIONS = ["a red circle beeps", "a blue star rings loudly", "rain falls on the roof"]


class Processor:
    """What is asked of a processor: the names of features."""

    feature_names = {"audio": ("input_features",), "video": ("pixel_values_videos", "video_features")}


NAMES = Processor.feature_names


class Clips:
    """Four clips whose features are their numbers; the third has no picture."""

    def __len__(self):
        return 4

    def __getitem__(self, index):
        features = {"input_features": torch.full((2,), float(index))}
        if index != 2:
            features["pixel_values_videos"] = torch.full((2,), 10.0 + index)
        return {"id": f"clip {index}", "captions": [f"reference {index}"], "features": features}


@pytest.fixture
def seen(monkeypatch):
    """What the model is given of each clip: its sound and its picture, as numbers."""
    given = []

    def caption(model, processor, features, **options):
        given.extend({name: int(value[0]) for name, value in clip.items()} for clip in features)
        return ["a caption"] * len(features)

    monkeypatch.setattr("lavcap.evaluation.predict.caption_features", caption)
    return given


def test_withheld_modalities_are_gone():
    features = {"input_features": 1, "pixel_values_videos": 2}
    assert (
        keep_modality(features, "audio", NAMES) == keep_modality(features, OTHER_VIDEO, NAMES) == {"input_features": 1}
    )
    assert keep_modality(features, "video", NAMES) == {"pixel_values_videos": 2}
    assert keep_modality(features, "audio+video", NAMES) == features
    assert has_modality(features, "audio+video", NAMES)
    assert not has_modality({"input_features": 1}, "audio+video", NAMES)
    with pytest.raises(ValueError, match="expected one of audio"):
        keep_modality(features, "smell", NAMES)


def test_clips_without_the_modality_are_left_out(seen):
    assert [p.id for p in predict(None, Processor, Clips(), "audio+video", 2)] == ["clip 0", "clip 1", "clip 3"]
    assert seen == [{"input_features": clip, "pixel_values_videos": 10 + clip} for clip in (0, 1, 3)]


def test_sound_comes_with_the_frames_of_another_clip_each_used_once(seen):
    predictions = predict(None, Processor, Clips(), OTHER_VIDEO, 2)
    assert [p.id for p in predictions] == ["clip 0", "clip 1", "clip 3"]
    assert [p.references for p in predictions] == [[f"reference {clip}"] for clip in (0, 1, 3)]
    assert [given["input_features"] for given in seen] == [0, 1, 3]
    assert sorted(given["pixel_values_videos"] for given in seen) == [10, 11, 13]
    for prediction, given in zip(predictions, seen, strict=True):
        assert prediction.video_of == f"clip {given['pixel_values_videos'] - 10}" != prediction.id


@pytest.mark.parametrize("number", [2, 3, 200, 944])
def test_other_clips_are_others_each_once_and_always_the_same(number):
    others = other_clips(number)
    assert sorted(others) == list(range(number)) and all(clip != other for clip, other in enumerate(others))
    assert others == other_clips(number)
    assert number == 2 or number == 3 or others != other_clips(number, seed=1)


def test_a_lone_clip_has_no_other(monkeypatch, seen):
    monkeypatch.setattr(Clips, "__len__", lambda self: 1)
    assert other_clips(1) == other_clips(0) == []
    with pytest.raises(ValueError, match=r"None of the 1 clips has audio\+other_video"):
        predict(None, Processor, Clips(), OTHER_VIDEO, 2)


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        ([{"audio", "video"}] * 2, ["audio+video", "audio", "video", OTHER_VIDEO]),
        ([{"audio", "video"}, {"audio"}], ["audio+video", "audio", "video"]),
        ([{"audio"}, {"video"}], ["audio", "video"]),
        ([{"audio"}] * 3, ["audio"]),
    ],
)
def test_by_default_a_model_is_given_what_the_clips_have(processor, shown, expected):
    assert available_modalities(processor, shown) == expected
    processor = type("Deaf", (), {"modalities": ("video",)})
    assert available_modalities(processor, shown) == [kind for kind in expected if kind == "video"]


def test_a_model_that_samples_is_scored_alike_each_time(model, processor, toy_world):
    clips = ClipDataset(load_split(toy_world, "val"), processor, cache=True)
    options = {"do_sample": True, "num_beams": 1, "temperature": 5.0, "max_new_tokens": 6}
    runs = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        runs.append([each.caption for each in predict(model, processor, clips, "audio", 4, **options)])
    assert runs[0] == runs[1] and len(set(runs[0])) > 1


def test_frames_of_another_clip_change_what_the_model_sees(model, processor, toy_world):
    from lavcap.evaluation.predict import _given

    dataset = ClipDataset(load_split(toy_world, "test"), processor, cache=True)
    both, other = (list(_given(dataset, modality, NAMES)) for modality in ("audio+video", OTHER_VIDEO))
    for own, foreign in zip(both, other, strict=True):
        assert torch.equal(own["features"]["input_features"], foreign["features"]["input_features"])
        assert not torch.equal(own["features"]["pixel_values_videos"], foreign["features"]["pixel_values_videos"])
    assert len(predict(model, processor, dataset, OTHER_VIDEO, 4)) == 6


@pytest.mark.parametrize(
    ("content", "expected"), [('{"selected_on_test": true}', True), ("{}", False), ("[]", False), (None, False)]
)
def test_a_checkpoint_says_if_it_was_chosen_on_test(tmp_path, content, expected):
    if content:
        (tmp_path / "training_data.json").write_text(content)
    assert read_provenance(tmp_path).get("selected_on_test", False) is expected


# --------------------------------------------------------------------------------------------------------- results


def predictions(modalities=("",), captions=CAPTIONS):
    return [
        Prediction(f"clip {index}", modality, text, [CAPTIONS[index], "a dog barks"])
        for modality in modalities
        for index, text in enumerate(captions)
    ]


def results_of(chosen, expected, **run):
    table = summarise(chosen, expected, MISSING, resamples=50)
    return with_main_set(run | {"dataset": describe_references(chosen, "v1")}, table)


def test_a_single_set_stands_at_the_top():
    results = results_of(predictions(), ["clip 0", "clip 1", "clip 2"])
    assert results["metrics"]["bleu_4"] == pytest.approx(1) and results["skipped"] == MISSING
    assert results["metrics"].keys().isdisjoint(MISSING) and results["metrics"].keys() == results["intervals"].keys()
    assert (results["expected"], results["scored"], results["missing"]) == (3, 3, 0)
    assert results["scored_ids"] == ["clip 0", "clip 1", "clip 2"] and results["missing_ids"] == []
    assert "modalities" not in results
    text = format_results(results)
    assert text.startswith("# Scores on 3 clips\n") and "- meteor: skipped: no Java on PATH" in text
    assert "| bleu_4 | 1.0000 | 1.0000 to 1.0000 |" in text and "| meteor | skipped | none |" in text
    assert "6 references of 3 clips, all lower-case, as those of AudioCaps v2 are; version: v1." in text


def test_sound_and_picture_are_the_main_set_of_several():
    chosen = predictions(("audio",), [""] * 3) + predictions(("audio+video",))
    results = results_of(chosen, ["clip 0", "clip 1", "clip 2"])
    assert list(results["modalities"]) == ["audio", "audio+video"] and results["modality"] == "audio+video"
    assert results["metrics"] == results["modalities"]["audio+video"]["metrics"]
    text = format_results(results)
    assert "| audio+video | 3 | 1.0000 |" in text and "| audio | 3 | 0.0000 |" in text
    assert "| 95 % interval | audio | audio+video |" in text


def test_a_partial_set_is_called_partial_in_the_title_and_names_what_is_missing():
    results = results_of(predictions(captions=CAPTIONS[:2]), ["clip 0", "clip 1", "clip 2", "clip 3"])
    assert results["missing"] == 2 and results["missing_ids"] == ["clip 2", "clip 3"]
    assert format_results(results).startswith("# Scores on a PARTIAL set: 2 of 4 clips\n")
    table = {"audio": results, "video": results_of(predictions(), ["clip 0", "clip 1", "clip 2"])}
    assert "| audio | 2 of 4 (partial) |" in format_table(table) and "| video | 3 |" in format_table(table)


def test_an_undefined_metric_is_skipped_with_its_reason():
    results = results_of(predictions(captions=CAPTIONS[:1]), ["clip 0"])
    assert "cider_d" not in results["metrics"] and "there is only one clip" in results["skipped"]["cider_d"]
    assert list(results["skipped"]) == ["cider_d", "meteor", "spice", "spider", "fense"]


def test_a_checkpoint_chosen_on_test_is_warned_of():
    text = format_results(results_of(predictions(), ["clip 0"], selected_on_test=True))
    assert "WARNING: this checkpoint was chosen by its scores on the test split" in text


def test_preflight_says_what_is_computed_and_what_is_not():
    assert format_preflight(MISSING).splitlines() == [
        "Metrics: bleu_1, bleu_2, bleu_3, bleu_4, rouge_l, cider_d",
        "meteor: skipped: no Java on PATH",
        "spice: skipped: no Java on PATH",
        "spider: skipped: no spice",
        "fense: skipped: no models",
    ]


def test_results_appear_whole_or_not_at_all(tmp_path):
    folder = tmp_path / "new folder ü" / "results"
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_results(folder, {"value": float("nan")}, "text", {PREDICTIONS: predictions()})
    assert list(folder.parent.iterdir()) == []
    write_results(folder, {"value": 1}, "text", {PREDICTIONS: predictions(("audio",)), "none.jsonl": []})
    assert {path.name for path in folder.iterdir()} == {"results.json", "results.md", PREDICTIONS}
    assert read_predictions(folder / PREDICTIONS) == predictions(("audio",))
    assert json.loads((folder / "results.json").read_text()) == {"value": 1}
    with pytest.raises(ValueError, match="holds another run"):
        write_results(folder, {}, "", {})


def test_sets_are_compared_on_their_common_clips_alone():
    second = [*predictions(captions=["a bell", "a bell", "a bell"])[1:], Prediction("clip 9", "", "x", ["y"])]
    compared = compare_sets(predictions(), second, MISSING, 100)
    assert compared["scored_ids"] == ["clip 1", "clip 2"]
    assert compared["only_in_first"] == ["clip 0"] and compared["only_in_second"] == ["clip 9"]
    assert compared["comparison"]["rouge_l"]["first"] == 1 and compared["comparison"]["rouge_l"]["difference"] > 0.5
    text = format_comparison(
        compared | {"predictions": "A", "compare": "B", "dataset": describe_references(second, "v2")}
    )
    assert text.startswith("# Paired comparison on 2 clips, a PARTIAL set: 2 clips are in one file only\n")


def test_sets_without_common_clips_or_with_other_references_are_refused():
    with pytest.raises(ValueError, match="no clip in common"):
        compare_sets(predictions(), [Prediction("clip 9", "", "x", ["y"])], MISSING, 10)
    other = [Prediction(f"clip {index}", "", "x", ["other words"]) for index in range(2)]
    with pytest.raises(ValueError, match="different references for 2 clips: clip 0, clip 1;"):
        compare_sets(predictions(), other, MISSING, 10)
