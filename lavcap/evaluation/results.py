"""Results of an evaluation: scores with intervals of each set of captions, as tables to read and as `results.json`."""

import json
import platform
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from lavcap.arguments import listed
from lavcap.documents import read_json
from lavcap.evaluation.java_metrics import java_version
from lavcap.evaluation.metrics import Measurement, measure_sets
from lavcap.evaluation.names import METRICS, MODALITIES
from lavcap.evaluation.predictions import Prediction, by_modality, write_predictions
from lavcap.evaluation.significance import bootstrap_intervals, compare_paired
from lavcap.files import whole_folder


LIBRARIES = ("torch", "transformers", "pycocoevalcap", "av", "evaluate")
TEST_MARKS = {
    "selected_on_test": "WARNING: this checkpoint was chosen by its scores on the test split, so they are too good "
    "to be compared.",
    "trained_on_test_clips": "WARNING: this checkpoint was trained on clips of a test split, so its scores there are "
    "too good to be compared.",
}
PREDICTIONS = "predictions.jsonl"  # of an evaluation, beside its results
OF_THE_RUN = ("model", "revision", "weights", "data_dir", "split", "decoding", *TEST_MARKS)


def summarise(
    predictions: Sequence[Prediction],
    expected: Sequence[str],
    unavailable: Mapping[str, str],
    resamples: int = 0,
    metrics: Iterable[str] = METRICS,
) -> dict[str, dict[str, Any]]:
    """Results of each modality, in the order of the predictions.

    Args:
        expected: ids of the clips that there should be.
        unavailable: why metrics are left out, from [`lavcap.evaluation.metrics.unavailable_metrics`].
        resamples: sets drawn for the intervals; 0: no intervals.
        metrics: the metrics that are wanted.

    Returns:
        By modality: `metrics`, `intervals`, `skipped` (by metric), `expected`, `scored`, `missing` (numbers of clips),
        `scored_ids`, `missing_ids`.
    """
    usable = [name for name in metrics if name not in unavailable]
    sets = by_modality(predictions)
    captions = [([p.caption for p in chosen], [p.references for p in chosen]) for chosen in sets.values()]
    results = {}
    for (modality, chosen), (measured, skipped) in zip(sets.items(), measure_sets(captions, usable), strict=True):
        scores = _scores(measured, {**unavailable, **skipped}, resamples if len(chosen) > 1 else 0)
        results[modality] = scores | _clips(chosen, expected)
    return results


def _clips(chosen: Sequence[Prediction], expected: Sequence[str]) -> dict[str, Any]:
    scored = [prediction.id for prediction in chosen]
    known = set(scored)
    missing = [name for name in expected if name not in known]
    return {
        "expected": len(expected),
        "scored": len(scored),
        "missing": len(missing),
        "scored_ids": scored,
        "missing_ids": missing,
    }


def _scores(measured: Mapping[str, Measurement], skipped: Mapping[str, str], resamples: int) -> dict[str, Any]:
    statistics = _statistics(measured)
    intervals = bootstrap_intervals(statistics, resamples) if resamples else {}
    return {
        "metrics": {name: measurement.value for name, measurement in measured.items()},
        "intervals": {name: list(interval) for name, interval in intervals.items()},
        "skipped": {name: skipped[name] for name in METRICS if name in skipped},
    }


