"""Files and folders that appear when they are whole, and stay whole when the machine stops."""

import contextlib
import errno
import json
import os
import re
import shutil
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any


FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS}
# What torch, safetensors, tokenizers and numpy say instead of an OSError when a file cannot be written.
WRITE_ERRORS = re.compile(
    r"PytorchStreamWriter failed|unexpected pos \d+ vs|I/O error|IoError|os error \d+|requested and \d+ written"
)
UNFINISHED = "_unfinished"  # Transformers never uploads what begins with an underscore
WEIGHTS = re.compile(r"(model|pytorch_model|adapter_model)(-\d+-of-\d+)?\.(safetensors|bin)(\.index\.json)?")


# ------------------------------------------------------------------------------------------------------------ files


@contextlib.contextmanager
def full_disk_names(path: str | Path) -> Iterator[None]:
    """Have the error of a disk that takes no more, whichever library raises it, name the file or folder."""
    try:
        yield
    except Exception as error:
        number = error.errno if isinstance(error, OSError) else None
        if number not in FULL and (number is not None or not WRITE_ERRORS.search(str(error))):
            raise
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise OSError(number or errno.ENOSPC, reason, str(path)) from error


@contextlib.contextmanager
def whole_file(path: str | Path, unfinished: Path | None = None, flush: bool = False) -> Iterator[Path]:
    """A file that appears when it is complete: write into the path that this yields; on failure nothing is left of it.

    A reader sees the old file or the new one, never half of one.

    Args:
        path: of the file; its folder is made.
        unfinished: folder of what is half-written, on the same disk; default: beside the file, under a hidden name.
        flush: to the disk itself, so that this holds after a power cut, too.
    """
    path = Path(path)
    partial = path.with_name(f".{path.name}.partial") if unfinished is None else unfinished / path.name
    for folder in {path.parent, partial.parent}:
        folder.mkdir(parents=True, exist_ok=True)
    try:
        with full_disk_names(path):
            yield partial
            if flush:
                _sync_file(partial)
            os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    if flush:
        sync_names(path.parent)


def replace_text(path: str | Path, text: str):
    """Write a file of text; a reader sees the old one or the new one, never half of one."""
    with whole_file(path) as partial:
        partial.write_text(text, encoding="utf-8", newline="")


def replace_json(path: str | Path, content: Any):
    """Write a file of JSON, as [`replace_text`]."""
    replace_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def replace_synced(path: Path, text: str):
    """Write a file of text: after a crash the old one is there, or the new one, never half of one."""
    with whole_file(path, path.parent / UNFINISHED, flush=True) as partial:
        partial.write_text(text, encoding="utf-8")
    clear_unfinished(path.parent, only_empty=True)


def sync_folder(folder: Path) -> dict[str, int]:
    """Flush every file below a folder to the disk: their sizes in bytes by relative path.

    A rename may reach the disk before what was written into the file: after a power cut it would be there, but empty.
    """
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    sizes = {file.relative_to(folder).as_posix(): _sync_file(file) for file in files}
    for path in [folder, *(path for path in folder.rglob("*") if path.is_dir())]:
        sync_names(path)
    return sizes


def sync_names(folder: Path):
    """Flush the names in a folder to the disk."""
    with contextlib.suppress(OSError):  # some network file systems have no such call, and need none
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _sync_file(file: Path) -> int:
    """Flush what a file holds to the disk: its size in bytes."""
    descriptor = os.open(file, os.O_RDONLY)
    try:
        os.fsync(descriptor)
        return os.fstat(descriptor).st_size
    finally:
        os.close(descriptor)


def checksum(file: Path) -> str:
    """CRC-32 of what a file holds, in eight hexadecimal digits."""
    value = 0
    with open(file, "rb") as opened:
        while block := opened.read(2**22):
            value = zlib.crc32(block, value)
    return f"{value:08x}"


# ---------------------------------------------------------------------------------------------------------- folders


def check_new_folder(folder: str | Path, option: str):
    """Refuse a folder that holds anything, so that no earlier result is lost."""
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder}: holds another run; name a new folder with {option}, or move this one away.")


def check_writable(folder: str | Path, option: str):
    """Refuse a folder that cannot be made or takes no file, before hours of work; nothing is left of the trial."""
    folder = Path(folder).absolute()
    try:
        folder.exists()  # a name that is too long is an error here
        place = next(path for path in (folder, *folder.parents) if os.path.lexists(path))
        with tempfile.TemporaryFile(dir=place) as file:
            file.write(bytes(2**16))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise ValueError(
            f"{folder}: cannot be written ({error.strerror}); make room there, or name another folder with {option}."
        ) from error


@contextlib.contextmanager
def whole_folder(folder: str | Path, option: str = "--output") -> Iterator[Path]:
    """A folder that appears when it is complete: write into what this yields; on failure nothing is left of it."""
    check_new_folder(folder, option)
    folder = Path(folder).absolute()
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        with full_disk_names(folder):
            yield partial
        share(partial)
        if folder.exists():
            folder.rmdir()
        partial.rename(folder)
    except BaseException:
        shutil.rmtree(partial)
        raise


def share(folder: Path):
    """Let those read what is in a folder whom the umask lets: safetensors gives its files to their owner alone."""
    mask = os.umask(0)
    os.umask(mask)
    folder.chmod(0o777 & ~mask)
    for file in folder.rglob("*.safetensors"):
        file.chmod(0o666 & ~mask)


def publish_folder(partial: Path, folder: Path):
    """Give a whole folder its name, at once; what bore the name is removed."""
    if folder.exists():
        remove_folder(folder)
    partial.rename(folder)
    sync_names(folder.parent)


def remove_folder(folder: Path):
    """Remove a folder: while that lasts, it does not bear its name."""
    trash = folder.parent / UNFINISHED / f"old-{folder.name}"
    shutil.rmtree(trash, ignore_errors=True)
    trash.parent.mkdir(exist_ok=True)
    folder.rename(trash)
    shutil.rmtree(trash, ignore_errors=True)
    clear_unfinished(folder.parent, only_empty=True)


def clear_unfinished(folder: Path, only_empty: bool = False):
    """Remove what an interruption has left half-written in a folder."""
    if only_empty:
        with contextlib.suppress(OSError):
            (folder / UNFINISHED).rmdir()
    else:
        shutil.rmtree(folder / UNFINISHED, ignore_errors=True)


def publish_model(partial: Path, folder: Path):
    """Move the files of a model into a folder that may hold an earlier one, the weights last.

    Shards are found by their index alone: it goes first and comes last, so that old and new ones are never mixed.
    """
    files = sorted((path.relative_to(partial) for path in partial.rglob("*") if path.is_file()), key=_weights_last)
    kept = {file.as_posix() for file in files}
    earlier = [file for file in folder.iterdir() if WEIGHTS.fullmatch(file.name)]
    for file in earlier:
        if file.name not in kept or file.name.endswith(".index.json"):
            file.unlink()
    sync_names(folder)
    for file in files:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (partial / file).replace(folder / file)
    sync_names(folder)
    shutil.rmtree(partial, ignore_errors=True)
    clear_unfinished(folder, only_empty=True)


def _weights_last(file: Path) -> tuple[bool, bool, str]:
    is_weights = WEIGHTS.fullmatch(file.name) is not None
    return is_weights, file.name.endswith(".index.json"), file.as_posix()
