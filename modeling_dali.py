# Copyright 2026 The LAVCap for Transformers authors. Licensed under the Apache License, Version 2.0.
"""DALI (arXiv 2410.05997): an image captioner that hears, by an audio tower whose tokens lie where a picture's do.

[`DaliForAlignment`] learns that tower from clips without captions; [`DaliForConditionalGeneration`] captions.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoModel, PreTrainedModel
from transformers.activations import ACT2FN
from transformers.cache_utils import Cache
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.processing_utils import Unpack
from transformers.utils import ModelOutput, TransformersKwargs, can_return_tuple


try:  # inside a package: the Hub's module cache
    from .cavmae_captioning import CavMaeConfig, CavMaeModel
    from .configuration_dali import ALIGNMENT, DaliConfig
    from .language_model_captioning import build_language_model
    from .modeling_captioning import ClipModel, SoftTokenModel, SoftTokens, pack_tokens, presence, register_family
    from .set_distances_captioning import (
        AttentiveWeights,
        Transport,
        entropic_transport,
        entropy,
        even_weights,
        exact_transport,
        mean_discrepancy,
        squared_distances,
    )
except ImportError:  # as a plain module: a clone, or after `pip install`
    from cavmae_captioning import CavMaeConfig, CavMaeModel
    from configuration_dali import ALIGNMENT, DaliConfig
    from language_model_captioning import build_language_model
    from modeling_captioning import ClipModel, SoftTokenModel, SoftTokens, pack_tokens, presence, register_family
    from set_distances_captioning import (
        AttentiveWeights,
        Transport,
        entropic_transport,
        entropy,
        even_weights,
        exact_transport,
        mean_discrepancy,
        squared_distances,
    )

# After the configuration, which has looked at the version: an older Transformers lacks it.
from transformers import initialization as init


WORDS = {"input_ids", "attention_mask", "labels", "logits_to_keep", "num_items_in_batch"}  # of a captioner's batch


class DaliPreTrainedModel(PreTrainedModel):
    """What both models have: two encoders, and a projection of audio tokens into the space of image tokens."""

    config: DaliConfig
    base_model_prefix = ""
    input_modalities = ("audio", "video", "text")
    supports_gradient_checkpointing = True
    _no_split_modules = ["VitLayer", "CavMaeJointLayer", "CLIPEncoderLayer"]
    _skip_keys_device_placement = ["past_key_values"]
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True

    def _build_encoders(self, config: DaliConfig):
        self.audio_tower = CavMaeModel._from_config(config.audio_config)
        self.audio_projection = nn.Linear(config.audio_config.hidden_size, config.vision_config.hidden_size)
        self.vision_tower = AutoModel.from_config(config.vision_config)

    @can_return_tuple
    def get_audio_features(
        self, input_features: torch.Tensor, **kwargs: Unpack[TransformersKwargs]
    ) -> BaseModelOutputWithPooling:
        """Audio tokens in the space of image tokens.

        Args:
            input_features: normalised log-mel, `(batch, max_frames, mel)`.
            kwargs: `output_hidden_states`, `output_attentions`, `return_dict`.

        Returns:
            `pooler_output`, `(batch, audio_tokens, image_hidden)`; of the tower `last_hidden_state`, and
            `hidden_states`, `attentions` where asked for.
        """
        output = self.audio_tower(input_features=input_features, **kwargs | {"return_dict": True})
        tokens = output.last_hidden_state.to(self.audio_projection.weight.dtype)
        return BaseModelOutputWithPooling(
            last_hidden_state=output.last_hidden_state,
            pooler_output=self.audio_projection(tokens),
            hidden_states=output.hidden_states,
            attentions=output.attentions,
        )

    @can_return_tuple
    def get_video_features(
        self, pixel_values_videos: torch.Tensor, **kwargs: Unpack[TransformersKwargs]
    ) -> BaseModelOutputWithPooling:
        """Image tokens: a hidden state of CLIP without the class token, frame by frame.

        Args:
            pixel_values_videos: `(batch, video_frames, 3, height, width)`, normalised as CLIP expects.
            kwargs: `output_hidden_states`, `output_attentions`, `return_dict`.

        Returns:
            `pooler_output`, `(batch, video_frames * patches, image_hidden)`; of the tower, with
            `batch * video_frames` rows, `last_hidden_state`, and `hidden_states`, `attentions` where asked for.
        """
        if pixel_values_videos.ndim != 5:
            raise ValueError(
                f"pixel_values_videos has shape {tuple(pixel_values_videos.shape)}, expected "
                "(batch, video_frames, 3, height, width), also for one frame."
            )
        asked = kwargs.get("output_hidden_states", self.config.output_hidden_states)
        options = kwargs | {"output_hidden_states": True, "return_dict": True}
        output = self.vision_tower(pixel_values_videos.flatten(0, 1), **options)
        patches = output.hidden_states[self.config.vision_feature_layer][:, 1:]
        return BaseModelOutputWithPooling(
            last_hidden_state=output.last_hidden_state,
            pooler_output=patches.unflatten(0, pixel_values_videos.shape[:2]).flatten(1, 2),
            hidden_states=output.hidden_states if asked else None,
            attentions=output.attentions,
        )


class DaliProjector(nn.Module):
    """LLaVA's two layers from image tokens to the width of the language model."""

    def __init__(self, config: DaliConfig):
        super().__init__()
        width, text_width = config.vision_config.hidden_size, config.text_config.hidden_size
        self.linear_1 = nn.Linear(width, text_width)
        self.act = ACT2FN[config.projector_hidden_act]
        self.linear_2 = nn.Linear(text_width, text_width)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.linear_2(self.act(self.linear_1(tokens.to(self.linear_1.weight.dtype))))


