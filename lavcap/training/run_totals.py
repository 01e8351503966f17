"""Loss and time of a whole run, of which an interrupted process knows but the part after the interruption."""

import time
from dataclasses import asdict, dataclass
from typing import Any

from transformers import Seq2SeqTrainer, TrainerCallback


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


class WholeRunTotals(Seq2SeqTrainer):
    """Trainer whose `train_loss`, `train_runtime` and speeds are those of the whole run, interruptions or not.

    Attributes:
        earlier: sums of the run at the checkpoint that it continues from; none if it is not known.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.earlier: Totals | None = Totals()
        self.add_callback(TotalsBefore(self))

    def totals(self) -> Totals:
        """Sums of the run so far; to be called by all processes."""
        earlier = self.earlier or Totals()
        return Totals(
            self._total_loss_scalar,
            self.accelerator.gather(self._tr_loss).mean().item(),
            self._globalstep_last_logged,
            earlier.seconds + time.time() - self._begun,
        )

    def count_from(self, earlier: Totals):
        """Go on from sums of the run, where the Trainer begins at none."""
        self._total_loss_scalar = earlier.logged_loss
        self._tr_loss += earlier.unlogged_loss
        self._globalstep_last_logged = earlier.logged_step
        self._initial_global_step = 0

    def _finalize_training(self, trial, num_train_samples, start_time):
        # The Trainer adds those of the first process alone.
        self._tr_loss = self.accelerator.gather(self._tr_loss).mean()
        earlier = self.earlier or Totals()
        return super()._finalize_training(trial, num_train_samples, start_time - earlier.seconds)


class TotalsBefore(TrainerCallback):
    """Sets a trainer's sums after it has set them to nothing."""

    def __init__(self, trainer: WholeRunTotals):
        self.trainer = trainer

    def on_train_begin(self, args, state, control, **kwargs):
        self.trainer._begun = time.time()
        if self.trainer.earlier is not None:
            self.trainer.count_from(self.trainer.earlier)
