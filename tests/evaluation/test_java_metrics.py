"""METEOR against pycocoevalcap's own run, SPICE and FENSE against stand-ins, and programs that misbehave."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lavcap.evaluation import fense, java_metrics
from lavcap.evaluation.external_program import MetricUnavailable, run_program
from lavcap.evaluation.java_metrics import pool_meteor, spice_scores
from lavcap.evaluation.metrics import measure_captions, measure_sets, score_captions, unavailable_metrics


FIXTURE = json.loads((Path(__file__).parents[1] / "golden" / "audiocaps_captions.json").read_text(encoding="utf-8"))
PREDICTIONS = [clip["captions"][0] for clip in FIXTURE["clips"]]
REFERENCES = [clip["captions"][1:] for clip in FIXTURE["clips"]]
ODD = {
    "empty": "",
    "separator": "a dog ||| barks",
    "line break": "a dog\nbarks\r\nloudly\u2028now",
    "emoji": "a dog 🐶 barks",
    "accents": "un chien aboie à côté d'une voiture",
    "half a surrogate": "a dog \ud83d barks",
    "long": " ".join(["a dog barks and"] * 75),
    "verbatim": "A dog barks at a car.",
}

java = pytest.mark.skipif(shutil.which("java") is None, reason="METEOR is a Java program, and java is not on PATH")


@pytest.fixture
def program(tmp_path, monkeypatch):
    """Put a shell script on PATH in the place of java."""

    def write(script: str):
        path = tmp_path / "bin" / "java"
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        monkeypatch.setenv("PATH", f"{path.parent}:/usr/bin:/bin")

    return write


@pytest.fixture
def no_java(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))


@java
@pytest.mark.slow
def test_meteor_equals_pycocoevalcap_and_copes_with_odd_captions() -> None:
    before = _files(java_metrics.JARS)
    captions, references = [*PREDICTIONS, *ODD.values()], [*REFERENCES, *[["A dog barks at a car."]] * len(ODD)]
    measured, skipped = measure_captions(captions, references, ["meteor"])
    assert skipped == {} and _files(java_metrics.JARS) == before
    counts, each = measured["meteor"].statistics.parts, measured["meteor"].each
    assert pool_meteor(counts[:60].sum(0, keepdims=True))[0] == pytest.approx(FIXTURE["expected_meteor"], abs=1e-6)
    odd = dict(zip(ODD, each[60:], strict=True))
    assert odd["empty"] == 0 and odd["verbatim"] == 1
    assert all(0 < value < 1 for name, value in odd.items() if name not in ("empty", "verbatim"))
    # Java's own scores, of each clip and of all of them, are those of our formula on the counts.
    *own, of_all = _java_meteor(counts)
    assert each == pytest.approx(own, abs=1e-12)
    assert measured["meteor"].value == pytest.approx(of_all, abs=1e-12)


def test_without_java_the_reason_is_given_and_no_score(no_java) -> None:
    reasons = unavailable_metrics()
    assert list(reasons) == ["meteor", "spice", "spider", "fense"]
    assert reasons["meteor"] == reasons["spice"] == "no Java on PATH" and "no spice" in reasons["spider"]
    with pytest.warns(UserWarning, match="meteor is left out: no Java on PATH"):
        assert score_captions(["a dog", "rain"], [["a dog"], ["rain"]], ["rouge_l", "meteor"]) == {"rouge_l": 1.0}


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("echo Error: could not create the Java Virtual Machine >&2; exit 1", "status 1: Error: could not create"),
        ("head -n 1 > /dev/null; echo 1.0 2.0; kill -9 $$", "METEOR ended with signal SIGKILL"),
        ("cat > /dev/null; exit 0", "METEOR gave 0 lines where 2 of 23 numbers"),
        ("cat > /dev/null; echo 1.0 2.0", "METEOR gave 1 lines where 2 of 23 numbers"),
        ("cat > /dev/null; echo Exception in thread main", "the last: 'Exception in thread main'"),
        (
            "cat > /dev/null; for clip in 1 2; do printf 'NaN %.0s' $(seq 23); echo; done",
            "not a finite number",
        ),
    ],
)
def test_a_java_that_fails_is_a_reason_and_never_a_score(program, script, reason) -> None:
    program(script)
    measured, skipped = measure_captions(["a dog", "rain"], [["a dog"], ["rain"]], ["rouge_l", "meteor"])
    assert list(measured) == ["rouge_l"] and reason in skipped["meteor"]


def test_a_program_that_hangs_is_ended_with_its_children(tmp_path) -> None:
    script = f"sleep 60 & echo $! > '{tmp_path}/child'; sleep 60"
    start = time.monotonic()
    with pytest.raises(MetricUnavailable, match="Sleeper gave no answer within 1 s"):
        run_program("Sleeper", ["/bin/sh", "-c", script], "", 1)
    assert time.monotonic() - start < 30
    state = subprocess.run(
        ["ps", "-o", "stat=", "-p", (tmp_path / "child").read_text()], capture_output=True, text=True
    )
    assert state.stdout.strip() in ("", "Z")  # gone, or waiting for init to take note


def test_a_program_is_started_once_for_several_sets_and_each_has_its_own_scores(program, tmp_path) -> None:
    # Each answer is what was asked: as many words as the caption has.
    (tmp_path / "meteor.py").write_text(
        "import sys\n"
        f"open({str(tmp_path / 'starts')!r}, 'a').write('x')\n"
        "for line in sys.stdin:\n"
        "    words = len(line.split('|||')[-1].split())\n"
        "    print(*[words, words, 0, 0, words, words, *[0] * 14, 1, words, words])\n"
    )
    program(f"exec {sys.executable} {tmp_path}/meteor.py")
    sets = [(["a dog", "rain"], [["a dog"], ["rain"]]), (["a dog barks"], [["a dog"]])]
    (first, _), (second, skipped) = measure_sets(sets, ["meteor", "cider_d"])
    assert (tmp_path / "starts").read_text() == "x"
    assert first["meteor"].statistics.parts[:, 0].tolist() == [2, 1] and len(first["meteor"].each) == 2
    assert second["meteor"].statistics.parts[:, 0].tolist() == [3]
    assert list(first) == ["cider_d", "meteor"] and list(second) == ["meteor"] and "one clip" in skipped["cider_d"]


def test_missing_models_of_spice_are_named_and_not_downloaded(program, monkeypatch, tmp_path) -> None:
    program("touch started")
    monkeypatch.setattr(java_metrics, "SPICE_JAR", _spice_folder(tmp_path, java_metrics.SPICE_MODELS[:1]))
    with pytest.raises(MetricUnavailable, match="3.6.0-models.jar is not in .*; fetch it .*get_stanford_models"):
        spice_scores(["a dog"], [["a dog"]])
    assert not Path("started").exists()


def test_scores_of_spice_reach_their_clips_and_make_spider(program, monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(java_metrics, "SPICE_JAR", _spice_folder(tmp_path, java_metrics.SPICE_MODELS))
    code = (
        "import json, sys; rows = json.load(open(sys.argv[4])); out = sys.argv[sys.argv.index('-out') + 1]; "
        "json.dump([{'image_id': r['image_id'], 'scores': {'All': {'f': len(r['test']) / 100}}} for r in rows[::-1]], "
        "open(out, 'w'))"
    )
    (tmp_path / "spice.py").write_text(code)
    program(
        f'[ "$1" = -version ] && echo \'openjdk version "8"\' >&2 || exec {sys.executable} {tmp_path}/spice.py "$@"'
    )
    measured, skipped = measure_captions(
        ["a dog", "", "rain falls"], [["a dog"], ["a bell"], ["rain"]], ["spider", "spice", "cider_d"]
    )
    assert skipped == {} and measured["spice"].each.tolist() == [0.05, 0, 0.1]
    assert measured["spider"].value == pytest.approx((measured["cider_d"].value + 0.05) / 2)
    assert measured["spider"].statistics.total() == pytest.approx(measured["spider"].value)


def test_a_spice_that_does_not_start_names_java_and_its_message(program, monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(java_metrics, "SPICE_JAR", _spice_folder(tmp_path, java_metrics.SPICE_MODELS))
    error = "java.lang.reflect.InaccessibleObjectException: Unable to make field"
    program(f"[ \"$1\" = -version ] && echo 'openjdk version \"17.0.1\"' >&2 || {{ echo '{error}' >&2; exit 1; }}")
    reason = unavailable_metrics(["spice"])["spice"]
    assert reason == f"SPICE under Java 17.0.1 ended with status 1: {error}"


@pytest.mark.slow
def test_fense_runs_where_its_models_are_and_stays_offline(monkeypatch, tmp_path) -> None:
    library = tmp_path / "aac_metrics" / "functional"
    library.mkdir(parents=True)
    (library.parent / "__init__.py").touch()
    (library / "__init__.py").touch()
    (library / "fense.py").write_text(
        "import os, torch\n"
        "def fense(candidates, references):\n"
        "    assert os.environ['HF_HUB_OFFLINE'] == '1'\n"
        "    return {}, {'fense': torch.tensor([len(text) / 8 for text in candidates])}\n"
    )
    monkeypatch.setenv("FENSE_DATA", str(tmp_path))
    monkeypatch.setattr(fense, "try_to_load_from_cache", lambda name, file: str(tmp_path))
    assert "aac-metrics is not installed" in unavailable_metrics(["fense"])["fense"]
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert f"{fense.CHECKER} is not in {tmp_path}" in unavailable_metrics(["fense"])["fense"]
    (tmp_path / fense.CHECKER).touch()
    assert unavailable_metrics(["fense"]) == {}
    assert score_captions(["rain", "a 🐶"], [["x"], ["y"]], ["fense"])["fense"] == pytest.approx((4 + 3) / 16)
    monkeypatch.setattr(fense, "try_to_load_from_cache", lambda name, file: None)
    assert "paraphrase-TinyBERT-L6-v2 is not in the Hub's cache" in unavailable_metrics(["fense"])["fense"]


def _java_meteor(counts) -> list[float]:
    """METEOR's own scores of each row of counts, and of all rows together."""
    asked = " ||| ".join(["EVAL", *(" ".join(map(str, row)) for row in counts.tolist())])
    command = ["java", "-Xmx2G", "-jar", str(java_metrics.METEOR_JAR), *["-", "-", "-stdio", "-l", "en", "-norm"]]
    done = subprocess.run(command, input=f"{asked}\n", capture_output=True, text=True, check=True, timeout=300)
    return [float(line) for line in done.stdout.split()]


def _spice_folder(folder: Path, models) -> Path:
    (folder / "lib").mkdir()
    for name in ("spice-1.0.jar", *(f"lib/{model}" for model in models)):
        (folder / name).touch()
    return folder / "spice-1.0.jar"


def _files(folder: Path) -> set[str]:
    return {str(path) for path in folder.rglob("*") if "__pycache__" not in path.parts and os.path.isfile(path)}
