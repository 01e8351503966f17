# Copyright 2026 The LAVCap for Transformers authors. Licensed under the Apache License, Version 2.0.
"""AVCap (arXiv 2407.07801): joint tokens of sound and picture before the text of a GIT decoder."""

import math
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.cache_utils import Cache
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs, can_return_tuple


try:  # inside a package: the Hub's module cache
    from .adapters_captioning import own_fields
    from .cavmae_captioning import CavMaeConfig, CavMaeModel, CavMaeOutput
    from .cavmae_weights_captioning import load_cavmae
    from .configuration_avcap import AvcapConfig
    from .generation_captioning import has_clips
    from .git_captioning import GitTextConfig, GitTextModel
    from .git_weights_captioning import load_git
    from .length_norm_captioning import LengthNormMixin
    from .modeling_captioning import CaptioningModel, CaptioningOutput, SoftTokens, last_labels, register_family
    from .parts_captioning import as_dtype, caption_decoding, cast, location, published_name
except ImportError:  # as a plain module: a clone, or after `pip install`
    from adapters_captioning import own_fields
    from cavmae_captioning import CavMaeConfig, CavMaeModel, CavMaeOutput
    from cavmae_weights_captioning import load_cavmae
    from configuration_avcap import AvcapConfig
    from generation_captioning import has_clips
    from git_captioning import GitTextConfig, GitTextModel
    from git_weights_captioning import load_git
    from length_norm_captioning import LengthNormMixin
    from modeling_captioning import CaptioningModel, CaptioningOutput, SoftTokens, last_labels, register_family
    from parts_captioning import as_dtype, caption_decoding, cast, location, published_name


class AvcapProjector(nn.Module):
    """From the encoder's width to the decoder's (released `textual.av_projection`)."""

    def __init__(self, config: AvcapConfig):
        super().__init__()
        width = config.text_config.hidden_size
        self.linear = nn.Linear(config.audio_visual_config.hidden_size, width)
        self.layer_norm = nn.LayerNorm(width, eps=config.projector_norm_eps)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.layer_norm(self.linear(tokens.to(self.linear.weight.dtype)))


class AvcapPreTrainedModel(PreTrainedModel):
    config: AvcapConfig
    base_model_prefix = ""
    input_modalities = ("audio", "video", "text")
    supports_gradient_checkpointing = True
    _no_split_modules = ["VitLayer", "CavMaeJointLayer", "BertLayer"]
    _skip_keys_device_placement = ["past_key_values"]
    _supports_sdpa = True
    _supports_attention_backend = True
    _can_compile_fullgraph = False  # the length of what stands before the text is asked of the cache


