"""Checkpoints in a folder: which are complete, what their files should hold, and which are removed.

`checkpoint.json`, the record of a checkpoint, notes its files, their sizes and their checksums. Sizes tell whether it
is complete; checksums are compared when a run continues from it.
"""

import re
from pathlib import Path
from typing import Any

from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from lavcap.files import checksum, read_object, remove_folder, sync_names


RECORD = "checkpoint.json"
# `course` has the settings that decide which model a run ends with, see `lavcap.training.resume`.
RECORD_FIELDS = {"engine": str, "num_processes": int, "resumable": bool, "course": dict, "files": dict}
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
    return record if all(isinstance(size, int) for size in record["files"].values()) else None


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
    """Files of a complete checkpoint that do not hold what they were saved with; reads all of them.

    Of a checkpoint that was completed without checksums nothing is known.
    """
    sums = (read_record(checkpoint) or {}).get("crc32")
    return [name for name, saved in sums.items() if not _holds(checkpoint / name, saved)] if sums else []


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
