"""What people have of a caption data set: annotations with folders of media, the released layout, or a Hub data set.

All of them become a `Source`: the clips that are expected, and a way to their media.
"""

import hashlib
import os
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from datasets import Audio, Dataset, DatasetDict, Video, get_dataset_split_names, load_dataset, load_from_disk

from lavcap.data.audiocaps import holds_rows, join_captions, media_folder, read_rows
from lavcap.data.schema import DataError
from lavcap.preparation.annotations import (
    AnnotationRow,
    Annotations,
    choose_columns,
    clip_names,
    from_layout_rows,
    read_annotations,
    to_annotations,
)
from lavcap.preparation.media import Media
from lavcap.preparation.media_index import MediaIndex
from sources_captioning import StoredFile


SPLIT_NAMES = {"val": ("validation", "valid", "dev", "eval"), "validation": ("val", "valid", "dev", "eval")}
TEXT_BATCH = 1000  # rows whose text is read at a time


@dataclass(frozen=True)
class Reading:
    """How annotations are read.

    Args:
        window: of a clip, in seconds.
        columns: what they call a key of `KNOWN_COLUMNS`, `audio` or `video`, where that is none of the known names.
        skip_bad_rows: do without rows that cannot be used.
    """

    window: float
    columns: dict[str, str] = field(default_factory=dict)
    skip_bad_rows: bool = False


@dataclass
class ExpectedClip:
    """A clip of the annotations, with all its captions.

    Args:
        id: unique in the source; for AudioCaps the YouTube id.
        key: what its media are named by, where that is not the file of the annotation.
        file: what the annotation calls its media.
        start_time: in the video, in seconds.
        number: row of the data set that holds its media.
        rows: of the annotations, for the list of missing ones.
    """

    id: str
    key: str | None
    youtube_id: str | None
    file: str | None
    start_time: float | None
    captions: list[str] = field(default_factory=list)
    number: int | None = None
    rows: list[AnnotationRow] = field(default_factory=list)


@dataclass
class Source:
    """Clips that are expected, and where their media are.

    Args:
        name: what is said of the origin.
        clips: in the order of the annotations.
        annotations: the rows, with the complaints about others.
        index: of the folders of media.
        stored: data set whose rows hold media, undecoded.
        columns: of `stored`, by modality.
    """

    name: str
    clips: list[ExpectedClip]
    annotations: Annotations
    index: MediaIndex | None = None
    stored: Dataset | None = None
    columns: dict[str, str] = field(default_factory=dict)

    def find(self, clip: ExpectedClip, window: float, num_frames: int) -> Media:
        """Media of a clip in the folders; nothing without folders."""
        if self.index is None:
            return Media()
        return self.index.find(clip.key, clip.file, clip.start_time, window, num_frames)

    def signature(self) -> str:
        """Says whether the data set is that of another run: a digest of its files' names, sizes and times."""
        if self.stored is None:
            return ""
        files = [signature(file["filename"]) for file in self.stored.cache_files]
        return hashlib.sha256(repr(files).encode()).hexdigest()

    def read_stored(self, number: int) -> dict[str, StoredFile | str]:
        """Media of a row of the data set by modality: in memory, or the path of a file."""
        row = self.stored[number]
        cells = {kind: _to_medium(row[column], self.name, number) for kind, column in self.columns.items()}
        return {kind: cell for kind, cell in cells.items() if cell is not None}


def from_files(annotations: str | Path, media: Sequence[str | Path], reading: Reading) -> Source:
    """Annotations in a file, media in folders.

    Raises:
        DataError: the annotations cannot be used, or a folder is not there.
    """
    return _from_annotations(annotations, read_annotations(annotations, reading.columns), media, reading)


