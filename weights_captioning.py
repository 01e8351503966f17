# Copyright 2026 The LAVCap for Transformers authors. Licensed under the Apache License, Version 2.0.
"""Weight files made elsewhere: read without running their code, and loaded strictly."""

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from pickle import UnpicklingError

import torch
from safetensors import SafetensorError, safe_open
from torch import nn


FOLDER_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
WEIGHT_SUFFIXES = (".bin", ".ckpt", ".pt", ".pth", ".safetensors")
Renaming = tuple[re.Pattern, str | Callable[[re.Match], str]]
CONTAINERS = ("model", "state_dict")  # under which training scripts keep the weights beside optimiser and epoch


class WeightsError(ValueError):
    """Weights that cannot be used: unreadable, unsafe, or not those of the model; `lines` are those of its message."""

    def __init__(self, *lines: str):
        self.lines = list(lines)
        super().__init__("\n".join(lines))

    def of(self, name: str | Path, *hints: str) -> "WeightsError":
        """The same, which begins with the name of a file or folder and ends with lines that say what to do."""
        return WeightsError(f"{name}: {self.lines[0]}", *self.lines[1:], *hints)


# ----------------------------------------------------------------------------------------------------------- reading


def read_weights(path: str | Path) -> dict[str, torch.Tensor]:
    """Tensors by name, on the CPU.

    Args:
        path: a `.safetensors` file, a pickle (`.pt`, `.pth`, `.bin`) of a state dict or of a training checkpoint that
            holds one under `model` or `state_dict`, the index of a sharded one, or a folder with one of these.

    Raises:
        WeightsError: missing, damaged, a pickle that holds more than tensors and plain values, or no state dict.
    """
    path = _file_of(Path(path))
    if path.name.endswith(".index.json"):
        return {key: value for shard in _shards_of(path) for key, value in read_weights(shard).items()}
    with open(path, "rb") as file:
        is_safetensors = path.suffix == ".safetensors" or file.read(9)[8:] == b"{"
    return _read_safetensors(path) if is_safetensors else _read_pickle(path)


def _shards_of(path: Path) -> list[Path]:
    try:
        names = dict.fromkeys(json.loads(path.read_text(encoding="utf-8"))["weight_map"].values())
        shards = [path.parent / name for name in names]
    except (AttributeError, KeyError, RecursionError, TypeError, ValueError) as error:
        raise WeightsError(f"{path}: not an index of weight files, expected a JSON object with weight_map.") from error
    if any(shard.name.endswith(".index.json") or not shard.is_file() for shard in shards):
        raise WeightsError(f"{path}: names {shorten(names)}, expected weight files beside it; copy them there.")
    return shards


def _file_of(path: Path) -> Path:
    if path.is_file():
        return path
    if not path.is_dir():
        raise WeightsError(f"{path}: no such file or folder; check the path.")
    found = [path / name for name in FOLDER_FILES if (path / name).is_file()]
    if not found:
        raise WeightsError(f"{path}: holds no weights, expected one of {', '.join(FOLDER_FILES)}.")
    return found[0]


