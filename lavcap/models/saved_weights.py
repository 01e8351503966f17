"""Whether the weight files of a saved model are those of the model that its configuration describes.

The library makes up what is missing, with a warning in a log, and takes values as they are: a model that lost a tensor
still writes captions, worse ones. Here such a folder is refused.
"""

import os
import re
from collections.abc import Iterable, Mapping
from itertools import chain
from pathlib import Path

import torch
from safetensors import safe_open
from torch import nn

from adapters_captioning import ADAPTER_SETTINGS, ADAPTER_WEIGHTS, check_bases
from configuration_captioning import CaptioningConfig
from lavcap.models.decoding import check_decoding
from lavcap.models.families import check_model_name, errors_of, load_config, model_class
from lavcap.models.weight_files import Header, find_weights, read_headers
from modeling_captioning import CaptioningModel, ClipModel
from parts_captioning import find_file, read_json
from weights_captioning import WeightsError, shorten


FLOATING = ("F", "BF")  # how safetensors' names of such dtypes begin


def check_saved_model(name_or_path: str | Path):
    """Refuse what is no captioner, has other weights than its configuration describes, or no decoding of its own,
    unless it was saved as a model that writes nothing.

    Raises:
        WeightsError: as [`check_saved_weights`].
        ValueError: as [`check_model_name`], [`check_saved_weights`] and [`check_decoding`].
    """
    check_model_name(name_or_path)
    check_saved_weights(name_or_path)
    if _class_of(load_config(name_or_path)).can_generate():
        check_decoding(name_or_path)


def check_saved_weights(name_or_path: str | Path):
    """Compare names, shapes and dtypes of a saved model's weights with what its configuration describes.

    Headers alone are read. Quantised weights have other shapes and are not looked at.

    Args:
        name_or_path: folder, or name on the Hub, with a whole model, an adapter, or both.

    Raises:
        WeightsError: some are missing, unknown, of another shape, or no floating-point numbers; or a file is damaged.
        ValueError: a file is missing.
    """
    files = find_weights(name_or_path)
    adapter = files.pop(ADAPTER_WEIGHTS, None)
    if adapter is not None:
        _refuse(name_or_path, "are no floating-point numbers", _not_floating(read_headers([adapter])))
        base = read_json(find_file(name_or_path, ADAPTER_SETTINGS, {})).get("base_model_name_or_path")
        check_bases(name_or_path, base)
        if not files and base and os.path.isdir(base) and base != str(name_or_path):
            check_saved_weights(base)
    config = load_config(name_or_path)
    if not files or getattr(config, "quantization_config", None) is not None:
        return
    with errors_of(name_or_path), torch.device("meta"):
        model = _class_of(config)(config)
    check_weights_fit(model, model.state_dict(keep_vars=True), name_or_path, files.values(), "config.json")


def check_weights_fit(
    model: CaptioningModel,
    own: Mapping[str, torch.Tensor],
    name_or_path: str | Path,
    files: Iterable[Path],
    described_by: str,
):
    """Compare names, shapes and dtypes of the tensors of weight files with those of a model.

    Args:
        own: the model's tensors by their names in such files.
        name_or_path: what messages call the files.
        described_by: what tells of the model.

    Raises:
        WeightsError: as [`check_saved_weights`].
    """
    found = read_headers(files)
    stored = {id(own[each]) for each in own.keys() & found.keys()}  # of tied tensors one is stored
    missing = [each for each, tensor in own.items() if id(tensor) not in stored]
    _refuse(name_or_path, "are missing", _without(missing, model._keys_to_ignore_on_load_missing))
    unknown = _without(sorted(found.keys() - own.keys()), model._keys_to_ignore_on_load_unexpected)
    _refuse(name_or_path, f"are none of a {type(model).__name__}", unknown)
    known = {each: header for each, header in found.items() if each in own}
    shapes = [
        f"{each} {list(shape)} for {list(own[each].shape)}"
        for each, (shape, _) in known.items()
        if shape != own[each].shape
    ]
    _refuse(name_or_path, f"have another shape than {described_by} describes", shapes)
    floating = {each: header for each, header in known.items() if own[each].is_floating_point()}
    _refuse(name_or_path, "are no floating-point numbers", _not_floating(floating))


def put_parts(model: CaptioningModel, name_or_path: str | Path):
    """Put parts of a folder, or of a name on the Hub, in the place of a model's own.

    Raises:
        WeightsError: in one line, where the parts come from, and why they cannot be taken.
    """
    try:
        model.take_parts(name_or_path)
    except WeightsError as error:
        raise WeightsError(f"{name_or_path}: its parts cannot be taken: {' '.join(str(error).split())}") from error


def check_finite(name: str | Path, tensors: Iterable[tuple[str, torch.Tensor]]):
    """Refuse weights with values that are NaN or infinite.

    Raises:
        WeightsError: with their names.
    """
    _refuse(
        name,
        "hold NaN or infinite values",
        [each for each, tensor in tensors if tensor.is_floating_point() and not tensor.isfinite().all()],
    )


def check_finite_model(name: str | Path, model: nn.Module):
    """As [`check_finite`], of all that a model holds."""
    check_finite(name, chain(model.named_parameters(), model.named_buffers()))


def check_finite_files(files: Iterable[Path]):
    """As [`check_finite`], tensor by tensor of some files."""
    for file in files:
        with safe_open(file, framework="pt") as opened:
            check_finite(file, ((name, opened.get_tensor(name)) for name in opened.keys()))  # noqa: SIM118


# -------------------------------------------------------------------------------------------------------- internals


def _class_of(config: CaptioningConfig) -> type[ClipModel]:
    """The class that a model was saved as."""
    return model_class(config.model_type, (config.architectures or [None])[0])


def _not_floating(headers: dict[str, Header]) -> list[str]:
    return [name for name, (_, dtype) in headers.items() if not dtype.startswith(FLOATING)]


def _without(names: list[str], patterns: Iterable[str] | None) -> list[str]:
    return [name for name in names if not any(re.search(pattern, name) for pattern in patterns or ())]


def _refuse(name: str | Path, fault: str, tensors: list[str]):
    if tensors:
        raise WeightsError(
            f"{name}: {len(tensors)} of its tensors {fault} ({shorten(tensors)}); copy or train the model again."
        )
