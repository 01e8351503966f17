# Copyright 2026 The LAVCap for Transformers authors. Licensed under the Apache License, Version 2.0.
"""Kaldi's log-mel filter bank in windows of 25 ms every 10 ms, no dither, no energy.

The recipe is that of `torchaudio.compliance.kaldi.fbank` with the settings of the released `dataset.py`. torchaudio
computes it where it is installed and loads; the code here does elsewhere, on a CPU a sound at a time and on other
devices all at once, with equal results on the CPU.
"""

import math
from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np
import torch
from transformers import BatchFeature, SequenceFeatureExtractor


try:  # inside a package: the Hub's module cache
    from .configuration_captioning import check_scales, check_sizes
    from .inputs_captioning import to_numpy
    from .options_captioning import as_batch
    from .sounds_captioning import to_mono
except ImportError:  # as a plain module: a clone, or after `pip install`
    from configuration_captioning import check_scales, check_sizes
    from inputs_captioning import to_numpy
    from options_captioning import as_batch
    from sounds_captioning import to_mono


FRAME_SECONDS = 0.025  # length of an analysis window
HOP_SECONDS = 0.010  # between the starts of two windows
LOW_FREQUENCY = 20.0  # Hz, lower edge of the first mel band; the last one ends at half the sampling rate
PREEMPHASIS = 0.97
FRAMES_AT_A_TIME = 1024  # on a CPU: they stay in its cache, and a sound of any length takes no more memory
ENERGY_FLOOR = 1.1920928955078125e-07  # smallest float32 step at 1.0, Kaldi's floor before the logarithm


class FilterBankFeatureExtractor(SequenceFeatureExtractor):
    r"""
    Kaldi-compatible log-mel filter bank, see [`log_mel`]. The defaults are LAVCap's; a family has its own in a class
    of its own.

    Args:
        feature_size (`int`): mel bands.
        sampling_rate (`int`): expected rate in Hz.
        padding_value (`float`): log-mel value that fills a clip shorter than the window, before normalisation.
        max_frames (`int`): length of the window in frames of 10 ms; what lies beyond is cut.
        mean (`float`), std (`float`): subtracted from the log-mel, then divided by.
    """

    model_input_names = ["input_features"]
    channels: str = "mean"  # of several, which are heard: their `"mean"`, or the `"first"` as Kaldi has it
    keeps_rate: bool = False  # whether filters follow the rate of the samples, which are then not resampled

    def __init__(
        self,
        feature_size: int = 64,
        sampling_rate: int = 16000,
        padding_value: float = 0.0,
        max_frames: int = 1024,
        mean: float = -4.346,
        std: float = 4.332,
        **kwargs,
    ):
        super().__init__(feature_size, sampling_rate, padding_value, **kwargs)
        self.max_frames = max_frames
        self.mean = mean
        self.std = std
        check_sizes(self)
        check_scales(self)

    @property
    def window(self) -> float:
        """Longest clip that is heard whole, in seconds."""
        return self.max_frames * HOP_SECONDS

    def log_mel(self, waveform: np.ndarray | torch.Tensor) -> torch.Tensor:
        """Log-mel energies `(frames, mel)`, float32, of mono samples `(samples,)` in [-1, 1]."""
        return log_mel([torch.as_tensor(waveform, dtype=torch.float32)], self.feature_size, self.sampling_rate)[0]

    def __call__(
        self,
        raw_speech: np.ndarray | torch.Tensor | Sequence[np.ndarray | torch.Tensor],
        sampling_rate: int | None = None,
        return_tensors: str | None = "pt",
        device: str | torch.device | None = None,
    ) -> BatchFeature:
        """Features of one or several mono waveforms.

        Args:
            raw_speech: samples in [-1, 1], `(samples,)` each, of any lengths.
            sampling_rate: of the samples in Hz, checked against the extractor's unless it `keeps_rate`.
            return_tensors: `"pt"`, `"np"`, or `None` for lists.
            device: where the filter bank is computed; default: the CPU.

        Returns:
            `input_features`, `(batch, max_frames, mel)` float32: padded or cut, then normalised.
        """
        if sampling_rate not in (None, self.sampling_rate) and not self.keeps_rate:
            raise ValueError(
                f"The waveform has {sampling_rate} Hz, expected {self.sampling_rate} Hz: resample it, or let "
                "the processor do so."
            )
        single = getattr(raw_speech, "ndim", None) == 1 or (len(raw_speech) > 0 and np.isscalar(raw_speech[0]))
        waveforms = [
            to_mono(to_numpy(waveform), self.channels) for waveform in ([raw_speech] if single else raw_speech)
        ]
        if not waveforms or not all(map(len, waveforms)):
            raise ValueError("Got a waveform of 0 samples, expected at least one: pass audio=None for no sound.")
        waveforms = [torch.from_numpy(waveform).to(device or "cpu") for waveform in waveforms]
        rate = sampling_rate if self.keeps_rate and sampling_rate else self.sampling_rate
        rows = [self._window(row) for row in log_mel(waveforms, self.feature_size, rate)]
        return as_batch({"input_features": (torch.stack(rows) - self.mean) / self.std}, return_tensors)

    def _window(self, rows: torch.Tensor) -> torch.Tensor:
        missing = max(0, self.max_frames - rows.shape[0])
        return torch.nn.functional.pad(rows[: self.max_frames], (0, 0, 0, missing), value=self.padding_value)


