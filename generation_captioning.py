# Copyright 2026 The LAVCap for Transformers authors. Licensed under the Apache License, Version 2.0.
"""Generation about clips: they are encoded once, and nothing that looks at the ids stumbles over placeholders."""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import nn
from transformers import DynamicCache, GenerationConfig, GenerationMixin
from transformers.cache_utils import DynamicLayer
from transformers.generation import CandidateGenerator, LogitsProcessorList, PromptLookupCandidateGenerator


class CaptionGenerationMixin(GenerationMixin):
    """`generate` of a model that has `get_soft_tokens` and `feature_names`."""

    @torch.no_grad()
    def generate(self, *args, **kwargs):
        """Generate captions; arguments are those of [`GenerationMixin.generate`] and the inputs of the forward pass.

        Clips are encoded once, whatever the number of beams, returned sequences and steps.
        """
        features = {name: kwargs.pop(name) for name in clip_inputs(self.feature_names) if name in kwargs}
        if has_clips(features, kwargs.get("soft_tokens"), self.feature_names):
            clips = self.get_soft_tokens(**features)
            kwargs |= {"soft_tokens": clips.soft_tokens, "soft_token_counts": clips.soft_token_counts}
        return super().generate(*args, **kwargs)

    def _prefill(
        self,
        input_ids: torch.LongTensor,
        generation_config: GenerationConfig,
        model_kwargs: dict,
        is_first_iteration: bool = True,
    ):
        """Read what stands before the captions: once for all beams or samples of a clip, which begin alike."""
        copies = max(generation_config.num_beams, generation_config.num_return_sequences)
        per_row = generation_config.output_attentions or generation_config.output_hidden_states
        cache, read = model_kwargs.get("past_key_values"), super()._prefill
        grows = type(cache) is DynamicCache and all(isinstance(layer, DynamicLayer) for layer in cache.layers)
        if copies == 1 or per_row or not grows or cache.get_seq_length() or has_adapters_of_rows(self):
            return read(input_ids, generation_config, model_kwargs, is_first_iteration)
        once = {
            name: each[::copies] if isinstance(each, torch.Tensor) and len(each) == len(input_ids) else each
            for name, each in model_kwargs.items()
        }
        outputs = read(input_ids[::copies], generation_config, once, is_first_iteration)
        outputs.past_key_values.batch_repeat_interleave(copies)
        outputs.logits = outputs.logits.repeat_interleave(copies, dim=0)
        return outputs

    def prepare_inputs_for_generation(
        self,
        input_ids: torch.LongTensor,
        inputs_embeds: torch.Tensor | None = None,
        is_first_iteration: bool = False,
        soft_tokens: torch.Tensor | None = None,
        soft_token_counts: torch.Tensor | None = None,
        **kwargs,
    ) -> dict:
        for name in ("tokenizer", "assistant_tokenizer"):  # which generate() passes on, of stop_strings
            kwargs.pop(name, None)
        model_inputs = super().prepare_inputs_for_generation(
            input_ids, inputs_embeds=inputs_embeds, is_first_iteration=is_first_iteration, **kwargs
        )
        if is_first_iteration or self._needs_clips_again(model_inputs):
            model_inputs |= {"soft_tokens": soft_tokens, "soft_token_counts": soft_token_counts}
        return model_inputs

    def _needs_clips_again(self, model_inputs: dict) -> bool:
        """Whether a step after the first sees the clips, too: without a cache."""
        return model_inputs.get("past_key_values") is None


