"""LAVCap for Transformers: model, configuration and processor, and what training and evaluation share.

Taking a name of this package makes the Auto classes know LAVCap, so that `AutoModel.from_pretrained` and its kin need
no `trust_remote_code`; importing it loads nothing.
"""

from typing import Any


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


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import configuration_lavcap
    import media_captioning
    import modeling_lavcap
    import processing_lavcap

    modules = (configuration_lavcap, modeling_lavcap, processing_lavcap, media_captioning)
    return next(getattr(module, name) for module in modules if hasattr(module, name))
