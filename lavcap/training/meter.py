"""What a run is told by, and what stops it: losses, speed, memory, and steps that are not finite; as lines to read.

Everything is summed up on the device and over all processes, and read once per optimiser step.
"""

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType, gather_object
from transformers import ProgressCallback, TrainerCallback, TrainerState
from transformers.utils import logging

from lavcap.arguments import listed
from lavcap.data.collation import BROKEN, CLIP_IDS
from lavcap.training.arguments import MonitoringArguments
from lavcap.training.broken_clips import BrokenClips, TrainingStopped
from lavcap.training.losses import split_loss
from lavcap.workers import most_resident


logger = logging.get_logger(__name__)

GIBIBYTE = 2**30


class Meter(TrainerCallback):
    """Sums up what a run logs, and leaves out steps that are not finite and steps of broken clips alone.

    A step whose loss or gradient is NaN or infinite changes no weight. With float16 the scaler sees to that, and the
    loss alone counts here, for gradients overflow now and then while their scale is sought. DeepSpeed's engine updates
    within the backward pass: but with float16 its first such step ends the run.

    Args:
        model: that is trained, without PEFT around it.
        accelerator: of the trainer.
        broken_clips: told of the clips of each step.
    """

    def __init__(self, model: Any, accelerator: Accelerator, broken_clips: BrokenClips):
        self.model = model
        self.accelerator = accelerator
        self.broken_clips = broken_clips
        self.step = Step()
        self.sums = Sums()
        self._gradient: torch.Tensor | float | None = None
        self._nonfinite_in_a_row = 0

    def begin_step(self, batches: Sequence[Mapping[str, Any]]):
        """Tell of the micro-batches of this process of which the next step is made."""
        self.step = Step(batches)

    def add(self, loss: torch.Tensor, outputs: Any, scale: int):
        """Add a micro-batch: its loss, which the Trainer has multiplied by `scale`, and what the model gave."""
        parts = split_loss(loss.detach(), outputs, self.model.loss_terms, scale)
        self.step.add(parts, self.model.statistics(outputs))

    def finite(self, loss: torch.Tensor) -> torch.Tensor:
        """The loss of a micro-batch, or 0: one NaN would stay in a sum for good."""
        self.step.losses.append(loss)
        return torch.where(loss.isfinite(), loss, 0.0)

    def note_gradient(self, norm: torch.Tensor | float | None) -> torch.Tensor | float | None:
        """Note the norm of the step's gradient, and give it back."""
        self._gradient = norm
        return norm

    def complete(self, logs: dict[str, float]):
        """Put means since the last log in the place of the Trainer's loss, which counts steps that are left out."""
        if self.sums.steps:
            del logs["loss"]
            logs |= self.sums.read(peak_memory(self.accelerator.device))
            self.sums = Sums()

    def on_train_begin(self, args, state, control, **kwargs):
        self._clock = time.perf_counter()

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        counts = self.step.counts(self._is_gradient_finite(), args.device)
        nonfinite, read, broken, tokens = self.accelerator.reduce(counts, "sum").tolist()
        self.broken_clips.count(read, broken, gather_object(list(self.step.broken.items())) if broken else ())
        is_void = read == broken > 0
        self.sums.add(self.step, read, tokens, counts=not nonfinite and not is_void)
        self._nonfinite_in_a_row = self._nonfinite_in_a_row + 1 if nonfinite else 0
        if (nonfinite or is_void) and not self._updates_in_backward and self.accelerator.scaler is None:
            model.zero_grad()  # to none: the optimiser then passes over every tensor
        if nonfinite:
            self._tell_nonfinite_step(args, state)

    def on_step_end(self, args, state, control, **kwargs):
        end = time.perf_counter()
        self.sums.seconds += end - self._clock
        self._clock = end

    def on_evaluate(self, args, state, control, **kwargs):
        self._clock = time.perf_counter()

    on_save = on_evaluate

    def _is_gradient_finite(self) -> torch.Tensor:
        norm, device = self._gradient, self.accelerator.device
        if norm is None or self.accelerator.mixed_precision == "fp16":
            return torch.tensor(True, device=device)
        norm = norm.full_tensor() if hasattr(norm, "full_tensor") else torch.as_tensor(norm)
        return norm.isfinite().to(device)

    def _tell_nonfinite_step(self, args: Any, state: TrainerState):
        step, suspects = state.global_step + 1, gather_object(self.step.suspects())
        names = [name for ids, is_bad in suspects if is_bad for name in ids]
        names = names or [name for ids, _ in suspects for name in ids]  # the gradient alone is not finite
        has_updated = self._updates_in_backward and self.accelerator.mixed_precision != "fp16"
        if has_updated or self._nonfinite_in_a_row >= setting(args, "max_nonfinite_steps"):
            outcome = "DeepSpeed has updated with them" if has_updated else "They have changed no weight"
            raise TrainingStopped(
                f"the loss or its gradient is NaN or infinite at step {step} ({self._nonfinite_in_a_row} in a row), "
                f"on {listed(names)}. {outcome}. Look at these clips, lower --learning_rate, or leave float16 for "
                "bfloat16, then continue with --resume_from_checkpoint true."
            )
        if state.is_world_process_zero:
            logger.warning(f"Step {step} is left out: its loss or gradient is NaN or infinite, on {listed(names)}.")

    @property
    def _updates_in_backward(self) -> bool:
        return self.accelerator.distributed_type == DistributedType.DEEPSPEED


