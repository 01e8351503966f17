"""Caption metrics, each computed by the library that defines it; what cannot be computed here is left out by name.

BLEU-1..4, ROUGE-L and CIDEr-D are pycocoevalcap's and need no Java: its tokenizer is replaced by
[`lavcap.evaluation.tokenization`]. METEOR and SPICE are its Java programs, FENSE is aac-metrics'.
`unavailable_metrics` tries them, `score_captions` computes the quick ones unless told otherwise, and
`measure_captions` also gives what intervals and tests need.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.bleu.bleu_scorer import BleuScorer
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.rouge.rouge import Rouge

from lavcap.evaluation.external_program import MetricUnavailable
from lavcap.evaluation.fense import check_fense, fense_scores
from lavcap.evaluation.java_metrics import (
    check_meteor,
    check_spice,
    meteor_statistics,
    pool_meteor,
    spice_scores,
)
from lavcap.evaluation.names import BLEU, MAX_NGRAM, METRICS, QUICK_METRICS
from lavcap.evaluation.significance import Statistics
from lavcap.evaluation.tokenization import tokenize_caption


__all__ = [
    "METRICS",
    "QUICK_METRICS",
    "Measurement",
    "measure_captions",
    "measure_sets",
    "score_captions",
    "score_each_caption",
    "unavailable_metrics",
]


@dataclass(frozen=True)
class Measurement:
    """One metric of a set of captions.

    Attributes:
        value: of the set, as the library gives it.
        each: of each clip, as the library gives it, `(clips,)`.
        statistics: what the metric adds up over clips; its total is `value`.
    """

    value: float
    each: np.ndarray
    statistics: Statistics


@dataclass(frozen=True)
class _Clips:
    """Captions as they are, and as tokens joined by spaces in pycocoevalcap's form, `{clip: [caption, ...]}`."""

    predictions: Sequence[str]
    references: Sequence[Sequence[str]]
    hypotheses: dict[int, list[str]]
    truths: dict[int, list[str]]


def unavailable_metrics(metrics: Iterable[str] = METRICS) -> dict[str, str]:
    """Preflight: which metrics cannot be computed here, and why.

    Java and FENSE are really run on one clip, so that what is broken shows before any captions are made. Takes about
    8 seconds where METEOR runs; the metrics of `QUICK_METRICS` need no trial.

    Returns:
        The reason by metric, for those that cannot be computed; none for the others.
    """
    wanted, reasons = _known(metrics), {}
    for name, check in (("meteor", check_meteor), ("spice", check_spice), ("fense", check_fense)):
        if name in _needed(wanted):
            try:
                check()
            except MetricUnavailable as error:
                reasons[name] = str(error)
    return _in_order(wanted, reasons | _missing_halves(reasons))


def score_captions(
    predictions: Sequence[str], references: Sequence[Sequence[str]], metrics: Iterable[str] = QUICK_METRICS
) -> dict[str, float]:
    """Scores a whole set of captions.

    The keys, and where each is defined:
        `bleu_1` ... `bleu_4`: BLEU with n-grams of one to n words, clipped counts and lengths summed over the set,
            closest reference length in the brevity penalty; 0 to 1 (Papineni et al., ACL 2002).
        `rouge_l`: F-measure of the longest common subsequence, beta 1.2, best precision and best recall over the
            references, averaged over clips; 0 to 1 (Lin, ACL workshop 2004).
        `cider_d`: mean cosine of tf-idf n-gram vectors with clipping and a Gaussian length penalty of sigma 6,
            averaged over clips; 0 to 10, and papers print 0.897 also as 89.7 (Vedantam et al., CVPR 2015).
            Document frequencies come from `references`, so the value belongs to the whole set: a part of the set
            scores differently. It is undefined with one clip, or with several that all have the same references:
            every n-gram is then in every document and weighs nothing.
        `meteor`: matches of words, stems, synonyms and paraphrases with the best reference, less a penalty for many
            chunks, counts added up over clips; 0 to 1; needs Java (Denkowski and Lavie, WMT 2014).
        `spice`: F-measure of the propositions of a scene graph, averaged over clips; 0 to 1; needs Java and CoreNLP
            (Anderson et al., ECCV 2016).
        `spider`: mean of `cider_d` and `spice` (Liu et al., ICCV 2017).
        `fense`: likeness of sentence embeddings, less a penalty for captions that are not fluent, averaged over clips;
            needs aac-metrics and its models (Zhou et al., ICASSP 2022).

    Args:
        predictions: one caption per clip. An empty caption is legal and scores 0.
        references: for each clip, its reference captions; the number may differ between clips.
        metrics: names of `METRICS`. The default needs neither Java nor a model.

    Returns:
        Plain floats, unrounded. A metric that is undefined or cannot be computed is left out, with a warning.

    Raises:
        ValueError: if there are no clips, the two lengths differ, a clip has no references or one without words, a
            string stands where a list of strings should, or a metric is unknown.
    """
    measured, skipped = measure_captions(predictions, references, metrics)
    _warn(skipped)
    return {name: measurement.value for name, measurement in measured.items()}


