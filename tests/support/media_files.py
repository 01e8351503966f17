"""Media files of every kind."""

import struct
from pathlib import Path

import av
import numpy as np


def write_floats(path: Path, samples: np.ndarray, rate: int = 16_000):
    """A mono wav file of float32 samples, `(samples,)`, whatever their values."""
    data = samples.astype("<f4").tobytes()
    form = struct.pack("<4sIHHIIHH", b"fmt ", 16, 3, 1, rate, 4 * rate, 4, 32)
    body = b"WAVE" + form + struct.pack("<4sI", b"data", len(data)) + data
    path.write_bytes(struct.pack("<4sI", b"RIFF", len(body)) + body)


def write_media(
    path: Path,
    seconds: float = 1.0,
    audio: str | None = "aac",
    video: str | None = "libx264",
    rate: int = 44100,
    size: int = 64,
    **options,
) -> Path:
    """A stereo tone of 440 Hz from half time on, and a picture that brightens by 2 a frame, 25 frames a second."""
    with av.open(str(path), "w", options=options) as container:
        if video:
            picture = container.add_stream(video, rate=25)
            picture.width = picture.height = size
            picture.pix_fmt = "yuv420p"
        if audio:
            sound = container.add_stream(audio, rate=rate, layout="stereo")
        for index in range(round(seconds * 25)) if video else ():
            frame = av.VideoFrame.from_ndarray(np.full((size, size, 3), 2 * index % 256, np.uint8), format="rgb24")
            frame.pts = index
            container.mux(picture.encode(frame))
        if video:
            container.mux(picture.encode(None))
        if audio:
            time = np.arange(round(seconds * rate)) / rate
            tone = 0.5 * np.sin(2 * np.pi * 440 * time) * (time >= seconds / 2)
            frame = av.AudioFrame.from_ndarray(
                np.stack([tone, tone]).astype(np.float32), format="fltp", layout="stereo"
            )
            frame.sample_rate, frame.pts = rate, 0
            container.mux(sound.encode(frame))
            container.mux(sound.encode(None))
    return path
