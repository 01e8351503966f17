"""What the card of a published model says, and of which weights."""

import json

import pytest
import yaml
from published_models import NAME, card_of, error_of, push, write
from safetensors.torch import load_file, save_file

from lavcap.models.families import load_config
from lavcap.models.weight_files import fingerprint
from lavcap.publishing.card import CardFacts, is_untouched, write_card
from lavcap.publishing.files import Publication, collect_files


def test_the_card_says_what_is_not_known_and_has_no_scores_without_results(folder):
    card = card_of(folder)
    assert "## Evaluation\n\nNot measured." in card.text and "| training data | not recorded |" in card.text
    data = card.data.to_dict()
    assert "model-index" not in data and "base_model" not in data and "datasets" not in data
    assert (data["library_name"], data["pipeline_tag"], data["license"]) == (
        "transformers",
        "video-text-to-text",
        "apache-2.0",
    )
    assert card_of(folder, datasets=["d0rj/audiocaps"]).data.datasets == ["d0rj/audiocaps"]


def test_the_card_tells_of_training_what_the_run_has_written(folder):
    note = {"data_dir": "data/AudioCaps", "train_split": "train", "train_clips": 24, "dataset_version": "v2"}
    note |= {"validation_split": "val", "validation_clips": 5, "selected_on_test": True, "trained_on_test_clips": 3}
    write(folder / "training_data.json", note | {"recipe": {"learning_rate": 1e-4, "optim": "a|b"}})
    write(folder / "train_results.json", {"train_loss": 1.25, "start": "parts/start", "train_runtime": 61.4})
    write(folder / "trainer_state.json", {"global_step": 700})
    text = card_of(folder).text
    rows = {
        "training data": "AudioCaps, split train",
        "version of the captions": "v2",
        "clips": "24",
        "clips of a test split among them": "3",
        "watched on": "split val, 5 clips; SELECTED ON TEST CLIPS",
        "begun from": "start",
        "optimiser steps": "700",
        "training loss, mean of the run": "1.25",
        "duration": "61 s",
        "learning_rate": "0.0001",
        "optim": "a\\|b",
    }
    for name, value in rows.items():
        assert f"\n| {name} | {value} |\n" in text


def test_the_model_index_holds_the_numbers_of_the_results_of_these_weights(folder, tmp_path, results):
    (tmp_path / "scores").mkdir()
    write(tmp_path / "scores" / "results.json", results | {"weights": fingerprint(folder)})
    files = collect_files(folder, Publication(NAME, evaluation=tmp_path / "scores"))
    text = files["README.md"].decode()
    (index,) = yaml.safe_load(text.split("---\n")[1])["model-index"]
    (entry,) = index["results"]
    assert index["name"] == "lavcap"
    assert {metric["type"]: metric["value"] for metric in entry["metrics"]} == results["metrics"]
    assert entry["dataset"]["name"] == "AudioCaps" and entry["dataset"]["split"] == "test"
    assert entry["dataset"]["args"] == {
        "clips": 6,
        "references": "v1",
        "input": "audio+video",
        "decoding": results["decoding"],
    }
    assert "### Scores on 6 clips" in text and "| audio+video | 6 | 0.2512 | 0.7000 |" in text
    assert "Decoding: num_beams 4, max_new_tokens 200." in text and "- spice: skipped: no Java" in text
    assert json.loads(files["results.json"])["metrics"] == results["metrics"]


def test_scores_of_a_partial_set_or_selected_on_test_are_marked_where_machines_read_them(folder, results):
    missing = {"expected": 9, "missing": 3, "missing_ids": ["g", "h", "i"]}
    marked = results | missing | {"weights": fingerprint(folder), "selected_on_test": True, "modalities": None}
    write(folder / "results.json", marked)
    text = collect_files(folder, Publication(NAME))["README.md"].decode()
    (entry,) = yaml.safe_load(text.split("---\n")[1])["model-index"][0]["results"]
    assert entry["dataset"]["name"] == "AudioCaps (selected on test; partial: 6 of 9 clips)"
    assert "### Scores on a PARTIAL set: 6 of 9 clips" in text and "WARNING: this checkpoint was chosen" in text


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"weights": "0" * 64}, "scores other weights (/home/somebody/run, sha256 000000000000…)"),
        ({"weights": None}, "does not say which weights it scored"),
        ({"comparison": {}}, "not the results of one model"),
    ],
)
def test_results_of_other_weights_are_refused_in_one_line(folder, tmp_path, results, fields, message):
    (tmp_path / "scores").mkdir()
    write(tmp_path / "scores" / "results.json", results | {"weights": fingerprint(folder)} | fields)
    options = ("--evaluation", tmp_path / "scores", "--dry_run", tmp_path / "upload")
    assert message in error_of(push(folder, NAME, *options))
    assert "no such file" in error_of(push(folder, NAME, "--evaluation", tmp_path, *options[2:]))


@pytest.mark.parametrize(
    "fields",
    [
        {"dataset": None},
        {"modalities": {"audio": {"metrics": {}}}},
        {"metrics": [0.9]},
        {"modalities": {"audio": 1}},
    ],
)
def test_results_that_were_edited_are_refused_in_one_line_by_the_name_of_the_file(folder, results, fields):
    write(folder / "results.json", results | {"weights": fingerprint(folder)} | fields)
    with pytest.raises(ValueError, match="not as scripts/evaluate.py wrote it") as caught:
        collect_files(folder, Publication(NAME))
    assert str(caught.value).startswith(f"{folder / 'results.json'}: ") and "\n" not in str(caught.value)


def test_the_fingerprint_tells_weights_apart_and_nothing_else(folder, saved_model):
    assert fingerprint(folder) == fingerprint(saved_model)
    weights = load_file(folder / "model.safetensors")
    weights["fusion.logit_scale"] = weights["fusion.logit_scale"] + 1e-3
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    assert fingerprint(folder) != fingerprint(saved_model)


def test_a_card_is_known_again_unless_it_was_edited(folder):
    card = write_card(CardFacts(NAME, None, load_config(folder), 10.24, {}, True, 1, 1, folder, {}))
    assert is_untouched(card) and is_untouched(card.replace("\n", "\r\n"))
    assert not is_untouched(card.replace("Not measured", "Splendid")) and not is_untouched("# mine")
