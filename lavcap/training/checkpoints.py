"""Checkpoints: which are complete, which one a run continues from, and which are removed.

`checkpoint.json` notes the files of a checkpoint, their sizes and their checksums. Sizes tell whether it is complete;
checksums are compared when a run continues from it.
"""

import json
import re
from pathlib import Path
from typing import Any

from accelerate.utils import gather_object
from transformers import TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from transformers.utils import logging

from lavcap.commands import check_new_folder, check_writable, listed
from lavcap.files import checksum, clear_unfinished, remove_folder, sync_names
from lavcap.provenance import NOTE


logger = logging.get_logger(__name__)

MANIFEST = "checkpoint.json"
MANIFEST_FIELDS = {"engine": str, "num_processes": int, "resumable": bool, "course": dict, "files": dict}
NAME = re.compile(rf"{PREFIX_CHECKPOINT_DIR}-(\d+)")


class CheckpointError(ValueError):
    """A checkpoint cannot be written, or not be continued from. The message is one line and says what to do."""


def find_checkpoint(args: TrainingArguments) -> str | None:
    """Checkpoint that a command is to continue from; none if the run is new, or begun without a complete one.

    Of several processes all find the same one. What an interruption has left half-written is removed.

    Raises:
        ValueError: no such checkpoint, one that lacks files or whose files are damaged; or the output folder holds
            another run, or cannot be written.
    """
    if args.save_on_each_node:
        raise CheckpointError("Got save_on_each_node, expected an output_dir that all machines share; leave it off.")
    if args.process_index == 0:
        check_writable(args.output_dir, "--output_dir")
    wanted = args.resume_from_checkpoint
    if wanted is None or wanted.lower() == "false":
        if args.process_index == 0:
            check_new_folder(args.output_dir, "--output_dir")
        return None
    if wanted.lower() == "true":
        return _newest_checkpoint(args)
    if not Path(wanted).is_dir():
        raise CheckpointError(f"{wanted}: no such checkpoint; check --resume_from_checkpoint.")
    check_checkpoint_is_whole(Path(wanted))
    check_checkpoint_is_intact(Path(wanted), args)
    if Path(wanted).resolve().parent == Path(args.output_dir).resolve():
        _check_is_newest(Path(wanted), Path(args.output_dir))
    else:
        check_new_folder(args.output_dir, "--output_dir")
    return wanted


def last_checkpoint(run: str | Path) -> str | None:
    """The complete checkpoint of the highest step in a folder."""
    return next((str(folder) for folder in reversed(checkpoint_folders(run)) if is_complete(folder)), None)


def checkpoint_folders(run: str | Path) -> list[Path]:
    """`checkpoint-<step>` folders, complete or not, by step."""
    folders = [path for path in Path(run).glob(f"{PREFIX_CHECKPOINT_DIR}-*") if path.is_dir()]
    return sorted((path for path in folders if NAME.fullmatch(path.name)), key=_step)


def is_complete(checkpoint: Path) -> bool:
    """Whether every file that the checkpoint was completed with is there, in its size, and can be continued from."""
    manifest = read_manifest(checkpoint)
    return manifest is not None and manifest["resumable"] and not missing_files(checkpoint, manifest)


def is_usable(checkpoint: Path) -> bool:
    """Whether a checkpoint has all that it was completed with; one without `checkpoint.json`, what is written last."""
    if (checkpoint / MANIFEST).exists():
        return not _lacking(checkpoint)
    return read_object(checkpoint / TRAINER_STATE_NAME) is not None


def read_manifest(checkpoint: Path) -> dict[str, Any] | None:
    """What a checkpoint was completed with; nothing where no file tells it, or where that cannot be read."""
    manifest = read_object(checkpoint / MANIFEST)
    if manifest is None or not all(isinstance(manifest.get(name), kind) for name, kind in MANIFEST_FIELDS.items()):
        return None
    return manifest if all(isinstance(size, int) for size in manifest["files"].values()) else None


