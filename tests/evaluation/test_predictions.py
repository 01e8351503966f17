"""Files of captions as users have them, and what is said of those that cannot be used."""

import json

import pytest

from lavcap.evaluation.predictions import (
    Prediction,
    check_references,
    read_predictions,
    read_references,
    write_predictions,
)


GOOD = {"id": "a", "caption": "a dog", "references": ["a dog barks"]}


def lines(path, *rows):
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows), encoding="utf-8")
    return path


def refusal(read, *arguments) -> str:
    with pytest.raises(ValueError) as error:
        read(*arguments)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_what_is_written_comes_back(tmp_path):
    predictions = [
        Prediction("a ü", "audio", "a dog\u2028barks 🐶", ["x", "y"]),
        Prediction("a ü", "audio+other_video", "", ["x", "y"], video_of="b"),
        Prediction("b", "audio", "line\nbreak", ["x"]),
    ]
    path = tmp_path / "my predictions ü.jsonl"
    write_predictions(path, predictions)
    assert read_predictions(path) == predictions
    write_predictions(path, [Prediction("b", "", "rain", ["x"])])
    assert json.loads(path.read_text(encoding="utf-8")).keys() == {"id", "caption", "references"}


def test_files_of_other_editors_are_read(tmp_path):
    path = tmp_path / "p.jsonl"
    path.write_bytes(
        b"\xef\xbb\xbf" + json.dumps(GOOD).encode() + b"\r\n\r\n  \r\n" + json.dumps(GOOD | {"id": 7}).encode()
    )
    assert [prediction.id for prediction in read_predictions(path)] == ["a", "7"]


def test_all_bad_lines_are_named_with_number_and_reason(tmp_path):
    rows = [
        GOOD,
        "{",
        "[1]",
        {"caption": "x", "references": ["y"]},
        GOOD | {"id": 1.5},
        {"id": "b", "references": ["y"]},
        GOOD | {"caption": None},
        GOOD | {"caption": ["x"]},
        {"id": "b", "caption": "x"},
        GOOD | {"references": []},
        GOOD | {"references": "a dog"},
        GOOD | {"references": [3]},
        GOOD | {"references": ["a dog", "..."]},
        GOOD | {"modality": 1},
        GOOD | {"caption": "\ud83d"},
    ]
    path = lines(tmp_path / "p.jsonl", *rows)
    with path.open("ab") as file:
        file.write(b'\n{"id": "\xff"}')
    message = refusal(read_predictions, path)
    assert "15 of 16 lines cannot be used" in message
    for part in (
        "line 2 (not JSON: ",
        "line 3 (a list, expected an object)",
        "line 4 (no id)",
        "line 5 (id is a float",
        "line 6 (no caption)",
        "line 7 (caption is a NoneType, expected text)",
        "line 8 (caption is a list",
        "line 9 (no references)",
        "line 10 (references are empty)",
        "line 11 (references are a str, expected a list",
        "line 12 (a reference is a int",
        "line 13 (a reference has no words: '...')",
        "line 14 (modality is a int",
        "line 15 (caption holds half of a surrogate pair",
        "line 16 (not UTF-8",
    ):
        assert part in message


def test_long_lists_are_cut_and_counted(tmp_path):
    message = refusal(read_predictions, lines(tmp_path / "p.jsonl", *["{"] * 50))
    assert "50 of 50 lines" in message and "line 20 " in message and "line 21 " not in message
    assert " and 30 more" in message


def test_an_empty_file_is_refused(tmp_path):
    assert "holds no lines" in refusal(read_predictions, lines(tmp_path / "p.jsonl", " ", ""))


def test_a_clip_may_occur_once_in_each_modality(tmp_path):
    rows = [GOOD | {"modality": "audio"}, GOOD | {"modality": "video"}, GOOD | {"id": "b", "modality": "audio"}]
    assert len(read_predictions(lines(tmp_path / "p.jsonl", *rows))) == 3
    message = refusal(read_predictions, lines(tmp_path / "p.jsonl", *rows, *rows[1:]))
    assert "2 clips occur more than once: a (video), b (audio);" in message


def test_references_of_both_layouts_and_clips_that_they_do_not_know(tmp_path):
    rows = [GOOD, {"id": "b", "caption": "x"}, {"id": "d", "caption": "y"}, {"id": "c", "caption": "z"}]
    path = lines(tmp_path / "p.jsonl", *rows)
    annotations = [{"image_id": name, "caption": text} for name, text in (("b", "one"), ("a", "two"), ("b", "three"))]
    coco = tmp_path / "coco.json"
    coco.write_text(json.dumps({"images": [], "annotations": annotations}))
    references = read_references(coco)
    assert references == {"b": ["one", "three"], "a": ["two"]}
    assert read_references(lines(tmp_path / "r.jsonl", {"id": "a", "references": ["two"]})) == {"a": ["two"]}
    message = refusal(read_predictions, path, references)
    assert "2 clips are not among the references: c, d;" in message
    found = read_predictions(lines(path, *rows[:2]), references)
    assert [prediction.references for prediction in found] == [["a dog barks"], ["one", "three"]]


def test_bad_references_are_named(tmp_path):
    path = tmp_path / "coco.json"
    path.write_text(
        json.dumps({"annotations": [{"image_id": "a", "caption": "x"}, {"caption": "y"}, {"image_id": "b"}]})
    )
    message = refusal(read_references, path)
    assert (
        "2 of 3 annotations cannot be used: annotation 1 (no image_id), annotation 2 (a reference is a None" in message
    )
    path.write_text("[]")
    assert "line 1 (a list, expected an object)" in refusal(read_references, path)
    message = refusal(check_references, "data", {"a": ["x"], "b": [], "c": ["!"]})
    assert message.startswith("data: 2 clips cannot be scored: b (references are empty), c (a reference has no words")


def test_a_modality_is_named_in_all_lines_or_in_none(tmp_path):
    file = lines(tmp_path / "p.jsonl", GOOD, GOOD | {"id": "b", "modality": "audio"})
    assert "1 of 2 lines name no modality and the others do: a" in refusal(read_predictions, file)


def test_references_name_a_clip_once(tmp_path):
    file = lines(tmp_path / "r.jsonl", GOOD, GOOD | {"references": ["other words"]})
    assert "1 clips occur more than once: a" in refusal(read_references, file)
