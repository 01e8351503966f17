"""One batch of clips through a model."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from modeling_captioning import CaptioningModel
from processing_captioning import CaptioningProcessor


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


@torch.no_grad()
def alignment(
    model: CaptioningModel, processor: CaptioningProcessor, clip: dict[str, torch.Tensor]
) -> np.ndarray | None:
    """Plan of one clip, `(video_tokens, audio_tokens)` float32, as a multiple of the even plan; `None`: it has none.

    Args:
        clip: features, from [`CaptioningProcessor.clip_features`].
    """
    names = {name for each in processor.feature_names.values() for name in each}
    inputs = processor.batch([clip]).to(model.device)
    plan = model.get_alignment(**{name: value for name, value in inputs.items() if name in names})
    return None if plan is None else (plan[0] * plan[0].numel()).float().cpu().numpy()


def generation_options(**options: Any) -> dict[str, Any]:
    """Those options of `generate` that were given; the others stay with the model's `generation_config`."""
    return {name: value for name, value in options.items() if value is not None}
