"""Captions for many clips: which clips are meant, and one batch of them through a model."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch

from media_captioning import IMAGE_SUFFIXES, MEDIA_SUFFIXES, MediaError, list_folder
from modeling_captioning import CaptioningModel
from processing_captioning import CaptioningProcessor


Item = TypeVar("Item")


def caption_features(
    model: CaptioningModel,
    processor: CaptioningProcessor,
    clips: Sequence[dict[str, torch.Tensor]],
    instruction: str | None = None,
    **options,
) -> list[str]:
    """Caption one batch of clips.

    Args:
        clips: features of each clip, from [`CaptioningProcessor.clip_features`].
        instruction: what to ask; default: the processor's.
        options: for `generate`; default: the model's `generation_config`.
    """
    inputs = processor.batch(clips, text=instruction).to(model.device)
    return processor.decode_captions(model.generate(**inputs, **options), inputs)


def list_clips(paths: Iterable[str | Path]) -> list[Path]:
    """Clips that are meant by some paths: files, folders of frames, and folders of clips, which are opened.

    Raises:
        MediaError: a folder holds no clip, or media files and loose images side by side.
    """
    return [clip for path in paths for clip in _clips_of(Path(path))]


def _clips_of(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    entries = list_folder(path)
    media = [entry for entry in entries if entry.suffix.lower() in MEDIA_SUFFIXES]
    images = [entry for entry in entries if entry.suffix.lower() in IMAGE_SUFFIXES]
    if media and images:
        raise MediaError(
            f"{path}: holds {len(media)} media files and {len(images)} images; put the frames of a clip into a folder "
            "of their own."
        )
    if not media and not images:
        raise MediaError(f"{path}: a folder with neither media files nor images; pass a clip or a folder of clips.")
    return media or [path]


def generation_options(**options: Any) -> dict[str, Any]:
    """Those options of `generate` that were given; the others stay with the model's `generation_config`."""
    return {name: value for name, value in options.items() if value is not None}
