"""Batches of clips: with random changes for training, as they are for evaluation.

Beside what the model takes, a batch holds the ids of its clips under `clip_ids`, and under `broken`, by id, why a clip
of it cannot be read. A broken clip keeps its row, which counts for nothing: no modality, no label.
"""

from collections.abc import Mapping, MutableMapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from transformers import BatchFeature

from lavcap.data.augmentation import Augmentation


if TYPE_CHECKING:
    from processing_captioning import CaptioningProcessor


CLIP_IDS, BROKEN, REPEATED = "clip_ids", "broken", "repeated"


class TrainingCollator:
    """Batches with labels of clips that are changed at random, see [`Augmentation`].

    Every batch holds every modality that the model takes, masked where a clip loses or lacks it: what runs depends
    neither on a draw nor on the clips, so that all processes do the same. Every draw comes from the `seed` of its
    clip, none from the state of the process.

    Args:
        processor: writes prompts and placeholders.
        augmentation: what is drawn; default: nothing.
        stored_size: width of the stored visual features, where the data set has some; default: it has pictures.
    """

    def __init__(
        self,
        processor: "CaptioningProcessor",
        augmentation: Augmentation | None = None,
        stored_size: int | None = None,
    ):
        self.processor = processor
        self.augmentation = augmentation or Augmentation()
        self.blanks = Blanks(processor, stored_size)
        extractor = processor.feature_extractor
        if self.augmentation.instructions and not processor.takes_instruction:
            raise ValueError(f"Got instructions, but {processor.config_class.family} takes none: leave them out.")
        self.augmentation.check_fits(extractor.max_frames, extractor.feature_size)
        self._masked_value = -extractor.mean / extractor.std

    def __call__(self, items: Sequence[dict[str, Any]]) -> BatchFeature:
        if items[0].get("skipped"):  # of a stream: the batch is thrown away, see `ClipStream.set_epoch`
            return BatchFeature()
        draws = [torch.Generator().manual_seed(item["seed"]) for item in items]
        # Always drawn, in this order: one clip's lack of a modality must not shift what is drawn after it.
        hidden = [self.augmentation.hidden_modality(draw) for draw in draws]
        texts = None
        if self.processor.takes_instruction:
            texts = [self.augmentation.instruction(draw) or self.processor.instruction for draw in draws]
        features = [self._changed(item["features"], draw) for item, draw in zip(items, draws, strict=True)]
        masks = self.blanks.masks(items, hidden)
        batch = self.processor.batch(self.blanks.fill(features), text=texts, captions=_captions(items), **masks)
        return self.blanks.name_clips(batch, items)

    def _changed(self, features: dict[str, torch.Tensor], draw: torch.Generator) -> dict[str, torch.Tensor]:
        names = [name for name in self.processor.feature_names.get("audio", ()) if name in features]
        changed = {name: self.augmentation.spectrum(features[name], self._masked_value, draw) for name in names}
        return features | changed


class EvaluationCollator:
    """Batches with labels for the loss, and the prompt alone, left-padded, for generation (`generation_*`).

    Nothing is drawn: the instruction is the processor's, and the clip is whole. Modalities are as in training.

    Args:
        processor, stored_size: as of [`TrainingCollator`].
        missing_modality: what training shows of no clip, and no clip shows here.
    """

    def __init__(
        self,
        processor: "CaptioningProcessor",
        stored_size: int | None = None,
        missing_modality: str | None = None,
    ):
        self.processor = processor
        self.blanks = Blanks(processor, stored_size)
        self.missing_modality = missing_modality

    def __call__(self, items: Sequence[dict[str, Any]]) -> BatchFeature:
        masks = self.blanks.masks(items, [self.missing_modality] * len(items))
        features = self.blanks.fill([item["features"] for item in items])
        batch = self.processor.batch(features, captions=_captions(items), **masks)
        prompt = self.processor.batch(features, **masks)
        batch["generation_input_ids"] = prompt["input_ids"]
        batch["generation_attention_mask"] = prompt["attention_mask"]
        return self.blanks.name_clips(batch, items)


