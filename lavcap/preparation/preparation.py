"""A data set made of what people have: media found, windows cut, a manifest and a report written.

    <output>/data/<split>-00000-of-00001.parquet        the manifest (lavcap/data/manifest.py)
    <output>/<split>/waveforms/<stem>.wav               windows that were cut: mono, 16 bit, 16 kHz
    <output>/<split>/media/<stem>.<suffix>              sound of a data set that needs no change
    <output>/<split>/frames/frame_{0..19}/<stem>.jpg
    <output>/reports/<split>.json, .md, _missing.csv
    <output>/.progress/<split>.jsonl                    what is done

An original that needs no change is kept where it is, and the manifest names it. The work may be stopped at any moment,
in any way; the same command goes on with what is left.
"""

import os
import re
import shutil
import zlib
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from lavcap.data.manifest import write_split
from lavcap.data.schema import DataError
from lavcap.preparation.annotations import stem_of
from lavcap.preparation.cutting import (
    CLIP_TOLERANCE_SECONDS,
    FRAME_SAMPLER,
    PARTIAL_FOLDER,
    Job,
    Outcome,
    Settings,
    frame_path,
)
from lavcap.preparation.media import Media, MediaFile
from lavcap.preparation.pool import CLIP_TIMEOUT, cut_clips
from lavcap.preparation.report import Report, write_reports
from lavcap.preparation.sources import ExpectedClip, Source, signature, window_stem
from lavcap.progress_log import ProgressLog
from lavcap.workers import threads_of_each
from sources_captioning import StoredFile


SILENCE = 10 ** (-80 / 20)  # -80 dB of full scale
KEEPABLE = ("silent", "too_short", "duplicate")
LONGEST_STEM = 100  # characters; file systems take 255 bytes


@dataclass(frozen=True)
class Policy:
    """Which clips come into the manifest.

    Args:
        keep: headings of `KEEPABLE` whose clips are kept all the same.
        min_seconds: least part of the window that a clip must hold, unless its name promises more; default: half.
        dataset_version: of the captions; default: guessed.
    """

    keep: Collection[str] = ()
    min_seconds: float | None = None
    dataset_version: str | None = None


def prepare(
    source: Source,
    output: str | Path,
    split: str,
    settings: Settings | None = None,
    policy: Policy | None = None,
    num_proc: int = 1,
    clip_timeout: float = CLIP_TIMEOUT,
    show_progress: bool = False,
) -> Report:
    """Prepare one split. What an earlier run has done is not done again, unless its media have changed.

    Args:
        source: from `lavcap/preparation/sources.py`.
        output: folder of the data set; other splits in it stay.
        split: name in the manifest.
        num_proc: processes; 0 works in this one.
        clip_timeout: seconds after which a process that gives no answer about a clip is ended.

    Raises:
        DataError: an earlier run had other settings.
        OSError: something cannot be written; what is done stays.
    """
    settings, policy = settings or Settings(), policy or Policy()
    output = Path(output).absolute()
    media = output / split  # clips of two splits may have one name
    shutil.rmtree(media / PARTIAL_FOLDER, ignore_errors=True)
    plans = _plan(source, media, settings)
    with ProgressLog(output / ".progress" / f"{split}.jsonl", asdict(settings), DataError) as log:
        left = [plan for plan in plans if plan.to_do(log)]
        with tqdm(total=len(left), desc=split, unit="clip", disable=not show_progress) as progress:
            keys = {plan.clip.id: plan.key for plan in left}
            with _told_what_to_do(output):
                jobs = _jobs(left, source, threads_of_each(len(left), num_proc))
                for name, outcome in cut_clips(jobs, num_proc, clip_timeout):
                    log.add(name, {"key": keys[name], **asdict(outcome)})
                    progress.update()
            progress.update(progress.total - progress.n)
        shutil.rmtree(media / PARTIAL_FOLDER, ignore_errors=True)
        for plan in plans:
            plan.outcome = _outcome(log.records.get(plan.clip.id), plan.key)
    return _finish(source, output, split, settings, policy, plans)


