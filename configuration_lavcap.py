# Copyright 2026 The LAVCap for Transformers authors. Licensed under the Apache License, Version 2.0.
"""Configuration of LAVCap: an audio tower, a vision tower, their fusion, and a causal language model."""

import math


try:  # inside a package: the Hub's module cache
    from .configuration_captioning import (
        SoftTokenConfig,
        build_part,
        check_choice,
        check_multiples,
        check_positive,
        check_sizes,
        reject_misspelt,
    )
except ImportError:  # as a plain module: a clone, or after `pip install`
    from configuration_captioning import (
        SoftTokenConfig,
        build_part,
        check_choice,
        check_multiples,
        check_positive,
        check_sizes,
        reject_misspelt,
    )

# After the shared configuration, which has looked at the version.
from transformers import AutoConfig, PreTrainedConfig


SINGLE_MODALITIES = {"audio_only": "audio", "video_only": "video"}
FUSIONS = ("concat_time", "concat_channel", "cross_attention", *SINGLE_MODALITIES)
TRANSPORT_ATTENTIONS = ("none", "joint", "barycentric")
ALIGNMENT_OBJECTIVES = ("tokens", "clips")
ALIGNMENT_WEIGHTS = ("log_plan", "plan")

# What LAVCap was released with, where it differs from the defaults of the classes.
CLIP_VIT_L_14 = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "patch_size": 14,
    "projection_dim": 768,
}
LLAMA_2_7B = {
    "vocab_size": 32001,
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-5,
    "pad_token_id": 32000,
}


class LavcapAudioConfig(PreTrainedConfig):
    r"""
    Configuration of the CED audio transformer (Dinkel et al., "CED: Consistent ensemble distillation for audio
    tagging", arXiv 2308.11957). The defaults are CED-Base as LAVCap uses it.

    Args:
        hidden_size (`int`): width of the transformer.
        intermediate_size (`int`): width of each MLP.
        num_hidden_layers (`int`): number of pre-norm transformer layers.
        num_attention_heads (`int`): attention heads per layer; divides `hidden_size`.
        num_mel_bins (`int`): mel bands of the filter bank; a multiple of `patch_size`.
        max_frames (`int`): longest input in filter-bank frames of 10 ms; a multiple of `patch_size`.
        patch_size (`int`): edge of a square patch, in mel bands and in frames.
        hidden_act (`str`): activation of the MLPs; CED uses the exact GELU.
        layer_norm_eps (`float`): epsilon of every LayerNorm.
        batch_norm_eps (`float`), batch_norm_momentum (`float`): the BatchNorm over the mel bands at the input.
        hidden_dropout (`float`), attention_dropout (`float`): dropout rates in training.
        initializer_range (`float`): standard deviation of freshly initialised weights.
    """

    model_type = "lavcap_audio_model"
    base_config_key = "audio_config"
    attribute_map = {"layer_norm_epsilon": "layer_norm_eps"}

    hidden_size: int = 768
    intermediate_size: int = 3072
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    num_mel_bins: int = 64
    max_frames: int = 1024
    patch_size: int = 16
    hidden_act: str = "gelu"
    layer_norm_eps: float = 1e-6
    batch_norm_eps: float = 1e-5
    batch_norm_momentum: float = 0.01
    hidden_dropout: float = 0.0
    attention_dropout: float = 0.0
    initializer_range: float = 0.02

    def __post_init__(self, **kwargs):
        reject_misspelt(self, kwargs)
        super().__post_init__(**kwargs)
        check_sizes(self, "audio_config.")
        pairs = (("hidden_size", "num_attention_heads"), ("num_mel_bins", "patch_size"), ("max_frames", "patch_size"))
        check_multiples(self, "audio_config.", pairs)

    @property
    def num_frequency_patches(self) -> int:
        """Rows of the patch grid: 4 for CED-Base."""
        return self.num_mel_bins // self.patch_size

    @property
    def num_time_patches(self) -> int:
        """Columns of the patch grid for the whole window: 64 for CED-Base."""
        return self.max_frames // self.patch_size


