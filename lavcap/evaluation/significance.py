"""How sure a score is: bootstrap intervals over clips, and a paired test of two sets of captions.

A metric of a set is a function of sums over its clips: clip scores and their number for a mean, n-gram counts for
BLEU, match counts for METEOR. A resampled set therefore needs no scorer again, only other sums.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from tqdm.auto import tqdm


LEVEL = 0.95
SEED = 0
BATCH = 250  # resamples at a time: the draws of a thousand clips take 2 MB


@dataclass(frozen=True)
class Statistics:
    """What a metric adds up over clips, and the metric as a function of these sums.

    Attributes:
        parts: `(clips, parts)`.
        score: takes sums over clips, `(samples, parts)`, and gives the metric, `(samples,)`.
    """

    parts: np.ndarray
    score: Callable[[np.ndarray], np.ndarray]

    @classmethod
    def of_mean(cls, values) -> "Statistics":
        """Of a metric that is the mean of `values`, `(clips,)`."""
        return cls.of_share(values, np.ones(len(values)))

    @classmethod
    def of_share(cls, hits, totals) -> "Statistics":
        """Of a metric that is the sum of `hits` per sum of `totals`, each `(clips,)`; NaN where that is zero."""
        parts = np.stack([np.asarray(hits, dtype=float), np.asarray(totals, dtype=float)], axis=1)
        return cls(parts, _share)

    def total(self) -> float:
        """The metric of all clips."""
        return float(self.score(self.parts.sum(0, keepdims=True))[0])


def bootstrap_intervals(
    statistics: Mapping[str, Statistics], resamples: int, seed: int = SEED
) -> dict[str, tuple[float, float]]:
    """Percentile intervals at `LEVEL`: the metrics of sets of as many clips, drawn with replacement.

    Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13. Every metric sees the same draws.

    Args:
        statistics: by metric, all of the same clips.
        resamples: number of sets drawn.
    """
    if not statistics:
        return {}
    values = {name: [] for name in statistics}
    for counts in _draw_sets(_number_of_clips(statistics), resamples, seed):
        for name, metric in statistics.items():
            values[name].append(metric.score(counts @ metric.parts))
    return {name: _interval(np.concatenate(batches)) for name, batches in values.items()}


def compare_paired(
    first: Mapping[str, Statistics], second: Mapping[str, Statistics], resamples: int, seed: int = SEED
) -> dict[str, dict]:
    """Difference of two sets of captions of the same clips, its bootstrap interval, and a two-sided p value.

    The interval draws clips, both captions of a clip together (Koehn, EMNLP 2004). The p value comes from approximate
    randomisation (Noreen 1989; Riezler and Maxwell, ACL workshop 2005): if the two did not differ, it would not matter
    which of them wrote which caption, so the captions of each clip are exchanged with probability 1/2. It is the share
    of such exchanges, the observed one counted in, whose difference is at least as large.

    Returns:
        By metric that both have: `difference`, first less second; `interval`; `p`.
    """
    names = [name for name in first if name in second]
    first, second = ({name: side[name] for name in names} for side in (first, second))
    observed = {name: first[name].total() - second[name].total() for name in names}
    if not resamples or not names:
        return {name: {"difference": value} for name, value in observed.items()}
    clips = _number_of_clips(first | {f"second {name}": metric for name, metric in second.items()})
    drawn = _differences(first, second, _draw_sets(clips, resamples, seed))
    exchanged = _exchanged_differences(first, second, _draw_exchanges(clips, resamples, seed))
    return {
        name: {
            "difference": observed[name],
            "interval": _interval(drawn[name]),
            "p": _two_sided(observed[name], exchanged[name]),
        }
        for name in names
    }


def _share(sums: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore"):
        return sums[:, 0] / sums[:, 1]


def _differences(first, second, draws: Iterator[np.ndarray]) -> dict[str, np.ndarray]:
    batches = {name: [] for name in first}
    for counts in draws:
        for name in first:
            sums = (counts @ side[name].parts for side in (first, second))
            one, other = (side[name].score(total) for side, total in zip((first, second), sums, strict=True))
            batches[name].append(one - other)
    return {name: np.concatenate(values) for name, values in batches.items()}


def _exchanged_differences(first, second, draws: Iterator[np.ndarray]) -> dict[str, np.ndarray]:
    batches = {name: [] for name in first}
    for exchanged in draws:
        for name in first:
            one, other = first[name].parts, second[name].parts
            moved = exchanged @ (other - one)
            batches[name].append(
                first[name].score(one.sum(0) + moved) - second[name].score(other.sum(0) - moved),
            )
    return {name: np.concatenate(values) for name, values in batches.items()}


def _two_sided(observed: float, differences: np.ndarray) -> float:
    # Sums in another order differ in the last bits: an exchange that changes nothing must count as equal.
    differences = differences[~np.isnan(differences)]  # of a share of nothing there is none
    as_large = np.abs(differences) >= abs(observed) - 1e-12
    return float((1 + as_large.sum()) / (1 + len(differences)))


def _interval(values: np.ndarray) -> tuple[float, float]:
    # A drawn set in which a share is of nothing has no value.
    low, high = np.nanquantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def _draw_sets(clips: int, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """How often each clip is drawn: `(batch, clips)`."""
    generator = np.random.default_rng([seed, 0])
    for size in _batches(resamples, "Bootstrap"):
        yield generator.multinomial(clips, np.full(clips, 1 / clips), size=size)


def _draw_exchanges(clips: int, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """Whether the captions of a clip are exchanged: 0 or 1, `(batch, clips)`."""
    generator = np.random.default_rng([seed, 1])
    for size in _batches(resamples, "Randomisation"):
        yield generator.integers(0, 2, size=(size, clips))


def _batches(resamples: int, description: str) -> Iterator[int]:
    with tqdm(total=resamples, desc=description, unit="set", delay=2) as progress:
        for start in range(0, resamples, BATCH):
            size = min(BATCH, resamples - start)
            yield size
            progress.update(size)


def _number_of_clips(statistics: Mapping[str, Statistics]) -> int:
    numbers = {len(metric.parts) for metric in statistics.values()}
    if len(numbers) != 1:
        raise ValueError(f"got metrics of {sorted(numbers)} clips, expected as many clips for each: score one set.")
    return numbers.pop()
