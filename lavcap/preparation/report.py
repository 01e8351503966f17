"""What became of the clips of a data set: numbers and reasons, for programs, for people, and for a downloader."""

import csv
import io
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lavcap.endings import printable
from lavcap.files import replace_text
from lavcap.preparation.annotations import OFFICIAL_COLUMNS, AnnotationRow


HEADINGS = {
    "missing": "no media were found",
    "unreadable": "media that cannot be decoded",
    "too_short": "less of the window than its name promises, or than --min_seconds",
    "silent": "no sound, or none above -80 dB of full scale",
    "without_picture": "sound alone",
    "duplicate": "a row or a file once more, or the media of another clip",
}
SHOWN_ENTRIES = 10  # per heading in the table for people


@dataclass
class Report:
    """What became of the clips of a split.

    Args:
        split, source: which clips these are.
        expected: clips of the annotations.
        kept: clips in the manifest.
        dataset_version: of the captions, and how it is known.
        entries: by heading, `{"id", "reason", "kept"}` each.
        bad_rows: of the annotations, with place and reason.
        notes: what else went wrong, such as folders that cannot be listed.
    """

    split: str
    source: str
    expected: int
    dataset_version: str | None
    kept: int = 0
    entries: dict[str, list[dict[str, Any]]] = field(default_factory=lambda: {name: [] for name in HEADINGS})
    bad_rows: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, heading: str, clip: str, reason: str, kept: bool):
        self.entries[heading].append({"id": clip, "reason": reason, "kept": kept})

    @property
    def counts(self) -> dict[str, int]:
        numbers = {name: len(entries) for name, entries in self.entries.items()}
        found = self.expected - numbers["missing"]
        return {"expected": self.expected, "found": found, **numbers, "kept": self.kept}

    def to_dict(self) -> dict[str, Any]:
        facts = {"split": self.split, "source": self.source, "dataset_version": self.dataset_version}
        return facts | {"counts": self.counts} | self.entries | {"bad_rows": self.bad_rows, "notes": self.notes}

    def to_markdown(self) -> str:
        """A table, and the first entries of each heading."""
        lines = [f"# {self.split}: {self.kept} of {self.expected} clips are in the manifest", ""]
        lines += [f"Source: {printable(self.source)}. Captions: {self.dataset_version or 'version unknown'}.", ""]
        lines += ["| | clips | |", "|---|---|---|"]
        meanings = {"expected": "in the annotations", "found": "have media", "kept": "in the manifest", **HEADINGS}
        lines += [f"| {name} | {number:,} | {meanings[name]} |" for name, number in self.counts.items()]
        for heading, entries in self.entries.items():
            listed = [f"{'' if entry['kept'] else '(left out) '}{entry['id']}: {entry['reason']}" for entry in entries]
            lines += _section(heading, listed)
        lines += _section("bad rows", self.bad_rows) + _section("notes", self.notes)
        return "\n".join(lines) + "\n"


def write_reports(report: Report, folder: str | Path, missing: Iterable[AnnotationRow]):
    """Write `<split>.json`, `<split>.md` and, with the rows of clips without media, `<split>_missing.csv`."""
    folder = Path(folder)
    table = io.StringIO(newline="")
    writer = csv.writer(table)
    writer.writerow(OFFICIAL_COLUMNS)
    for row in missing:
        start = "" if row.start_time is None else f"{row.start_time:g}"
        writer.writerows([row.annotation, row.id or row.file, start, caption] for caption in row.captions)
    replace_text(folder / f"{report.split}.json", json.dumps(report.to_dict(), indent=1, ensure_ascii=False) + "\n")
    replace_text(folder / f"{report.split}.md", report.to_markdown())
    replace_text(folder / f"{report.split}_missing.csv", table.getvalue())


def _section(heading: str, entries: list[str]) -> list[str]:
    if not entries:
        return []
    shown = [f"* {printable(entry)}" for entry in entries[:SHOWN_ENTRIES]]
    rest = len(entries) - len(shown)
    return ["", f"## {heading}", "", *shown] + ([f"* … and {rest:,} more in the json file"] if rest else [])
