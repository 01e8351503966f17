"""METEOR and SPICE: the Java programs that pycocoevalcap ships, run without its wrappers.

pycocoevalcap's wrappers write into their own folder, download half a gigabyte when a file is missing, and wait for
ever for a Java that died. Here the same programs get the same input through [`run_program`].
"""

import json
import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from lavcap.evaluation.external_program import MetricUnavailable, run_program


JARS = Path(find_spec("pycocoevalcap").submodule_search_locations[0])
METEOR_JAR = JARS / "meteor" / "meteor-1.5.jar"
SPICE_JAR = JARS / "spice" / "spice-1.0.jar"
SPICE_MODELS = ("stanford-corenlp-3.6.0.jar", "stanford-corenlp-3.6.0-models.jar")

# Seconds until a program is given up. METEOR takes about 8 to read its paraphrases, and 0.003 for a clip.
START_LIMIT = 300
CLIP_LIMIT = 2

# METEOR's statistics of a clip, and its parameters for English: Denkowski and Lavie, WMT 2014, and the table in its
# README. Its stages are exact, stem, synonym, paraphrase.
STAGES = slice(4, 20)  # of each stage: content words of test, of reference, function words of test, of reference
CHUNKS, TEST_MATCHES, REFERENCE_MATCHES = 20, 21, 22
METEOR_STATISTICS = 23
ALPHA, BETA, GAMMA, DELTA = 0.85, 0.2, 0.6, 0.75
STAGE_WEIGHTS = np.array([1.0, 0.6, 0.8, 0.6])


def java_version() -> str:
    """Version of the Java on PATH.

    Raises:
        MetricUnavailable: there is none, or it does not run.
    """
    # It answers on standard error, and only newer ones know --version.
    command = [_find_java(), "-version"]
    try:
        process = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise MetricUnavailable(f"java -version does not run: {error}") from error
    version = re.search(r'version "([^"]+)"', process.stderr + process.stdout)
    if process.returncode or not version:
        said = (process.stderr or process.stdout).strip().partition("\n")[0] or "nothing"
        raise MetricUnavailable(f"java -version ended with status {process.returncode} and said: {said}")
    return version.group(1)


def _find_java() -> str:
    if (java := shutil.which("java")) is None:
        raise MetricUnavailable("no Java on PATH")
    return java


# ---------------------------------------------------------------------------------------------------------- METEOR


def check_meteor():
    """Run METEOR on one clip.

    Raises:
        MetricUnavailable: with the reason why it cannot be computed.
    """
    score = pool_meteor(meteor_statistics(["a dog barks"], [["a dog is barking"]]))[0]
    if not 0 < score < 1:
        raise MetricUnavailable(f"METEOR gives {score} where it should give a value between 0 and 1")


