# Copyright 2026 The LAVCap for Transformers authors. Licensed under the Apache License, Version 2.0.
"""What captioners share: what tools ask of every model, soft tokens among words, and losses of whole steps."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
import transformers
from torch import nn
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.cache_utils import Cache
from transformers.utils import ModelOutput, TransformersKwargs


try:  # inside a package: the Hub's module cache
    from .adapters_captioning import AdapterMixin
    from .configuration_captioning import GENERATION_CLASSES, CaptioningConfig, SoftTokenConfig
    from .generation_captioning import CaptionGenerationMixin, PlaceholderGenerationMixin, has_clips
    from .language_model_captioning import look_up_words, looks_up_words, takes_logits_to_keep
    from .parts_captioning import read_part
    from .weights_captioning import WeightsError, load_strictly
except ImportError:  # as a plain module: a clone, or after `pip install`
    from adapters_captioning import AdapterMixin
    from configuration_captioning import GENERATION_CLASSES, CaptioningConfig, SoftTokenConfig
    from generation_captioning import CaptionGenerationMixin, PlaceholderGenerationMixin, has_clips
    from language_model_captioning import look_up_words, looks_up_words, takes_logits_to_keep
    from parts_captioning import read_part
    from weights_captioning import WeightsError, load_strictly


LANGUAGE_MODEL_KEYWORDS = frozenset(TransformersKwargs.__annotations__) | {"cache_position", "use_cache"}


@dataclass
class SoftTokens(ModelOutput):
    """What a batch of clips looks like to the language model.

    Args:
        soft_tokens (`torch.FloatTensor` of shape `(batch, soft_tokens, text_hidden)`): tokens of each clip from the
            left.
        soft_token_counts (`torch.LongTensor` of shape `(batch,)`): how many of them each clip has.
        num_counted_clips (`torch.LongTensor` of shape `()`, *optional*): clips that loss terms over clips are means
            of.
    """

    soft_tokens: torch.Tensor | None = None
    soft_token_counts: torch.Tensor | None = None
    num_counted_clips: torch.Tensor | None = None


@dataclass
class CaptioningOutput(ModelOutput):
    """Output of a captioner; a family adds its further loss terms.

    Args:
        loss (`torch.FloatTensor` of shape `()`): sum of the terms that the model's `loss_terms` name.
        logits (`torch.FloatTensor` of shape `(batch, sequence, vocab_size)`).
        past_key_values (`Cache`), hidden_states, attentions: of the language model.
        caption_loss (`torch.FloatTensor` of shape `()`): cross-entropy of the caption and its end token.
    """

    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    past_key_values: Cache | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None
    caption_loss: torch.Tensor | None = None


class ClipModel(PreTrainedModel):
    """A model of clips. What training asks of a model is here; what a family is made of is its own affair.

    Class attributes:
        part_names: its top-level modules.
        fresh_part_names: those that begin with random weights where the model is assembled of pretrained parts.
        loss_terms: by the name of an output field what the term is a mean over, `"tokens"` (of the labels) or
            `"clips"` (those of [`counted_clips`]). The forward pass takes the numbers of a whole optimiser step as
            `num_items_in_batch` and `num_clips_in_batch`.
        resume_fields: fields of the configuration, or of a part's as `part.field`, in which a checkpoint and what
            continues it must agree.
        feature_encoder_name: the part whose outputs may be stored and given in place of media, if there is one.
    """

    config: CaptioningConfig
    part_names: ClassVar[tuple[str, ...]] = ()
    fresh_part_names: ClassVar[tuple[str, ...]] = ()
    loss_terms: ClassVar[dict[str, str]] = {"caption_loss": "tokens"}
    resume_fields: ClassVar[tuple[str, ...]] = ()
    feature_encoder_name: ClassVar[str | None] = None

    def __init__(self, config: CaptioningConfig):
        super().__init__(config)
        config.check()

    @property
    def feature_names(self) -> dict[str, tuple[str, ...]]:
        """By modality, the inputs that hold it."""
        return self.config.feature_names

    @property
    def modalities(self) -> tuple[str, ...]:
        """What the model takes of a clip."""
        return self.config.modalities

    @property
    def takes_media(self) -> bool:
        """Whether the model encodes all that it takes itself; `False`: it needs stored features."""
        return self.config.takes_media

    @property
    def stored_feature_size(self) -> int | None:
        """Width of the stored features that the model takes in place of media; `None`: it takes none."""
        return None

    @property
    def least_batch_size(self) -> int:
        """Clips that are trained on together at least, so that each term of the loss teaches something."""
        return 1

    @property
    def feature_encoder(self) -> nn.Module | None:
        """The part whose outputs may be stored; `None`: the model has none."""
        return getattr(self, self.feature_encoder_name) if self.feature_encoder_name else None

    def counted_clips(self, batch: Mapping[str, Any]) -> torch.Tensor:
        """Which rows of a batch count for loss terms that are means over clips: `(batch,)` bool; default: all."""
        return torch.ones(_num_rows(batch), dtype=torch.bool)

    def shows(self, batch: Mapping[str, Any], modality: str) -> torch.Tensor:
        """Which rows of a batch have a modality: `(batch,)` bool."""
        mask = batch.get(f"{modality}_mask")
        if mask is not None:
            return mask
        given = any(batch.get(name) is not None for name in self.feature_names[modality])
        return torch.full((_num_rows(batch),), given)

    def statistics(self, output: Mapping[str, Any]) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
        """What a log shows beside the loss terms, by name the sum over a batch and how many it is of."""
        return {}

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Names of the trained parameters in groups, each with `decay`, whether the optimiser's weight decay applies.

        None applies to tensors with one axis: biases, norms and scales. The library takes the latter for weights.
        """
        from transformers.trainer_pt_utils import get_parameter_names

        names = get_parameter_names(self, [nn.LayerNorm], ["bias", "layernorm", "rmsnorm", r"(?:^|\.)norm(?:$|\.)"])
        trained = {name: weight for name, weight in self.named_parameters() if weight.requires_grad}
        decayed = {name for name in names if name in trained and trained[name].ndim > 1}
        return [
            {"names": [name for name in trained if name in decayed], "decay": True},
            {"names": [name for name in trained if name not in decayed], "decay": False},
        ]

    def set_epoch(self, epoch: int):
        """Tell which epoch of training begins, from 0, for a family whose losses change with it."""


