"""May a run continue from a checkpoint: which one is there, is it whole, and is it one of this model and this run.

A checkpoint of another kind is refused. One that was made with other settings is continued from with a warning: the
run then does not end with the model of a run without an interruption.
"""

import dataclasses
import json
from collections.abc import Iterator
from operator import attrgetter
from pathlib import Path
from typing import Any

from accelerate.utils import gather_object
from peft import PeftModel, get_peft_model_state_dict
from torch import nn
from transformers import Trainer, TrainerCallback, TrainerState, TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME
from transformers.utils import logging

from adapters_captioning import ADAPTER_SETTINGS, check_base
from lavcap.arguments import listed
from lavcap.files import check_new_folder, check_writable
from lavcap.models.building import plain
from lavcap.models.saved_weights import check_weights_fit
from lavcap.provenance import PROVENANCE_FILE
from lavcap.training.checkpoints import (
    RECORD,
    CheckpointError,
    checkpoint_folders,
    damaged_files,
    is_complete,
    is_usable,
    lacking_files,
    last_checkpoint,
    read_record,
    step_of,
)
from lavcap.training.distributed import engine_name
from parts_captioning import find_file, read_json


logger = logging.get_logger(__name__)

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
    "halve_lr_at",
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
# Fields of a configuration that tell where something comes from, or how it is saved and run; so do all `…_model_name`.
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
    "transformers_version",
    "use_cache",
}
# Fields of LoRA that shape its tensors and what becomes of them.
LORA_FIELDS = ("r", "lora_alpha", "target_modules", "modules_to_save", "rank_pattern", "alpha_pattern", "bias")
LORA_FIELDS += ("use_dora", "use_rslora")


class IntactCheckpoint(str):
    """Path of a checkpoint whose files were read, and hold what was saved: nobody needs to read them again."""


# ------------------------------------------------------------------------------------------------ which one is there


def find_checkpoint(args: TrainingArguments) -> IntactCheckpoint | None:
    """Checkpoint that a command is to continue from; none if the run is new, or begun without a complete one.

    Of several processes all find the same one.

    Raises:
        ValueError: no such checkpoint, one that lacks files or whose files are damaged; or the output folder holds
            another run, or cannot be written.
    """
    if args.save_on_each_node:
        raise CheckpointError("Got save_on_each_node, expected an output_dir that all machines share; leave it off.")
    if args.process_index == 0:
        check_writable(args.output_dir, "--output_dir")
    wanted = args.resume_from_checkpoint
    if wanted is None or wanted.lower() == "false":
        if args.process_index == 0:
            check_new_folder(args.output_dir, "--output_dir")
        return None
    if wanted.lower() == "true":
        return _newest_checkpoint(args)
    if not Path(wanted).is_dir():
        raise CheckpointError(f"{wanted}: no such checkpoint; check --resume_from_checkpoint.")
    check_checkpoint_is_whole(Path(wanted))
    check_checkpoint_is_intact(Path(wanted), args)
    if Path(wanted).resolve().parent == Path(args.output_dir).resolve():
        _check_is_newest(Path(wanted), Path(args.output_dir))
    else:
        check_new_folder(args.output_dir, "--output_dir")
    return IntactCheckpoint(wanted)


# -------------------------------------------------------------------------------------------------------- is it whole


def check_checkpoint_is_whole(checkpoint: Path):
    """Refuse a checkpoint that lacks files.

    One without `checkpoint.json` was not written by this project's trainer, or by an earlier one: it is taken, with a
    warning, if it holds the file that the library writes last.

    Raises:
        CheckpointError: with what is missing, and which is the last complete one beside it.
    """
    record = read_record(checkpoint)
    if record is None and is_usable(checkpoint):
        logger.warning(f"{checkpoint}: has no {RECORD}; whether all of its files are whole is not known.")
        return
    if record is not None and not record["resumable"]:
        raise CheckpointError(
            f"{checkpoint}: was saved with save_only_model, without the state of the optimizer; name it with "
            "--model_name_or_path to start a new run from it."
        )
    missing = lacking_files(checkpoint)
    if missing:
        last = last_checkpoint(checkpoint.parent)
        hint = f"the last complete one is {last}." if last else "no other one there is complete."
        raise CheckpointError(f"{checkpoint}: is not complete, it lacks {listed(missing)}; {hint}")


