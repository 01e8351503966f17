"""The frozen image encoder that stored visual features come from: a captioner's own, or CLIP."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import CLIPVisionModelWithProjection

from lavcap.data.dataset import as_file
from lavcap.data.precomputed_features import FeatureFacts, encoder_name, weights_digest
from lavcap.models.families import check_name, is_captioner
from lavcap.models.loading import choose_device, load_model
from media_captioning import even_indices
from parts_captioning import find_file, load_part, published_name, read_json
from pictures_captioning import read_images
from processing_captioning import CaptioningProcessor, clip_image_processor


CLIP_FRAMES = 20  # of a clip, where a plain CLIP is named: those of the released LAVCap


@dataclass(frozen=True)
class FeatureEncoder:
    """An image encoder and what prepares frames for it.

    Args:
        name: as its authors published it.
        module: the encoder.
        embed: pixels `(batch, video_frames, 3, height, width)` to features `(batch, video_frames, hidden)`.
        hidden_size: width of a feature.
        image_processor: frames to pixels.
        num_frames: frames that it sees of a clip.
        frame_sampler: how these are chosen.
    """

    name: str
    module: nn.Module
    embed: Callable[[torch.Tensor], torch.Tensor]
    hidden_size: int
    image_processor: Any
    num_frames: int = CLIP_FRAMES
    frame_sampler: str = CaptioningProcessor.frame_sampler

    @property
    def facts(self) -> FeatureFacts:
        """What is noted beside its features."""
        dtype = str(self.module.dtype).removeprefix("torch.")
        digest = weights_digest(self.module)
        return FeatureFacts(self.name, digest, self.frame_sampler, self.num_frames, self.hidden_size, dtype)

    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        """Features `(batch, video_frames, hidden)` of pixels, wherever these are, in whatever dtype."""
        return self.embed(pixels.to(self.module.device, self.module.dtype))

    def read_pixels(self, row: dict[str, Any]) -> torch.Tensor:
        """Pixels of a row of a data set, `(video_frames, 3, height, width)`.

        Raises:
            MediaError: its frames cannot be read.
        """
        images = [as_file(frame) for frame in row["frames"]]
        frames = read_images(images, even_indices(len(images), self.num_frames))
        pixels = self.image_processor(list(frames), return_tensors="pt", input_data_format="channels_last")
        return pixels["pixel_values"]


def load_feature_encoder(
    name_or_path: str | Path, device: str | None = None, dtype: str | None = None
) -> FeatureEncoder:
    """The image encoder of a captioner, or a CLIP.

    Args:
        name_or_path: folder, or name on the Hub.
        device, dtype: as of [`lavcap.models.loading.choose_device`].

    Raises:
        ValueError: neither a captioner nor a CLIP, or a captioner without an image encoder.
    """
    device, dtype = choose_device(device, dtype)
    check_name(name_or_path)
    kind = read_json(find_file(name_or_path, "config.json", {})).get("model_type")
    if is_captioner(kind):
        return _of_captioner(name_or_path, device, dtype)
    if kind not in ("clip", "clip_vision_model"):
        raise ValueError(f"{name_or_path}: holds a model of type {kind!r}, expected CLIP or LAVCap; check --model.")
    clip = load_part(CLIPVisionModelWithProjection, name_or_path, getattr(torch, dtype)).to(device).eval()

    def embed(pixels: torch.Tensor) -> torch.Tensor:
        return clip(pixels.flatten(0, 1)).image_embeds.unflatten(0, pixels.shape[:2])

    image_processor = clip_image_processor(clip.config.image_size)
    return FeatureEncoder(published_name(name_or_path), clip, embed, clip.config.projection_dim, image_processor)


def _of_captioner(name_or_path: str | Path, device: str, dtype: str) -> FeatureEncoder:
    model, processor = load_model(name_or_path, device, dtype)
    if model.feature_encoder is None:
        raise ValueError(f"{name_or_path}: has no vision tower; pass the CLIP that it takes features of.")

    def embed(pixels: torch.Tensor) -> torch.Tensor:
        return model.get_video_features(pixels, return_dict=True).pooler_output

    return FeatureEncoder(
        encoder_name(model),
        model.feature_encoder,
        embed,
        model.stored_feature_size,
        processor.image_processor,
        processor.num_video_frames,
        processor.frame_sampler,
    )
