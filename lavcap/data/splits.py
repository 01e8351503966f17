"""Rows of caption data sets: of a prepared one, or of a folder in AudioCaps' layout as published with AVCap.

What `scripts/prepare_audiocaps.py` writes has a manifest. Without one a folder is read in AudioCaps' layout:

    <data_dir>/<split>.json                                   one row per clip
    <data_dir>/<split>_coco.json                              all captions per clip (optional)
    <data_dir>/<split>/waveforms/<audio_path>
    <data_dir>/<split>/frames/frame_{0..19}/<video_path>
    <data_dir>/visual_feature/<split>/<stem of audio_path>.npy   in place of frames, or beside them (optional)

The folders `waveforms` and `frames` may also stand directly in `<data_dir>`.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
from datasets import Dataset
from transformers.utils import logging

from lavcap.data.manifest import FEATURES, DataError, read_facts, read_manifest, shards_of, take_rows
from lavcap.data.precomputed_features import add_stored_features, failed_features, stored_features_of
from lavcap.data.references import read_coco_references
from processing_captioning import CaptioningProcessor


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

    What the preparation of a data set left out was reported there, so it is only said again.

    Raises:
        DataError: with every missing file.
    """
    prepared = bool(shards_of(data_dir, split))
    path = Path(data_dir) / ("manifest.json" if prepared else f"{split}.json")
    total = len(rows) + len(missing)
    if missing and not (skip_missing_media or prepared):
        listed = "".join(f"\n  {name}: {file}" for name, file in missing.items())
        raise DataError(
            f"{path}: {len(missing)} of {total} clips lack media; restore the files, or pass --skip_missing_media to "
            f"do without these clips:{listed}"
        )
    if missing:
        logger.warning(f"{path}: {len(missing)} of {total} clips of {split} lack media and are left out.")
    if not len(rows):
        raise DataError(f"{path}: none of the {total} clips of {split} has its media; check --data_dir.")


def load_splits(splits: Sequence[tuple[str | Path, str]], skip_missing_media: bool = False) -> list[Dataset]:
    """Several splits by [`load_split`], each a folder and a name; what is wrong with them is said at once."""
    loaded, complaints = [], []
    for data_dir, split in splits:
        try:
            loaded.append(load_split(data_dir, split, skip_missing_media))
        except DataError as error:
            complaints.append(str(error))
    if complaints:
        raise DataError("\n".join(complaints))
    return loaded


def read_split(data_dir: str | Path, split: str, stored_features: bool = True) -> tuple[Dataset, dict[str, str]]:
    """Read the annotations of a split and look for its media.

    Args:
        data_dir: folder with a manifest, or in AudioCaps' layout.
        split: name of the split; in the layout that of the annotation file without `.json`.
        stored_features: look for stored visual features.

    Returns:
        One row per clip with all its media: the columns of [`lavcap.data.manifest.FEATURES`], and `video_features`,
        the path of the clip's stored visual features, where the data set has some; and, by clip id, what is missing of
        each other clip.
    """
    prepared = read_facts(data_dir)
    if prepared and split not in prepared and not (Path(data_dir) / f"{split}.json").exists():
        raise DataError(f"{data_dir}: has no split {split!r}, expected one of {', '.join(prepared)}.")
    if shards_of(data_dir, split):
        rows, missing = read_manifest(data_dir, split), prepared.get(split, {}).get("missing", {})
    else:
        rows, missing = _read_layout(Path(data_dir), split)
    if not stored_features:
        return rows, missing
    failed = failed_features(data_dir, split)
    if failed:
        rows = take_rows(rows, (number for number, name in enumerate(rows["id"]) if name not in failed))
    return add_stored_features(rows, data_dir, split), missing | failed


def check_usable(rows: Dataset, processor: CaptioningProcessor):
    """Refuse rows that a single-modality baseline can make nothing of.

    Raises:
        DataError: with the ids of the clips that lack the modality.
    """
    columns = {"audio": ("audio",), "video": ("frames", "video_features")}
    wanted = [name for kind in processor.modalities for name in columns[kind] if name in rows.column_names]
    present = zip(*(rows.data.column(name).is_valid().to_pylist() for name in wanted), strict=True)
    lacking = [name for name, found in zip(rows["id"], present, strict=True) if not any(found)]
    if lacking:
        raise DataError(
            f"{len(lacking)} of {len(rows)} clips have no {processor.modalities[0]}, and the model is a baseline on "
            f"that alone; leave out their rows: {', '.join(lacking)}"
        )


