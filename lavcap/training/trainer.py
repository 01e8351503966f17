"""`Seq2SeqTrainer` for captioners: loss on prompt and caption, captions generated from the prompt alone.

The trainer holds what does its work: `meter` (what is logged, and steps that are left out), `totals` (of the whole
run), `counts` (what losses are averaged over), `checkpoints` (how it saves), `continuation` (what it goes on from),
`publisher` (uploads). Its methods are those of the library where one of these has something to do.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object
from torch import nn
from torch.utils.data import DataLoader, IterableDataset
from transformers import Seq2SeqTrainer, Trainer, TrainerCallback
from transformers.trainer_callback import ExportableState
from transformers.utils import logging

from lavcap.data.collation import BROKEN, model_inputs
from lavcap.data.streaming import ClipStream
from lavcap.models.building import plain
from lavcap.models.families import is_out_of_memory
from lavcap.models.lora import PEFT_PREFIX
from lavcap.provenance import write_provenance
from lavcap.training.broken_clips import BrokenClips, TrainingStopped
from lavcap.training.checkpoint_writer import CheckpointWriter
from lavcap.training.checkpoints import CheckpointError, last_checkpoint
from lavcap.training.data import stream_loader, with_own_workers
from lavcap.training.distributed import SharedStatistics, on_device, shares_weights
from lavcap.training.losses import EvaluationLoss, StepCounts, labels_of, wanted_logits, without_repeated
from lavcap.training.meter import Meter, setting, settle
from lavcap.training.publisher import Publisher, check_hub_options, open_hub
from lavcap.training.resume import Continuation, check_resumable
from lavcap.training.run_totals import RunTotals, Totals, totals_at
from sources_captioning import MediaError


logger = logging.get_logger(__name__)

GENERATION_PREFIX = "generation_"

# Errors that say what a user needs to know.
TOLD = (CheckpointError, MediaError, TrainingStopped, OSError)


class CaptioningTrainer(Seq2SeqTrainer):
    """Trainer of a captioner, whole or with an adapter, by any engine of Accelerate.

    It generates from `generation_input_ids`, and normalises the terms of the loss over the whole optimiser step. Steps
    that are not finite and clips that are broken are left out. Its folder holds whole checkpoints alone; a run that
    was interrupted ends with the model and the figures of one that was not.

    With `push_to_hub`, the repository is made before training, so that a rejected token does not show after it.
    `push_to_hub()` uploads the output folder once; `save_model` alone uploads nothing.

    Args:
        eval_data_collator: makes the batches of evaluation, with the prompt alone under `generation_*`; the training
            collator hides modalities and has no prompt.

    Raises:
        CheckpointError: by `train`, a checkpoint of another engine, optimizer or set of trained tensors, one that
            lacks files or is damaged; by all that write, files that cannot be written, such as on a full disk.
        TrainingStopped: by `train`, too many clips are broken, too many steps are not finite, or none had anything to
            learn from.
    """

    def __init__(self, *args, eval_data_collator=None, **kwargs):
        super().__init__(*args, **kwargs)
        self._captioner = plain(self.model)
        self._eval_data_collator = eval_data_collator or self.data_collator
        self._evaluation, self._num_evaluated, self._eval_broken = EvaluationLoss(self._captioner), 0, {}
        most_broken = setting(self.args, "max_broken_share")
        self.broken_clips = BrokenClips(self.args.output_dir, most_broken, self.is_world_process_zero())
        over_processes = self.args.average_tokens_across_devices and self.args.world_size > 1
        self.counts = StepCounts(self._captioner, self.accelerator, over_processes)
        self.meter = Meter(self._captioner, self.accelerator, self.broken_clips)
        self.totals = RunTotals(self)
        self.checkpoints = CheckpointWriter(self, self.totals)
        self.continuation = Continuation()
        self.publisher = Publisher(self)
        self.epochs = EpochOfDraws(self)
        callbacks = (self.checkpoints, self.continuation, self.publisher, self.meter, self.totals)
        for callback in (*callbacks, SharedStatistics(self.accelerator), self.epochs):
            self.add_callback(callback)

    # ------------------------------------------------------------------------------------------------- the whole run

    def train(self, resume_from_checkpoint: str | bool | None = None, *args, **kwargs):
        if resume_from_checkpoint is True:
            resume_from_checkpoint = last_checkpoint(self.args.output_dir)
            if resume_from_checkpoint is None:
                raise CheckpointError(f"{self.args.output_dir}: holds no complete checkpoint to continue from.")
        settings, checkpoint = self.checkpoints.begin(), None
        if resume_from_checkpoint:
            check_resumable(resume_from_checkpoint, self, settings)
            checkpoint = Path(resume_from_checkpoint)
        self.continuation.checkpoint = checkpoint
        self.totals.earlier = totals_at(checkpoint) if checkpoint else Totals()
        with self.checkpoints.full_disk_is_told():
            try:
                result = super().train(checkpoint and str(checkpoint), *args, **kwargs)
            except TOLD:
                raise
            except Exception as error:
                if reason := self._reason_to_stop(error):
                    raise TrainingStopped(reason) from error
                raise
            finally:
                settle(self.callback_handler.callbacks)
        if not self.state.global_step:
            raise TrainingStopped(
                "Training took no step: check max_steps, num_train_epochs and the rows of the split."
            )
        if not self.continuation.is_over and not self.counts.has_learned():
            raise TrainingStopped(self._nothing_learned())
        return result._replace(training_loss=result.metrics["train_loss"])

    def _nothing_learned(self) -> str:
        broken = self.broken_clips
        cause = "their clips have no caption that the model could learn"
        if broken.num_broken:
            cause = f"{broken.num_broken} of {broken.num_read} clips read are broken; {broken.path} has the reasons"
        return f"No step had anything to learn from: {cause}. Mend the clips or their rows, and train anew."

    def _reason_to_stop(self, error: Exception) -> str | None:
        """What is said of an error: of memory, or of options that the first step is the first to use."""
        if is_out_of_memory(error):
            return (
                f"There is not enough memory for steps of {self.args.per_device_train_batch_size} clips: halve "
                "per_device_train_batch_size and double gradient_accumulation_steps, or turn on "
                "gradient_checkpointing. Checkpoints stay, and training goes on from the last one."
            )
        if self.state.global_step:
            return None
        return (
            f"The first step cannot be taken ({type(error).__name__}: {' '.join(str(error).split())[:500]}): an "
            "option does not go with this model, its data or this machine. LAVCAP_TRACEBACK=1 shows where."
        )

    def log(self, logs: dict[str, float], start_time: float | None = None):
        if "loss" in logs:
            self.meter.complete(logs)
            self.totals.note_log()
        elif "train_loss" in logs:
            self.totals.complete(logs)
        super().log(logs, start_time)

    # ------------------------------------------------------------------------------------------------------ batches

    def get_train_dataloader(self) -> DataLoader:
        if isinstance(self.train_dataset, ClipStream):
            return stream_loader(self.train_dataset, self.args, self.data_collator)
        return with_own_workers(super().get_train_dataloader(), self.args.seed)

    def get_eval_dataloader(self, eval_dataset=None) -> DataLoader:
        with self._evaluation_collator():
            return with_own_workers(super().get_eval_dataloader(eval_dataset), self.args.seed)

    def get_test_dataloader(self, test_dataset) -> DataLoader:
        with self._evaluation_collator():
            return with_own_workers(super().get_test_dataloader(test_dataset), self.args.seed)

    @contextmanager
    def _evaluation_collator(self) -> Iterator[None]:
        training_collator, self.data_collator = self.data_collator, self._eval_data_collator
        try:
            yield
        finally:
            self.data_collator = training_collator

    def get_batch_samples(self, epoch_iterator, num_batches, device):
        if self.control.should_training_stop:
            return [], None
        if not isinstance(self.train_dataset, IterableDataset):  # `ClipStream` marks what it repeats
            epoch_iterator = (self._without_repeated(batch, len(self.train_dataset)) for batch in epoch_iterator)
        batches, num_tokens = super().get_batch_samples(epoch_iterator, num_batches, device)
        self.meter.begin_step(batches)
        return [model_inputs(batch) for batch in batches], self.counts.count(batches, num_tokens, device)

    def _without_repeated(self, batch: Any, num_rows: int) -> Any:
        return without_repeated(batch, num_rows, self.accelerator, self.processing_class)

    def _prepare_input(self, data: Any) -> Any:
        # Under DeepSpeed's bfloat16 the library would round features before the model.
        return data.to(self.args.device) if isinstance(data, torch.Tensor) else super()._prepare_input(data)

    # -------------------------------------------------------------------------------------------------------- steps

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        groups = self._captioner.parameter_groups()
        decayed = {name for group in groups if group["decay"] for name in group["names"]}
        return [name for name, _ in model.named_parameters() if name.removeprefix(PEFT_PREFIX) in decayed]

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None):
        scheduler = super().create_scheduler(num_training_steps, optimizer)
        steps = [share * num_training_steps for share in getattr(self.args, "halve_lr_at", None) or ()]
        if steps:
            scheduler.lr_lambdas = [partial(_halved, factor, steps) for factor in scheduler.lr_lambdas]
        return scheduler

    def _load_optimizer_and_scheduler(self, checkpoint: str | None):
        try:
            super()._load_optimizer_and_scheduler(checkpoint)
        except ValueError as error:  # of a checkpoint that does not tell which tensors it trains
            raise CheckpointError(
                f"{checkpoint}: its optimizer.pt is of another model ({error}); name the checkpoint as "
                "model_name_or_path of a new run."
            ) from error

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        if model.training and num_items_in_batch is not None and self.args.n_gpu <= 1:
            inputs = inputs | {"num_clips_in_batch": self.counts.num_clips}
        wanted = inputs | wanted_logits(inputs) if model.training else inputs
        loss, outputs = super().compute_loss(model, wanted, return_outputs=True, num_items_in_batch=num_items_in_batch)
        if model.training:
            self.meter.add(loss, outputs, self._loss_scale(num_items_in_batch))
        return (loss, outputs) if return_outputs else loss

    def _loss_scale(self, num_items: Any) -> int:
        """By what the Trainer has multiplied the loss, as processes average their gradients."""
        averaged = self.args.average_tokens_across_devices and num_items is not None and self.args.n_gpu <= 1
        return self.accelerator.num_processes if averaged else 1

    def training_step(self, *args, **kwargs) -> torch.Tensor:
        loss = self.meter.finite(super().training_step(*args, **kwargs))
        self.totals.add(loss)
        return loss

    def _get_grad_norm(self, model, grad_norm=None):
        return self.meter.note_gradient(super()._get_grad_norm(model, grad_norm))

    # --------------------------------------------------------------------------------------------------- evaluation

    def evaluation_loop(
        self,
        dataloader: DataLoader,
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ):
        # `Seq2SeqTrainer` keeps the rows that fill up the last batch of several processes: scored, they would count
        # twice.
        self.gather_function = self.accelerator.gather_for_metrics
        self._evaluation, self._eval_broken = EvaluationLoss(self._captioner), {}
        self._num_evaluated = self.num_examples(dataloader)
        output = super().evaluation_loop(dataloader, description, prediction_loss_only, ignore_keys, metric_key_prefix)
        output.metrics.pop(f"{metric_key_prefix}_loss", None)  # a mean of batches, filled up ones among them
        losses = self._evaluation.read()
        output.metrics.update({f"{metric_key_prefix}_{name}": value for name, value in losses.items()})
        self.broken_clips.note(gather_object(list(self._eval_broken.items())), "validation")
        return output

    def prediction_step(
        self,
        model: nn.Module,
        inputs: dict[str, torch.Tensor | Any],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
        **gen_kwargs,
    ) -> tuple[torch.Tensor | None, torch.Tensor | None, torch.Tensor | None]:
        inputs = self._without_repeated(inputs, self._num_evaluated)
        self._eval_broken |= inputs.get(BROKEN, {})
        inputs = on_device(model_inputs(inputs), self.args.device)
        prompt = {name.removeprefix(GENERATION_PREFIX): inputs[name] for name in inputs if _is_prompt(name)}
        full = {name: value for name, value in inputs.items() if not _is_prompt(name)}
        with torch.no_grad(), self.compute_loss_context_manager():
            output = model(**full, **wanted_logits(full), num_items_in_batch=1, num_clips_in_batch=1)
        loss = self._evaluation.add(output, full)
        if prediction_loss_only or not (self.args.predict_with_generate and hasattr(self._captioner, "generate")):
            return loss, None, None
        clips = {name: value for name, value in full.items() if name not in ("labels", *prompt)}
        options = {"synced_gpus": shares_weights(self)} | (gen_kwargs or self._given_generation_options())
        tokens = self.model.generate(**clips, **prompt, **options)
        labels = labels_of(full, self._captioner.counted_clips(full))
        return loss, tokens[:, prompt["input_ids"].shape[1] :].contiguous(), labels

    def _given_generation_options(self) -> dict[str, Any]:
        return {name: value for name, value in getattr(self, "_gen_kwargs", {}).items() if value is not None}

    def _determine_best_metric(self, metrics, trial) -> bool:
        wanted = self.args.metric_for_best_model
        if wanted is not None and f"eval_{wanted.removeprefix('eval_')}" not in metrics:
            logger.warning(
                f"{wanted} has no value at step {self.state.global_step}: it is not compared with the best."
            )
            return False
        return super()._determine_best_metric(metrics, trial)

    # ------------------------------------------------------------------------------------------- saving and uploads

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False):
        # Not "internal", it would be uploaded at once: what is uploaded is a whole run with its records, at the end.
        self.checkpoints.save_model(partial(super().save_model, _internal_call=True), output_dir)

    def save_state(self):
        self.checkpoints.save_state()

    def save_metrics(self, split: str, metrics: dict[str, float], combined: bool = True):
        self.checkpoints.save_metrics(split, metrics, combined)

    def _save_checkpoint(self, model, trial):
        for callback in self.callback_handler.callbacks:  # one that the run it continues did not have
            if isinstance(callback, ExportableState):
                self.state.stateful_callbacks.setdefault(type(callback).__name__, callback.state())
        self.checkpoints.save(partial(super()._save_checkpoint, model, trial), Path(self._get_output_dir(trial)))

    def _get_output_dir(self, trial) -> str:
        return str(self.checkpoints.unfinished or super()._get_output_dir(trial))

    def init_hf_repo(self, token: str | None = None, private: bool | None = None):
        check_hub_options(self.args)
        open_hub(self.args, self.accelerator.unwrap_model(self.model))
        self.hub_model_id = self.args.hub_model_id
        self.push_in_progress = None

    def push_to_hub(self, commit_message: str = "End of training", **options):
        return self.publisher.push(commit_message, **options)

    def _push_from_checkpoint(self, checkpoint_folder: str):
        pass  # the library is still writing it: `Publisher` uploads it when it is whole


class EpochOfDraws(TrainerCallback):
    """Tells the training set and the model which epoch begins, and of a stream what an interrupted one has used up."""

    def __init__(self, trainer: Trainer):
        self.trainer = trainer

    def on_train_begin(self, args, state, control, **kwargs):
        self._resumed_at = state.global_step

    def on_epoch_begin(self, args, state, control, **kwargs):
        dataset, epoch = self.trainer.train_dataset, int(state.epoch + 1e-6)
        plain(self.trainer.model).set_epoch(epoch)
        if isinstance(dataset, ClipStream):
            dataset.set_epoch(epoch, self._used_batches(args, dataset))
        elif hasattr(dataset, "set_epoch"):
            dataset.set_epoch(epoch)

    def _used_batches(self, args: Any, stream: ClipStream) -> int:
        used, self._resumed_at = self._resumed_at, 0  # of the first epoch alone
        batches = math.ceil(len(stream) / args.train_batch_size)
        updates = max(1, math.ceil(batches / args.gradient_accumulation_steps))
        return 0 if args.ignore_data_skip else used % updates * args.gradient_accumulation_steps


class ProvenanceCallback(TrainerCallback):
    """Writes a note into the output folder, which every checkpoint takes along."""

    def __init__(self, provenance: dict[str, Any]):
        self.provenance = provenance

    def on_train_begin(self, args, state, control, **kwargs):
        if state.is_world_process_zero:
            write_provenance(args.output_dir, self.provenance)


def _halved(factor: Callable[[int], float], steps: Sequence[float], step: int) -> float:
    """A schedule's factor, halved after each of some steps."""
    return factor(step) * 0.5 ** sum(step >= each for each in steps)


def _is_prompt(name: str) -> bool:
    return name.startswith(GENERATION_PREFIX)
