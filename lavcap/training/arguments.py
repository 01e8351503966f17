"""The fields of a recipe beside those of the model, and what of them is refused before any work."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import (
    EarlyStoppingCallback,
    Seq2SeqTrainingArguments,
    Trainer,
    TrainerCallback,
    get_scheduler,
)
from transformers.integrations import get_available_reporting_integrations
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

from lavcap.data.augmentation import RELEASED_INSTRUCTIONS, Augmentation
from lavcap.evaluation.names import QUICK_METRICS
from lavcap.models.decoding import MOST
from lavcap.models.families import check_name
from modeling_captioning import ClipModel


# Numbers of a recipe, from the least to the greatest; the library takes others for what they are and fails later.
RANGES: dict[str, tuple[float, float]] = {
    **dict.fromkeys(("per_device_train_batch_size", "per_device_eval_batch_size"), (1, 2**20)),
    **dict.fromkeys(("gradient_accumulation_steps", "eval_accumulation_steps"), (1, 2**20)),
    **dict.fromkeys(("dataloader_num_workers", "dataloader_prefetch_factor"), (0, 1024)),
    **dict.fromkeys(("learning_rate", "adam_epsilon", "max_grad_norm"), (0.0, 1e38)),
    "weight_decay": (0.0, 1.0),
    "neftune_noise_alpha": (0.0, 1e6),
    "ddp_timeout": (1, 10**9),
    "eval_delay": (0, 10**12),
    **dict.fromkeys(("adam_beta1", "adam_beta2"), (0.0, 1 - 1e-12)),
    "num_train_epochs": (1e-9, 1e9),
    "warmup_steps": (0, 10**12),
    **dict.fromkeys(("logging_steps", "eval_steps", "save_steps"), (1e-9, 10**12)),
    "save_total_limit": (1, 10**6),
    **dict.fromkeys(("generation_num_beams", "num_beams"), (1, MOST["num_beams"])),
    **dict.fromkeys(("generation_max_length", "max_new_tokens"), (1, MOST["max_new_tokens"])),
    **dict.fromkeys(("seed", "data_seed"), (0, 2**32 - 1)),
    "cpu_threads": (1, 4096),
    **dict.fromkeys(("shuffle_buffer", "max_train_clips", "max_validation_clips"), (1, 10**12)),
    "max_broken_share": (0.0, 1.0),
    "max_nonfinite_steps": (1, 10**9),
    "sample_captions": (0, 10**6),
    "early_stopping_patience": (1, 10**9),
}
# Fields of the Trainer's that have one value here, and why no other.
FIXED: dict[str, tuple[Any, str]] = {
    "label_smoothing_factor": (
        0,
        "with it the Trainer would put a loss of its own in the place of all terms of the model's",
    ),
    "remove_unused_columns": (False, "a clip is made of columns that no model has"),
    "eval_do_concat_batches": (True, "captions are scored over all batches, as one table"),
}
# What older releases of the Trainer put into `fsdp_config` by themselves.
FSDP_DEFAULTS = {"min_num_params", "xla", "xla_fsdp_v2", "xla_fsdp_grad_ckpt"}


@dataclass
class DataArguments:
    data_dir: str | None = field(
        default=None, metadata={"help": "Prepared data set, shards of one, or a folder in AudioCaps' layout."}
    )
    train_split: str = field(default="train", metadata={"help": "Split to train on."})
    validation_split: str = field(default="val", metadata={"help": "Split to watch during training."})
    validation_data_dir: str | None = field(
        default=None, metadata={"help": "Where the validation split is. Default: data_dir."}
    )
    select_model_on_test_split: bool = field(
        default=False,
        metadata={"help": "Allow test clips for validation. Scores on that test then mean nothing; results say so."},
    )
    skip_missing_media: bool = field(default=False, metadata={"help": "Do without clips whose media are missing."})
    cache_features: bool = field(default=False, metadata={"help": "Keep every clip's features in memory."})
    streaming: bool = field(default=False, metadata={"help": "Read the training split from shards, in a stream."})
    shuffle_buffer: int = field(default=256, metadata={"help": "Rows of a stream to draw the next one from."})
    max_train_clips: int | None = field(default=None, metadata={"help": "Train on the first clips only."})
    max_validation_clips: int | None = field(default=None, metadata={"help": "Validate on the first clips only."})


@dataclass
class AugmentationArguments:
    frequency_mask: int = field(default=0, metadata={"help": "Widest SpecAugment mask in mel bands (released: 48)."})
    time_mask: int = field(default=0, metadata={"help": "Widest SpecAugment mask in frames of 10 ms (released: 192)."})
    noise: bool = field(default=False, metadata={"help": "Add noise to the sound and roll it in time."})
    audio_only_rate: float = field(default=0.0, metadata={"help": "Share of training clips shown without picture."})
    video_only_rate: float = field(default=0.0, metadata={"help": "Share of training clips shown without sound."})
    instructions: list[str] | None = field(
        default=None,
        metadata={"help": "What the model is asked, one drawn per clip; `released` stands for the released eight."},
    )


@dataclass
class MonitoringArguments:
    max_broken_share: float = field(
        default=0.01,
        metadata={"help": "Stop when more than this share of the training clips read, and a few, cannot be decoded."},
    )
    max_nonfinite_steps: int = field(
        default=3, metadata={"help": "Stop after so many steps in a row whose loss or gradient is NaN or infinite."}
    )
    sample_captions: int = field(default=4, metadata={"help": "Validation clips whose captions are shown."})
    early_stopping_patience: int | None = field(
        default=None,
        metadata={"help": "Stop after so many evaluations in a row without a better metric_for_best_model."},
    )
    # The Trainer's filter waits for the device in every micro-batch. Non-finite losses do not reach its sum here.
    logging_nan_inf_filter: bool = field(default=False, metadata={"help": "Leave this off."})


@dataclass
class TrainingArguments(MonitoringArguments, Seq2SeqTrainingArguments):
    # The Trainer knows the model's inputs, not the columns that the collator makes them of.
    remove_unused_columns: bool = field(default=False, metadata={"help": "Leave this off."})
    predict_with_generate: bool = field(
        default=True, metadata={"help": "Caption the validation clips and score them."}
    )
    generation_num_beams: int | None = field(default=1, metadata={"help": "Beams during training's evaluations."})
    halve_lr_at: list[float] | None = field(
        default=None,
        metadata={"help": "Shares of the run after which the learning rate of the schedule is halved: 0.5 0.75."},
    )
    report_to: None | str | list[str] = field(default="tensorboard", metadata={"help": "Where to log."})
    hub_strategy: str = field(default="end", metadata={"help": "When to push to the Hub: `end` or `every_save`."})
    cpu_threads: int | None = field(
        default=None, metadata={"help": "Threads per process on a CPU. Default: its share of the cores."}
    )

    def __post_init__(self):
        super().__post_init__()
        if self.early_stopping_patience is not None:  # an interruption must not begin the count anew
            self.restore_callback_states_from_checkpoint = True


def build_augmentation(args: AugmentationArguments) -> Augmentation:
    given = args.instructions or []
    instructions = [text for name in given for text in (RELEASED_INSTRUCTIONS if name == "released" else [name])]
    return Augmentation(**vars(args) | {"instructions": tuple(instructions)})


def early_stopping(args: Any) -> list[TrainerCallback]:
    """What stops a run whose metric gets no better, if `early_stopping_patience` of training arguments asks for it."""
    return [] if args.early_stopping_patience is None else [EarlyStoppingCallback(args.early_stopping_patience)]


def check_monitoring(args: Any):
    """Refuse fields of [`MonitoringArguments`], metrics and loggers that a run would stumble over later.

    Args:
        args: training arguments.

    Raises:
        ValueError: names the field.
    """
    check_ranges(args)
    _check_best_metric(args)
    available = get_available_reporting_integrations()
    for name in args.report_to or ():
        if name not in INTEGRATION_TO_CALLBACK:
            raise ValueError(f"report_to is {name!r}, expected some of {', '.join(INTEGRATION_TO_CALLBACK)}, or none.")
        if name not in available:
            raise ValueError(
                f"report_to is {name!r}, but that package is not installed, or is switched off; install it (pip "
                f"install {name}), or pass --report_to none."
            )


def check_ranges(*groups: Any):
    """Refuse numbers outside of [`RANGES`].

    Args:
        groups: data classes of a recipe.

    Raises:
        ValueError: names the field, and what was expected.
    """
    for group in groups:
        for name, (least, most) in RANGES.items():
            value = getattr(group, name, None)
            if isinstance(value, (int, float)) and not least <= value <= most:  # NaN is neither
                expected = f"at least {least:g}" if most > 2**16 else f"{least:g} to {most:g}"
                raise ValueError(f"{name} is {value}, expected {expected}.")
        steps = getattr(group, "max_steps", -1)
        if steps != -1 and steps < 1:
            raise ValueError(f"max_steps is {steps}, expected at least 1, or -1 for num_train_epochs.")


def check_clips(args: TrainingArguments, clips: int):
    """Refuse a run that would not take a step: the last batch is dropped, and it is the only one.

    Raises:
        ValueError: with both numbers.
    """
    batch = args.per_device_train_batch_size * args.world_size
    if args.dataloader_drop_last and clips < batch:
        raise ValueError(
            f"dataloader_drop_last leaves nothing of {clips} rows to train on: a step takes {batch} "
            "(per_device_train_batch_size times processes); leave it out, or take smaller batches."
        )


def check_training_options(args: TrainingArguments):
    """Refuse fields of the Trainer's that a captioner cannot be trained with.

    Raises:
        ValueError: names the field.
    """
    if args.fp16 and args.device.type == "cpu":
        raise ValueError(
            "fp16 is on, but a CPU does not train in it, and would say nothing; take bf16, or leave it out."
        )
    if args.fsdp_config and not args.fsdp and set(args.fsdp_config) - FSDP_DEFAULTS:
        raise ValueError("Got fsdp_config without fsdp, which it would be of: pass fsdp, too, or leave it out.")
    _check_schedule(args)
    if isinstance(args.generation_config, (str, Path)):
        check_name(args.generation_config)
    if any(not 0 < share < 1 for share in args.halve_lr_at or ()):
        raise ValueError(f"halve_lr_at is {args.halve_lr_at}, expected shares of the run between 0 and 1.")
    for name, (expected, reason) in FIXED.items():
        if getattr(args, name) != expected:
            raise ValueError(f"{name} is {getattr(args, name)}, expected {expected}: {reason}; leave it out.")
    if args.train_sampling_strategy not in ("random", "sequential"):
        raise ValueError(
            f"train_sampling_strategy is {args.train_sampling_strategy!r}, expected 'random' or 'sequential': clips "
            "have no lengths to group them by."
        )


def check_optimizer(args: TrainingArguments, model: nn.Module):
    """Refuse an optimiser that cannot be made of this model on this machine.

    Raises:
        ValueError: with the library's reason, such as a package that is not installed.
    """
    try:
        Trainer.get_optimizer_cls_and_kwargs(args, model)
    except (ImportError, NotImplementedError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(
            f"optim is {args.optim.value!r}, which cannot be had here ({reason}); name another."
        ) from error


def check_batch_size(args: TrainingArguments, model: ClipModel):
    """Refuse batches that are too small for a term of the model's loss.

    Raises:
        ValueError: batches of one process have fewer clips than are to be compared.
    """
    if args.per_device_train_batch_size < model.least_batch_size:
        raise ValueError(
            f"per_device_train_batch_size is {args.per_device_train_batch_size}, expected at least "
            f"{model.least_batch_size}: the loss compares the clips of a batch with each other, and "
            "gradient_accumulation_steps do not make it larger."
        )


# -------------------------------------------------------------------------------------------------------- internals


def _check_schedule(args: Any):
    """Refuse options that the learning rate's schedule does not have: it is made when a run begins."""
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    options = {"scheduler_specific_kwargs": dict(args.lr_scheduler_kwargs or {})}
    try:
        get_scheduler(args.lr_scheduler_type, optimizer, num_warmup_steps=1, num_training_steps=100, **options)
    except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        raise ValueError(
            f"lr_scheduler_kwargs is {args.lr_scheduler_kwargs}, which {args.lr_scheduler_type} does not take "
            f"({' '.join(str(error).split())})."
        ) from error


def _check_best_metric(args: Any):
    metric, patience = args.metric_for_best_model, args.early_stopping_patience
    if patience is not None and (metric is None or args.eval_strategy == "no"):
        missing = "metric_for_best_model, such as cider_d" if metric is None else "eval_strategy, steps or epoch"
        raise ValueError(f"early_stopping_patience is {patience}, which needs {missing}.")
    if metric is None:
        return
    known = ["loss", *(QUICK_METRICS if args.predict_with_generate else ())]
    if metric.removeprefix("eval_") not in known:
        raise ValueError(f"metric_for_best_model is {metric!r}, expected one of {', '.join(known)}.")
