"""LAVCap for Transformers: models, configurations and processors, and what training, evaluation and scripts share.

Taking a family's first name from this package makes the Auto classes know the family, so that
`AutoModel.from_pretrained` and its kin need no `trust_remote_code`. Nothing is imported before: a script's `--help`
needs neither torch nor Transformers.
"""

from importlib import import_module
from typing import Any


__version__ = "0.1.0"

# Where the names are. Of a family all files are imported with the first name.
_MODULES = {
    "AvcapConfig": "configuration_avcap",
    "AvcapFeatureExtractor": "processing_avcap",
    "AvcapForConditionalGeneration": "modeling_avcap",
    "AvcapProcessor": "processing_avcap",
    "CavMaeConfig": "configuration_avcap",
    "CavMaeModel": "modeling_avcap",
    "DaliConfig": "configuration_dali",
    "DaliFeatureExtractor": "processing_dali",
    "DaliForAlignment": "modeling_dali",
    "DaliForConditionalGeneration": "modeling_dali",
    "DaliProcessor": "processing_dali",
    "LavcapAudioConfig": "configuration_lavcap",
    "LavcapAudioModel": "modeling_lavcap",
    "LavcapConfig": "configuration_lavcap",
    "LavcapFeatureExtractor": "processing_lavcap",
    "LavcapForConditionalGeneration": "modeling_lavcap",
    "LavcapProcessor": "processing_lavcap",
    "MediaError": "media_captioning",
}

__all__ = list(_MODULES)


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    kind, _, family = _MODULES[name].partition("_")
    if kind != "media":
        import_module("configuration_captioning")  # first: it says so if Transformers is too old
        import_module(f"modeling_{family}")
        import_module(f"processing_{family}")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_MODULES])