def read_object(path: Path) -> dict[str, Any] | None:
    """Content of a JSON file; nothing where it is missing, cut short or no object."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None


def missing_files(checkpoint: Path, manifest: dict[str, Any]) -> list[str]:
    """Files that a checkpoint lacks, or that are not of the size they had."""
    found = {name: (checkpoint / name).stat().st_size for name in manifest["files"] if (checkpoint / name).is_file()}
    return [
        f"{name} ({found[name]:,} of {size:,} bytes)" if name in found else name
        for name, size in manifest["files"].items()
        if found.get(name) != size
    ]


def damaged_files(checkpoint: Path) -> list[str]:
    """Files of a complete checkpoint that do not hold what they were saved with; reads all of them.

    Of a checkpoint that was completed without checksums nothing is known.
    """
    sums = (read_manifest(checkpoint) or {}).get("crc32")
    return [name for name, saved in sums.items() if not _holds(checkpoint / name, saved)] if sums else []


def check_checkpoint_is_intact(checkpoint: Path, args: TrainingArguments):
    """Refuse a checkpoint whose files do not hold what they were saved with; to be called by all processes.

    Raises:
        CheckpointError: in every process, with the files.
    """
    if damaged := _damaged_anywhere(checkpoint, args):
        complete = [folder for folder in checkpoint_folders(checkpoint.parent) if is_complete(folder)]
        others = [folder for folder in complete if folder.resolve() != checkpoint.resolve()]
        hint = f"another complete one is {others[-1]}." if others else "no other one there is complete."
        raise CheckpointError(f"{checkpoint}: {_damage(damaged)}; {hint}")


def check_checkpoint_is_whole(checkpoint: Path):
    """Refuse a checkpoint that lacks files.

    One without `checkpoint.json` was not written by this project's trainer, or by an earlier one: it is taken, with a
    warning, if it holds the file that the library writes last.

    Raises:
        CheckpointError: with what is missing, and which is the last complete one beside it.
    """
    manifest = read_manifest(checkpoint)
    if manifest is None and is_usable(checkpoint):
        logger.warning(f"{checkpoint}: has no {MANIFEST}; whether all of its files are whole is not known.")
        return
    if manifest is not None and not manifest["resumable"]:
        raise CheckpointError(
            f"{checkpoint}: was saved with save_only_model, without the state of the optimizer; name it with "
            "--model_name_or_path to start a new run from it."
        )
    missing = _lacking(checkpoint)
    if missing:
        last = last_checkpoint(checkpoint.parent)
        hint = f"the last complete one is {last}." if last else "no other one there is complete."
        raise CheckpointError(f"{checkpoint}: is not complete, it lacks {listed(missing)}; {hint}")


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


def _newest_checkpoint(args: TrainingArguments) -> str | None:
    run, cleans = Path(args.output_dir), args.should_save
    folders = checkpoint_folders(run)
    seen = gather_object([{folder.name for folder in folders if is_complete(folder)}])
    complete = set.intersection(*seen)
    if cleans:
        clear_unfinished(run)
    broken = [folder for folder in folders if folder.name not in complete]
    newest = _newest_intact([folder for folder in folders if folder.name in complete], args)
    if newest is not None:
        if broken:
            logger.warning(f"{run}: {listed([folder.name for folder in broken])} not complete, and left aside.")
        return str(newest)
    if folders:
        raise CheckpointError(
            f"{run}: holds no complete checkpoint; {folders[-1].name} {_lack(folders[-1])}: name one with "
            "--resume_from_checkpoint to see whether it can be used, or start anew in another --output_dir."
        )
    if (run / NOTE).is_file():
        logger.warning(f"{run}: holds a run without a complete checkpoint, which begins anew.")
        return None
    raise CheckpointError(f"{run}: holds no checkpoint to resume from; leave --resume_from_checkpoint out.")


def _newest_intact(folders: list[Path], args: TrainingArguments) -> Path | None:
    """The last of complete checkpoints whose files hold what was saved; of those after it that is said."""
    for folder in reversed(folders):
        damaged = _damaged_anywhere(folder, args)
        if not damaged:
            return folder
        logger.warning(f"{folder}: {_damage(damaged)}; it is left aside.")
    return None


def _lack(checkpoint: Path) -> str:
    """Why a checkpoint cannot be continued from."""
    if lacking := _lacking(checkpoint):
        return f"lacks {listed(lacking)}"
    if not is_complete(checkpoint):
        return "lacks the state of the optimizer"
    damaged = damaged_files(checkpoint)
    return _damage(damaged) if damaged else "is not whole on every machine"


def _lacking(checkpoint: Path) -> list[str]:
    manifest = read_manifest(checkpoint)
    if manifest is not None:
        return missing_files(checkpoint, manifest)
    return [f"a readable {MANIFEST}" if (checkpoint / MANIFEST).exists() else MANIFEST]


def _damaged_anywhere(checkpoint: Path, args: TrainingArguments) -> list[str]:
    """Damaged files that any machine finds, told to every process; one process of a machine reads them."""
    found = damaged_files(checkpoint) if args.local_process_index == 0 else []
    return sorted({name for names in gather_object([found]) for name in names})


def _damage(names: list[str]) -> str:
    return f"is damaged, {listed(names)} {'does' if len(names) == 1 else 'do'} not hold what was saved"


def _holds(file: Path, saved: str) -> bool:
    try:
        return checksum(file) == saved
    except OSError:
        return False


def _check_is_newest(checkpoint: Path, run: Path):
    # Steps of two histories in one folder: the next interruption would go on from the wrong one.
    newer = [folder.name for folder in checkpoint_folders(run) if _step(folder) > _step(checkpoint)]
    if newer:
        raise CheckpointError(
            f"{run}: holds newer checkpoints than {checkpoint.name} ({listed(newer)}); move them away, or name a new "
            "--output_dir to go on from it."
        )


def _step(folder: Path) -> int:
    match = NAME.fullmatch(folder.name)
    return int(match[1]) if match else -1
