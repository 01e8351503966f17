# Copyright 2026 The LAVCap for Transformers authors. Licensed under the Apache License, Version 2.0.
"""LAVCap (arXiv 2501.09291): CED audio tokens and CLIP frame tokens, aligned by optimal transport, read by an LLM.

Axes are spelled `batch, frames, mel, audio_tokens, video_tokens, hidden` throughout, and every transport plan is
video by audio: `(batch, video_tokens, audio_tokens)`.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import CLIPVisionModelWithProjection, PreTrainedModel
from transformers.cache_utils import Cache
from transformers.modeling_outputs import BaseModelOutput, BaseModelOutputWithPooling
from transformers.processing_utils import Unpack
from transformers.utils import ModelOutput, TransformersKwargs, can_return_tuple


try:  # inside a package: the Hub's module cache
    from .adapters_captioning import own_fields
    from .ced_captioning import fit_time_positions, read_ced
    from .configuration_lavcap import LavcapAudioConfig, LavcapConfig
    from .language_model_captioning import build_language_model, load_language_model
    from .modeling_captioning import (
        CaptioningOutput,
        SoftTokenModel,
        SoftTokens,
        pack_tokens,
        presence,
        register_family,
    )
    from .parts_captioning import as_dtype, caption_decoding, cast, load_part, location, published_name
    from .precision_captioning import FloatConv2d, FloatLayerNorm, at_least_float32
    from .transport_captioning import alignment_loss, clip_contrast, log_sinkhorn, plan_entropy
    from .vit_captioning import VitAttention, VitLayer
    from .weights_captioning import WeightsError, load_strictly
except ImportError:  # as a plain module: a clone, or after `pip install`
    from adapters_captioning import own_fields
    from ced_captioning import fit_time_positions, read_ced
    from configuration_lavcap import LavcapAudioConfig, LavcapConfig
    from language_model_captioning import build_language_model, load_language_model
    from modeling_captioning import (
        CaptioningOutput,
        SoftTokenModel,
        SoftTokens,
        pack_tokens,
        presence,
        register_family,
    )
    from parts_captioning import as_dtype, caption_decoding, cast, load_part, location, published_name
    from precision_captioning import FloatConv2d, FloatLayerNorm, at_least_float32
    from transport_captioning import alignment_loss, clip_contrast, log_sinkhorn, plan_entropy
    from vit_captioning import VitAttention, VitLayer
    from weights_captioning import WeightsError, load_strictly

# After the configuration, which has looked at the version: an older Transformers lacks them.
from transformers import initialization as init
from transformers.utils.output_capturing import capture_outputs


# Statistics and the scale of the alignment must not lose bits, whatever dtype the rest is loaded in.
KEPT_IN_FLOAT32 = frozenset({"batch_norm", "logit_scale"})

# ------------------------------------------------------------------------------------------------------ audio tower


class LavcapBatchNorm(nn.BatchNorm1d):
    """BatchNorm that keeps its statistics while its weights are frozen.

    An adapter holds no statistics: were they to move under it, what is saved would not be what was trained.
    """

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        # In the dtype of the statistics: DeepSpeed's bfloat16 casts the weights, and not them.
        mean, variance = self.running_mean, self.running_var
        weight, bias = self.weight.to(mean.dtype), self.bias.to(mean.dtype)
        moves = self.training and self.weight.requires_grad
        if moves:
            self.num_batches_tracked.add_(1)
        features = features.to(mean.dtype)
        return nn.functional.batch_norm(features, mean, variance, weight, bias, moves, self.momentum, self.eps)


class LavcapPreTrainedModel(PreTrainedModel):
    config: LavcapConfig
    base_model_prefix = ""
    input_modalities = ("audio", "video", "text")
    supports_gradient_checkpointing = True
    _no_split_modules = ["VitLayer"]
    _skip_keys_device_placement = ["past_key_values"]
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _keep_in_fp32_modules_strict = list(KEPT_IN_FLOAT32)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module):
        super()._init_weights(module)
        if isinstance(module, LavcapAudioModel):
            init.trunc_normal_(module.time_pos_embed, std=self.config.initializer_range)
            init.trunc_normal_(module.freq_pos_embed, std=self.config.initializer_range)
        elif isinstance(module, LavcapFusion) and module.config.optimal_transport:
            init.constant_(module.logit_scale, module.config.logit_scale_init)


class LavcapAudioModel(LavcapPreTrainedModel):
    """CED audio transformer: a ViT over log-mel patches, without class token or tagging head."""

    config: LavcapAudioConfig
    main_input_name = "input_features"
    input_modalities = ("audio",)
    _can_record_outputs = {"hidden_states": VitLayer, "attentions": VitAttention}
    _keep_in_fp32_modules_strict = ["batch_norm"]

    def __init__(self, config: LavcapAudioConfig):
        super().__init__(config)
        width, patch = config.hidden_size, config.patch_size
        self.batch_norm = LavcapBatchNorm(
            config.num_mel_bins, eps=config.batch_norm_eps, momentum=config.batch_norm_momentum
        )
        self.patch_embed = FloatConv2d(1, width, kernel_size=patch, stride=patch)
        self.time_pos_embed = nn.Parameter(torch.zeros(1, width, 1, config.num_time_patches))
        self.freq_pos_embed = nn.Parameter(torch.zeros(1, width, config.num_frequency_patches, 1))
        self.layers = nn.ModuleList(VitLayer(config) for _ in range(config.num_hidden_layers))
        self.layer_norm = FloatLayerNorm(width, eps=config.layer_norm_eps)
        self.gradient_checkpointing = False
        self.post_init()

    @classmethod
    def from_ced(cls, path: str | Path, **fields) -> "LavcapAudioModel":
        """Audio tower with the weights of CED.

        Args:
            path: CED's own file, a folder with its weights or with a saved audio tower, or a name on the Hub such as
                `mispeech/ced-base`.
            fields: of [`LavcapAudioConfig`], where they shall differ from what the file tells: `max_frames` for
                another window, to which the time positions are cut or interpolated.

        Raises:
            WeightsError: unreadable, unsafe, or not the weights of CED.
        """
        weights, told = read_ced(path, LavcapAudioConfig.model_type)
        try:
            fields = told | dict(fields)
            if "num_attention_heads" not in fields:
                raise WeightsError("its width does not tell the attention heads; pass num_attention_heads.")
            config = LavcapAudioConfig(**fields)
            weights["time_pos_embed"] = fit_time_positions(weights["time_pos_embed"], config.num_time_patches)
            with torch.device("meta"):
                model = cls._from_config(config)
            load_strictly(model, weights)
            cast(model, model.dtype, KEPT_IN_FLOAT32)  # the statistics go up to float32
        except WeightsError as error:
            raise error.of(path) from error
        return model.eval()

    def get_input_embeddings(self) -> nn.Module:
        return self.patch_embed

    @capture_outputs(tie_last_hidden_states=False)
    def forward(self, input_features: torch.Tensor, **kwargs: Unpack[TransformersKwargs]) -> BaseModelOutput:
        """Encode a filter bank.

        Args:
            input_features: normalised log-mel, `(batch, frames, mel)`, at most `max_frames` frames.

        Returns:
            `last_hidden_state` of shape `(batch, audio_tokens, hidden)`, in float32 or better; tokens run through time
            within each of the frequency rows, low frequencies first.
        """
        self._check_input(input_features)
        # float32, as loaded; a model that was cast as a whole goes on in its own dtype
        features = input_features.to(self.batch_norm.running_mean.dtype)
        hidden_states = self.batch_norm(features.transpose(1, 2))  # (batch, mel, frames)
        hidden_states = at_least_float32(self.patch_embed(hidden_states.unsqueeze(1)))
        hidden_states = hidden_states + self.time_pos_embed[..., : hidden_states.shape[-1]] + self.freq_pos_embed
        hidden_states = hidden_states.flatten(2).transpose(1, 2)  # (batch, audio_tokens, hidden)
        for layer in self.layers:
            hidden_states = layer(hidden_states, **kwargs)
        return BaseModelOutput(last_hidden_state=self.layer_norm(hidden_states))

    def _check_input(self, input_features: torch.Tensor):
        config = self.config
        if input_features.ndim != 3 or input_features.shape[-1] != config.num_mel_bins:
            raise ValueError(
                f"input_features has shape {tuple(input_features.shape)}, expected (batch, frames, "
                f"{config.num_mel_bins}): log-mel features as LavcapFeatureExtractor makes them."
            )
        if not config.patch_size <= input_features.shape[1] <= config.max_frames:
            raise ValueError(
                f"input_features has {input_features.shape[1]} frames, expected {config.patch_size} to "
                f"{config.max_frames}: cut longer audio into windows."
            )


# ----------------------------------------------------------------------------------------------------------- fusion


@dataclass
class LavcapFusionOutput(ModelOutput):
    """Fused tokens of a batch.

    Args:
        tokens (`torch.FloatTensor` of shape `(batch, soft_tokens, hidden)`): tokens of each clip from the left; what
            lies beyond `counts` is filler.
        counts (`torch.LongTensor` of shape `(batch,)`): how many tokens each clip has.
        alignment_loss (`torch.FloatTensor` of shape `()`): weighted mean over the clips that have both modalities and,
            where clips are compared with each other, another one that has.
        num_aligned_clips (`torch.LongTensor` of shape `()`): the number of those clips.
        transport_plan (`torch.FloatTensor` of shape `(batch, video_tokens, audio_tokens)`): float32, total mass 1;
            zero for a clip that lacks a modality.
    """

    tokens: torch.Tensor | None = None
    counts: torch.Tensor | None = None
    alignment_loss: torch.Tensor | None = None
    num_aligned_clips: torch.Tensor | None = None
    transport_plan: torch.Tensor | None = None


class LavcapFusion(nn.Module):
    """Alignment of audio and video tokens by optimal transport, and their fusion into one sequence."""

    def __init__(self, config: LavcapConfig):
        super().__init__()
        self.config = config
        width = config.token_size
        # Only what the fusion uses: a parameter without gradient stops plain data parallelism.
        if config.optimal_transport:
            self.logit_scale = nn.Parameter(torch.full((1,), float(config.logit_scale_init)))
        if config.token_layer_norm and config.single_modality != "video":
            self.audio_layer_norm = FloatLayerNorm(width)
        if config.token_layer_norm and config.single_modality != "audio":
            self.video_layer_norm = FloatLayerNorm(width)
        if config.fusion == "cross_attention":
            self.cross_attention = nn.MultiheadAttention(width, config.cross_attention_heads, batch_first=True)

    @property
    def output_size(self) -> int:
        """Width of the fused tokens."""
        return self.config.token_size * (2 if self.config.fusion == "concat_channel" else 1)

    def forward(
        self,
        audio: torch.Tensor | None,
        video: torch.Tensor | None,
        audio_mask: torch.Tensor | None = None,
        video_mask: torch.Tensor | None = None,
    ) -> LavcapFusionOutput:
        """Fuse the tokens of both modalities; either may be missing, from the batch or from single clips.

        Args:
            audio: tokens of the audio tower, `(batch, rows * time, hidden)` with `rows` frequency rows.
            video: frame features, `(batch, video_tokens, hidden)`.
            audio_mask, video_mask: `(batch,)` bool, whether a clip has the modality; default: every clip has.
        """
        if audio is not None:
            audio = self._prepare_audio(at_least_float32(audio))
        if video is not None:
            video = self.video_layer_norm(video) if self.config.token_layer_norm else at_least_float32(video)
        if self.config.optimal_transport:
            audio, video = _unit_length(audio), _unit_length(video)
        if audio is None or video is None:
            return self._single_modality(audio, video, audio_mask, video_mask)
        video = video.to(audio.dtype)
        all_heard = audio_mask is None
        audio_mask, video_mask = presence(audio_mask, audio), presence(video_mask, video)
        output = LavcapFusionOutput()
        if self.config.optimal_transport:
            with torch.autocast(device_type=audio.device.type, enabled=False):
                audio, video = self._transport(audio, video, audio_mask & video_mask, output)
        output.tokens, output.counts = self._combine(audio, video, audio_mask, video_mask, all_heard)
        return output

    def _prepare_audio(self, audio: torch.Tensor) -> torch.Tensor:
        if self.config.token_layer_norm:
            audio = self.audio_layer_norm(audio)
        if self.config.frequency_mean:
            audio = audio.unflatten(1, (self.config.audio_config.num_frequency_patches, -1)).mean(dim=1)
        return audio

    def _transport(
        self, audio: torch.Tensor, video: torch.Tensor, both: torch.Tensor, output: LavcapFusionOutput
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Solve for the plan, write it and the loss into `output`, and move tokens along it. All in float32."""
        similarity = video @ audio.transpose(1, 2)  # (batch, video_tokens, audio_tokens)
        log_plan = log_sinkhorn(similarity.detach(), self.config.sinkhorn_epsilon, self.config.sinkhorn_iterations)
        plan = log_plan.exp() * both[:, None, None]
        if self.config.alignment_objective == "clips":
            options = self.config.sinkhorn_epsilon, self.config.sinkhorn_iterations
            per_clip = clip_contrast(audio, video, both, self._alignment_scale(), *options)
        else:
            weights = log_plan if self.config.alignment_weights == "log_plan" else plan
            per_clip = torch.where(both, alignment_loss(similarity, weights, self._alignment_scale()), 0.0)
        output.num_aligned_clips = _aligned_clips(self.config, both).sum()
        mean = per_clip.sum() / output.num_aligned_clips.clamp(min=1)
        output.alignment_loss = self.config.alignment_loss_weight * mean
        output.transport_plan = plan
        if self.config.transport_attention == "none":
            return audio, video
        to_audio, to_video = plan.transpose(1, 2), plan
        if self.config.transport_attention == "barycentric":
            to_audio, to_video = _rows_to_one(to_audio), _rows_to_one(to_video)
        # One kernel each: of a sum, what is added to would be written once more.
        return torch.baddbmm(audio, to_audio, video), torch.baddbmm(video, to_video, audio)

    def _alignment_scale(self) -> torch.Tensor:
        scale = self.logit_scale.float()
        # The value is clamped, the gradient is not: a scale pushed over its limit can come back.
        scale = scale + (scale.clamp(0.0, self.config.logit_scale_max) - scale).detach()
        return scale.exp() if self.config.exponentiate_logit_scale else scale

    def _combine(
        self,
        audio: torch.Tensor,
        video: torch.Tensor,
        audio_mask: torch.Tensor,
        video_mask: torch.Tensor,
        all_heard: bool,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if self.config.fusion == "concat_time":
            return pack_tokens((audio, audio_mask), (video, video_mask))
        if self.config.fusion == "concat_channel":
            spread = self._spread(video, audio.shape[1]) * video_mask[:, None, None]
            tokens = torch.cat([audio * audio_mask[:, None, None], spread], dim=-1)
            return pack_tokens((tokens, audio_mask | video_mask))
        dtype = self.cross_attention.in_proj_weight.dtype
        attended, _ = self.cross_attention(audio.to(dtype), video.to(dtype), video.to(dtype), need_weights=False)
        audio = audio + attended * video_mask[:, None, None]
        if all_heard:
            return pack_tokens((audio, audio_mask))
        # A clip without sound has nothing to attend from: its video tokens go on.
        return pack_tokens((audio, audio_mask), (video, video_mask & ~audio_mask))

    def _single_modality(self, audio, video, audio_mask, video_mask) -> LavcapFusionOutput:
        tokens, mask = (audio, audio_mask) if video is None else (video, video_mask)
        if self.config.fusion == "concat_channel" and video is None:
            tokens = torch.cat([tokens, torch.zeros_like(tokens)], dim=-1)
        elif self.config.fusion == "concat_channel":
            tokens = self._spread(tokens, self.config.num_audio_tokens)
            tokens = torch.cat([torch.zeros_like(tokens), tokens], dim=-1)
        tokens, counts = pack_tokens((tokens, presence(mask, tokens)))
        return LavcapFusionOutput(tokens=tokens, counts=counts)

    @staticmethod
    def _spread(video: torch.Tensor, length: int) -> torch.Tensor:
        """Put video token `j` at position `j * (length // video_tokens)` of `length`, zeros elsewhere."""
        batch, video_tokens, hidden = video.shape
        gap = length // video_tokens
        if gap == 0:
            raise ValueError(f"Got {video_tokens} video tokens for {length} audio tokens, expected at most {length}.")
        spread = video.new_zeros(batch, length, hidden)
        spread[:, : gap * video_tokens : gap] = video
        return spread


def _unit_length(tokens: torch.Tensor | None) -> torch.Tensor | None:
    return None if tokens is None else nn.functional.normalize(tokens, dim=-1)


def _aligned_clips(config: LavcapConfig, both: torch.Tensor) -> torch.Tensor:
    """Which clips the alignment loss counts, `(batch,)` bool: those with both modalities. Of one alone there is
    nothing that a contrast between clips could say."""
    return both & (both.sum() > 1) if config.alignment_objective == "clips" else both


def _rows_to_one(plan: torch.Tensor) -> torch.Tensor:
    return plan / plan.sum(dim=-1, keepdim=True).clamp(min=torch.finfo(plan.dtype).tiny)


# ------------------------------------------------------------------------------------------------------------ model


@dataclass
class LavcapSoftTokens(SoftTokens):
    """Soft tokens with what the alignment of their clips gave.

    Args:
        alignment_loss (`torch.FloatTensor` of shape `()`, *optional*): see [`LavcapFusionOutput`].
        transport_plan (`torch.FloatTensor` of shape `(batch, video_tokens, audio_tokens)`, *optional*).
    """

    alignment_loss: torch.Tensor | None = None
    transport_plan: torch.Tensor | None = None


@dataclass
class LavcapCausalLMOutputWithPast(CaptioningOutput):
    """Output of [`LavcapForConditionalGeneration`]; hidden states and attentions of the towers are in the outputs of
    `get_audio_features` and `get_video_features`.

    Args:
        alignment_loss (`torch.FloatTensor` of shape `()`): weighted alignment loss; only when a clip of the batch
            has both modalities and `optimal_transport` is on.
        transport_plan (`torch.FloatTensor` of shape `(batch, video_tokens, audio_tokens)`): float32, total mass 1.
    """

    alignment_loss: torch.Tensor | None = None
    transport_plan: torch.Tensor | None = None


class LavcapForConditionalGeneration(SoftTokenModel, LavcapPreTrainedModel):
    """LAVCap: describes what can be heard in a clip, from its sound and its frames."""

    config: LavcapConfig
    output_class = LavcapCausalLMOutputWithPast
    clip_outputs = ("alignment_loss", "transport_plan")
    part_names = ("audio_tower", "vision_tower", "fusion", "multi_modal_projector", "language_model")
    fresh_part_names = ("multi_modal_projector", "fusion")
    loss_terms = {"caption_loss": "tokens", "alignment_loss": "clips"}
    resume_fields = (
        "fusion",
        "optimal_transport",
        "token_layer_norm",
        "frequency_mean",
        "transport_attention",
        "alignment_objective",
    )
    feature_encoder_name = "vision_tower"

    def __init__(self, config: LavcapConfig):
        super().__init__(config)
        self.audio_tower = self.vision_tower = None
        if config.single_modality != "video":
            self.audio_tower = LavcapAudioModel._from_config(config.audio_config)
        if config.has_vision_tower:
            self.vision_tower = CLIPVisionModelWithProjection._from_config(config.vision_config)
        self.fusion = LavcapFusion(config)
        # OPT-350m embeds its words in fewer channels than it computes in.
        text_width = getattr(config.text_config, "word_embed_proj_dim", config.text_config.hidden_size)
        self.multi_modal_projector = nn.Linear(self.fusion.output_size, text_width)
        # The whole causal LM, not its body and a head of ours: some heads have biases, scales or soft caps.
        self.language_model = build_language_model(config.text_config)
        self.post_init()
        # CLIP names layers of its text encoder, too, and FSDP refuses to look for layers in vain.
        present = {type(module).__name__ for module in self.modules()}
        self._no_split_modules = present.intersection(self._no_split_modules)

    @classmethod
    def from_parts(
        cls,
        *,
        text: str | Path | PreTrainedModel,
        audio: str | Path | LavcapAudioModel | None = None,
        vision: str | Path | PreTrainedModel | None = None,
        dtype: torch.dtype | str | None = None,
        attn_implementation: str | dict[str, str] | None = None,
        device_map: str | dict | None = None,
        quantization_config: Any = None,
        **options,
    ) -> "LavcapForConditionalGeneration":
        """Assemble a model of pretrained parts; the fusion and the projection are fresh, for training.

        Args:
            text: causal language model. As the other parts: name on the Hub, folder, or the loaded model.
            audio: CED, as [`LavcapAudioModel.from_ced`] takes it; only the baseline `fusion="video_only"` does
                without.
            vision: CLIP. Default: no vision tower, the model takes `video_features`.
            dtype: of all parts. Default: that of the language model's weights.
            attn_implementation: as of `from_pretrained`, of all parts or of each.
            device_map, quantization_config: of the language model, as of `from_pretrained`; the other parts stand on
                its first device, and are never quantised.
            options: of [`LavcapConfig`]; `audio_config` may hold fields such as `max_frames` for CED's file.

        Raises:
            WeightsError: a part lacks weights, or the audio part holds none of CED.
            ValueError: parts that do not fit each other or the options.
        """
        _check_parts(options, audio, vision)
        dtype = as_dtype(dtype)
        if isinstance(text, nn.Module) and dtype not in (None, text.dtype):
            raise ValueError(
                f"dtype is {dtype}, but the loaded language model is {text.dtype}: load it in that dtype."
            )
        loading = {"device_map": device_map, "quantization_config": quantization_config}
        loading = {name: value for name, value in loading.items() if value is not None}
        language_model = load_language_model(text, dtype or "auto", **loading)
        dtype = dtype or language_model.dtype
        parts = {}
        if audio is not None:
            fields, loaded = options.pop("audio_config", {}), isinstance(audio, nn.Module)
            parts["audio_tower"] = audio if loaded else LavcapAudioModel.from_ced(audio, **fields)
        if vision is not None:
            parts["vision_tower"] = load_part(CLIPVisionModelWithProjection, vision, dtype)
        elif audio is not None and parts["audio_tower"].config.hidden_size != 768:  # not CLIP ViT-L/14's
            options.setdefault("vision_config", {"projection_dim": parts["audio_tower"].config.hidden_size})
        fields = {name.replace("tower", "config"): part.config for name, part in parts.items()}
        fields |= {"text_config": language_model.config, "has_vision_tower": vision is not None}
        names = {"text_model_name": published_name(text), "vision_model_name": vision and published_name(vision)}
        base_parts = {"text": location(text), "audio": location(audio), "vision": location(vision)}
        config = LavcapConfig(**(names | options | fields), base_parts=base_parts)
        with torch.device("meta"):
            model = cls(config)
        for name in ("fusion", "multi_modal_projector"):
            parts[name] = getattr(model, name).to_empty(device=language_model.device).apply(model._init_weights)
        for name, part in parts.items():
            part = cast(part, dtype, KEPT_IN_FLOAT32)
            setattr(model, name, part.to(language_model.device))
        model.language_model = language_model
        model.generation_config = caption_decoding(language_model.generation_config, **cls.decoding)
        if attn_implementation is not None:
            model.set_attn_implementation(attn_implementation)
        return model.eval()

    @classmethod
    def assembly_options(cls, config: LavcapConfig, has_vision: bool) -> dict[str, Any]:
        options = super().assembly_options(config, has_vision)
        tower = config.audio_config
        options["audio_config"] = {name: getattr(tower, name) for name in sorted(own_fields(tower))}
        options.pop("has_vision_tower")
        return options

    @property
    def stored_feature_size(self) -> int | None:
        return self.config.vision_config.projection_dim if "video" in self.modalities else None

    @property
    def least_batch_size(self) -> int:
        return 2 if self.config.optimal_transport and self.config.alignment_objective == "clips" else 1

    def counted_clips(self, batch: Mapping[str, Any]) -> torch.Tensor:
        """Those with sound and picture; where clips are compared, another of the batch has them, too."""
        return _aligned_clips(self.config, self.shows(batch, "audio") & self.shows(batch, "video"))

    def statistics(self, output: Mapping[str, Any]) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
        """Entropy of the transport plans, in nats and as a share of an even plan's."""
        plan = output.get("transport_plan")
        if plan is None:
            return {}
        entropy, number = plan_entropy(plan.detach())
        largest = math.log(plan.shape[-1] * plan.shape[-2])
        return {"plan_entropy": (entropy, number), "relative_plan_entropy": (entropy / largest, number)}

    def get_alignment(self, **features: torch.Tensor | None) -> torch.Tensor | None:
        """The transport plan, `(batch, video_tokens, audio_tokens)` float32; `None` without optimal transport."""
        return self.get_soft_tokens(**features).transport_plan

    @can_return_tuple
    def get_audio_features(
        self, input_features: torch.Tensor, **kwargs: Unpack[TransformersKwargs]
    ) -> BaseModelOutputWithPooling:
        """Tokens of the audio tower.

        Args:
            input_features: normalised log-mel, `(batch, frames, mel)`, float32.
            kwargs: `output_hidden_states`, `output_attentions`, `return_dict`.

        Returns:
            `pooler_output`, which is `last_hidden_state`: `(batch, audio_tokens, hidden)`, float32 or better;
            `hidden_states`, `attentions` of the tower where asked for.
        """
        if self.audio_tower is None:
            raise ValueError(
                "Got input_features, but this model has no audio tower: it is a baseline on video alone "
                f"(config.fusion is {self.config.fusion!r})."
            )
        output = self.audio_tower(input_features, **kwargs | {"return_dict": True})
        return BaseModelOutputWithPooling(
            last_hidden_state=output.last_hidden_state,
            pooler_output=output.last_hidden_state,
            hidden_states=output.hidden_states,
            attentions=output.attentions,
        )

    @can_return_tuple
    def get_video_features(
        self, pixel_values_videos: torch.Tensor, **kwargs: Unpack[TransformersKwargs]
    ) -> BaseModelOutputWithPooling:
        """Projected CLIP image embedding of each frame.

        Args:
            pixel_values_videos: `(batch, video_frames, 3, height, width)`, normalised as CLIP expects.
            kwargs: `output_hidden_states`, `output_attentions`, `return_dict`.

        Returns:
            `pooler_output`, `(batch, video_frames, hidden)`; and of the tower, where the patches of all frames of a
            clip stand in one sequence, `last_hidden_state`, and `hidden_states`, `attentions` where asked for, with
            `batch * video_frames` rows.
        """
        if self.vision_tower is None:
            raise ValueError(
                "Got pixel_values_videos, but this model has no vision tower (config.has_vision_tower is False): "
                "pass video_features of shape (batch, video_frames, hidden)."
            )
        if pixel_values_videos.ndim != 5:
            raise ValueError(
                f"pixel_values_videos has shape {tuple(pixel_values_videos.shape)}, expected "
                "(batch, video_frames, 3, height, width)."
            )
        output = self.vision_tower(pixel_values_videos.flatten(0, 1), **kwargs | {"return_dict": True})
        clips = pixel_values_videos.shape[:2]
        return BaseModelOutputWithPooling(
            last_hidden_state=output.last_hidden_state.unflatten(0, clips).flatten(1, 2),
            pooler_output=output.image_embeds.unflatten(0, clips),
            hidden_states=output.hidden_states,
            attentions=output.attentions,
        )

    def get_soft_tokens(
        self,
        input_features: torch.Tensor | None = None,
        pixel_values_videos: torch.Tensor | None = None,
        video_features: torch.Tensor | None = None,
        audio_mask: torch.Tensor | None = None,
        video_mask: torch.Tensor | None = None,
    ) -> LavcapSoftTokens:
        """Encode, align, fuse and project a batch of clips. Arguments as in [`forward`]."""
        if pixel_values_videos is not None and video_features is not None:
            raise ValueError("Got both pixel_values_videos and video_features, expected one: they are the same clip.")
        self._check_modality("audio", input_features)
        self._check_modality("video", pixel_values_videos, video_features)
        audio, video = None, video_features
        if input_features is not None:
            audio = self.get_audio_features(input_features, return_dict=True).pooler_output
        if pixel_values_videos is not None:
            video = self.get_video_features(pixel_values_videos, return_dict=True).pooler_output
        if audio is None and video is None:
            raise ValueError("Got neither sound (input_features) nor picture (pixel_values_videos or video_features).")
        if video is not None:
            self._check_video(video)
        fused = self.fusion(audio, video, audio_mask, video_mask)
        return LavcapSoftTokens(
            soft_tokens=self.multi_modal_projector(fused.tokens.to(self.multi_modal_projector.weight.dtype)),
            soft_token_counts=fused.counts,
            num_counted_clips=fused.num_aligned_clips,
            alignment_loss=fused.alignment_loss,
            transport_plan=fused.transport_plan,
        )

    def _check_modality(self, modality: str, *features: torch.Tensor | None):
        only = self.config.single_modality
        if only not in (None, modality) and any(feature is not None for feature in features):
            raise ValueError(
                f"Got features of the {modality}, but this model is a baseline on {only} alone (config.fusion is "
                f"{self.config.fusion!r}): leave them out."
            )

    def _check_video(self, video: torch.Tensor):
        width = self.config.vision_config.projection_dim
        if video.ndim != 3 or video.shape[-1] != width:
            raise ValueError(
                f"video_features has shape {tuple(video.shape)}, expected (batch, video_frames, {width}): one "
                "projected image embedding per frame."
            )

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        input_features: torch.Tensor | None = None,
        pixel_values_videos: torch.Tensor | None = None,
        video_features: torch.Tensor | None = None,
        audio_mask: torch.Tensor | None = None,
        video_mask: torch.Tensor | None = None,
        soft_tokens: torch.Tensor | None = None,
        soft_token_counts: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.LongTensor | None = None,
        num_items_in_batch: torch.Tensor | int | None = None,
        num_clips_in_batch: torch.Tensor | int | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        **kwargs: Unpack[TransformersKwargs],
    ) -> LavcapCausalLMOutputWithPast:
        """Predict the caption.

        Args:
            input_ids: `(batch, sequence)`; the clip's soft tokens stand where it is `config.av_token_id`. Without a
                clip that id is text like any other if the vocabulary has it, and an error by default, as it has not.
            attention_mask: `(batch, sequence)`, 0 at padding.
            input_features: normalised log-mel, `(batch, frames, mel)`, float32.
            pixel_values_videos: frames for CLIP, `(batch, video_frames, 3, height, width)`; or
            video_features: projected image embeddings of the frames, `(batch, video_frames, hidden)`.
            audio_mask, video_mask: `(batch,)` bool, whether a clip has sound, picture; default: all have.
            soft_tokens, soft_token_counts: result of [`get_soft_tokens`] in place of the clips themselves.
            labels: `(batch, sequence)`, -100 outside the caption and its end token.
            inputs_embeds: `(batch, sequence, text_hidden)` in place of `input_ids`; a clip's soft tokens stand where
                it is the embedding of `config.av_token_id`.
            num_items_in_batch: label tokens of all micro-batches of an optimiser step, by which the summed caption
                loss is divided in place of those of this micro-batch.
            num_clips_in_batch: of the same micro-batches the clips with sound and picture, by which the summed
                alignment loss is divided. Default: it is weighed by this micro-batch's share of the label tokens,
                which is exact for captions of equal length.
            logits_to_keep: number of last positions whose logits are wanted, with all labels among those that they
                predict; 0: all.

        Raises:
            ValueError: the placeholders of a row are not as many as its soft tokens; both forms of the video or of
                the text are given.
            TypeError: unknown keyword.
        """
        return self._caption(
            {
                "input_features": input_features,
                "pixel_values_videos": pixel_values_videos,
                "video_features": video_features,
                "audio_mask": audio_mask,
                "video_mask": video_mask,
            },
            input_ids,
            inputs_embeds,
            SoftTokens(soft_tokens=soft_tokens, soft_token_counts=soft_token_counts),
            labels,
            num_items_in_batch,
            num_clips_in_batch,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            logits_to_keep=logits_to_keep,
            **kwargs,
        )


