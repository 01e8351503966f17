"""What the tests of engines start in several processes: jobs of training and evaluation, each with a record.

    accelerate launch … tests/support/launched.py JOBS.json

`JOBS.json` holds a list of objects with the path of a `record` and one of
    `train`: arguments of `train_hf.py`, which is run with them;
    `evaluate`: a saved model, which captions the first clip of `data_dir`, the first two, … up to `most`;
    `shard`: a saved model, whose weights FSDP2 shares out for a step of training and a generation.
"""

import contextlib
import copy
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import FullyShardedDataParallelPlugin, gather_object, reduce
from model_parts import LORA
from torch import nn
from torch.distributed.fsdp import register_fsdp_forward_method
from torch.distributed.tensor import DTensor
from transformers import TrainerCallback
from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled

import train_hf
from lavcap.data.collation import EvaluationCollator, TrainingCollator, model_inputs
from lavcap.data.dataset import ClipDataset
from lavcap.data.manifest import take_rows
from lavcap.data.splits import load_split
from lavcap.models.lora import add_lora
from lavcap.training.broken_clips import TrainingStopped
from lavcap.training.trainer import CaptioningTrainer
from modeling_lavcap import LavcapForConditionalGeneration
from processing_lavcap import LavcapProcessor


RECORD: dict[str, Any] = {}


class RecordedTrainer(CaptioningTrainer):
    """Trainer that keeps losses in full precision, captions, and which tensors the last step moved."""

    def __init__(self, *args, compute_metrics=None, **kwargs):
        def recorded(prediction) -> dict[str, float]:
            RECORD["captions"].append(_captions(prediction.predictions, kwargs["processing_class"]))
            return compute_metrics(prediction)

        super().__init__(*args, compute_metrics=recorded, **kwargs)
        RECORD.update(losses=[], captions=[], eval_losses=[], processes=self.accelerator.num_processes)
        RECORD["engine"] = self.accelerator.distributed_type.value
        self.add_callback(LastStep())

    def train(self, *args, **kwargs):
        try:
            return super().train(*args, **kwargs)
        except TrainingStopped as error:
            RECORD["stopped"] = str(error)
            raise

    def log(self, logs, start_time=None):
        if "loss" in logs:
            RECORD["losses"].append(logs["loss"])
        super().log(logs, start_time)


class LastStep(TrainerCallback):
    """Compares every tensor before and after the last step of a training, unless it stops early."""

    before: dict[str, torch.Tensor] | None = None

    def on_step_begin(self, args, state, control, model=None, **kwargs):
        if state.global_step == state.max_steps - 1:
            self.before = _weights(model)

    def on_train_end(self, args, state, control, model=None, **kwargs):
        if self.before is None:
            return
        after = _weights(model)
        trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
        moved = {name for name, weight in after.items() if not torch.equal(weight, self.before[name])}
        RECORD["trained"], RECORD["moved"] = sorted(trained), sorted(moved)
        RECORD["frozen"] = len(after) - len(trained)
        norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm1d)]
        RECORD["statistics"] = gather_object([norm.running_var.tolist() for norm in norms[:1]])


def train(arguments: list[str]):
    sys.argv = ["train_hf.py", *arguments]
    train_hf.CaptioningTrainer = RecordedTrainer
    try:
        train_hf.main()
    except SystemExit:
        if "stopped" not in RECORD:
            raise


def evaluate(folder: str, data_dir: str, most: int):
    """Caption 1, 2, … `most` clips, two at a time in each process."""
    processor, rows = LavcapProcessor.from_pretrained(folder), load_split(data_dir, "train")
    model = LavcapForConditionalGeneration.from_pretrained(folder)
    _end_often(model)
    options = {"output_dir": str(Path(sys.argv[1]).with_name("unused")), "report_to": "none", "disable_tqdm": True}
    trainer = RecordedTrainer(
        model=model,
        args=train_hf.TrainingArguments(**options, use_cpu=True, per_device_eval_batch_size=2),
        data_collator=EvaluationCollator(processor),
        processing_class=processor,
        compute_metrics=lambda prediction: {"clips": len(prediction.predictions)},
    )
    for count in range(1, most + 1):
        metrics = trainer.evaluate(ClipDataset(take_rows(rows, range(count)), processor))
        RECORD["eval_losses"].append([metrics["eval_caption_loss"], metrics["eval_alignment_loss"]])