def from_layout(data_dir: str | Path, split: str, reading: Reading) -> Source:
    """A folder in the layout published with AVCap (`lavcap/data/audiocaps.py`), or one with `<split>.csv` and media.

    Raises:
        DataError: the annotations cannot be used.
    """
    root = Path(data_dir)
    files = [path for suffix in ("json", "csv", "tsv", "jsonl") if (path := root / f"{split}.{suffix}").is_file()]
    if not files:
        raise DataError(f"{root}: no {split}.json or {split}.csv; check --data_dir and --split.")
    if holds_rows(files[0]) and not reading.columns:
        known = from_layout_rows(*read_rows(files[0]))
    else:
        known = read_annotations(files[0], reading.columns)
    source = _from_annotations(files[0], known, [media_folder(root, split)], reading)
    captions = join_captions(root, split, [(clip.id, text) for clip in source.clips for text in clip.captions])
    for clip in source.clips:
        clip.captions = captions[clip.id]
    return source


def from_dataset(name: str, split: str, media: Sequence[str | Path], reading: Reading) -> Source:
    """A data set that `datasets` loads: from the Hub, from `save_to_disk`, or from a folder of parquet files.

    Its columns of sound and video stay undecoded; media that it lacks are looked for in the folders.

    Raises:
        DataError: it cannot be loaded, has no such split, or its rows cannot be used.
    """
    dataset = _undecoded(_load(name, split))
    columns = dict(reading.columns)
    stored = {kind: columns.pop(kind, None) or _stored_column(dataset, kind) for kind in ("audio", "video")}
    stored = {kind: column for kind, column in stored.items() if column is not None}
    if absent := [column for column in stored.values() if column not in dataset.column_names]:
        raise DataError(f"{name}: has no column {absent[0]!r} (found {', '.join(dataset.column_names)}).")
    if not stored and not media:
        raise DataError(
            f"{name}: has no column of sound or video (found {', '.join(dataset.column_names)}); name it with "
            "--column audio=NAME, or name a folder of media with --media."
        )
    texts, records = _text_of(dataset, name, split, stored, columns)
    known = to_annotations(name, texts, records, columns, _media_of(dataset, stored) if stored else None)
    known.check(name, reading.skip_bad_rows)
    index = MediaIndex(media) if media else None
    return Source(f"{name} ({split})", _join(known, reading.window), known, index, dataset if stored else None, stored)


# ------------------------------------------------------------------------------------------------------------ clips


def _from_annotations(path: str | Path, known: Annotations, media: Sequence[str | Path], reading: Reading) -> Source:
    known.check(path, reading.skip_bad_rows)
    return Source(Path(path).name, _join(known, reading.window), known, MediaIndex(media))


def _join(annotations: Annotations, window: float) -> list[ExpectedClip]:
    """One clip for all rows of it.

    One id with several start times stands for as many clips of one video: `<id>_<start ms>_<end ms>`.
    """
    names = clip_names(annotations.rows)
    starts: dict[str, set[float | None]] = {}
    for row, name in zip(annotations.rows, names, strict=True):
        starts.setdefault(name, set()).add(row.start_time)
    clips: dict[str, ExpectedClip] = {}
    for row, name in zip(annotations.rows, names, strict=True):
        start = row.start_time
        if len(starts[name]) > 1:
            name = window_stem(name, start, start + window)
        youtube_id = row.id if annotations.youtube else None
        made = ExpectedClip(name, row.id, youtube_id, row.file, start, number=row.number)
        clip = clips.setdefault(name, made)
        clip.file = clip.file or row.file
        clip.captions += row.captions
        clip.rows.append(row)
    return list(clips.values())


def window_stem(name: str, start: float, end: float) -> str:
    """How AudioCaps' files are called: with start and end in milliseconds."""
    return f"{name}_{round(1000 * start)}_{round(1000 * end)}"


# -------------------------------------------------------------------------------------------------------- data sets


def _load(name: str, split: str) -> Dataset:
    try:
        folder = Path(name)
        if (folder / "state.json").is_file() or (folder / "dataset_dict.json").is_file():
            loaded = load_from_disk(name)
            if isinstance(loaded, DatasetDict):
                return loaded[_choose_split(name, split, list(loaded))]
            return loaded
        if folder.exists() and not folder.is_dir():
            raise DataError(f"{name}: a file, expected a data set's folder or its name on the Hub; see --annotations.")
        return load_dataset(name, split=_choose_split(name, split, get_dataset_split_names(name)))
    except DataError:
        raise
    except Exception as error:  # whatever a foreign data set or the connection brings up
        reason = " ".join(str(error).split())
        raise DataError(f"{name}: cannot be loaded as a data set ({reason[:300]}); check --dataset.") from error


