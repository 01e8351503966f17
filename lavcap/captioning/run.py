"""Captions for many clips of any length: windows decoded ahead, batched over clips, written as they come."""

import math
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from tqdm.auto import tqdm

from lavcap.captioning.captions import write_captions
from lavcap.captioning.loading import Loaded, Options, WindowLoader, failed
from lavcap.captioning.media_list import Medium
from lavcap.captioning.outputs import Files, Printed
from lavcap.captioning.records import Record
from lavcap.workers import threads_of_each, work_through
from modeling_captioning import CaptioningModel
from processing_captioning import CaptioningProcessor
from windows_captioning import SHORTEST_TAIL


WINDOW_TIMEOUT = 300.0  # seconds that a process may work on a window
STILL_SECONDS = 1.0  # that a picture counts in the bar
BAR = "{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} s [{elapsed}<{remaining}]"


def counted(number: int, name: str) -> str:
    """`1 clip`, `2 clips`."""
    return f"{number} {name}{'' if number == 1 else 's'}"


@dataclass
class Totals:
    """What was done, for the report at the end.

    Args:
        clips, windows, seconds: that were captioned, and what they last.
        failed: clips, or windows of them, that cannot be used.
        spent: seconds of work.
    """

    clips: int = 0
    windows: int = 0
    seconds: float = 0.0
    failed: int = 0
    spent: float = 0.0

    def __str__(self) -> str:
        rate = f", {self.seconds / self.spent:.1f} times as fast as they play" if self.seconds and self.spent else ""
        what = f"{counted(self.clips, 'clip')}, {counted(self.windows, 'window')} of {self.seconds:.0f} s"
        told = f"{what} in {self.spent:.0f} s{rate}"
        return told + (f"; {self.failed} cannot be used, see above" if self.failed else "")


@dataclass
class _Begun:
    """A clip whose captions are not all there."""

    records: dict[int, Record] = field(default_factory=dict)
    seen: int = 0  # number of the window that comes next
    waiting: int = 0  # windows that wait for their captions
    ended: bool = False  # whether all its windows are known


class Captioning:
    """The work on many clips: while the model writes the captions of a batch, the next one is decoded.

    Args:
        model, processor: that write the captions.
        output: where they go.
        options: which windows of a clip are taken.
        batch_size: windows captioned at a time, of any clips.
        num_workers: processes that decode; 0: threads of this one.
        instruction, num_captions: as of [`write_captions`].
        decoding: options for `generate`.
        show: whether there is a bar; `None`: on a terminal.
    """

    def __init__(
        self,
        model: CaptioningModel,
        processor: CaptioningProcessor,
        output: Printed | Files,
        options: Options,
        batch_size: int = 8,
        num_workers: int = 0,
        instruction: str | None = None,
        num_captions: int = 1,
        decoding: dict[str, Any] | None = None,
        show: bool | None = None,
    ):
        self.model, self.processor, self.output, self.options = model, processor, output, options
        self.batch_size, self.num_workers, self.show = batch_size, num_workers, show
        self._write = {"instruction": instruction, "num_captions": num_captions, **(decoding or {})}
        self.totals = Totals()
        self._begun: dict[str, _Begun] = {}
        self._batch: list[tuple[str, Loaded]] = []
        self._writing: tuple[list[tuple[str, Loaded]], Future] | None = None

    def run(self, media: Sequence[Medium], report: Callable[[str, str], None]) -> Totals:
        """Caption clips; what cannot be used costs nothing but itself.

        Args:
            report: is told the name of what cannot be used, and why.
        """
        begun, self._report = time.monotonic(), report
        jobs = list(self._jobs(media))
        decoder_threads = threads_of_each(len(jobs), self.num_workers) if len(jobs) > 1 else 0
        work = WindowLoader(self.processor, self.options, decoder_threads)
        shown = {"desc": "Captioning", "bar_format": BAR, "disable": None if self.show is None else not self.show}
        with tqdm(**shown) as bar, _Writer(self.model) as self._writer:
            self._bar = _Bar(bar, len(jobs))
            try:
                for clip, loaded in work_through(work, jobs, self.num_workers, WINDOW_TIMEOUT, lost):
                    self._take(clip, loaded)
                    if self._writing and self._writing[1].done():
                        self._add_written()
                    if len(self._batch) >= self.batch_size:
                        self._begin_writing()
                self._begin_writing()
            finally:
                if not isinstance(sys.exception(), KeyboardInterrupt):
                    self._add_written()
        self.totals.spent = time.monotonic() - begun
        return self.totals

    # ------------------------------------------------------------------------------------------------- internals

    def _jobs(self, media: Sequence[Medium]) -> Iterator[tuple[str, tuple[Any, int, float]]]:
        """Clips with the first window that is not known: of one that was stopped the last one is made again."""
        for medium in media:
            known = self.output.begun(str(medium))
            while known and known[-1].start is None:  # what ended it before, or a picture
                known.pop()
            first = max(0, len(known) - 1)
            self._begun[str(medium)] = _Begun(dict(enumerate(known[:first])), first)
            start = known[first].start if known else None
            yield str(medium), (medium.source, first, self.options.start if start is None else start)

    def _take(self, clip: str, loaded: Loaded | None):
        """A window that was decoded, or the end of a clip."""
        begun = self._begun[clip]
        if loaded is None:
            begun.ended = True
        elif loaded.error is not None and loaded.start is None:  # the rest of the clip
            begun.ended = True
            loaded = replace(loaded, number=begun.seen)
        else:
            begun.seen = loaded.number + 1
        if loaded is not None and loaded.error is not None:
            self._fail(clip, loaded)
        elif loaded is not None:
            self._bar.open(clip, loaded.duration)
            for note in loaded.notes:
                self._report(clip, f"{clip} {note}.")
            if loaded.features:
                begun.waiting += 1
                self._batch.append((clip, loaded))
            else:
                self._add(clip, loaded, loaded.record(clip))
        self._finish_if_done(clip)

    def _begin_writing(self):
        """Have the captions of the windows that wait written, when those before them are."""
        self._add_written()
        batch, self._batch = self._batch, []
        if batch:
            clips = [loaded.tensors for _, loaded in batch]
            self._writing = batch, self._writer.begin(self.model, self.processor, clips, **self._write)

    def _add_written(self):
        """Take the captions that are being written, as soon as they are."""
        if self._writing is None:
            return
        (batch, written), self._writing = self._writing, None
        captions = written.result()
        for (clip, loaded), found in zip(batch, captions, strict=True):
            self._begun[clip].waiting -= 1
            self._add(clip, loaded, loaded.record(clip, found))
        for clip in dict.fromkeys(clip for clip, _ in batch):
            self._finish_if_done(clip)

    def _add(self, clip: str, loaded: Loaded, record: Record):
        self._begun[clip].records[loaded.number] = record
        timed = record.start is not None and (record.duration or 0) > record.end - record.start + SHORTEST_TAIL
        self.output.add(loaded.number, record, timed)
        self.totals.windows += 1
        seconds = STILL_SECONDS if record.start is None else record.end - record.start
        self.totals.seconds += seconds
        self._bar.advance(seconds)

    def _fail(self, clip: str, loaded: Loaded):
        record = loaded.record(clip)
        self._begun[clip].records[loaded.number] = record
        self.output.add(loaded.number, record, timed=True)
        self.totals.failed += 1
        self._report(clip, f"error: {loaded.error}")

    def _finish_if_done(self, clip: str):
        begun = self._begun.get(clip)
        if begun is None or begun.waiting or not begun.ended:
            return
        records = [begun.records[number] for number in sorted(begun.records)]
        self.output.finish(clip, records)
        self.totals.clips += any(record.error is None for record in records)
        self._bar.close(clip)
        del self._begun[clip]


