# Copyright 2026 The LAVCap for Transformers authors. Licensed under the Apache License, Version 2.0.
"""Processor of AVCap: 128 mel bands, frames that follow each other, and captions in BERT's words."""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from transformers import BatchFeature


try:  # inside a package: the Hub's module cache
    from .chat_captioning import check_options, clips_of
    from .configuration_avcap import FRAME_SAMPLINGS, AvcapConfig
    from .configuration_captioning import check_choice
    from .feature_extraction_captioning import FilterBankFeatureExtractor
    from .media_captioning import even_indices
    from .options_captioning import take_call_options
    from .processing_captioning import CaptioningProcessor, check_words, imagenet_image_processor, register_processor
    from .text_captioning import TextOptions, broadcast, check_caption, pad_rows
except ImportError:  # as a plain module: a clone, or after `pip install`
    from chat_captioning import check_options, clips_of
    from configuration_avcap import FRAME_SAMPLINGS, AvcapConfig
    from configuration_captioning import check_choice
    from feature_extraction_captioning import FilterBankFeatureExtractor
    from media_captioning import even_indices
    from options_captioning import take_call_options
    from processing_captioning import CaptioningProcessor, check_words, imagenet_image_processor, register_processor
    from text_captioning import TextOptions, broadcast, check_caption, pad_rows


class AvcapFeatureExtractor(FilterBankFeatureExtractor):
    r"""
    Filter bank of AVCap with the released settings: 128 mel bands, 10.24 s, AudioCaps' mean and deviation.

    Args:
        channels (`str`): of several, which are heard: the `"first"`, as released, or their `"mean"`.
        keeps_rate (`bool`): `True`, as released, does not resample: the filters follow the rate of the samples, up to
            its half. The released model expects 16 kHz, so the default resamples to that.
        others: of [`FilterBankFeatureExtractor`].
    """

    def __init__(
        self,
        feature_size: int = 128,
        sampling_rate: int = 16000,
        padding_value: float = 0.0,
        max_frames: int = 1024,
        mean: float = -4.346,
        std: float = 4.332,
        channels: str = "first",
        keeps_rate: bool = False,
        **kwargs,
    ):
        check_choice("channels", channels, ("first", "mean"))
        self.channels = channels
        self.keeps_rate = keeps_rate
        super().__init__(feature_size, sampling_rate, padding_value, max_frames, mean, std, **kwargs)


