"""Clips for tests: sounds, pictures, and inputs of a model."""

import numpy as np
import torch


def clip_inputs(
    model, batch: int = 2, audio: bool = True, video: bool = True, frames: int = 4
) -> dict[str, torch.Tensor]:
    """Random clips with fitting placeholders for `tiny_config`: 3 audio and 4 video tokens."""
    generator = torch.Generator().manual_seed(1)
    tokens = [1, 5, *[model.config.av_token_id] * (3 * audio + frames * video), 6, 7]
    inputs = {"input_ids": torch.tensor([tokens] * batch)}
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    if audio:
        inputs["input_features"] = torch.randn(batch, 48, 64, generator=generator)
    if video:
        inputs["pixel_values_videos"] = torch.randn(batch, frames, 3, 16, 16, generator=generator)
    return inputs


def placeholders(processor, inputs) -> list[int]:
    return (inputs["input_ids"] == processor.av_token_id).sum(dim=1).tolist()


def sound(seconds: float = 0.4) -> np.ndarray:
    return np.random.default_rng(0).normal(0, 0.1, int(16000 * seconds)).astype(np.float32)


def pictures(count: int = 6) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 20, 24, 3), dtype=np.uint8)