class CaptioningModel(AdapterMixin, ClipModel, CaptionGenerationMixin):
    """A model that describes clips. What tools ask of one, beside what training asks of every model of clips.

    Class attributes:
        output_class: of its forward pass.
        decoding: options of `generate` that a model is given where it is made.
    """

    output_class: ClassVar[type[CaptioningOutput]] = CaptioningOutput
    decoding: ClassVar[dict[str, Any]] = {"num_beams": 4, "max_new_tokens": 200, "do_sample": False}

    @classmethod
    def from_parts(cls, **parts: Any) -> "CaptioningModel":
        """Assemble a model of pretrained parts: `text`, `audio`, `vision`, with `dtype`, `attn_implementation`,
        `device_map`, `quantization_config` and fields of the configuration."""
        raise NotImplementedError(f"{cls.__name__} cannot be assembled of parts; load it by from_pretrained.")

    def get_soft_tokens(self, **features: torch.Tensor | None) -> SoftTokens:
        """Encode a batch of clips; arguments are the features and masks of the forward pass."""
        raise NotImplementedError

    def get_alignment(self, **features: torch.Tensor | None) -> torch.Tensor | None:
        """How much each picture and each sound of a clip have to do with each other, where the model tells.

        Returns:
            `(batch, video_tokens, audio_tokens)`, of total mass 1 per clip.
        """
        return None

    def take_parts(self, name_or_path: str | Path) -> list[str]:
        """Put parts of a folder in the place of the model's own, such as encoders that were trained apart.

        Args:
            name_or_path: folder, or name on the Hub, of a model that has some of the same parts.

        Returns:
            Names of these.

        Raises:
            WeightsError: it has none of them, or one of another size.
        """
        _, tensors = read_part(name_or_path)
        taken = [name for name in self.part_names if any(key.startswith(f"{name}.") for key in tensors)]
        if not taken:
            raise WeightsError(f"{name_or_path}: holds none of {', '.join(self.part_names)}, expected some of them.")
        for name in taken:
            part, place = self.get_submodule(name), f"{name}."
            own = {key.removeprefix(place): each for key, each in tensors.items() if key.startswith(place)}
            load_strictly(part, {key: each.to(self.device, self.dtype) for key, each in own.items()})
        return taken

    def get_input_embeddings(self) -> nn.Module:
        return self.language_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module):
        self.language_model.set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Module:
        return self.language_model.get_output_embeddings()

    def set_output_embeddings(self, value: nn.Module):
        self.language_model.set_output_embeddings(value)

    def get_decoder(self) -> nn.Module:
        return self.language_model.get_decoder()

    def compute_caption_loss(
        self, logits: torch.Tensor, labels: torch.Tensor, num_items_in_batch: torch.Tensor | int | None
    ) -> torch.Tensor:
        """Cross-entropy of the labels: `()`, their mean, or their sum over `num_items_in_batch`.

        Args:
            logits: `(batch, sequence, vocab_size)`, or those of its last positions.
            labels: `(batch, sequence)`, -100 at what is not predicted.
        """
        labels = last_labels(logits, labels)
        return self.loss_function(
            logits=logits, labels=labels, vocab_size=logits.shape[-1], num_items_in_batch=num_items_in_batch
        )

    def _reject_unknown(self, kwargs: Mapping[str, Any]):
        unknown = sorted(set(kwargs) - LANGUAGE_MODEL_KEYWORDS)
        if unknown:
            raise TypeError(
                f"{type(self).__name__} got unknown keyword{'s' if len(unknown) > 1 else ''} {', '.join(unknown)}: "
                "check the spelling against the arguments of its forward method."
            )