class LavcapConfig(SoftTokenConfig):
    r"""
    Configuration of [`LavcapForConditionalGeneration`]. Every default is what was released with the paper
    (arXiv 2501.09291); where an option has a textbook alternative, its other value selects it.

    Args:
        audio_config (`LavcapAudioConfig` or `dict`): the audio tower.
        vision_config (`CLIPVisionConfig` or `dict`): the CLIP vision tower; default ViT-L/14.
        has_vision_tower (`bool`): `False` builds no vision tower: the model then takes `video_features` only, and
            `vision_config` tells which tower they come from. Always `False` for `fusion="audio_only"`.
        num_video_frames (`int`): frames sampled from a clip, hence video tokens.
        fusion (`str`): `"concat_time"` puts the audio tokens and then the video tokens in one sequence;
            `"concat_channel"` spreads the video tokens over the audio tokens and joins their channels;
            `"cross_attention"` adds to each audio token what it attends to in the video. `"audio_only"` and
            `"video_only"` are single-modality baselines: tokens as the one tower made them, the other is not built.
        cross_attention_heads (`int`, *optional*): of `fusion="cross_attention"`; divides the audio tower's width.
            Default: heads of 64 channels as released, one head for a width that 64 does not divide.
        optimal_transport (`bool`, *optional*): normalise the tokens, solve for the transport plan and add the
            alignment loss (paper, section 2.2). `False` leaves the tokens as the towers made them. Default: `True`,
            for a single-modality baseline `False`.
        transport_attention (`str`, *optional*): what the plan moves between the modalities (paper, section 2.3).
            `"joint"` uses the plan with total mass 1, as released; `"barycentric"` gives each token a plan that sums
            to 1; `"none"` moves nothing. Default: `"joint"`, without `optimal_transport` `"none"`.
        alignment_objective (`str`): what the alignment loss asks for. `"tokens"`, as released: each token, compared
            with those of its own modality through the plan, recognises itself. `"clips"`: a clip's picture recognises
            its own sound among those of the batch, and its sound the picture, by the value of their transport; see
            `clip_contrast` in `transport_captioning.py`. It wants `exponentiate_logit_scale`: values differ by tenths.
        alignment_weights (`str`): of `"tokens"`: `"log_plan"` weighs similarities with the logarithm of the plan, as
            released; `"plan"` with the plan.
        alignment_loss_weight (`float`): factor of the alignment loss.
        sinkhorn_iterations (`int`), sinkhorn_epsilon (`float`): entropic regularisation of the transport.
        logit_scale_init (`float`), logit_scale_max (`float`): learnable scale of the alignment logits, clamped to
            `[0, logit_scale_max]`.
        exponentiate_logit_scale (`bool`): `True` uses `exp(scale)` as CLIP does; the released code does not.
        frequency_mean (`bool`): average the audio tokens of one time step over frequency.
        token_layer_norm (`bool`): LayerNorm on the tokens of each modality before anything else.
        others: of [`SoftTokenConfig`]; `text_config` defaults to LLaMA-2-7B with `[PAD]`.
    """

    model_type = "lavcap"
    sub_configs = {"audio_config": LavcapAudioConfig, "vision_config": AutoConfig, "text_config": AutoConfig}
    family = "LAVCap"
    feature_names = {"audio": ("input_features",), "video": ("pixel_values_videos", "video_features")}
    default_text = ("llama", LLAMA_2_7B)
    generation_class = "modeling_lavcap.LavcapForConditionalGeneration"

    audio_config: dict | PreTrainedConfig | None = None
    vision_config: dict | PreTrainedConfig | None = None
    has_vision_tower: bool = True
    num_video_frames: int = 20
    fusion: str = "concat_time"
    cross_attention_heads: int | None = None
    optimal_transport: bool | None = None
    transport_attention: str | None = None
    alignment_objective: str = "tokens"
    alignment_weights: str = "log_plan"
    alignment_loss_weight: float = 1.0
    sinkhorn_iterations: int = 50
    sinkhorn_epsilon: float = 0.1
    logit_scale_init: float = math.log(1 / 0.07)
    logit_scale_max: float = 4.6052
    exponentiate_logit_scale: bool = False
    frequency_mean: bool = True
    token_layer_norm: bool = False

    def __post_init__(self, **kwargs):
        self.audio_config = build_part("audio_config", self.audio_config, LavcapAudioConfig, {})
        self.vision_config = build_part("vision_config", self.vision_config, "clip_vision_model", CLIP_VIT_L_14)
        super().__post_init__(**kwargs)
        self._set_dependent_defaults()
        self.check()

    def _set_dependent_defaults(self):
        if self.optimal_transport is None:
            self.optimal_transport = self.single_modality is None
        if self.transport_attention is None:
            self.transport_attention = "joint" if self.optimal_transport else "none"
        if self.single_modality == "audio":
            self.has_vision_tower = False
        if self.cross_attention_heads is None:
            width = self.token_size
            self.cross_attention_heads = width // 64 if width % 64 == 0 else 1

    def check(self):
        super().check()
        check_choice("fusion", self.fusion, FUSIONS)
        check_choice("transport_attention", self.transport_attention, TRANSPORT_ATTENTIONS)
        check_choice("alignment_objective", self.alignment_objective, ALIGNMENT_OBJECTIVES)
        check_choice("alignment_weights", self.alignment_weights, ALIGNMENT_WEIGHTS)
        if self.transport_attention != "none" and not self.optimal_transport:
            raise ValueError(
                f"transport_attention={self.transport_attention!r} moves tokens along a transport plan, but "
                'optimal_transport is False: set optimal_transport=True or transport_attention="none".'
            )
        if self.single_modality and self.optimal_transport:
            raise ValueError(
                f"fusion={self.fusion!r} has one modality, but optimal_transport is True, expected False: there is "
                "nothing to transport to."
            )
        self._check_sizes()

    def _check_sizes(self):
        check_positive(self, "sinkhorn_epsilon")
        if not self.single_modality and self.audio_config.hidden_size != self.vision_config.projection_dim:
            raise ValueError(
                f"audio_config.hidden_size is {self.audio_config.hidden_size} and vision_config.projection_dim is "
                f"{self.vision_config.projection_dim}, expected equal widths: audio and video tokens are compared."
            )
        if self.token_size % self.cross_attention_heads:
            raise ValueError(
                f"cross_attention_heads is {self.cross_attention_heads}, expected a divisor of the width of the "
                f"tokens ({self.token_size})."
            )
        if self.fusion == "concat_channel" and self.num_audio_tokens < self.num_video_frames:
            raise ValueError(
                f"fusion='concat_channel' spreads {self.num_video_frames} video tokens over {self.num_audio_tokens} "
                "audio tokens, expected at least as many audio tokens: lower num_video_frames."
            )

    @property
    def single_modality(self) -> str | None:
        """`"audio"` or `"video"` for a single-modality baseline, else `None`."""
        return SINGLE_MODALITIES.get(self.fusion)

    @property
    def modalities(self) -> tuple[str, ...]:
        """What the model takes of a clip: `("audio", "video")`, or one of them for a single-modality baseline."""
        return modalities_of(self.fusion)

    @property
    def takes_media(self) -> bool:
        """Whether the model can see media; without a vision tower it takes stored `video_features` only."""
        return self.has_vision_tower or "video" not in self.modalities

    def part_origins(self) -> dict[str, str | None]:
        places, origins = self.base_parts or {}, super().part_origins()
        if "audio" in self.modalities:
            origins["audio encoder"] = places.get("audio")
        if "video" in self.modalities:
            origins["image encoder"] = places.get("vision") or self.vision_model_name
        return origins

    @property
    def token_size(self) -> int:
        """Width of audio and video tokens before their fusion."""
        return self.vision_config.projection_dim if self.fusion == "video_only" else self.audio_config.hidden_size

    @property
    def num_audio_tokens(self) -> int:
        """Audio tokens of a whole window after the frequency mean, if there is one."""
        rows = 1 if self.frequency_mean else self.audio_config.num_frequency_patches
        return rows * self.audio_config.num_time_patches


def modalities_of(fusion: str) -> tuple[str, ...]:
    """What a fusion takes of a clip."""
    single = SINGLE_MODALITIES.get(fusion)
    return tuple(LavcapConfig.feature_names) if single is None else (single,)


LavcapAudioConfig.register_for_auto_class()
LavcapConfig.register_for_auto_class()

__all__ = ["LavcapAudioConfig", "LavcapConfig"]
