"""One clip of a data set: its window cut out of what there is, as a sound file and frames, and what was measured."""

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePath

import numpy as np
from PIL import Image

from lavcap.data.wav import SAMPLING_RATE, to_pcm, write_wav
from lavcap.files import whole_file
from lavcap.preparation.media import Media, MediaFile
from media_captioning import Clip, even_indices, read_clip, read_duration
from pictures_captioning import read_images
from sounds_captioning import peak_of
from sources_captioning import MEDIA_SUFFIXES, MediaError, StoredFile


FRAME_SAMPLER = "centres of equal parts"  # how frames are chosen of a clip: `media_captioning.even_indices`
JPEG_QUALITY = 95
CLIP_TOLERANCE_SECONDS = 0.5  # a file that is longer than the window by this much is the clip itself
PARTIAL_FOLDER = ".partial"
SIGNATURES = {b"RIFF": ".wav", b"fLaC": ".flac", b"OggS": ".ogg", b"ID3": ".mp3", b"\x1aE\xdf\xa3": ".mkv"}


@dataclass(frozen=True)
class Settings:
    """What is made of every clip.

    Args:
        window: in seconds.
        num_frames: at the centres of as many equal parts of the window.
        frame_size: to which the shortest edge of a frame is reduced, in pixels.
    """

    window: float = 10.0
    num_frames: int = 20
    frame_size: int = 224


@dataclass(frozen=True)
class Job:
    """A clip to cut. `stem` names its files, `output` is the folder of its split, `start_time` is in seconds, and
    `decoder_threads` is as of [`read_clip`]."""

    stem: str
    output: str
    settings: Settings
    start_time: float | None
    media: Media
    decoder_threads: int = 0


@dataclass
class Outcome:
    """What became of a clip; JSON values only.

    Args:
        unreadable: why its media cannot be used; then nothing else is known.
        audio: path of its sound: of a file that was written, relative to the split's folder, or the original's.
        frames: `"written"`, `"found"` or `None`.
        duration: of the file that was heard, in seconds.
        start: of the window in that file, in seconds.
        seconds: that the window holds.
        promised: seconds that the file's name promises; `None` without such a name.
        peak: loudest sample of the window; `None` without any.
        no_picture: why there are no frames.
        digest: of the decoded window.
    """

    unreadable: str | None = None
    audio: str | None = None
    frames: str | None = None
    duration: float = 0.0
    start: float = 0.0
    seconds: float = 0.0
    promised: float | None = None
    peak: float | None = None
    no_picture: str | None = None
    digest: str | None = None


def cut_clip(job: Job) -> Outcome:
    """Cut the window of a clip and write what has to change; files appear under their names when they are complete.

    Raises:
        OSError: something cannot be written.
    """
    try:
        return _cut(job)
    except MediaError as error:
        return Outcome(unreadable=str(error))
    except MemoryError:
        return Outcome(unreadable=f"{_audio_file(job).path}: does not fit into memory; make its picture smaller.")
    except OSError:
        raise
    except Exception as error:  # one strange clip must not end the work on thousands
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        return Outcome(unreadable=f"{_audio_file(job).path}: cannot be prepared ({reason}); convert it, to mp4 say.")


def frame_path(output: str | Path, number: int, stem: str) -> str:
    """Where the released layout keeps frame `number` of a clip."""
    return os.path.join(output, "frames", f"frame_{number}", f"{stem}.jpg")


# -------------------------------------------------------------------------------------------------------- internals


def _audio_file(job: Job) -> MediaFile:
    return job.media.audio or job.media.video


