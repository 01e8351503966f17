# Copyright 2026 The LAVCap for Transformers authors. Licensed under the Apache License, Version 2.0.
"""Configuration of AVCap: a joint encoder of sound and picture, and a text decoder that reads its tokens."""

try:  # inside a package: the Hub's module cache
    from .cavmae_captioning import CavMaeConfig
    from .configuration_captioning import CaptioningConfig, build_part, check_choice
    from .git_captioning import GitTextConfig
except ImportError:  # as a plain module: a clone, or after `pip install`
    from cavmae_captioning import CavMaeConfig
    from configuration_captioning import CaptioningConfig, build_part, check_choice
    from git_captioning import GitTextConfig

# After the shared configuration, which has looked at the version.
from transformers import PreTrainedConfig


FRAME_SAMPLINGS = ("consecutive", "even")


class AvcapConfig(CaptioningConfig):
    r"""
    Configuration of [`AvcapForConditionalGeneration`]. Every default is what was released with the paper
    (arXiv 2407.07801), but for the frames of a clip: the paper's 4, where a released checkpoint has 8.

    Args:
        audio_visual_config (`CavMaeConfig` or `dict`): the encoder; its `mode` tells what of a clip is used.
        text_config (`GitTextConfig` or `dict`): the text decoder.
        label_smoothing (`float`): share of the probability that the training's targets give to all other words.
        projector_norm_eps (`float`): epsilon of the projection's LayerNorm.
        frame_sampling (`str`): which frames of a clip are taken. `"consecutive"`, as released: so many of
            `frames_per_clip` that follow each other, those in the middle, and from a random one on in training;
            `"even"`: at even distances.
        frames_per_clip (`int`): evenly spaced frames of a film among which consecutive ones are taken.
        others: of [`CaptioningConfig`].
    """

    model_type = "avcap"
    sub_configs = {"audio_visual_config": CavMaeConfig, "text_config": GitTextConfig}
    family = "AVCap"
    feature_names = {"audio": ("input_features",), "video": ("pixel_values_videos",)}
    generation_class = "modeling_avcap.AvcapForConditionalGeneration"

    audio_visual_config: dict | PreTrainedConfig | None = None
    label_smoothing: float = 0.1
    projector_norm_eps: float = 1e-5
    frame_sampling: str = "consecutive"
    frames_per_clip: int = 20

    def __post_init__(self, **kwargs):
        encoder = {"num_video_frames": 4} if self.audio_visual_config is None else self.audio_visual_config
        self.audio_visual_config = build_part("audio_visual_config", encoder, CavMaeConfig, {})
        self.text_config = build_part("text_config", self.text_config, GitTextConfig, {})
        super().__post_init__(**kwargs)
        self.check()

    def check(self):
        super().check()
        check_choice("frame_sampling", self.frame_sampling, FRAME_SAMPLINGS)
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(f"label_smoothing is {self.label_smoothing}, expected a share from 0 to below 1.")

    @property
    def modalities(self) -> tuple[str, ...]:
        """What the model takes of a clip: `("audio", "video")`, or one of them, by the encoder's `mode`."""
        return self.audio_visual_config.modalities

    def part_origins(self) -> dict[str, str | None]:
        return super().part_origins() | {"audio-visual encoder": (self.base_parts or {}).get("audio_visual")}


AvcapConfig.register_for_auto_class()

__all__ = ["AvcapConfig", "CavMaeConfig", "GitTextConfig"]
