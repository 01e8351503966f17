"""Folders that appear when they are whole, and stay whole when the machine stops."""

import contextlib
import os
import re
import shutil
import zlib
from pathlib import Path


UNFINISHED = "_unfinished"  # Transformers never uploads what begins with an underscore
WEIGHTS = re.compile(r"(model|pytorch_model|adapter_model)(-\d+-of-\d+)?\.(safetensors|bin)(\.index\.json)?")


def sync_folder(folder: Path) -> dict[str, int]:
    """Flush every file below a folder to the disk: their sizes in bytes by relative path.

    A rename may reach the disk before what was written into the file: after a power cut it would be there, but empty.
    """
    sizes = {}
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        descriptor = os.open(file, os.O_RDONLY)
        try:
            os.fsync(descriptor)
            sizes[file.relative_to(folder).as_posix()] = os.fstat(descriptor).st_size
        finally:
            os.close(descriptor)
    for path in [folder, *(path for path in folder.rglob("*") if path.is_dir())]:
        sync_names(path)
    return sizes


def checksum(file: Path) -> str:
    """CRC-32 of what a file holds, in eight hexadecimal digits."""
    value = 0
    with open(file, "rb") as opened:
        while block := opened.read(2**22):
            value = zlib.crc32(block, value)
    return f"{value:08x}"


def share(folder: Path):
    """Let those read what is in a folder whom the umask lets: safetensors gives its files to their owner alone."""
    mask = os.umask(0)
    os.umask(mask)
    folder.chmod(0o777 & ~mask)
    for file in folder.rglob("*.safetensors"):
        file.chmod(0o666 & ~mask)


def sync_names(folder: Path):
    """Flush the names in a folder to the disk."""
    with contextlib.suppress(OSError):  # some network file systems have no such call, and need none
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def write_synced(path: Path, text: str):
    """Write a file of text, to the disk itself."""
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def replace_synced(path: Path, text: str):
    """Write a file of text: after a crash the old one is there, or the new one, never half of one."""
    partial = path.parent / UNFINISHED / path.name
    partial.parent.mkdir(parents=True, exist_ok=True)
    write_synced(partial, text)
    partial.replace(path)
    sync_names(path.parent)
    clear_unfinished(path.parent, only_empty=True)


def replace_text(path: Path, text: str):
    """Write a file of text; a reader sees the old one or the new one, never half of one."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text, encoding="utf-8", newline="")
    partial.replace(path)


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