def check_checkpoint_is_intact(checkpoint: Path, args: TrainingArguments):
    """Refuse a checkpoint whose files do not hold what they were saved with; to be called by all processes.

    Raises:
        CheckpointError: in every process, with the files.
    """
    if damaged := _damaged_anywhere(checkpoint, args):
        complete = [folder for folder in checkpoint_folders(checkpoint.parent) if is_complete(folder)]
        others = [folder for folder in complete if folder.resolve() != checkpoint.resolve()]
        hint = f"another complete one is {others[-1]}." if others else "no other one there is complete."
        raise CheckpointError(f"{checkpoint}: {_damage(damaged)}; {hint}")


# ---------------------------------------------------------------------------------- is it one of this model and run


def check_checkpoint(model: nn.Module, checkpoint: str | Path):
    """Refuse to continue from a checkpoint of another language model, from one of another kind, or of other tensors.

    Raises:
        ValueError: with what was expected and what was got.
    """
    theirs, lora = (read_json(find_file(checkpoint, name, {})) for name in ("config.json", ADAPTER_SETTINGS))
    captioner = plain(model)
    check_base(captioner.config, checkpoint, theirs)
    is_adapter = bool(lora)
    if is_adapter != isinstance(model, PeftModel):
        kinds = {True: "an adapter", False: "a whole model"}
        raise ValueError(
            f"{checkpoint}: is a checkpoint of {kinds[is_adapter]}, but the recipe trains {kinds[not is_adapter]}: "
            "continue with the recipe that it was made with."
        )
    ours = captioner.config
    changed = [name for name in captioner.resume_fields if _field(theirs, name) not in (None, attrgetter(name)(ours))]
    if is_adapter:
        own = model.peft_config["default"]
        changed += [f"lora.{name}" for name in LORA_FIELDS if name in lora and _differ(lora[name], getattr(own, name))]
    if changed:
        raise ValueError(
            f"{checkpoint}: was made with another {', '.join(changed)}; continue with the recipe that it was made "
            "with, or name it as model_name_or_path of a new run."
        )
    if files := sorted(Path(checkpoint).glob("*.safetensors")):  # some engines have other files
        own = get_peft_model_state_dict(model) if is_adapter else captioner.state_dict(keep_vars=True)
        check_weights_fit(captioner, own, checkpoint, files, "the recipe")


def _field(config: dict[str, Any], name: str) -> Any:
    """A field of a saved configuration, or one of a part's, as `part.field`; `None` if it is not there."""
    for part in name.split("."):
        config = config.get(part) if isinstance(config, dict) else None
    return config


def check_resumable(checkpoint: str, trainer: Trainer, settings: dict[str, Any]):
    """Refuse what a run cannot continue from; warn of what makes it another run. To be called by all processes.

    Args:
        checkpoint: whose files are read, if that is not an [`IntactCheckpoint`].
        settings: of [`run_settings`].

    Raises:
        CheckpointError: it lacks files or is damaged, or it is one of another engine, optimizer or set of trained
            tensors.
    """
    if not isinstance(checkpoint, IntactCheckpoint):
        check_checkpoint_is_whole(Path(checkpoint))
        check_checkpoint_is_intact(Path(checkpoint), trainer.args)
    record = read_record(Path(checkpoint))
    if record is None:
        return
    engine, processes = engine_name(trainer.accelerator), trainer.args.world_size
    if engine != record["engine"] or (engine.startswith("DeepSpeed") and processes != record["num_processes"]):
        raise CheckpointError(
            f"{checkpoint}: was made by {record['num_processes']} processes ({record['engine']}), got "
            f"{processes} ({engine}); continue with the launch settings that it was made with."
        )
    earlier, current = record["course"] | {"processes": record["num_processes"]}, settings | {"processes": processes}
    if reason := incompatibility(earlier, current):
        raise CheckpointError(
            f"{checkpoint}: cannot be continued from: {reason}; continue with the recipe that it was made with, "
            "or name it as model_name_or_path of a new run."
        )
    if changed := changed_settings(earlier, current):
        logger.warning(
            f"{checkpoint}: was made with other settings ({'; '.join(changed)}): the run goes on, but does not "
            "end with the model of a run without an interruption."
        )


