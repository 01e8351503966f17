"""Training data as a stream: shards that hold their media, read in order and never as a whole.

Shards are parquet files in the format of `lavcap.data.manifest` with the media inside, so that a machine reads large
files from end to end where it would open twenty small ones per clip.
"""

import io
from collections.abc import Callable, Iterator, Sequence
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset, Features, IterableDataset, load_dataset
from pyarrow import parquet

from lavcap.data.batches import in_batches
from lavcap.data.collation import REPEATED
from lavcap.data.dataset import as_file, draw_seed, features_or_reason, read_features, shared_number
from lavcap.data.manifest import FEATURES, VIDEO_FEATURES, DataError, shards_of, write_facts, write_parquet
from lavcap.data.precomputed_features import read_stored_features
from lavcap.data.wav import SAMPLING_RATE, to_pcm, write_wav
from media_captioning import SOUND_SUFFIXES, read_clip
from processing_captioning import CaptioningProcessor


SHARD_FEATURES = Features(FEATURES | VIDEO_FEATURES)
LONGEST_SOUND = 60.0  # seconds of a film's sound that a shard takes; windows of models are shorter


class ClipStream(torch.utils.data.IterableDataset):
    """Clips of shards as model features, shuffled, one caption each: the items of a tolerant [`ClipDataset`].

    All processes of a run read the same shuffled rows, undecoded; of every `batch_size * num_processes` of them each
    process takes and decodes its own `batch_size`. No row is left out or taken twice, but that several processes fill
    up the last batch of an epoch with rows of its beginning, so that all take as many steps; these are marked as
    `repeated`, and count for nothing. The order depends on the seed and the epoch only, not on the number of loader
    processes (`num_workers`).

    Args:
        files: shards, from [`find_shards`].
        processor: turns media into features.
        batch_size: clips per process and step.
        seed: of the order and of the draws.
        shuffle_buffer: rows to draw the next one from, held undecoded by every process that reads; 1 keeps the order
            of each shard.
        process_index, num_processes: of the run.
        stored_width: as of [`ClipDataset`].
    """

    def __init__(
        self,
        files: Sequence[Path],
        processor: CaptioningProcessor,
        batch_size: int,
        seed: int = 0,
        shuffle_buffer: int = 256,
        process_index: int = 0,
        num_processes: int = 1,
        stored_width: int | None = None,
    ):
        self.files = [str(file) for file in files]
        self.processor = processor
        self.batch_size = batch_size
        self.seed = seed
        self.shuffle_buffer = shuffle_buffer
        self.process_index = process_index
        self.num_processes = num_processes
        self.stored_width = stored_width
        self.num_rows = sum(_count_captions(file) for file in self.files)
        self._epoch = shared_number(0)
        self._skipped = shared_number(0)

    def __len__(self) -> int:
        """Clips per epoch and process."""
        steps, rest = divmod(self.num_rows, self.batch_size * self.num_processes)
        return steps * self.batch_size + (rest if self.num_processes == 1 else self.batch_size * bool(rest))

    def set_epoch(self, epoch: int, skipped_batches: int = 0):
        """Tell which epoch comes next, and how many of its batches will be thrown away after an interruption.

        Those are not decoded; they come as items without features.
        """
        self._epoch.fill_(epoch)
        self._skipped.fill_(skipped_batches)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        worker = torch.utils.data.get_worker_info()
        index, workers = (0, 1) if worker is None else (worker.id, worker.num_workers)
        epoch, skipped = int(self._epoch), int(self._skipped)
        for batch, rows in enumerate(self._batches(epoch)):
            # The data loader takes its batches from its processes in turn.
            if batch % workers == index:
                yield from ({"skipped": True} if batch < skipped else self._item(row, epoch) for row in rows)

    def _batches(self, epoch: int) -> Iterator[list[dict[str, Any]]]:
        """This process' rows, batch by batch."""
        first: list[dict[str, Any]] = []
        start = self.process_index * self.batch_size
        for rows in in_batches(self._rows(epoch), self.batch_size * self.num_processes):
            first = first or [row | {REPEATED: True} for row in rows]
            if self.num_processes > 1:
                rows = [*rows, *islice(cycle(first), self.batch_size * self.num_processes - len(rows))]
            yield rows[start : start + self.batch_size]

    def _rows(self, epoch: int) -> Iterator[dict[str, Any]]:
        """Undecoded rows, one caption each: files in a random order, and rows out of a buffer of the next ones.

        `IterableDataset.shuffle` does the same, but in an order that depends on the release of `datasets`.
        """
        draw = np.random.default_rng((self.seed, epoch))
        buffer: list[dict[str, Any]] = []
        for row in _flat_rows([self.files[index] for index in draw.permutation(len(self.files))]):
            if len(buffer) < self.shuffle_buffer:
                buffer.append(row)
                continue
            place = int(draw.integers(len(buffer)))
            yield buffer[place]
            buffer[place] = row
        yield from (buffer[index] for index in draw.permutation(len(buffer)))

    def _item(self, row: dict[str, Any], epoch: int) -> dict[str, Any]:
        item = {"id": row["id"], "captions": row["captions"], "seed": draw_seed(self.seed, epoch, row)}
        item |= {REPEATED: True} if row.get(REPEATED) else {}
        return item | features_or_reason(lambda: read_features(row, self.processor, self.stored_width))


