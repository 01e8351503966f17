"""The fields of a recipe beside those of the model, and what of them is refused before any work."""

from dataclasses import dataclass, field
from typing import Any

from torch import nn
from transformers import EarlyStoppingCallback, Seq2SeqTrainingArguments, Trainer, TrainerCallback
from transformers.integrations import get_available_reporting_integrations
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

from lavcap.data.augmentation import RELEASED_INSTRUCTIONS, Augmentation
from lavcap.evaluation.names import QUICK_METRICS


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
    if not 0 <= args.max_broken_share <= 1:
        raise ValueError(f"max_broken_share is {args.max_broken_share}, expected a share from 0 to 1.")
    for name, least in (("max_nonfinite_steps", 1), ("sample_captions", 0), ("early_stopping_patience", 1)):
        value = getattr(args, name)
        if value is not None and value < least:
            raise ValueError(f"{name} is {value}, expected at least {least}.")
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


def check_training_options(args: TrainingArguments):
    """Refuse fields of the Trainer's that a captioner cannot be trained with.

    Raises:
        ValueError: names the field.
    """
    if any(not 0 < share < 1 for share in args.halve_lr_at or ()):
        raise ValueError(f"halve_lr_at is {args.halve_lr_at}, expected shares of the run between 0 and 1.")
    if args.label_smoothing_factor:
        raise ValueError(
            f"label_smoothing_factor is {args.label_smoothing_factor}, expected 0: with it the Trainer would put a "
            "loss of its own in the place of all terms of the model's; leave it out."
        )
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


# -------------------------------------------------------------------------------------------------------- internals


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
