"""Training data as a stream: shards that hold their media, read in order and never as a whole."""

from collections.abc import Iterator, Sequence
from itertools import cycle, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from lavcap.data.batches import in_batches
from lavcap.data.collation import REPEATED
from lavcap.data.dataset import drawn_frames, features_or_reason, read_features, shared_number, start_item
from lavcap.data.manifest import read_columns
from lavcap.data.shards import open_stream
from lavcap.data.splits import one_by_one


if TYPE_CHECKING:
    from processing_captioning import CaptioningProcessor


class ClipStream(torch.utils.data.IterableDataset):
    """Clips of shards as model features, shuffled, at most one caption each: the items of a tolerant [`ClipDataset`].

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
        stored_size: as of [`ClipDataset`].
    """

    def __init__(
        self,
        files: Sequence[Path],
        processor: "CaptioningProcessor",
        batch_size: int,
        seed: int = 0,
        shuffle_buffer: int = 256,
        process_index: int = 0,
        num_processes: int = 1,
        stored_size: int | None = None,
    ):
        self.files = [str(file) for file in files]
        self.processor = processor
        self.batch_size = batch_size
        self.seed = seed
        self.shuffle_buffer = shuffle_buffer
        self.process_index = process_index
        self.num_processes = num_processes
        self.stored_size = stored_size
        self.num_rows = sum(_count_rows(file) for file in self.files)
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
        """Undecoded rows, a caption each: files in a random order, and rows out of a buffer of the next ones.

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
        item = start_item(row, self.seed, epoch) | ({REPEATED: True} if row.get(REPEATED) else {})
        frames = drawn_frames(row, self.processor, item["seed"])
        return item | features_or_reason(lambda: read_features(row, self.processor, self.stored_size, frames))


# -------------------------------------------------------------------------------------------------------- internals


def _flat_rows(files: Sequence[str]) -> Iterator[dict[str, Any]]:
    # By batches: row by row, `datasets` would share the files out among the processes of a data loader itself.
    for batch in open_stream(files).iter(batch_size=1):
        row = {name: values[0] for name, values in batch.items()}
        yield from (row | {"captions": captions} for captions in one_by_one(row["captions"]))


def _count_rows(file: str) -> int:
    captions = read_columns(Path(file), ["captions"])["captions"]
    return sum(len(one_by_one(each)) for each in captions.to_pylist())
