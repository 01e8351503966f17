"""What a toy clip sounds and looks like: waveform, frames and video."""

import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image, ImageDraw

from lavcap.toy.world import CLIP_SAMPLES, CLIP_SECONDS, SAMPLING_RATE, SHAPES, ToyClip, ToyEvent


FRAMES_PER_CLIP = 20
FRAME_SIZE = 64  # pixels
SUPERSAMPLING = 4  # drawn pixels per side of a final pixel
FADE_SECONDS = 0.01


def _outline(shape: str) -> np.ndarray:
    """Corners of a shape in the unit circle, `(points, 2)`, y pointing down."""
    corners = {"circle": 48, "square": 4, "triangle": 3, "star": 10}[shape]
    turn = math.pi / 4 if shape == "square" else -math.pi / 2
    angles = turn + 2 * math.pi * np.arange(corners) / corners
    radii = np.full(corners, 0.88 if shape == "circle" else 1.0)  # a full circle looks larger than the others
    if shape == "star":
        radii[1::2] = 0.5
    return np.stack([radii * np.cos(angles), radii * np.sin(angles)], axis=1)


_OUTLINES = {shape: _outline(shape) for shape in SHAPES}


# Sound


def render_waveform(clip: ToyClip) -> np.ndarray:
    """The clip's sound, mono, float32 `(64000,)` in [-1, 1] at 16 kHz."""
    rng = np.random.default_rng(clip.noise_seed)
    time = np.arange(CLIP_SAMPLES) / SAMPLING_RATE
    waveform = 1e-4 * rng.standard_normal(CLIP_SAMPLES)  # a recording's noise floor, -80 dB
    if clip.background is not None:
        scene = _BACKGROUND_VOICES[clip.background](time, rng)
        waveform += clip.background_level * scene / _rms(scene)
    for event in clip.events:
        span = slice(math.ceil(event.start * SAMPLING_RATE), math.ceil(event.end * SAMPLING_RATE))
        waveform[span] += _render_event(event, time[span])
    return np.clip(waveform, -1.0, 1.0).astype(np.float32)


def _render_event(event: ToyEvent, time: np.ndarray) -> np.ndarray:
    """One event's samples at clip times `time` (seconds), `(samples,)`."""
    sound = _SOUND_VOICES[event.sound](time - event.start, event, np.random.default_rng(event.noise_seed))
    fade = np.clip((event.end - time) / FADE_SECONDS, 0.0, 1.0)
    return event.loudness * sound / _rms(sound) * event.pulse(time) * fade


def _beep(time: np.ndarray, event: ToyEvent, rng: np.random.Generator) -> np.ndarray:
    phase = 2 * np.pi * 620 * event.pitch * time
    return np.sin(phase) + np.sin(3 * phase) / 3 + np.sin(5 * phase) / 5


def _buzz(time: np.ndarray, event: ToyEvent, rng: np.random.Generator) -> np.ndarray:
    phase = 2 * np.pi * 120 * event.pitch * time + 0.8 * np.sin(2 * np.pi * 9 * event.tempo * time)
    return sum(np.sin(k * phase) / k**0.6 for k in range(1, 25))


def _chirp(time: np.ndarray, event: ToyEvent, rng: np.random.Generator) -> np.ndarray:
    sweep = (time * 13 * event.tempo) % 1.0
    phase = 2 * np.pi * np.cumsum(event.pitch * (2600 + 2200 * sweep)) / SAMPLING_RATE
    return np.sin(phase) * np.sin(np.pi * sweep)


def _click(time: np.ndarray, event: ToyEvent, rng: np.random.Generator) -> np.ndarray:
    since_click = time % (1 / (24 * event.tempo))
    return rng.uniform(-1, 1, time.size) * np.exp(-since_click / 0.005)


def _ring(time: np.ndarray, event: ToyEvent, rng: np.random.Generator) -> np.ndarray:
    partials = ((1.0, 1.0), (2.76, 0.8), (5.4, 0.5))  # a struck bar's modes
    hammer = 0.6 + 0.4 * np.sign(np.sin(2 * np.pi * 17 * event.tempo * time))
    return hammer * sum(gain * np.sin(2 * np.pi * 980 * ratio * event.pitch * time) for ratio, gain in partials)


def _whistle(time: np.ndarray, event: ToyEvent, rng: np.random.Generator) -> np.ndarray:
    vibrato = 1 + 0.04 * np.sin(2 * np.pi * 6 * event.tempo * time)
    phase = 2 * np.pi * np.cumsum(1750 * event.pitch * vibrato) / SAMPLING_RATE
    return np.sin(phase) + 0.04 * rng.standard_normal(time.size)


