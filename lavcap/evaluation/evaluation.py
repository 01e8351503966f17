"""A model on a split: its captions of every clip, by what it is given of each, and their scores."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lavcap.data.dataset import ClipDataset
from lavcap.data.manifest import read_facts, take_rows
from lavcap.data.precomputed_features import check_features_fit
from lavcap.data.shards import stored_example
from lavcap.data.splits import check_media, read_split, shown_modalities
from lavcap.evaluation.names import MODALITIES
from lavcap.evaluation.predict import available_modalities, decoding_settings, predict, usable_modalities
from lavcap.evaluation.predictions import check_references
from lavcap.evaluation.results import TEST_MARKS
from lavcap.evaluation.scoring import Scores, Scoring
from lavcap.models.captioning import generation_options
from lavcap.models.families import check_model_name
from lavcap.models.loading import load_model
from lavcap.models.weight_files import fingerprint
from lavcap.provenance import read_provenance
from modeling_captioning import CaptioningModel
from processing_captioning import CaptioningProcessor


class Evaluation:
    """A model and the clips that it is tested on, read and checked.

    Args:
        model: folder of a trained model, or its name on the Hub.
        data_dir, split: of the clips.
        modalities: some of `MODALITIES`; default: all that the model and the clips allow.
        batch_size: clips captioned at a time.
        max_clips: the first clips only; default: all.
        skip_missing_media: do without clips whose media are missing, in place of refusing.
        device: as of [`lavcap.models.loading.choose_device`].
        parts_from, overrides: as of [`lavcap.models.loading.load_model`].
        decoding: options of `generate`; those that are `None` stay with the model.

    Raises:
        ValueError: no such model or split, clips without references, or a modality that cannot be given.
    """

    def __init__(
        self,
        model: str,
        data_dir: str | Path,
        split: str = "test",
        *,
        modalities: Sequence[str] | None = None,
        batch_size: int = 32,
        max_clips: int | None = None,
        skip_missing_media: bool = False,
        device: str | None = None,
        parts_from: str | None = None,
        overrides: dict[str, Any] | None = None,
        **decoding: Any,
    ):
        check_model_name(model)
        rows, missing = read_split(data_dir, split)
        check_media(rows, missing, data_dir, split, skip_missing_media)
        self.expected = [*rows["id"], *missing]
        if max_clips is not None:
            rows = take_rows(rows, range(min(max_clips, len(rows))))
        check_references(data_dir, dict(zip(rows["id"], rows["captions"], strict=True)))
        self.provenance, self.name, self.data_dir, self.split = read_provenance(model), model, data_dir, split
        self.model, self.processor = load_model(
            model, device, sees_media=False, parts_from=parts_from, overrides=overrides
        )
        if "video" in self.processor.modalities:
            check_features_fit(self.model, self.processor, data_dir, split, stored_example(rows))
        self.modalities = _choose_modalities(modalities, self.processor, shown_modalities(rows))
        self.rows, self.batch_size, self.decoding = rows, batch_size, generation_options(**decoding)

    def score(self, scoring: Scoring) -> Scores:
        """Captions from each modality, and their scores."""
        width, several = self.model.stored_feature_size, len(self.modalities) > 1
        dataset = ClipDataset(self.rows, self.processor, cache=several, stored_size=width).preload("Reading clips")
        start = time.perf_counter()
        predictions = [
            prediction
            for modality in self.modalities
            for prediction in predict(self.model, self.processor, dataset, modality, self.batch_size, **self.decoding)
        ]
        run = self._describe(round(time.perf_counter() - start, 1))
        noted_version = read_facts(self.data_dir).get(self.split, {}).get("dataset_version")
        return scoring.score(predictions, self.expected, run, noted_version)

    def _describe(self, seconds: float) -> dict[str, Any]:
        run = {"data_dir": self.data_dir, "split": self.split, "captioning_seconds": seconds}
        return describe_model(self.name, self.model, self.provenance, self.decoding) | run


def describe_model(
    name: str, model: CaptioningModel, provenance: dict[str, Any], options: dict[str, Any]
) -> dict[str, Any]:
    """What results say of the model that captioned: its origin, how it decodes, and what a test has told it.

    Args:
        name: of its folder, or on the Hub.
        provenance: from [`read_provenance`].
        options: for `generate`.
    """
    described = {
        "model": name,
        "revision": getattr(model.config, "_commit_hash", None),
        "weights": fingerprint(name),
        "decoding": decoding_settings(model, options),
    }
    return described | {mark: provenance[mark] for mark in TEST_MARKS if provenance.get(mark)}


def _choose_modalities(
    asked: Sequence[str] | None, processor: CaptioningProcessor, shown: Sequence[set[str]]
) -> Sequence[str]:
    """What is asked for, by default all that there is, given the modalities that each clip shows."""
    usable = usable_modalities(processor)
    if unknown := [modality for modality in asked or () if modality not in MODALITIES]:
        raise ValueError(f"--modalities {' '.join(unknown)}: unknown; expected some of {', '.join(MODALITIES)}.")
    if unusable := [modality for modality in asked or () if modality not in usable]:
        raise ValueError(
            f"--modalities {' '.join(unusable)}: the model is a baseline on {processor.modalities[0]} alone; leave "
            "the option out."
        )
    if asked:
        return list(dict.fromkeys(asked))
    return available_modalities(processor, shown)
