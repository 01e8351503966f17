"""Caption data sets in AudioCaps' layout, and batches of them for training and evaluation.

The layout is the one published with AVCap, which LAVCap reads too:

    <data_dir>/<split>.json                                   one row per clip
    <data_dir>/<split>_coco.json                              all captions per clip (optional)
    <data_dir>/<split>/waveforms/<audio_path>
    <data_dir>/<split>/frames/frame_{0..19}/<video_path>

The folders may also stand directly in `<data_dir>`.
"""

import json
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from tqdm.auto import tqdm
from transformers import BatchFeature
from transformers.utils import logging

from lavcap.manifest import DataError
from media_lavcap import Clip, MediaError, read_images
from processing_lavcap import LavcapProcessor


logger = logging.get_logger(__name__)


def load_split(data_dir: str | Path, split: str, skip_missing_media: bool = False) -> Dataset:
    """Rows of a split whose media are all there: [`read_split`], then [`check_media`]."""
    rows, missing = read_split(data_dir, split)
    check_media(rows, missing, data_dir, split, skip_missing_media)
    return rows


def check_media(
    rows: Dataset, missing: dict[str, str], data_dir: str | Path, split: str, skip_missing_media: bool = False
):
    """Refuse what [`read_split`] found if media are missing, unless `skip_missing_media`, or if nothing is left.

    Raises:
        DataError: with every missing file.
    """
    path, total = Path(data_dir) / f"{split}.json", len(rows) + len(missing)
    if missing and not skip_missing_media:
        listed = "".join(f"\n  {name}: {file}" for name, file in missing.items())
        raise DataError(
            f"{path}: {len(missing)} of {total} clips lack media; restore the files, or pass --skip_missing_media to "
            f"do without these clips:{listed}"
        )
    if missing:
        logger.warning(f"{path}: {len(missing)} of {total} clips lack media and are left out.")
    if not len(rows):
        raise DataError(f"{path}: none of its {total} clips has its media; check --data_dir.")


def load_splits(data_dir: str | Path, splits: Sequence[str], skip_missing_media: bool = False) -> list[Dataset]:
    """Several splits by [`load_split`]; what is wrong with them is said at once."""
    loaded, complaints = [], []
    for split in splits:
        try:
            loaded.append(load_split(data_dir, split, skip_missing_media))
        except DataError as error:
            complaints.append(str(error))
    if complaints:
        raise DataError("\n".join(complaints))
    return loaded


def read_split(data_dir: str | Path, split: str) -> tuple[Dataset, dict[str, str]]:
    """Read the annotations of a split and look for its media.

    Args:
        data_dir: folder in AudioCaps' layout.
        split: name of the annotation file without `.json`.

    Returns:
        One row per clip with all its media: `id` (str), `audio` (path or `None`), `frames` (paths or `None`),
        `captions` (list of str); and, by clip id, the first missing file of each other clip.
    """
    data_dir = Path(data_dir)
    references = _read_references(data_dir / f"{split}_coco.json")
    finder = _MediaFinder(data_dir, split)
    clips, missing = {}, {}
    for row in _read_rows(data_dir / f"{split}.json"):
        name, found = _clip_id(row), finder.find(row, missing)
        clip = clips.setdefault(name, found)
        if (clip["audio"], clip["frames"]) != (found["audio"], found["frames"]):
            raise DataError(
                f"{data_dir / split}.json: id {name} stands for {clip['audio'] or clip['frames'][0]} and for "
                f"{found['audio'] or found['frames'][0]}; give each clip an id of its own."
            )
        clip["captions"].append(row["caption"])
    for name, clip in clips.items():
        # Two people may have written the same caption: each counts as a reference.
        known = references.get(name, [])
        clip["captions"] = known + [caption for caption in clip["captions"] if caption not in known]
    if references and (absent := [name for name in clips if name not in references]):
        raise DataError(
            f"{data_dir / split}_coco.json: has no captions for {len(absent)} of {len(clips)} clips of {split}.json: "
            f"{', '.join(absent)}; its image_id must be the youtube_id of a row."
        )
    return Dataset.from_list([clip for name, clip in clips.items() if name not in missing]), missing