def score_each_caption(
    predictions: Sequence[str], references: Sequence[Sequence[str]], metrics: Iterable[str] = QUICK_METRICS
) -> list[dict[str, float]]:
    """Scores every clip of a set, for finding the worst captions.

    All but `bleu_1` ... `bleu_4` and `meteor` average to what `score_captions` gives. These pool their counts over the
    set and do not. pycocoevalcap smooths BLEU, so that a caption of fewer than n words has a `bleu_n` of up to 0.04
    where the definition gives 0.

    Args:
        predictions, references, metrics: as for `score_captions`. Document frequencies of `cider_d` come from all
            clips given.

    Returns:
        One dictionary per clip, in order, with the keys and ranges of `score_captions`.

    Raises:
        ValueError: as `score_captions`.
    """
    measured, skipped = measure_captions(predictions, references, metrics)
    _warn(skipped)
    columns = {name: measurement.each.tolist() for name, measurement in measured.items()}
    return [{name: column[clip] for name, column in columns.items()} for clip in range(len(predictions))]


def measure_captions(
    predictions: Sequence[str], references: Sequence[Sequence[str]], metrics: Iterable[str] = QUICK_METRICS
) -> tuple[dict[str, Measurement], dict[str, str]]:
    """Scores of the set, of each clip, and their statistics; and, by metric, why the others could not be computed.

    Args:
        predictions, references, metrics: as for `score_captions`.

    Raises:
        ValueError: as `score_captions`.
    """
    return measure_sets([(predictions, references)], metrics)[0]


def measure_sets(
    sets: Iterable[tuple[Sequence[str], Sequence[Sequence[str]]]], metrics: Iterable[str] = QUICK_METRICS
) -> list[tuple[dict[str, Measurement], dict[str, str]]]:
    """[`measure_captions`] of several sets, each apart; programs that take seconds to start are started once for all.

    Args:
        sets: predictions and references of each.
        metrics: as for `score_captions`.

    Raises:
        ValueError: as `score_captions`.
    """
    wanted = _known(metrics)
    sets = [_tokenize(*each) for each in sets]
    found: list[tuple[dict[str, Measurement], dict[str, str]]] = [({}, {}) for _ in sets]
    for names, measure in _MEASURES.items():
        if not _needed(wanted).isdisjoint(names):
            for (measured, skipped), each in zip(found, measure(sets), strict=True):
                if isinstance(each, MetricUnavailable):
                    skipped |= dict.fromkeys(names, str(each))
                else:
                    measured |= zip(names, each, strict=True)
    for measured, skipped in found:
        skipped |= _missing_halves(skipped)
        if "spider" in wanted and "spider" not in skipped:
            measured["spider"] = _of_mean((measured["cider_d"].each + measured["spice"].each) / 2)
    return [(_in_order(wanted, measured), _in_order(wanted, skipped)) for measured, skipped in found]


# -------------------------------------------------------------------------------------------------------- metrics


def _measure_bleu(clips: _Clips) -> list[Measurement]:
    overall, each = Bleu(MAX_NGRAM).compute_score(clips.truths, clips.hypotheses, verbose=0)
    counts = _bleu_counts(clips)
    return [
        Measurement(float(overall[n]), np.array(each[n]), Statistics(counts, lambda sums, n=n: _pool_bleu(sums)[:, n]))
        for n in range(MAX_NGRAM)
    ]


