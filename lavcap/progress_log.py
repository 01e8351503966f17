"""What is done of a long piece of work, one line of JSON per item, so that it can be stopped at any moment."""

import json
from pathlib import Path
from typing import Any

from lavcap.documents import parse_json
from lavcap.files import full_disk_names, whole_file


class ProgressLog:
    """Records by name, appended to a file as they come.

    A line that was cut off by a crash is dropped when the file is opened again; a later record of a name replaces an
    earlier one.

    Args:
        path: of the file; its folder is made.
        settings: of the work, kept in the first line; the records of other settings are refused.
        error: what is raised.

    Raises:
        error: the file belongs to other settings.
    """

    def __init__(self, path: str | Path, settings: dict[str, Any], error: type[Exception] = ValueError):
        self.path = Path(path)
        self._error = error
        self.records: dict[str, dict[str, Any]] = {}
        if self.path.exists():
            self._read(settings)
        with whole_file(self.path) as partial, partial.open("w", encoding="utf-8") as file:
            file.write(_line({"settings": settings}))
            file.writelines(_line({"name": name, **record}) for name, record in self.records.items())
        self._file = self.path.open("a", encoding="utf-8")

    def add(self, name: str, record: dict[str, Any]):
        self.records[name] = record
        with full_disk_names(self.path):
            self._file.write(_line({"name": name, **record}))
            self._file.flush()

    def __enter__(self) -> "ProgressLog":
        return self

    def __exit__(self, *error: object):
        self._file.close()

    def _read(self, settings: dict[str, Any]):
        known, self.records = read_log(self.path)
        known = settings if known is None else known
        differing = [
            f"{name} {known.get(name)!r}, asked for {value!r}"
            for name, value in settings.items()
            if known.get(name) != value
        ]
        if differing:
            raise self._error(
                f"{self.path.parent.parent}: was begun with {'; '.join(differing)}; ask for the same, or name another "
                "folder."
            )


def read_log(path: str | Path) -> tuple[dict[str, Any] | None, dict[str, dict[str, Any]]]:
    """Settings of a log, `None` of an empty one, and its records by name; lines that were cut off are left out."""
    with Path(path).open(encoding="utf-8", errors="replace") as file:
        lines = [parsed for line in file if (parsed := _parse(line)) is not None]
    settings = lines[0].get("settings", {}) if lines else None
    return settings, {line.pop("name"): line for line in lines if "name" in line}


def _line(content: dict[str, Any]) -> str:
    return json.dumps(content) + "\n"


def _parse(line: str) -> dict[str, Any] | None:
    try:
        content = parse_json(line) if line.endswith("\n") else None
    except ValueError:
        return None
    return content if isinstance(content, dict) else None
