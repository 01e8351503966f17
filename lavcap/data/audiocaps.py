"""AudioCaps' layout as published with AVCap: its rows, its references, and where its media are.

    <data_dir>/<split>.json                                   one row per clip
    <data_dir>/<split>_coco.json                              all captions per clip (optional)
    <data_dir>/<split>/waveforms/<audio_path>
    <data_dir>/<split>/frames/frame_{0..19}/<video_path>
    <data_dir>/visual_feature/<split>/<stem of audio_path>.npy   in place of frames, or beside them (optional)

The folders `waveforms` and `frames` may also stand directly in `<data_dir>`.
"""

from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
from datasets import Dataset

from lavcap.data.manifest import in_memory
from lavcap.data.references import as_text, coco_annotations, join_annotations
from lavcap.data.schema import CLIP_COLUMNS, DataError, stored_features_of
from lavcap.documents import read_bytes, read_json


LATEST_START = 1_000_000  # seconds: 11 days


@dataclass(frozen=True)
class LayoutRow:
    """A caption of a clip, with the media that the layout names for it; one of them is there.

    Args:
        number: of the row in its file, from 0.
        annotation: its own id, which AudioCaps calls audiocap_id.
        start_time: of the clip in its video, in seconds; its media are cut already.
    """

    number: int
    annotation: str | None
    youtube_id: str | None
    start_time: float | None
    caption: str
    audio_path: str | None
    video_path: str | None

    @property
    def clip(self) -> str:
        """Id of the clip."""
        return self.youtube_id or Path(self.audio_path or self.video_path).stem


def read_layout(data_dir: str | Path, split: str) -> tuple[Dataset, dict[str, str]]:
    """Clips of a split that have all their media: rows of `CLIP_COLUMNS`, and by id what each other clip lacks.

    Raises:
        DataError: rows or references cannot be used.
    """
    data_dir = Path(data_dir)
    path = data_dir / f"{split}.json"
    rows, complaints = read_rows(path)
    if complaints:
        bad = ", row ".join(f"{number} ({reason})" for number, reason in complaints.items())
        total = len(rows) + len(complaints)
        raise DataError(f"{path}: {len(complaints)} of {total} rows cannot be used: row {bad}; mend them.")
    captions = join_captions(data_dir, split, [(row.clip, row.caption) for row in rows])
    finder = _MediaFinder(data_dir, split)
    clips, missing = {}, {}
    for row in rows:
        found = finder.find(row, missing)
        clip = clips.setdefault(row.clip, found)
        if _media_of(clip) != _media_of(found):
            raise DataError(
                f"{path}: id {row.clip} stands for {_media_of(clip)[0]} and for {_media_of(found)[0]}; give each clip "
                "an id of its own."
            )
    found = [clip | {"captions": captions[name]} for name, clip in clips.items() if name not in missing]
    return in_memory(pa.Table.from_pylist(found, schema=CLIP_COLUMNS.arrow_schema)), missing


def read_rows(path: Path) -> tuple[list[LayoutRow], dict[int, str]]:
    """Rows of the layout that can be used, and why each other one cannot, by number.

    Raises:
        DataError: no such file, not JSON, or no list of rows.
    """
    absent = "check --data_dir and the name of the split"
    content = read_json(path, "write it again", absent, DataError)
    if not isinstance(content, list) or not content:
        found = f"list of {len(content)}" if isinstance(content, list) else type(content).__name__
        raise DataError(f"{path}: expected a list of rows, one per clip, found {found}.")
    rows, complaints = [], {}
    for number, row in enumerate(content):
        try:
            rows.append(_to_row(number, row))
        except ValueError as error:
            complaints[number] = str(error)
    return rows, complaints


def holds_rows(path: Path) -> bool:
    """Whether a file is a list of which some rows name their media as the layout does."""
    try:
        content = read_json(path, "")
    except ValueError:
        return False
    rows = content if isinstance(content, list) else []
    return any(isinstance(row, dict) and not row.keys().isdisjoint(("audio_path", "video_path")) for row in rows)


def join_captions(data_dir: Path, split: str, captions: list[tuple[str, str]]) -> dict[str, list[str]]:
    """All captions of each clip: those of `<split>_coco.json` first, if it is there, then others of the rows.

    Two people may have written the same caption: each counts as a reference.

    Args:
        captions: of the rows, each after the id of its clip.

    Raises:
        DataError: the file cannot be used, or lacks some of the clips.
    """
    path = data_dir / f"{split}_coco.json"
    references = _read_references(path)
    names = list(dict.fromkeys(name for name, _ in captions))
    if references and (absent := [name for name in names if name not in references]):
        raise DataError(
            f"{path}: has no captions for {len(absent)} of {len(names)} clips of {split}.json: {', '.join(absent)}; "
            "its image_id must be the youtube_id of a row."
        )
    joined = {name: list(references.get(name, ())) for name in names}
    for name, caption in captions:
        if caption not in references.get(name, ()):
            joined[name].append(caption)
    return joined


