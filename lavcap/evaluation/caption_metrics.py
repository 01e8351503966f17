"""The caption metrics as a local module of `evaluate`, with the numbers of [`lavcap.evaluation.metrics`].

metric = evaluate.load("lavcap/evaluation/caption_metrics.py")
metric.compute(predictions=["a dog barks", "rain falls"], references=[["a dog is barking"], ["it rains", "rain"]])
"""

import datasets
import evaluate

from lavcap.evaluation import metrics as caption_metrics


_DESCRIPTION = """\
BLEU-1 to BLEU-4, ROUGE-L and CIDEr-D as pycocoevalcap computes them, without Java; METEOR, SPICE, SPIDEr and FENSE
where they are asked for and what they need is there.
"""
_INPUTS = """\
Args:
    predictions: one caption per clip.
    references: for each clip, its reference captions; the number may differ between clips.
    metrics: names of what to compute, of lavcap.evaluation.metrics.METRICS; default: those that need neither Java nor
        a model.
Returns:
    The metrics as plain floats. What is undefined or cannot be computed is left out, with a warning.
"""


class CaptionMetrics(evaluate.Metric):
    """[`lavcap.evaluation.metrics.score_captions`] for `evaluate`."""

    def _info(self) -> evaluate.MetricInfo:
        features = {
            "predictions": datasets.Value("string"),
            "references": datasets.Sequence(datasets.Value("string")),
        }
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation="",
            inputs_description=_INPUTS,
            features=datasets.Features(features),
            reference_urls=["https://github.com/salaniz/pycocoevalcap"],
        )

    def _compute(self, predictions, references, metrics=caption_metrics.QUICK_METRICS) -> dict[str, float]:
        return caption_metrics.score_captions(predictions, references, metrics)
