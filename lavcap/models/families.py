"""Families of captioners: which one a saved model is of, and its classes.

The Auto classes know a family by its `model_type` once its flat files, `modeling_<model_type>` and
`processing_<model_type>`, are imported. Nothing else in the tools tells families apart.
"""

import inspect
import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from transformers import CONFIG_MAPPING, MODEL_FOR_MULTIMODAL_LM_MAPPING, PROCESSOR_MAPPING
from transformers.utils import cached_file

from configuration_captioning import CaptioningConfig
from modeling_captioning import ClipModel
from parts_captioning import find_file, read_json
from processing_captioning import CaptioningProcessor
from weights_captioning import WeightsError


DEFAULT_FAMILY = "lavcap"  # of a recipe that names none


def load_processor(name_or_path: str | Path, overrides: dict[str, Any] | None = None) -> CaptioningProcessor:
    """Processor that is saved with a model.

    Args:
        overrides: fields of the model's configuration that differ from the saved ones; those that the processor has,
            too, are told to it.
    """
    kind = processor_class(type_of(name_or_path))
    known = inspect.signature(kind.__init__).parameters
    options = {name: value for name, value in (overrides or {}).items() if name in known}
    with errors_of(name_or_path):
        return kind.from_pretrained(name_or_path, trust_remote_code=False, **options)  # asks nobody whether to run it


def load_config(name_or_path: str | Path) -> CaptioningConfig:
    """Configuration that is saved with a model."""
    kind = config_class(type_of(name_or_path))
    with errors_of(name_or_path):
        return kind.from_pretrained(name_or_path)


def is_out_of_memory(error: Exception) -> bool:
    """Whether torch found no room on a device, or on the CPU."""
    return isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error)


@contextmanager
def errors_of(
    name_or_path: str | Path, fault: str = "cannot be loaded", advice: str = "copy or save it again"
) -> Iterator[None]:
    """Whatever the libraries raise about the files of a saved model, in one line.

    Raises:
        ValueError: with the name of the model.
    """
    try:
        yield
    except WeightsError:
        raise
    except Exception as error:
        words = " ".join(str(error).split())
        if isinstance(error, MemoryError) or is_out_of_memory(error):
            advice = "it takes more memory than there is"
        ours = isinstance(error, (ValueError, OSError))
        if ours and words == str(error) and str(name_or_path) in words:
            raise
        kind = "" if ours else f"{type(error).__name__}: "
        raise ValueError(f"{name_or_path}: {fault} ({kind}{words[:500]}); {advice}.") from error


def config_class(model_type: str) -> type[CaptioningConfig]:
    """Configuration of a family.

    Raises:
        ValueError: there is no captioner of this type.
    """
    if not isinstance(model_type, str):
        raise ValueError(f"model_type is {model_type!r}, expected a text, such as {DEFAULT_FAMILY!r}.")
    _import_family(model_type)
    found = CONFIG_MAPPING[model_type] if model_type in CONFIG_MAPPING else None  # noqa: SIM401 (no dict)
    if found not in MODEL_FOR_MULTIMODAL_LM_MAPPING or not issubclass(found, CaptioningConfig):
        raise ValueError(f"model_type is {model_type!r}, expected that of a captioner, such as {DEFAULT_FAMILY!r}.")
    return found


def model_class(model_type: str, name: str | None = None) -> type[ClipModel]:
    """Captioner of a family, or another of its models by the name of its class; raises as [`config_class`]."""
    captioner = MODEL_FOR_MULTIMODAL_LM_MAPPING[config_class(model_type)]
    if name is None:
        return captioner
    models = vars(import_module(captioner.__module__)).values()
    known = {each.__name__: each for each in models if isinstance(each, type) and issubclass(each, ClipModel)}
    known = {each: kind for each, kind in known.items() if kind.__module__ == captioner.__module__}
    if name not in known:
        raise ValueError(f"model_class is {name!r}, expected one of {', '.join(known)}.")
    return known[name]


def processor_class(model_type: str) -> type[CaptioningProcessor]:
    """Processor of a family; raises as [`config_class`]."""
    return PROCESSOR_MAPPING[config_class(model_type)]


def type_of(name_or_path: str | Path) -> str:
    """`model_type` of a saved model, which a folder or a name on the Hub holds."""
    return read_json(find_file(name_or_path, "config.json", {})).get("model_type") or DEFAULT_FAMILY


def check_name(name_or_path: str | Path, has_owner: bool = True):
    """Refuse what is neither a folder nor can be a name on the Hub.

    `has_owner`: whether it must be a name with its owner; old models have none, such as `gpt2`.
    """
    path = Path(name_or_path)
    is_short = len(path.parts) == 1 and not has_owner
    is_name = (is_short or len(path.parts) == 2) and not path.is_absolute() and path.parts[0] not in (".", "..")
    if not is_name and not os.path.exists(path):
        raise ValueError(f"{path}: no such folder, and not a name on the Hub (owner/model); check the path.")


def check_model_name(name_or_path: str | Path):
    """Refuse a folder that is missing or holds no captioner, and a name of which the Hub has no model for us."""
    path = Path(name_or_path)
    check_name(path)
    if not os.path.exists(path):
        cached_file(str(path), "config.json")  # raises what the Hub says
        return
    if not (path / "config.json").is_file():
        raise ValueError(f"{path}: holds no config.json, expected a folder written by save_pretrained or train_hf.py.")
    kind = read_json(path / "config.json").get("model_type")
    if not is_captioner(kind):
        raise ValueError(f"{path}: holds a model of type {kind!r}, expected a captioner, such as {DEFAULT_FAMILY!r}.")


def is_captioner(model_type: str | None) -> bool:
    """Whether a model of this type is one that the tools take."""
    try:
        return bool(config_class(model_type or ""))
    except ValueError:
        return False


# -------------------------------------------------------------------------------------------------------- internals


def _import_family(model_type: str):
    for kind in ("modeling", "processing"):
        if model_type.isidentifier() and find_spec(f"{kind}_{model_type}"):
            import_module(f"{kind}_{model_type}")
