"""Evaluation of one checkpoint: captions of a split, by modality, and their metrics."""

import json
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from lavcap.captioning import caption_features, in_batches
from lavcap.cli import check_new_folder
from lavcap.clips import ClipDataset
from lavcap.metrics import score_captions
from processing_lavcap import LavcapProcessor


MODALITIES = ("audio+video", "audio", "video")
METRICS = ("bleu_1", "bleu_2", "bleu_3", "bleu_4", "rouge_l", "cider_d")
FEATURES = {"audio": ("input_features",), "video": ("pixel_values_videos", "video_features")}
LIBRARIES = ("torch", "transformers", "pycocoevalcap", "av")


@dataclass(frozen=True)
class Prediction:
    """Caption of a clip from given modalities, beside its references."""

    id: str
    modality: str
    caption: str
    references: list[str]


def predict(model, processor, dataset: ClipDataset, modality: str, batch_size: int, **options) -> list[Prediction]:
    """Caption every clip of a data set that has the modality.

    Args:
        modality: one of `MODALITIES`; the other modality is withheld from the model.
        options: for `generate`.
    """
    predictions = []
    usable = (item for item in (dataset[index] for index in range(len(dataset))) if _has(item["features"], modality))
    with tqdm(total=len(dataset), desc=f"Captioning from {modality}", unit="clip") as progress:
        for batch in in_batches(usable, batch_size):
            features = [keep_modality(item["features"], modality) for item in batch]
            captions = caption_features(model, processor, features, **options)
            predictions += [
                Prediction(item["id"], modality, caption, list(item["captions"]))
                for item, caption in zip(batch, captions, strict=True)
            ]
            progress.update(len(batch))
    if not predictions:
        raise ValueError(f"None of the {len(dataset)} clips has {modality}: leave it out of --modalities.")
    return predictions


def keep_modality(features: dict[str, Any], modality: str) -> dict[str, Any]:
    """Features of a clip without those of the other modality."""
    if modality not in MODALITIES:
        raise ValueError(f"modality is {modality!r}, expected one of {', '.join(MODALITIES)}.")
    names = {name for kind in modality.split("+") for name in FEATURES[kind]}
    return {name: value for name, value in features.items() if name in names}


def usable_modalities(processor: LavcapProcessor) -> tuple[str, ...]:
    """What a model can be evaluated from: everything in `MODALITIES`, or the one modality of a baseline."""
    return MODALITIES if len(processor.modalities) == 2 else processor.modalities


def _has(features: dict[str, Any], modality: str) -> bool:
    kept = keep_modality(features, modality)
    return all(any(name in kept for name in FEATURES[kind]) for kind in modality.split("+"))


def summarise(predictions: Sequence[Prediction], expected: int) -> dict[str, Any]:
    """Metrics by modality, with the numbers of clips expected and scored."""
    table = {}
    for modality in dict.fromkeys(prediction.modality for prediction in predictions):
        chosen = [prediction for prediction in predictions if prediction.modality == modality]
        metrics = score_captions([p.caption for p in chosen], [p.references for p in chosen])
        table[modality] = {"expected": expected, "scored": len(chosen), "metrics": metrics}
    return table


def library_versions() -> dict[str, str]:
    return {"python": platform.python_version()} | {name: version(name) for name in LIBRARIES}


def format_table(table: dict[str, Any]) -> str:
    """Markdown table of the metrics by modality."""
    lines = ["| modality | clips | " + " | ".join(METRICS) + " |", "|---|---|" + "---|" * len(METRICS)]
    for modality, row in table.items():
        partial = "" if row["scored"] == row["expected"] else f" of {row['expected']} (partial)"
        scores = [f"{row['metrics'][name]:.4f}" if name in row["metrics"] else "undefined" for name in METRICS]
        lines.append(f"| {modality} | {row['scored']}{partial} | " + " | ".join(scores) + " |")
    return "\n".join(lines)


def write_results(output: str | Path, results: dict[str, Any], predictions: Sequence[Prediction]):
    """Write `results.json` and `predictions.jsonl` into a new folder."""
    check_new_folder(output, "--output")
    output = Path(output)
    output.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(vars(prediction), ensure_ascii=False) for prediction in predictions]
    (output / "predictions.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (output / "results.json").write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


def read_predictions(path: str | Path) -> list[Prediction]:
    """Predictions written by [`write_results`]."""
    return [Prediction(**json.loads(line)) for line in Path(path).read_text(encoding="utf-8").splitlines()]