def _bleu_counts(clips: _Clips) -> np.ndarray:
    """Caption length, closest reference length, n-grams and matching n-grams: `(clips, 2 + 2 * MAX_NGRAM)`."""
    scorer = BleuScorer(n=MAX_NGRAM)
    for (caption,), captions in zip(clips.hypotheses.values(), clips.truths.values(), strict=True):
        scorer += (caption, captions)
    rows = [
        [
            count["testlen"],
            min(count["reflen"], key=lambda length: (abs(length - count["testlen"]), length)),
            *count["guess"],
            *count["correct"],
        ]
        for count in scorer.ctest
    ]
    return np.array(rows, dtype=float)


def _pool_bleu(sums: np.ndarray) -> np.ndarray:
    """BLEU-1 to BLEU-4 of added-up counts, `(samples, MAX_NGRAM)`, with pycocoevalcap's guards against 0 / 0."""
    length, reference = sums[:, 0], sums[:, 1]
    guessed, correct = sums[:, 2 : 2 + MAX_NGRAM], sums[:, 2 + MAX_NGRAM :]
    precisions = np.cumsum(np.log((correct + 1e-15) / (guessed + 1e-9)), axis=1)
    ratio = (length + 1e-15) / (reference + 1e-9)
    brevity = np.minimum(1 - 1 / ratio, 0)
    return np.exp(precisions / np.arange(1, MAX_NGRAM + 1) + brevity[:, None])


def _measure_rouge_l(clips: _Clips) -> list[Measurement]:
    overall, each = Rouge().compute_score(clips.truths, clips.hypotheses)
    return [_of_mean(each, overall)]


def _measure_cider_d(clips: _Clips) -> list[Measurement]:
    if len({frozenset(captions) for captions in clips.truths.values()}) == 1:
        reason = "there is only one clip" if len(clips.truths) == 1 else "all clips have the same references"
        raise MetricUnavailable(f"{reason}, so its document frequencies are undefined; score more clips together")
    overall, each = Cider(n=MAX_NGRAM).compute_score(clips.truths, clips.hypotheses)
    return [_of_mean(each, overall)]


def _measure_meteor(sets: Sequence[_Clips]) -> list[list[Measurement]]:
    counts = meteor_statistics(*_lines(sets))
    statistics = [Statistics(rows, pool_meteor) for rows in _apart(counts, sets)]
    return [[Measurement(each.total(), pool_meteor(each.parts), each)] for each in statistics]


def _measure_spice(sets: Sequence[_Clips]) -> list[list[Measurement]]:
    return [[_of_mean(scores)] for scores in _apart(spice_scores(*_lines(sets)), sets)]


def _measure_fense(sets: Sequence[_Clips]) -> list[list[Measurement]]:
    predictions, references = (
        [each for clips in sets for each in getattr(clips, side)] for side in ("predictions", "references")
    )
    return [[_of_mean(scores)] for scores in _apart(fense_scores(predictions, references), sets)]


def _lines(sets: Sequence[_Clips]) -> tuple[list[str], list[list[str]]]:
    """Tokens of the predictions and of the references of all sets, one after the other."""
    hypotheses = [caption for clips in sets for (caption,) in clips.hypotheses.values()]
    return hypotheses, [captions for clips in sets for captions in clips.truths.values()]


def _apart(rows: np.ndarray, sets: Sequence[_Clips]) -> list[np.ndarray]:
    """Rows of all clips as those of each set."""
    return np.split(rows, np.cumsum([len(clips.predictions) for clips in sets])[:-1])


def _of_mean(each: Sequence[float], overall: float | None = None) -> Measurement:
    each = np.asarray(each, dtype=float)
    return Measurement(float(each.mean() if overall is None else overall), each, Statistics.of_mean(each))


_Measured = list[Measurement] | MetricUnavailable  # of a set of clips, or why not


def _each(measure: Callable[[_Clips], list[Measurement]]) -> Callable[[Sequence[_Clips]], list[_Measured]]:
    """A function of several sets from one of a single set."""

    def measure_each(sets: Sequence[_Clips]) -> list[_Measured]:
        found: list[_Measured] = []
        for clips in sets:
            try:
                found.append(measure(clips))
            except MetricUnavailable as error:
                found.append(error)
        return found

    return measure_each


