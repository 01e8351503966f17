"""Sounds and films on their way to a model: the filter bank, and decoding."""

import math
import tempfile
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import torch

from feature_extraction_captioning import log_mel
from lavcap.benchmarks.films import write_film
from lavcap.benchmarks.measure import Bench, Cost, Row
from media_captioning import even_indices, read_clip


RATE, BANDS, SECONDS, FRAMES = 16_000, 64, 10, 20
CODECS = {"mp4": ("libx264", "aac"), "webm": ("libvpx", "libopus"), "mkv": ("libx264", "libmp3lame")}


def measure_filter_bank(bench: Bench) -> Iterator[Row]:
    """Log-mel of sounds of 10 s, against Transformers' extractor for AST, whose filters are as many or more."""
    from transformers import ASTFeatureExtractor

    theirs = ASTFeatureExtractor(num_mel_bins=BANDS)
    for batch in (1, 2) if bench.tiny else (1, 16, 64):
        waveforms = [torch.randn(SECONDS * RATE, device=bench.device) for _ in range(batch)]
        arrays = [waveform.cpu().numpy() for waveform in waveforms]
        yield bench.compare(
            "filter_bank",
            f"batch {batch}",
            lambda: log_mel(waveforms, BANDS, RATE),  # noqa: B023 (called at once)
            "ASTFeatureExtractor",
            lambda: theirs(arrays, sampling_rate=RATE, return_tensors="pt"),  # noqa: B023
            _filter_cost(batch),
            per_second={"sounds": batch},
        )


def measure_media(bench: Bench) -> Iterator[Row]:
    """A film of 10 s to its waveform and 20 frames, against decoding every frame to RGB and taking 20 of them."""
    with tempfile.TemporaryDirectory() as folder:
        for container in ("mp4",) if bench.tiny else CODECS:
            path = Path(folder) / f"film.{container}"
            write_film(path, 2 if bench.tiny else SECONDS, *CODECS[container])
            yield bench.compare(
                "media",
                f"{container}, {CODECS[container][0]}",
                lambda: read_clip(path, RATE, FRAMES, SECONDS),  # noqa: B023 (called at once)
                "decode all to RGB, take 20",
                lambda: _decode_all(path),  # noqa: B023
                ("FFmpeg's decoders", lambda: _decode_only(path)),  # noqa: B023
                per_second={"seconds of film": SECONDS},
            )


def _filter_cost(sounds: int) -> Cost:
    """A Fourier transform of real numbers and a product with the bands for each frame; samples in, bands out."""
    frames, size = SECONDS * 100, 2 ** math.ceil(math.log2(RATE / 40))
    operations = frames * (2.5 * size * math.log2(size) + size * BANDS)
    return Cost(sounds * operations, 4 * sounds * (SECONDS * RATE + frames * BANDS), torch.float32)


def _decode_only(path: Path):
    """Every frame of picture and sound, as it comes out of the decoder."""
    with av.open(str(path)) as container:
        container.streams.video[0].thread_type = "AUTO"
        for _ in container.decode(video=0, audio=0):
            pass


def _decode_all(path: Path) -> tuple[np.ndarray, np.ndarray]:
    with av.open(str(path)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    with av.open(str(path)) as container:
        resampler = av.AudioResampler("fltp", "mono", RATE)
        pieces = [piece.to_ndarray() for frame in container.decode(audio=0) for piece in resampler.resample(frame)]
    taken = np.stack([frames[index] for index in even_indices(len(frames), FRAMES)])
    return taken, np.concatenate(pieces, axis=1)
