# Copyright 2026 The LAVCap for Transformers authors. Licensed under the Apache License, Version 2.0.
"""GIT's text decoder (Wang et al., arXiv 2205.14100): post-norm BERT layers that read a clip's tokens and then words.

What stands before the text sees all of itself and none of the text; each word sees all of it and the words up to
itself. Only words have positions.
"""

from dataclasses import dataclass

import torch
from torch import nn
from transformers import DynamicCache, PreTrainedConfig, PreTrainedModel
from transformers.cache_utils import Cache
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.models.bert.modeling_bert import BertLayer, BertSelfAttention
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs


try:  # inside a package: the Hub's module cache
    from .configuration_captioning import check_multiples, reject_misspelt
except ImportError:  # as a plain module: a clone, or after `pip install`
    from configuration_captioning import check_multiples, reject_misspelt

# After the configuration, which has looked at the version: an older Transformers lacks it.
from transformers.utils.output_capturing import capture_outputs


class GitTextConfig(PreTrainedConfig):
    r"""
    Configuration of [`GitTextModel`]. The defaults are GIT's, of every published size.

    Args:
        vocab_size (`int`): words, of BERT's tokenizer.
        hidden_size (`int`), num_hidden_layers (`int`), num_attention_heads (`int`), intermediate_size (`int`),
            hidden_act (`str`): of the layers.
        max_position_embeddings (`int`): longest text.
        hidden_dropout_prob (`float`), attention_probs_dropout_prob (`float`): dropout rates in training.
        layer_norm_eps (`float`): of the layers; embedding_norm_eps (`float`): of the LayerNorm on word and position.
        initializer_range (`float`): standard deviation of freshly initialised weights.
        bos_token_id, eos_token_id, pad_token_id (`int`): BERT's `[CLS]`, `[SEP]` and `[PAD]`.
        tie_word_embeddings (`bool`): whether the output layer has the weights of the word embedding; its bias is its
            own.
    """

    model_type = "git_text_model"
    attribute_map = {"layer_norm_epsilon": "layer_norm_eps"}

    vocab_size: int = 30522
    hidden_size: int = 768
    num_hidden_layers: int = 6
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    max_position_embeddings: int = 1024
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    layer_norm_eps: float = 1e-12
    embedding_norm_eps: float = 1e-8
    initializer_range: float = 0.02
    bos_token_id: int | None = 101
    eos_token_id: int | list[int] | None = 102
    pad_token_id: int | None = 0
    tie_word_embeddings: bool = True
    use_cache: bool = True
    # What the library's layers ask for.
    is_decoder: bool = True
    add_cross_attention: bool = False
    chunk_size_feed_forward: int = 0

    def __post_init__(self, **kwargs):
        reject_misspelt(self, kwargs)
        super().__post_init__(**kwargs)
        self.auto_map = {"AutoConfig": "git_captioning.GitTextConfig", "AutoModel": "git_captioning.GitTextModel"}
        check_multiples(self, "text_config.", (("hidden_size", "num_attention_heads"),))


class GitTextEmbeddings(nn.Module):
    """Word and position, added up and normalised (GIT's `WordAndPositionalEmbedding`)."""

    def __init__(self, config: GitTextConfig):
        super().__init__()
        self.word_embeddings = nn.Embedding(config.vocab_size, config.hidden_size, config.pad_token_id)
        self.position_embeddings = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.layer_norm = nn.LayerNorm(config.hidden_size, eps=config.embedding_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, words: torch.Tensor, position_ids: torch.LongTensor) -> torch.Tensor:
        return self.dropout(self.layer_norm(words + self.position_embeddings(position_ids)))


