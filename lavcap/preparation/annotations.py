"""Captions and what they belong to, from CSV, TSV, JSON and JSONL files; every row that cannot be used is named."""

import codecs
import csv
import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath, PurePosixPath
from typing import Any

from lavcap.data.audiocaps import LayoutRow, to_start
from lavcap.data.schema import DataError
from lavcap.documents import parse_json, read_bytes, reason_of


# What a row says, and the column names under which data sets say it; the first that is there counts.
KNOWN_COLUMNS = {
    "annotation": ("audiocap_id", "caption_id"),
    "id": ("youtube_id", "ytid", "video_id", "clip_id", "id"),
    "file": ("file_name", "filename", "file", "path", "audio_path", "video_path", "WavPath", "wav", "audio", "video"),
    "start_time": ("start_time", "start", "start_seconds", "begin"),
    "caption": ("caption", "captions", "text", "sentence", "description", "answer"),
}
YOUTUBE_COLUMNS = frozenset({"youtube_id", "ytid"})
OFFICIAL_COLUMNS = ("audiocap_id", "youtube_id", "start_time", "caption")
# By their marks, the longest first: that of UTF-32 begins as one of UTF-16.
OTHER_ENCODINGS = {codecs.BOM_UTF32_LE: "UTF-32", codecs.BOM_UTF32_BE: "UTF-32"}
OTHER_ENCODINGS |= {codecs.BOM_UTF16_LE: "UTF-16", codecs.BOM_UTF16_BE: "UTF-16"}
LISTED_AT_ONCE = 100  # bad rows that a message names


@dataclass(frozen=True)
class AnnotationRow:
    """One row of annotations.

    Args:
        place: where it stands, as `line 12`.
        annotation: its own id, which AudioCaps calls audiocap_id.
        id, file: of the clip; one of them is there.
        start_time: of the clip in its video, in seconds.
        number: of the row of a data set that holds media.
    """

    place: str
    annotation: str | None
    id: str | None
    file: str | None
    start_time: float | None
    captions: tuple[str, ...]
    number: int | None = None

    @property
    def content(self) -> tuple:
        return self.id, self.file, self.start_time, self.captions


@dataclass
class Annotations:
    """Rows that can be used, and complaints about the others (place and reason)."""

    rows: list[AnnotationRow]
    complaints: list[str]
    youtube: bool = False  # whether `id` is YouTube's
    repeated: list[tuple[AnnotationRow, str]] = field(default_factory=list)  # rows left out, with the reason

    def check(self, name: str | Path, skip_bad_rows: bool):
        """Refuse annotations with bad rows, all of them at once, or without any row.

        Raises:
            DataError: with place and reason of every bad row.
        """
        total = len(self.rows) + len(self.repeated) + len(self.complaints)
        if self.complaints and not skip_bad_rows:
            rest = len(self.complaints) - LISTED_AT_ONCE
            more = [f"… and {rest} more"] if rest > 0 else []
            raise DataError(
                f"{name}: {len(self.complaints)} of {total} rows cannot be used; mend them, or pass --skip_bad_rows "
                "to do without:",
                self.complaints[:LISTED_AT_ONCE] + more,
            )
        if not self.rows:
            raise DataError(f"{name}: none of its {total} rows can be used, expected at least one with a caption.")


def read_annotations(path: str | Path, columns: dict[str, str] | None = None) -> Annotations:
    """Rows of a file of captions.

    Args:
        path: `.csv` or `.tsv` with a header line; `.json` with a list of objects, or an object with one by file name;
            `.jsonl`.
        columns: what the file calls a key of `KNOWN_COLUMNS`, where that is none of the known names.

    Raises:
        DataError: no such file, no header, no column of captions or of clips.
    """
    path = Path(path)
    text = _read_text(path)
    readers = {".json": _json_records, ".jsonl": _jsonl_records, ".csv": _table_records, ".tsv": _table_records}
    if path.suffix.lower() not in readers:
        raise DataError(f"{path}: ends with {path.suffix!r}, expected one of {', '.join(readers)}; convert it.")
    names, records = readers[path.suffix.lower()](path, text)
    return to_annotations(path, names, records, columns)


