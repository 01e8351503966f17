"""Tests of the caption metrics against pycocoevalcap run with its own Java tokenizer."""

from __future__ import annotations

import json
import os
import shutil
import warnings
from pathlib import Path

import pycocoevalcap.tokenizer.ptbtokenizer as java
import pytest

from lavcap.evaluation.metrics import score_captions, score_each_caption
from lavcap.evaluation.tokenization import tokenize_caption


FIXTURE = json.loads((Path(__file__).parents[1] / "golden" / "audiocaps_captions.json").read_text(encoding="utf-8"))
GOLDEN = [(entry["caption"], entry["tokens"]) for entry in FIXTURE["golden_tokens"]]
PREDICTIONS = [clip["captions"][0] for clip in FIXTURE["clips"]]
REFERENCES = [clip["captions"][1:] for clip in FIXTURE["clips"]]
METRICS = ["bleu_1", "bleu_2", "bleu_3", "bleu_4", "rouge_l", "cider_d"]


@pytest.mark.parametrize(("caption", "tokens"), GOLDEN, ids=[caption[:40] or "empty" for caption, _ in GOLDEN])
def test_tokens_equal_stored_java_tokens(caption: str, tokens: list[str]) -> None:
    assert tokenize_caption(caption) == tokens


@pytest.mark.skipif(shutil.which("java") is None, reason="compares with a Java program, and java is not on PATH")
@pytest.mark.skipif(
    not os.access(Path(java.__file__).parent, os.W_OK),
    reason="pycocoevalcap's tokenizer writes a file beside itself, and its folder is read-only",
)
def test_tokens_equal_those_of_the_java_tokenizer() -> None:
    captions = [caption for clip in FIXTURE["clips"] for caption in clip["captions"]]
    captions += [caption for caption, _ in GOLDEN]
    expected = java.PTBTokenizer().tokenize({clip: [{"caption": text}] for clip, text in enumerate(captions)})
    different = [text for clip, text in enumerate(captions) if " ".join(tokenize_caption(text)) != expected[clip][0]]
    assert len(expected) == len(captions) > 300
    assert different == []


@pytest.mark.parametrize(
    ("caption", "tokens"),
    [
        ("A high\u2011pitched beep", ["a", "high-pitched", "beep"]),
        ("A high\u2010pitched beep", ["a", "high-pitched", "beep"]),
        ("9\u00a01/2 beeps", ["9", "1/2", "beeps"]),
        ("Plays in C. The end", ["plays", "in", "c.", "the", "end"]),
    ],
)
def test_documented_differences_from_java_hold(caption: str, tokens: list[str]) -> None:
    assert tokenize_caption(caption) == tokens


def test_tokens_hold_no_white_space_and_no_capitals() -> None:
    odd = "A\u00a0B\tC\nD \u2003E\u200bF (G) [H] “I” ’s — … ½ İ \u0301 \ud83d 🐶\ufe0f \x00"
    tokens = tokenize_caption(odd)
    assert {"a", "b", "c", "d", "e", "f", "g", "h", "i"} <= set(tokens)
    assert all(token.split() == [token] and token == token.lower() for token in tokens)


def test_line_breaks_count_as_spaces() -> None:
    assert tokenize_caption("A dog\nbarks\r\nloudly") == ["a", "dog", "barks", "loudly"]


def test_scores_equal_pycocoevalcap_with_java_tokens() -> None:
    assert score_captions(PREDICTIONS, REFERENCES) == pytest.approx(FIXTURE["expected"], abs=1e-9)


def test_copied_reference_scores_best_and_foreign_caption_zero() -> None:
    references = [["a dog barks at a car"], ["rain falls on the roof"]]
    best = score_captions(["A dog barks at a car.", "Rain falls on the roof!"], references)
    assert best == pytest.approx({**dict.fromkeys(METRICS, 1.0), "cider_d": 10.0}, abs=1e-6)
    worst = score_captions(["xylophone plays tunes quickly now", "people laugh while bells ring"], references)
    assert worst == pytest.approx(dict.fromkeys(METRICS, 0.0), abs=1e-3)