def check_usable(rows: Dataset, processor: LavcapProcessor):
    """Refuse rows that a single-modality baseline can make nothing of.

    Raises:
        DataError: with the ids of the clips that lack the modality.
    """
    columns = {"audio": "audio", "video": "frames"}
    lacking = [row["id"] for row in rows if all(row[columns[kind]] is None for kind in processor.modalities)]
    if lacking:
        raise DataError(
            f"{len(lacking)} of {len(rows)} clips have no {processor.modalities[0]}, and the model is a baseline on "
            f"that alone; leave out their rows: {', '.join(lacking)}"
        )


def one_row_per_caption(dataset: Dataset) -> Dataset:
    """Rows for training: a clip with five captions becomes five rows."""
    return dataset.map(_split_captions, batched=True, load_from_cache_file=False, keep_in_memory=True)


def _split_captions(rows: dict[str, list]) -> dict[str, list]:
    repeats = [len(captions) for captions in rows["captions"]]
    flat = {
        name: [value for value, n in zip(column, repeats, strict=True) for _ in range(n)]
        for name, column in rows.items()
    }
    flat["captions"] = [[caption] for captions in rows["captions"] for caption in captions]
    return flat


class ClipDataset(torch.utils.data.Dataset):
    """Clips as model features: `{"id", "captions", "features"}` per row.

    Args:
        rows: from [`load_split`].
        processor: turns media into features.
        cache: keep the features of every clip in memory; for sets that fit.
    """

    def __init__(self, rows: Dataset, processor: LavcapProcessor, cache: bool = False):
        self.rows = rows
        self.processor = processor
        self._cache: dict[str, dict[str, torch.Tensor]] | None = {} if cache else None

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        row = self.rows[int(index)]
        return {"id": row["id"], "captions": row["captions"], "features": self._features(row)}

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
            listed = "".join(f"\n  {error}" for error in dict.fromkeys(errors))
            raise DataError(f"{len(errors)} of {len(self)} clips cannot be read; replace them, or their rows:{listed}")
        return self

    def _try(self, index: int) -> str | None:
        """Read a clip into the cache; the reason if that fails."""
        try:
            self[index]
        except MediaError as error:
            return str(error)
        return None

    def _features(self, row: dict[str, Any]) -> dict[str, torch.Tensor]:
        if self._cache is None:
            return read_features(row, self.processor)
        if row["id"] not in self._cache:
            self._cache[row["id"]] = read_features(row, self.processor)
        return self._cache[row["id"]]


def read_features(row: dict[str, Any], processor: LavcapProcessor) -> dict[str, torch.Tensor]:
    """Decode the media of a row and make the model's features of them, as [`LavcapProcessor.clip_features`]."""
    waveform = frames = None
    if row["audio"] is not None and "audio" in processor.modalities:
        waveform = processor.load_clip(row["audio"], video=False).waveform
    if row["frames"] is not None and "video" in processor.modalities:
        frames = read_images(row["frames"], processor.num_video_frames)
    return processor.clip_features(Clip(waveform, frames, None))


class TrainingCollator:
    """Batches with labels; some clips lose a modality, so that the model learns to do with one.

    Both modalities of such a clip stay in the batch and are masked: what runs does not depend on the draw.

    Args:
        processor: writes prompts and placeholders.
        audio_only_rate, video_only_rate: share of the clips whose picture, whose sound is hidden.
    """

    def __init__(self, processor: LavcapProcessor, audio_only_rate: float = 0.0, video_only_rate: float = 0.0):
        if min(audio_only_rate, video_only_rate) < 0 or audio_only_rate + video_only_rate > 1:
            raise ValueError(
                f"audio_only_rate is {audio_only_rate} and video_only_rate {video_only_rate}, expected shares of the "
                "training clips: not negative and at most 1 together."
            )
        self.processor = processor
        self.audio_only_rate = audio_only_rate
        self.video_only_rate = video_only_rate

    def __call__(self, items: Sequence[dict[str, Any]]) -> BatchFeature:
        draws = torch.rand(len(items)).tolist()
        complete = [len(item["features"]) == 2 for item in items]
        audio_only = [whole and draw < self.audio_only_rate for whole, draw in zip(complete, draws, strict=True)]
        video_only = [whole and draw >= 1 - self.video_only_rate for whole, draw in zip(complete, draws, strict=True)]
        return self.processor.batch(
            [item["features"] for item in items],
            captions=[item["captions"][0] for item in items],
            audio_mask=[not hidden for hidden in video_only],
            video_mask=[not hidden for hidden in audio_only],
        )


