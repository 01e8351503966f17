# Copyright 2026 The LAVCap for Transformers authors. Licensed under the Apache License, Version 2.0.
"""Layers of a vision transformer, as encoders of sound and picture share them: pre-norm, with the residual stream in
float32 whatever the dtype of the weights."""

from collections.abc import Callable

import torch
from torch import nn
from transformers import PreTrainedConfig
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs


try:  # inside a package: the Hub's module cache
    from .precision_captioning import FloatLayerNorm
except ImportError:  # as a plain module: a clone, or after `pip install`
    from precision_captioning import FloatLayerNorm


def eager_attention_forward(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention written out; `query`, `key`, `value` are `(batch, heads, tokens, head_dim)`."""
    weights = query @ key.transpose(2, 3) * scaling
    if attention_mask is not None:
        weights = weights + attention_mask
    weights = nn.functional.softmax(weights, dim=-1, dtype=torch.float32).to(query.dtype)
    weights = nn.functional.dropout(weights, p=dropout, training=module.training)
    return (weights @ value).transpose(1, 2).contiguous(), weights


class VitAttention(nn.Module):
    """Attention of all tokens to all, by the implementation that the configuration names."""

    def __init__(self, config: PreTrainedConfig):
        super().__init__()
        self.config = config
        self.is_causal = False
        self.num_heads = config.num_attention_heads
        self.head_dim = config.hidden_size // config.num_attention_heads
        self.scaling = self.head_dim**-0.5
        self.q_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.k_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.v_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.out_proj = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(
        self, hidden_states: torch.Tensor, **kwargs: Unpack[TransformersKwargs]
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        heads = (*hidden_states.shape[:-1], self.num_heads, self.head_dim)
        query = self.q_proj(hidden_states).view(heads).transpose(1, 2)  # (batch, heads, tokens, head_dim)
        key = self.k_proj(hidden_states).view(heads).transpose(1, 2)
        value = self.v_proj(hidden_states).view(heads).transpose(1, 2)
        attention: Callable = ALL_ATTENTION_FUNCTIONS.get_interface(
            self.config._attn_implementation, eager_attention_forward
        )
        dropout = self.config.attention_dropout if self.training else 0.0
        output, weights = attention(
            self, query, key, value, attention_mask=None, scaling=self.scaling, dropout=dropout, **kwargs
        )
        return self.out_proj(output.reshape(hidden_states.shape)), weights


class VitMLP(nn.Module):
    """Two linear layers of a layer."""

    def __init__(self, config: PreTrainedConfig):
        super().__init__()
        self.fc1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.activation = ACT2FN[config.hidden_act]
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.fc2(self.activation(self.fc1(hidden_states)))


class VitLayer(GradientCheckpointingLayer):
    """Pre-norm layer.

    Args:
        config: with `hidden_size`, `intermediate_size`, `num_attention_heads`, `hidden_act`, `layer_norm_eps`,
            `hidden_dropout` and `attention_dropout`.
    """

    def __init__(self, config: PreTrainedConfig):
        super().__init__()
        self.layer_norm1 = FloatLayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.self_attn = VitAttention(config)
        self.layer_norm2 = FloatLayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp = VitMLP(config)
        self.dropout = nn.Dropout(config.hidden_dropout)

    def forward(self, hidden_states: torch.Tensor, **kwargs: Unpack[TransformersKwargs]) -> torch.Tensor:
        return self._through(hidden_states, self.layer_norm1, self.layer_norm2, **kwargs)

    def _through(
        self,
        hidden_states: torch.Tensor,
        layer_norm1: nn.LayerNorm,
        layer_norm2: nn.LayerNorm,
        **kwargs: Unpack[TransformersKwargs],
    ) -> torch.Tensor:
        """Attention and MLP behind the given norms, in the dtype of their weights."""
        dtype = layer_norm1.weight.dtype
        attended, _ = self.self_attn(layer_norm1(hidden_states).to(dtype), **kwargs)
        hidden_states = hidden_states + self.dropout(attended)
        return hidden_states + self.dropout(self.mlp(layer_norm2(hidden_states).to(dtype)))
