"""Shards: parquet files of a split that hold its media, so that a machine reads large files from end to end.

Where it would open twenty small ones per clip. They are written in the format of `lavcap.data.manifest`.
"""

import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset, IterableDataset, load_dataset

from lavcap.data.batches import in_batches
from lavcap.data.dataset import as_file
from lavcap.data.manifest import read_columns, shards_of, write_facts, write_parquet
from lavcap.data.precomputed_features import read_stored_features
from lavcap.data.schema import SHARD_COLUMNS, STORED_FEATURES, DataError
from lavcap.data.wav import SAMPLING_RATE, to_pcm, write_wav
from lavcap.files import whole_file
from media_captioning import read_clip
from sources_captioning import AUDIO_SUFFIXES


LONGEST_AUDIO = 60.0  # seconds of a film's sound that a shard takes; windows of models are shorter


def find_shards(data_dir: str | Path, split: str) -> list[Path]:
    """Shards of a split that hold their media.

    Raises:
        DataError: none, not all of them, one of no use, or a manifest of paths.
    """
    files = shards_of(data_dir, split)
    if not files:
        raise DataError(f"{Path(data_dir) / 'data'}: no {split}-*.parquet; write them with scripts/write_shards.py.")
    declared = int(files[0].stem.rsplit("-", 1)[-1])
    if len(files) != declared:
        raise DataError(f"{files[0].parent}: {len(files)} of {declared} shards of {split}; copy or write them again.")
    for file in files:
        if not len(read_columns(file, ["id"])):
            raise DataError(f"{file}: holds no rows, expected some; write the shards again, or move it away.")
    first = next(iter(open_stream([str(files[0])])))
    media = [first["audio"], *(first["frames"] or [])]
    if any(medium is not None and medium["bytes"] is None for medium in media):
        raise DataError(
            f"{files[0]}: holds paths of media, expected the media themselves; write shards with "
            "scripts/write_shards.py, or train without --streaming."
        )
    return files


def open_stream(files: Sequence[str]) -> IterableDataset:
    """Rows of parquet files, one after the other."""
    return load_dataset("parquet", data_files=list(files), split="train", streaming=True)


def stored_example(rows: Dataset | list[Path]) -> Any:
    """Stored visual features of the first clip that has some, of a table or of shards; `None` if none has."""
    if isinstance(rows, list):
        stream = open_stream(list(map(str, rows)))
        if STORED_FEATURES not in (stream.column_names or []):
            return None
        column = (row[STORED_FEATURES] for row in stream.select_columns([STORED_FEATURES]))
    else:
        column = iter(rows[STORED_FEATURES] if STORED_FEATURES in rows.column_names else ())
    return next((stored for stored in column if stored is not None), None)


def write_shards(
    rows: Dataset,
    output: str | Path,
    split: str,
    facts: dict[str, Any],
    rows_per_shard: int = 512,
    keep_frames: bool = False,
    seed: int = 0,
    on_clip: Callable[[], Any] = lambda: None,
):
    """Write a split as shards that hold its media, in a shuffled order. Memory: one row group.

    Sound files and frames go in as they are; of a film its sound goes in, mono at 16 kHz.

    Args:
        rows: from [`load_split`].
        facts: what `manifest.json` shall know of the split.
        keep_frames: store the frames of clips that have stored visual features, too.
        seed: of the order.
        on_clip: called after each clip.

    Raises:
        DataError: the folder holds the split already.
        MediaError: a clip cannot be read.
    """
    folder = Path(output) / "data"
    if shards_of(output, split):
        raise DataError(f"{folder}: holds shards of {split}; name another --output, or move them away.")
    order = np.random.default_rng(seed).permutation(len(rows)).tolist()
    parts = list(in_batches(order, rows_per_shard))
    files = [folder / f"{split}-{number:05}-of-{len(parts):05}.parquet" for number in range(len(parts))]
    with ExitStack() as stack:  # a set of shards appears when it is whole
        for file, part in zip(files, parts, strict=True):
            partial = stack.enter_context(whole_file(file))
            write_parquet(partial, _embedded_rows(rows, part, keep_frames, on_clip), SHARD_COLUMNS)
    write_facts(output, split, facts | {"embedded": True})


def check_folders(rows: Dataset, folders: Sequence[str | Path]):
    """Refuse rows whose media lie elsewhere than below some folders: shards hold their bytes, and are passed on.

    Raises:
        DataError: with the first of these files.
    """
    roots = [Path(folder).resolve() for folder in folders]
    for row in rows.select_columns(["id", "audio", "frames"]):
        for medium in (row["audio"], *(row["frames"] or [])):
            if medium is None or medium["bytes"] is not None:
                continue
            path = Path(medium["path"]).resolve()
            if not any(path.is_relative_to(root) for root in roots):
                raise DataError(
                    f"{path}: of clip {row['id']}, lies outside of {', '.join(map(str, roots))}; if its bytes may go "
                    f"into the shards, allow it: --media {path.parent}."
                )


# -------------------------------------------------------------------------------------------------------- internals


def _embedded_rows(
    rows: Dataset, indices: Sequence[int], keep_frames: bool, on_clip: Callable[[], Any]
) -> Iterator[dict[str, Any]]:
    for index in indices:
        row = rows[index]
        stored = row.get(STORED_FEATURES)
        if stored is not None:
            stored = read_stored_features(stored).tolist()
        frames = row["frames"] if stored is None or keep_frames else None
        yield row | {
            "audio": row["audio"] and _embedded_audio(row["audio"]),
            "frames": frames and [_embedded(frame) for frame in frames],
            STORED_FEATURES: stored,
        }
        on_clip()


def _embedded(medium: dict[str, Any]) -> dict[str, Any]:
    if medium["bytes"] is not None:
        return medium
    path = Path(medium["path"])
    return {"bytes": path.read_bytes(), "path": path.name}


def _embedded_audio(medium: dict[str, Any]) -> dict[str, Any]:
    path = Path(medium["path"])
    if path.suffix.lower() in AUDIO_SUFFIXES:
        return _embedded(medium)
    clip = read_clip(as_file(medium), SAMPLING_RATE, num_frames=1, window=LONGEST_AUDIO, video=False)
    buffer = io.BytesIO()
    write_wav(buffer, to_pcm(clip.waveform))
    return {"bytes": buffer.getvalue(), "path": path.with_suffix(".wav").name}
