"""Clips as model features: what is read of the media of a row, and data sets of them."""

import hashlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from datasets import Dataset
from tqdm.auto import tqdm

from lavcap.data.precomputed_features import read_stored_features
from lavcap.data.schema import STORED_FEATURES, DataError
from media_captioning import Clip
from pictures_captioning import read_images
from sources_captioning import MediaError, StoredFile


if TYPE_CHECKING:
    from processing_captioning import CaptioningProcessor


FRAMES = 0x6672616D6573  # sets the draw of frames apart from others of the same seed


class ClipDataset(torch.utils.data.Dataset):
    """Clips as model features: `{"id", "captions", "features", "seed"}` per row.

    Args:
        rows: from [`load_split`].
        processor: turns media into features.
        cache: keep the features of every clip in memory; for sets that fit.
        seed: of the random draws that training makes for a clip; they differ from epoch to epoch.
        tolerant: a clip that cannot be read comes without features, with the reason under `broken`, and does not
            raise.
        stored_size: that stored visual features should have; default: any.
        draws_frames: take other frames of a clip in each epoch, where the processor has it so in training.
    """

    def __init__(
        self,
        rows: Dataset,
        processor: "CaptioningProcessor",
        cache: bool = False,
        seed: int = 0,
        tolerant: bool = False,
        stored_size: int | None = None,
        draws_frames: bool = False,
    ):
        self.rows = rows
        self.processor = processor
        self.seed = seed
        self.tolerant = tolerant
        self.stored_size = stored_size
        self.draws_frames = draws_frames
        self._epoch = shared_number(0)
        self._cache: dict[tuple, dict[str, torch.Tensor]] | None = {} if cache else None

    def __len__(self) -> int:
        return len(self.rows)

    def set_epoch(self, epoch: int):
        """Tell which epoch the next rows are drawn for, loader processes that already run included."""
        self._epoch.fill_(epoch)

    def __getitem__(self, index: int) -> dict[str, Any]:
        row = self.rows[int(index)]
        item = start_item(row, self.seed, int(self._epoch))
        if not self.tolerant:
            return item | {"features": self._features(row, item["seed"])}
        return item | features_or_reason(lambda: self._features(row, item["seed"]))

    def preload(self, description: str, threads: int = 2) -> "ClipDataset":
        """Read every clip once, with a progress bar, and keep its features if there is a cache.

        Raises:
            DataError: some clips cannot be read; all of them are listed.
        """
        errors = []
        with ThreadPoolExecutor(threads) as pool, tqdm(total=len(self), desc=description, unit="clip") as progress:
            for error in pool.map(self._try, range(len(self))):
                errors += [error] if error else []
                progress.update()
        if errors:
            fault = f"{len(errors)} of {len(self)} clips cannot be read; replace them, or their rows:"
            raise DataError(fault, dict.fromkeys(errors))
        return self

    def _try(self, index: int) -> str | None:
        """Read a clip into the cache; the reason if that fails."""
        row = self.rows[index]
        try:
            self._features(row, start_item(row, self.seed, int(self._epoch))["seed"])
        except MediaError as error:
            return str(error)
        return None

    def _features(self, row: dict[str, Any], seed: int) -> dict[str, torch.Tensor]:
        numbers = drawn_frames(row, self.processor, seed) if self.draws_frames else None
        if self._cache is None:
            return read_features(row, self.processor, self.stored_size, numbers)
        key = (row["id"], *(numbers or ()))
        if key not in self._cache:
            self._cache[key] = read_features(row, self.processor, self.stored_size, numbers)
        return self._cache[key]


def drawn_frames(row: dict[str, Any], processor: "CaptioningProcessor", seed: int) -> list[int] | None:
    """Numbers of the frames that training takes of a row this time; `None` where it has none.

    Args:
        seed: of the draws for the row.
    """
    if row["frames"] is None or "video" not in processor.modalities:
        return None
    draw = torch.Generator().manual_seed(seed ^ FRAMES)  # the collator draws from the seed itself
    return processor.choose_frames(len(row["frames"]), draw)


def read_features(
    row: dict[str, Any],
    processor: "CaptioningProcessor",
    stored_size: int | None = None,
    numbers: Sequence[int] | None = None,
) -> dict[str, torch.Tensor]:
    """Features of a row: of its media, as `processor.clip_features`, or the stored ones.

    Args:
        stored_size: that stored features should have; default: any.
        numbers: of the frames to take, from [`drawn_frames`]; default: those of evaluation.

    Raises:
        MediaError: a medium or the stored features cannot be used.
    """
    features = processor.clip_features(read_media(row, processor, numbers))
    stored = row.get(STORED_FEATURES) if "video" in processor.modalities else None
    if stored is not None:
        features[STORED_FEATURES] = read_stored_features(stored, processor.num_video_frames, stored_size)
    return features


def read_media(row: dict[str, Any], processor: "CaptioningProcessor", numbers: Sequence[int] | None = None) -> Clip:
    """Sound and frames of a row, of what the model takes; no frames where stored features are in their place.

    Args:
        numbers: as of [`read_features`].

    Raises:
        MediaError: a medium cannot be used.
    """
    waveform = frames = rate = None
    if row["audio"] is not None and "audio" in processor.modalities:
        sound = processor.load_clip(as_file(row["audio"]), video=False)
        waveform, rate = sound.waveform, sound.sampling_rate
    if row["frames"] is not None and row.get(STORED_FEATURES) is None and "video" in processor.modalities:
        images = [as_file(frame) for frame in row["frames"]]
        frames = read_images(images, numbers or processor.choose_frames(len(images)))
    return Clip(waveform, frames, None, rate)


def start_item(row: dict[str, Any], seed: int, epoch: int) -> dict[str, Any]:
    """What an item says of its clip beside its features; `captions` is empty where a row has none."""
    return {"id": row["id"], "captions": row["captions"] or [], "seed": draw_seed(seed, epoch, row)}


def features_or_reason(read: Callable[[], dict[str, torch.Tensor]]) -> dict[str, Any]:
    """`features`, or none of them and under `broken` why the clip cannot be read."""
    try:
        return {"features": read()}
    except MediaError as error:
        return {"features": {}, "broken": str(error)}


def as_file(medium: dict[str, Any]) -> Path | StoredFile:
    """What a reader of media takes, of a `{"bytes", "path"}` column."""
    if medium["bytes"] is None:
        return Path(medium["path"])
    return StoredFile(medium["path"] or "a clip without a name", medium["bytes"])


def draw_seed(seed: int, epoch: int, row: dict[str, Any]) -> int:
    """Seed of the draws for a row in an epoch.

    It depends on nothing else, so that neither the number of processes nor an interruption changes a draw.
    """
    text = "\0".join((str(seed), str(epoch), row["id"], *(row["captions"] or ())))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


def shared_number(value: int) -> torch.Tensor:
    """A number that the processes of a data loader see change."""
    return torch.tensor(value).share_memory_()
