"""scripts/evaluate.py on captions that are there already, and the metrics as a module of `evaluate`."""

import json
import sys

import evaluate
import pytest

from conftest import ROOT
from lavcap.commands.evaluate import main as evaluate_main
from lavcap.evaluation.metrics import score_captions


CLIPS = json.loads((ROOT / "tests" / "golden" / "audiocaps_captions.json").read_text(encoding="utf-8"))["clips"]
ROWS = [{"id": clip["id"], "caption": clip["captions"][0], "references": clip["captions"][1:]} for clip in CLIPS]
REFERENCES = [row["references"] for row in ROWS]


@pytest.fixture
def evaluate_script(monkeypatch, tmp_path, capsys):
    """Run the script without Java: status, standard output, standard error."""
    monkeypatch.setenv("PATH", str(tmp_path))

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["evaluate.py", *map(str, arguments)])
        try:
            status = evaluate_main()
        except SystemExit as stopped:
            status = stopped.code
        return status, *capsys.readouterr()

    return run


def write(path, rows):
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_captions_are_scored_without_a_model(evaluate_script, tmp_path):
    file, output = write(tmp_path / "my files ü" / "p.jsonl", ROWS), tmp_path / "out put ü"
    status, printed, errors = evaluate_script("--predictions", file, "--output", output, "--dataset_version", "v1")
    assert (status, errors) == (0, "")
    assert "meteor: skipped: no Java on PATH" in printed and "# Scores on 60 clips" in printed
    results = json.loads((output / "results.json").read_text(encoding="utf-8"))
    assert results["metrics"] == score_captions([row["caption"] for row in ROWS], REFERENCES)
    assert results["intervals"].keys() == results["metrics"].keys() and "java" not in results["libraries"]
    assert results["dataset"] == {"version": "v1", "clips": 60, "references": 240, "lower_case": False}
    assert (output / "results.md").read_text(encoding="utf-8") in printed
    # What was written can be scored again, with the same numbers.
    again = evaluate_script("--predictions", output / "predictions.jsonl", "--output", tmp_path / "again")
    assert again[0] == 0
    assert json.loads((tmp_path / "again" / "results.json").read_text())["intervals"] == results["intervals"]
    assert evaluate_script("--predictions", file, "--output", output)[0] == 2


def test_known_clips_without_captions_make_the_set_partial(evaluate_script, tmp_path):
    coco = {"annotations": [{"image_id": clip["id"], "caption": text} for clip in CLIPS for text in clip["captions"]]}
    (tmp_path / "coco.json").write_text(json.dumps(coco))
    bare = [{"id": row["id"], "caption": row["caption"]} for row in ROWS[:50]]
    options = ("--references", tmp_path / "coco.json", "--bootstrap", 0)
    status, printed, errors = evaluate_script(
        "--predictions", write(tmp_path / "p.jsonl", bare), *options, "--output", tmp_path / "out"
    )
    assert (status, errors) == (0, "") and "# Scores on a PARTIAL set: 50 of 60 clips" in printed
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["missing_ids"] == [row["id"] for row in ROWS[50:]] and results["intervals"] == {}
    assert results["metrics"]["bleu_4"] == pytest.approx(1)
    file = write(tmp_path / "q.jsonl", [*bare, {"id": "stranger", "caption": "x"}])
    status, _, errors = evaluate_script("--predictions", file, *options, "--output", tmp_path / "none")
    assert status == 2 and "1 clips are not among the references: stranger;" in errors
    status, _, errors = evaluate_script(
        "--predictions", write(tmp_path / "r.jsonl", ROWS), *options, "--output", tmp_path / "own"
    )
    assert status == 0 and "60 of 60 captions have other references" in errors


def test_several_modalities_are_scored_apart_and_compared(evaluate_script, tmp_path):
    rows = [row | {"modality": "audio", "caption": CLIPS[index - 1]["captions"][0]} for index, row in enumerate(ROWS)]
    file = write(tmp_path / "p.jsonl", [*rows, *(row | {"modality": "audio+video"} for row in ROWS)])
    assert evaluate_script("--predictions", file, "--output", tmp_path / "out", "--bootstrap", 100)[0] == 0
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert list(results["modalities"]) == ["audio", "audio+video"]
    assert results["metrics"]["cider_d"] > results["modalities"]["audio"]["metrics"]["cider_d"]
    compare = ("--predictions", file, "--compare", file, "--modalities", "audio+video", "audio", "--bootstrap", 100)
    status, printed, _ = evaluate_script(*compare, "--output", tmp_path / "compared")
    assert status == 0 and "# Paired comparison on 60 clips\n" in printed
    row = json.loads((tmp_path / "compared" / "results.json").read_text())["comparison"]["cider_d"]
    assert row["difference"] > 0 and row["interval"][0] > 0 and row["p"] == pytest.approx(1 / 101)


def test_empty_captions_are_scored_and_named(evaluate_script, tmp_path):
    rows = [row | {"caption": "" if index < 25 else row["caption"]} for index, row in enumerate(ROWS)]
    options = ("--predictions", write(tmp_path / "p.jsonl", rows), "--output", tmp_path / "out")
    status, _, errors = evaluate_script(*options)
    assert (
        status == 0 and "warning: 25 of 60 captions have no words and score 0: " in errors and "and 5 more" in errors
    )