def log_mel(waveforms: Sequence[torch.Tensor], num_bands: int, sampling_rate: int) -> list[torch.Tensor]:
    """Log-mel energies of a batch of sounds.

    Args:
        waveforms: mono samples in [-1, 1], `(samples,)` each, of any lengths, float32, all on one device. The mean of
            each is removed; one shorter than a window is filled up with silence.
        num_bands: mel bands.
        sampling_rate: in Hz.

    Returns:
        `(frames, num_bands)` float32 for each sound, on its device.
    """
    length = round(FRAME_SECONDS * sampling_rate)
    waveforms = [waveform - waveform.mean() for waveform in waveforms]
    waveforms = [
        each if each.shape[0] >= length else torch.nn.functional.pad(each, (0, length - each.shape[0]))
        for each in waveforms
    ]
    kaldi = torchaudio_fbank()
    if kaldi is None or waveforms[0].device.type != "cpu":
        return _log_mel(waveforms, num_bands, sampling_rate, length)
    return [
        kaldi(
            waveform[None],
            htk_compat=True,
            sample_frequency=sampling_rate,
            use_energy=False,
            window_type="hanning",
            num_mel_bins=num_bands,
            dither=0.0,
            frame_shift=1000 * HOP_SECONDS,
        )
        for waveform in waveforms
    ]


@lru_cache(maxsize=1)
def torchaudio_fbank() -> Callable[..., torch.Tensor] | None:
    """torchaudio's filter bank; `None` without torchaudio, or with one that does not fit the installed torch."""
    try:
        from torchaudio.compliance.kaldi import fbank
    except (ImportError, OSError, RuntimeError):
        return None
    return fbank


def _log_mel(waveforms: list[torch.Tensor], num_bands: int, sampling_rate: int, length: int) -> list[torch.Tensor]:
    hop, device = round(HOP_SECONDS * sampling_rate), waveforms[0].device
    window = torch.hann_window(length, periodic=False, device=device)
    fft_size = 1 << (length - 1).bit_length()
    filters = mel_filters(num_bands, fft_size, sampling_rate).to(device)
    sounds = [waveform.unfold(0, length, hop) for waveform in waveforms]  # (frames, samples of the window) each
    if device.type == "cpu":
        pieces = (sound.split(FRAMES_AT_A_TIME) for sound in sounds)
        return [torch.cat([_energies(frames, window, filters) for frames in each]) for each in pieces]
    return list(_energies(torch.cat(sounds), window, filters).split([len(sound) for sound in sounds]))


def _energies(frames: torch.Tensor, window: torch.Tensor, filters: torch.Tensor) -> torch.Tensor:
    """Log-mel energies `(…, frames, num_bands)` of `(…, frames, samples of the window)`."""
    frames = frames - frames.mean(dim=-1, keepdim=True)
    emphasised = torch.empty_like(frames)
    torch.sub(frames[..., 1:], frames[..., :-1], alpha=PREEMPHASIS, out=emphasised[..., 1:])
    torch.sub(frames[..., :1], frames[..., :1], alpha=PREEMPHASIS, out=emphasised[..., :1])
    spectrum = torch.fft.rfft(emphasised.mul_(window), n=2 * (filters.shape[0] - 1))
    power = spectrum.real.square() + spectrum.imag.square()  # (…, frames, fft_size / 2 + 1)
    return (power @ filters).clamp_(min=ENERGY_FLOOR).log_()


@lru_cache(maxsize=8)
def mel_filters(num_bands: int, fft_size: int, sampling_rate: int) -> torch.Tensor:
    """Kaldi's triangular filters, equally spaced on the mel scale: `(fft_size / 2 + 1, num_bands)` float32.

    A triangle is straight in mel, not in Hz, and the bin at half the sampling rate belongs to none. Everything is
    rounded to float32 where Kaldi and torchaudio do: at the feet of a triangle, next to a loud tone, it shows.
    """
    low, high = (1127.0 * math.log(1.0 + edge / 700.0) for edge in (LOW_FREQUENCY, sampling_rate / 2))
    step = (high - low) / (num_bands + 1)
    band = torch.arange(num_bands)
    left, centre, right = (low + (band + offset) * step for offset in (0.0, 1.0, 2.0))
    bins = 1127.0 * (1.0 + torch.arange(fft_size // 2) * (sampling_rate / fft_size) / 700.0).log()[:, None]
    filters = torch.minimum((bins - left) / (centre - left), (right - bins) / (right - centre)).clamp(min=0)
    return torch.nn.functional.pad(filters, (0, 0, 0, 1))


FilterBankFeatureExtractor.register_for_auto_class()  # and so of each class that is made of it
