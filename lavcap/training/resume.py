"""What decides which model a run ends with: a run and the checkpoint that it continues from are compared by it."""

import dataclasses
import json
from collections.abc import Iterator
from typing import Any

from torch import nn
from transformers import Trainer

from lavcap.commands import listed


ARGUMENTS = (
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "seed",
    "data_seed",
    "train_sampling_strategy",
    "dataloader_drop_last",
    "ignore_data_skip",
    "learning_rate",
    "lr_scheduler_type",
    "lr_scheduler_kwargs",
    "warmup_steps",
    "max_steps",
    "num_train_epochs",
    "optim",
    "optim_args",
    "weight_decay",
    "adam_beta1",
    "adam_beta2",
    "adam_epsilon",
    "max_grad_norm",
    "label_smoothing_factor",
    "neftune_noise_alpha",
    "average_tokens_across_devices",
    "bf16",
    "fp16",
    "tf32",
)
# Fields of a configuration that tell where something comes from, or how it is saved and run.
UNRELATED = {
    "_name_or_path",
    "architectures",
    "auto_map",
    "auto_mapping",
    "base_model_name_or_path",
    "base_parts",
    "dtype",
    "id2label",
    "inference_mode",
    "label2id",
    "peft_version",
    "revision",
    "task_type",
    "text_model_name",
    "transformers_version",
    "use_cache",
    "vision_model_name",
}


def course_of(trainer: Trainer) -> dict[str, Any]:
    """What decides which model a run ends with, as JSON has it; to be asked before an engine takes the model over."""
    args, dataset = trainer.args, trainer.train_dataset
    course = {name: getattr(args, name, None) for name in ARGUMENTS}
    course["num_train_rows"] = len(dataset) if hasattr(dataset, "__len__") else None
    course["shuffle_buffer"] = getattr(dataset, "shuffle_buffer", None)
    augmentation = getattr(trainer.data_collator, "augmentation", None)
    course |= dataclasses.asdict(augmentation) if dataclasses.is_dataclass(augmentation) else {}
    course = json.loads(json.dumps(course | _of_model(trainer.model), default=_as_json))
    if course["lr_scheduler_type"].startswith("constant"):
        course["max_steps"] = course["num_train_epochs"] = None  # the end changes no step before it
    return course


def why_not_to_continue(earlier: dict[str, Any], current: dict[str, Any]) -> str | None:
    """Why the optimizer's state of a checkpoint is of no use to a run; nothing if it is.

    Args:
        earlier, current: of [`course_of`], the checkpoint's and the run's.
    """
    optimizers = [course.get("optim") or "" for course in (earlier, current)]
    if "optim" in earlier and len({name.removesuffix("_fused") for name in optimizers}) > 1:
        return f"its optimizer is {optimizers[0]}, got {optimizers[1]}"
    if "trained" not in earlier or earlier["trained"] == current["trained"]:
        return None
    frozen, others = (
        [name for name in first["trained"] if name not in set(second["trained"])]
        for first, second in ((earlier, current), (current, earlier))
    )
    kinds = {"that are frozen here": frozen, "that it does not have": others}
    named = [f"{len(names)} {what} ({listed(names, 3)})" for what, names in kinds.items() if names]
    return f"it trains other tensors: {' and '.join(named) or 'the same ones in another order'}"


def changes(earlier: dict[str, Any], current: dict[str, Any]) -> list[str]:
    """Settings that both a checkpoint and a run know, and that differ, with both values."""
    names = [name for name in current if name != "trained" and earlier.get(name, current[name]) != current[name]]
    return [f"{name}: {_short(earlier[name])}, now {_short(current[name])}" for name in names]


# -------------------------------------------------------------------------------------------------------- internals


def _of_model(model: nn.Module) -> dict[str, Any]:
    """Configurations of the model and of its LoRA, dtypes, and which tensors are trained.

    An optimizer's state knows these by their order alone: on others it would be loaded just as well.
    """
    base = model.get_base_model() if hasattr(model, "peft_config") else model
    found = dict(_flat(base.config.to_dict(), "model_config."))
    for settings in getattr(model, "peft_config", {}).values():
        found |= dict(_flat(settings.to_dict(), "lora."))
    found["dtypes"] = sorted({str(parameter.dtype) for parameter in model.parameters()})
    found["trained"] = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    return found


def _flat(fields: dict[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for name, value in fields.items():
        if name in UNRELATED:
            continue
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


def _as_json(value: Any) -> Any:
    return sorted(value) if isinstance(value, (set, frozenset)) else str(value)
