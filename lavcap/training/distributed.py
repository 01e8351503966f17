"""What the engines of Accelerate ask of a training, beyond what the Trainer does for them."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch.nn.modules.batchnorm import _BatchNorm
from transformers import Trainer, TrainerCallback, TrainingArguments
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


class SharedStatistics(TrainerCallback):
    """Gives all processes the mean of their BatchNorms' statistics after each step.

    Every process then evaluates the model that one of them saves. Statistics that are frozen stay as they are.
    """

    def __init__(self, accelerator: Accelerator):
        self.accelerator = accelerator

    def on_step_end(self, args, state, control, model=None, **kwargs):
        if self.accelerator.num_processes == 1:
            return
        for module in model.modules():
            if isinstance(module, _BatchNorm) and module.weight.requires_grad:
                for statistic in (module.running_mean, module.running_var):
                    statistic.copy_(self.accelerator.reduce(statistic, "mean"))


def repeated_rows(accelerator: Accelerator, batch_size: int, num_rows: int) -> torch.Tensor:
    """Rows of a process' batch with which Accelerate has filled up the last one of an epoch: its first rows, again.

    Args:
        batch_size: rows of the batch.
        num_rows: of the epoch, of all processes.

    Returns:
        Numbers of the rows, the last ones of the batch: `(rows,)` int64.
    """
    rows = torch.arange(batch_size)
    rest = num_rows % (batch_size * accelerator.num_processes)
    if accelerator.num_processes == 1 or not rest or not accelerator.gradient_state.end_of_dataloader:
        return rows[:0]
    return rows[rows + batch_size * accelerator.process_index >= rest]


def shares_weights(trainer: Trainer) -> bool:
    """Whether processes need each other in every forward pass: then all generate as many tokens as the slowest."""
    return trainer.args.world_size > 1 and (is_deepspeed_zero3_enabled() or trainer.is_fsdp_enabled)


def engine_name(accelerator: Accelerator) -> str:
    """What shares the work out among processes, which a checkpoint's files depend on."""
    kind = accelerator.distributed_type
    if kind == DistributedType.DEEPSPEED:
        return f"DeepSpeed ZeRO-{accelerator.state.deepspeed_plugin.zero_stage}"
    return "FSDP" if kind == DistributedType.FSDP else "replicas"


def on_device(batch: Mapping[str, Any], device: torch.device) -> dict[str, Any]:
    """A batch on a device, with the dtypes that it has."""
    return {name: value.to(device) if isinstance(value, torch.Tensor) else value for name, value in batch.items()}


def use_cpu_cores(args: Any):
    """`accelerate launch` leaves a CPU process one thread; give it its share of the cores, and pin no memory.

    Args:
        args: of the training, whose `dataloader_pin_memory` is set.
    """
    if args.device.type == "cpu":
        processes = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
        torch.set_num_threads(args.cpu_threads or max(1, (os.cpu_count() or 1) // processes))
        args.dataloader_pin_memory = False  # torch would warn at every loader