class SoftTokenModel(PlaceholderGenerationMixin, CaptioningModel):
    """A captioner whose clips are soft tokens, which stand in a text where placeholders are.

    A family has `get_soft_tokens`, a `language_model`, and a forward pass that names its features and calls
    [`_caption`].

    Class attributes:
        clip_outputs: fields of its soft tokens that its output has, too.
    """

    config: SoftTokenConfig
    clip_outputs: ClassVar[tuple[str, ...]] = ()

    def _caption(
        self,
        features: dict[str, torch.Tensor | None],
        input_ids: torch.LongTensor | None,
        inputs_embeds: torch.Tensor | None,
        clips: SoftTokens,
        labels: torch.LongTensor | None,
        num_items_in_batch: torch.Tensor | int | None,
        num_clips_in_batch: torch.Tensor | int | None,
        logits_to_keep: int | torch.Tensor = 0,
        **kwargs: Any,
    ) -> CaptioningOutput:
        """Put the clips among the words, run the language model, and add up the losses.

        Args:
            features: inputs of `get_soft_tokens`.
            clips: `soft_tokens` and `soft_token_counts` that were made before, in place of `features`.
            kwargs: of the language model.
        """
        self._reject_unknown(kwargs.keys() - {"attention_mask", "position_ids", "past_key_values"})
        if has_clips(features, clips.soft_tokens, self.feature_names):
            clips = self.get_soft_tokens(**features)
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("Got both or neither of input_ids and inputs_embeds, expected exactly one.")
        if looks_up_words(self.language_model.config):
            kwargs["per_layer_inputs"] = self._per_layer_inputs(input_ids)
        if takes_logits_to_keep(type(self.language_model)):  # others give all
            kwargs["logits_to_keep"] = logits_to_keep
        outputs = self.language_model(inputs_embeds=self._embed(input_ids, inputs_embeds, clips), **kwargs)
        output = self.output_class(
            logits=self._without_placeholder(outputs.logits),
            past_key_values=outputs.get("past_key_values"),
            hidden_states=outputs.hidden_states,
            attentions=getattr(outputs, "attentions", None),
            **{name: clips.get(name) for name in self.clip_outputs},
        )
        if labels is not None:
            self._add_losses(output, labels, num_items_in_batch, num_clips_in_batch, clips.num_counted_clips)
        return output

    def _per_layer_inputs(self, input_ids: torch.Tensor | None) -> torch.Tensor:
        """What the layers look up of the text, with padding at clips, as such models have it at their pictures."""
        if input_ids is None:
            raise ValueError(
                f"Got inputs_embeds for a {type(self.language_model).__name__}, whose layers look up words "
                "themselves: pass input_ids."
            )
        return look_up_words(self.language_model, self._as_padding(input_ids))

    def _embed(
        self, input_ids: torch.Tensor | None, inputs_embeds: torch.Tensor | None, clips: SoftTokens
    ) -> torch.Tensor:
        """Look up the text and put each clip's soft tokens at its placeholders: `(batch, sequence, text_hidden)`."""
        table, token = self.get_input_embeddings(), self.config.av_token_id
        has_row, no_clip = token < self.config.get_text_config().vocab_size, clips.soft_tokens is None
        if no_clip and (input_ids is None or has_row):
            return table(input_ids) if inputs_embeds is None else inputs_embeds
        if input_ids is None:
            placeholder = self._embedded_placeholders(inputs_embeds)
        else:
            placeholder = input_ids == token
            # Where the placeholder has no row in the embedding table any other id serves for the look-up.
            inputs_embeds = table(input_ids.masked_fill(placeholder, 0))
        counts = torch.zeros_like(placeholder[:, 0], dtype=torch.long) if no_clip else clips.soft_token_counts
        self._check_placeholders(placeholder.sum(dim=1), counts)
        if no_clip:
            return inputs_embeds
        soft_tokens = clips.soft_tokens.to(inputs_embeds.device, inputs_embeds.dtype)
        rank = (placeholder.cumsum(dim=1) - 1).clamp(0, soft_tokens.shape[1] - 1)
        placed = soft_tokens.gather(1, rank[..., None].expand(-1, -1, soft_tokens.shape[-1]))
        return torch.where(placeholder[..., None], placed, inputs_embeds)

    def _embedded_placeholders(self, inputs_embeds: torch.Tensor) -> torch.Tensor:
        """Where the embedding of the placeholder stands, if it has one: `(batch, sequence)` bool."""
        table, token = self.get_input_embeddings(), self.config.av_token_id
        words = self.config.get_text_config().vocab_size
        if token >= words:
            raise ValueError(
                f"Got inputs_embeds and a clip, but the placeholder (av_token_id {token}) has no row among the "
                f"{words} embeddings that could mark its place: pass input_ids, or put the soft tokens "
                "of get_soft_tokens into inputs_embeds yourself and leave the clip out."
            )
        marker = table(torch.tensor(token, device=inputs_embeds.device))
        return (inputs_embeds == marker).all(dim=-1)

    def _without_placeholder(self, logits: torch.Tensor) -> torch.Tensor:
        """Rule the placeholder out where a resized vocabulary has a row for it; it is never a word."""
        token = self.config.av_token_id
        if token >= logits.shape[-1]:
            return logits
        return logits.index_fill(-1, torch.tensor([token], device=logits.device), torch.finfo(logits.dtype).min)

    @staticmethod
    def _check_placeholders(placeholders: torch.Tensor, counts: torch.Tensor):
        if torch.compiler.is_compiling():  # a graph has no branch for an error
            torch._assert_async((placeholders == counts.to(placeholders.device)).all(), "placeholders for soft tokens")
            return
        if placeholders.shape != counts.shape or (placeholders != counts.to(placeholders.device)).any():
            raise ValueError(
                f"input_ids has {placeholders.tolist()} placeholders per row for {counts.tolist()} soft tokens, "
                "expected equal numbers: let the model's processor write the placeholders for the clips that are "
                "passed."
            )

    def _add_losses(
        self,
        output: CaptioningOutput,
        labels: torch.Tensor,
        num_items_in_batch: torch.Tensor | int | None,
        num_clips_in_batch: torch.Tensor | int | None,
        num_counted_clips: torch.Tensor | None,
    ):
        labels = labels.masked_fill(labels == self.config.av_token_id, -100)  # it is no word, and never predicted
        output.caption_loss = self.compute_caption_loss(output.logits, labels, num_items_in_batch)
        output.loss = output.caption_loss
        share = 1.0  # of the clips of the whole step that are in this micro-batch
        if num_clips_in_batch is not None and num_counted_clips is not None:
            share = num_counted_clips / num_clips_in_batch
        elif num_items_in_batch is not None:
            share = (labels[:, 1:] != -100).sum() / num_items_in_batch
        for name, unit in self.loss_terms.items():
            if unit == "clips" and output.get(name) is not None:
                output.loss = output.loss + share * output[name]