class EvaluationCollator:
    """Batches with labels for the loss, and the prompt alone, left-padded, for generation (`generation_*`)."""

    def __init__(self, processor: LavcapProcessor):
        self.processor = processor

    def __call__(self, items: Sequence[dict[str, Any]]) -> BatchFeature:
        features = [item["features"] for item in items]
        batch = self.processor.batch(features, captions=[item["captions"][0] for item in items])
        prompt = self.processor.batch(features)
        batch["generation_input_ids"] = prompt["input_ids"]
        batch["generation_attention_mask"] = prompt["attention_mask"]
        return batch


# -------------------------------------------------------------------------------------------------------- internals


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; check --data_dir and the name of the split.") from None
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: not readable as JSON ({error}); write it again.") from error


def _read_rows(path: Path) -> list[dict[str, Any]]:
    rows = _read_json(path)
    if not isinstance(rows, list) or not rows:
        found = f"list of {len(rows)}" if isinstance(rows, list) else type(rows).__name__
        raise DataError(f"{path}: expected a list of rows, one per clip, found {found}.")
    bad = [f"{index} ({reason})" for index, row in enumerate(rows) if (reason := _complaint(row))]
    if bad:
        raise DataError(f"{path}: {len(bad)} of {len(rows)} rows cannot be used: row {', row '.join(bad)}; mend them.")
    return rows


def _complaint(row: Any) -> str | None:
    """Why a row cannot be used, or `None`."""
    if not isinstance(row, dict):
        return f"a {type(row).__name__}, expected an object"
    for name in ("caption", "audio_path", "video_path"):
        if not isinstance(row.get(name), (str, type(None))):
            return f"{name} is a {type(row[name]).__name__}, expected text"
    if not (row.get("caption") or "").strip():
        return "no caption"
    if not (row.get("audio_path") or row.get("video_path")):
        return "neither audio_path nor video_path"
    return None


def _read_references(path: Path) -> dict[str, list[str]]:
    """Captions by clip id from a COCO file; none if there is no such file."""
    references: dict[str, list[str]] = defaultdict(list)
    content = _read_json(path) if path.exists() else {"annotations": []}
    try:
        for annotation in content["annotations"]:
            if annotation["caption"].strip():
                references[str(annotation["image_id"])].append(annotation["caption"])
    except (AttributeError, KeyError, TypeError) as error:
        raise DataError(
            f"{path}: not in COCO's layout ({type(error).__name__}: {error}), expected an object with `annotations`, "
            "each with `image_id` and `caption`."
        ) from error
    return references


def _clip_id(row: dict[str, Any]) -> str:
    return str(row.get("youtube_id") or Path(row.get("audio_path") or row["video_path"]).stem)


class _MediaFinder:
    """Finds the media of rows, asking the file system once per folder rather than once per file."""

    def __init__(self, data_dir: Path, split: str):
        self.root = data_dir / split if (data_dir / split).is_dir() else data_dir
        folders = [path for path in (self.root / "frames").glob("frame_*") if path.name[6:].isdecimal()]
        self.frame_folders = sorted(folders, key=lambda path: int(path.name[6:])) or [self.root / "frames" / "frame_0"]
        self._listings: dict[Path, frozenset[str]] = {}

    def find(self, row: dict[str, Any], missing: dict[str, str]) -> dict[str, Any]:
        """Row of the data set; the first file that is not there is noted in `missing` under the clip's id."""
        audio = self.root / "waveforms" / row["audio_path"] if row.get("audio_path") else None
        frames = [folder / row["video_path"] for folder in self.frame_folders] if row.get("video_path") else None
        for path in [audio] * (audio is not None) + (frames or []):
            if not self._exists(path):
                missing.setdefault(_clip_id(row), str(path))
                break
        return {
            "id": _clip_id(row),
            "audio": audio and str(audio),
            "frames": frames and [str(path) for path in frames],
            "captions": [],
        }

    def _exists(self, path: Path) -> bool:
        folder = path.parent
        if folder not in self._listings:
            names = (entry.name for entry in folder.iterdir()) if folder.is_dir() else ()
            self._listings[folder] = frozenset(names)
        return path.name in self._listings[folder]