class Step:
    """One optimiser step of this process, whose micro-batches are `batches`.

    Attributes:
        losses: of the micro-batches.
        parts: the terms of the loss by name, each the sum over the micro-batches.
        statistics: what else the model tells, by name: a sum and the number of what is summed up, `(2,)`.
    """

    def __init__(self, batches: Sequence[Mapping[str, Any]] = ()):
        self.ids: list[list[str]] = [batch.get(CLIP_IDS, []) for batch in batches]
        self.broken: dict[str, str] = {}
        for batch in batches:
            self.broken |= batch.get(BROKEN, {})
        self.num_broken = sum(name in self.broken for ids in self.ids for name in ids)
        self.tokens = sum(batch["attention_mask"].sum() for batch in batches if "attention_mask" in batch)
        self.losses: list[torch.Tensor] = []
        self.parts: dict[str, torch.Tensor] = {}
        self.statistics: dict[str, torch.Tensor] = {}

    def add(self, parts: Mapping[str, torch.Tensor], statistics: Mapping[str, tuple[torch.Tensor, torch.Tensor]]):
        """Add a micro-batch: the terms of its loss as the Trainer has scaled it, and what else the model tells."""
        add_to(self.parts, {name: part.float() for name, part in parts.items()})
        pairs = {name: torch.stack([number.detach().float() for number in pair]) for name, pair in statistics.items()}
        add_to(self.statistics, pairs)

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


class Sums:
    """Sums of the steps between two logs."""

    def __init__(self):
        self.seconds = 0.0
        self.steps = self.left_out = self.clips = self.tokens = 0
        self.parts: dict[str, torch.Tensor] = {}
        self.statistics: dict[str, torch.Tensor] = {}

    def add(self, step: Step, clips: int, tokens: int, counts: bool):
        """Add a step, with the clips and tokens of all processes; one that does not count takes time alone."""
        self.steps += 1
        self.left_out += not counts
        self.clips += clips
        self.tokens += tokens
        if counts:
            add_to(self.parts, step.parts)
            add_to(self.statistics, step.statistics)

    def read(self, memory: float) -> dict[str, float]:
        """What there is to log, of all processes.

        Args:
            memory: most that this process has used, in GiB.
        """
        mine = {name: pair.tolist() for name, pair in self.statistics.items()}
        gathered = gather_object([({name: part.item() for name, part in self.parts.items()}, mine, memory)])
        parts, statistics, memories = zip(*gathered, strict=True)
        logs = {
            "clips_per_second": self.clips / max(self.seconds, 1e-9),
            "tokens_per_second": self.tokens / max(self.seconds, 1e-9),
            "peak_memory_gib": max(memories),
        }
        if counted := (self.steps - self.left_out) * len(gathered):
            totals = {name: sum(part[name] for part in parts) for name in self.parts}
            logs["loss"] = sum(totals.values()) / counted
            logs |= {name: total / counted for name, total in totals.items()}
        logs |= _means(statistics)
        if self.left_out:
            logs["steps_left_out"] = self.left_out
        return logs


