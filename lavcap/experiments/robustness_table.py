"""How robust captioners are, as tables to read."""

from collections.abc import Iterable, Sequence
from typing import Any

from lavcap.endings import printable
from lavcap.evaluation.results import TEST_MARKS, format_title
from lavcap.experiments.disturbances import DISTURBANCES, UNDISTURBED
from lavcap.toy.accuracy import word_columns


WORDS = {"colour": "colours", "shape": "shapes", "sound": "sounds", "background": "background"}


def format_robustness(results: dict[str, Any]) -> str:
    """`results.md`: shares of right words of every model under every disturbance, and how they differ."""
    headings, models = word_columns(results["world"]), results["models"]
    title = format_title([results | {"missing": results["expected"] - results["scored"]}])
    title = title.replace("# Scores", "# Robustness", 1)
    marks = [f"{_label(model)}: {text}" for model in models for mark, text in TEST_MARKS.items() if model.get(mark)]
    parts = [title, *marks, _introduction(results), _shares_section(results, headings)]
    parts += [_differences_section(results, headings)] if _names(models) != [UNDISTURBED.name] else []
    parts += (
        [_whose_section(models)] if any("whose" in row for model in models for row in model["rows"].values()) else []
    )
    skipped = [
        f"- {name}: not measured for {_label(model)}: {reason}"
        for model in models
        for name, reason in model["skipped"].items()
    ]
    return "\n\n".join([*parts, *(["\n".join(skipped)] if skipped else [])]) + "\n"


def _introduction(results: dict[str, Any]) -> str:
    resamples = results["bootstrap"]["resamples"]
    intervals = f", in brackets 95 % bootstrap intervals over clips ({resamples} sets)" if resamples else ""
    does = "\n".join(f"- {name}: {does}" for name, does in results["disturbances"].items())
    return (
        f"Clips: {results['split']} of {printable(results['data_dir'])}. Share of the words that are right"
        f"{intervals}. What is drawn for a clip has the seed {results['seed']}.\n\n{does}"
    )


def _shares_section(results: dict[str, Any], headings: dict[str, str]) -> str:
    rows = [
        [name, _label(model), *(_share(model["rows"][name], column) for column in headings)]
        for name, model in _pairs(results["models"])
    ]
    return "## Right words\n\n" + _table(["disturbance", "model", *headings.values()], rows)


def _differences_section(results: dict[str, Any], headings: dict[str, str]) -> str:
    rows = [
        [name, _label(model), *(_difference(model["rows"][name]["differences"].get(column)) for column in headings)]
        for name, model in _pairs(results["models"])
        if name != UNDISTURBED.name
    ]
    return (
        "## Difference to the undisturbed clips\n\nPercentage points; the intervals are paired: both captions of a "
        "clip are drawn together.\n\n" + _table(["disturbance", "model", *headings.values()], rows)
    )


def _whose_section(models: Sequence[dict[str, Any]]) -> str:
    rows = [
        [_label(model), WORDS[word], *(cell for side in ("heard", "seen") for cell in _side(whose[side], word))]
        for model in models
        for row in model["rows"].values()
        for whose in ([row["whose"]] if "whose" in row else [])
        for word in WORDS
        if any(word in whose[side]["shares"] for side in ("heard", "seen"))
    ]
    return (
        "## Whose words\n\nOf the sound of one clip with the picture of another: how many of the words in which the "
        "two clips differ are those of the one, and of the other.\n\n"
        + _table(["model", "words", "places", "of the clip that is heard", "places", "of the clip that is seen"], rows)
    )


def _pairs(models: Sequence[dict[str, Any]]) -> Iterable[tuple[str, dict[str, Any]]]:
    """Each disturbance with each model that was measured under it."""
    return ((name, model) for name in _names(models) for model in models if name in model["rows"])


def _names(models: Sequence[dict[str, Any]]) -> list[str]:
    return [each.name for each in (UNDISTURBED, *DISTURBANCES) if any(each.name in model["rows"] for model in models)]


def _label(model: dict[str, Any]) -> str:
    return printable(model["model"]).replace("|", "\\|")


def _table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _side(row: dict[str, Any], word: str) -> tuple[str, str]:
    return str(row["totals"].get(word, 0)), _share(row, word)


def _share(row: dict[str, Any], name: str) -> str:
    if name not in row["shares"]:
        return "none"
    interval = row["intervals"].get(name)
    ends = f" ({interval[0]:.1%} to {interval[1]:.1%})" if interval else ""
    return f"{row['shares'][name]:.1%}{ends}"


def _difference(difference: dict[str, Any] | None) -> str:
    if difference is None:
        return "none"
    interval = difference.get("interval")
    ends = f" ({100 * interval[0]:+.1f} to {100 * interval[1]:+.1f})" if interval else ""
    return f"{100 * difference['difference']:+.1f}{ends}"