def one_row_per_caption(dataset: Dataset) -> Dataset:
    """Rows for training: a clip with five captions becomes five rows."""
    repeats = [len(captions) for captions in dataset["captions"]]
    rows = take_rows(dataset, (row for row, count in enumerate(repeats) for _ in range(count)))
    captions = [[caption] for captions in dataset["captions"] for caption in captions]
    table = rows.data.table
    place = table.column_names.index("captions")
    return Dataset(
        table.set_column(place, table.schema.field(place), pa.array(captions, table.schema.field(place).type))
    )


# -------------------------------------------------------------------------------------------------------- internals


def _read_layout(data_dir: Path, split: str) -> tuple[Dataset, dict[str, str]]:
    references = read_coco_references(data_dir / f"{split}_coco.json")
    finder = _MediaFinder(data_dir, split)
    clips, missing = {}, {}
    for row in _read_rows(data_dir / f"{split}.json"):
        name, found = _clip_id(row), finder.find(row, missing)
        clip = clips.setdefault(name, found)
        if _media_of(clip) != _media_of(found):
            raise DataError(
                f"{data_dir / split}.json: id {name} stands for {_media_of(clip)[0]} and for {_media_of(found)[0]}; "
                "give each clip an id of its own."
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
    rows = [clip for name, clip in clips.items() if name not in missing]
    return Dataset(pa.Table.from_pylist(rows, schema=FEATURES.arrow_schema)), missing


def _media_of(clip: dict[str, Any]) -> list[str]:
    return [medium["path"] for medium in [clip["audio"], *(clip["frames"] or [])] if medium is not None]


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


def _clip_id(row: dict[str, Any]) -> str:
    return str(row.get("youtube_id") or Path(row.get("audio_path") or row["video_path"]).stem)


class _MediaFinder:
    """Finds the media of rows, asking the file system once per folder rather than once per file."""

    def __init__(self, data_dir: Path, split: str):
        self.root = data_dir / split if (data_dir / split).is_dir() else data_dir
        folders = [path for path in (self.root / "frames").glob("frame_*") if path.name[6:].isdecimal()]
        self.frame_folders = sorted(folders, key=lambda path: int(path.name[6:])) or [self.root / "frames" / "frame_0"]
        # Who has stored visual features needs no frames.
        self.features = stored_features_of(data_dir, split)
        self.needs_frames = bool(folders) or not any(self.features.glob("*.npy"))
        self._listings: dict[Path, frozenset[str]] = {}

    def find(self, row: dict[str, Any], missing: dict[str, str]) -> dict[str, Any]:
        """Row of the data set; the first file that is not there is noted in `missing` under the clip's id."""
        audio = self.root / "waveforms" / row["audio_path"] if row.get("audio_path") else None
        seen = row.get("video_path")
        frames = [folder / row["video_path"] for folder in self.frame_folders] if seen and self.needs_frames else []
        stored = [self.features / f"{(audio or Path(seen)).stem}.npy"] if seen and not frames else []
        for path in [audio] * (audio is not None) + frames + stored:
            if not self._exists(path):
                missing.setdefault(_clip_id(row), str(path))
                break
        return {
            "id": _clip_id(row),
            "youtube_id": row.get("youtube_id"),
            "start_time": _seconds(row.get("start_time")),
            "audio": audio and _medium(audio),
            "frames": [_medium(path) for path in frames] or None,
            "captions": [],
        }

    def _exists(self, path: Path) -> bool:
        folder = path.parent
        if folder not in self._listings:
            names = (entry.name for entry in folder.iterdir()) if folder.is_dir() else ()
            self._listings[folder] = frozenset(names)
        return path.name in self._listings[folder]


def _medium(path: Path) -> dict[str, Any]:
    return {"bytes": None, "path": str(path)}


def _seconds(value: Any) -> float | None:
    """The layout's `start_time`, which is information only: the media are cut already."""
    try:
        return float(value)
    except (TypeError, ValueError):
        return None