class PlaceholderGenerationMixin(CaptionGenerationMixin):
    """`generate` of a model whose clips stand in the place of placeholders, `config.av_token_id`, among the words."""

    def _needs_clips_again(self, model_inputs: dict) -> bool:
        """Several tokens at once are the prompt, or what an assistant model proposes after it."""
        ids = model_inputs.get("input_ids")
        return ids is not None and ids.shape[1] > 1 and bool((ids == self.config.av_token_id).any())

    def _get_logits_processor(self, *args, encoder_input_ids: torch.LongTensor | None = None, **kwargs):
        if encoder_input_ids is not None:
            encoder_input_ids = self._as_words(encoder_input_ids)
        processors = super()._get_logits_processor(*args, encoder_input_ids=encoder_input_ids, **kwargs)
        return _ProcessorsOfWords(processors, self._as_words)

    def _get_candidate_generator(self, *args, **kwargs):
        generator = super()._get_candidate_generator(*args, **kwargs)
        if isinstance(generator, PromptLookupCandidateGenerator):
            generator = _CandidatesOfWords(generator, self._as_ends)
        return generator

    def _as_words(self, input_ids: torch.LongTensor) -> torch.LongTensor:
        """Ids with the first token for the placeholder, which need not be in the vocabulary: it is there anyway."""
        first = self.config.bos_token_id
        return self._replaced(input_ids, self.config.pad_token_id if first is None else first)

    def _as_padding(self, input_ids: torch.LongTensor) -> torch.LongTensor:
        """Ids with padding for the placeholder."""
        return self._replaced(input_ids, self.config.pad_token_id)

    def _as_ends(self, input_ids: torch.LongTensor) -> torch.LongTensor:
        """Ids with the end token for the placeholder: what is proposed stops there."""
        end = self.config.eos_token_id
        return self._replaced(input_ids, end[0] if isinstance(end, list) else end)

    def _replaced(self, input_ids: torch.LongTensor, word: int | None) -> torch.LongTensor:
        return input_ids.masked_fill(input_ids == self.config.av_token_id, word or 0)


def has_adapters_of_rows(model: nn.Module) -> bool:
    """Whether PEFT has told the layers what is of each row, such as its adapter: then there must be as many rows."""
    hooks = (hook for module in model.modules() for hook in module._forward_pre_hooks.values())
    return any({"adapter_names", "alora_offsets"} & getattr(hook, "keywords", {}).keys() for hook in hooks)


def clip_inputs(feature_names: Mapping[str, Sequence[str]]) -> list[str]:
    """Inputs of a model that tell of clips: the features of each modality, and the mask of each."""
    return [name for names in feature_names.values() for name in names] + [f"{kind}_mask" for kind in feature_names]


def has_clips(
    features: Mapping[str, torch.Tensor | None],
    soft_tokens: torch.Tensor | None,
    feature_names: Mapping[str, Sequence[str]],
) -> bool:
    """Whether clips are given, once, and not only masks for them."""
    given = [name for name in clip_inputs(feature_names) if features.get(name) is not None]
    found = {kind: any(name in given for name in names) for kind, names in feature_names.items()}
    if given and soft_tokens is not None:
        raise ValueError(f"Got soft_tokens and {', '.join(given)}, expected one of them: they are the same clips.")
    for kind, is_there in found.items():
        if f"{kind}_mask" in given and not is_there:
            raise ValueError(f"Got {kind}_mask without the {kind} that it is of: pass both or neither.")
    return any(found.values())


class _ProcessorsOfWords(LogitsProcessorList):
    """Processors of the scores that see no placeholder among the ids."""

    def __init__(self, processors: LogitsProcessorList, in_words: Callable):
        super().__init__(processors)
        self.in_words = in_words

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor, **kwargs) -> torch.FloatTensor:
        return super().__call__(self.in_words(input_ids), scores, **kwargs)


class _CandidatesOfWords(CandidateGenerator):
    """Candidates from the prompt that end where a clip begins."""

    def __init__(self, generator: CandidateGenerator, in_words: Callable):
        self.generator = generator
        self.in_words = in_words

    def get_candidates(self, input_ids: torch.LongTensor, *args, **kwargs):
        candidates, logits = self.generator.get_candidates(self.in_words(input_ids), *args, **kwargs)
        proposed = candidates[:, input_ids.shape[1] :]
        return torch.cat([input_ids, proposed], dim=1), logits

    def update_candidate_strategy(self, *args, **kwargs):
        return self.generator.update_candidate_strategy(*args, **kwargs)
