"""The command that measures robustness: its rows, its tables, and how it refuses."""

import dataclasses
import json
import re
from pathlib import Path

import pytest
import torch
from stranger import run_inside

from conftest import ROOT
from lavcap.commands import robustness as command
from lavcap.data.dataset import ClipDataset
from lavcap.data.splits import load_split
from lavcap.evaluation.predictions import Prediction, by_modality, read_predictions
from lavcap.experiments.disturbances import DISTURBANCES, KINDS, UNDISTURBED, Disturbance
from lavcap.experiments.robustness import DisturbedClips, Robustness, summarise
from lavcap.experiments.robustness_table import format_robustness
from lavcap.toy.dataset import write_toy_world
from lavcap.toy.natural import TYPICAL_SOUNDS, sample_natural_clip
from lavcap.toy.world import paraphrase_captions, sample_clip


SCRIPT = "scripts/measure_robustness.py"
PAGE = (ROOT / "docs" / "robustness.md").read_text(encoding="utf-8")
NAMES = [UNDISTURBED.name, *(each.name for each in DISTURBANCES)]
IN_EVALUATION = {
    "undisturbed": "audio+video",
    "audio_only": "audio",
    "video_only": "video",
    "other_video": "audio+other_video",
}


def read(folder: Path) -> dict:
    return json.loads((folder / "results.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def place(saved_model, saved_avcap, toy_world, tmp_path_factory) -> Path:
    """A folder with the models and the data set that the page names."""
    folder = tmp_path_factory.mktemp("place")
    named = {"demo/model": saved_model, "demo-avcap/model": saved_avcap, "demo/data": toy_world}
    for name, target in named.items():
        (folder / "outputs" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "outputs" / name).symlink_to(target)
    return folder


@pytest.fixture(scope="module")
def measured(place) -> Path:
    """What the command of the page writes."""
    (block,) = (each for each in re.findall(r"^```bash\n(.*?)^```", PAGE, re.M | re.S) if SCRIPT in each)
    python, *words = block.replace("\\\n", " ").split()
    assert python == ".venv/bin/python" and words[0] == SCRIPT
    done = run_inside(*words, folder=place)
    assert done.returncode == 0, done.stderr
    output = place / words[-1]
    assert done.stdout == (output / "results.md").read_text(encoding="utf-8")
    return output


@pytest.fixture(scope="module")
def natural_world(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("natural") / "world"
    write_toy_world(folder, 16, 3, 3, videos=0, world="natural")
    return folder


def test_two_models_stand_side_by_side_under_every_disturbance(measured):
    results, text = read(measured), (measured / "results.md").read_text(encoding="utf-8")
    assert [model["model"] for model in results["models"]] == ["outputs/demo/model", "outputs/demo-avcap/model"]
    assert text.startswith("# Robustness on 6 clips\n")
    for model in results["models"]:
        assert list(model["rows"]) == NAMES and not model["skipped"]
        for name, row in model["rows"].items():
            assert ("differences" in row) == (name != "undisturbed") and ("whose" in row) == (name == "other_video")
            assert row["shares"].keys() == row["intervals"].keys() == row["totals"].keys()
            assert all(low <= row["shares"][word] <= high for word, (low, high) in row["intervals"].items())
    shown = re.findall(r"^\| (\w[\w.]*) \| (outputs\S+) \|", text, re.M)
    pairs = [(name, model["model"]) for name in NAMES for model in results["models"]]
    assert shown == pairs + [pair for pair in pairs if pair[0] != "undisturbed"]
    assert all(f"`{field}`" in PAGE for field in (*results, *results["models"][0], *row))
    assert all(f"`{name}`" in PAGE for name in (*NAMES, *KINDS))


def test_rows_stand_in_one_order_also_where_the_first_model_lacks_some(measured):
    results = read(measured)
    del results["models"][0]["rows"]["other_video"]
    section = format_robustness(results).split("## ")[1]
    shown = re.findall(r"^\| (\w[\w.]*) \| outputs\S+ \|", section, re.M)
    assert list(dict.fromkeys(shown)) == NAMES and shown.count("other_video") == 1


@pytest.mark.parametrize("number", [1, 2])
def test_rows_without_changed_media_are_those_of_evaluation(measured, place, tmp_path, number):
    model = read(measured)["models"][number - 1]["model"]
    arguments = ["--model", model, "--data_dir", "outputs/demo/data", "--output", tmp_path / "scores"]
    done = run_inside("scripts/evaluate.py", *arguments, "--metrics", "bleu_1", "--bootstrap", 0, folder=place)
    assert done.returncode == 0, done.stderr
    evaluated = by_modality(read_predictions(tmp_path / "scores" / "predictions.jsonl"))
    captions = by_modality(read_predictions(measured / f"predictions_{number}.jsonl"))
    for name, modality in IN_EVALUATION.items():
        found = [(each.id, each.caption, each.video_of) for each in captions[name]]
        assert found == sorted((each.id, each.caption, each.video_of) for each in evaluated[modality])
    assert all(each.video_of not in (None, each.id) for each in captions["other_video"])
    assert len({each.video_of for each in captions["other_video"]}) == 6


def test_the_same_is_captioned_each_time_and_disturbances_change_it(measured, place, monkeypatch):
    monkeypatch.chdir(place)
    again = Robustness(["outputs/demo/model"], "outputs/demo/data", disturbances=["noise", "dropped_75"], device="cpu")
    (captions,) = again.measure(0).captions.values()
    before = by_modality(read_predictions(measured / "predictions_1.jsonl"))
    assert by_modality(captions) == {name: before[name] for name in by_modality(captions)}
    words = {name: [each.caption for each in chosen] for name, chosen in before.items()}
    assert words["noise_0_db"] != words["undisturbed"]


@pytest.mark.parametrize("kind", ["processor", "avcap_processor"])
def test_clips_are_disturbed_before_their_features_are_made(toy_world, request, kind):
    processor = request.getfixturevalue(kind)
    rows = load_split(toy_world, "test")
    clean = ClipDataset(rows, processor)
    same = DisturbedClips(rows, processor, Disturbance("", "", "", change=lambda clip, draw: clip), 0)
    for index in (0, 5):
        for name, value in clean[index]["features"].items():
            assert torch.equal(same[index]["features"][name], value)
    chosen = {each.name: each for each in DISTURBANCES if each.change}
    for name in ("noise_20_db", "delay_0.25_s", "dropped_75"):
        drawn, other = (DisturbedClips(rows, processor, chosen[name], seed)[0]["features"] for seed in (0, 1))
        changed = {each for each, value in clean[0]["features"].items() if not torch.equal(value, drawn[each])}
        assert changed == {"pixel_values_videos" if name.startswith("dropped") else "input_features"}
        seeded = {each for each, value in drawn.items() if not torch.equal(value, other[each])}
        assert seeded == (set() if name.startswith("delay") else changed)


def test_every_frame_is_there_before_the_processor_takes_its_choice(toy_world, processor):
    seen = []
    look = Disturbance("", "", "", change=lambda clip, draw: seen.append(clip) or clip)
    item = DisturbedClips(load_split(toy_world, "test"), processor, look, 0)[0]
    assert seen[0].frames.shape == (20, 64, 64, 3) and seen[0].sampling_rate == 16000
    assert len(item["features"]["pixel_values_videos"]) == processor.num_video_frames == 4


# ---------------------------------------------------------------------------------------------------------- shares


def test_shares_and_differences_are_those_of_the_words():
    clips = [sample_clip("test", index) for index in range(40)]
    truth = {clip.id: clip for clip in clips}

    def predictions(name: str, write) -> list[Prediction]:
        return [Prediction(clip.id, name, write(clip), []) for clip in clips]

    def turned_round(clip) -> str:
        return paraphrase_captions(clip.events[::-1], clip.background)[0]

    captions = {
        "undisturbed": predictions("undisturbed", lambda clip: clip.captions[0]),
        "delay_2_s": predictions("delay_2_s", turned_round),
        "noise_0_db": predictions("noise_0_db", lambda clip: ""),
    }
    rows = summarise(captions, truth, 200)
    assert set(rows["undisturbed"]["shares"].values()) == {1.0} and rows["undisturbed"]["totals"]["colour"] == 80
    late = rows["delay_2_s"]
    alike = sum(2 for clip in clips if clip.events[0].sound == clip.events[1].sound)
    assert late["shares"]["sound"] == pytest.approx(alike / 80) and late["shares"]["any_order"] == 1
    assert late["differences"]["sound"]["difference"] == pytest.approx(alike / 80 - 1)
    low, high = late["differences"]["sound"]["interval"]
    assert low <= alike / 80 - 1 <= high and late["differences"]["any_order"]["interval"] == (0, 0)
    silent = sum(clip.background is None for clip in clips) / 40
    assert rows["noise_0_db"]["shares"]["background"] == pytest.approx(silent)
    assert rows["noise_0_db"]["differences"]["all"]["p"] < 0.01
    assert not summarise(captions, truth, 0)["delay_2_s"]["intervals"]


def test_whose_words_tells_the_clip_that_is_heard_from_the_one_that_is_seen():
    clips = [sample_clip("test", index) for index in range(40)]
    truth = {clip.id: clip for clip in clips}

    def follow(heard, seen) -> str:
        """Sounds and background of the one, objects of the other."""
        pairs = zip(heard.events, seen.events, strict=True)
        events = [dataclasses.replace(other, sound=one.sound) for one, other in pairs]
        return paraphrase_captions(events, heard.background)[0]

    others = [*clips[1:], clips[0]]
    pairs = list(zip(clips, others, strict=True))
    captions = [Prediction(one.id, "other_video", follow(one, other), [], other.id) for one, other in pairs]
    undisturbed = [Prediction(clip.id, "undisturbed", clip.captions[0], []) for clip in clips]
    whose = summarise({"undisturbed": undisturbed, "other_video": captions}, truth, 0)["other_video"]["whose"]
    assert whose["heard"]["shares"] == {"colour": 0, "shape": 0, "sound": 1, "background": 1}
    assert whose["seen"]["shares"] == {"colour": 1, "shape": 1, "sound": 0, "background": 0}
    differing = [a.colour != b.colour for one, other in pairs for a, b in zip(one.events, other.events, strict=True)]
    assert whose["seen"]["totals"]["colour"] == whose["heard"]["totals"]["colour"] == sum(differing)


def test_in_the_natural_world_a_picture_speaks_by_typical_sounds():
    clips = [sample_natural_clip("val", index) for index in range(40)]
    truth = {clip.id: clip for clip in clips}
    pairs = list(zip(clips, [*clips[1:], clips[0]], strict=True))

    def told(clip) -> str:
        return " and ".join(TYPICAL_SOUNDS[event.colour, event.shape] for event in clip.events)

    def whose(write) -> dict:
        captions = [Prediction(one.id, "other_video", write(one, other), [], other.id) for one, other in pairs]
        return summarise({"undisturbed": captions, "other_video": captions}, truth, 0)["other_video"]["whose"]

    followed = whose(lambda heard, seen: heard.captions[0])
    assert (followed["heard"]["shares"]["sound"], followed["seen"]["shares"]["sound"]) == (1, 0)
    followed = whose(lambda heard, seen: told(seen))
    assert (followed["heard"]["shares"]["sound"], followed["seen"]["shares"]["sound"]) == (0, 1)
    assert followed["seen"]["totals"].keys() == {"sound", "background"}


# ------------------------------------------------------------------------------------------- what does not apply


def test_of_clips_of_sound_alone_that_applies_which_changes_sound(saved_dali, natural_world, tmp_path):
    options = ["--data_dir", natural_world, "--output", tmp_path / "out", "--max_clips", 2, "--bootstrap", 100]
    done = run_inside(SCRIPT, "--model", saved_dali, *options, "--disturbance", "noise_0_db", "missing", "dropped")
    assert done.returncode == 0, done.stderr
    results = read(tmp_path / "out")
    (model,) = results["models"]
    assert list(model["rows"]) == ["undisturbed", "noise_0_db"] and results["world"] == "natural"
    reasons = dict.fromkeys(("audio_only", "video_only"), "needs audio and video; the clips have no video")
    reasons |= {f"dropped_{share}": "needs video; the clips have no video" for share in (25, 50, 75)}
    assert model["skipped"] == reasons
    assert done.stdout.startswith("# Robustness on a PARTIAL set: 2 of 3 clips\n")
    assert "| typical sounds named |" in done.stdout and "## Whose words" not in done.stdout
    assert f"- dropped_25: not measured for {saved_dali}: needs video; the clips have no video" in done.stdout


def test_a_picture_of_one_frame_drops_none(saved_dali, natural_world):
    chosen = ["other_video", "delay_1_s", "dropped_25"]
    results = Robustness([str(saved_dali)], natural_world, "val", disturbances=chosen, device="cpu").measure(0).results
    (model,) = results["models"]
    assert list(model["rows"]) == ["undisturbed", "other_video", "delay_1_s"]
    assert model["skipped"] == {"dropped_25": "needs 2 frames or more; the clips have 1"}
    assert "typical" in model["rows"]["delay_1_s"]["shares"] and not model["rows"]["other_video"]["intervals"]


def test_a_model_that_takes_nothing_of_the_clips_is_refused(saved_model, toy_world, monkeypatch):
    shown = [{"audio"}] * 3 + [{"video"}] * 3
    monkeypatch.setattr("lavcap.experiments.robustness.shown_modalities", lambda rows: shown)
    with pytest.raises(ValueError, match="takes audio and video, and the clips of test have nothing of it in common"):
        Robustness([str(saved_model)], toy_world, device="cpu")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"--model": ["no/such/model"]}, "no/such/model: no such folder"),
        ({"--model": ["tests"]}, "tests: holds no config.json"),
        ({"--model": ["{model}", "{model}"]}, "more than once, expected different models"),
        ({"--data_dir": ["tests"]}, "test_events.json: no such file; expected the folder of a toy world"),
        ({"--split": ["dev"]}, "dev_events.json: no such file"),
        ({"--data_dir": ["{strange}"]}, "test_events.json: not the truth of a toy world (AttributeError"),
        ({"--data_dir": ["{short}"]}, "test_events.json lacks 6 clips of test.json: toye0000000, "),
        ({"--disturbance": ["nois"]}, "'nois' is not a disturbance; did you mean noise?"),
        ({"--output": ["tests"]}, "tests: holds another run; name a new folder with --output"),
        ({"--batch_size": ["0"]}, "expected a whole number of at least 1"),
        ({"--bootstrap": ["7"]}, "got 7, expected 0 or at least 100"),
    ],
)
def test_bad_input_is_one_line(saved_model, toy_world, tmp_path, changed, message):
    names = {"model": saved_model, "strange": tmp_path / "strange", "short": tmp_path / "short"}
    for name, truth in (("strange", "[1]"), ("short", "{}")):
        names[name].mkdir()
        (names[name] / "test_events.json").write_text(truth)
        for file in ("test.json", "test_coco.json", "test"):
            (names[name] / file).symlink_to(toy_world / file)
    given = {"--model": [saved_model], "--data_dir": [toy_world], "--output": [tmp_path / "out"]} | changed
    words = [str(word).format(**names) for option, values in given.items() for word in (option, *values)]
    done = run_inside(SCRIPT, *words)
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert done.returncode == 2 and message in line and not (tmp_path / "out").exists()


def test_the_help_names_every_kind():
    assert all(f"({kind})" in command.__doc__ for kind in KINDS)
