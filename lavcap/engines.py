"""What the engines of Accelerate ask of a training, beyond what the Trainer does for them."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers import Trainer, TrainingArguments
from transformers.integrations.deepspeed import (
    is_deepspeed_zero3_enabled,
    set_hf_deepspeed_config,
    unset_hf_deepspeed_config,
)


@contextmanager
def whole_weights(args: TrainingArguments) -> Iterator[None]:
    """Build or load a model with whole weights in every process, under ZeRO-3 too.

    Transformers would share the weights of each part out as it is made, and what assembles a model of parts, starts a
    fresh one or adds an adapter needs them whole. DeepSpeed shares them out when training begins.
    """
    plugin = args.deepspeed_plugin
    config = plugin and (getattr(plugin, "dschf", None) or plugin.hf_ds_config)
    if config is None or not is_deepspeed_zero3_enabled():
        yield
        return
    unset_hf_deepspeed_config()
    try:
        yield
    finally:
        set_hf_deepspeed_config(config)


class FeaturesInFloat32:
    """A Trainer that leaves features as they are: under DeepSpeed's bfloat16 it would round them before the model."""

    def _prepare_input(self, data: Any) -> Any:
        return data.to(self.args.device) if isinstance(data, torch.Tensor) else super()._prepare_input(data)


def shares_weights(trainer: Trainer) -> bool:
    """Whether processes need each other in every forward pass: then all generate as many tokens as the slowest."""
    return trainer.args.world_size > 1 and (is_deepspeed_zero3_enabled() or trainer.is_fsdp_enabled)
