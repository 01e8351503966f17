"""LAVCap for Transformers: model, configuration and processor, and what training and evaluation share."""

from configuration_lavcap import LavcapAudioConfig, LavcapConfig
from media_lavcap import MediaError
from modeling_lavcap import LavcapAudioModel, LavcapForConditionalGeneration
from processing_lavcap import LavcapFeatureExtractor, LavcapProcessor


__version__ = "0.1.0"

__all__ = [
    "LavcapAudioConfig",
    "LavcapAudioModel",
    "LavcapConfig",
    "LavcapFeatureExtractor",
    "LavcapForConditionalGeneration",
    "LavcapProcessor",
    "MediaError",
]