class Blanks:
    """What stands where a clip has nothing: in the place of a modality that it lacks, and of a clip that is broken.

    Args:
        processor, stored_size: as of [`TrainingCollator`].
    """

    def __init__(self, processor: "CaptioningProcessor", stored_size: int | None):
        self.processor = processor
        self.stored_size = stored_size

    def fill(self, clips: Sequence[dict[str, torch.Tensor]]) -> list[dict[str, torch.Tensor]]:
        """The clips with all that the model takes: another clip's in a gap, or zeros where no clip has it.

        Zeros in each gap would move the statistics of BatchNorm more.
        """
        filling: dict[str, torch.Tensor] = {}
        for clip in reversed(clips):
            filling |= clip
        for kind in self.processor.modalities:
            names = self.processor.feature_names[kind]
            if filling.keys().isdisjoint(names):
                filling |= {name: self._zeros[name] for name in names if name in self._zeros}
        return [filling | clip for clip in clips]

    def masks(
        self, items: Sequence[dict[str, Any]], hidden: Sequence[str | None] | None = None
    ) -> dict[str, list[bool]]:
        """Which clips show which modality, as `audio_mask` and `video_mask`; `hidden` is what each clip is to lose."""
        pairs = list(zip(items, hidden or [None] * len(items), strict=True))
        return {
            f"{kind}_mask": [self._shows(kind, item["features"], lost) for item, lost in pairs]
            for kind in self.processor.modalities
        }

    def name_clips(self, batch: BatchFeature, items: Sequence[dict[str, Any]]) -> BatchFeature:
        """Note which clips the batch is of and which of them are broken, and blank the rows of these.

        So are rows that a stream has repeated, which are no clips of the batch. A clip without a caption has no label.
        """
        batch["labels"][torch.tensor([not item["captions"] for item in items])] = -100
        rows = [row for row, item in enumerate(items) if not item["features"] or item.get(REPEATED)]
        if rows:
            blank(batch, torch.tensor(rows), self.processor)
        clips = [item for item in items if not item.get(REPEATED)]
        batch[CLIP_IDS] = [item["id"] for item in clips]
        batch[BROKEN] = {item["id"]: self._reason(item) for item in clips if not item["features"]}
        return batch

    def _shows(self, kind: str, features: Mapping[str, torch.Tensor], hidden: str | None) -> bool:
        """Whether a row shows a modality; only one that shows another can lose it. A broken clip is blanked later."""
        names = self.processor.feature_names
        shown = [each for each in self.processor.modalities if not features.keys().isdisjoint(names[each])]
        return not features or (kind in shown and not (kind == hidden and len(shown) > 1))

    def _reason(self, item: dict[str, Any]) -> str:
        return item.get(BROKEN) or f"has no {' and no '.join(self.processor.modalities)}, which the model takes"

    @cached_property
    def _zeros(self) -> dict[str, torch.Tensor]:
        return self.processor.blank_features(self.stored_size)


def blank(batch: MutableMapping[str, Any], rows: torch.Tensor, processor: "CaptioningProcessor"):
    """Make rows of a batch count for nothing: padding, without a modality or a label.

    One token of each is attended to: a softmax of nothing is NaN.

    Args:
        batch: of a collator, whose tensors are written to.
        rows: their numbers, `(rows,)` int64.
        processor: that made the batch.
    """
    for prefix, attended in (("", 0), ("generation_", -1)):
        if f"{prefix}input_ids" in batch:
            batch[f"{prefix}input_ids"][rows] = processor.pad_token_id
            batch[f"{prefix}attention_mask"][rows] = 0
            batch[f"{prefix}attention_mask"][rows, attended] = 1
    if "labels" in batch:
        batch["labels"][rows] = -100
    given = any_tensor(batch)
    for kind in processor.modalities:
        present = batch.get(f"{kind}_mask", torch.ones(len(given), dtype=torch.bool, device=given.device))
        present[rows] = False
        batch[f"{kind}_mask"] = present


def any_tensor(batch: Mapping[str, Any]) -> torch.Tensor:
    """A tensor of a batch, which tells how many rows there are, and on which device."""
    return next(value for value in batch.values() if isinstance(value, torch.Tensor))


def stored_size(model, example: Any) -> int | None:
    """What a model's collators are told of stored visual features, by those of one clip; `None`: it has pictures.

    A model that takes no media has no other way to see.
    """
    return None if example is None and model.takes_media else model.stored_feature_size


def model_inputs(batch: Mapping[str, Any]) -> dict[str, Any]:
    """A batch without what is said about its clips."""
    return {name: value for name, value in batch.items() if name not in (CLIP_IDS, BROKEN)}


def _captions(items: Sequence[dict[str, Any]]) -> list[str]:
    return [item["captions"][0] if item["captions"] else "" for item in items]
