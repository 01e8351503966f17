"""Films to measure with: moving waves of colour with a little noise, and a chord in noise."""

from collections.abc import Sequence
from pathlib import Path

import av
import numpy as np
from tqdm.auto import tqdm


SIZE, FRAME_RATE, AUDIO_RATE = (640, 360), 25, 48_000
DIFFERENT = 4  # films of a folder
PIECE = 960  # samples of a frame of sound


def write_film(
    path: Path,
    seconds: float,
    video_codec: str = "libx264",
    audio_codec: str = "aac",
    seed: int = 0,
    size: tuple[int, int] = SIZE,
    frame_rate: int = FRAME_RATE,
):
    """Write a film of any length, a second at a time: memory does not grow with it.

    Args:
        size: width and height in pixels, even numbers.
        frame_rate: pictures per second, a divisor of 48,000.
    """
    draw = np.random.default_rng(seed)
    (width, height), pitches = size, draw.uniform(100, 2000, 3)
    across, down = np.arange(width)[None, :, None], np.arange(height)[:, None, None]
    waves, colours = draw.uniform(0.005, 0.05, (3, 3)), draw.uniform(0, 6, 3)
    with av.open(str(path), "w") as container:
        options = {"preset": "veryfast"} if video_codec == "libx264" else {"deadline": "realtime", "cpu-used": "8"}
        video = container.add_stream(video_codec, rate=frame_rate, options=options)
        video.width, video.height, video.pix_fmt = width, height, "yuv420p"
        audio = container.add_stream(audio_codec, rate=AUDIO_RATE, layout="stereo")
        heard = 0
        for index in range(round(seconds * frame_rate)):
            phase = waves[0] * across + waves[1] * down + waves[2] * index + colours
            noise = draw.integers(0, 12, (height, width, 1))
            pixels = (110 + 100 * np.sin(phase) + noise).astype(np.uint8)
            container.mux(video.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
            while heard / AUDIO_RATE < (index + 1) / frame_rate:
                container.mux(audio.encode(_sound(pitches, heard, draw)))
                heard += PIECE
        container.mux(video.encode(None))
        container.mux(audio.encode(None))


def write_films(folder: Path, names: Sequence[str], seconds: float) -> Path:
    """A folder of films of which few differ, others being links: to draw them takes longer than to caption them."""
    folder.mkdir(parents=True)
    paths = [folder / f"{name}.mp4" for name in names]
    for number, path in enumerate(tqdm(paths, desc="Generating films", unit="film")):
        if number < DIFFERENT:
            write_film(path, seconds, seed=number)
        else:
            path.hardlink_to(paths[number % DIFFERENT])
    return folder


def _sound(pitches: np.ndarray, first: int, draw: np.random.Generator) -> av.AudioFrame:
    times = (first + np.arange(PIECE)) / AUDIO_RATE
    chord = sum(0.1 * np.sin(2 * np.pi * pitch * times) for pitch in pitches)
    samples = (chord + 0.02 * draw.standard_normal((2, PIECE))).astype(np.float32)
    frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout="stereo")
    frame.sample_rate, frame.pts = AUDIO_RATE, first
    return frame
