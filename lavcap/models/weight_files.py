"""The files that hold a model's weights: which they are, whether they are whole, and what tells them from others."""

import hashlib
from collections.abc import Iterable
from math import prod
from pathlib import Path

from safetensors import SafetensorError, safe_open

from adapters_captioning import ADAPTER_SETTINGS, ADAPTER_WEIGHTS
from parts_captioning import find_file, read_json
from weights_captioning import WeightsError


Header = tuple[tuple[int, ...], str]  # shape of a tensor, and what safetensors calls its dtype
WHOLE, INDEX = "model.safetensors", "model.safetensors.index.json"


def find_weights(name_or_path: str | Path) -> dict[str, Path]:
    """Weight files by their names: an adapter, a whole model in one file or in shards, or an adapter beside its base.

    Args:
        name_or_path: folder, or name on the Hub.

    Raises:
        ValueError: there are none, or one that belongs to the others is missing.
    """
    names = [name for name in (ADAPTER_WEIGHTS, WHOLE) if find_file(name_or_path, name, {})]
    index = find_file(name_or_path, INDEX, {})
    if index and WHOLE not in names:
        names += sorted(set(_weight_map(index).values()))
    has_settings = find_file(name_or_path, ADAPTER_SETTINGS, {}) is not None
    absent = ADAPTER_WEIGHTS if has_settings else ADAPTER_SETTINGS
    if has_settings == (ADAPTER_WEIGHTS in names):
        absent = None if names else f"{WHOLE} or {ADAPTER_WEIGHTS}"
    if absent:
        raise ValueError(f"{name_or_path}: holds no {absent}; pass a folder that training wrote to the end.")
    files = {name: find_file(name_or_path, name, {}) for name in names}
    if missing := [name for name, file in files.items() if file is None]:
        raise ValueError(f"{name_or_path}: lacks {', '.join(missing)}, which {INDEX} names; copy the model again.")
    return {name: Path(file) for name, file in files.items()}


def _weight_map(index: str | Path) -> dict[str, str]:
    """Files of the tensors of a model in shards.

    Raises:
        ValueError: the index is damaged.
    """
    told = read_json(index)
    names = told.get("weight_map") if isinstance(told, dict) else None
    if not isinstance(names, dict) or not all(isinstance(name, str) for name in names.values()):
        raise ValueError(f"{index}: not an index of weight files, expected a JSON object with weight_map.")
    return names


def fingerprint(name_or_path: str | Path) -> str | None:
    """SHA-256 over names and content of the weight files: equal for equal weights, wherever the model is.

    Of an adapter that has its base elsewhere it covers the adapter alone. `None` if there are no safetensors files.
    """
    try:
        files = find_weights(name_or_path)
    except ValueError:
        return None
    digest = hashlib.sha256()
    for name, file in sorted(files.items()):
        with file.open("rb") as opened:
            digest.update(f"{name} {hashlib.file_digest(opened, 'sha256').hexdigest()}\n".encode())
    return digest.hexdigest()


def read_headers(files: Iterable[Path]) -> dict[str, Header]:
    """Shape and dtype of every tensor of some files.

    Raises:
        WeightsError: a file is cut short or damaged.
    """
    found: dict[str, Header] = {}
    for file in files:
        try:
            with safe_open(file, framework="pt") as opened:
                slices = {name: opened.get_slice(name) for name in opened.keys()}  # noqa: SIM118
                found |= {name: (tuple(each.get_shape()), each.get_dtype()) for name, each in slices.items()}
        except (SafetensorError, OSError) as error:
            raise WeightsError(f"{file}: is cut short or damaged ({error}); save or copy the model again.") from error
    return found


def count_parameters(files: Iterable[Path]) -> int:
    """Numbers in the tensors of some files, by their headers alone; raises as [`read_headers`]."""
    return sum(prod(shape) for file in files for shape, _ in read_headers([file]).values())
