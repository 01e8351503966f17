"""Clips that cannot be read in mid-run: reported once each, and too many when they are more than a set share."""

import json
from collections.abc import Iterable
from pathlib import Path

from transformers.utils import logging

from lavcap.arguments import listed


logger = logging.get_logger(__name__)

REPORT = "broken_clips.jsonl"
FEW = 4  # different clips: so many are never too many, lest one damaged file should end a run on a small data set


class TrainingStopped(RuntimeError):
    """A run that does not go on; the message says why, and what to do."""


class BrokenClips:
    """What of a run's clips could not be read.

    Args:
        folder: where the report goes, one line of JSON per clip.
        most: largest share of the clips read that may be broken; 0 allows none, not even a few.
        reports: whether this process is the one that warns and writes.
    """

    def __init__(self, folder: str | Path, most: float, reports: bool):
        self.path = Path(folder) / REPORT
        self.most = most
        self.reports = reports
        self.reasons: dict[str, dict[str, str]] = {"training": {}, "validation": {}}
        self.num_read = self.num_broken = 0

    def note(self, found: Iterable[tuple[str, str]], kind: str = "training"):
        """Report clips, by id and with the reason, that were not reported in this run."""
        for name, reason in found:
            if name in self.reasons[kind]:
                continue
            self.reasons[kind][name] = reason
            if self.reports:
                logger.warning(f"Broken {kind} clip {name}: {reason}")
                self._write({"id": name, "split": kind, "reason": reason})

    def count(self, read: int, broken: int, found: Iterable[tuple[str, str]]):
        """Count training clips of all processes, each as often as it is read.

        Args:
            read, broken: how many there were, and how many of them were broken.
            found: ids of the broken ones, with the reason.

        Raises:
            TrainingStopped: too many are broken.
        """
        self.num_read += read
        self.num_broken += broken
        self.note(found)
        names = list(self.reasons["training"])
        share = self.num_broken / max(1, self.num_read)
        if share > self.most and (self.most == 0 or len(names) > FEW):
            raise TrainingStopped(
                f"{self.num_broken} of {self.num_read} clips read ({share:.1%}) are broken, max_broken_share is "
                f"{self.most:.1%}: {listed(names, 5)}; {self.path} has the reasons. Mend these clips, "
                "leave out their rows, or raise --max_broken_share, then continue with --resume_from_checkpoint true."
            )

    def _write(self, record: dict[str, str]):
        line = json.dumps(record, ensure_ascii=False) + "\n"
        written = self.path.read_text(encoding="utf-8") if self.path.exists() else ""
        if line not in written:  # of a run before this one's interruption
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8") as file:
                file.write(line)
