"""What runs gave, as figures: of one run, and over seeds with intervals and paired tests."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

from lavcap.evaluation.results import main_modality
from lavcap.experiments.runs import Run, runs_of
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
ROUNDING = 1e-12  # differences of scores that are closer to each other are the same


class Tested(NamedTuple):
    """A paired test.

    Attributes:
        difference: mean over the pairs; NaN where there is none.
        p: NaN where there are not two pairs, or all have the same difference, which says nothing of how it varies.
        pairs: how many there are.
    """

    difference: float
    p: float
    pairs: int


def found_by_seed(variant: Variant, world: str, study: Study, results: Results) -> dict[int, Found]:
    """What the runs of a variant gave, of those that did not fail."""
    rows = {seed: results.get(Run(variant, world, seed).name) for seed in study.seeds}
    return {seed: row for seed, row in rows.items() if row and "failed" not in row}


def failed_runs(studies: Iterable[Study], results: Results) -> dict[str, str]:
    """Why runs of studies failed, by their names."""
    names = [run.name for run in runs_of(studies)]
    return {name: results[name]["failed"] for name in names if "failed" in results.get(name, {})}


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


def right_share(found: Found, part: str, new: bool = False) -> float | None:
    """Share of events whose colour, shape or sound is right, in captions from all that the model takes; nothing where
    there is no such event.

    Args:
        new: of pairs of object and sound alone that are not those of training; default: of all.
    """
    words = of_main_modality(found["words"])
    rows = [row for pairs, row in words.items() if not new or pairs in NEW_PAIRS.values()]
    return sum(row[part] * row["events"] for row in rows) / sum(row["events"] for row in rows) if rows else None


def disturbed_share(found: Found, disturbance: str, whose: str, parts: Sequence[str]) -> float | None:
    """Mean share of right words of disturbed clips; nothing where the disturbance does not apply, or no word differs.

    Args:
        whose: of words in which the clip that is heard and the one that is seen differ, those of the one that is
            `heard` or `seen`; empty: of all.
    """
    if disturbance not in found["disturbed"]:
        return None
    row = found["disturbed"][disturbance]
    shares = row["whose"][whose]["shares"] if whose else row["shares"]
    return float(np.mean([shares[part] for part in parts])) if shares.keys() >= set(parts) else None


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


def paired_tests(reference: Mapping[int, float], others: Mapping[str, Mapping[int, float]]) -> dict[str, Tested]:
    """Mean differences to the reference, and their p values: Student's t tests of the pairs of one seed, two-sided,
    corrected for as many tests as there are (Holm, Scandinavian Journal of Statistics 6, 1979).

    Args:
        reference, others: a score by seed.
    """
    found = {}
    for name, scores in others.items():
        differences = np.array([score - reference[seed] for seed, score in scores.items() if seed in reference])
        mean, p = float(differences.mean()) if differences.size else math.nan, math.nan
        if differences.size > 1 and np.ptp(differences) > ROUNDING:
            p = float(stats.ttest_1samp(differences, 0).pvalue)
        elif differences.size > 1 and abs(mean) <= ROUNDING:
            p = 1.0
        found[name] = Tested(mean, p, differences.size)
    corrected = _holm({name: test.p for name, test in found.items()})
    return {name: test._replace(p=corrected[name]) for name, test in found.items()}


# -------------------------------------------------------------------------------------------------------- internals


def _holm(values: Mapping[str, float]) -> dict[str, float]:
    """p values that were corrected; those that are not there stay so."""
    there = sorted((name for name, p in values.items() if not math.isnan(p)), key=values.get)
    corrected, highest = {}, 0.0
    for rank, name in enumerate(there):
        highest = max(highest, min(1.0, (len(there) - rank) * values[name]))
        corrected[name] = highest
    return {name: corrected.get(name, math.nan) for name in values}
