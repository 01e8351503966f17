"""Checkpoints in a folder: which are complete, what their files should hold, and which are removed.

`checkpoint.json`, the record of a checkpoint, notes its files, their sizes and their checksums. Sizes tell whether it
is complete; checksums are compared when a run continues from it, and the state of the training is read.
"""

import re
from pathlib import Path
from types import NoneType
from typing import Any

import torch
from transformers import TrainerState
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_pt_utils import safe_globals
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from lavcap.documents import read_object
from lavcap.files import checksum, remove_folder, sync_names


RECORD = "checkpoint.json"
# `course` has the settings that decide which model a run ends with, see `lavcap.training.resume`.
RECORD_FIELDS = {"engine": str, "num_processes": int, "resumable": bool, "course": dict, "files": dict}
# Files of a state that the library reads, and what it looks for in them.
STATES = {
    "optimizer.*": {"state", "param_groups"},
    "scheduler.pt": {"last_epoch"},
    "scaler.pt": {"scale"},
    "rng_state*.pth": {"python", "numpy", "cpu"},
}
PROGRESS = {"log_history": list, "stateful_callbacks": dict, "total_flos": (int, float), "num_input_tokens_seen": int}
PROGRESS |= {"best_metric": (int, float, NoneType), "best_model_checkpoint": (str, NoneType)}
NAME = re.compile(rf"{PREFIX_CHECKPOINT_DIR}-(\d+)")


class CheckpointError(ValueError):
    """A checkpoint cannot be written, or not be continued from. The message is one line and says what to do."""


def last_checkpoint(run: str | Path) -> str | None:
    """The complete checkpoint of the highest step in a folder."""
    return next((str(folder) for folder in reversed(checkpoint_folders(run)) if is_complete(folder)), None)


def checkpoint_folders(run: str | Path) -> list[Path]:
    """`checkpoint-<step>` folders, complete or not, by step."""
    folders = [path for path in Path(run).glob(f"{PREFIX_CHECKPOINT_DIR}-*") if path.is_dir()]
    return sorted((path for path in folders if NAME.fullmatch(path.name)), key=step_of)


def step_of(folder: Path) -> int:
    """Step that a folder is named after; -1 of another folder."""
    match = NAME.fullmatch(folder.name)
    return int(match[1]) if match else -1


def is_complete(checkpoint: Path) -> bool:
    """Whether every file that the checkpoint was completed with is there, in its size, and can be continued from."""
    record = read_record(checkpoint)
    return record is not None and record["resumable"] and not missing_files(checkpoint, record)


def is_usable(checkpoint: Path) -> bool:
    """Whether a checkpoint has all that it was completed with; one without `checkpoint.json`, what is written last."""
    if (checkpoint / RECORD).exists():
        return not lacking_files(checkpoint)
    return read_object(checkpoint / TRAINER_STATE_NAME) is not None


def read_record(checkpoint: Path) -> dict[str, Any] | None:
    """What a checkpoint was completed with; nothing where no file tells it, or where that cannot be read."""
    record = read_object(checkpoint / RECORD)
    if record is None or not all(isinstance(record.get(name), kind) for name, kind in RECORD_FIELDS.items()):
        return None
    has_sums = isinstance(record.get("crc32", {}), dict)
    return record if has_sums and all(isinstance(size, int) for size in record["files"].values()) else None


def missing_files(checkpoint: Path, record: dict[str, Any]) -> list[str]:
    """Files that a checkpoint lacks, or that are not of the size they had."""
    found = {name: (checkpoint / name).stat().st_size for name in record["files"] if (checkpoint / name).is_file()}
    return [
        f"{name} ({found[name]:,} of {size:,} bytes)" if name in found else name
        for name, size in record["files"].items()
        if found.get(name) != size
    ]


def lacking_files(checkpoint: Path) -> list[str]:
    """Files that a checkpoint lacks, as [`missing_files`]; its record, where that cannot be read."""
    record = read_record(checkpoint)
    if record is not None:
        return missing_files(checkpoint, record)
    return [f"a readable {RECORD}" if (checkpoint / RECORD).exists() else RECORD]


def damaged_files(checkpoint: Path) -> list[str]:
    """Files of a complete checkpoint that do not hold what they were saved with, or no state; reads all of them.

    Of a checkpoint that was completed without checksums it is known alone whether there is a state to go on from.
    """
    sums = (read_record(checkpoint) or {}).get("crc32", {})
    changed = [name for name, saved in sums.items() if not _holds(checkpoint / name, saved)]
    states = {file: keys for pattern, keys in STATES.items() for file in checkpoint.glob(pattern) if file.is_file()}
    unusable = [file.name for file, keys in states.items() if not _holds_state(file, keys)]
    unusable += [] if _holds_progress(checkpoint / TRAINER_STATE_NAME) else [TRAINER_STATE_NAME]
    return changed + [name for name in unusable if name not in changed]


def remove_old_checkpoints(run: Path, limit: int | None, kept: set[Path]):
    """Remove the oldest checkpoints until no more than `limit` are left, but none of those to keep."""
    if not limit or limit < 0:
        return
    folders, kept = checkpoint_folders(run), {path.resolve() for path in kept}
    number = len(folders) - max(limit, len(kept))
    for folder in [folder for folder in folders if folder.resolve() not in kept][: max(0, number)]:
        remove_folder(folder)
    sync_names(run)


# -------------------------------------------------------------------------------------------------------- internals


def _holds(file: Path, saved: str) -> bool:
    try:
        return checksum(file) == saved
    except OSError:
        return False


def _holds_state(file: Path, keys: set[str]) -> bool:
    """Whether a file holds a state with these keys; no code in it is run, and tensors are not read."""
    try:
        with safe_globals():
            content = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    except Exception:  # whatever a damaged file makes the reader stumble over
        return False
    return isinstance(content, dict) and keys <= content.keys()


def _holds_progress(file: Path) -> bool:
    """Whether a file tells how far a training is."""
    try:
        state = TrainerState.load_from_json(str(file))
    except (OSError, RecursionError, TypeError, ValueError):
        return False
    is_begun = isinstance(state.global_step, int) and state.global_step > 0
    return is_begun and all(isinstance(getattr(state, name), kind) for name, kind in PROGRESS.items())