def run_settings(trainer: Trainer) -> dict[str, Any]:
    """What decides which model a run ends with, as JSON has it; to be asked before an engine takes the model over."""
    args, dataset = trainer.args, trainer.train_dataset
    settings = {name: getattr(args, name, None) for name in ARGUMENTS}
    settings["num_train_rows"] = len(dataset) if hasattr(dataset, "__len__") else None
    settings["shuffle_buffer"] = getattr(dataset, "shuffle_buffer", None)
    augmentation = getattr(trainer.data_collator, "augmentation", None)
    settings |= dataclasses.asdict(augmentation) if dataclasses.is_dataclass(augmentation) else {}
    settings = json.loads(json.dumps(settings | _of_model(trainer.model), default=_as_json))
    if settings["lr_scheduler_type"].startswith("constant") and not settings["halve_lr_at"]:
        settings["max_steps"] = settings["num_train_epochs"] = None  # the end changes no step before it
    return settings


def incompatibility(earlier: dict[str, Any], current: dict[str, Any]) -> str | None:
    """Why the optimizer's state of a checkpoint is of no use to a run; nothing if it is.

    Args:
        earlier, current: of [`run_settings`], the checkpoint's and the run's.
    """
    optimizers = [settings.get("optim") or "" for settings in (earlier, current)]
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


def changed_settings(earlier: dict[str, Any], current: dict[str, Any]) -> list[str]:
    """Settings that both a checkpoint and a run know, and that differ, with both values."""
    names = [name for name in current if name != "trained" and earlier.get(name, current[name]) != current[name]]
    return [f"{name}: {_short(earlier[name])}, now {_short(current[name])}" for name in names]


# ------------------------------------------------------------------------------------------------------- going on


class Continuation(TrainerCallback):
    """Mends what the Trainer takes up of a checkpoint: where the best one so far is, and that the run may be over.

    Killed between its last checkpoint and its end, a run must not take one step more.

    Attributes:
        checkpoint: that the run continues from.
        is_over: whether that is of the last step, so that nothing is left to do.
    """

    def __init__(self):
        self.checkpoint: Path | None = None
        self.is_over = False

    def on_train_begin(self, args, state, control, **kwargs):
        if state.global_step > state.max_steps:
            raise CheckpointError(
                f"{self.checkpoint}: is of step {state.global_step}, but the run is to end at step {state.max_steps}: "
                "raise max_steps or num_train_epochs, or resume from an earlier checkpoint in another --output_dir."
            )
        self.is_over = state.global_step == state.max_steps
        if self.checkpoint is not None:
            find_best(state, self.checkpoint, Path(args.output_dir))

    def on_epoch_begin(self, args, state, control, **kwargs):
        control.should_training_stop |= self.is_over

    def on_epoch_end(self, args, state, control, **kwargs):
        if self.is_over:  # the last step has been logged, evaluated and saved
            control.should_log = control.should_evaluate = control.should_save = False


def find_best(state: TrainerState, resumed: Path, run: Path):
    """Tell a state where the best checkpoint so far is: the run may have been moved, or the folder been removed."""
    noted = TrainerState.load_from_json(str(resumed / TRAINER_STATE_NAME)).best_model_checkpoint
    if noted is None:
        return
    places = (resumed.parent / Path(noted).name, run / Path(noted).name, Path(noted))
    best = next((place for place in places if is_usable(place)), None)
    state.best_model_checkpoint = best and str(best)
    if best is None:
        state.best_metric = state.best_global_step = None
        logger.warning(f"{noted}: the best checkpoint so far is gone; the best is sought anew from here on.")