def test_number_of_references_may_differ_between_clips() -> None:
    references = [["a dog barks at a car", "dog"], ["rain falls on the roof"]]
    assert score_captions(["a dog barks at a car", "rain falls on the roof"], references)["rouge_l"] == 1.0


def test_clip_scores_average_to_the_scores_of_the_set() -> None:
    overall = score_captions(PREDICTIONS, REFERENCES)
    each = score_each_caption(PREDICTIONS, REFERENCES)
    assert len(each) == len(PREDICTIONS)
    for name in ("rouge_l", "cider_d"):
        assert sum(clip[name] for clip in each) / len(each) == pytest.approx(overall[name], abs=1e-9)


def test_clip_scores_keep_the_order_of_the_clips() -> None:
    each = score_each_caption(["a dog barks", "a bell"], [["rain falls"], ["a bell"]])
    assert [clip["rouge_l"] for clip in each] == [0.0, 1.0]
    assert [list(clip) for clip in each] == [METRICS, METRICS]


@pytest.mark.parametrize("empty", ["", "   ", "..."])
def test_empty_prediction_scores_zero_for_its_clip_only(empty: str) -> None:
    each = score_each_caption([empty, "rain falls on the roof"], [["a dog barks"], ["rain falls on the roof"]])
    assert each[0] == dict.fromkeys(METRICS, 0.0)
    assert each[1]["cider_d"] == pytest.approx(10.0)


def test_only_empty_predictions_score_zero() -> None:
    assert score_captions(["", ""], [["a dog barks"], ["rain"]]) == dict.fromkeys(METRICS, 0.0)


def test_scores_are_plain_floats() -> None:
    scores = [score_captions(PREDICTIONS, REFERENCES), *score_each_caption(PREDICTIONS, REFERENCES)]
    assert {type(value) for clip in scores for value in clip.values()} == {float}


def test_scoring_is_silent_and_needs_no_java(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        score_captions(PREDICTIONS, REFERENCES)
    assert capfd.readouterr() == ("", "")


def test_cider_d_of_a_single_clip_is_left_out_with_a_warning() -> None:
    with pytest.warns(UserWarning, match="cider_d is left out: there is only one clip") as caught:
        scores = score_captions(["a dog barks"], [["a dog barks", "dog"]])
    assert list(scores) == METRICS[:-1]
    assert caught[0].filename == __file__


def test_cider_d_of_clips_with_equal_references_is_left_out_with_a_warning() -> None:
    with pytest.warns(UserWarning, match="all clips have the same references"):
        each = score_each_caption(["a dog barks", "a dog"], [["a dog barks"], ["A dog barks."]])
    assert [list(clip) for clip in each] == [METRICS[:-1]] * 2


@pytest.mark.parametrize("score", [score_captions, score_each_caption])
@pytest.mark.parametrize(
    ("predictions", "references", "message"),
    [
        (["a", "b"], [["a"]], "got 2 predictions and references for 1 clips"),
        ([], [], "got no clips, expected at least one"),
        (["a", "b"], [["a"], []], "clip 1 has no references"),
        (["a", "b"], [["a"], "a dog"], "references of clip 1 are a str, expected a list"),
        (["a", "b"], [["a"], None], "references of clip 1 are a NoneType, expected a list"),
        (["a", "b"], [["a"], [["b"]]], "a reference of clip 1 is a list, expected a string"),
        (["a", "b"], [["a"], ["b", "..."]], "reference 1 of clip 1 has no words"),
        (["a", None], [["a"], ["b"]], "prediction for clip 1 is a NoneType, expected one string"),
        ("ab", [["a"], ["b"]], "predictions is one string, expected a list"),
    ],
)
def test_bad_input_is_named_in_one_line(score, predictions, references, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        score(predictions, references)
    assert "\n" not in str(error.value)
    assert ": " in str(error.value), "the message must end with what to do"
