"""`Seq2SeqTrainer` for LAVCap: loss on prompt and caption, captions generated from the prompt alone."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch import nn
from torch.utils.data import DataLoader, IterableDataset
from transformers import Trainer, TrainerCallback
from transformers.trainer import TRAINING_ARGS_NAME

from lavcap.data.collation import CLIP_IDS, blank
from lavcap.data.streaming import ClipStream
from lavcap.models.lora import save_adapter
from lavcap.provenance import write_note
from lavcap.training.checkpoint_writer import CompleteCheckpoints
from lavcap.training.distributed import FeaturesInFloat32, SharedStatistics, repeated_rows, shares_weights
from lavcap.training.in_training_evaluation import ValidationLoss
from lavcap.training.meter import MonitoredTrainer
from lavcap.training.publisher import HubTrainer


GENERATION_PREFIX = "generation_"
MODALITIES = {
    "audio_mask": frozenset({"input_features"}),
    "video_mask": frozenset({"pixel_values_videos", "video_features"}),
}


class LavcapTrainer(CompleteCheckpoints, HubTrainer, FeaturesInFloat32, MonitoredTrainer):
    """Trainer that generates from `generation_input_ids`, and normalises both losses over the whole optimiser step.

    Args:
        eval_data_collator: makes the batches of evaluation, with the prompt alone under `generation_*`; the training
            collator hides modalities and has no prompt.
    """

    def __init__(self, *args, eval_data_collator=None, **kwargs):
        super().__init__(*args, **kwargs)
        self._eval_data_collator = eval_data_collator or self.data_collator
        self._validation_loss, self._num_evaluated = ValidationLoss(), 0
        self.add_callback(SharedStatistics(self.accelerator))
        if hasattr(self.train_dataset, "set_epoch"):
            self.add_callback(EpochOfDraws(self))

    def get_train_dataloader(self):
        if not isinstance(self.train_dataset, ClipStream):
            return super().get_train_dataloader()
        # A stream gives each process its own rows: Accelerate must not share them out once more.
        return DataLoader(
            self.train_dataset,
            batch_size=self._train_batch_size,
            collate_fn=self.data_collator,
            drop_last=self.args.dataloader_drop_last,
            num_workers=self.args.dataloader_num_workers,
            pin_memory=self.args.dataloader_pin_memory and torch.accelerator.is_available(),
            persistent_workers=self.args.dataloader_persistent_workers,
            prefetch_factor=self.args.dataloader_prefetch_factor,
            generator=self._seeds_of_workers(),
        )

    def _get_dataloader(self, *args, **kwargs) -> DataLoader:
        loader = super()._get_dataloader(*args, **kwargs)
        getattr(loader, "base_dataloader", loader).generator = self._seeds_of_workers()
        return loader

    def _seeds_of_workers(self) -> torch.Generator:
        """What a loader draws the seeds of its workers from.

        Drawn from the global state, they would change dropout after an interruption: workers that persist are seeded
        once, and those of the continued run once more.
        """
        return torch.Generator().manual_seed(self.args.seed)

    def get_eval_dataloader(self, eval_dataset=None):
        with self._evaluation_collator():
            return super().get_eval_dataloader(eval_dataset)

    def get_test_dataloader(self, test_dataset):
        with self._evaluation_collator():
            return super().get_test_dataloader(test_dataset)

    @contextmanager
    def _evaluation_collator(self) -> Iterator[None]:
        training_collator, self.data_collator = self.data_collator, self._eval_data_collator
        try:
            yield
        finally:
            self.data_collator = training_collator

    def get_batch_samples(self, epoch_iterator, num_batches, device):
        if not isinstance(self.train_dataset, IterableDataset):  # `ClipStream` marks what it repeats
            epoch_iterator = (self._without_repeated(batch, len(self.train_dataset)) for batch in epoch_iterator)
        batches, num_items = super().get_batch_samples(epoch_iterator, num_batches, device)
        self._num_clips = self._count_aligned_clips(batches, device)
        return batches, num_items

    def _count_aligned_clips(self, batches: Sequence[dict[str, Any]], device: torch.device) -> torch.Tensor:
        """Clips with sound and picture in all micro-batches of a step, of all processes: `()`, at least 1."""
        count = sum((_is_aligned(batch).sum().to(device) for batch in batches), torch.zeros((), device=device))
        if self.args.average_tokens_across_devices and self.args.world_size > 1:
            count = self.accelerator.gather(count).sum()
        return count.clamp(min=1)

    def _without_repeated(self, batch: dict[str, Any], num_rows: int) -> dict[str, Any]:
        """The batch; what fills up the last one of several processes counts for nothing."""
        rows = repeated_rows(self.accelerator, len(batch["labels"]), num_rows)
        if len(rows):
            batch = {**batch, CLIP_IDS: batch.get(CLIP_IDS, [])[: rows[0]]}
            blank(batch, rows, self.processing_class)
        return batch

    def _save(self, output_dir=None, state_dict=None):
        model = self.accelerator.unwrap_model(self.model, keep_torch_compile=False)
        if not isinstance(model, PeftModel):
            super()._save(output_dir, state_dict)
            return
        if self.args.should_save:
            output_dir = output_dir or self.args.output_dir
            save_adapter(model, output_dir, state_dict=state_dict, is_main_process=True)
            self.processing_class.save_pretrained(output_dir)
            torch.save(self.args, Path(output_dir) / TRAINING_ARGS_NAME)

    def get_decay_parameter_names(self, model) -> list[str]:
        # As released (`optims.py`): no decay of biases, norms and the alignment's scale. The library takes the latter
        # for a weight.
        names = super().get_decay_parameter_names(model)
        axes = {name: parameter.ndim for name, parameter in model.named_parameters()}
        return [name for name in names if axes.get(name, 2) > 1]

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        if model.training and num_items_in_batch is not None and self.args.n_gpu <= 1:
            inputs = inputs | {"num_clips_in_batch": self._num_clips}
        return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)

    def prediction_step(
        self,
        model: nn.Module,
        inputs: dict[str, torch.Tensor | Any],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
        **gen_kwargs,
    ) -> tuple[torch.Tensor | None, torch.Tensor | None, torch.Tensor | None]:
        inputs = self.note_evaluated(self._without_repeated(inputs, self._num_evaluated))
        prompt = {name.removeprefix(GENERATION_PREFIX): inputs[name] for name in inputs if _is_prompt(name)}
        full = {name: value for name, value in inputs.items() if not _is_prompt(name)}
        loss = self._loss_of_batch(model, full)
        if prediction_loss_only or not self.args.predict_with_generate:
            return loss, None, None
        clips = {name: value for name, value in full.items() if name not in ("labels", *prompt)}
        generate_inputs = self._prepare_inputs(clips | prompt)
        options = {"synced_gpus": shares_weights(self)} | (gen_kwargs or self._given_generation_options())
        tokens = self.model.generate(**generate_inputs, **options)
        return loss, tokens[:, prompt["input_ids"].shape[1] :].contiguous(), full["labels"]

    def _loss_of_batch(self, model: nn.Module, batch: dict[str, Any]) -> torch.Tensor:
        """The loss of a batch of evaluation, which is added to that of all."""
        with torch.no_grad(), self.compute_loss_context_manager():
            output = model(**self._prepare_inputs(batch), num_items_in_batch=1, num_clips_in_batch=1)
        return self._validation_loss.add(output, batch["labels"].to(self.args.device), _is_aligned(batch).sum())

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
        self._validation_loss = ValidationLoss()
        self._num_evaluated = self.num_examples(dataloader)
        output = super().evaluation_loop(dataloader, description, prediction_loss_only, ignore_keys, metric_key_prefix)
        output.metrics.pop(f"{metric_key_prefix}_loss", None)  # a mean of batches, filled up ones among them
        losses = self._validation_loss.read()
        output.metrics.update({f"{metric_key_prefix}_{name}": value for name, value in losses.items()})
        return output

    def _given_generation_options(self) -> dict[str, Any]:
        return {name: value for name, value in getattr(self, "_gen_kwargs", {}).items() if value is not None}


class EpochOfDraws(TrainerCallback):
    """Tells the training set which epoch begins, and of a stream what an interrupted one has used up."""

    def __init__(self, trainer: Trainer):
        self.trainer = trainer

    def on_train_begin(self, args, state, control, **kwargs):
        self._resumed_at = state.global_step

    def on_epoch_begin(self, args, state, control, **kwargs):
        dataset, epoch = self.trainer.train_dataset, int(state.epoch + 1e-6)
        if not isinstance(dataset, ClipStream):
            dataset.set_epoch(epoch)
            return
        used, self._resumed_at = self._resumed_at, 0  # of the first epoch alone
        batches = math.ceil(len(dataset) / self.trainer._train_batch_size)
        updates = max(1, math.ceil(batches / args.gradient_accumulation_steps))
        skipped = 0 if args.ignore_data_skip else used % updates * args.gradient_accumulation_steps
        dataset.set_epoch(epoch, skipped)


class TrainingNote(TrainerCallback):
    """Writes a note into the output folder, which every checkpoint takes along."""

    def __init__(self, note: dict[str, Any]):
        self.note = note

    def on_train_begin(self, args, state, control, **kwargs):
        if state.is_world_process_zero:
            write_note(args.output_dir, self.note)


def _is_aligned(batch: dict[str, Any]) -> torch.Tensor:
    """Whether each clip of a batch has sound and picture: `(batch,)` bool."""
    aligned = torch.ones_like(batch["labels"][:, 0], dtype=torch.bool) if "labels" in batch else torch.zeros(0)
    for mask, features in MODALITIES.items():
        if mask in batch:
            aligned = aligned & batch[mask]
        elif features.isdisjoint(batch):
            aligned = torch.zeros_like(aligned)
    return aligned


def _is_prompt(name: str) -> bool:
    return name.startswith(GENERATION_PREFIX)