def media_folder(data_dir: Path, split: str) -> Path:
    """Folder that holds `waveforms` and `frames` of a split."""
    return data_dir / split if (data_dir / split).is_dir() else data_dir


# -------------------------------------------------------------------------------------------------------- internals


def _to_row(number: int, row: Any) -> LayoutRow:
    """Row of a record.

    Raises:
        ValueError: with the complaint.
    """
    if not isinstance(row, dict):
        raise ValueError(f"a {type(row).__name__}, expected an object")
    texts = {name: _optional_text(row.get(name), name) for name in ("caption", "audio_path", "video_path")}
    if texts["caption"] is None:
        raise ValueError("no caption")
    if texts["audio_path"] is None and texts["video_path"] is None:
        raise ValueError("neither audio_path nor video_path")
    for name in ("audio_path", "video_path"):
        if texts[name] is not None and not _is_inside(texts[name]):
            raise ValueError(f"{name} {texts[name]!r} leads out of the data set, expected a path below its folder")
    ids = (row.get(name) for name in ("audiocap_id", "youtube_id"))
    annotation, youtube_id = (None if value in (None, "") else str(value) for value in ids)
    return LayoutRow(number, annotation, youtube_id, to_start(row.get("start_time")), **texts)


def _is_inside(path: str) -> bool:
    """Whether a relative path stays below the folder that it is taken from."""
    parts = PurePosixPath(path.replace("\\", "/")).parts
    return not path.startswith(("/", "\\")) and ".." not in parts and ":" not in parts[0]


def _optional_text(value: Any, name: str) -> str | None:
    """Text that is there and not blank."""
    return None if value is None or not as_text(value, name).strip() else value


def to_start(value: Any) -> float | None:
    """Start of a clip in its video, in seconds, of what annotations say.

    Raises:
        ValueError: with the complaint.
    """
    text = "" if value is None else str(value).strip()
    if not text:
        return None
    try:
        start = float(text)
    except ValueError:
        raise ValueError(f"start_time is {text!r}, expected seconds") from None
    if not 0 <= start <= LATEST_START:  # NaN is neither
        raise ValueError(f"start_time is {text:.40}, expected seconds from 0 to {LATEST_START:,}")
    return start


def _read_references(path: Path) -> dict[str, list[str]]:
    """Captions by clip id from a file in COCO's layout, less empty ones; none if there is no such file."""
    if not path.exists():
        return {}
    try:
        annotations = coco_annotations(read_bytes(path))
        if annotations is None:
            raise ValueError(
                f"{path}: not in COCO's layout, expected an object with `annotations`, each with `image_id` and "
                "`caption`."
            )
        captions = join_annotations(path, annotations, as_text)
    except (OSError, ValueError) as error:
        raise DataError(str(error)) from error
    return {name: kept for name, each in captions.items() if (kept := [text for text in each if text.strip()])}


def _media_of(clip: dict[str, Any]) -> list[str]:
    return [medium["path"] for medium in [clip["audio"], *(clip["frames"] or [])] if medium is not None]


class _MediaFinder:
    """Finds the media of rows, asking the file system once per folder rather than once per file."""

    def __init__(self, data_dir: Path, split: str):
        self.root = media_folder(data_dir, split)
        folders = [path for path in (self.root / "frames").glob("frame_*") if path.name[6:].isdecimal()]
        self.frame_folders = sorted(folders, key=lambda path: int(path.name[6:])) or [self.root / "frames" / "frame_0"]
        # Who has stored visual features needs no frames.
        self.features = stored_features_of(data_dir, split)
        self.needs_frames = bool(folders) or not any(self.features.glob("*.npy"))
        self._listings: dict[Path, frozenset[str]] = {}

    def find(self, row: LayoutRow, missing: dict[str, str]) -> dict[str, Any]:
        """Row of the data set; the first file that is not there is noted in `missing` under the clip's id."""
        audio = self.root / "waveforms" / row.audio_path if row.audio_path else None
        video = row.video_path
        frames = [folder / video for folder in self.frame_folders] if video and self.needs_frames else []
        stored = [self.features / f"{(audio or Path(video)).stem}.npy"] if video and not frames else []
        for path in [audio] * (audio is not None) + frames + stored:
            if not self._exists(path):
                missing.setdefault(row.clip, str(path))
                break
        return {
            "id": row.clip,
            "youtube_id": row.youtube_id,
            "start_time": row.start_time,
            "audio": audio and _medium(audio),
            "frames": [_medium(path) for path in frames] or None,
        }

    def _exists(self, path: Path) -> bool:
        folder = path.parent
        if folder not in self._listings:
            names = (entry.name for entry in folder.iterdir()) if folder.is_dir() else ()
            self._listings[folder] = frozenset(names)
        return path.name in self._listings[folder]


def _medium(path: Path) -> dict[str, Any]:
    return {"bytes": None, "path": str(path)}