def to_annotations(
    name: str | Path,
    names: Iterable[str],
    records: Iterable[tuple[str, Any]],
    columns: dict[str, str] | None = None,
    media_of: Callable[[AnnotationRow], Any] | None = None,
) -> Annotations:
    """Rows of records of any origin.

    Args:
        name: what messages call them.
        names: columns that there are.
        records: place and content: an object by column name, or the complaint as text.
        columns: as for [`read_annotations`].
        media_of: what must be equal in rows of one clip, or `None` for a row without media; default: their files.
    """
    columns = choose_columns(name, list(names), columns or {})
    rows, complaints = [], []
    for number, (place, record) in enumerate(records):
        try:
            rows.append(_to_row(place, record, columns, number))
        except ValueError as error:
            complaints.append(f"{place}: {error}")
    rows, contradictions = _without_other_clips(rows, media_of or _file_of)
    return _without_repetitions(rows, complaints + contradictions, columns.get("id") in YOUTUBE_COLUMNS)


def from_layout_rows(rows: Iterable[LayoutRow], complaints: dict[int, str]) -> Annotations:
    """Rows of AudioCaps' layout, from [`lavcap.data.audiocaps.read_rows`]."""
    made = [
        AnnotationRow(
            f"row {row.number}",
            row.annotation,
            row.youtube_id,
            row.audio_path or row.video_path,
            row.start_time,
            _to_captions(row.caption),
            row.number,
        )
        for row in rows
    ]
    bad = [f"row {number}: {reason}" for number, reason in complaints.items()]
    media = {row.number: (row.audio_path, row.video_path) for row in rows}
    made, contradictions = _without_other_clips(made, lambda row: media[row.number])
    return _without_repetitions(made, bad + contradictions, any(row.id for row in made))


def clip_names(rows: Sequence[AnnotationRow]) -> list[str]:
    """Name of each row's clip: its id, else the name of its file without suffix, with folders where files share it."""
    first: dict[str, str] = {}
    files = [row.file for row in rows if row.id is None]
    shared = {stem_of(file) for file in files if first.setdefault(stem_of(file), file) != file}
    return [row.id if row.id is not None else _name_of(row.file, shared) for row in rows]


def _file_of(row: AnnotationRow) -> PurePosixPath | None:
    return None if row.file is None else PurePosixPath(row.file.replace("\\", "/"))


def _name_of(file: str, shared: set[str]) -> str:
    stem = stem_of(file)
    return file.replace("\\", "/").rpartition(".")[0] or file if stem in shared else stem


def choose_columns(name: str | Path, names: list[str], given: dict[str, str]) -> dict[str, str]:
    """Column names by what they say.

    Raises:
        DataError: a given column that is not there; no captions; no clips.
    """
    found = ", ".join(names) or "none"
    if unknown := [key for key in given if key not in KNOWN_COLUMNS]:
        raise DataError(f"--column {unknown[0]}=…: unknown, expected one of {', '.join(KNOWN_COLUMNS)}.")
    if absent := [column for column in given.values() if column not in names]:
        raise DataError(f"{name}: has no column {absent[0]!r} (found {found}); check --column.")
    chosen = {key: next((known for known in KNOWN_COLUMNS[key] if known in names), None) for key in KNOWN_COLUMNS}
    chosen = {key: column for key, column in (chosen | given).items() if column is not None}
    if "caption" not in chosen:
        separated = "; if semicolons separate its columns, use commas" if len(names) == 1 and ";" in found else ""
        raise DataError(
            f"{name}: has no column of captions (found {found}); name it with --column caption=NAME{separated}."
        )
    return chosen


# ------------------------------------------------------------------------------------------------------------ files


def _read_text(path: Path) -> str:
    """Text of a file; bytes that are no UTF-8 come as lone surrogates, so that their rows can be named."""
    try:
        data = read_bytes(path)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({reason_of(error)}); check the path.") from error
    for mark, encoding in OTHER_ENCODINGS.items():
        if data.startswith(mark):
            raise DataError(f"{path}: is {encoding}, expected UTF-8; save it again with that encoding.")
    return data.decode("utf-8-sig", errors="surrogateescape")