# -------------------------------------------------------------------------------------------------------- internals


def _newest_checkpoint(args: TrainingArguments) -> IntactCheckpoint | None:
    run = Path(args.output_dir)
    folders = checkpoint_folders(run)
    complete = set.intersection(*gather_object([{folder.name for folder in folders if is_complete(folder)}]))
    damaged: dict[str, list[str]] = {}
    for folder in reversed([folder for folder in folders if folder.name in complete]):
        damaged[folder.name] = _damaged_anywhere(folder, args)
        if not damaged[folder.name]:
            if broken := [folder.name for folder in folders if folder.name not in complete]:
                logger.warning(f"{run}: {listed(broken)} not complete, and left aside.")
            return IntactCheckpoint(folder)
        logger.warning(f"{folder}: {_damage(damaged[folder.name])}; it is left aside.")
    if folders:
        raise CheckpointError(
            f"{run}: holds no complete checkpoint; {folders[-1].name} {_lack(folders[-1], damaged)}: name one with "
            "--resume_from_checkpoint to see whether it can be used, or start anew in another --output_dir."
        )
    if (run / PROVENANCE_FILE).is_file():
        logger.warning(f"{run}: holds a run without a complete checkpoint, which begins anew.")
        return None
    raise CheckpointError(f"{run}: holds no checkpoint to resume from; leave --resume_from_checkpoint out.")


def _lack(checkpoint: Path, damaged: dict[str, list[str]]) -> str:
    """Why a checkpoint cannot be continued from; `damaged` are files by the name of their checkpoint."""
    if lacking := lacking_files(checkpoint):
        return f"lacks {listed(lacking)}"
    if not is_complete(checkpoint):
        return "lacks the state of the optimizer"
    return _damage(damaged[checkpoint.name]) if checkpoint.name in damaged else "is not whole on every machine"


def _damaged_anywhere(checkpoint: Path, args: TrainingArguments) -> list[str]:
    """Damaged files that any machine finds, told to every process; one process of a machine reads them."""
    found = damaged_files(checkpoint) if args.local_process_index == 0 else []
    return sorted({name for names in gather_object([found]) for name in names})


def _damage(names: list[str]) -> str:
    return f"is damaged, {listed(names)} {'does' if len(names) == 1 else 'do'} not hold what was saved"


def _check_is_newest(checkpoint: Path, run: Path):
    # Steps of two histories in one folder: the next interruption would go on from the wrong one.
    newer = [folder.name for folder in checkpoint_folders(run) if step_of(folder) > step_of(checkpoint)]
    if newer:
        raise CheckpointError(
            f"{run}: holds newer checkpoints than {checkpoint.name} ({listed(newer)}); move them away, or name a new "
            "--output_dir to go on from it."
        )


def _differ(told: Any, ours: Any) -> bool:
    """Whether two values of a field of LoRA differ; lists of names have no order."""
    as_set = [set(value) if isinstance(value, (list, set, tuple)) else value or None for value in (told, ours)]
    return as_set[0] != as_set[1]


def _of_model(model: nn.Module) -> dict[str, Any]:
    """Configurations of the model and of its LoRA, dtypes, and which tensors are trained.

    An optimizer's state knows these by their order alone: on others it would be loaded just as well.
    """
    base = model.get_base_model() if hasattr(model, "peft_config") else model
    found = dict(_flat(base.config.to_dict(), "model_config."))
    for adapter in getattr(model, "peft_config", {}).values():
        found |= dict(_flat(adapter.to_dict(), "lora."))
    found["dtypes"] = sorted({str(parameter.dtype) for parameter in model.parameters()})
    found["trained"] = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    return found


def _flat(fields: dict[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for name, value in fields.items():
        if name in UNRELATED or name.endswith("_model_name"):
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
