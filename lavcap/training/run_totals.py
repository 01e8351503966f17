"""Loss and time of a whole run, of which an interrupted process knows but the part after the interruption."""

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import Trainer, TrainerCallback
from transformers.trainer_utils import speed_metrics
from transformers.utils import logging

from lavcap.training.checkpoints import read_record


logger = logging.get_logger(__name__)


@dataclass(frozen=True)
class Totals:
    """Sums of a run at one of its steps.

    Args:
        logged_loss: losses of the steps up to the last log.
        unlogged_loss: losses of the steps since then.
        logged_step: step of the last log.
        seconds: time of training, evaluating and saving, without what was done after a checkpoint and lost.
    """

    logged_loss: float = 0.0
    unlogged_loss: float = 0.0
    logged_step: int = 0
    seconds: float = 0.0

    @classmethod
    def read(cls, noted: Any) -> "Totals | None":
        """What [`Totals.as_json`] gave; nothing if it is not that."""
        names = cls.__dataclass_fields__.keys()
        if not isinstance(noted, dict) or noted.keys() != names:
            return None
        return cls(**noted) if all(isinstance(value, (int, float)) for value in noted.values()) else None

    def as_json(self) -> dict[str, float]:
        return asdict(self)


class RunTotals(TrainerCallback):
    """Sums up a run, so that its `train_loss`, `train_runtime` and speeds are of all of it, interruptions or not.

    The Trainer keeps such sums itself, of one process from its first step on: these are the same, added up in the same
    order.

    Attributes:
        earlier: sums of the run at the checkpoint that it continues from; none if they are not known.
    """

    def __init__(self, trainer: Trainer):
        self.trainer = trainer
        self.earlier: Totals | None = Totals()

    def on_train_begin(self, args, state, control, train_dataloader=None, **kwargs):
        begin = self.earlier or Totals(logged_step=state.global_step)
        self._begun = time.time() - begin.seconds
        self._logged, self._logged_step = begin.logged_loss, begin.logged_step
        self._unlogged = torch.tensor(begin.unlogged_loss, device=args.device)
        self._first_step = 0 if self.earlier else state.global_step
        # Clips of all steps of the schedule.
        self._num_samples = self.trainer.set_initial_training_values(args, train_dataloader)[3]

    def add(self, loss: torch.Tensor):
        """Add the loss of a micro-batch, finite and by its share in the step: `()`."""
        self._unlogged += loss

    def note_log(self):
        """The losses so far are logged."""
        self._logged += self._unlogged_mean()
        self._unlogged.zero_()
        self._logged_step = self.trainer.state.global_step

    def now(self) -> Totals:
        """Sums of the run so far; to be called by all processes."""
        return Totals(self._logged, self._unlogged_mean(), self._logged_step, time.time() - self._begun)

    def complete(self, logs: dict[str, float]):
        """Put the figures of the whole run in the place of those that the Trainer logs at its end."""
        steps, of_all = self.trainer.state.global_step - self._first_step, max(self.trainer.state.max_steps, 1)
        logs |= speed_metrics("train", self._begun, self._num_samples * steps / of_all, steps)
        logs["train_loss"] = (self._logged + self._unlogged_mean()) / max(steps, 0.001)

    def _unlogged_mean(self) -> float:
        return self.trainer.accelerator.gather(self._unlogged).mean().item()


def totals_at(checkpoint: Path) -> Totals | None:
    """Sums of the run that a checkpoint is of; nothing, with a warning, where it does not have them."""
    totals = Totals.read((read_record(checkpoint) or {}).get("totals"))
    if totals is None:
        logger.warning(f"{checkpoint}: has no totals; train_loss and train_runtime will not be of the whole run.")
    return totals
