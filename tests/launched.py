"""What the tests of engines start in several processes: trainings and evaluations, with a record of what they did.

    accelerate launch … tests/launched.py JOBS.json

`JOBS.json` holds a list of objects. `{"train": [argument, …], "record": path}` runs `train_hf.py` with these arguments;
`{"evaluate": model, "data_dir": …, "most": n, "record": path}` scores the first clip, the first two, … of `val`.
"""

import contextlib
import json
import sys
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from transformers import TrainerCallback
from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled

import train_hf
from lavcap.clips import ClipDataset
from lavcap.collation import EvaluationCollator
from lavcap.data import load_split
from lavcap.manifest import take_rows
from lavcap.trainer import LavcapTrainer
from modeling_lavcap import LavcapForConditionalGeneration
from processing_lavcap import LavcapProcessor


RECORD: dict[str, Any] = {}


class RecordedTrainer(LavcapTrainer):
    """Trainer that keeps losses in full precision, the captions of each evaluation, and who moved in the last step."""

    def __init__(self, *args, compute_metrics=None, **kwargs):
        def recorded(prediction):
            RECORD["captions"].append(captions_of(prediction, kwargs["processing_class"]))
            return compute_metrics(prediction)

        super().__init__(*args, compute_metrics=recorded, **kwargs)
        RECORD.update(losses=[], captions=[], processes=self.accelerator.num_processes)
        RECORD["engine"] = str(self.accelerator.distributed_type)
        self.add_callback(LastStep(self))

    def log(self, logs, start_time=None):
        if "loss" in logs:
            RECORD["losses"].append(logs["loss"])
        super().log(logs, start_time)


class LastStep(TrainerCallback):
    """Compares every tensor before and after the last step of a training."""

    def __init__(self, trainer: LavcapTrainer):
        self.trainer = trainer

    def on_step_begin(self, args, state, control, model=None, **kwargs):
        if state.global_step == state.max_steps - 1:
            self.before = whole_weights(model)

    def on_train_end(self, args, state, control, model=None, **kwargs):
        after = whole_weights(model)
        trainable = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
        moved = {name for name, weight in after.items() if not torch.equal(weight, self.before[name])}
        RECORD["still"] = sorted(trainable - moved)
        RECORD["moved"] = sorted(trainable & moved)
        RECORD["frozen"] = len(after) - len(trainable)
        RECORD["frozen_but_moved"] = sorted(moved - trainable)


def whole_weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Copies of all parameters, put together again where ZeRO-3 has shared them out."""
    gathered = contextlib.nullcontext()
    if is_deepspeed_zero3_enabled():
        import deepspeed

        gathered = deepspeed.zero.GatheredParameters(list(model.parameters()))
    with gathered:
        return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def captions_of(prediction, processor: LavcapProcessor) -> list[str]:
    tokens = torch.as_tensor(prediction.predictions)
    return processor.decode_captions(tokens.masked_fill(tokens < 0, processor.pad_token_id))


def train(arguments: list[str]):
    sys.argv = ["train_hf.py", *arguments]
    train_hf.LavcapTrainer = RecordedTrainer
    train_hf.main()


def evaluate(model: str, data_dir: str, most: int):
    """Score 1, 2, … `most` clips, two at a time in each process."""
    processor, rows = LavcapProcessor.from_pretrained(model), load_split(data_dir, "val")
    options = {"output_dir": f"{model}/unused", "report_to": "none", "disable_tqdm": True}
    trainer = RecordedTrainer(
        model=LavcapForConditionalGeneration.from_pretrained(model),
        args=train_hf.TrainingArguments(**options, per_device_eval_batch_size=2),
        data_collator=EvaluationCollator(processor),
        processing_class=processor,
        compute_metrics=lambda prediction: {"clips": len(prediction.predictions)},
    )
    for count in range(1, most + 1):
        trainer.evaluate(ClipDataset(take_rows(rows, range(count)), processor))


def main():
    for job in json.loads(Path(sys.argv[1]).read_text()):
        RECORD.clear()
        if "train" in job:
            train(job["train"])
        else:
            evaluate(job["evaluate"], job["data_dir"], job["most"])
        if PartialState().is_main_process:
            Path(job["record"]).write_text(json.dumps(RECORD))


if __name__ == "__main__":
    main()
