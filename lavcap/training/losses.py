"""The terms of a captioner's loss: what a step averages them over, and their means over an evaluation.

A model names its terms in `loss_terms`, with what each is averaged over: label tokens or clips. A row counts for the
latter where `counted_clips` of the model says so. No other file of training knows what a model's terms are called.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object

from lavcap.data.collation import CLIP_IDS, any_tensor, blank
from lavcap.training.distributed import repeated_rows


class StepCounts:
    """What the losses of an optimiser step are averaged over, in all of its micro-batches and processes.

    Args:
        model: without PEFT around it.
        accelerator: of the trainer.
        over_processes: whether gradients are those of the mean over the clips of all processes.

    Attributes:
        num_clips: that count in the step, `()`, at least 1.
        targets: label tokens and clips that a term of the loss is averaged over, in all steps so far, `()`.
    """

    def __init__(self, model: Any, accelerator: Accelerator, over_processes: bool):
        self.model = model
        self.accelerator = accelerator
        self.over_processes = over_processes
        self.num_clips: torch.Tensor | None = None
        self.targets = torch.zeros((), device=accelerator.device)

    def count(
        self, batches: Sequence[Mapping[str, Any]], num_tokens: torch.Tensor | None, device: torch.device
    ) -> torch.Tensor | None:
        """Count the clips of a step: what the Trainer shall divide its loss by, at least 1.

        Args:
            batches: micro-batches of this process.
            num_tokens: label tokens of all processes, from the Trainer; nothing where there are no labels.
        """
        counted = (self.model.counted_clips(batch).sum().to(device) for batch in batches)
        clips = sum(counted, torch.zeros((), device=device))
        if self.over_processes:
            clips = self.accelerator.gather(clips).sum()
        numbers = {"clips": clips, "tokens": sum(map(_label_tokens, batches))}
        self.targets = self.targets + sum(numbers[unit] for unit in set(self.model.loss_terms.values()))
        self.num_clips = clips.clamp(min=1)
        if num_tokens is not None:
            return num_tokens.clamp(min=1)  # of broken clips alone there are none
        return self.num_clips if batches and "labels" not in batches[0] else None

    def has_learned(self) -> bool:
        """Whether any step so far had something to learn from; to be called by all processes."""
        return bool(self.accelerator.reduce(self.targets, "sum").item())


def without_repeated(
    batch: Mapping[str, Any], num_rows: int, accelerator: Accelerator, processor: Any
) -> Mapping[str, Any]:
    """The batch; what fills up the last one of several processes counts for nothing.

    Args:
        batch: of a collator.
        num_rows: of the epoch, of all processes.
        accelerator, processor: of the trainer.
    """
    rows = repeated_rows(accelerator, len(any_tensor(batch)), num_rows)
    if len(rows):
        batch = {**batch, CLIP_IDS: batch.get(CLIP_IDS, [])[: rows[0]]}
        blank(batch, rows, processor)
    return batch


def split_loss(
    loss: torch.Tensor, outputs: Mapping[str, Any], terms: Mapping[str, str], scale: int = 1
) -> dict[str, torch.Tensor]:
    """The terms that a loss is the sum of: the last one is what the others leave, one that is not there is 0.

    Args:
        loss: of the outputs, `()`, multiplied by `scale`.
        outputs: of a model.
        terms: `loss_terms` of the model.
    """
    parts, rest = {name: torch.zeros_like(loss) for name in terms}, loss
    given = [name for name in terms if outputs.get(name) is not None] or list(terms)[:1]
    for name in given[:-1]:
        parts[name] = outputs[name].detach().sum() * scale
        rest = rest - parts[name]
    return parts | {given[-1]: rest}


class EvaluationLoss:
    """Loss of an evaluation: the means of its terms over all label tokens or all clips that count.

    Every clip that the model counts does so once, however many make a batch and however many processes share them out.

    Args:
        model: without PEFT around it.
    """

    def __init__(self, model: Any):
        self.model = model
        self._sums = [0.0] * len(model.loss_terms)
        self._counts = [0.0] * len(model.loss_terms)

    def add(self, output: Any, batch: Mapping[str, Any]) -> torch.Tensor:
        """Add a batch, and give its own loss: `()`.

        Args:
            output: of the model, called with `num_items_in_batch` and `num_clips_in_batch` of 1, so that losses are
                sums.
            batch: what it was called with.
        """
        loss, terms = output.loss.sum(), self.model.loss_terms
        counts = {"tokens": _label_tokens(batch), "clips": self.model.counted_clips(batch).sum()}
        parts = split_loss(loss, output, terms)
        sums = torch.stack([parts[name].float() for name in terms])
        numbers = torch.stack([counts[kind].to(loss.device).float() for kind in terms.values()])
        self._sums = _added(self._sums, sums)
        self._counts = _added(self._counts, numbers)
        return (sums / numbers.clamp(min=1)).sum()

    def read(self) -> dict[str, float]:
        """`loss` and its terms, of all processes; none where nothing counted."""
        gathered = gather_object([(self._sums, self._counts)])
        sums, counts = ([sum(column) for column in zip(*rows, strict=True)] for rows in zip(*gathered, strict=True))
        if not any(counts):
            return {}
        means = [total / max(1.0, count) for total, count in zip(sums, counts, strict=True)]
        return {"loss": sum(means)} | dict(zip(self.model.loss_terms, means, strict=True))


def wanted_logits(batch: Mapping[str, Any]) -> dict[str, int]:
    """What to tell a model, so that it computes no logits before those that predict the first label of any row."""
    if "labels" not in batch:
        return {}
    is_label = (batch["labels"] != -100).any(dim=0)
    return {"logits_to_keep": min(len(is_label), 1 + int((is_label.cumsum(dim=0) > 0).sum()))}


def labels_of(batch: Mapping[str, Any], counted: torch.Tensor) -> torch.Tensor:
    """Labels of a batch; of one that has none, a 0 for each row that counts and -100 for each other: `(batch, 1)`."""
    if "labels" in batch:
        return batch["labels"]
    return torch.where(counted, 0, -100)[:, None]


# -------------------------------------------------------------------------------------------------------- internals


def _label_tokens(batch: Mapping[str, Any]) -> torch.Tensor:
    return (batch["labels"][:, 1:] != -100).sum() if "labels" in batch else torch.zeros(())


def _added(totals: Sequence[float], numbers: torch.Tensor) -> list[float]:
    return [total + number for total, number in zip(totals, numbers.tolist(), strict=True)]
