"""Batches of clips: with random changes for training, as they are for evaluation."""

from collections.abc import Sequence
from typing import Any

import torch
from transformers import BatchFeature

from lavcap.augmentation import Augmentation
from processing_lavcap import LavcapProcessor


class TrainingCollator:
    """Batches with labels of clips that are changed at random, see [`Augmentation`].

    Both modalities of a clip that loses one stay in the batch and are masked: what runs does not depend on the draw.
    Every draw comes from the `seed` of its clip, none from the state of the process.

    Args:
        processor: writes prompts and placeholders.
        augmentation: what is drawn; default: nothing.
    """

    def __init__(self, processor: LavcapProcessor, augmentation: Augmentation | None = None):
        self.processor = processor
        self.augmentation = augmentation or Augmentation()
        extractor = processor.feature_extractor
        self.augmentation.check_fits(extractor.max_frames, extractor.feature_size)
        self._masked_value = -extractor.mean / extractor.std

    def __call__(self, items: Sequence[dict[str, Any]]) -> BatchFeature:
        if items[0].get("skipped"):  # of a stream: the batch is thrown away, see `ClipStream.set_epoch`
            return BatchFeature()
        draws = [torch.Generator().manual_seed(item["seed"]) for item in items]
        # Always drawn, in this order: one clip's lack of a modality must not shift what is drawn after it.
        hidden = [self.augmentation.hidden_modality(draw) for draw in draws]
        texts = [self.augmentation.instruction(draw) or self.processor.instruction for draw in draws]
        whole = [len(item["features"]) == 2 for item in items]
        return self.processor.batch(
            [self._changed(item["features"], draw) for item, draw in zip(items, draws, strict=True)],
            text=texts,
            captions=[item["captions"][0] for item in items],
            audio_mask=[not (both and lost == "audio") for both, lost in zip(whole, hidden, strict=True)],
            video_mask=[not (both and lost == "video") for both, lost in zip(whole, hidden, strict=True)],
        )

    def _changed(self, features: dict[str, torch.Tensor], draw: torch.Generator) -> dict[str, torch.Tensor]:
        if "input_features" not in features:
            return features
        changed = self.augmentation.spectrum(features["input_features"], self._masked_value, draw)
        return features | {"input_features": changed}


class EvaluationCollator:
    """Batches with labels for the loss, and the prompt alone, left-padded, for generation (`generation_*`).

    Nothing is drawn: the instruction is the processor's, and the clip is whole.
    """

    def __init__(self, processor: LavcapProcessor):
        self.processor = processor

    def __call__(self, items: Sequence[dict[str, Any]]) -> BatchFeature:
        features = [item["features"] for item in items]
        batch = self.processor.batch(features, captions=[item["captions"][0] for item in items])
        prompt = self.processor.batch(features)
        batch["generation_input_ids"] = prompt["input_ids"]
        batch["generation_attention_mask"] = prompt["attention_mask"]
        return batch