class AvcapForConditionalGeneration(LengthNormMixin, CaptioningModel, AvcapPreTrainedModel):
    """AVCap: describes what can be heard in a clip, from its sound and its frames."""

    config: AvcapConfig
    part_names = ("audio_visual_encoder", "multi_modal_projector", "language_model")
    fresh_part_names = ("multi_modal_projector",)
    resume_fields = (
        *(f"audio_visual_config.{name}" for name in ("mode", "num_attention_heads", "num_video_frames", "image_size")),
        "frame_sampling",
        "label_smoothing",
    )
    # The released search. Longer captions than any of AudioCaps cost it little: it ends when nothing can get better.
    decoding = {
        "num_beams": 4,
        "do_sample": False,
        "max_length": 1024,
        "length_norm": "gnmt",
        "length_penalty": 0.6,
        "early_stopping": "never",
    }
    _tied_weights_keys = {"language_model.output.weight": "language_model.embeddings.word_embeddings.weight"}

    def __init__(self, config: AvcapConfig):
        super().__init__(config)
        self.audio_visual_encoder = CavMaeModel._from_config(config.audio_visual_config)
        self.multi_modal_projector = AvcapProjector(config)
        self.language_model = GitTextModel._from_config(config.text_config)
        longest = min(self.decoding["max_length"], config.text_config.max_position_embeddings)
        self.decoding = self.decoding | {"max_length": longest}
        self.post_init()

    @classmethod
    def from_parts(
        cls,
        *,
        text: str | Path | PreTrainedModel,
        audio_visual: str | Path | PreTrainedModel,
        video_patches: str = "fresh",
        dtype: torch.dtype | str | None = None,
        attn_implementation: str | dict[str, str] | None = None,
        **options,
    ) -> "AvcapForConditionalGeneration":
        """Assemble a model of pretrained parts; the projection is fresh, for training.

        Args:
            text: GIT: its authors' file, a folder with its text decoder or with GIT as Transformers saves it, a name
                on the Hub such as `microsoft/git-base`, or the loaded decoder.
            audio_visual: CAV-MAE: its authors' file, a folder, a name on the Hub, or the loaded encoder.
            video_patches: what becomes of the patches and positions of an encoder that saw another number of frames:
                `"fresh"`, they begin anew, as released; `"inflated"`, each patch is spread over its two frames and
                the positions are repeated in time.
            dtype: of all parts. Default: float32.
            attn_implementation: as of `from_pretrained`.
            options: of [`AvcapConfig`]; `audio_visual_config` may hold `num_video_frames`, `mode`, `max_frames`,
                `image_size`, `num_attention_heads` for a file, and `text_config` the heads of the decoder.

        Raises:
            WeightsError: a part lacks weights, or holds others.
            ValueError: options that do not fit the parts.
        """
        encoder = load_cavmae(audio_visual, options.pop("audio_visual_config", None), video_patches)
        decoder = load_git(text, options.pop("text_config", None))
        names = {"text_model_name": published_name(text)}
        places = {"text": location(text), "audio_visual": location(audio_visual)}
        parts = {"audio_visual_config": encoder.config, "text_config": decoder.config}
        config = AvcapConfig(**(names | options | parts), base_parts=places)
        with torch.device("meta"):
            model = cls(config)
        projector = model.multi_modal_projector.to_empty(device=decoder.device)
        model.multi_modal_projector = projector.apply(model._init_weights)
        model.audio_visual_encoder, model.language_model = encoder, decoder
        if getattr(encoder, "has_fresh_patches", False):
            model.fresh_part_names = (*cls.fresh_part_names, "audio_visual_encoder")
        cast(model, as_dtype(dtype) or torch.float32)
        model.generation_config = caption_decoding(decoder.config, **model.decoding)
        if attn_implementation is not None:
            model.set_attn_implementation(attn_implementation)
        return model.eval()

    @classmethod
    def assembly_options(cls, config: AvcapConfig, has_vision: bool) -> dict[str, Any]:
        options = super().assembly_options(config, has_vision)
        for name in ("audio_visual_config", "text_config"):
            part = getattr(config, name)
            options[name] = {field: getattr(part, field) for field in sorted(own_fields(part))}
        return {name: value for name, value in options.items() if name not in ("vision_model_name",)}

    def get_soft_tokens(
        self,
        input_features: torch.Tensor | None = None,
        pixel_values_videos: torch.Tensor | None = None,
        audio_mask: torch.Tensor | None = None,
        video_mask: torch.Tensor | None = None,
    ) -> SoftTokens:
        """Encode and project a batch of clips. Arguments as in [`forward`]."""
        encoded = self.get_audio_visual_features(input_features, pixel_values_videos, audio_mask, video_mask)
        return SoftTokens(
            soft_tokens=self.multi_modal_projector(encoded.last_hidden_state), soft_token_counts=encoded.token_counts
        )

    def get_audio_visual_features(self, *features: torch.Tensor | None, **kwargs: Any) -> CavMaeOutput:
        """Tokens of the encoder; arguments as of [`CavMaeModel.forward`]."""
        return self.audio_visual_encoder(*features, **kwargs | {"return_dict": True})

    @staticmethod
    def create_masks_for_generate(attention_mask: torch.Tensor | None = None, **kwargs) -> torch.Tensor | None:
        """The mask of the text as it is, also with a cache of fixed length: the decoder puts the clip before it."""
        return attention_mask

    def _prepare_cache_for_generation(
        self, generation_config, model_kwargs: dict, generation_mode, batch_size: int, max_cache_length: int
    ):
        """A cache of fixed length holds the clip, too."""
        if (tokens := model_kwargs.get("soft_tokens")) is not None:
            max_cache_length += tokens.shape[1]
        return super()._prepare_cache_for_generation(
            generation_config, model_kwargs, generation_mode, batch_size, max_cache_length
        )

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
    ) -> CaptioningOutput:
        """Predict the caption.

        Args:
            input_ids: text, `(batch, sequence)`, from `[CLS]` on; the clip stands before it, and not among the ids.
            attention_mask: `(batch, sequence)`, 0 at padding, of the text alone.
            input_features: normalised log-mel, `(batch, frames, mel)`.
            pixel_values_videos: `(batch, video_frames, 3, height, width)`, also of one frame. Either alone takes the
                encoder's way of a single modality.
            audio_mask, video_mask: `(batch,)` bool, whether a clip has sound, picture; default: all have.
            soft_tokens, soft_token_counts: result of [`get_soft_tokens`] in place of the clips themselves.
            labels: `(batch, sequence)`, -100 outside what is predicted: words and `[SEP]`.
            inputs_embeds: word embeddings `(batch, sequence, text_hidden)` in place of `input_ids`.
            num_items_in_batch: label tokens of all micro-batches of an optimiser step, by which the summed loss is
                divided in place of those of this micro-batch.
            num_clips_in_batch: not used, no term of the loss is a mean over clips.
            logits_to_keep: number of last positions whose logits are wanted, with all labels among those that they
                predict; 0: all.

        Returns:
            `logits` `(batch, sequence, vocab_size)`, those of the text alone.

        Raises:
            ValueError: both or neither form of the text; features of another shape.
            TypeError: unknown keyword.
        """
        self._reject_unknown(kwargs)
        features = {"input_features": input_features, "pixel_values_videos": pixel_values_videos}
        features |= {"audio_mask": audio_mask, "video_mask": video_mask}
        if has_clips(features, soft_tokens, self.config.feature_names):
            clips = self.get_soft_tokens(**features)
            soft_tokens, soft_token_counts = clips.soft_tokens, clips.soft_token_counts
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("Got both or neither of input_ids and inputs_embeds, expected exactly one.")
        outputs = self.language_model(
            input_ids,
            attention_mask,
            prefix=soft_tokens,
            prefix_counts=soft_token_counts,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            logits_to_keep=logits_to_keep,
            **kwargs | {"return_dict": True},
        )
        output = self.output_class(
            logits=outputs.logits,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )
        if labels is not None:
            output.loss = output.caption_loss = self.compute_caption_loss(outputs.logits, labels, num_items_in_batch)
        return output

    def compute_caption_loss(
        self, logits: torch.Tensor, labels: torch.Tensor, num_items_in_batch: torch.Tensor | int | None
    ) -> torch.Tensor:
        """Divergence of the predictions from labels that give `label_smoothing` to all other words, in float32: `()`.

        Its mean over the labels, or its sum over `num_items_in_batch`. Released `SmoothLabelCrossEntropyLoss`: the
        divergence of Kullback and Leibler, so that a perfect prediction has a loss of 0, and never of `[PAD]`.
        """
        labels = last_labels(logits, labels)[:, 1:].to(logits.device)
        counted = (labels != -100) & (labels != self.config.text_config.pad_token_id)
        scores, labels = logits[:, :-1][counted].float().log_softmax(dim=-1), labels[counted]
        share = self.config.label_smoothing
        other = share / (scores.shape[-1] - 1)  # of each word but the right one
        right = scores.gather(1, labels[:, None]).squeeze(1)
        of_labels = (1 - share) * math.log(1 - share) + (share * math.log(other) if share else 0.0)  # their entropy
        divergence = of_labels - (1 - share) * right - other * (scores.sum(dim=-1) - right)
        number = counted.sum().clamp(min=1) if num_items_in_batch is None else num_items_in_batch
        return divergence.sum() / number


AvcapForConditionalGeneration.register_for_auto_class("AutoModel")
if __name__ == "modeling_avcap":  # no part of a package: on the Hub the Auto classes go by `auto_map`
    register_family(
        AvcapConfig, AvcapForConditionalGeneration, {CavMaeConfig: CavMaeModel, GitTextConfig: GitTextModel}
    )

__all__ = ["AvcapForConditionalGeneration", "CavMaeModel", "GitTextModel"]