def _choose_split(name: str, split: str, there: list[str]) -> str:
    for known in (split, *SPLIT_NAMES.get(split, ())):
        if known in there:
            return known
    raise DataError(f"{name}: has no split {split!r}, expected one of {', '.join(there)}; pass it with --split.")


def _undecoded(dataset: Dataset) -> Dataset:
    for column, feature in dataset.features.items():
        if isinstance(feature, (Audio, Video)):
            dataset = dataset.cast_column(column, type(feature)(decode=False))
    return dataset


def _stored_column(dataset: Dataset, kind: str) -> str | None:
    """Column that holds sound or video: by its type, or by its name if it holds bytes."""
    feature = {"audio": Audio, "video": Video}[kind]
    typed = [column for column, value in dataset.features.items() if isinstance(value, feature)]
    named = [kind] if kind in dataset.features and not typed and _holds_media(dataset, kind) else []
    return next(iter(typed + named), None)


def _holds_media(dataset: Dataset, column: str) -> bool:
    """Whether a column holds bytes, or paths of files that there are."""
    feature = dataset.features[column]
    if isinstance(feature, dict) and "bytes" in feature or getattr(feature, "dtype", None) in _BINARY:
        return True
    first = next((cell for cell in dataset[:TEXT_BATCH][column] if cell), None)
    return isinstance(first, str) and os.path.isfile(first)


_BINARY = ("binary", "large_binary")


def _text_of(dataset: Dataset, name: str, split: str, stored: dict[str, str], columns: dict[str, str]):
    """Names of the columns of text, and their rows, without the bytes of any medium."""
    texts = [column for column in dataset.column_names if column not in stored.values()]
    chosen = choose_columns(name, texts, columns)
    records = dataset.select_columns(list(dict.fromkeys(chosen.values())))
    if "id" in chosen or "file" in chosen:
        return texts, ((f"row {number}", row) for number, row in enumerate(records))
    paths = _paths(dataset, next(iter(stored.values()))) if stored else [None] * len(dataset)
    width = len(str(len(dataset)))
    files = [path or f"{split}_{number:0{width}d}" for number, path in enumerate(paths)]
    rows = ((f"row {number}", row | {"file_name": files[number]}) for number, row in enumerate(records))
    return [*texts, "file_name"], rows


def _paths(dataset: Dataset, column: str) -> list[str | None]:
    """Paths of a column of media. Its bytes stay on disk: Arrow hands over views."""
    views, paths = dataset.select_columns([column]).with_format("arrow"), []
    for start in range(0, len(dataset), TEXT_BATCH):
        cells = views[start : start + TEXT_BATCH][column].combine_chunks()
        fields = [cell.name for cell in cells.type] if hasattr(cells.type, "__iter__") else []
        paths += cells.field("path").to_pylist() if "path" in fields else [None] * len(cells)
    return paths


def _media_of(dataset: Dataset, columns: dict[str, str]) -> Callable[[AnnotationRow], Any]:
    """What tells the media of a row from those of another: digests of bytes, paths, or what its annotation names."""

    def media_of(row: AnnotationRow) -> Any:
        stored = dataset[row.number]
        cells = [_to_medium(stored[column], "", row.number) for column in columns.values()]
        digests = [zlib.crc32(cell.data) if isinstance(cell, StoredFile) else cell for cell in cells]
        return row.file if all(digest is None for digest in digests) else digests

    return media_of


def _to_medium(cell: Any, name: str, number: int) -> StoredFile | str | None:
    if isinstance(cell, bytes):
        return StoredFile(f"{name}, row {number}", cell)
    if not isinstance(cell, dict):
        return cell or None
    if cell.get("bytes"):
        return StoredFile(f"{name}, row {number}" + (f", {cell['path']}" if cell.get("path") else ""), cell["bytes"])
    return cell.get("path") or None


def signature(path: str) -> list[Any]:
    """Says whether a file is the one of another run: its path, size and time of change."""
    try:
        status = os.stat(path)
    except OSError:
        return [path, None, None]
    return [path, status.st_size, status.st_mtime_ns]