def _rain(time: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    hiss = _filtered_noise(rng, time.size, lambda hertz: np.clip(hertz / 3000, 0.0, 1.0) ** 2)
    drops = rng.standard_normal(time.size) * (rng.random(time.size) < 0.02)
    return hiss / _rms(hiss) + 0.5 * drops / _rms(drops)


def _wind(time: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    gusts = 1 + 0.5 * np.sin(2 * np.pi * rng.uniform(0.3, 0.7) * time + rng.uniform(0, 2 * np.pi))
    return gusts * _filtered_noise(rng, time.size, lambda hertz: 1 / (1 + (hertz / 350) ** 2))


def _engine(time: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    base = rng.uniform(42, 55)  # Hz
    phase = 2 * np.pi * base * time + 0.5 * np.sin(2 * np.pi * 0.7 * time)
    return sum(np.sin(k * phase + rng.uniform(0, 2 * np.pi)) / k**0.5 for k in range(1, 9))


_SOUND_VOICES: dict[str, Callable[[np.ndarray, ToyEvent, np.random.Generator], np.ndarray]] = {
    "beep": _beep,
    "buzz": _buzz,
    "chirp": _chirp,
    "click": _click,
    "ring": _ring,
    "whistle": _whistle,
}
_BACKGROUND_VOICES: dict[str, Callable[[np.ndarray, np.random.Generator], np.ndarray]] = {
    "rain": _rain,
    "wind": _wind,
    "engine": _engine,
}


def _filtered_noise(rng: np.random.Generator, samples: int, gain: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """White noise `(samples,)` with its spectrum multiplied by `gain(frequencies in Hz)`."""
    spectrum = np.fft.rfft(rng.standard_normal(samples))
    return np.fft.irfft(spectrum * gain(np.fft.rfftfreq(samples, 1 / SAMPLING_RATE)), samples)


def _rms(samples: np.ndarray) -> float:
    return float(np.sqrt(np.mean(samples**2)))


# Picture


def render_frame(clip: ToyClip, time: float, size: int = FRAME_SIZE) -> np.ndarray:
    """The picture at `time` (seconds), uint8 RGB `(size, size, 3)`."""
    side = size * SUPERSAMPLING
    canvas = Image.new("RGB", (side, side), clip.backdrop)
    draw = ImageDraw.Draw(canvas)
    for item in (*clip.distractors, *clip.events):
        cos, sin = math.cos(item.angle), math.sin(item.angle)
        corners = _OUTLINES[item.shape] @ np.array([[cos, sin], [-sin, cos]])
        centre = item.position(time)
        for factor, colour in item.layers(time):
            points = side * (centre + factor * item.radius * corners) - 0.5
            draw.polygon(points.ravel().tolist(), fill=colour)
    return np.array(canvas.reduce(SUPERSAMPLING))


def frame_times(frames: int = FRAMES_PER_CLIP) -> list[float]:
    """Times (seconds) of `frames` evenly spaced pictures, each in the middle of its share of the clip."""
    return [(number + 0.5) * CLIP_SECONDS / frames for number in range(frames)]


def write_video(clips: ToyClip | Sequence[ToyClip], path: str | Path, size: int = 256, frame_rate: int = 25) -> None:
    """Writes a clip, or several one behind the other, as mp4: H.264 pictures of `size` x `size` pixels (an even
    number) and mono AAC at 16 kHz."""
    if size <= 0 or size % 2:
        raise ValueError(f"H.264 with 4:2:0 chroma needs an even, positive picture size, got {size}")
    clips = [clips] if isinstance(clips, ToyClip) else clips
    per_clip = round(CLIP_SECONDS * frame_rate)
    with av.open(str(path), "w", format="mp4") as container:
        video = container.add_stream("libx264", rate=frame_rate, options={"preset": "veryfast", "crf": "18"})
        video.width, video.height, video.pix_fmt = size, size, "yuv420p"
        video.codec_context.thread_count = 1  # clips are encoded side by side, and a fixed count fixes the bytes
        audio = container.add_stream("aac", rate=SAMPLING_RATE, layout="mono")
        for number in range(len(clips) * per_clip):
            clip, shown = clips[number // per_clip], number % per_clip
            frame = av.VideoFrame.from_ndarray(render_frame(clip, shown / frame_rate, size), format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, frame_rate)
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        waveform = np.concatenate([render_waveform(clip) for clip in clips])
        samples = av.AudioFrame.from_ndarray(waveform[None, :], format="fltp", layout="mono")
        samples.sample_rate, samples.pts, samples.time_base = SAMPLING_RATE, 0, Fraction(1, SAMPLING_RATE)
        container.mux(audio.encode(samples))
        container.mux(audio.encode(None))