def _table_records(path: Path, text: str) -> tuple[list[str], Iterator[tuple[str, Any]]]:
    first = text.partition("\n")[0]
    tabs = "\t" in first and "," not in first or path.suffix.lower() == ".tsv"
    reader = csv.reader(io.StringIO(text, newline=""), delimiter="\t" if tabs else ",", strict=True)
    try:
        header = [" ".join(name.split()) for name in next(reader, [])]
    except csv.Error as error:
        raise DataError(f"{path}: line 1 is no header ({error}); mend it.") from error
    known = {name for names in KNOWN_COLUMNS.values() for name in names}
    if not known & set(header) and any(cell.replace(".", "", 1).isdigit() for cell in header):
        raise DataError(
            f"{path}: has no header line, its first line is {first.strip()[:80]!r}; put one above it, for AudioCaps "
            f"{','.join(OFFICIAL_COLUMNS)}."
        )
    return header, _table_rows(reader, header)


def _table_rows(reader: Any, header: list[str]) -> Iterator[tuple[str, Any]]:
    """Places and records; a row whose last column a line break cut is a complaint, as is the rest of it."""
    place, record, before = None, None, []
    for following, other, cells in _table_lines(reader, header):
        if isinstance(record, dict) and isinstance(other, str) and _is_rest(cells, before):
            record = f"goes on in {following}; put a caption with a line break into quotation marks"
        if place:
            yield place, record
        place, record, before = following, other, cells
    if place:
        yield place, record


def _is_rest(cells: list[str], row: list[str]) -> bool:
    """Whether a line of too few or too many cells is the rest of a row: it begins with no number."""
    if not cells or cells[0].strip().isdecimal():
        return False
    return len(cells) < len(row) or row[0].strip().isdecimal()


def _table_lines(reader: Any, header: list[str]) -> Iterator[tuple[str, Any, list[str]]]:
    """Place, content or complaint, and cells of each line that is not empty; no cells of one that cannot be read."""
    while True:
        place = f"line {reader.line_num + 1}"
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield place, f"cannot be read ({error}); is a quotation mark left open?", []
            continue
        if len(cells) == len(header):
            yield place, dict(zip(header, cells, strict=True)), cells
        elif any(cell.strip() for cell in cells):
            yield place, f"has {len(cells)} fields, expected {len(header)} ({', '.join(header)})", cells


def _json_records(path: Path, text: str) -> tuple[list[str], Iterator[tuple[str, Any]]]:
    try:
        content = parse_json(text)
    except ValueError as error:
        raise DataError(f"{path}: not readable as JSON ({error}); write it again.") from error
    if isinstance(content, dict):
        lists = [value for value in content.values() if isinstance(value, list) and value and _is_object(value[0])]
        keyed = [_keyed_record(name, value) for name, value in content.items()]
        content = lists[0] if len(lists) == 1 else keyed
    if not isinstance(content, list):
        raise DataError(
            f"{path}: holds a {type(content).__name__}, expected a list of rows or an object by file name."
        )
    return _names(content), ((f"row {number}", record) for number, record in enumerate(content))


def _keyed_record(name: str, value: Any) -> dict[str, Any]:
    """Row of an object whose keys are file names."""
    return {"file_name": name} | (value if isinstance(value, dict) else {"caption": value})


def _jsonl_records(path: Path, text: str) -> tuple[list[str], Iterator[tuple[str, Any]]]:
    records = []
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            try:
                records.append((f"line {number}", parse_json(line)))
            except ValueError as error:
                records.append((f"line {number}", f"not readable as JSON ({error})"))
    return _names(record for _, record in records), iter(records)


def _names(records: Iterable[Any]) -> list[str]:
    return list(dict.fromkeys(name for record in records if _is_object(record) for name in record))


def _is_object(value: Any) -> bool:
    return isinstance(value, dict)


# ------------------------------------------------------------------------------------------------------------- rows