class AvcapProcessor(CaptioningProcessor):
    r"""
    [`CaptioningProcessor`] of AVCap. There is no prompt: text begins with `[CLS]`, and `text` of the call is how the
    caption begins.

    Args:
        num_video_frames (`int`): frames that the model takes.
        num_audio_tokens (`int`), num_video_tokens (`int`): of a clip.
        modalities_taken (`list[str]`): what the model takes of a clip.
        frame_sampling (`str`), frames_per_clip (`int`): which frames are taken, see [`AvcapConfig`].
        max_caption_tokens (`int`): pieces of a caption that training reads; the rest is cut off.
        others: of [`CaptioningProcessor`].
    """

    config_class: ClassVar[type[AvcapConfig]] = AvcapConfig

    def __init__(
        self,
        feature_extractor=None,
        image_processor=None,
        tokenizer=None,
        chat_template: str | None = None,
        num_video_frames: int = 4,
        num_audio_tokens: int = 512,
        num_video_tokens: int = 392,
        modalities_taken: Sequence[str] = ("audio", "video"),
        frame_sampling: str = "consecutive",
        frames_per_clip: int = 20,
        max_caption_tokens: int = 40,
    ):
        check_choice("frame_sampling", frame_sampling, FRAME_SAMPLINGS)
        if max_caption_tokens < 1:
            raise ValueError(f"max_caption_tokens is {max_caption_tokens}, expected at least 1.")
        for name, ids in (("cls_token", _begin(tokenizer)), ("sep_token", _end(tokenizer))):
            if ids is None:
                raise ValueError(f"The tokenizer has no {name}, expected BERT's, or one that begins and ends a text.")
        self.num_audio_tokens = num_audio_tokens
        self.num_video_tokens = num_video_tokens
        self.modalities_taken = list(modalities_taken)
        self.frame_sampling = frame_sampling
        self.frames_per_clip = frames_per_clip
        self.max_caption_tokens = max_caption_tokens
        super().__init__(feature_extractor, image_processor, tokenizer, chat_template, num_video_frames)

    @classmethod
    def from_config(cls, config: AvcapConfig, tokenizer, **kwargs) -> "AvcapProcessor":
        check_words(config, len(tokenizer))
        encoder = config.audio_visual_config
        return cls(
            AvcapFeatureExtractor(feature_size=encoder.num_mel_bins, max_frames=encoder.max_frames),
            imagenet_image_processor(encoder.image_size),
            tokenizer,
            num_video_frames=encoder.num_video_frames,
            num_audio_tokens=encoder.num_audio_tokens,
            num_video_tokens=encoder.num_video_tokens,
            modalities_taken=encoder.modalities,
            frame_sampling=config.frame_sampling,
            frames_per_clip=config.frames_per_clip,
            **kwargs,
        )

    @property
    def modalities(self) -> tuple[str, ...]:
        """What the model takes of a clip: `("audio", "video")`, or one of them."""
        return tuple(self.modalities_taken)

    @property
    def frame_sampler(self) -> str:
        return f"{self.frame_sampling} of {self.num_candidate_frames}"

    def num_soft_tokens(self, audio: bool, video: bool, video_tokens: int | None = None) -> int:
        return audio * self.num_audio_tokens + video * self.num_video_tokens

    @property
    def num_candidate_frames(self) -> int:
        if self.frame_sampling == "even":
            return self.num_video_frames
        return max(self.frames_per_clip, self.num_video_frames)

    def choose_frames(self, available: int, draw: torch.Generator | None = None) -> list[int]:
        """Numbers of frames that follow each other (released `dataset.py`), where there are enough.

        Of a single one it is the frame after the middle, as released.
        """
        spare = available - self.num_video_frames
        if self.frame_sampling == "even" or spare < 0:
            return even_indices(available, self.num_video_frames)
        if draw is not None:
            start = int(torch.randint(spare + 1, (), generator=draw))
        else:
            start = available // 2 if self.num_video_frames == 1 else spare // 2
        return list(range(start, start + self.num_video_frames))

    def apply_chat_template(
        self,
        conversation: list[dict] | list[list[dict]],
        chat_template: str | None = None,
        tokenize: bool = False,
        return_dict: bool = False,
        return_tensors: str | None = "pt",
        load_audio_from_video: bool = False,
        processor_kwargs: dict[str, Any] | None = None,
        **kwargs,
    ) -> BatchFeature | torch.Tensor:
        """Model inputs of conversations about a clip each, for tools that know no other way: the clip alone counts.

        Args:
            conversation: messages as of other captioners; no words, since this model is asked nothing.
            others: as of [`SoftTokenProcessor.apply_chat_template`].

        Raises:
            ValueError: words, or no clip; or without `tokenize`: there is no prompt.
        """
        if not tokenize:
            raise ValueError("tokenize is False, but AVCap has no prompt that could be returned: pass tokenize=True.")
        conversations = [conversation] if isinstance(conversation[0], dict) else conversation
        for messages in conversations:
            for content in (message.get("content") or [] for message in messages):
                if isinstance(content, str) or any(entry["type"] == "text" for entry in content):
                    raise ValueError("Got words in a conversation, but AVCap is asked nothing: pass the clip alone.")
        clips = [clips_of(messages, load_audio_from_video) for messages in conversations]
        if not all(clips):
            raise ValueError("Got a conversation without a clip, expected an entry of a video, sound or picture.")
        options = take_call_options(self.image_processor, kwargs, return_tensors, processor_kwargs)
        check_options(kwargs, None)
        inputs = self.of_conversations(clips, **options)
        return inputs if return_dict else inputs["input_ids"]

    def encode_text(
        self,
        counts: Sequence[int],
        text: str | Sequence[str] | None = None,
        captions: str | Sequence[str] | None = None,
        **options,
    ) -> dict[str, torch.Tensor]:
        """`[CLS]` and how each caption begins; or the whole of it, with `[SEP]` and labels of what follows `[CLS]`.

        Args:
            text: words that a caption begins with; default: none.
            captions: in place of `text`, cut to `max_caption_tokens` pieces.
            options: fields of `TextOptions`, such as `padding` and `max_length`.
        """
        options, pad = TextOptions(**options), self.pad_token_id
        begin, end = _begin(self.tokenizer), _end(self.tokenizer)
        if text is not None and captions is not None:
            raise ValueError("Got text and captions, expected one of them: text is how a caption begins.")
        begun = captions is None
        words = broadcast("texts" if begun else "captions", (text if begun else captions) or "", len(counts))
        pieces = [self.tokenizer(each, add_special_tokens=False)["input_ids"] for each in words]
        if begun:
            rows = [[begin, *row] for row in pieces]
            ids, mask = pad_rows(rows, pad, options, side="left")
            return {"input_ids": ids, "attention_mask": mask}
        for caption in words:
            check_caption(caption, self.tokenizer.convert_ids_to_tokens(end))
        ends = [[*row[: self.max_caption_tokens], end] for row in pieces]
        ids, mask = pad_rows([[begin, *row] for row in ends], pad, options, side="right")
        labels, _ = pad_rows([[-100, *row] for row in ends], -100, options, side="right")
        return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def _begin(tokenizer) -> int | None:
    """Id that a text begins with: BERT's `[CLS]`, of other tokenizers the first token."""
    return tokenizer.bos_token_id if tokenizer.cls_token_id is None else tokenizer.cls_token_id


def _end(tokenizer) -> int | None:
    """Id that a text ends with: BERT's `[SEP]`, of other tokenizers the end token."""
    return tokenizer.eos_token_id if tokenizer.sep_token_id is None else tokenizer.sep_token_id


AvcapProcessor.register_for_auto_class()
if __name__ == "processing_avcap":  # no part of a package: on the Hub the Auto classes go by `auto_map`
    register_processor(AvcapConfig, AvcapProcessor, AvcapFeatureExtractor)

__all__ = ["AvcapFeatureExtractor", "AvcapProcessor"]
