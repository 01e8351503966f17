# Copyright 2026 The LAVCap for Transformers authors. Licensed under the Apache License, Version 2.0.
"""Processor of LAVCap: clips, prompts and captions in, tensors out. The same one serves training and inference."""

import math
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import BatchFeature, ProcessorMixin, SequenceFeatureExtractor
from transformers.utils import logging


try:  # inside a package: the Hub's module cache
    from .configuration_lavcap import SINGLE_MODALITIES
    from .media_lavcap import IMAGE_SUFFIXES, Clip, even_indices, read_clip, read_images, resample, to_mono
except ImportError:  # as a plain module: a clone, or after `pip install`
    from configuration_lavcap import SINGLE_MODALITIES
    from media_lavcap import IMAGE_SUFFIXES, Clip, even_indices, read_clip, read_images, resample, to_mono


logger = logging.get_logger(__name__)

FRAME_SECONDS = 0.025  # length of an analysis window
HOP_SECONDS = 0.010  # between the starts of two windows
LOW_FREQUENCY = 20.0  # Hz, lower edge of the first mel band; the last one ends at half the sampling rate
PREEMPHASIS = 0.97
LENGTH_TOLERANCE = 0.1  # seconds that a clip may exceed the window without a word: the last packet of a codec
ENERGY_FLOOR = 1.1920928955078125e-07  # smallest float32 step at 1.0, Kaldi's floor before the logarithm


class LavcapFeatureExtractor(SequenceFeatureExtractor):
    r"""
    Kaldi-compatible log-mel filter bank of LAVCap: Hanning windows of 25 ms every 10 ms, no dither, no energy
    (released `dataset.py`; the recipe is that of `torchaudio.compliance.kaldi.fbank` with `htk_compat=True`).

    Args:
        feature_size (`int`): mel bands.
        sampling_rate (`int`): expected rate in Hz.
        padding_value (`float`): log-mel value that fills a clip shorter than the window, before normalisation.
        max_frames (`int`): length of the window in frames of 10 ms; what lies beyond is cut.
        mean (`float`), std (`float`): subtracted from the log-mel, then divided by.
    """

    model_input_names = ["input_features"]

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

    @property
    def window(self) -> float:
        """Longest clip that is heard whole, in seconds."""
        return self.max_frames * HOP_SECONDS

    def log_mel(self, waveform: np.ndarray | torch.Tensor) -> torch.Tensor:
        """Log-mel energies `(frames, mel)`, float32, of mono samples `(samples,)` in [-1, 1]."""
        waveform = torch.as_tensor(waveform, dtype=torch.float32)
        length, hop = round(FRAME_SECONDS * self.sampling_rate), round(HOP_SECONDS * self.sampling_rate)
        waveform = waveform - waveform.mean()
        waveform = torch.nn.functional.pad(waveform, (0, max(0, length - waveform.shape[0])))
        frames = waveform.unfold(0, length, hop)  # (frames, samples of a window)
        frames = frames - frames.mean(dim=1, keepdim=True)
        frames = frames - PREEMPHASIS * torch.cat([frames[:, :1], frames[:, :-1]], dim=1)
        frames = frames * torch.hann_window(length, periodic=False)
        fft_size = 1 << (length - 1).bit_length()
        power = torch.fft.rfft(frames, n=fft_size).abs().square()  # (frames, fft_size / 2 + 1)
        energies = power @ mel_filters(self.feature_size, fft_size, self.sampling_rate)
        return energies.clamp(min=ENERGY_FLOOR).log()

    def __call__(
        self,
        raw_speech: np.ndarray | torch.Tensor | Sequence[np.ndarray | torch.Tensor],
        sampling_rate: int | None = None,
        return_tensors: str | None = "pt",
    ) -> BatchFeature:
        """Features of one or several mono waveforms.

        Args:
            raw_speech: samples in [-1, 1], `(samples,)` each.
            sampling_rate: of the samples in Hz, checked against the extractor's.

        Returns:
            `input_features`, `(batch, max_frames, mel)` float32: padded or cut, then normalised.
        """
        if sampling_rate not in (None, self.sampling_rate):
            raise ValueError(
                f"The waveform has {sampling_rate} Hz, expected {self.sampling_rate} Hz: resample it, or let "
                "LavcapProcessor do so."
            )
        single = getattr(raw_speech, "ndim", None) == 1 or np.isscalar(raw_speech[0])
        waveforms = [raw_speech] if single else raw_speech
        features = torch.stack([self._window(to_mono(_to_numpy(waveform))) for waveform in waveforms])
        return BatchFeature({"input_features": (features - self.mean) / self.std}, tensor_type=return_tensors)

    def _window(self, waveform: np.ndarray | torch.Tensor) -> torch.Tensor:
        if not len(waveform):
            raise ValueError("Got a waveform of 0 samples, expected at least one: pass audio=None for no sound.")
        log_mel = self.log_mel(waveform)[: self.max_frames]
        missing = self.max_frames - log_mel.shape[0]
        return torch.nn.functional.pad(log_mel, (0, 0, 0, missing), value=self.padding_value)


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