def _cut(job: Job) -> Outcome:
    media, window = _audio_file(job), job.settings.window
    duration = read_duration(media.path)
    start = _start_in(media, job, duration)
    outcome = Outcome(duration=duration, start=start, seconds=min(duration - start, window))
    outcome.promised = _promised(media, job)
    if outcome.seconds <= 0:
        return outcome
    options = {"start": start, "decoder_threads": job.decoder_threads}
    clip = read_clip(media.path, SAMPLING_RATE, job.settings.num_frames, window, **options)
    frames, outcome.frames = _choose_frames(job, clip, outcome)
    digest = hashlib.sha256()
    if clip.waveform is not None:
        outcome.peak = peak_of(clip.waveform)
        samples = to_pcm(clip.waveform)
        digest.update(samples.tobytes())
        outcome.audio = _keep_or_write_audio(job, media, outcome, samples)
    if frames is not None:
        digest.update(np.ascontiguousarray(frames))
        if outcome.frames == "written":
            _write_frames(job, frames)
    outcome.digest = digest.hexdigest()
    return outcome


def _start_in(media: MediaFile, job: Job, duration: float) -> float:
    """Where the window begins in a file, in seconds."""
    if job.start_time is None:
        return 0.0
    if media.named is not None:
        return max(0.0, job.start_time - media.named[0])
    return 0.0 if duration <= job.settings.window + CLIP_TOLERANCE_SECONDS else job.start_time


def _promised(media: MediaFile, job: Job) -> float | None:
    if media.named is None:
        return None
    begin = media.named[0] if job.start_time is None else job.start_time
    return min(media.named[1] - begin, job.settings.window)


def _choose_frames(job: Job, clip: Clip, outcome: Outcome) -> tuple[np.ndarray | None, str | None]:
    """Frames of a clip and how they came; why there are none is noted in the outcome."""
    media, count = job.media, job.settings.num_frames
    outcome.no_picture = media.reason
    if media.frames:
        try:
            return read_images(media.frames, even_indices(len(media.frames), count)), "found"
        except MediaError as error:
            outcome.no_picture = str(error)
    frames = clip.frames
    if media.audio and media.video:
        try:
            duration = read_duration(media.video.path)
            start = _start_in(media.video, job, duration)
            options = {"audio": False, "start": start, "decoder_threads": job.decoder_threads}
            frames = read_clip(media.video.path, SAMPLING_RATE, count, job.settings.window, **options).frames
        except MediaError as error:
            outcome.no_picture = str(error)
    if frames is None:
        outcome.no_picture = outcome.no_picture or f"{_audio_file(job).path}: no picture"
        return None, None
    outcome.no_picture = None
    return frames, "written"


def _keep_or_write_audio(job: Job, media: MediaFile, outcome: Outcome, samples: np.ndarray) -> str:
    """Path of the sound: the original if it is the window already."""
    whole = outcome.start == 0 and outcome.duration <= job.settings.window + CLIP_TOLERANCE_SECONDS
    if whole and isinstance(media.path, str):
        return media.path
    if whole and (suffix := _suffix(media.path)):
        name = os.path.join("media", job.stem + suffix)
        _write(job.output, name, lambda path: Path(path).write_bytes(media.path.data))
        return name
    name = os.path.join("waveforms", f"{job.stem}.wav")
    _write(job.output, name, lambda path: write_wav(path, samples))
    return name


def _suffix(file: StoredFile) -> str | None:
    """Suffix of a file in memory, by its name or by its first bytes."""
    stated = PurePath(file.name).suffix.lower()
    if stated in MEDIA_SUFFIXES:
        return stated
    if file.data[4:8] == b"ftyp":
        return ".mp4"
    return next((suffix for start, suffix in SIGNATURES.items() if file.data.startswith(start)), None)


def _write_frames(job: Job, frames: np.ndarray):
    """Write frames `(video_frames, height, width, 3)`, reduced but never enlarged."""
    height, width = frames.shape[1:3]
    scale = min(1.0, job.settings.frame_size / min(height, width))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    for number, frame in enumerate(frames):
        image = Image.fromarray(frame)
        if scale < 1:
            image = image.resize(size, Image.Resampling.BICUBIC)
        name = os.path.relpath(frame_path(job.output, number, job.stem), job.output)
        _write(job.output, name, lambda path, image=image: image.save(path, "jpeg", quality=JPEG_QUALITY))


def _write(output: str, name: str, write: Callable[[str], object]):
    """Write a file below the folder of a split."""
    with whole_file(Path(output, name), unfinished=Path(output, PARTIAL_FOLDER)) as partial:
        write(str(partial))