def _check_parts(options: dict, audio: object, vision: object):
    """Refuse parts that a fusion has no use for, or a missing one, and options that a loaded part would ignore."""
    fusion = options.get("fusion", "concat_time")
    if audio is None and fusion != "video_only":
        raise ValueError(f"Got no audio part for fusion={fusion!r}, expected CED: pass audio.")
    for name, part, baseline in (("audio", audio, "video_only"), ("vision", vision, "audio_only")):
        if part is not None and fusion == baseline:
            raise ValueError(f"Got {name}={part!r} for fusion={fusion!r}, which has no such tower: leave it out.")
    if "torch_dtype" in options:
        raise TypeError("Got torch_dtype, expected dtype.")
    own = {"text_config": True, "vision_config": vision is not None, "audio_config": isinstance(audio, nn.Module)}
    for name in options.keys() & {name for name, has_own in own.items() if has_own}:
        raise ValueError(f"Got {name} beside a part that has one of its own: leave it out.")


LavcapAudioModel.register_for_auto_class("AutoModel")
LavcapForConditionalGeneration.register_for_auto_class("AutoModel")
if __name__ == "modeling_lavcap":  # no part of a package: on the Hub the Auto classes go by `auto_map`
    register_family(LavcapConfig, LavcapForConditionalGeneration, {LavcapAudioConfig: LavcapAudioModel})

__all__ = [
    "LavcapAudioModel",
    "LavcapForConditionalGeneration",
    "LavcapFusion",
    "LavcapPreTrainedModel",
    "alignment_loss",
    "log_sinkhorn",
]
