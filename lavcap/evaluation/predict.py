"""Captions of a split from one checkpoint, by what the model is given of each clip."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm

from lavcap.data.batches import in_batches
from lavcap.data.dataset import ClipDataset
from lavcap.evaluation.names import MODALITIES, OTHER_VIDEO
from lavcap.evaluation.predictions import Prediction
from lavcap.models.captioning import caption_features
from modeling_captioning import CaptioningModel
from processing_captioning import CaptioningProcessor


OTHER_VIDEO_SEED = 0
SAMPLING_SEED = 42
DECODING = ("num_beams", "max_new_tokens", "do_sample", "temperature", "length_penalty", "repetition_penalty")


FeatureNames = Mapping[str, Sequence[str]]  # by modality, as a processor tells them


def predict(
    model: CaptioningModel,
    processor: CaptioningProcessor,
    dataset: ClipDataset,
    modality: str,
    batch_size: int,
    progress: tqdm | None = None,
    **options: Any,
) -> list[Prediction]:
    """Caption every clip of a data set that has the modality. A model that samples draws the same each time.

    Args:
        modality: one of `MODALITIES`; what it does not name is withheld from the model. With `audio+other_video` each
            clip comes with the frames of another clip of the data set: [`other_clips`].
        progress: bar of the work that this is a part of; default: one of its own.
        options: for `generate`.
    """
    predictions = []
    torch.manual_seed(SAMPLING_SEED)
    with _bar(len(dataset), modality) if progress is None else nullcontext(progress) as progress:
        for batch in in_batches(_given(dataset, modality, processor.feature_names), batch_size):
            captions = caption_features(model, processor, [item["features"] for item in batch], **options)
            predictions += [
                Prediction(item["id"], modality, caption, list(item["captions"]), item.get("video_of"))
                for item, caption in zip(batch, captions, strict=True)
            ]
            progress.update(len(batch))
    if not predictions:
        raise ValueError(f"None of the {len(dataset)} clips has {modality}: leave it out of --modalities.")
    return predictions


def _bar(clips: int, modality: str) -> tqdm:
    return tqdm(total=clips, desc=f"Captioning from {modality}", unit="clip")


def _given(dataset: ClipDataset, modality: str, names: FeatureNames) -> Iterator[dict[str, Any]]:
    """Clips that have the modality, with those features that the model is given."""
    if modality == OTHER_VIDEO:
        yield from _with_other_videos(dataset, names)
        return
    for item in (dataset[index] for index in range(len(dataset))):
        if has_modality(item["features"], modality, names):
            yield item | {"features": keep_modality(item["features"], modality, names)}


def _with_other_videos(dataset: ClipDataset, names: FeatureNames) -> Iterator[dict[str, Any]]:
    items = ((dataset[index], index) for index in range(len(dataset)))
    whole = [(item["id"], index) for item, index in items if has_modality(item["features"], "audio+video", names)]
    whole = [index for _, index in sorted(whole)]  # who sees whose picture must not depend on the order of rows
    for index, other in zip(whole, other_clips(len(whole)), strict=False):  # a lone clip has no other
        item, seen = dataset[index], dataset[whole[other]]
        features = keep_modality(item["features"], "audio", names)
        features |= keep_modality(seen["features"], "video", names)
        yield item | {"features": features, "video_of": seen["id"]}


def other_clips(number: int, seed: int = OTHER_VIDEO_SEED) -> list[int]:
    """For each of some clips another one, and each once: the clips stand in a random ring, and each sees the next.

    The ring depends on the number of clips and the seed alone. With fewer than two clips there is no other: none.
    """
    if number < 2:
        return []
    ring = np.random.default_rng(seed).permutation(number)
    others = np.empty(number, dtype=int)
    others[ring] = np.roll(ring, -1)
    return others.tolist()


def keep_modality(features: dict[str, Any], modality: str, names: FeatureNames) -> dict[str, Any]:
    """Features of a clip without those of the other modality; `audio+other_video` keeps the sound."""
    if modality not in MODALITIES:
        raise ValueError(f"modality is {modality!r}, expected one of {', '.join(MODALITIES)}.")
    kept = {name for kind in modality.split("+") for name in names.get(kind, ())}
    return {name: value for name, value in features.items() if name in kept}


def has_modality(features: dict[str, Any], modality: str, names: FeatureNames) -> bool:
    return all(any(name in features for name in names[kind]) for kind in modality.split("+"))


def usable_modalities(processor: CaptioningProcessor) -> tuple[str, ...]:
    """What a model can be evaluated from: everything in `MODALITIES`, or the one modality of a baseline."""
    return MODALITIES if len(processor.modalities) == 2 else processor.modalities


def available_modalities(processor: CaptioningProcessor, shown: Sequence[set[str]]) -> list[str]:
    """Of what a model can be evaluated from, what some clips have, given the modalities that each clip shows."""
    clips = {kind: sum(kind in kinds for kinds in shown) for kind in ("audio", "video")}
    clips["audio+video"] = sum(len(kinds) == 2 for kinds in shown)
    clips[OTHER_VIDEO] = clips["audio+video"] - 1  # a lone clip has no other one to take frames from
    return [modality for modality in usable_modalities(processor) if clips[modality] > 0]


def decoding_settings(model: CaptioningModel, options: dict[str, Any]) -> dict[str, Any]:
    """How captions are decoded: the model's settings, and what was asked for instead."""
    settings = {name: getattr(model.generation_config, name) for name in DECODING} | options
    return {name: value for name, value in settings.items() if value is not None}