class LavcapProcessor(ProcessorMixin):
    r"""
    Turns clips into model inputs: sound into a filter bank, frames into CLIP pixels, prompt and caption into ids,
    with as many placeholders as the fusion will make soft tokens. Text is padded on the left for generation and on
    the right for training.

    Args:
        feature_extractor (`LavcapFeatureExtractor`): for the sound.
        image_processor (`CLIPImageProcessorPil`): for the frames.
        tokenizer (`PreTrainedTokenizerBase`): of the language model; the placeholder is added to it if need be.
        num_audio_tokens (`int`): audio tokens of a window.
        num_video_frames (`int`): frames taken from a clip, evenly spaced.
        fusion (`str`): `config.fusion` of the model; decides what of a clip is used and the number of soft tokens.
        av_token (`str`), av_token_id (`int`, *optional*): the placeholder; the id defaults to the tokenizer's.
        prompt (`str`): template with `{av}` and `{instruction}`.
        instruction (`str`): what is asked when nothing else is.
    """

    def __init__(
        self,
        feature_extractor=None,
        image_processor=None,
        tokenizer=None,
        chat_template: str | None = None,
        num_audio_tokens: int = 64,
        num_video_frames: int = 20,
        fusion: str = "concat_time",
        av_token: str = "<av>",
        av_token_id: int | None = None,
        prompt: str = "USER: <Speech>{av}</Speech> {instruction}\nASSISTANT:",
        instruction: str = "Please describe the audio.",
    ):
        if tokenizer.eos_token_id is None:
            raise ValueError("The tokenizer has no end token, expected eos_token: a caption could not end.")
        tokenizer.add_special_tokens({"extra_special_tokens": [av_token]}, replace_extra_special_tokens=False)
        self.num_audio_tokens = num_audio_tokens
        self.num_video_frames = num_video_frames
        self.fusion = fusion
        self.av_token = av_token
        self.av_token_id = tokenizer.convert_tokens_to_ids(av_token) if av_token_id is None else av_token_id
        self.prompt = prompt
        self.instruction = instruction
        super().__init__(feature_extractor, image_processor, tokenizer, chat_template=chat_template)

    @property
    def pad_token_id(self) -> int:
        """What rows are filled up with, masked: the end token where the tokenizer has none, as LLaMA-2's."""
        pad = self.tokenizer.pad_token_id
        return self.tokenizer.eos_token_id if pad is None else pad

    @classmethod
    def from_config(cls, config, tokenizer, **kwargs) -> "LavcapProcessor":
        """Processor that fits a [`LavcapConfig`]; keywords go to the constructor."""
        # The PIL one does without torchvision.
        from transformers import CLIPImageProcessorPil

        av_token = kwargs.get("av_token", "<av>")
        words = len(tokenizer) - (av_token in tokenizer.get_vocab())
        if words > config.text_config.vocab_size:
            raise ValueError(
                f"The tokenizer has {words} tokens and the language model {config.text_config.vocab_size}, expected "
                "at most as many: take the tokenizer of the language model."
            )
        audio, size = config.audio_config, config.vision_config.image_size
        return cls(
            LavcapFeatureExtractor(feature_size=audio.num_mel_bins, max_frames=audio.max_frames),
            CLIPImageProcessorPil(size={"shortest_edge": size}, crop_size={"height": size, "width": size}),
            tokenizer,
            num_audio_tokens=config.num_audio_tokens,
            num_video_frames=config.num_video_frames,
            fusion=config.fusion,
            av_token_id=config.av_token_id,
            **kwargs,
        )

    @property
    def model_input_names(self) -> list[str]:
        return [
            "input_ids",
            "attention_mask",
            "input_features",
            "pixel_values_videos",
            "video_features",
            "audio_mask",
            "video_mask",
        ]

    def __call__(
        self,
        media: str | Path | Sequence[str | Path] | None = None,
        audio: Any = None,
        videos: Any = None,
        video_features: Any = None,
        text: str | Sequence[str] | None = None,
        captions: str | Sequence[str] | None = None,
        sampling_rate: int | None = None,
        return_tensors: str = "pt",
    ) -> BatchFeature:
        """Prepare one clip or a list of clips.

        Args:
            media: path of a file with sound, picture or both, or of a folder of frames. Or, apart:
            audio: path, samples `(samples,)` or `(channels, samples)`, or `{"array": …, "sampling_rate": …}`.
            videos: path, folder, list of images or of their paths, or array `(video_frames, height, width, 3)`:
                uint8, or floating point in [0, 1]. Channels may come first.
            video_features: projected image embeddings, `(video_frames, hidden)`.
                In a list, `None` stands for a clip that lacks the modality.
            text: instruction, or a whole prompt that holds `av_token` once; default: `instruction`.
            captions: for training: appended to the prompt with an end token; adds `labels`.
            sampling_rate: of `audio` samples in Hz; default: the feature extractor's.

        Returns:
            `input_ids`, `attention_mask` `(batch, sequence)`; `input_features` `(batch, frames, mel)` and
            `pixel_values_videos` `(batch, video_frames, 3, height, width)` or `video_features`; `audio_mask` and
            `video_mask` `(batch,)` when some clip lacks a modality; `labels` `(batch, sequence)` with `captions`.

        Raises:
            MediaError: a file cannot be used.
            ValueError: a clip with neither sound nor picture; numbers of clips, texts or captions that differ.
        """
        if return_tensors != "pt":
            raise ValueError(f"return_tensors is {return_tensors!r}, expected 'pt': the model runs on torch.")
        if media is not None:
            if any(given is not None for given in (audio, videos, video_features)):
                raise ValueError("Got media together with audio, videos or video_features: pass the clip once.")
            clips = [self.load_clip(path) for path in _as_list(media, _is_path)]
            return self.batch([self.clip_features(clip) for clip in clips], text, captions)
        audio = _as_list(audio, _is_single_audio)
        videos = _as_list(videos, _is_single_video)
        video_features = _as_list(video_features, lambda item: getattr(item, "ndim", None) == 2)
        count = max(map(len, (audio, videos, video_features)))
        columns = []
        for name, column in (("audio", audio), ("videos", videos), ("video_features", video_features)):
            if len(column) not in (0, count):
                raise ValueError(
                    f"Got {len(column)} {name} for {count} clips, expected one per clip; use None for gaps."
                )
            columns.append(column or [None] * count)
        given = {"audio": audio, "videos": videos, "video_features": video_features}
        self._check_modalities(name for name, column in given.items() if column)
        features = [self._features(*parts, sampling_rate) for parts in zip(*columns, strict=True)]
        return self.batch(features, text, captions)

    @property
    def modalities(self) -> tuple[str, ...]:
        """What the model takes of a clip: `("audio", "video")`, or one of them for a single-modality baseline."""
        single = SINGLE_MODALITIES.get(self.fusion)
        return ("audio", "video") if single is None else (single,)

    def load_clip(self, path: str | Path, audio: bool = True, video: bool = True) -> Clip:
        """Decode the window of a clip that the model can take; a longer one is cut with a warning.

        A single-modality baseline decodes its modality only.
        """
        extractor = self.feature_extractor
        audio, video = audio and "audio" in self.modalities, video and "video" in self.modalities
        clip = read_clip(path, extractor.sampling_rate, self.num_video_frames, extractor.window, audio, video)
        self._warn_if_long(str(path), clip.duration)
        return clip

    def clip_features(self, clip: Clip) -> dict[str, torch.Tensor]:
        """`input_features` `(frames, mel)` and `pixel_values_videos` `(video_frames, 3, height, width)` of a clip.

        Of what the clip and the model both have.
        """
        features = {}
        if clip.waveform is not None and "audio" in self.modalities:
            features["input_features"] = self.feature_extractor(clip.waveform)["input_features"][0]
        if clip.frames is not None and "video" in self.modalities:
            pixels = self.image_processor(list(clip.frames), return_tensors="pt", input_data_format="channels_last")
            features["pixel_values_videos"] = pixels["pixel_values"]
        return features

    def batch(
        self,
        clips: Sequence[dict[str, torch.Tensor]],
        text: str | Sequence[str] | None = None,
        captions: str | Sequence[str] | None = None,
        audio_mask: Sequence[bool] | None = None,
        video_mask: Sequence[bool] | None = None,
    ) -> BatchFeature:
        """Put clips from [`clip_features`] and their texts into one batch.

        Args:
            clips: features per clip; `video_features` `(video_frames, hidden)` may replace the pixels.
            text, captions: as in the call.
            audio_mask, video_mask: `False` where a clip shall be treated as if it lacked the modality.
        """
        if not clips:
            raise ValueError("Got no clip: pass media, audio, videos or video_features.")
        data: dict[str, torch.Tensor] = {}
        arguments = {"input_features": "audio", "pixel_values_videos": "videos"}
        self._check_modalities(arguments.get(name, name) for clip in clips for name in clip)
        video_name = "video_features" if any("video_features" in clip for clip in clips) else "pixel_values_videos"
        if video_name == "video_features" and any("pixel_values_videos" in clip for clip in clips):
            raise ValueError("Got pixels and video_features in one batch, expected one of them for all clips.")
        heard = self._add_modality(data, clips, "input_features", "audio_mask", audio_mask)
        seen = self._add_modality(data, clips, video_name, "video_mask", video_mask)
        for index, present in enumerate(zip(heard, seen, strict=True)):
            if not any(present):
                raise ValueError(f"Clip {index} has {self._nothing_to_use}")
        frames = data[video_name].shape[1] if video_name in data else 0
        counts = [self.num_soft_tokens(*present, frames) for present in zip(heard, seen, strict=True)]
        data |= self.encode_text(counts, text, captions)
        return BatchFeature(data)

    def num_soft_tokens(self, audio: bool, video: bool, video_tokens: int | None = None) -> int:
        """Placeholders that a clip needs, given which modalities it has."""
        video_tokens = self.num_video_frames if video_tokens is None else video_tokens
        if self.fusion == "concat_channel":
            return self.num_audio_tokens
        if self.fusion == "cross_attention":
            return self.num_audio_tokens if audio else video_tokens
        return audio * self.num_audio_tokens + video * video_tokens

    def encode_text(
        self,
        counts: Sequence[int],
        text: str | Sequence[str] | None = None,
        captions: str | Sequence[str] | None = None,
    ) -> dict[str, torch.Tensor]:
        """Ids of prompts with `counts` placeholders each, and of captions with labels if there are any."""
        prompts = _broadcast("texts", self.instruction if text is None else text, len(counts))
        rows = [self._prompt_ids(prompt, count) for prompt, count in zip(prompts, counts, strict=True)]
        if captions is None:
            ids, mask = self._pad(rows, self.pad_token_id, left=True)
            return {"input_ids": ids, "attention_mask": mask}
        answers = [self._answer_ids(caption) for caption in _broadcast("captions", captions, len(counts))]
        pairs = list(zip(rows, answers, strict=True))
        ids, mask = self._pad([row + answer for row, answer in pairs], self.pad_token_id)
        labels, _ = self._pad([[-100] * len(row) + answer for row, answer in pairs], -100)
        return {"input_ids": ids, "attention_mask": mask, "labels": labels}

    def decode_captions(self, output_ids: torch.Tensor, inputs: BatchFeature | dict | None = None) -> list[str]:
        """Captions from what `generate` returns.

        Args:
            output_ids: `(batch, sequence)`.
            inputs: what was given to `generate`; the prompt is cut off by its length. Default: nothing is cut.
        """
        start = 0 if inputs is None else inputs["input_ids"].shape[1]
        texts = self.tokenizer.batch_decode(output_ids[:, start:], skip_special_tokens=True)
        return [text.strip() for text in texts]

    # ------------------------------------------------------------------------------------------------- internals

    @property
    def _nothing_to_use(self) -> str:
        if len(self.modalities) == 2:
            return "neither sound nor picture: pass at least one."
        missing = "sound" if self.modalities == ("audio",) else "picture"
        return f"no {missing}, and the model, a baseline on one modality, takes nothing else: leave the clip out."

    def _check_modalities(self, arguments: Iterable[str]):
        for name in arguments:
            if len(self.modalities) == 1 and not name.startswith(self.modalities):
                raise ValueError(
                    f"Got {name}, but the model is a baseline on {self.modalities[0]} alone (fusion is "
                    f"{self.fusion!r}): leave them out."
                )

    def _features(self, audio, video, video_features, sampling_rate: int | None) -> dict[str, torch.Tensor]:
        waveform = self._waveform(audio, sampling_rate)
        features = self.clip_features(Clip(waveform, self._frames(video), None))
        if video_features is not None:
            features["video_features"] = torch.as_tensor(video_features, dtype=torch.float32)
        return features

    def _waveform(self, audio, sampling_rate: int | None) -> np.ndarray | None:
        if audio is None:
            return None
        if _is_path(audio):
            return self.load_clip(audio, video=False).waveform
        rate = self.feature_extractor.sampling_rate
        if isinstance(audio, dict):
            audio, sampling_rate = audio["array"], audio["sampling_rate"]
        sampling_rate = rate if sampling_rate is None else sampling_rate
        if sampling_rate <= 0:
            raise ValueError(f"sampling_rate is {sampling_rate}, expected samples per second, such as 44100.")
        waveform = to_mono(_to_numpy(audio))
        self._warn_if_long("audio", len(waveform) / sampling_rate)
        return resample(waveform[: int(self.feature_extractor.window * sampling_rate)], sampling_rate, rate)

    def _frames(self, video) -> np.ndarray | None:
        if video is None:
            return None
        if _is_path(video):
            return self.load_clip(video, audio=False).frames
        if hasattr(video, "convert"):
            video = [video]
        if not len(video):
            raise ValueError("Got a video of 0 frames, expected at least one: pass videos=None for no picture.")
        if _is_path(video[0]):
            return read_images(video, self.num_video_frames)
        frames = [_to_rgb(video[index]) for index in even_indices(len(video), self.num_video_frames)]
        sizes = {frame.shape[:2] for frame in frames}
        if len(sizes) > 1:
            raise ValueError(f"The frames of a video have sizes {sorted(sizes)}, expected one (height, width).")
        return np.stack(frames)

    def _warn_if_long(self, name: str, duration: float | None):
        window = self.feature_extractor.window
        if duration is not None and duration > window + LENGTH_TOLERANCE:
            logger.warning(
                f"{name} lasts {duration:.2f} s, the window is {window:.2f} s: only the first {window:.2f} s are used."
            )

    def _add_modality(self, data: dict, clips, name: str, mask_name: str, mask) -> list[bool]:
        """Stack a modality into `data` if any clip has it, with a mask if not all have; tell which clips have it."""
        present = [name in clip for clip in clips]
        if not any(present):
            return present
        template = clips[present.index(True)][name]
        # A real clip fills the gaps: made-up values would move the statistics of BatchNorm in training.
        data[name] = torch.stack([_same_shape(name, clip.get(name, template), template) for clip in clips])
        if mask is not None:
            present = [there and bool(wanted) for there, wanted in zip(present, mask, strict=True)]
        if not all(present):
            data[mask_name] = torch.tensor(present)
        return present

    def _prompt_ids(self, text: str, count: int) -> list[int]:
        """Ids of a prompt; its parts are encoded each on its own, as the released code does."""
        prompt = text if self.av_token in text else self.prompt.replace("{instruction}", text)
        parts = prompt.replace("{av}", self.av_token).split(self.av_token)
        if len(parts) != 2:
            raise ValueError(
                f"The prompt holds {len(parts) - 1} placeholders {self.av_token}, expected one: {prompt!r}"
            )
        before, after = (self.tokenizer(part, add_special_tokens=False)["input_ids"] for part in parts)
        start = [] if self.tokenizer.bos_token_id is None else [self.tokenizer.bos_token_id]
        return start + before + [self.av_token_id] * count + after

    def _answer_ids(self, caption: str) -> list[int]:
        return self.tokenizer(caption, add_special_tokens=False)["input_ids"] + [self.tokenizer.eos_token_id]

    @staticmethod
    def _pad(rows: list[list[int]], value: int, left: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
        """Rows of one length and their mask, both `(batch, sequence)` int64."""
        length = max(map(len, rows))
        ids = torch.full((len(rows), length), value)
        mask = torch.zeros_like(ids)
        for index, row in enumerate(rows):
            place = slice(length - len(row), None) if left else slice(0, len(row))
            ids[index, place] = torch.tensor(row)
            mask[index, place] = 1
        return ids, mask


def _is_path(item: Any) -> bool:
    return isinstance(item, (str, Path))


def _is_single_audio(item: Any) -> bool:
    if _is_path(item) or isinstance(item, dict) or np.isscalar(item):
        return True
    return hasattr(item, "ndim") or (len(item) > 0 and np.isscalar(item[0]) and not _is_path(item[0]))


def _is_single_video(item: Any) -> bool:
    """One path, one image, one array of frames, or one list of images or their paths; a list of those is a batch."""
    if _is_path(item) or hasattr(item, "convert"):
        return True
    if hasattr(item, "ndim"):
        return item.ndim == 4
    first = next((part for part in item if part is not None), None)
    if _is_path(first):
        return all(_is_path(part) and Path(part).suffix.lower() in IMAGE_SUFFIXES for part in item)
    return hasattr(first, "convert") or getattr(first, "ndim", None) in (2, 3)


def _to_numpy(array: Any) -> np.ndarray:
    """Array of whatever holds numbers: a tensor on any device and of any dtype, a list, an array."""
    if isinstance(array, torch.Tensor):
        array = array.detach().cpu()
        array = array.float() if array.is_floating_point() else array
        return array.numpy()
    return np.asarray(array)


def _to_rgb(image: Any) -> np.ndarray:
    """Image as `(height, width, 3)` uint8: PIL in any mode, or an array, grey or RGB, channels last or first."""
    if hasattr(image, "convert"):
        return np.asarray(image.convert("RGB"))
    array = _to_numpy(image)
    if array.ndim == 3 and array.shape[-1] not in (1, 3) and array.shape[0] in (1, 3):
        array = array.transpose(1, 2, 0)
    array = array[..., None] if array.ndim == 2 else array
    if array.ndim != 3 or array.shape[-1] not in (1, 3):
        raise ValueError(f"A video frame has shape {array.shape}, expected (height, width, 3) RGB.")
    if np.issubdtype(array.dtype, np.floating):
        if array.min() < 0 or array.max() > 1:
            raise ValueError(
                f"A video frame holds values from {array.min():.3g} to {array.max():.3g}, expected floating point in "
                "[0, 1] or uint8 in [0, 255]."
            )
        array = (array * 255).round()
    return np.broadcast_to(array.astype(np.uint8), (*array.shape[:2], 3))


def _as_list(items: Any, is_single) -> list:
    if items is None:
        return []
    return [items] if is_single(items) else list(items)


def _broadcast(name: str, texts: str | Sequence[str], count: int) -> list[str]:
    texts = [texts] * count if isinstance(texts, str) else list(texts)
    if len(texts) != count:
        raise ValueError(f"Got {len(texts)} {name} for {count} clips, expected one per clip or a single one.")
    return texts


def _same_shape(name: str, tensor: torch.Tensor, template: torch.Tensor) -> torch.Tensor:
    if tensor.shape != template.shape:
        raise ValueError(
            f"{name} has shapes {tuple(template.shape)} and {tuple(tensor.shape)} in one batch, expected one shape."
        )
    return tensor


LavcapFeatureExtractor.register_for_auto_class()
LavcapProcessor.register_for_auto_class()

__all__ = ["LavcapFeatureExtractor", "LavcapProcessor"]