class _Writer:
    """A thread in which a model writes captions; an error or Ctrl-C elsewhere stops it at the next token."""

    def __init__(self, model: CaptioningModel):
        self._stop = threading.Event()
        self._thread = ThreadPoolExecutor(1, initializer=_use_device, initargs=(model.device,))

    def __enter__(self) -> "_Writer":
        return self

    def __exit__(self, *error: object):
        self._stop.set()
        self._thread.shutdown()

    def begin(self, *inputs: Any, **options: Any) -> Future:
        """Captions, as of [`write_captions`], that will be there."""
        return self._thread.submit(write_captions, *inputs, stopping_criteria=[self._stopped], **options)

    def _stopped(self, input_ids: torch.LongTensor, scores: torch.Tensor, **kwargs: Any) -> torch.BoolTensor:
        return torch.full((len(input_ids),), self._stop.is_set(), device=input_ids.device)


class _Bar:
    """Whole seconds that are captioned, of as many as there seem to be: clips not open yet last as the others."""

    def __init__(self, bar: tqdm, clips: int):
        self._bar, self._clips, self._seconds = bar, clips, 0.0
        self._lengths: dict[str, float] = {}

    def open(self, clip: str, duration: float | None):
        if clip not in self._lengths:
            self._lengths[clip] = STILL_SECONDS if duration is None else duration
            self._guess()

    def close(self, clip: str):
        if clip not in self._lengths:  # it could not be opened
            self._clips -= 1
            self._guess()

    def _guess(self):
        if self._lengths:
            self._bar.total = math.ceil(sum(self._lengths.values()) / len(self._lengths) * self._clips)

    def advance(self, seconds: float):
        self._seconds += seconds
        self._bar.update(int(self._seconds) - self._bar.n)


def _use_device(device: torch.device):
    """Make an accelerator that of this thread: each begins with the first one."""
    if device.index is not None and device.type != "cpu":
        torch.accelerator.set_device_index(device.index)


def lost(job: tuple[Any, int, float], reason: str) -> Loaded:
    source, *_ = job
    return failed(f"{source}: {reason}; convert it, to mp4 or wav say.")