# ------------------------------------------------------------------------------------------------------- captioning


class DaliForConditionalGeneration(SoftTokenModel, DaliPreTrainedModel):
    """DALI: describes what can be heard in a clip, from its sound, its picture, or both.

    At the placeholders stand the tokens of the picture, those of the sound, and the learned prefix, of which a clip
    has what is given and `config.use_prefix` says.
    """

    config: DaliConfig
    part_names = (
        "audio_tower",
        "audio_projection",
        "vision_tower",
        "multi_modal_projector",
        "audio_multi_modal_projector",
        "language_model",
    )
    fresh_part_names = ("audio_projection", "audio_multi_modal_projector")
    resume_fields = ("audio_projector", "use_prefix", "vision_feature_layer")
    decoding = {"num_beams": 1, "max_new_tokens": 64, "do_sample": True, "temperature": 0.2}
    _keys_to_ignore_on_load_unexpected = [r"^scorers\."]

    def __init__(self, config: DaliConfig):
        if ALIGNMENT in (config.architectures or ()):
            raise ValueError(
                f"{config.name_or_path}: holds the encoders of {ALIGNMENT} alone, expected a captioner: load one, and "
                "give it these encoders by take_parts, or --parts_from of a command."
            )
        super().__init__(config)
        self._build_encoders(config)
        self.multi_modal_projector = DaliProjector(config)
        if config.has_audio_projector:
            self.audio_multi_modal_projector = DaliProjector(config)
        if config.has_prefix:
            self.prefix = nn.Parameter(torch.zeros(config.num_prefix_tokens, config.text_config.hidden_size))
        self.language_model = build_language_model(config.text_config)
        self.post_init()
        present = {type(module).__name__ for module in self.modules()}  # FSDP refuses to look for layers in vain
        self._no_split_modules = present.intersection(self._no_split_modules)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module):
        super()._init_weights(module)
        if module is self and self.config.has_prefix:
            init.normal_(self.prefix, std=self.config.prefix_init_std)
        if self.config.has_audio_projector:  # what it learns begins with what pictures have taught
            for name, own in self.audio_multi_modal_projector.named_modules():
                if own is module and isinstance(own, nn.Linear):
                    pictures = self.multi_modal_projector.get_submodule(name)
                    init.copy_(own.weight, pictures.weight)
                    init.copy_(own.bias, pictures.bias)

    def get_soft_tokens(
        self,
        input_features: torch.Tensor | None = None,
        pixel_values_videos: torch.Tensor | None = None,
        audio_mask: torch.Tensor | None = None,
        video_mask: torch.Tensor | None = None,
    ) -> SoftTokens:
        """Encode and project a batch of clips. Arguments as in [`forward`]."""
        parts = []
        if pixel_values_videos is not None:
            tokens = self.multi_modal_projector(self.get_video_features(pixel_values_videos).pooler_output)
            parts.append((tokens, presence(video_mask, tokens)))
        if input_features is not None:
            own = self.config.audio_projector == "audio"
            projector = self.audio_multi_modal_projector if own else self.multi_modal_projector
            tokens = projector(self.get_audio_features(input_features).pooler_output)
            parts.append((tokens, presence(audio_mask, tokens)))
        if not parts:
            raise ValueError("Got neither sound (input_features) nor picture (pixel_values_videos).")
        if self.config.use_prefix:
            tokens = parts[0][0]
            prefix = self.prefix.to(tokens.dtype).expand(len(tokens), -1, -1)
            parts.append((prefix, torch.stack([present for _, present in parts]).any(dim=0)))
        return SoftTokens(*pack_tokens(*parts))

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        input_features: torch.Tensor | None = None,
        pixel_values_videos: torch.Tensor | None = None,
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
    ):
        """Predict the caption.

        Args:
            input_ids: `(batch, sequence)`; the clip's soft tokens stand where it is `config.av_token_id`.
            attention_mask: `(batch, sequence)`, 0 at padding.
            input_features: normalised log-mel, `(batch, max_frames, mel)`.
            pixel_values_videos: frames for CLIP, `(batch, video_frames, 3, height, width)`.
            audio_mask, video_mask: `(batch,)` bool, whether a clip has sound, picture; default: all have what is
                given.
            soft_tokens, soft_token_counts: result of [`get_soft_tokens`] in place of the clips themselves.
            labels: `(batch, sequence)`, -100 outside the caption and its end token.
            inputs_embeds: `(batch, sequence, text_hidden)` in place of `input_ids`; a clip's soft tokens stand where
                it is the embedding of `config.av_token_id`.
            num_items_in_batch: label tokens of all micro-batches of an optimiser step, by which the summed caption
                loss is divided in place of those of this micro-batch.
            num_clips_in_batch: has no meaning here, as no loss is a mean over clips.
            logits_to_keep: number of last positions whose logits are wanted, with all labels among those that they
                predict; 0: all.

        Raises:
            ValueError: the placeholders of a row are not as many as its soft tokens.
            TypeError: unknown keyword.
        """
        return self._caption(
            {
                "input_features": input_features,
                "pixel_values_videos": pixel_values_videos,
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


# -------------------------------------------------------------------------------------------------------- alignment


@dataclass
class DaliAlignmentOutput(ModelOutput):
    """Output of [`DaliForAlignment`].

    Args:
        loss (`torch.FloatTensor` of shape `()`): what is optimised: the distance, less the weighted entropy.
        alignment_loss (`torch.FloatTensor` of shape `()`): mean distance of the clips with sound and picture.
        entropy_loss (`torch.FloatTensor` of shape `()`): the rest of the loss.
        entropy (`torch.FloatTensor` of shape `()`): mean entropy of both sides' weights, in nats; of
            `"attentive_transport"` in training.
        transport_plan (`torch.FloatTensor` of shape `(batch, audio_tokens, image_tokens)`): total mass 1; of
            transport.
        audio_weights, video_weights (`torch.FloatTensor` of shape `(batch, tokens)`): its marginals.
        audio_tokens, video_tokens (`torch.FloatTensor` of shape `(batch, tokens, image_hidden)`): what is compared.
    """

    loss: torch.Tensor | None = None
    alignment_loss: torch.Tensor | None = None
    entropy_loss: torch.Tensor | None = None
    entropy: torch.Tensor | None = None
    transport_plan: torch.Tensor | None = None
    audio_weights: torch.Tensor | None = None
    video_weights: torch.Tensor | None = None
    audio_tokens: torch.Tensor | None = None
    video_tokens: torch.Tensor | None = None


class DaliForAlignment(ClipModel, DaliPreTrainedModel):
    """The encoders of DALI, trained so that the tokens of a clip's sound lie where those of its picture do.

    CLIP stays as it is. In evaluation all tokens have the same weight.
    """

    config: DaliConfig
    input_modalities = ("audio", "video")
    main_input_name = "input_features"
    part_names = ("audio_tower", "audio_projection", "vision_tower", "scorers")
    fresh_part_names = ("audio_projection", "scorers")
    loss_terms = {"alignment_loss": "clips", "entropy_loss": "clips"}
    resume_fields = ("alignment", "vision_feature_layer", "transport_solver")
    _keys_to_ignore_on_load_unexpected = [
        r"^language_model\.",
        r"^(audio_)?multi_modal_projector\.",
        r"^prefix$",
        r"^scorers\.",
    ]

    def __init__(self, config: DaliConfig):
        super().__init__(config)
        self._build_encoders(config)
        if config.alignment == "attentive_transport":
            width = config.vision_config.hidden_size
            self.scorers = AttentiveWeights(width, config.num_scorer_heads, config.scorer_temperature)
        self.epoch: int | None = None
        self.post_init()
        self.vision_tower.requires_grad_(False)

    @classmethod
    def from_pretrained(cls, *args, **kwargs):
        """As [`PreTrainedModel.from_pretrained`], also of a folder of [`DaliForConditionalGeneration`]."""
        loaded = super().from_pretrained(*args, **kwargs)
        model = loaded[0] if isinstance(loaded, tuple) else loaded  # with `output_loading_info`
        model.vision_tower.requires_grad_(False)  # the library makes its parameters anew
        return loaded

    @can_return_tuple
    def forward(
        self,
        input_features: torch.Tensor,
        pixel_values_videos: torch.Tensor,
        audio_mask: torch.Tensor | None = None,
        video_mask: torch.Tensor | None = None,
        num_clips_in_batch: torch.Tensor | int | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> DaliAlignmentOutput:
        """Compare sound and picture of each clip.

        One backward pass gives the audio tower the gradient of the distance, through the cost and through the
        weights, and the attentions that of the distance less the weighted entropy (released `train`, without its
        leak of the second into the first, which `config.leaks_gradient` brings back).

        Args:
            input_features: normalised log-mel, `(batch, max_frames, mel)`.
            pixel_values_videos: `(batch, video_frames, 3, height, width)`, normalised as CLIP expects.
            audio_mask, video_mask: `(batch,)` bool, whether a clip has sound, picture; others count for nothing.
            num_clips_in_batch: clips with both of all micro-batches of an optimiser step, by which sums are divided
                in place of those of this micro-batch.
            kwargs: of a captioner's batch, such as `labels`: words have no part in this.

        Raises:
            TypeError: unknown keyword.
        """
        if unknown := sorted(kwargs.keys() - WORDS):
            raise TypeError(f"{ALIGNMENT} got unknown keywords {', '.join(unknown)}: check the spelling.")
        both = presence(audio_mask, input_features) & presence(video_mask, input_features)
        # What does not count must not get into a gradient, whatever stands there.
        input_features = input_features.masked_fill(~both[:, None, None], 0)
        pixel_values_videos = pixel_values_videos.masked_fill(~both[:, None, None, None, None], 0)
        audio = self.get_audio_features(input_features).pooler_output
        with torch.no_grad():
            video = self.get_video_features(pixel_values_videos).pooler_output
        share = both / (both.sum().clamp(min=1) if num_clips_in_batch is None else num_clips_in_batch)
        output = self._compare(audio, video, share)
        output.audio_tokens, output.video_tokens = audio, video
        return output

    def _compare(self, audio: torch.Tensor, video: torch.Tensor, share: torch.Tensor) -> DaliAlignmentOutput:
        """Losses of a batch; `share` is what each clip counts."""
        if self.config.alignment == "mmd":
            distance = _mean(mean_discrepancy(audio, video), share)
            return DaliAlignmentOutput(loss=distance, alignment_loss=distance)
        if self.config.alignment == "attentive_transport" and self.training:
            return self._attend(audio, video, share)
        weights = even_weights(audio), even_weights(video)
        cost = squared_distances(audio, video)
        transport = self._transport(cost, *weights)
        distance = _mean(transport.value(cost, *weights), share)
        return DaliAlignmentOutput(
            loss=distance,
            alignment_loss=distance,
            transport_plan=transport.plan,
            audio_weights=weights[0],
            video_weights=weights[1],
        )

    def _attend(self, audio: torch.Tensor, video: torch.Tensor, share: torch.Tensor) -> DaliAlignmentOutput:
        """Transport between attentive weights.

        The weights are computed twice, with equal values: once for the gradient of the tokens, once for that of the
        attentions. The problem is solved once.
        """
        with _constant(self.scorers):
            of_tokens = self.scorers(audio, video)
        of_scorers = self.scorers(audio.detach(), video)
        is_trained = self.epoch != 0  # the first epoch moves the audio tower alone
        weights = [
            tokens + is_trained * (scorers - scorers.detach())
            for tokens, scorers in zip(of_tokens, of_scorers, strict=True)
        ]
        cost = squared_distances(audio, video)
        transport = self._transport(cost, *weights)
        distance = _mean(transport.value(cost, *weights), share)
        spread = _mean(sum(map(entropy, of_scorers)), share)
        entropy_loss = -self.entropy_weight * (spread if is_trained else spread.detach())
        loss = distance + entropy_loss
        if self.config.leaks_gradient and is_trained:
            theirs = transport.value(cost, *of_tokens) - self.entropy_weight * sum(map(entropy, of_tokens))
            leak = _mean(theirs, share)
            loss = loss + leak - leak.detach()
        return DaliAlignmentOutput(
            loss=loss,
            alignment_loss=distance,
            entropy_loss=entropy_loss.detach(),
            entropy=spread.detach(),
            transport_plan=transport.plan,
            audio_weights=weights[0].detach(),
            video_weights=weights[1].detach(),
        )

    def set_epoch(self, epoch: int):
        """In the first epoch the attentions rest, and later the factor of the entropy falls."""
        self.epoch = epoch

    def counted_clips(self, batch: Mapping[str, Any]) -> torch.Tensor:
        """Those with sound and picture."""
        return self.shows(batch, "audio") & self.shows(batch, "video")

    @property
    def entropy_weight(self) -> float:
        """Factor of the weights' entropy in the epoch that was told."""
        factors = self.config.entropy_weights
        last = len(factors) - 1
        return factors[last if self.epoch is None else min(max(self.epoch - 1, 0), last)]

    def _transport(self, cost: torch.Tensor, *weights: torch.Tensor) -> Transport:
        if self.config.transport_solver == "exact":
            return exact_transport(cost, *weights)
        return entropic_transport(cost, *weights, self.config.sinkhorn_epsilon, self.config.sinkhorn_iterations)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Names of the trained parameters in groups: the audio side's and the attentions', all with weight decay."""
        trained = [name for name, weight in self.named_parameters() if weight.requires_grad]
        groups = [[name for name in trained if name.startswith("scorers.") == own] for own in (False, True)]
        return [{"names": names, "decay": True} for names in groups if names]

    def save_pretrained(self, save_directory: str | Path, *args, **kwargs):
        """As [`PreTrainedModel.save_pretrained`]; the Auto classes take the folder for what it is, no captioner."""
        auto_map = self.config.auto_map
        self.config.auto_map = {"AutoConfig": auto_map["AutoConfig"], "AutoModel": f"modeling_dali.{ALIGNMENT}"}
        try:
            super().save_pretrained(save_directory, *args, **kwargs)
        finally:
            self.config.auto_map = auto_map


@contextmanager
def _constant(module: nn.Module) -> Iterator[None]:
    """Let no gradient flow to the weights of a module; engines that share them out find the weights themselves."""
    trained = [weight for weight in module.parameters() if weight.requires_grad]
    for weight in trained:
        weight.requires_grad_(False)
    try:
        yield
    finally:
        for weight in trained:
            weight.requires_grad_(True)


def _mean(values: torch.Tensor, share: torch.Tensor) -> torch.Tensor:
    """Of the clips that count: a clip without sound or picture may have any value, also none."""
    return torch.where(share > 0, values * share, 0.0).sum()


DaliForConditionalGeneration.register_for_auto_class("AutoModel")
DaliForAlignment.register_for_auto_class("AutoModel")
if __name__ == "modeling_dali":  # no part of a package: on the Hub the Auto classes go by `auto_map`
    register_family(DaliConfig, DaliForConditionalGeneration, {CavMaeConfig: CavMaeModel})
    # Of a folder `architectures` tells which of the two it holds.
    AutoModel.register(DaliConfig, (DaliForConditionalGeneration, DaliForAlignment), exist_ok=True)

__all__ = ["DaliForAlignment", "DaliForConditionalGeneration", "DaliPreTrainedModel"]
