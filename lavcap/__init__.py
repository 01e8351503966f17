"""LAVCap for Transformers: model, configuration and processor, and what training and evaluation share.

Importing this package makes the Auto classes know LAVCap, so that `AutoModel.from_pretrained` and its kin need no
`trust_remote_code`.
"""

import configuration_lavcap  # noqa: F401, I001, first: it says so if Transformers is too old
from transformers import (
    AutoConfig,
    AutoFeatureExtractor,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoModelForMultimodalLM,
    AutoProcessor,
)

from configuration_lavcap import LavcapAudioConfig, LavcapConfig
from media_captioning import MediaError
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

AutoConfig.register(LavcapConfig.model_type, LavcapConfig, exist_ok=True)
AutoConfig.register(LavcapAudioConfig.model_type, LavcapAudioConfig, exist_ok=True)
AutoModel.register(LavcapAudioConfig, LavcapAudioModel, exist_ok=True)
AutoProcessor.register(LavcapConfig, LavcapProcessor, exist_ok=True)
AutoFeatureExtractor.register(LavcapConfig, LavcapFeatureExtractor, exist_ok=True)
for auto_class in (AutoModel, AutoModelForCausalLM, AutoModelForImageTextToText, AutoModelForMultimodalLM):
    auto_class.register(LavcapConfig, LavcapForConditionalGeneration, exist_ok=True)
