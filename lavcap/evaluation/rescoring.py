"""Captions that are there already: scored again, or compared with those of another file."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from lavcap.arguments import listed
from lavcap.evaluation.predictions import Prediction, by_modality, read_predictions, read_references
from lavcap.evaluation.results import compare_sets, format_comparison, main_modality, results_beside
from lavcap.evaluation.scoring import Scores, Scoring


class Rescoring:
    """Captions of a file.

    Args:
        predictions: JSON lines with `id`, `caption` and, unless `references` has them, `references`.
        references: file with all clips that there should be, in COCO's layout or as JSON lines.
        modalities: those of the file that are scored; default: all.

    Raises:
        ValueError: lines cannot be used, or the file has no captions from a modality.
    """

    def __init__(
        self, predictions: str | Path, references: str | Path | None = None, modalities: Sequence[str] | None = None
    ):
        self.files = {"predictions": predictions, "references": references}
        self.references = read_references(references) if references else None
        self.predictions = _read(predictions, self.references, modalities)
        self.known = results_beside(predictions)

    def score(self, scoring: Scoring) -> Scores:
        """Scores of the captions, under what the `results.json` beside the file says of their origin."""
        known = dict(self.known)
        noted, version = known.pop("expected_ids", ()), known.pop("dataset_version", None)
        there = dict.fromkeys([*noted, *(prediction.id for prediction in self.predictions)])
        expected = list(self.references or there)
        return scoring.score(self.predictions, expected, known | self.files, version, self._other_references())

    def _other_references(self) -> list[str]:
        references = self.references or {}
        other = [p.id for p in self.predictions if p.references != references.get(p.id, p.references)]
        if not other:
            return []
        return [
            f"{len(other)} of {len(self.predictions)} captions have other references in {self.files['predictions']} "
            f"than in {self.files['references']}; the former count. Leave references out of its lines to score "
            "against the latter."
        ]


class Comparison:
    """Captions of two files, for a paired test on the clips that both have.

    Args:
        first, second: files as of [`Rescoring`]; of several modalities the main one counts.
        references: as of [`Rescoring`]; they count for both files.
        modalities: one for each of the two files.

    Raises:
        ValueError: as of [`Rescoring`], or not two modalities.
    """

    def __init__(
        self,
        first: str | Path,
        second: str | Path,
        references: str | Path | None = None,
        modalities: Sequence[str] | None = None,
    ):
        self.files = {"predictions": first, "compare": second, "references": references}
        self.references = read_references(references) if references else None
        modalities = modalities or [None, None]
        if len(modalities) != 2:
            raise ValueError(
                f"--modalities with --compare: got {len(modalities)}, expected one for each of the two files."
            )
        pairs = zip((first, second), modalities, strict=True)
        self.sides = [_main_set(_read(file, self.references, modality and [modality])) for file, modality in pairs]
        if self.references:
            self.sides = [[replace(p, references=self.references[p.id]) for p in side] for side in self.sides]

    def score(self, scoring: Scoring) -> Scores:
        """Differences of the two files, with intervals and p values."""
        compared = compare_sets(*self.sides, scoring.unavailable, scoring.resamples, scoring.metrics)
        common = set(compared["scored_ids"])
        results = self.files | {
            "modality": [side[0].modality for side in self.sides],
            "runs": [_origin(self.files[name]) for name in ("predictions", "compare")],
            "dataset": scoring.describe(p for p in self.sides[0] if p.id in common),
        }
        results |= scoring.method(compared["comparison"]) | compared | self._missing()
        return Scores(results, format_comparison(results))

    def _missing(self) -> dict[str, list[str]]:
        known = {prediction.id for side in self.sides for prediction in side}
        return {"missing_ids": [name for name in self.references if name not in known]} if self.references else {}


def _read(path: str | Path, references: Mapping | None, modalities: Sequence[str] | None) -> list[Prediction]:
    predictions = read_predictions(path, references)
    there = by_modality(predictions)
    if absent := [modality for modality in modalities or () if modality not in there]:
        names = ", ".join(repr(name) for name in there)
        raise ValueError(f"{path}: has no captions from {listed(absent)}; it has {names}.")
    return [prediction for prediction in predictions if prediction.modality in (modalities or there)]


def _main_set(predictions: Sequence[Prediction]) -> list[Prediction]:
    sets = by_modality(predictions)
    return sets[main_modality(sets)]


def _origin(predictions: str | Path) -> dict[str, Any]:
    known = results_beside(predictions)
    return {name: value for name, value in known.items() if name != "expected_ids"}
