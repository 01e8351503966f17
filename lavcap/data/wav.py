"""Sound files that a data set is made of: mono, 16 bit."""

import wave
from typing import BinaryIO

import numpy as np


SAMPLING_RATE = 16_000  # Hz, what the model hears


def to_pcm(waveform: np.ndarray) -> np.ndarray:
    """16-bit samples of floating-point ones in [-1, 1], `(samples,)`."""
    return np.clip(np.round(waveform * 32768), -32768, 32767).astype("<i2")


def write_wav(file: str | BinaryIO, samples: np.ndarray, sampling_rate: int = SAMPLING_RATE):
    """Write 16-bit mono samples, `(samples,)`, at `sampling_rate` Hz."""
    with wave.open(file, "wb") as writer:
        writer.setnchannels(1)
        writer.setsampwidth(2)
        writer.setframerate(sampling_rate)
        writer.writeframes(samples.tobytes())