def _read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    try:
        with safe_open(path, "pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a dict)
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{path}: not a readable safetensors file ({error}); copy it again.") from error


def _read_pickle(path: Path) -> dict[str, torch.Tensor]:
    try:
        content = _load_tensors_only(path)
    except UnpicklingError as error:
        raise WeightsError(
            f"{path}: refused, for it needs more than tensors and plain values to load ({_reason(error)}), and such a "
            "pickle can run any code. Where you trust it, save its state dict alone, as safetensors say."
        ) from error
    except Exception as error:  # whatever a damaged file makes the reader stumble over
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise WeightsError(f"{path}: not a readable weight file ({reason}); copy it again.") from error
    return _state_dict(path, content)


def _load_tensors_only(path: Path):
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except RuntimeError as error:  # files of torch 1.5 and before cannot be mapped
        if "mmap" not in str(error):
            raise
        return torch.load(path, map_location="cpu", weights_only=True)


def _reason(error: UnpicklingError) -> str:
    """What torch stumbled over, out of its advice on how to load the file nevertheless."""
    found = re.search(r"(Unsupported \w+: \S+ \S+|GLOBAL \S+|Unsupported \w+ \S+)", str(error))
    return found.group(1).rstrip(",.") if found else str(error).splitlines()[0]


def _state_dict(path: Path, content) -> dict[str, torch.Tensor]:
    for name in CONTAINERS:
        if isinstance(content, Mapping) and isinstance(content.get(name), Mapping):
            content = content[name]
            break
    if not isinstance(content, Mapping) or not content:
        raise WeightsError(f"{path}: holds {type(content).__name__}, expected a state dict: tensors by name.")
    others = [
        str(name) for name, value in content.items() if not (isinstance(name, str) and isinstance(value, torch.Tensor))
    ]
    if others:
        raise WeightsError(
            f"{path}: {shorten(others)} {'is' if len(others) == 1 else 'are'} no tensor, expected a state dict, or "
            f"one under {' or '.join(map(repr, CONTAINERS))}."
        )
    return dict(content)


# ----------------------------------------------------------------------------------------------------------- loading


def load_strictly(module: nn.Module, weights: Mapping[str, torch.Tensor], origins: Mapping[str, str] | None = None):
    """Replace all parameters and buffers of a module by the given tensors; none on either side may be left over.

    Args:
        origins: what the weights are called where they come from, for messages.

    Raises:
        WeightsError: names of what is missing, too many, or of another shape, with both shapes.
    """
    expected = module.state_dict()
    origins = {} if origins is None else origins
    # How many batches a BatchNorm has seen does not matter: its momentum is fixed.
    optional = {name: torch.tensor(0) for name in expected if name.endswith("num_batches_tracked")}
    weights = optional | dict(weights)
    problems = [
        itemised("filled by nothing", [name for name in expected if name not in weights]),
        itemised(
            "without a place in the model", [origins.get(name, name) for name in weights if name not in expected]
        ),
        itemised("of another shape", _shape_conflicts(expected, weights)),
    ]
    if any(problems):
        raise WeightsError("the weights do not fit the model.", *chain(*problems))
    module.load_state_dict(weights, assign=True)


def _shape_conflicts(expected: Mapping[str, torch.Tensor], weights: Mapping[str, torch.Tensor]) -> list[str]:
    return [
        f"{name}: expected {tuple(expected[name].shape)}, got {tuple(tensor.shape)}"
        for name, tensor in weights.items()
        if name in expected and expected[name].shape != tensor.shape
    ]


def rename(name: str, names: Sequence[Renaming]) -> str:
    """Our name of a tensor, by patterns that are replaced one after the other."""
    for pattern, replacement in names:
        name = pattern.sub(replacement, name)
    return name


def renamed(
    tensors: Mapping[str, torch.Tensor], names: Sequence[Renaming], unused: Sequence[tuple[re.Pattern, str]]
) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Tensors under our names, and those that the model does without, with the reason.

    Stacked `qkv` are split into query, key and value by thirds. Names that no pattern knows are kept.

    Args:
        names: patterns and what they are replaced by.
        unused: patterns at the beginning of a name, without `module.`, and why the tensor is not needed.

    Raises:
        WeightsError: two tensors for one place.
    """
    weights, left = {}, {}
    for name, tensor in tensors.items():
        plain = name.removeprefix("module.")  # of parallel training
        reason = next((reason for pattern, reason in unused if pattern.match(plain)), None)
        if reason is not None:
            left[name] = reason
            continue
        placed = split_qkv(rename(name, names), tensor)
        if twice := weights.keys() & placed.keys():
            raise WeightsError(f"{name}: fills {shorten(sorted(twice))} a second time, expected each tensor once.")
        weights |= placed
    return weights, left


def split_qkv(name: str, tensor: torch.Tensor) -> dict[str, torch.Tensor]:
    """A tensor by its name; queries, keys and values that are stacked in one of a `.qkv.` apart, by thirds."""
    if ".qkv." not in name:
        return {name: tensor}
    if tensor.ndim == 0 or tensor.shape[0] % 3:
        raise WeightsError(f"{name}: shape {tuple(tensor.shape)}, expected queries, keys and values stacked.")
    thirds = zip(("q_proj", "k_proj", "v_proj"), tensor.chunk(3), strict=True)
    return {name.replace("qkv", part): third for part, third in thirds}


def check_values(tensors: Mapping[str, torch.Tensor]):
    """Refuse tensors that no model can work with: other than dense floating point, or not finite."""
    kinds = [name for name, tensor in tensors.items() if not _is_usable(name, tensor)]
    if kinds:
        raise WeightsError(f"{shorten(kinds)}: expected dense floating point, got {tensors[kinds[0]].dtype}.")
    broken = [name for name, tensor in tensors.items() if not tensor.isfinite().all()]
    if broken:
        raise WeightsError(f"{shorten(broken)}: NaN or infinite values, expected finite ones; the training diverged.")


def _is_usable(name: str, tensor: torch.Tensor) -> bool:
    dense = tensor.layout == torch.strided and not tensor.is_meta
    counter = name.endswith("num_batches_tracked")
    return dense and (counter or tensor.dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64))


def itemised(what: str, names: list[str], most: int = 20) -> list[str]:
    """Lines of a message: how many there are of something, and the first of them; nothing if there is none."""
    shown = [*names[:most], *([f"and {len(names) - most} more"] if len(names) > most else [])]
    return [f"{len(names)} {what}:", *(f"  {name}" for name in shown)] if names else []


def shorten(names: Iterable[str], most: int = 4) -> str:
    """The first names of a list, and how many more there are."""
    names = list(names)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
