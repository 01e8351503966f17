# Copyright 2026 The LAVCap for Transformers authors. Licensed under the Apache License, Version 2.0.
"""Processor of LAVCap: the released prompt, CED's filter bank, CLIP's pixels, and how many soft tokens a clip has."""

try:  # inside a package: the Hub's module cache
    from .chat_captioning import chat_template
    from .configuration_lavcap import LavcapConfig, modalities_of
    from .feature_extraction_captioning import FilterBankFeatureExtractor
    from .processing_captioning import clip_image_processor, register_processor
    from .prompts_captioning import SoftTokenProcessor, check_vocabulary
except ImportError:  # as a plain module: a clone, or after `pip install`
    from chat_captioning import chat_template
    from configuration_lavcap import LavcapConfig, modalities_of
    from feature_extraction_captioning import FilterBankFeatureExtractor
    from processing_captioning import clip_image_processor, register_processor
    from prompts_captioning import SoftTokenProcessor, check_vocabulary


# Released `models/lavcap.py`: the prompt of training and of captioning.
PROMPT = "USER: <Speech>{av}</Speech> {instruction}\nASSISTANT:"

# The same for messages.
CHAT_TEMPLATE = chat_template(clip='"<Speech>" + av_token + "</Speech> "', end='"\n"', answered='eos_token + "\n"')


class LavcapFeatureExtractor(FilterBankFeatureExtractor):
    """Filter bank of LAVCap with the released settings: 64 mel bands, 10.24 s, the released mean and deviation."""


class LavcapProcessor(SoftTokenProcessor):
    r"""
    [`SoftTokenProcessor`] of LAVCap.

    Args:
        num_audio_tokens (`int`): audio tokens of a window.
        fusion (`str`): `config.fusion` of the model; decides what of a clip is used and the number of soft tokens.
        others: of [`SoftTokenProcessor`].
    """

    config_class = LavcapConfig
    default_prompt = PROMPT
    default_chat_template = CHAT_TEMPLATE

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
        prompt: str = PROMPT,
        instruction: str = "Please describe the audio.",
    ):
        self.num_audio_tokens = num_audio_tokens
        self.fusion = fusion
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
    def from_config(cls, config: LavcapConfig, tokenizer, **kwargs) -> "LavcapProcessor":
        check_vocabulary(config, tokenizer, kwargs.get("av_token", "<av>"))
        audio = config.audio_config
        return cls(
            LavcapFeatureExtractor(feature_size=audio.num_mel_bins, max_frames=audio.max_frames),
            clip_image_processor(config.vision_config.image_size),
            tokenizer,
            num_audio_tokens=config.num_audio_tokens,
            num_video_frames=config.num_video_frames,
            fusion=config.fusion,
            av_token_id=config.av_token_id,
            **kwargs,
        )

    @property
    def modalities(self) -> tuple[str, ...]:
        """What the model takes of a clip: `("audio", "video")`, or one of them for a single-modality baseline."""
        return modalities_of(self.fusion)

    def num_soft_tokens(self, audio: bool, video: bool, video_tokens: int | None = None) -> int:
        video_tokens = self.num_video_frames if video_tokens is None else video_tokens
        if self.fusion == "concat_channel":
            return self.num_audio_tokens
        if self.fusion == "cross_attention":
            return self.num_audio_tokens if audio else video_tokens
        return audio * self.num_audio_tokens + video * video_tokens

    @property
    def _nothing_to_use(self) -> str:
        return super()._nothing_to_use.replace("the model takes", "the model, a baseline on one modality, takes")

    def _refusal(self, argument: str) -> str:
        return (
            f"Got {argument}, but the model is a baseline on {self.modalities[0]} alone (fusion is {self.fusion!r}): "
            "leave them out."
        )


LavcapProcessor.register_for_auto_class()
if __name__ == "processing_lavcap":  # no part of a package: on the Hub the Auto classes go by `auto_map`
    register_processor(LavcapConfig, LavcapProcessor, LavcapFeatureExtractor)

__all__ = ["LavcapFeatureExtractor", "LavcapProcessor"]