@pytest.mark.parametrize(
    ("rows", "skipped"),
    [(ROWS[:1], "there is only one clip"), ([row | {"references": ["a dog"]} for row in ROWS], "the same references")],
)
def test_undefined_metrics_are_absent_and_explained(evaluate_script, tmp_path, rows, skipped):
    options = ("--predictions", write(tmp_path / "p.jsonl", rows), "--output", tmp_path / "out")
    assert evaluate_script(*options)[0] == 0
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert "cider_d" not in results["metrics"] and skipped in results["skipped"]["cider_d"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--predictions", "nowhere.jsonl"), "nowhere.jsonl: No such file or directory; name a file of captions"),
        (("--predictions", "bad"), "1 of 1 lines cannot be used: line 1 (not JSON"),
        (("--predictions", "good", "--compare", "stranger"), "no clip in common"),
        (("--predictions", "good", "--data_dir", "x"), "--data_dir would do nothing with --predictions"),
        (("--predictions", "good", "--modalities", "audio"), "has no captions from audio; it has ''"),
        (("--predictions", "good", "--metrics", "meteor"), "--metrics meteor: cannot be computed here"),
        (("--predictions", "good", "--bootstrap", "-1"), "expected a whole number of at least 0"),
        (("--model", "x"), "--model needs --data_dir"),
        ((), "one of the arguments --model --predictions is required"),
    ],
)
def test_mistakes_end_in_one_line_and_status_2(evaluate_script, tmp_path, options, message):
    files = {
        "good": write(tmp_path / "good.jsonl", ROWS),
        "bad": tmp_path / "bad.jsonl",
        "stranger": write(tmp_path / "stranger.jsonl", [ROWS[0] | {"id": "x"}]),
    }
    files["bad"].write_text("a dog barks\n")
    status, _, errors = evaluate_script(*(files.get(option, option) for option in options), "--output", tmp_path / "o")
    assert status == 2 and errors.count("error: ") == 1 and message in errors and "Traceback" not in errors
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize(
    "path", ["lavcap/evaluation/caption_metrics.py", str(ROOT / "lavcap" / "evaluation" / "caption_metrics.py")]
)
def test_evaluate_loads_the_metrics_and_gives_the_same_numbers(path, monkeypatch, tmp_path):
    monkeypatch.chdir(ROOT)
    metric = evaluate.load(path, cache_dir=str(tmp_path))
    captions = [row["caption"] for row in ROWS]
    expected = score_captions(captions, REFERENCES)
    assert metric.compute(predictions=captions, references=REFERENCES) == expected
    for caption, references in zip(captions, REFERENCES, strict=True):
        metric.add(prediction=caption, references=references)
    assert metric.compute(metrics=["rouge_l"]) == {"rouge_l": expected["rouge_l"]}


def test_what_a_result_says_of_its_captions_is_not_lost_by_scoring_them_again(evaluate_script, tmp_path):
    file = write(tmp_path / "first" / "predictions.jsonl", ROWS[:40])
    known = {"model": "my_model", "decoding": {"num_beams": 4}, "selected_on_test": True, "dataset": {"version": "v1"}}
    known |= {"scored_ids": [row["id"] for row in ROWS[:40]], "missing_ids": [row["id"] for row in ROWS[40:]]}
    (file.parent / "results.json").write_text(json.dumps(known))
    status, printed, _ = evaluate_script("--predictions", file, "--output", tmp_path / "out", "--bootstrap", 0)
    assert status == 0 and "# Scores on a PARTIAL set: 40 of 60 clips" in printed and "chosen by its scores" in printed
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["model"] == "my_model" and results["selected_on_test"] and results["dataset"]["version"] == "v1"
    assert results["decoding"] == {"num_beams": 4} and len(results["missing_ids"]) == 20


@pytest.mark.parametrize("content", ["{", "{}", "[]", '{"dataset": null}'])
def test_an_edited_result_beside_the_captions_ends_in_one_line(evaluate_script, tmp_path, content):
    file = write(tmp_path / "first" / "predictions.jsonl", ROWS[:2])
    (file.parent / "results.json").write_text(content)
    status, _, errors = evaluate_script("--predictions", file, "--output", tmp_path / "out")
    assert status == 2 and errors.startswith(f"error: {file.parent / 'results.json'}: ") and errors.count("\n") == 1


def test_the_order_of_references_does_not_matter_and_a_given_list_counts_for_both(evaluate_script, tmp_path):
    first = write(tmp_path / "a.jsonl", ROWS[:50])
    second = write(tmp_path / "b.jsonl", [row | {"references": row["references"][::-1]} for row in ROWS[:50]])
    compare = ("--predictions", first, "--compare", second, "--bootstrap", 100)
    status, printed, _ = evaluate_script(*compare, "--output", tmp_path / "one")
    assert status == 0 and "# Paired comparison on 50 clips\n" in printed
    other = write(tmp_path / "c.jsonl", [row | {"references": ["something else"]} for row in ROWS[:50]])
    assert evaluate_script("--predictions", first, "--compare", other, "--output", tmp_path / "two")[0] == 2
    references = write(
        tmp_path / "references.jsonl", [{"id": row["id"], "references": row["references"]} for row in ROWS]
    )
    compare = ("--predictions", first, "--compare", other, "--references", references, "--bootstrap", 100)
    status, printed, _ = evaluate_script(*compare, "--output", tmp_path / "three")
    assert status == 0 and "a PARTIAL set: 10 clips of the references are in neither" in printed


def test_an_interval_needs_clips_and_resamples(evaluate_script, tmp_path):
    lone = write(tmp_path / "p.jsonl", ROWS[:1])
    assert evaluate_script("--predictions", lone, "--output", tmp_path / "out")[0] == 0
    assert json.loads((tmp_path / "out" / "results.json").read_text())["intervals"] == {}
    status, _, errors = evaluate_script("--predictions", lone, "--output", tmp_path / "no", "--bootstrap", 5)
    assert status == 2 and "got 5, expected 0 or at least 100" in errors
