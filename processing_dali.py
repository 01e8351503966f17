# Copyright 2026 The LAVCap for Transformers authors. Licensed under the Apache License, Version 2.0.
"""Processor of DALI: LLaVA's prompt, 128 mel bands, and pictures padded to squares."""

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

import numpy as np
import torch


try:  # inside a package: the Hub's module cache
    from .chat_captioning import chat_template
    from .configuration_captioning import check_choice
    from .configuration_dali import DaliConfig
    from .feature_extraction_captioning import FilterBankFeatureExtractor
    from .media_captioning import Clip
    from .options_captioning import CallOptions
    from .processing_captioning import clip_image_processor, register_processor
    from .prompts_captioning import SoftTokenProcessor, check_vocabulary
except ImportError:  # as a plain module: a clone, or after `pip install`
    from chat_captioning import chat_template
    from configuration_captioning import check_choice
    from configuration_dali import DaliConfig
    from feature_extraction_captioning import FilterBankFeatureExtractor
    from media_captioning import Clip
    from options_captioning import CallOptions
    from processing_captioning import clip_image_processor, register_processor
    from prompts_captioning import SoftTokenProcessor, check_vocabulary


# Released `eval_captions_AC.py` (template llava_v1), and the training scripts (vicuna_v1), which differ in two places.
SYSTEM = (
    "A chat between a curious {person} and an artificial intelligence assistant. The assistant gives helpful, "
    "detailed, and polite answers to the {person}'s questions. "
)
TURN = "USER: {av}\n{instruction} ASSISTANT:"
PROMPT = SYSTEM.replace("{person}", "human") + TURN
TRAINING_PROMPT = SYSTEM.replace("{person}", "user") + TURN

# The same for messages.
CHAT_TEMPLATE = chat_template(
    clip='av_token + "\n"', end='" "', answered="eos_token", system=SYSTEM.replace("{person}", "human")
)

BACKGROUND = (122, 116, 104)  # CLIP's mean colour, which pictures are padded with to squares


class DaliFeatureExtractor(FilterBankFeatureExtractor):
    r"""
    Filter bank of DALI with the released settings: 128 mel bands, 10.24 s, AudioSet's mean and deviation.

    Args:
        channels (`str`): of several, which are heard: the `"first"`, as released, or their `"mean"`.
        others: of [`FilterBankFeatureExtractor`].
    """

    def __init__(
        self,
        feature_size: int = 128,
        sampling_rate: int = 16000,
        padding_value: float = 0.0,
        max_frames: int = 1024,
        mean: float = -5.081,
        std: float = 4.4849,
        channels: str = "first",
        **kwargs,
    ):
        check_choice("channels", channels, ("first", "mean"))
        self.channels = channels
        super().__init__(feature_size, sampling_rate, padding_value, max_frames, mean, std, **kwargs)