def with_main_set(run: dict[str, Any], table: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """All of `results.json`: facts of the run, results of the main modality, and those of every modality by name."""
    results = run | {"modality": main_modality(table)} | table[main_modality(table)]
    named = {modality: row for modality, row in table.items() if modality}
    return results | ({"modalities": named} if named else {})


def main_modality(modalities: Iterable[str]) -> str:
    names = list(modalities)
    return MODALITIES[0] if MODALITIES[0] in names else names[0]


def compare_sets(
    first: Sequence[Prediction],
    second: Sequence[Prediction],
    unavailable: Mapping[str, str],
    resamples: int,
    metrics: Iterable[str] = METRICS,
) -> dict[str, Any]:
    """Paired comparison of two sets of captions on the clips that both have.

    Raises:
        ValueError: no clip is in both, or the two have different references for a clip.
    """
    one, other = ({prediction.id: prediction for prediction in side} for side in (first, second))
    common = [name for name in one if name in other]
    if not common:
        raise ValueError("The two files have no clip in common; compare captions of the same clips.")
    if differing := [name for name in common if sorted(one[name].references) != sorted(other[name].references)]:
        raise ValueError(
            f"The two files have different references for {len(differing)} clips: {listed(differing)}; score both "
            "against the same ones, with --references."
        )
    usable = [name for name in metrics if name not in unavailable]
    references = [one[name].references for name in common]
    sides = [([side[name].caption for name in common], references) for side in (one, other)]
    (measured, skipped), (measured_other, skipped_other) = measure_sets(sides, usable)
    differences = compare_paired(_statistics(measured), _statistics(measured_other), resamples)
    skipped = dict(unavailable) | skipped | skipped_other
    return {
        "comparison": {
            name: {"first": measured[name].value, "second": measured_other[name].value} | difference
            for name, difference in differences.items()
        },
        "skipped": {name: skipped[name] for name in METRICS if name in skipped},
        "scored": len(common),
        "scored_ids": common,
        "only_in_first": [name for name in one if name not in other],
        "only_in_second": [name for name in other if name not in one],
    }


def _statistics(measured: dict) -> dict:
    return {name: measurement.statistics for name, measurement in measured.items()}


def library_versions(metrics: Iterable[str] = ()) -> dict[str, str]:
    """Versions of what computed the results; of Java if one of the metrics needed it."""
    versions = {"python": platform.python_version()} | {name: version(name) for name in LIBRARIES}
    return versions | ({"java": java_version()} if {"meteor", "spice"} & set(metrics) else {})


def describe_references(predictions: Iterable[Prediction], dataset_version: str) -> dict[str, Any]:
    """What the references are, and what can be seen of their version: those of AudioCaps v2 are all lower-case."""
    references = {prediction.id: prediction.references for prediction in predictions}
    captions = [caption for captions in references.values() for caption in captions]
    return {
        "version": dataset_version,
        "clips": len(references),
        "references": len(captions),
        "lower_case": all(caption == caption.lower() for caption in captions),
    }


# ---------------------------------------------------------------------------------------------------------- tables


def format_results(results: dict[str, Any]) -> str:
    """`results.md`: title, warnings, scores with intervals, what was skipped, and what was scored against what."""
    table = results.get("modalities") or {"": results}
    parts = [format_title(table.values())]
    parts += [warning for mark, warning in TEST_MARKS.items() if results.get(mark)]
    parts += [format_table(table), _interval_table(table)] if len(table) > 1 else [_score_table(*table.values())]
    skipped = {name: reason for row in table.values() for name, reason in row["skipped"].items()}
    parts += [*_skipped_section(skipped), _reference_line(results["dataset"])]
    return "\n\n".join(parts) + "\n"


def format_title(rows: Iterable[dict[str, Any]]) -> str:
    """`# Scores on 944 clips`, or `# Scores on a PARTIAL set: …` if clips are missing from any of the rows."""
    rows = list(rows)
    fewest = min(rows, key=lambda row: row["scored"] - row["expected"])
    if fewest["missing"]:
        return f"# Scores on a PARTIAL set: {fewest['scored']} of {fewest['expected']} clips"
    return f"# Scores on {fewest['scored']} clips"


def format_table(table: dict[str, Any]) -> str:
    """Markdown table of the metrics by modality; a metric that every row skips has no column."""
    names = [name for name in METRICS if any(name in row["metrics"] for row in table.values())]
    lines = ["| modality | clips | " + " | ".join(names) + " |", "|---|---|" + "---|" * len(names)]
    for modality, row in table.items():
        partial = f" of {row['expected']} (partial)" if row["missing"] else ""
        scores = [f"{row['metrics'][name]:.4f}" if name in row["metrics"] else "skipped" for name in names]
        lines.append(f"| {modality} | {row['scored']}{partial} | " + " | ".join(scores) + " |")
    return "\n".join(lines)


def _interval_table(table: dict[str, Any]) -> str:
    """95 % intervals, a row for each metric and a column for each modality."""
    names = [name for name in METRICS if any(name in row["intervals"] for row in table.values())]
    lines = ["| 95 % interval | " + " | ".join(table) + " |", "|---|" + "---|" * len(table)]
    for name in names:
        cells = [_format_interval(row["intervals"].get(name)) for row in table.values()]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines) if names else "No intervals were asked for."


