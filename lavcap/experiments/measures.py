"""What runs gave, as figures: of one run, and over seeds with intervals and paired tests."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from scipy import stats

from lavcap.evaluation.results import main_modality
from lavcap.experiments.runs import Run
from lavcap.experiments.studies import Study, Variant


LEVEL = 0.95
PARTS = ("colour", "shape", "sound")
OBJECTS = ("colour", "shape")
SIDES = ("own", "other")  # events, on whose sound the plan has mass
# Pairs of object and sound that training showed, or shows most; and others.
NEW_PAIRS = {"free": "unseen pairs", "typical": "exceptional pairs"}  # by world
LEARNT = {"seen pairs": 0.95, "typical pairs": 0.95, **dict.fromkeys(NEW_PAIRS.values(), 0.8)}  # least shares
Found = Mapping[str, Any]  # of a run, as of `steps.measure_run`
Results = Mapping[str, Found]  # by the names of runs; those that failed have `failed`
Variants = Mapping[str, Mapping[int, Found]]  # what their runs gave, by name and seed
Measure = Callable[[Found], float | None]


def found_by_seed(variant: Variant, world: str, study: Study, results: Results) -> dict[int, Found]:
    """What the runs of a variant gave, of those that did not fail."""
    rows = {seed: results.get(Run(variant, world, seed).name) for seed in study.seeds}
    return {seed: row for seed, row in rows.items() if row and "failed" not in row}


def found_by_variant(study: Study, world: str, results: Results) -> Variants:
    """[`found_by_seed`] of every variant of a study, in its order."""
    return {variant.name: found_by_seed(variant, world, study, results) for variant in study.variants}


def measured(found: Variants, measure: Measure) -> dict[str, dict[int, float]]:
    """A measure by variant and seed, where it applies."""
    return {
        name: {seed: value for seed, row in rows.items() if (value := measure(row)) is not None}
        for name, rows in found.items()
    }


def cider_d(found: Found) -> float:
    """Of captions from all that the model takes."""
    return of_main_modality(found["scores"])["cider_d"]


def right_share(found: Found, part: str, new: bool = False) -> float:
    """Share of events whose colour, shape or sound is right, in captions from all that the model takes.

    Args:
        new: of pairs of object and sound alone that are not those of training; default: of all.
    """
    words = of_main_modality(found["words"])
    rows = [row for pairs, row in words.items() if not new or pairs in NEW_PAIRS.values()]
    return sum(row[part] * row["events"] for row in rows) / sum(row["events"] for row in rows)


def disturbed_share(found: Found, disturbance: str, whose: str, parts: Sequence[str]) -> float | None:
    """Mean share of right words of disturbed clips; nothing where the disturbance does not apply.

    Args:
        whose: of words in which the clip that is heard and the one that is seen differ, those of the one that is
            `heard` or `seen`; empty: of all.
    """
    if disturbance not in found["disturbed"]:
        return None
    row = found["disturbed"][disturbance]
    shares = row["whose"][whose]["shares"] if whose else row["shares"]
    return float(np.mean([shares[part] for part in parts]))


def has_learnt(found: Found) -> bool:
    """Whether enough of colours, shapes and sounds are right, of pairs that training showed and of others."""
    words = of_main_modality(found["words"])
    return all(row[part] >= LEARNT[pairs] for pairs, row in words.items() for part in PARTS)


def of_main_modality(modalities: Mapping[str, Any]) -> Any:
    """What there is of the modality that counts."""
    return modalities[main_modality(modalities)]


def mean_interval(values: Sequence[float]) -> tuple[float, float]:
    """Mean, and half the width of its Student interval at `LEVEL`; infinite for one value."""
    if len(values) < 2:
        return float(np.mean(values)), math.inf
    error = stats.sem(values)
    return float(np.mean(values)), float(error * stats.t.ppf((1 + LEVEL) / 2, len(values) - 1))


def paired_tests(reference: Mapping[int, float], others: Mapping[str, Mapping[int, float]]) -> dict[str, tuple]:
    """Mean difference to the reference and its p value, by name: Student's t test of the pairs of one seed, two-sided,
    corrected for as many tests as there are (Holm, Scandinavian Journal of Statistics 6, 1979).

    Args:
        reference, others: a score by seed.
    """
    found = {}
    for name, scores in others.items():
        pairs = [(scores[seed], reference[seed]) for seed in scores if seed in reference]
        differences = np.array([one - other for one, other in pairs])
        if len(pairs) < 2:
            found[name] = (float(differences.mean()) if pairs else math.nan, math.nan)
        elif np.ptp(differences) == 0:
            found[name] = (float(differences[0]), 0.0 if differences[0] else 1.0)
        else:
            found[name] = (float(differences.mean()), float(stats.ttest_1samp(differences, 0).pvalue))
    return {name: (found[name][0], p) for name, p in _holm({name: p for name, (_, p) in found.items()}).items()}


# -------------------------------------------------------------------------------------------------------- internals


def _holm(values: Mapping[str, float]) -> dict[str, float]:
    """p values that were corrected; those that are not there stay so."""
    there = sorted((name for name, p in values.items() if not math.isnan(p)), key=values.get)
    corrected, highest = {}, 0.0
    for rank, name in enumerate(there):
        highest = max(highest, min(1.0, (len(there) - rank) * values[name]))
        corrected[name] = highest
    return {name: corrected.get(name, math.nan) for name in values}