def add_to(sums: dict[str, torch.Tensor], terms: Mapping[str, torch.Tensor]):
    """Add tensors to sums of the same names, of which those that are new begin at 0."""
    for name, term in terms.items():
        sums[name] = sums[name] + term if name in sums else term


def setting(args: Any, name: str) -> Any:
    """Field of [`MonitoringArguments`], or its default where training arguments are the library's alone."""
    return getattr(args, name, getattr(MonitoringArguments, name))


def peak_memory(device: torch.device) -> float:
    """Most memory that was in use, in GiB: that of the device where it tells, else the process' own."""
    module = torch.get_device_module(device)
    if hasattr(module, "max_memory_allocated"):
        return module.max_memory_allocated(device) / GIBIBYTE
    return most_resident() / 1024


# ------------------------------------------------------------------------------------------------------- the console

# What is logged, what it is called in a line, and how it is written.
FORMS = {
    "grad_norm": "gradient {:.3g}",
    "learning_rate": "rate {:.2e}",
    "clips_per_second": "{:.1f} clips/s",
    "tokens_per_second": "{:.0f} tokens/s",
    "peak_memory_gib": "{:.2f} GiB",
    "steps_left_out": "{:.0f} steps left out",
}
UNSHOWN = ("runtime", "_per_second", "epoch", "preparation_time", "flos", "scored_clips")


class TrainingProgress(ProgressCallback):
    """Bar of a training, with lines in place of the dictionaries that the library writes."""

    def on_log(self, args, state, control, logs=None, **kwargs):
        if not state.is_world_process_zero or self.training_bar is None:
            return
        self.training_bar.write(progress_line(logs or {}, state.global_step))
        if "loss" in (logs or {}):
            self.training_bar.set_postfix(loss=f"{logs['loss']:.4f}")


def progress_line(logs: dict[str, float], step: int) -> str:
    """What was logged at a step, in one line."""
    begin = f"step {step}, epoch {logs.get('epoch', 0):.2f}: "
    if not logs.keys().isdisjoint(("loss", "steps_left_out")):
        return begin + ", ".join(form.format(logs[name]) for name, form in _forms(logs).items() if name in logs)
    shown = {name: value for name, value in logs.items() if not name.endswith(UNSHOWN)}
    return begin + ", ".join(f"{name} {_number(value)}" for name, value in shown.items())


def settle(callbacks: Sequence[TrainerCallback]):
    """Close bars and flush what was logged, so that an error begins a line of its own and no curve ends early."""
    for callback in callbacks:
        for name in ("training_bar", "prediction_bar"):
            if getattr(callback, name, None) is not None:
                getattr(callback, name).close()
        if getattr(callback, "tb_writer", None) is not None:
            callback.tb_writer.flush()


# -------------------------------------------------------------------------------------------------------- internals


def _means(statistics: Iterable[Mapping[str, Sequence[float]]]) -> dict[str, float]:
    """Means of what is given by name as a sum and the number of what is summed up, by each process."""
    totals: dict[str, tuple[float, float]] = {}
    for pairs in statistics:
        for name, (total, number) in pairs.items():
            earlier = totals.get(name, (0.0, 0.0))
            totals[name] = (earlier[0] + total, earlier[1] + number)
    return {name: total / number for name, (total, number) in totals.items() if number}


def _forms(logs: dict[str, float]) -> dict[str, str]:
    """Forms of what is logged: the terms of the loss, `…_loss`, and shares, `relative_…`, are named by the model."""
    terms = [(name, f"{_words(name.removesuffix('_loss'))} {{:.4f}}") for name in logs if name.endswith("_loss")]
    shares = [
        (name, f"{_words(name.removeprefix('relative_'))} {{:.1%}}") for name in logs if name.startswith("relative_")
    ]
    return {"loss": "loss {:.4f}", **dict(terms), **dict(shares), **FORMS}


def _words(name: str) -> str:
    return name.replace("_", " ")


def _number(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