def _at_once(measure: Callable[[Sequence[_Clips]], list[_Measured]]) -> Callable[[Sequence[_Clips]], list[_Measured]]:
    """A function of several sets which fails for all of them if it fails."""

    def measure_at_once(sets: Sequence[_Clips]) -> list[_Measured]:
        try:
            return measure(sets)
        except MetricUnavailable as error:
            return [error] * len(sets)

    return measure_at_once


_MEASURES = {
    BLEU: _each(_measure_bleu),
    ("rouge_l",): _each(_measure_rouge_l),
    ("cider_d",): _each(_measure_cider_d),
    ("meteor",): _at_once(_measure_meteor),
    ("spice",): _at_once(_measure_spice),
    ("fense",): _at_once(_measure_fense),
}


def _known(metrics: Iterable[str]) -> list[str]:
    metrics = list(metrics)
    if unknown := [name for name in metrics if name not in METRICS]:
        raise ValueError(
            f"got the metrics {', '.join(unknown)}, expected some of {', '.join(METRICS)}: mend the names"
        )
    return metrics


def _needed(wanted: Sequence[str]) -> set[str]:
    return {*wanted, "cider_d", "spice"} if "spider" in wanted else set(wanted)


def _missing_halves(skipped: dict[str, str]) -> dict[str, str]:
    """Why there is no SPIDEr, if one of its halves is missing."""
    missing = [name for name in ("cider_d", "spice") if name in skipped]
    return {"spider": f"it is the mean of cider_d and spice; no {' and no '.join(missing)}"} if missing else {}


def _in_order(wanted: Sequence[str], values: dict) -> dict:
    return {name: values[name] for name in METRICS if name in wanted and name in values}


def _warn(skipped: dict[str, str]) -> None:
    for name, reason in skipped.items():
        warnings.warn(f"{name} is left out: {reason}", stacklevel=3)  # the caller of score_captions


# -------------------------------------------------------------------------------------------------------- captions


def _tokenize(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> _Clips:
    _check_clips(predictions, references)
    hypotheses = {clip: [_join_tokens(caption)] for clip, caption in enumerate(predictions)}
    truths = {clip: [_join_tokens(caption) for caption in captions] for clip, captions in enumerate(references)}
    _check_reference_words(truths)
    return _Clips(predictions, references, hypotheses, truths)


def _join_tokens(caption: str) -> str:
    return " ".join(tokenize_caption(caption))


def _check_clips(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> None:
    if isinstance(predictions, str):
        raise ValueError("predictions is one string, expected a list with one caption per clip: wrap it in a list")
    if len(predictions) != len(references):
        raise ValueError(
            f"got {len(predictions)} predictions and references for {len(references)} clips, expected as many of "
            "each: pass one prediction and one list of references per clip, in the same order"
        )
    if len(predictions) == 0:
        raise ValueError("got no clips, expected at least one: check that the data set and its filters leave any")
    for clip, (prediction, captions) in enumerate(zip(predictions, references, strict=True)):
        _check_clip(clip, prediction, captions)


def _check_clip(clip: int, prediction: str, captions: Sequence[str]) -> None:
    if not isinstance(prediction, str):
        kind = type(prediction).__name__
        raise ValueError(f"the prediction for clip {clip} is a {kind}, expected one string: pass the decoded caption")
    if isinstance(captions, str) or not isinstance(captions, Sequence):
        kind = type(captions).__name__
        raise ValueError(
            f"the references of clip {clip} are a {kind}, expected a list of strings: wrap a lone reference in a list"
        )
    if len(captions) == 0:
        raise ValueError(f"clip {clip} has no references, expected at least one: add one or leave the clip out")
    for caption in captions:
        if not isinstance(caption, str):
            kind = type(caption).__name__
            raise ValueError(f"a reference of clip {clip} is a {kind}, expected a string: pass a flat list per clip")


def _check_reference_words(truths: dict[int, list[str]]) -> None:
    # ROUGE-L of pycocoevalcap would call an empty prediction a perfect match of an empty reference.
    for clip, captions in truths.items():
        if "" in captions:
            raise ValueError(
                f"reference {captions.index('')} of clip {clip} has no words, expected a caption: leave that one out"
            )