def find_shards(data_dir: str | Path, split: str) -> list[Path]:
    """Shards of a split that hold their media.

    Raises:
        DataError: none, not all of them, or a manifest of paths.
    """
    files = shards_of(data_dir, split)
    if not files:
        raise DataError(f"{Path(data_dir) / 'data'}: no {split}-*.parquet; write them with scripts/write_shards.py.")
    declared = int(files[0].stem.rsplit("-", 1)[-1])
    if len(files) != declared:
        raise DataError(f"{files[0].parent}: {len(files)} of {declared} shards of {split}; copy or write them again.")
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
    folder.mkdir(parents=True, exist_ok=True)
    order = np.random.default_rng(seed).permutation(len(rows)).tolist()
    parts = list(in_batches(order, rows_per_shard))
    files = [folder / f"{split}-{number:05}-of-{len(parts):05}.parquet" for number in range(len(parts))]
    for file, part in zip(files, parts, strict=True):
        write_parquet(file.with_suffix(".new"), _embedded_rows(rows, part, keep_frames, on_clip), SHARD_FEATURES)
    for file in files:  # a set of shards appears when it is whole
        file.with_suffix(".new").replace(file)
    write_facts(output, split, facts | {"embedded": True})


# -------------------------------------------------------------------------------------------------------- internals


def _flat_rows(files: Sequence[str]) -> Iterator[dict[str, Any]]:
    # By batches: row by row, `datasets` would share the files out among the processes of a data loader itself.
    for batch in open_stream(files).iter(batch_size=1):
        row = {name: values[0] for name, values in batch.items()}
        yield from (row | {"captions": [caption]} for caption in row["captions"])


def _count_captions(file: str) -> int:
    captions = parquet.read_table(file, columns=["captions"])["captions"]
    return sum(map(len, captions.to_pylist()))


def _embedded_rows(
    rows: Dataset, indices: Sequence[int], keep_frames: bool, on_clip: Callable[[], Any]
) -> Iterator[dict[str, Any]]:
    for index in indices:
        row = rows[index]
        stored = row.get("video_features")
        if stored is not None:
            stored = read_stored_features(stored).tolist()
        frames = row["frames"] if stored is None or keep_frames else None
        yield row | {
            "audio": row["audio"] and _embedded_sound(row["audio"]),
            "frames": frames and [_embedded(frame) for frame in frames],
            "video_features": stored,
        }
        on_clip()


def _embedded(medium: dict[str, Any]) -> dict[str, Any]:
    if medium["bytes"] is not None:
        return medium
    path = Path(medium["path"])
    return {"bytes": path.read_bytes(), "path": path.name}


def _embedded_sound(medium: dict[str, Any]) -> dict[str, Any]:
    path = Path(medium["path"])
    if path.suffix.lower() in SOUND_SUFFIXES:
        return _embedded(medium)
    clip = read_clip(as_file(medium), SAMPLING_RATE, num_frames=1, window=LONGEST_SOUND, video=False)
    buffer = io.BytesIO()
    write_wav(buffer, to_pcm(clip.waveform))
    return {"bytes": buffer.getvalue(), "path": path.with_suffix(".wav").name}


def stored_example(rows: Dataset | list[Path]) -> Any:
    """Stored visual features of the first clip that has some, of a table or of shards; `None` if none has."""
    if isinstance(rows, list):
        stream = open_stream(list(map(str, rows)))
        if "video_features" not in (stream.column_names or []):
            return None
        column = (row["video_features"] for row in stream.select_columns(["video_features"]))
    else:
        column = iter(rows["video_features"] if "video_features" in rows.column_names else ())
    return next((stored for stored in column if stored is not None), None)
