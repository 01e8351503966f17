"""What a run is told by, and what stops it: losses, speed, memory, transport plans, and steps that are not finite.

Everything is summed up on the device and over all processes, and read once per optimiser step.
"""

import math
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from accelerate.utils import DistributedType, gather_object
from transformers import EarlyStoppingCallback, Seq2SeqTrainer, TrainerCallback
from transformers.integrations import get_available_reporting_integrations
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK
from transformers.utils import logging

from lavcap.commands import listed
from lavcap.data.collation import BROKEN, CLIP_IDS, model_inputs
from lavcap.evaluation.names import QUICK_METRICS
from lavcap.training.broken_clips import BrokenClips, TrainingStopped


logger = logging.get_logger(__name__)

GIBIBYTE = 2**30


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


def early_stopping(args: Any) -> list[TrainerCallback]:
    """What stops a run whose metric gets no better, if `early_stopping_patience` asks for it."""
    if args.early_stopping_patience is None:
        return []
    args.restore_callback_states_from_checkpoint = True  # an interruption must not begin the count anew
    return [EarlyStoppingCallback(args.early_stopping_patience)]


class MonitoredTrainer(Seq2SeqTrainer):
    """Trainer that logs what a run is told by, and leaves out steps that are not finite and clips that are broken.

    A step whose loss or gradient is NaN or infinite changes no weight. With float16 the scaler sees to that, and the
    loss alone counts here, for gradients overflow now and then while their scale is sought. DeepSpeed's engine updates
    within the backward pass: but with float16 its first such step ends the run.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.broken_clips = BrokenClips(
            self.args.output_dir, _setting(self.args, "max_broken_share"), self.is_world_process_zero()
        )
        self._meter = Meter()
        self._step = Step()
        self._nonfinite_in_a_row = 0
        self._eval_broken: dict[str, str] = {}
        self.add_callback(Stopwatch(self._meter))

    def train(self, *args, **kwargs):
        try:
            return super().train(*args, **kwargs)
        finally:
            _settle(self.callback_handler.callbacks)

    def get_batch_samples(self, epoch_iterator, num_batches, device):
        batches, num_items = super().get_batch_samples(epoch_iterator, num_batches, device)
        self._step = Step(batches)
        return [model_inputs(batch) for batch in batches], num_items

    def _get_num_items_in_batch(self, batch_samples, device):
        num_items = super()._get_num_items_in_batch(batch_samples, device)
        return num_items if num_items is None else num_items.clamp(min=1)  # of broken clips alone there are none

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        loss, outputs = super().compute_loss(model, inputs, return_outputs=True, num_items_in_batch=num_items_in_batch)
        if model.training:
            self._step.add_parts(loss.detach(), outputs, self._loss_scale(num_items_in_batch))
        return (loss, outputs) if return_outputs else loss

    def _loss_scale(self, num_items: Any) -> int:
        """By what the Trainer has multiplied the loss, as processes average their gradients."""
        averaged = self.args.average_tokens_across_devices and num_items is not None and self.args.n_gpu <= 1
        return self.accelerator.num_processes if averaged else 1

    def training_step(self, *args, **kwargs):
        loss = super().training_step(*args, **kwargs)
        self._step.losses.append(loss)
        return torch.where(loss.isfinite(), loss, 0.0)  # one NaN would stay in the Trainer's sum for good

    def _get_grad_norm(self, model, grad_norm=None):
        grad_norm = super()._get_grad_norm(model, grad_norm)
        counts = self._step.counts(self._is_finite(grad_norm), self.args.device)
        nonfinite, read, broken, tokens = self.accelerator.reduce(counts, "sum").tolist()
        self.broken_clips.count(read, broken, gather_object(list(self._step.broken.items())) if broken else ())
        is_void = read == broken > 0
        self._meter.add(self._step, read, tokens, counts=not nonfinite and not is_void)
        self._nonfinite_in_a_row = self._nonfinite_in_a_row + 1 if nonfinite else 0
        if nonfinite or is_void:
            self._leave_out_step(model)
        if nonfinite:
            self._tell_nonfinite_step()
        return grad_norm

    def _is_finite(self, grad_norm: torch.Tensor | float | None) -> torch.Tensor:
        if grad_norm is None or self.accelerator.mixed_precision == "fp16":
            return torch.tensor(True, device=self.args.device)
        norm = grad_norm.full_tensor() if hasattr(grad_norm, "full_tensor") else torch.as_tensor(grad_norm)
        return norm.isfinite().to(self.args.device)

    def _leave_out_step(self, model):
        if not self._updates_in_backward and self.accelerator.scaler is None:
            model.zero_grad()  # to none: the optimiser then passes over every tensor

    def _tell_nonfinite_step(self):
        step, suspects = self.state.global_step + 1, gather_object(self._step.suspects())
        names = [name for ids, is_bad in suspects if is_bad for name in ids]
        names = names or [name for ids, _ in suspects for name in ids]  # the gradient alone is not finite
        has_updated = self._updates_in_backward and self.accelerator.mixed_precision != "fp16"
        if has_updated or self._nonfinite_in_a_row >= _setting(self.args, "max_nonfinite_steps"):
            outcome = "DeepSpeed has updated with them" if has_updated else "They have changed no weight"
            raise TrainingStopped(
                f"the loss or its gradient is NaN or infinite at step {step} ({self._nonfinite_in_a_row} in a row), "
                f"on {listed(names)}. {outcome}. Look at these clips, lower --learning_rate, or leave float16 for "
                "bfloat16, then continue with --resume_from_checkpoint true."
            )
        if self.is_world_process_zero():
            logger.warning(f"Step {step} is left out: its loss or gradient is NaN or infinite, on {listed(names)}.")

    @property
    def _updates_in_backward(self) -> bool:
        return self.accelerator.distributed_type == DistributedType.DEEPSPEED

    def log(self, logs: dict[str, float], start_time: float | None = None):
        if "loss" in logs and self._meter.steps:
            del logs["loss"]  # the Trainer's counts steps that were left out
            logs |= self._meter.read(self.accelerator, self.args.device)
        super().log(logs, start_time)

    def note_evaluated(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """Inputs of the model in a batch of evaluation, whose broken clips are noted."""
        self._eval_broken |= inputs.get(BROKEN, {})
        return model_inputs(inputs)

    def evaluation_loop(self, *args, **kwargs):
        self._eval_broken = {}
        output = super().evaluation_loop(*args, **kwargs)
        self.broken_clips.note(gather_object(list(self._eval_broken.items())), "validation")
        return output

    def _determine_best_metric(self, metrics, trial):
        wanted = self.args.metric_for_best_model
        if wanted is not None and f"eval_{wanted.removeprefix('eval_')}" not in metrics:
            logger.warning(
                f"{wanted} has no value at step {self.state.global_step}: it is not compared with the best."
            )
            return False
        return super()._determine_best_metric(metrics, trial)


class Step:
    """One optimiser step of this process, whose micro-batches are `batches`."""

    def __init__(self, batches: Sequence[dict[str, Any]] = ()):
        self.ids: list[list[str]] = [batch.get(CLIP_IDS, []) for batch in batches]
        self.broken: dict[str, str] = {}
        for batch in batches:
            self.broken |= batch.get(BROKEN, {})
        self.num_broken = sum(name in self.broken for ids in self.ids for name in ids)
        self.tokens = sum(batch["attention_mask"].sum() for batch in batches if "attention_mask" in batch)
        self.losses: list[torch.Tensor] = []
        self.parts: torch.Tensor | float = 0.0  # caption loss, alignment loss, entropy of the plans, number of plans
        self.largest_entropy = 0.0

    def add_parts(self, loss: torch.Tensor, outputs: dict[str, Any], scale: int):
        """Add a micro-batch: its loss as the Trainer has scaled it, and what the model gave."""
        caption = loss if outputs.get("alignment_loss") is None else outputs["caption_loss"].detach() * scale
        entropy = number = torch.zeros_like(loss)
        plan = outputs.get("transport_plan")
        if plan is not None:
            entropy, number = _entropy(plan.detach())
            self.largest_entropy = math.log(plan.shape[-1] * plan.shape[-2])
        parts = (caption, loss - caption, entropy, number)
        self.parts = self.parts + torch.stack([part.float() for part in parts])

    def counts(self, finite: torch.Tensor, device: torch.device) -> torch.Tensor:
        """Whether the step is not finite, clips read, broken ones, and tokens: `(4,)` int64."""
        finite = torch.stack([finite, *(loss.isfinite().to(device) for loss in self.losses)]).all()
        read = sum(map(len, self.ids))
        known = torch.tensor([read, self.num_broken], device=device)
        tokens = torch.as_tensor(self.tokens, device=device)
        return torch.cat([(~finite).long()[None], known, tokens.long()[None]])

    def suspects(self) -> list[tuple[list[str], bool]]:
        """Clips of each micro-batch, and whether its loss is not finite."""
        return [(ids, not loss.isfinite()) for ids, loss in zip(self.ids, self.losses, strict=False)]


class Meter:
    """Sums between two logs."""

    def __init__(self):
        self.seconds = 0.0
        self._reset()

    def add(self, step: Step, clips: int, tokens: int, counts: bool):
        """Add a step, with the clips and tokens of all processes; one that does not count takes time alone."""
        self.steps += 1
        self.left_out += not counts
        self.clips += clips
        self.tokens += tokens
        self.largest_entropy = step.largest_entropy or self.largest_entropy
        if counts:
            self._parts = self._parts + step.parts

    def read(self, accelerator, device: torch.device) -> dict[str, float]:
        """What there is to log since the last time, of all processes."""
        parts = torch.as_tensor(self._parts, device=device).expand(4)
        memory = torch.tensor([peak_memory(device)], device=device)
        gathered = accelerator.gather(torch.cat([parts, memory])[None]).cpu()  # (processes, 5)
        caption, alignment, entropy, plans, _ = gathered.sum(dim=0).tolist()
        logs = {
            "clips_per_second": self.clips / max(self.seconds, 1e-9),
            "tokens_per_second": self.tokens / max(self.seconds, 1e-9),
            "peak_memory_gib": gathered[:, 4].max().item(),
        }
        if counted := (self.steps - self.left_out) * len(gathered):
            logs["loss"] = (caption + alignment) / counted
            logs["caption_loss"], logs["alignment_loss"] = caption / counted, alignment / counted
        if plans:
            logs["plan_entropy"] = entropy / plans
            logs["relative_plan_entropy"] = entropy / plans / self.largest_entropy
        if self.left_out:
            logs["steps_left_out"] = self.left_out
        self._reset()
        return logs

    def _reset(self):
        self.steps = self.left_out = self.clips = self.tokens = 0
        self.seconds = 0.0
        self.largest_entropy = 1.0
        self._parts: torch.Tensor | float = 0.0


class Stopwatch(TrainerCallback):
    """Measures the time of training alone, without that of evaluating and saving."""

    def __init__(self, meter: Meter):
        self.meter = meter

    def on_train_begin(self, args, state, control, **kwargs):
        self.begin = time.perf_counter()

    def on_step_end(self, args, state, control, **kwargs):
        end = time.perf_counter()
        self.meter.seconds += end - self.begin
        self.begin = end

    def on_evaluate(self, args, state, control, **kwargs):
        self.begin = time.perf_counter()

    on_save = on_evaluate


def peak_memory(device: torch.device) -> float:
    """Most memory that was in use, in GiB: that of the device where it tells, else the process' own."""
    module = torch.get_device_module(device)
    if hasattr(module, "max_memory_allocated"):
        return module.max_memory_allocated(device) / GIBIBYTE
    import resource  # Unix alone has it

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / GIBIBYTE if sys.platform == "darwin" else peak * 1024 / GIBIBYTE  # bytes, or KiB


# -------------------------------------------------------------------------------------------------------- internals


def _entropy(plan: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Sum of the entropies of a batch's plans, in nats, and how many plans there are, which is not one for each clip.

    Args:
        plan: `(batch, video_tokens, audio_tokens)`, mass 1 or, for a clip that lacks a modality, 0.
    """
    return torch.special.entr(plan.float()).sum(), (plan.sum(dim=(1, 2)) > 0).sum()


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


def _setting(args: Any, name: str) -> Any:
    return getattr(args, name, getattr(MonitoringArguments, name))


def _settle(callbacks: Sequence[TrainerCallback]):
    """Close bars and flush what was logged, so that an error begins a line of its own and no curve ends early."""
    for callback in callbacks:
        for name in ("training_bar", "prediction_bar"):
            if getattr(callback, name, None) is not None:
                getattr(callback, name).close()
        if getattr(callback, "tb_writer", None) is not None:
            callback.tb_writer.flush()