def last_labels(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Labels `(batch, sequence)` of the positions that have logits, which are the last ones."""
    return labels[:, -logits.shape[1] :]


def presence(mask: torch.Tensor | None, tokens: torch.Tensor) -> torch.Tensor:
    """Which clips have a modality, `(batch,)` bool on the device of its tokens; without a mask all have."""
    if mask is None:
        return torch.ones(tokens.shape[0], dtype=torch.bool, device=tokens.device)
    return mask.to(tokens.device, torch.bool)


def pack_tokens(*parts: tuple[torch.Tensor, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Join parts `(batch, length, hidden)` along time, each clip's present tokens to the left, and count them.

    Args:
        parts: tokens, and which clips have them, `(batch,)` bool.
    """
    tokens = torch.cat([part for part, _ in parts], dim=1)
    present = torch.cat([mask[:, None].expand(-1, part.shape[1]) for part, mask in parts], dim=1)
    order = torch.argsort(present.int(), dim=1, descending=True, stable=True)
    return tokens.gather(1, order[..., None].expand_as(tokens)), present.sum(dim=1)


def _num_rows(batch: Mapping[str, Any]) -> int:
    return next(len(value) for value in batch.values() if isinstance(value, torch.Tensor))


def register_family(
    config_class: type[CaptioningConfig],
    model_class: type[CaptioningModel],
    encoders: Mapping[type[PreTrainedConfig], type[PreTrainedModel]] | None = None,
):
    """Make the Auto classes of models know a family, which then needs no `trust_remote_code`.

    Args:
        encoders: models of their own that the family is made of, by their configurations.
    """
    AutoConfig.register(config_class.model_type, config_class, exist_ok=True)
    for name in GENERATION_CLASSES:
        getattr(transformers, name).register(config_class, model_class, exist_ok=True)
    for config, encoder in (encoders or {}).items():
        AutoConfig.register(config.model_type, config, exist_ok=True)
        AutoModel.register(config, encoder, exist_ok=True)