class DaliProcessor(SoftTokenProcessor):
    r"""
    [`SoftTokenProcessor`] of DALI. Of a file with sound and picture it takes the sound alone, unless `film_modalities`
    or the call's `modalities` says otherwise.

    Args:
        num_audio_tokens (`int`), num_video_tokens (`int`), num_prefix_tokens (`int`): soft tokens of a sound, of a
            picture, and of the learned prefix.
        use_prefix (`bool`): as of the model's configuration.
        film_modalities (`list[str]`): what is taken of a file with sound and picture: `"audio"`, `"video"` or both.
        training_prompt (`str`): template of the prompt that stands before a caption in training.
        others: of [`SoftTokenProcessor`].
    """

    config_class: ClassVar[type[DaliConfig]] = DaliConfig
    default_prompt = PROMPT
    default_chat_template = CHAT_TEMPLATE

    def __init__(
        self,
        feature_extractor=None,
        image_processor=None,
        tokenizer=None,
        chat_template: str | None = None,
        num_video_frames: int = 1,
        num_audio_tokens: int = 512,
        num_video_tokens: int = 576,
        num_prefix_tokens: int = 16,
        use_prefix: bool = False,
        film_modalities: Sequence[str] = ("audio",),
        av_token: str = "<av>",
        av_token_id: int | None = None,
        prompt: str = PROMPT,
        training_prompt: str = TRAINING_PROMPT,
        instruction: str = "Describe the sound that can be heard in this scene.",
    ):
        for modality in film_modalities:
            check_choice("film_modalities", modality, tuple(self.config_class.feature_names))
        self.num_audio_tokens = num_audio_tokens
        self.num_video_tokens = num_video_tokens
        self.num_prefix_tokens = num_prefix_tokens
        self.use_prefix = use_prefix
        self.film_modalities = list(film_modalities)
        self.training_prompt = training_prompt
        super().__init__(
            feature_extractor,
            image_processor,
            tokenizer,
            chat_template,
            num_video_frames,
            av_token,
            av_token_id,
            prompt,
            instruction,
        )

    @classmethod
    def from_config(cls, config: DaliConfig, tokenizer, **kwargs) -> "DaliProcessor":
        check_vocabulary(config, tokenizer, kwargs.get("av_token", "<av>"))
        audio = config.audio_config
        return cls(
            DaliFeatureExtractor(feature_size=audio.num_mel_bins, max_frames=audio.max_frames),
            clip_image_processor(config.vision_config.image_size),
            tokenizer,
            **{
                "num_audio_tokens": config.num_audio_tokens,
                "num_video_tokens": config.num_video_tokens,
                "num_prefix_tokens": config.num_prefix_tokens,
                "use_prefix": config.use_prefix,
                "av_token_id": config.av_token_id,
            }
            | kwargs,
        )

    def num_soft_tokens(self, audio: bool, video: bool, video_tokens: int | None = None) -> int:
        frames = self.num_video_frames if video_tokens is None else video_tokens
        tokens = audio * self.num_audio_tokens + video * frames * self.num_video_tokens
        return tokens + (self.num_prefix_tokens if self.use_prefix and tokens else 0)

    def _taken_of(self, clip: Clip, audio: bool | None, video: bool | None, num_frames: int | None = None) -> Clip:
        """By default of a file with sound and picture only `film_modalities` are taken."""
        clip = super()._taken_of(clip, audio, video, num_frames)
        if audio is not None or video is not None or clip.waveform is None or clip.frames is None:
            return clip
        taken = self.film_modalities
        return replace(
            clip,
            waveform=clip.waveform if "audio" in taken else None,
            frames=clip.frames if "video" in taken else None,
        )

    def _template(self, training: bool) -> str:
        return self.training_prompt if training else self.prompt

    def _clip_features(self, clips: Sequence[Clip], options: CallOptions) -> list[dict[str, torch.Tensor]]:
        return super()._clip_features(
            [clip if clip.frames is None else replace(clip, frames=_squares(clip.frames)) for clip in clips], options
        )


def _squares(frames: np.ndarray) -> np.ndarray:
    """Frames in the middle of squares of CLIP's mean colour (released `expand2square`).

    Args:
        frames: `(video_frames, height, width, 3)`, uint8, or floating point in [0, 1].
    """
    number, height, width, _ = frames.shape
    if height == width:
        return frames
    side = max(height, width)
    colour = np.asarray(BACKGROUND, np.float64) / (1 if frames.dtype == np.uint8 else 255)
    squares = np.broadcast_to(colour, (number, side, side, 3)).astype(frames.dtype)
    top, left = (side - height) // 2, (side - width) // 2
    squares[:, top : top + height, left : left + width] = frames
    return squares


DaliProcessor.register_for_auto_class()
if __name__ == "processing_dali":  # no part of a package: on the Hub the Auto classes go by `auto_map`
    register_processor(DaliConfig, DaliProcessor, DaliFeatureExtractor)

__all__ = ["DaliFeatureExtractor", "DaliProcessor"]