def _score_table(row: dict[str, Any]) -> str:
    lines = ["| metric | score | 95 % interval |", "|---|---|---|"]
    for name, value in row["metrics"].items():
        lines.append(f"| {name} | {value:.4f} | {_format_interval(row['intervals'].get(name))} |")
    return "\n".join(lines + [f"| {name} | skipped | none |" for name in row["skipped"]])


def format_comparison(results: dict[str, Any]) -> str:
    """`results.md` of a comparison."""
    apart = len(results["only_in_first"]) + len(results["only_in_second"])
    absent = len(results.get("missing_ids", ()))
    reasons = [f"{apart} clips are in one file only"] if apart else []
    reasons += [f"{absent} clips of the references are in neither"] if absent else []
    partial = f", a PARTIAL set: {', '.join(reasons)}" if reasons else ""
    lines = [
        f"# Paired comparison on {results['scored']} clips{partial}",
        "",
        f"First: {results['predictions']}. Second: {results['compare']}.",
        "",
        "| metric | first | second | first - second | 95 % interval | p |",
        "|---|---|---|---|---|---|",
    ]
    for name, row in results["comparison"].items():
        p = f"{row['p']:.4f}" if "p" in row else "none"
        interval = _format_interval(row.get("interval"), sign="+")
        values = f"{row['first']:.4f} | {row['second']:.4f} | {row['difference']:+.4f}"
        lines.append(f"| {name} | {values} | {interval} | {p} |")
    parts = ["\n".join(lines), *_skipped_section(results["skipped"]), _reference_line(results["dataset"])]
    return "\n\n".join(parts) + "\n"


def format_preflight(unavailable: Mapping[str, str], metrics: Iterable[str] = METRICS) -> str:
    """One line per metric that is skipped, after one with those that will be computed."""
    computed = [name for name in metrics if name not in unavailable]
    return "\n".join([f"Metrics: {', '.join(computed)}", *_skipped_lines(unavailable)])


def _skipped_section(skipped: Mapping[str, str]) -> list[str]:
    return ["\n".join(f"- {line}" for line in _skipped_lines(skipped))] if skipped else []


def _skipped_lines(skipped: Mapping[str, str]) -> list[str]:
    return [f"{name}: skipped: {reason}" for name, reason in skipped.items()]


def _format_interval(interval: Sequence[float] | None, sign: str = "") -> str:
    return f"{interval[0]:{sign}.4f} to {interval[1]:{sign}.4f}" if interval else "none"


def _reference_line(dataset: dict[str, Any]) -> str:
    case = "all lower-case, as those of AudioCaps v2 are" if dataset["lower_case"] else "with capitals"
    return (
        f"Scored against {dataset['references']} references of {dataset['clips']} clips, {case}; version: "
        f"{dataset['version']}."
    )


# ----------------------------------------------------------------------------------------------------------- files


def results_beside(predictions: str | Path) -> dict[str, Any]:
    """What the `results.json` beside a file of captions that we wrote says of their origin; else nothing.

    Returns:
        The fields of `OF_THE_RUN`, `expected_ids` and `dataset_version`, as far as they are known.
    """
    path = Path(predictions).with_name("results.json")
    if Path(predictions).name != PREDICTIONS or not path.is_file():
        return {}
    results = read_json(path, "move it away, or the captions")
    try:
        known = {name: results[name] for name in OF_THE_RUN if results.get(name) is not None}
        version = results["dataset"]["version"]
        return known | {"expected_ids": [*results["scored_ids"], *results["missing_ids"]], "dataset_version": version}
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path}: not results of an evaluation ({type(error).__name__}: {error}); move it away, or the captions."
        ) from error


def write_results(
    output: str | Path, results: dict[str, Any], text: str, predictions: Mapping[str, Sequence[Prediction]]
):
    """Write `results.json`, `results.md` and files of captions into a new folder, all or none.

    Args:
        predictions: by the names of their files; one without any is not written.
    """
    with whole_folder(output) as folder:
        for name, captions in predictions.items():
            if captions:
                write_predictions(folder / name, captions)
        (folder / "results.md").write_text(text, encoding="utf-8")
        content = json.dumps(results, indent=2, ensure_ascii=False, allow_nan=False)
        (folder / "results.json").write_text(content + "\n", encoding="utf-8")