class GitTextModel(PreTrainedModel):
    """GIT's text decoder with its output layer, and without its image encoder."""

    config: GitTextConfig
    base_model_prefix = ""
    main_input_name = "input_ids"
    input_modalities = ("text",)
    supports_gradient_checkpointing = True
    _no_split_modules = ["BertLayer"]
    _skip_keys_device_placement = ["past_key_values"]
    _supports_sdpa = True
    _supports_attention_backend = True
    _can_record_outputs = {"hidden_states": BertLayer, "attentions": BertSelfAttention}
    _tied_weights_keys = {"output.weight": "embeddings.word_embeddings.weight"}

    def __init__(self, config: GitTextConfig):
        super().__init__(config)
        self.embeddings = GitTextEmbeddings(config)
        self.layers = nn.ModuleList(BertLayer(config, layer_idx=number) for number in range(config.num_hidden_layers))
        self.output = nn.Linear(config.hidden_size, config.vocab_size)
        self.gradient_checkpointing = False
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.embeddings.word_embeddings

    def set_input_embeddings(self, value: nn.Module):
        self.embeddings.word_embeddings = value

    def get_output_embeddings(self) -> nn.Module:
        return self.output

    def set_output_embeddings(self, value: nn.Module):
        self.output = value

    @capture_outputs(tie_last_hidden_states=False)
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        prefix: torch.Tensor | None = None,
        prefix_counts: torch.LongTensor | None = None,
        position_ids: torch.LongTensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        **kwargs: Unpack[TransformersKwargs],
    ) -> CausalLMOutputWithPast:
        """Predict the next word at every position of a text.

        Args:
            input_ids: `(batch, text)`; or
            inputs_embeds: word embeddings, `(batch, text, hidden)`.
            attention_mask: `(batch, past text and text)`, 0 at padding; default: no padding.
            prefix: tokens that stand before the text, `(batch, prefix, hidden)`; with a cache they are given once.
            prefix_counts: `(batch,)`, how many of them, from the left, are those of a row; default: all.
            position_ids: `(batch, text)`; default: counted from 0 over what `attention_mask` does not leave out.
            logits_to_keep: number of last positions whose logits are wanted, or their places; 0: all.

        Returns:
            `logits` `(batch, text, vocab_size)`, those of the text alone; `past_key_values`; `hidden_states`,
            `(batch, prefix and text, hidden)` each.
        """
        words = self.embeddings.word_embeddings(input_ids) if inputs_embeds is None else inputs_embeds
        use_cache = self.config.use_cache if use_cache is None else use_cache
        if use_cache and past_key_values is None and not (self.training and self.gradient_checkpointing):
            past_key_values = DynamicCache(config=self.config)
        before = _Prefix.of(prefix, prefix_counts, past_key_values)
        attended = self._attended(words, attention_mask, before.past)
        if position_ids is None:
            position_ids = (attended.cumsum(dim=1) - 1).clamp(min=0)[:, -words.shape[1] :]
        hidden_states = self.embeddings(words, position_ids)
        if prefix is not None:
            hidden_states = torch.cat([prefix.to(hidden_states.device, hidden_states.dtype), hidden_states], dim=1)
        visible = _visible(before, attended, words.shape[1], prefix is not None)
        mask = self._as_attention_mask(visible, past_key_values, hidden_states.dtype)
        for layer in self.layers:
            hidden_states = layer(hidden_states, mask, past_key_values=past_key_values, **kwargs)
        text = hidden_states[:, -words.shape[1] :]
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        return CausalLMOutputWithPast(logits=self.output(text[:, kept]), past_key_values=past_key_values)

    def _attended(self, words: torch.Tensor, attention_mask: torch.Tensor | None, past: int) -> torch.Tensor:
        """Which words there are, the earlier ones in the cache included: `(batch, past text and text)` int64."""
        length = past + words.shape[1]
        if length > self.config.max_position_embeddings:
            raise ValueError(
                f"The text has {length} tokens, expected at most {self.config.max_position_embeddings} "
                "(max_position_embeddings): lower max_length."
            )
        if attention_mask is None:
            return torch.ones(len(words), length, dtype=torch.long, device=words.device)
        if attention_mask.shape != (len(words), length):
            raise ValueError(
                f"attention_mask has shape {tuple(attention_mask.shape)}, expected {(len(words), length)}: that of "
                "the text with what of it is in the cache, without the clip."
            )
        return attention_mask.to(words.device, torch.long)

    def _as_attention_mask(self, visible: torch.Tensor, cache: Cache | None, dtype: torch.dtype) -> torch.Tensor:
        """The mask as the attention in use wants it, `(batch, 1, queries, keys)`."""
        if cache is not None and cache.is_compileable:  # its keys fill up a place of fixed length
            missing = cache.layers[0].max_cache_len - visible.shape[-1]
            visible = nn.functional.pad(visible, (0, missing))
        if self.config._attn_implementation == "sdpa":
            return visible
        return torch.zeros_like(visible, dtype=dtype).masked_fill(~visible, torch.finfo(dtype).min)


@dataclass
class _Prefix:
    """What stands before a text: how many tokens, those of each row `(batch,)`, and words in the cache behind them."""

    length: int
    counts: torch.Tensor | None
    past: int

    @classmethod
    def of(cls, prefix: torch.Tensor | None, counts: torch.Tensor | None, cache: Cache | None) -> "_Prefix":
        """Of a call; a cache keeps it for the calls that follow."""
        past = 0 if cache is None else int(cache.get_seq_length())
        if prefix is None:
            length, counts = getattr(cache, "prefix", (0, None))
            return cls(length, counts, past - length)
        if past:
            raise ValueError("Got prefix and a cache that holds one, expected the clip once: leave it out.")
        if cache is not None:
            cache.prefix = (prefix.shape[1], counts)
        return cls(prefix.shape[1], counts, 0)


def _visible(before: _Prefix, attended: torch.Tensor, num_words: int, with_prefix: bool) -> torch.Tensor:
    """Which keys each query sees, `(batch, 1, queries, keys)` bool.

    Args:
        attended: `(batch, past text and text)`, 1 where there is a word.
        num_words: of the text.
        with_prefix: whether the prefix is among the queries.
    """
    (batch, length), device = attended.shape, attended.device
    place = torch.arange(before.length, device=device).expand(batch, -1)
    there = place >= 0
    if before.counts is not None:
        # A cache may have been read with one row for several that begin alike, such as the beams of a clip.
        counts = before.counts.to(device).repeat_interleave(batch // len(before.counts))
        there = place < counts[:, None]
    keys = torch.cat([there, attended.bool()], dim=1)
    rank = torch.arange(before.length + length, device=device)  # of each key; those before the text have one
    rank = (rank - before.length + 1).clamp(min=0)
    numbers = torch.arange(len(rank), device=device)
    queries = numbers if with_prefix else numbers[-num_words:]
    seen = rank[None] <= rank[queries, None]
    # A row without anything to see would be NaN.
    return ((keys[:, None] & seen) | (numbers == queries[:, None]))[:, None]


GitTextConfig.register_for_auto_class()
GitTextModel.register_for_auto_class("AutoModel")

__all__ = ["GitTextConfig", "GitTextModel"]