@contextmanager
def _told_what_to_do(output: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OSError(
            f"{output}: cannot go on ({error.strerror or error}); what is done stays: mend that, such as making room, "
            "and run the same command again."
        ) from error


def guess_version(source: Source) -> str | None:
    """Which edition of AudioCaps' captions these are: those of v2 are in lower case throughout."""
    if not any(row.annotation for row in source.annotations.rows):
        return None
    return "v1" if any(caption != caption.lower() for clip in source.clips for caption in clip.captions) else "v2"


# ------------------------------------------------------------------------------------------------------------- plan


@dataclass
class _Plan:
    """A clip with its media and the name of its files.

    Args:
        key: of the record in the progress log: what the outcome was made of.
        lacking: why there is no sound file and no film.
    """

    clip: ExpectedClip
    job: Job
    key: list[Any]
    outcome: Outcome | None = None
    lacking: str | None = None

    def to_do(self, log: ProgressLog) -> bool:
        record = log.records.get(self.clip.id)
        if self.lacking is not None:
            return False
        if record is None or record["key"] != self.key or record["unreadable"] is not None:
            return True
        return not all(os.path.exists(path) for path in self._written(record))

    def _written(self, record: dict[str, Any]) -> list[str]:
        paths = [] if record["audio"] is None else [os.path.join(self.job.output, record["audio"])]
        if record["frames"] == "written":
            paths += self.frames(record["frames"])
        return paths

    def frames(self, made: str | None) -> list[str] | None:
        """Paths of the frames, by how they came."""
        count = self.job.settings.num_frames
        written = [frame_path(self.job.output, number, self.job.stem) for number in range(count)]
        return {"written": written, "found": self.job.media.frames, None: None}[made]


def _plan(source: Source, output: Path, settings: Settings) -> list[_Plan]:
    found = [source.find(clip, settings.window, settings.num_frames) for clip in source.clips]
    stems = [_stem(clip, media, settings.window) for clip, media in zip(source.clips, found, strict=True)]
    alike = Counter(stem.casefold() for stem in stems)  # many file systems take A and a for one name
    stored = source.signature()
    plans = []
    for clip, media, stem in zip(source.clips, found, stems, strict=True):
        if alike[stem.casefold()] > 1:
            stem = f"{stem}~{zlib.crc32(clip.id.encode()):08x}"
        job = Job(stem, str(output), settings, clip.start_time, media)
        lacking = None
        if source.stored is None and not (media.audio or media.video):
            lacking = media.reason or ("frames, but neither sound nor film" if media.frames else "no media found")
        key = [stem, clip.start_time, *_signatures(media)]
        plans.append(_Plan(clip, job, key + [stored, clip.number] * (source.stored is not None), lacking=lacking))
    return plans


def _stem(clip: ExpectedClip, media: Media, window: float) -> str:
    """Name of the files of a clip: as AudioCaps' where it has a start time, else that of its media."""
    named = next((file.named for file in (media.audio, media.video) if file and file.named), None)
    if clip.key and clip.start_time is not None:
        end = named[1] if named and named[0] == clip.start_time else clip.start_time + window
        stem = window_stem(clip.key, clip.start_time, end)
    else:
        stem = clip.id if clip.key or "/" in clip.id else stem_of(clip.file)
    safe = re.sub(r"[^\w.\-]", "_", stem)[:LONGEST_STEM].lstrip(".") or "clip"
    return stem if safe == stem else f"{safe}~{zlib.crc32(stem.encode()):08x}"


def _signatures(media: Media) -> list[Any]:
    """What the media of a clip are, for another run to compare."""
    files = [signature(file.path) if file else None for file in (media.audio, media.video)]
    if not media.frames:
        return [*files, media.reason]
    images = [signature(path) for path in media.frames]
    size, changed = (max(image[part] or 0 for image in images) for part in (1, 2))
    return [*files, [media.frames[0], len(images), size, changed]]


def _jobs(plans: list[_Plan], source: Source, decoder_threads: int) -> Iterator[tuple[str, Job]]:
    """Jobs as they are needed: media of a data set are read from it one clip at a time."""
    for plan in plans:
        job = replace(plan.job, decoder_threads=decoder_threads)
        if source.stored is not None:
            media = _with_stored(job.media, source.read_stored(plan.clip.number))
            if not (media.audio or media.video):
                plan.lacking = "no media in its row" + (f" ({media.reason})" if media.reason else "")
                continue
            job = replace(job, media=media)
        yield plan.clip.id, job


def _with_stored(media: Media, stored: dict[str, StoredFile | str]) -> Media:
    """Media of a clip, those of a data set's row first."""
    there = {kind: file for kind, file in stored.items() if not isinstance(file, str) or os.path.exists(file)}
    made = {kind: MediaFile(os.path.abspath(file) if isinstance(file, str) else file) for kind, file in there.items()}
    return replace(media, audio=made.get("audio", media.audio), video=made.get("video", media.video))


def _outcome(record: dict[str, Any] | None, key: list[Any]) -> Outcome | None:
    if record is None or record["key"] != key:
        return None
    return Outcome(**{name: value for name, value in record.items() if name != "key"})


# ----------------------------------------------------------------------------------------------------------- result


def _finish(
    source: Source, output: Path, split: str, settings: Settings, policy: Policy, plans: list[_Plan]
) -> Report:
    """Judge every clip, write the manifest and the report."""
    version = policy.dataset_version or guess_version(source)
    report = Report(split, source.name, len(plans), version, bad_rows=source.annotations.complaints)
    report.notes += source.index.unlisted if source.index else []
    judge = _Judge(report, settings, policy)
    facts = {
        "expected": report.expected,
        "missing": judge.left_out,  # filled while the rows are written
        "dataset_version": version,
        "window": settings.window,
        "num_frames": settings.num_frames,
        "frame_sampler": FRAME_SAMPLER,
        "source": source.name,
    }
    write_split(output, split, (row for plan in plans if (row := judge.row(plan)) is not None), facts)
    report.kept = len(plans) - len(judge.left_out)
    _add_repetitions(report, source, judge.left_out)
    missing = {entry["id"] for entry in report.entries["missing"]}
    lost = [row for clip in source.clips if clip.id in missing for row in clip.rows]
    write_reports(report, output / "reports", lost)
    if not report.kept:
        raise DataError(
            f"{output}: none of the {report.expected:,} clips of {split} can be used; see "
            f"{output / 'reports' / split}.md and check where the media are."
        )
    return report


def _add_repetitions(report: Report, source: Source, left_out: Collection[str]):
    clips = {row.content: clip.id for clip in source.clips for row in clip.rows}
    for row, reason in source.annotations.repeated:
        clip = clips[row.content]
        report.add("duplicate", clip, reason, clip not in left_out)


class _Judge:
    """Decides clip by clip, in their order, and keeps account."""

    def __init__(self, report: Report, settings: Settings, policy: Policy):
        self.report = report
        self.settings = settings
        self.policy = policy
        self.left_out: dict[str, str] = {}
        self._first: dict[str, str] = {}  # clips by the digest of what they hold

    def row(self, plan: _Plan) -> dict[str, Any] | None:
        """Row of the manifest, or `None` for a clip that is left out."""
        kept = True
        for heading, reason in self._findings(plan):
            kept = heading in self.policy.keep and self._holds_something(plan)
            self.report.add(heading, plan.clip.id, reason, kept)
            if not kept:
                self.left_out[plan.clip.id] = f"{heading}: {reason}"
                break
        for other, used in plan.job.media.others:
            self.report.add("duplicate", plan.clip.id, f"{other}: not used, {used} is", kept)
        if not kept:
            return None
        if plan.outcome.digest is not None:
            self._first.setdefault(plan.outcome.digest, plan.clip.id)
        if plan.outcome.frames is None:
            self.report.add("without_picture", plan.clip.id, plan.outcome.no_picture, kept=True)
        return self._to_row(plan)

    def _findings(self, plan: _Plan) -> Iterator[tuple[str, str]]:
        """Headings that a clip falls under, with reasons, the worst first."""
        outcome, window = plan.outcome, self.settings.window
        if plan.lacking is not None or outcome is None:
            yield "missing", plan.lacking or "no media in its row"
            return
        if outcome.unreadable is not None:
            yield "unreadable", outcome.unreadable
            return
        least = self.policy.min_seconds if self.policy.min_seconds is not None else window / 2
        if outcome.promised is not None:
            least = outcome.promised - CLIP_TOLERANCE_SECONDS
        if outcome.seconds < least or outcome.seconds <= 0:
            yield "too_short", _shortness(plan, outcome, least)
        if outcome.peak is None or outcome.peak <= SILENCE:
            yield "silent", "no sound in it" if outcome.peak is None else _loudness(outcome)
        if outcome.digest in self._first:
            yield "duplicate", f"sound and picture are those of {self._first[outcome.digest]}"

    def _holds_something(self, plan: _Plan) -> bool:
        outcome = plan.outcome
        return outcome is not None and (outcome.audio is not None or outcome.frames is not None)

    def _to_row(self, plan: _Plan) -> dict[str, Any]:
        clip, outcome = plan.clip, plan.outcome
        whole = outcome.start == 0 and outcome.duration <= self.settings.window + CLIP_TOLERANCE_SECONDS
        audio = outcome.audio and {"bytes": None, "path": os.path.join(plan.job.output, outcome.audio)}
        frames = plan.frames(outcome.frames)
        return {
            "id": clip.id,
            "youtube_id": clip.youtube_id,
            "start_time": clip.start_time,
            "duration": round(outcome.duration if whole else outcome.seconds, 3),
            "audio": audio,
            "frames": frames and [{"bytes": None, "path": path} for path in frames],
            "captions": clip.captions,
        }


def _shortness(plan: _Plan, outcome: Outcome, least: float) -> str:
    if outcome.seconds <= 0:
        return f"lasts {outcome.duration:.1f} s, its window begins at {outcome.start:g} s"
    promised = "" if outcome.promised is None else f", {outcome.promised:g} s promised by its name"
    return f"{outcome.seconds:.1f} s of {plan.job.settings.window:g} s, at least {least:g} s wanted{promised}"


def _loudness(outcome: Outcome) -> str:
    if not outcome.peak:
        return "all samples are 0"
    return f"the loudest sample is {outcome.peak:.1e} of full scale"
