"""How captions are scored, and what comes of it: results, their text, and what the user is to be warned of."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lavcap.arguments import listed
from lavcap.evaluation.names import METRICS
from lavcap.evaluation.predictions import Prediction, by_modality
from lavcap.evaluation.results import (
    describe_references,
    format_results,
    library_versions,
    summarise,
    with_main_set,
)
from lavcap.evaluation.significance import SEED
from lavcap.evaluation.tokenization import tokenize_caption


@dataclass(frozen=True)
class Scores:
    """What an evaluation gives: the content of `results.json`, `results.md` and `predictions.jsonl`, and warnings."""

    results: dict[str, Any]
    text: str
    predictions: Sequence[Prediction] = ()
    warnings: Sequence[str] = ()


@dataclass(frozen=True)
class Scoring:
    """How captions are scored.

    Args:
        metrics: names of `METRICS` that are wanted; default: all that can be computed.
        resamples: sets drawn for the intervals; 0: no intervals.
        dataset_version: of the references; default: what is noted of them.
        unavailable: why metrics cannot be computed, from [`lavcap.evaluation.metrics.unavailable_metrics`].
    """

    metrics: Sequence[str] = METRICS
    resamples: int = 1000
    dataset_version: str | None = None
    unavailable: Mapping[str, str] = field(default_factory=dict)

    def score(
        self,
        predictions: Sequence[Prediction],
        expected: Sequence[str],
        run: dict[str, Any],
        noted_version: str | None = None,
        warnings: Sequence[str] = (),
    ) -> Scores:
        """Scores of each modality.

        Args:
            expected: ids of the clips that there should be.
            run: facts for the head of the results.
            noted_version: of the references, if none was asked for.
            warnings: those of earlier steps.
        """
        table = summarise(predictions, expected, self.unavailable, self.resamples, self.metrics)
        computed = {name for row in table.values() for name in row["metrics"]}
        run = run | {"dataset": self.describe(predictions, noted_version)} | self.method(computed)
        results = with_main_set(run, table)
        return Scores(results, format_results(results), predictions, [*warnings, *_wordless(predictions)])

    def describe(self, predictions: Iterable[Prediction], noted_version: str | None = None) -> dict[str, Any]:
        """What the references are, and their version as far as it is known."""
        return describe_references(predictions, self.dataset_version or noted_version or "unknown")

    def method(self, computed: Iterable[str]) -> dict[str, Any]:
        """How the metrics that could be computed were computed."""
        return {"bootstrap": {"resamples": self.resamples, "seed": SEED}, "libraries": library_versions(computed)}


def _wordless(predictions: Sequence[Prediction]) -> list[str]:
    """A warning for each modality with captions that no metric finds a word in."""
    warnings = []
    for modality, chosen in by_modality(predictions).items():
        if empty := [prediction.id for prediction in chosen if not tokenize_caption(prediction.caption)]:
            source = f" from {modality}" if modality else ""
            warnings.append(
                f"{len(empty)} of {len(chosen)} captions{source} have no words and score 0: {listed(empty)}"
            )
    return warnings
