# Copyright 2026 The LAVCap for Transformers authors. Licensed under the Apache License, Version 2.0.
"""Arithmetic in float32 whatever the dtype of the weights, where rounding costs most."""

import torch
from torch import nn


def at_least_float32(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor in float32, or as it is where it has more bits."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


class FloatLayerNorm(nn.LayerNorm):
    """LayerNorm in float32 whatever the dtype of its weights, as under autocast: the residual stream loses no bits."""

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        weight, bias = at_least_float32(self.weight), at_least_float32(self.bias)
        return nn.functional.layer_norm(hidden_states.to(weight.dtype), self.normalized_shape, weight, bias, self.eps)


class _FloatConvolution:
    """Convolution in float32 whatever the dtype of its weights: rounded features would cost a plan most bits."""

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        weight = at_least_float32(self.weight)
        bias = None if self.bias is None else at_least_float32(self.bias)  # an adapter's copy of the layer has none
        return self._conv_forward(features.to(weight.dtype), weight, bias)


class FloatConv2d(_FloatConvolution, nn.Conv2d):
    """Of pictures and spectrograms."""


class FloatConv3d(_FloatConvolution, nn.Conv3d):
    """Of films."""
