"""Intervals and the paired test against closed forms, scipy, and simulated sets whose truth is known."""

import json
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
from pycocoevalcap.bleu.bleu import Bleu

from lavcap.evaluation.metrics import measure_captions
from lavcap.evaluation.significance import Statistics, bootstrap_intervals, compare_paired
from lavcap.evaluation.tokenization import tokenize_caption


FIXTURE = json.loads((Path(__file__).parents[1] / "golden" / "audiocaps_captions.json").read_text(encoding="utf-8"))
REFERENCES = [clip["captions"][2:] for clip in FIXTURE["clips"]]


def measured(caption: int) -> dict:
    return measure_captions([clip["captions"][caption] for clip in FIXTURE["clips"]], REFERENCES)[0]


def statistics(caption: int) -> dict[str, Statistics]:
    return {name: measurement.statistics for name, measurement in measured(caption).items()}


def test_totals_of_the_statistics_are_the_scores_of_the_library():
    for name, measurement in measured(0).items():
        assert measurement.statistics.total() == pytest.approx(measurement.value, abs=1e-9), name


def test_bleu_of_a_resampled_set_is_pycocoevalcaps_on_these_clips():
    drawn = np.random.default_rng(1).integers(0, 60, 60)
    counts = np.bincount(drawn, minlength=60)
    tokens = [" ".join(tokenize_caption(clip["captions"][0])) for clip in FIXTURE["clips"]]
    truths = {row: [" ".join(tokenize_caption(text)) for text in REFERENCES[clip]] for row, clip in enumerate(drawn)}
    expected, _ = Bleu(4).compute_score(truths, {row: [tokens[clip]] for row, clip in enumerate(drawn)}, verbose=0)
    pooled = [metric.score(counts[None] @ metric.parts)[0] for metric in list(statistics(0).values())[:4]]
    assert pooled == pytest.approx(expected, abs=1e-9)


def test_empty_captions_have_statistics_too():
    empty, _ = measure_captions(["", "..."], [["a dog"], ["rain"]])
    assert all(measurement.statistics.total() == pytest.approx(0, abs=1e-12) for measurement in empty.values())
    intervals = bootstrap_intervals({name: m.statistics for name, m in empty.items()}, 50)
    assert all(interval == pytest.approx((0, 0), abs=1e-12) for interval in intervals.values())


def test_a_share_is_one_of_sums_and_sets_in_which_it_is_of_nothing_are_left_out():
    share = Statistics.of_share([1, 0, 2], [2, 0, 2])
    assert share.total() == 0.75
    assert np.isnan(Statistics.of_share([0, 0], [0, 0]).total())
    # Of 27 sets one holds the second clip alone; in seven each the share is that of the first, or of the third.
    assert bootstrap_intervals({"share": share}, 2000)["share"] == (0.5, 1)


def test_the_interval_of_a_mean_is_that_of_scipy_and_of_the_normal_law():
    values = np.random.default_rng(0).normal(3, 2, 1000)
    low, high = bootstrap_intervals({"mean": Statistics.of_mean(values)}, 4000)["mean"]
    half = 1.96 * values.std() / np.sqrt(len(values))
    assert (low, high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.02 * 2 * half)
    theirs = scipy.stats.bootstrap(
        (values,), np.mean, n_resamples=4000, method="percentile", rng=np.random.default_rng(0)
    ).confidence_interval
    assert (low, high) == pytest.approx(tuple(theirs), abs=0.04 * half)


def test_intervals_hold_the_truth_nineteen_times_in_twenty():
    generator = np.random.default_rng(0)
    hits = 0
    for _ in range(400):
        low, high = bootstrap_intervals({"m": Statistics.of_mean(generator.exponential(1, 100))}, 300)["m"]
        hits += low <= 1 <= high
    assert 0.90 < hits / 400 < 0.975


def test_the_same_seed_gives_the_same_numbers_and_another_one_others():
    first = bootstrap_intervals(statistics(0), 300)
    assert bootstrap_intervals(statistics(0), 300) == first != bootstrap_intervals(statistics(0), 300, seed=1)
    assert all(low < measured(0)[name].value < high for name, (low, high) in first.items())


def test_equal_captions_do_not_differ():
    for row in compare_paired(statistics(0), statistics(0), 100).values():
        assert row == {"difference": 0, "interval": (0, 0), "p": 1}


def test_worse_captions_differ_and_the_sign_says_which():
    worse, _ = measure_captions(["a dog barks"] * 60, REFERENCES)
    worse = {name: measurement.statistics for name, measurement in worse.items()}
    one, other = compare_paired(statistics(0), worse, 500), compare_paired(worse, statistics(0), 500)
    for name, row in one.items():
        assert row["difference"] > 0 and row["interval"][0] > 0 and row["p"] == pytest.approx(1 / 501), name
        assert other[name]["difference"] == pytest.approx(-row["difference"])


def test_p_values_are_uniform_where_there_is_no_difference():
    generator = np.random.default_rng(0)
    values = []
    for _ in range(300):
        clip = generator.normal(0, 3, 80)  # a hard clip is hard for both
        sides = ({"m": Statistics.of_mean(clip + generator.normal(0, 1, 80))} for _ in range(2))
        values.append(compare_paired(*sides, resamples=200)["m"]["p"])
    assert scipy.stats.kstest(values, "uniform").pvalue > 0.01
    assert 0.02 < np.mean(np.array(values) < 0.05) < 0.08


def test_the_p_value_of_a_mean_is_that_of_scipys_permutation_test():
    generator = np.random.default_rng(3)
    one, other = generator.normal(0.2, 1, (2, 60)) - [[0.0], [0.2]]
    ours = compare_paired({"m": Statistics.of_mean(one)}, {"m": Statistics.of_mean(other)}, 4000)["m"]["p"]
    theirs = scipy.stats.permutation_test(
        (one, other),
        lambda x, y, axis: np.mean(x - y, axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=4000,
        rng=np.random.default_rng(0),
    )
    assert 0.02 < theirs.pvalue < 0.9 and ours == pytest.approx(theirs.pvalue, abs=0.03)


def test_without_resamples_there_is_only_the_difference():
    assert compare_paired(statistics(0), statistics(1), 0)["bleu_1"].keys() == {"difference"}


def test_sets_of_different_size_are_refused():
    one, other = Statistics.of_mean([1, 2]), Statistics.of_mean([1, 2, 3])
    with pytest.raises(ValueError, match=r"metrics of \[2, 3\] clips"):
        compare_paired({"m": one}, {"m": other}, 10)
