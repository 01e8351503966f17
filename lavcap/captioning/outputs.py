"""Where captions go while they come: to standard output, or into files, of which a stop at any moment loses none."""

import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from lavcap.arguments import listed
from lavcap.captioning.media_list import Medium
from lavcap.captioning.records import FORMATS, TABLES, Record, time_stamp, to_csv, to_jsonl
from lavcap.endings import printable
from lavcap.files import replace_text
from lavcap.progress_log import ProgressLog, read_log


class Printed:
    """Captions on standard output, a line for each window.

    Args:
        form: `"txt"`, or a format of one line for each window: `"jsonl"` or `"csv"`; others come at the end of a clip.
        named: whether lines begin with the name of the clip.
    """

    def __init__(self, form: str, named: bool):
        self.form, self.named = form, named
        if form == "csv":
            print(to_csv([]), end="", flush=True)

    def begun(self, clip: str) -> list[Record]:
        return []

    def add(self, number: int, record: Record, timed: bool):
        if self.form == "jsonl":
            print(to_jsonl([record]), end="", flush=True)
        elif self.form == "csv":
            print(to_csv([record]).split("\n", 1)[1], end="", flush=True)
        elif self.form == "txt" and record.error is None:
            name = f"{printable(record.clip)}\t" if self.named else ""
            span = f"{time_stamp(record.start)} --> {time_stamp(record.end)}\t" if timed else ""
            print(f"{name}{span}{printable(record.caption)}", flush=True)

    def finish(self, clip: str, records: Sequence[Record]):
        if self.form not in ("txt", *TABLES):
            print(FORMATS[self.form](records), end="", flush=True)


class Files:
    """Captions in files beside the clips, or in a folder, where a log has each window as soon as it is known.

    Args:
        places: by clip the path of its files, without an ending.
        formats: names of [`FORMATS`].
        output_dir: folder; `None`: beside the clips, without a log.
        settings: what the captions depend on; a log of others is refused.
        process: number of this process among several, each of which has a log of its own.
        retry_errors: whether windows that could not be used are tried again.

    Raises:
        ValueError: the folder was begun with other settings.
    """

    def __init__(
        self,
        places: dict[str, Path],
        formats: Sequence[str],
        output_dir: Path | None,
        settings: dict[str, Any],
        process: int = 0,
        retry_errors: bool = False,
    ):
        self.places, self.output_dir, self.retry_errors = places, output_dir, retry_errors
        self.formats = [form for form in formats if form not in TABLES]
        self.known = {} if output_dir is None else read_logs(output_dir)
        self._log = None if output_dir is None else ProgressLog(_log_of(output_dir, process), settings)

    def begun(self, clip: str) -> list[Record]:
        """Windows of a clip that were captioned before, up to one that is tried again."""
        known = begun_in(self.known, clip)
        wrong = [number for number, record in enumerate(known) if record.error is not None]
        return known[: wrong[0] + 1] if wrong and self.retry_errors else known

    def add(self, number: int, record: Record, timed: bool):
        if self._log is not None:
            self._log.add(f"{number}:{record.clip}", record.as_object())

    def finish(self, clip: str, records: Sequence[Record]):
        """Write the files of a clip whose captions are all there; of one that cannot be used there are none."""
        for form in self.formats if any(record.error is None for record in records) else ():
            replace_text(_file(self.places[clip], form), FORMATS[form](records))
        if self._log is not None:
            self._log.add(clip, {"windows": len(records)})


def forget(output_dir: Path):
    """Remove the logs of a folder."""
    shutil.rmtree(output_dir / ".progress", ignore_errors=True)


def read_logs(output_dir: Path) -> dict[str, dict[str, Any]]:
    """By name what the logs of all processes of a folder hold."""
    known: dict[str, dict[str, Any]] = {}
    for path in sorted((output_dir / ".progress").glob("captions-*.jsonl")):
        known |= read_log(path)[1]
    return known


def begun_in(known: dict[str, dict[str, Any]], clip: str) -> list[Record]:
    """Records of a clip in logs, window by window."""
    records = []
    while (content := known.get(f"{len(records)}:{clip}")) is not None:
        records.append(Record.from_object(content))
    return records


def write_tables(output_dir: Path, media: Iterable[Medium], formats: Sequence[str]) -> int:
    """Write what all processes know as tables of all clips; how many windows and clips cannot be used."""
    known = read_logs(output_dir)
    records = [record for medium in media for record in begun_in(known, str(medium))]
    for form in formats:
        if form in TABLES:
            replace_text(output_dir / f"captions.{form}", FORMATS[form](records))
    return sum(record.error is not None for record in records)


def left_of(
    media: Sequence[Medium],
    places: dict[str, Path],
    formats: Sequence[str],
    output_dir: Path | None,
    skip_existing: bool = False,
    retry_errors: bool = False,
) -> list[Medium]:
    """Clips that are still to be captioned.

    Args:
        skip_existing: leave out clips whose files are there.
        retry_errors: do not leave out clips that could not be used.

    Raises:
        ValueError: files of another run would be written over; with their names.
    """
    known = {} if output_dir is None else read_logs(output_dir)
    left, there = [], []
    for medium in media:
        clip = str(medium)
        if clip in known and not (retry_errors and any(record.error for record in begun_in(known, clip))):
            continue
        files = [_file(places[clip], form) for form in formats if form not in TABLES]
        existing = [file for file in files if file.exists()]
        if skip_existing and files and existing == files:
            continue
        there += [] if clip in known or skip_existing else existing
        left.append(medium)
    if there:
        names = listed([str(file) for file in there], 3)
        raise ValueError(f"{names}: there already; pass --skip_existing to keep them, --overwrite to write them anew.")
    return left


def _file(place: Path, form: str) -> Path:
    return place.with_name(f"{place.name}.{form}")


def _log_of(output_dir: Path, process: int) -> Path:
    return output_dir / ".progress" / f"captions-{process}.jsonl"