def _to_row(place: str, record: Any, columns: dict[str, str], number: int) -> AnnotationRow:
    """Row of a record.

    Raises:
        ValueError: with the complaint.
    """
    if isinstance(record, str):
        raise ValueError(record)
    if not _is_object(record):
        raise ValueError(f"a {type(record).__name__}, expected an object")
    values = {key: record.get(column) for key, column in columns.items()}
    if any(_has_surrogate(value) for value in values.values()):
        raise ValueError("holds bytes that are no UTF-8; save the file with that encoding")
    clip, file = (_to_text(values.get(key)) for key in ("id", "file"))
    if clip is None and file is None:
        raise ValueError(
            f"no id ({', '.join(columns[key] for key in ('id', 'file') if key in columns) or 'no column'})"
        )
    start = to_start(_to_text(values.get("start_time")))
    return AnnotationRow(
        place, _to_text(values.get("annotation")), clip, file, start, _to_captions(values["caption"]), number
    )


def _has_surrogate(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return any(map(_has_surrogate, value))
    return isinstance(value, str) and any("\ud800" <= character <= "\udfff" for character in value)


def _to_text(value: Any) -> str | None:
    if isinstance(value, dict):  # a medium: its name says which clip it is
        value = value.get("path")
    text = "" if value is None else str(value).strip()
    return text or None


def _to_captions(value: Any) -> tuple[str, ...]:
    values = value if isinstance(value, (list, tuple)) else [value]
    captions = tuple(" ".join(text.split()) for item in values if (text := _to_text(item)))
    if not captions:
        raise ValueError("no caption")
    return captions


def _without_other_clips(
    rows: list[AnnotationRow], media_of: Callable[[AnnotationRow], Any]
) -> tuple[list[AnnotationRow], list[str]]:
    """Rows without those that say of their clip what an earlier one does not, and complaints about these.

    One id with several start times stands for as many clips; beside them, a row without one is of none.
    """
    clips: dict[str, dict[float | None, list[AnnotationRow]]] = {}
    for row, name in zip(rows, clip_names(rows), strict=True):
        clips.setdefault(name, {}).setdefault(row.start_time, []).append(row)
    faults: dict[int, str] = {}
    for name, windows in clips.items():
        if len(windows) > 1 and None in windows:
            timed = next(each[0] for start, each in windows.items() if start is not None)
            fault = f"has the id {name} of {timed.place}, but no start_time; give both of them one, or none"
            faults |= {id(row): fault for row in windows.pop(None)}
        for several in windows.values():
            faults |= _other_media(name, several, media_of) if len(several) > 1 else {}
    complaints = [f"{row.place}: {faults[id(row)]}" for row in rows if id(row) in faults]
    return [row for row in rows if id(row) not in faults], complaints


def _other_media(name: str, rows: list[AnnotationRow], media_of: Callable[[AnnotationRow], Any]) -> dict[int, str]:
    """Complaints about rows of a clip that have other media than the first row with some, by the row's `id()`."""
    named = [(row, media) for row in rows if (media := media_of(row)) is not None]
    faults = {}
    for row, media in named:
        first, theirs = named[0]
        if media != theirs:
            which = f" ({row.file}, not {first.file})" if row.file != first.file else ""
            faults[id(row)] = f"has the id {name} of {first.place} with other media{which}; give each clip its own id"
    return faults


def _without_repetitions(rows: list[AnnotationRow], complaints: list[str], youtube: bool) -> Annotations:
    """Annotations in which every row counts once; ids that say two things are complained of.

    Two annotators may have written the same caption: with annotation ids of their own, both are references.
    """
    kept, repeated, contradictions, known = [], [], [], {}
    for row in rows:
        key = row.annotation or row.content
        first = known.setdefault(key, row)
        if first is row:
            kept.append(row)
        elif first.content == row.content:
            repeated.append((row, f"{row.place} repeats {first.place}"))
        else:
            contradictions.append(f"{row.place}: has the id {key} of {first.place} with other data")
    return Annotations(kept, complaints + contradictions, youtube, repeated)


def stem_of(file: str) -> str:
    """Name of a file without folder and suffix; a dot of the name itself stays."""
    name = PurePath(file.replace("\\", "/")).name
    stem, dot, suffix = name.rpartition(".")
    return stem if dot and stem and len(suffix) <= 5 and suffix.isalnum() and not suffix.isdigit() else name
