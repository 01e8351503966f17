"""Films that tell the time: every frame shows its own, and every second beeps in its own pitch."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np


BITS, BLOCK = 16, 16  # of a frame's time in milliseconds, and the pixels of each
RATE = 48000


def beep(second: int) -> float:
    """Frequency of the beep that begins with a second, in Hz."""
    return 500.0 + 60.0 * second


def uneven_times(seconds: float, seed: int = 0) -> np.ndarray:
    """Times of frames that last 20 to 180 ms, as screen recorders and telephones write them."""
    steps = np.random.default_rng(seed).integers(20, 180, round(seconds * 50))
    times = np.concatenate([[0], steps.cumsum()]) / 1000
    return times[times < seconds]


def write_clock(
    path: Path,
    seconds: float,
    lead: float = 0.0,
    times: np.ndarray | None = None,
    video: str | None = "libx264",
    audio: str | None = "aac",
) -> Path:
    """A film of 256 x 16 pixels.

    Args:
        lead: what its clocks begin at, in seconds.
        times: of its frames; default: 25 a second.
    """
    with av.open(str(path), "w") as container:
        packets = []
        if video:
            picture = container.add_stream(video, rate=25)
            picture.width, picture.height, picture.pix_fmt = BITS * BLOCK, BLOCK, "yuv420p"
            picture.codec_context.time_base = Fraction(1, 1000)
            for time in np.arange(0, seconds, 0.04) if times is None else times:
                frame = av.VideoFrame.from_ndarray(_face(time), format="rgb24")
                frame.pts, frame.time_base = round(1000 * (time + lead)), Fraction(1, 1000)
                packets += picture.encode(frame)
            packets += picture.encode(None)
        if audio:
            sound = container.add_stream(audio, rate=RATE, layout="mono")
            samples = _beeps(seconds)
            for start in range(0, len(samples), 960):
                frame = av.AudioFrame.from_ndarray(samples[None, start : start + 960], format="fltp", layout="mono")
                frame.sample_rate, frame.pts = RATE, start + round(lead * RATE)
                packets += sound.encode(frame)
            packets += sound.encode(None)
        for packet in sorted(packets, key=lambda packet: packet.dts * packet.time_base):
            container.mux(packet)
    return path


def shown_time(frame: np.ndarray) -> float:
    """Seconds that a frame `(height, width, 3)` shows."""
    bits = frame.mean(axis=(0, 2)).reshape(BITS, BLOCK)[:, 4:-4].mean(axis=1) > 127
    return int("".join(map(str, bits.astype(int))), 2) / 1000


def heard_seconds(waveform: np.ndarray, rate: int, second: int) -> list[float]:
    """When the beep of a second begins in samples of some rate, in seconds from their start; none or one."""
    part = round(0.02 * rate)
    time = np.arange(part) / rate
    wave = np.exp(-2j * np.pi * beep(second) * time)
    steps = range(0, len(waveform) - part, part // 4)
    power = np.array([abs(waveform[step : step + part] @ wave) / part for step in steps])
    loud = np.flatnonzero(power > 0.1)
    return [loud[0] * (part // 4) / rate] if len(loud) else []


def _face(time: float) -> np.ndarray:
    bits = [int(bit) for bit in f"{round(1000 * time):0{BITS}b}"]
    return np.repeat(np.tile(np.repeat(bits, BLOCK), (BLOCK, 1))[..., None] * 255, 3, axis=2).astype(np.uint8)


def _beeps(seconds: float) -> np.ndarray:
    samples = np.zeros(round(seconds * RATE), np.float32)
    time = np.arange(round(0.08 * RATE)) / RATE
    for second in range(int(seconds)):
        part = (0.5 * np.sin(2 * np.pi * beep(second) * time)).astype(np.float32)
        place = samples[second * RATE : second * RATE + len(part)]
        place += part[: len(place)]
    return samples