def meteor_statistics(hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> np.ndarray:
    """What METEOR counts in each clip: `(clips, METEOR_STATISTICS)`.

    The chunks of a caption that is its reference word by word are set to 0, as METEOR does when it adds clips up, so
    that these rows can simply be added.

    Args:
        hypotheses, references: tokens joined by single spaces, hence without line breaks and without `|||`.

    Raises:
        MetricUnavailable: METEOR does not run, or leaves out a clip.
    """
    clips = zip(references, hypotheses, strict=True)
    answers = _ask_meteor([" ||| ".join(("SCORE", *captions, caption)) for captions, caption in clips])
    statistics = _as_numbers(answers, len(hypotheses), METEOR_STATISTICS)
    test, reference = (statistics[:, STAGES][:, side::2].sum(1) for side in (0, 1))
    whole = (test == statistics[:, 0]) & (reference == statistics[:, 1]) & (statistics[:, CHUNKS] == 1)
    statistics[whole, CHUNKS] = 0
    return statistics


def pool_meteor(sums: np.ndarray) -> np.ndarray:
    """METEOR of added-up statistics, `(samples, METEOR_STATISTICS)`, which is the formula of its `EVAL`: `(samples,)`.

    A harmonic mean of weighted precision and recall, less a penalty for words that match in many chunks.
    """
    lengths, functions = sums[:, 0:2], sums[:, 2:4]
    stages = sums[:, STAGES].reshape(len(sums), len(STAGE_WEIGHTS), 2, 2)  # (samples, stages, content or not, side)
    matches = np.einsum("nskd,s,k->nd", stages, STAGE_WEIGHTS, [DELTA, 1 - DELTA])
    weighted = DELTA * (lengths - functions) + (1 - DELTA) * functions
    with np.errstate(divide="ignore", invalid="ignore"):
        precision, recall = (matches / weighted).T
        mean = 1 / ((1 - ALPHA) / precision + ALPHA / recall)
        fragments = sums[:, CHUNKS] / (sums[:, TEST_MATCHES : REFERENCE_MATCHES + 1].sum(1) / 2)
        score = mean * (1 - GAMMA * fragments**BETA)
    # Where nothing matches METEOR is 0 by definition; the division gives no number.
    return np.where(np.isfinite(score), np.maximum(score, 0), 0.0)


def _ask_meteor(lines: list[str]) -> list[str]:
    if not METEOR_JAR.is_file():
        raise MetricUnavailable(f"{METEOR_JAR.name} is not in {METEOR_JAR.parent}; install pycocoevalcap again")
    command = [_find_java(), "-Xmx2G", "-Dfile.encoding=UTF-8", "-jar", str(METEOR_JAR)]
    command += ["-", "-", "-stdio", "-l", "en", "-norm"]
    return run_program("METEOR", command, "\n".join(lines) + "\n", START_LIMIT + CLIP_LIMIT * len(lines)).splitlines()


def _as_numbers(answers: list[str], rows: int, columns: int) -> np.ndarray:
    try:
        numbers = np.array([[float(number) for number in answer.split()] for answer in answers if answer.strip()])
        numbers = numbers.reshape(rows, columns)
    except ValueError:
        said = answers[-1][:100] if answers else ""
        raise MetricUnavailable(
            f"METEOR gave {len(answers)} lines where {rows} of {columns} numbers were expected, the last: {said!r}"
        ) from None
    if not np.isfinite(numbers).all():
        raise MetricUnavailable("METEOR gave something that is not a finite number")
    return numbers


# ----------------------------------------------------------------------------------------------------------- SPICE


def check_spice():
    """Look for the files of SPICE and run it on one clip; nothing is downloaded.

    Raises:
        MetricUnavailable: with the reason why it cannot be computed.
    """
    spice_scores(["a dog barks"], [["a dog is barking"]])


def spice_scores(hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> np.ndarray:
    """SPICE of each clip, `(clips,)`: F-measure of propositions; their mean is that of the set.

    A caption without words states nothing, so it shares no proposition with any reference: 0, without asking.

    Raises:
        MetricUnavailable: SPICE does not run, or leaves out a clip.
    """
    java = _find_java()
    _check_spice_files()
    entries = [
        {"image_id": clip, "test": caption, "refs": list(captions)}
        for clip, (caption, captions) in enumerate(zip(hypotheses, references, strict=True))
        if caption
    ]
    scores = np.zeros(len(hypotheses))
    if entries:
        for clip, score in _run_spice(java, entries).items():
            scores[clip] = score
    return scores


def _check_spice_files():
    library = SPICE_JAR.parent / "lib"
    for file in (SPICE_JAR, *(library / name for name in SPICE_MODELS)):
        if not file.is_file():
            raise MetricUnavailable(
                f"{file.name} is not in {file.parent}; fetch it (about 0.4 GB) with: "
                "python -m pycocoevalcap.spice.get_stanford_models"
            )


def _run_spice(java: str, entries: list[dict]) -> dict[int, float]:
    with tempfile.TemporaryDirectory(prefix="spice-") as folder:
        given, result, cache = (Path(folder) / name for name in ("in.json", "out.json", "cache"))
        given.write_text(json.dumps(entries), encoding="utf-8")
        cache.mkdir()
        command = [java, "-Xmx8G", "-jar", str(SPICE_JAR), str(given), "-cache", str(cache), "-out", str(result)]
        command += ["-subset", "-silent"]
        limit = START_LIMIT + CLIP_LIMIT * len(entries)
        run_program(_spice_name(), command, "", limit, folder=folder)
        return _read_spice(result, {entry["image_id"] for entry in entries})


def _spice_name() -> str:
    return f"SPICE under Java {java_version()}"


def _read_spice(result: Path, clips: set[int]) -> dict[int, float]:
    try:
        answers = json.loads(result.read_text(encoding="utf-8"))
        scores = {answer["image_id"]: float(answer["scores"]["All"]["f"]) for answer in answers}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise MetricUnavailable(f"SPICE wrote no readable result ({type(error).__name__}: {error})") from error
    if scores.keys() != clips or not np.isfinite(list(scores.values())).all():
        raise MetricUnavailable(f"SPICE gave {len(scores)} scores for {len(clips)} clips, or one that is no number")
    return scores
