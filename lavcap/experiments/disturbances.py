"""Disturbances of clips: what is done to sound and frames before a processor makes features of them."""

from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass, replace

import numpy as np

from lavcap.arguments import reject_unknown
from lavcap.evaluation.names import OTHER_VIDEO
from media_captioning import Clip


SNRS = (20, 10, 5, 0)  # dB
DELAYS = (0.25, 0.5, 1, 2)  # seconds
DROPPED = (25, 50, 75)  # % of the frames

Change = Callable[[Clip, np.random.Generator], Clip]


# ------------------------------------------------------------------------------------------------ sounds and frames


def add_noise(waveform: np.ndarray, snr: float, draw: np.random.Generator) -> np.ndarray:
    """Sound with white Gaussian noise.

    The signal-to-noise ratio is that of the RMS of the samples to the RMS of the noise that is added, both over the
    whole waveform. Nothing is clipped. Silence has no such ratio and stays silence.

    Args:
        waveform: `(samples,)`.
        snr: in dB.
    """
    noise = draw.standard_normal(len(waveform))
    norm = np.linalg.norm(waveform.astype(np.float64))  # as many samples: norms are to each other as RMS are
    return (waveform + norm / np.linalg.norm(noise) * 10 ** (-snr / 20) * noise).astype(waveform.dtype)


def delay_sound(waveform: np.ndarray, sampling_rate: int, seconds: float) -> np.ndarray:
    """Sound that comes later; what runs out at the end comes in at the beginning, so that none of it is lost."""
    return np.roll(waveform, round(seconds * sampling_rate))


def drop_frames(frames: np.ndarray, share: float, draw: np.random.Generator) -> np.ndarray:
    """Frames of which a share is replaced by the last one before it that is kept; the first is always kept.

    The frames that are dropped are drawn at random; of the same draw those of a smaller share are among them.

    Args:
        frames: `(video_frames, height, width, 3)`.
        share: 0 to 1, rounded to whole frames.
    """
    shown = np.arange(len(frames))
    shown[1 + draw.permutation(len(frames) - 1)[: round(share * len(frames))]] = 0
    return frames[np.maximum.accumulate(shown)]


# ----------------------------------------------------------------------------------------------------- disturbances


@dataclass(frozen=True)
class Disturbance:
    """One way to disturb a clip.

    Attributes:
        name: by which it is asked for and told.
        kind: what those have in common that differ by their strength alone.
        does: what is done, in words.
        needs: modalities of the clip without which there is nothing to disturb.
        modality: what the model is given, one of [`lavcap.evaluation.names.MODALITIES`]; empty: what there is.
        change: what is done to a clip with what is drawn for it; `None`: nothing.
        frames: least number of frames.
    """

    name: str
    kind: str
    does: str
    needs: Set[str] = frozenset()
    modality: str = ""
    change: Change | None = None
    frames: int = 0


SOUND, PICTURE, BOTH = frozenset({"audio"}), frozenset({"video"}), frozenset({"audio", "video"})


def _noise(snr: float) -> Disturbance:
    def change(clip: Clip, draw: np.random.Generator) -> Clip:
        return replace(clip, waveform=add_noise(clip.waveform, snr, draw))

    return Disturbance(f"noise_{snr}_db", "noise", f"white noise at an SNR of {snr} dB", SOUND, change=change)


def _delay(seconds: float) -> Disturbance:
    def change(clip: Clip, draw: np.random.Generator) -> Clip:
        return replace(clip, waveform=delay_sound(clip.waveform, clip.sampling_rate, seconds))

    return Disturbance(f"delay_{seconds:g}_s", "delay", f"the sound {seconds:g} s late", BOTH, change=change)


def _dropped(percent: int) -> Disturbance:
    def change(clip: Clip, draw: np.random.Generator) -> Clip:
        return replace(clip, frames=drop_frames(clip.frames, percent / 100, draw))

    does = f"{percent} % of the frames replaced by the last one that is kept"
    return Disturbance(f"dropped_{percent}", "dropped", does, PICTURE, change=change, frames=2)


UNDISTURBED = Disturbance("undisturbed", "undisturbed", "the clips as they are")
DISTURBANCES = (
    Disturbance("other_video", "other_video", "the sound with the picture of another clip", BOTH, OTHER_VIDEO),
    Disturbance("audio_only", "missing", "the sound without the picture", BOTH, "audio"),
    Disturbance("video_only", "missing", "the picture without the sound", BOTH, "video"),
    *map(_noise, SNRS),
    *map(_delay, DELAYS),
    *map(_dropped, DROPPED),
)
KINDS = tuple(dict.fromkeys(each.kind for each in DISTURBANCES))


def choose_disturbances(names: Sequence[str] | None = None) -> list[Disturbance]:
    """Disturbances by names or kinds, in the order of the table; default: all. `undisturbed` is there in any case.

    Raises:
        ValueError: one is unknown.
    """
    reject_unknown("a disturbance", names or (), {UNDISTURBED.name, *KINDS, *(each.name for each in DISTURBANCES)})
    return [each for each in DISTURBANCES if names is None or {each.name, each.kind} & set(names)]


def obstacle(disturbance: Disturbance, taken: Set[str], shown: Set[str], frames: int, clips: int) -> str | None:
    """Why a disturbance does not apply; `None` where it does.

    Args:
        taken: modalities that the model takes.
        shown: modalities that the clips have.
        frames: of a clip.
        clips: how many there are.
    """
    for whose, there in (("the model takes", taken), ("the clips have", shown)):
        if lacking := disturbance.needs - there:
            return f"needs {' and '.join(sorted(disturbance.needs))}; {whose} no {' and no '.join(sorted(lacking))}"
    if frames < disturbance.frames:
        return f"needs {disturbance.frames} frames or more; the clips have {frames}"
    if disturbance.modality == OTHER_VIDEO and clips < 2:
        return "needs two clips or more; there is 1"
    return None


def draws_of(clip: str, seed: int) -> np.random.Generator:
    """What is drawn for a clip, by its id: the same for every disturbance, so that strengths alone differ."""
    return np.random.default_rng([seed, *clip.encode()])