def shard(folder: str, data_dir: str, dtype: str):
    """Two steps of processes with two clips each, and of one model with all of them, which every process has."""
    state = PartialState(cpu=True)
    processor, rows = LavcapProcessor.from_pretrained(folder), load_split(data_dir, "train")
    items = [ClipDataset(rows, processor)[index] for index in range(2 * state.num_processes)]
    mine = items[2 * state.process_index :][:2]
    torch.manual_seed(0)
    whole = add_lora(LavcapForConditionalGeneration.from_pretrained(folder, dtype=getattr(torch, dtype)), LORA)
    start, shared = copy.deepcopy(whole).state_dict(), _sharded(copy.deepcopy(whole), state)
    losses = [_steps(whole, items, items, processor), _steps(shared, mine, items, processor, state.num_processes)]
    others = list(shared.parameters())
    pairs = {name: (one, other) for (name, one), other in zip(whole.named_parameters(), others, strict=True)}
    RECORD.update(
        processes=state.num_processes,
        dtype=str(next(iter(whole.get_base_model().language_model.parameters())).dtype),
        losses=[losses[0], reduce(torch.tensor(losses[1]), "mean").tolist()],
        shared_out=all(isinstance(other, DTensor) for _, other in pairs.values()),
        differences={name: (one - other.full_tensor()).abs().max().item() for name, (one, other) in pairs.items()},
        trained=sorted(name for name, (one, _) in pairs.items() if one.requires_grad),
        moved=sorted(name for name, (one, _) in pairs.items() if not torch.equal(one, start[name])),
    )
    _end_often(whole)
    _end_often(shared)
    collate = EvaluationCollator(processor)
    one, other = _generate(whole, collate(items)), _generate(shared, collate(mine), synced_gpus=True)
    RECORD["captions"] = [_captions(one, processor), gather_object(_captions(other, processor))]


def _sharded(model: nn.Module, state: PartialState) -> nn.Module:
    """The model as Accelerate prepares it for FSDP2, by the settings that `accelerate launch` has put in place."""
    from accelerate.utils.fsdp_utils import fsdp2_prepare_model

    accelerator = SimpleNamespace(
        state=SimpleNamespace(fsdp_plugin=FullyShardedDataParallelPlugin()),
        device=state.device,
        is_main_process=state.is_main_process,
        mixed_precision="no",
        parallelism_config=None,
        torch_device_mesh=None,
    )
    model = fsdp2_prepare_model(accelerator, model)
    register_fsdp_forward_method(model, "generate")  # as the Trainer does
    return model


def _steps(
    model: nn.Module, items: list, all_items: list, processor: LavcapProcessor, processes: int = 1
) -> list[float]:
    """Losses of two steps of SGD; gradients are means over processes."""
    collate = TrainingCollator(processor)
    labels = collate(all_items)["labels"]
    counts = {"num_items_in_batch": (labels[:, 1:] != -100).sum(), "num_clips_in_batch": len(all_items)}
    optimizer = torch.optim.SGD([weight for weight in model.parameters() if weight.requires_grad], lr=0.1)
    losses = []
    for _ in range(2):
        loss = model.train()(**model_inputs(collate(items)), **counts).loss * processes
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


def _end_often(model: nn.Module):
    """Let a third of the words end a caption, so that random weights write some of every length."""
    model.generation_config.eos_token_id = [2, *range(3, model.config.text_config.vocab_size, 3)]


def _generate(model: nn.Module, batch: dict[str, torch.Tensor], **options) -> torch.Tensor:
    batch = model_inputs(batch)
    prompt = {name.removeprefix("generation_"): batch.pop(name) for name in list(batch) if name.startswith("gen")}
    batch.pop("labels")
    tokens = model.eval().generate(**{**batch, **prompt}, **options)
    return tokens[:, prompt["input_ids"].shape[1] :]


@contextlib.contextmanager
def _gathered(model: nn.Module) -> Iterator[None]:
    """Whole weights where ZeRO-3 has shared them out."""
    if not is_deepspeed_zero3_enabled():
        yield
        return
    import deepspeed

    with deepspeed.zero.GatheredParameters(list(model.parameters())):
        yield


def _weights(model: nn.Module) -> dict[str, torch.Tensor]:
    with _gathered(model):
        return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def _captions(tokens: Any, processor: LavcapProcessor) -> list[str]:
    tokens = torch.as_tensor(tokens)
    return processor.decode_captions(tokens.masked_fill(tokens < 0, processor.pad_token_id))


def _leave_kernels_out():
    """DeepSpeed would compile a kernel for collectives of CPUs when it starts, where GPUs have none."""
    if os.environ.get("ACCELERATE_USE_DEEPSPEED") == "true":
        from deepspeed import ops

        ops.__compatible_ops__["deepspeed_shm_comm"] = False


def main():
    _leave_kernels_out()
    actions = {"train": train, "evaluate": evaluate, "shard": shard}
    for job in json.loads(Path(sys.argv[1]).read_text()):
        RECORD.clear()
        record, (kind, first), *others = job.pop("record"), *job.items()
        actions[kind](first, **dict(others))
        if PartialState().is_main_process:
            Path(record).write_text(json.dumps(RECORD))


if __name__ == "__main__":
    main()
