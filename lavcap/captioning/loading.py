"""Windows of clips as what a model is given, decoded and transformed where it costs the model no time."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

import numpy as np
import torch

from containers_captioning import Window
from lavcap.captioning.records import Caption, Record
from media_captioning import Clip
from processing_captioning import CaptioningProcessor
from sounds_captioning import peak_of
from sources_captioning import MediaError, Source
from windows_captioning import SHORTEST_TAIL


@dataclass(frozen=True)
class Options:
    """Which windows of a clip are taken.

    Args:
        start, end: of what is taken, in seconds; `None`: to the end of the file.
        overlap: seconds that a window begins before the end of the one before it.
        shortest: seconds that the last window has at least.
        scene_cut: how much of the picture must change, from 0 to 1, so that a window begins; `None`: it begins none.
        modalities: what is taken of a file, by name; `None`: as the model does.
        silence: level in dB of full scale; sound whose loudest sample is below it counts as missing.
    """

    start: float = 0.0
    end: float | None = None
    overlap: float = 0.0
    shortest: float = SHORTEST_TAIL
    scene_cut: float | None = None
    modalities: tuple[str, ...] | None = None
    silence: float = -60.0


@dataclass(frozen=True)
class Loaded:
    """A window as it is given to a model.

    Args:
        number: of the window in its file, from 0.
        start, end: in seconds; `None` of a picture.
        features: arrays by the names of the model's inputs; empty where there is nothing to look at.
        modalities, duration, silent, notes, error: as of a record.
    """

    number: int
    start: float | None
    end: float | None
    features: dict[str, np.ndarray]
    modalities: str = ""
    duration: float | None = None
    silent: bool = False
    notes: tuple[str, ...] = ()
    error: str | None = None

    @property
    def tensors(self) -> dict[str, torch.Tensor]:
        """The features, for the model: arrays travel between processes without its files."""
        return {name: torch.from_numpy(each) for name, each in self.features.items()}

    def record(self, clip: str, captions: Sequence[Caption] = ()) -> Record:
        """What is said of it, as a window of a clip of this name."""
        if self.error is not None:
            return Record(clip, self.start, self.end, error=self.error)
        shared = {name: getattr(self, name) for name in ("start", "end", "modalities", "duration", "silent", "notes")}
        return Record(clip, captions=tuple(captions), **shared)


@dataclass
class WindowLoader:
    """What a worker does with a clip: its source in, with the number of a window and when that begins; this
    window and all behind it out.

    Behind the last one comes `None`, or, of a clip that cannot be used to its end, a window with `error` and no times.
    """

    processor: CaptioningProcessor
    options: Options
    decoder_threads: int = 0  # of a clip of one window; 0: as many as are of use

    def __call__(self, job: tuple[Source, int, float]) -> Iterator[Loaded | None]:
        source, first, start = job
        try:
            # Nothing decoded is held here while a window waits to be taken.
            windows = self.windows(source, start)
            yield from map(lambda number, found: self.loaded(number, *found), count(first), windows)
            yield None
        except MediaError as error:
            yield failed(error)

    def windows(self, source: Source, start: float) -> Iterator[tuple[Window, Clip | MediaError]]:
        """Windows of a clip from a time on, decoded as they are asked for.

        Raises:
            MediaError: it cannot be used.
        """
        options, taken = self.options, self.options.modalities
        yield from self.processor.load_windows(
            source,
            start,
            options.end,
            options.overlap,
            options.shortest,
            options.scene_cut,
            decoder_threads=self.decoder_threads,
            **{kind: None if taken is None else kind in taken for kind in ("audio", "video")},
        )

    def loaded(self, number: int, window: Window, clip: Clip | MediaError) -> Loaded:
        """A window as it is given to a model."""
        is_still = window.start == window.end == 0 and not isinstance(clip, MediaError) and clip.duration is None
        times = (None, None) if is_still else (window.start, window.end)
        if isinstance(clip, MediaError):
            return Loaded(number, *times, {}, error=str(clip))
        silent = clip.waveform is not None and level(clip.waveform) < self.options.silence
        if silent:
            clip = Clip(None, clip.frames, clip.duration, notes=clip.notes)
        features = {name: each.numpy() for name, each in self.processor.clip_features(clip).items()}
        return Loaded(number, *times, features, clip.modalities, clip.duration, silent, clip.notes)


def failed(reason: Any) -> Loaded:
    """What stands for a clip, or the rest of one, that cannot be used; which window that is, its taker knows."""
    return Loaded(-1, None, None, {}, error=str(reason))


def level(waveform: np.ndarray) -> float:
    """Loudest sample in dB of full scale; minus infinity of digital silence."""
    peak = peak_of(waveform)
    return 20 * math.log10(peak) if peak else -math.inf
