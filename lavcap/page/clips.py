"""What the page shows of a clip: captions of its windows as they come, and what is aligned in one of them."""

import base64
import io
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from lavcap.captioning.captions import write_captions
from lavcap.captioning.loading import Loaded, Options, WindowLoader
from lavcap.captioning.records import Record, clock
from lavcap.drawing import draw_alignment
from lavcap.models.captioning import alignment
from media_captioning import Clip
from modeling_captioning import CaptioningModel
from processing_captioning import CaptioningProcessor
from sounds_captioning import peak_of
from sources_captioning import MediaError


THUMBNAIL_WIDTH = 96  # pixels
LOUDNESS_PARTS = 24  # of a window
BATCH_SIZE = 4  # windows captioned at a time, behind the first, which comes alone


@dataclass(frozen=True)
class Shown:
    """A window as the time line shows it.

    Args:
        record: what is said of it.
        picture: the frame in its middle as a `data:` address; empty without picture.
        loudness: peaks of equal parts of its sound, as shares of full scale; empty without sound.
    """

    record: Record
    picture: str = ""
    loudness: tuple[float, ...] = ()


class ClipCaptioner:
    """A model for one visitor at a time; others wait.

    Args:
        model, processor: that write the captions.
    """

    def __init__(self, model: CaptioningModel, processor: CaptioningProcessor):
        self.model, self.processor = model, processor
        self._turn = threading.Lock()

    def caption(self, path: Path, options: Options, num_captions: int, instruction: str | None) -> Iterator[Shown]:
        """Windows of a clip, as soon as they have their captions.

        Raises:
            MediaError: the clip, or the rest of it, cannot be used; what came before is good.
        """
        loader = WindowLoader(self.processor, options)
        waiting: list[tuple[Loaded, Shown]] = []
        enough = 1
        try:
            for number, (window, clip) in enumerate(loader.windows(path, options.start)):
                loaded = loader.loaded(number, window, clip)
                waiting.append((loaded, _shown(path.name, loaded, clip)))
                if len(waiting) >= enough:
                    yield from self._captioned(waiting, num_captions, instruction)
                    waiting, enough = [], BATCH_SIZE
        except MediaError as error:
            yield from self._captioned(waiting, num_captions, instruction)
            raise MediaError(with_name(error, path)) from error
        yield from self._captioned(waiting, num_captions, instruction)

    def draw_alignment(self, path: Path, record: Record, options: Options) -> bytes | None:
        """The plan of one window over its frames and its sound, as PNG; `None` where the model aligns nothing."""
        if record.modalities != "audio+video":
            return None
        loader = WindowLoader(self.processor, options)
        window, clip = next(loader.windows(path, record.start))
        if isinstance(clip, MediaError):
            return None
        features = loader.loaded(0, window, clip).tensors
        with self._turn:
            plan = alignment(self.model, self.processor, features)
        if plan is None:
            return None
        log_mel = features[self.processor.feature_names["audio"][0]].numpy()
        title = f"Transport plan, {clock(record.start)} to {clock(record.end)}"
        span = {"start": record.start, "padded": self.processor.window}
        figure, _ = draw_alignment(plan, clip.frames, log_mel, record.end - record.start, title, **span)
        file = io.BytesIO()
        figure.savefig(file, dpi=90)
        return file.getvalue()

    def _captioned(
        self, waiting: Sequence[tuple[Loaded, Shown]], num_captions: int, instruction: str | None
    ) -> Iterator[Shown]:
        """Windows with their captions; those that hold nothing have none."""
        clips = [loaded.tensors for loaded, _ in waiting if loaded.features]
        found = iter(())
        if clips:
            with self._turn:
                found = iter(write_captions(self.model, self.processor, clips, instruction, num_captions))
        for loaded, shown in waiting:
            captions = next(found) if loaded.features else ()
            yield Shown(loaded.record(shown.record.clip, captions), shown.picture, shown.loudness)


def with_name(error: MediaError, path: Path) -> str:
    """Message of an error with the name of the file alone, not where it was put."""
    return str(error).replace(str(path), path.name)


def data_address(data: bytes, kind: str) -> str:
    """Bytes as a `data:` address, such as pages show pictures by."""
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


# -------------------------------------------------------------------------------------------------------- internals


def _shown(name: str, loaded: Loaded, clip: Clip | MediaError) -> Shown:
    record = loaded.record(name)
    if isinstance(clip, MediaError):
        return Shown(record)
    picture = "" if clip.frames is None else _thumbnail(clip.frames[len(clip.frames) // 2])
    return Shown(record, picture, () if clip.waveform is None else _loudness(clip.waveform))


def _thumbnail(frame: np.ndarray) -> str:
    height, width = frame.shape[:2]
    file = io.BytesIO()
    size = THUMBNAIL_WIDTH, max(1, round(THUMBNAIL_WIDTH * height / width))
    Image.fromarray(frame).resize(size).save(file, "jpeg", quality=70)
    return data_address(file.getvalue(), "image/jpeg")


def _loudness(waveform: np.ndarray) -> tuple[float, ...]:
    parts = np.array_split(waveform, LOUDNESS_PARTS)
    return tuple(round(min(1.0, peak_of(part)), 3) for part in parts)
