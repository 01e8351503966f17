#!/usr/bin/env python
"""Train LAVCap with the Hugging Face Trainer.

One process, CPU or one GPU (tested on two CPU cores):

    accelerate launch train_hf.py configs/toy.yaml

Several GPUs: `ddp`, `fsdp2`, `deepspeed_zero2` or `deepspeed_zero3` (tested as docs/training.md says):

    accelerate launch --config_file configs/accelerate/ddp.yaml --num_processes 4 train_hf.py RECIPE.yaml

The recipe is a YAML file of fields; any of them can be overridden, named as `HfArgumentParser` names them:

    accelerate launch train_hf.py configs/toy.yaml --learning_rate 5e-4 --output_dir outputs/lower_rate

Continue after an interruption from the last checkpoint of the output folder:

    accelerate launch train_hf.py configs/toy.yaml --resume_from_checkpoint true

`train_hf.py --help` lists every field. Watch the curves with `tensorboard --logdir outputs/demo/model`.
"""

import os
import sys
from dataclasses import dataclass, field
from pathlib import Path

import lavcap.models  # noqa: F401, first: the next lines import PEFT, which has bitsandbytes advise on 4-bit kernels


# isort: split
import torch
from transformers import ProgressCallback, Seq2SeqTrainingArguments, Trainer, set_seed

from lavcap.commands import errors_in_one_line
from lavcap.data.augmentation import RELEASED_INSTRUCTIONS, Augmentation
from lavcap.data.collation import EvaluationCollator, TrainingCollator, stored_width
from lavcap.models.building import ModelArguments, build_model, check_checkpoint, plain
from lavcap.models.lora import num_trained, trainable_table
from lavcap.provenance import inherited_note
from lavcap.publishing.card import training_settings
from lavcap.training.broken_clips import TrainingStopped
from lavcap.training.checkpoints import CheckpointError, find_checkpoint
from lavcap.training.data import DataArguments, as_model_inputs, load_rows, stored_example
from lavcap.training.distributed import whole_weights
from lavcap.training.in_training_evaluation import SampleCaptions, ValidationScores
from lavcap.training.meter import MonitoringArguments, check_monitoring, early_stopping
from lavcap.training.progress import TrainingProgress
from lavcap.training.publisher import check_hub_options, open_hub
from lavcap.training.recipe import parse_recipe
from lavcap.training.trainer import LavcapTrainer, TrainingNote
from media_captioning import MediaError


@dataclass
class AugmentationArguments:
    frequency_mask: int = field(default=0, metadata={"help": "Widest SpecAugment mask in mel bands (released: 48)."})
    time_mask: int = field(default=0, metadata={"help": "Widest SpecAugment mask in frames of 10 ms (released: 192)."})
    noise: bool = field(default=False, metadata={"help": "Add noise to the sound and roll it in time."})
    audio_only_rate: float = field(default=0.0, metadata={"help": "Share of training clips shown without picture."})
    video_only_rate: float = field(default=0.0, metadata={"help": "Share of training clips shown without sound."})
    instructions: list[str] | None = field(
        default=None,
        metadata={"help": "What the model is asked, one drawn per clip; `released` stands for the released eight."},
    )


@dataclass
class TrainingArguments(MonitoringArguments, Seq2SeqTrainingArguments):
    # The Trainer knows the model's inputs, not the columns that the collator makes them of.
    remove_unused_columns: bool = field(default=False, metadata={"help": "Leave this off."})
    predict_with_generate: bool = field(
        default=True, metadata={"help": "Caption the validation clips and score them."}
    )
    generation_num_beams: int | None = field(default=1, metadata={"help": "Beams during training's evaluations."})
    report_to: None | str | list[str] = field(default="tensorboard", metadata={"help": "Where to log."})
    hub_strategy: str = field(default="end", metadata={"help": "When to push to the Hub: `end` or `every_save`."})
    cpu_threads: int | None = field(
        default=None, metadata={"help": "Threads per process on a CPU. Default: its share of the cores."}
    )


def main():
    kinds = (ModelArguments, DataArguments, AugmentationArguments, TrainingArguments)
    with errors_in_one_line():
        model_args, data_args, augmentation_args, args = parse_recipe(kinds)
        check_hub_options(args)
        check_monitoring(args)
        check_training_options(args)
        checkpoint = find_checkpoint(args)
        set_seed(args.seed)
        use_cpu_cores(args)
        augmentation = build_augmentation(augmentation_args)
        rows = load_rows(data_args)
        with whole_weights(args):
            model, processor = build_model(model_args)
        check_optimizer(args, model)
        if checkpoint is not None:
            check_checkpoint(model, checkpoint)
        widths = [stored_width(plain(model), stored_example(split)) for split in (rows.train, rows.validation)]
        collator = TrainingCollator(processor, augmentation, widths[0])
        train_set, validation_set = as_model_inputs(rows, data_args, plain(model), processor, args)
        open_hub(args, model)
    if args.process_index == 0:
        print(trainable_table(model), flush=True)
    # Before the engine shares the weights out.
    sizes = {"parameters": plain(model).num_parameters(), "trained_parameters": num_trained(model)}
    output = args.output_dir if Path(args.output_dir).is_dir() else None
    note = rows.note | {"recipe": training_settings(args, **vars(augmentation_args))}
    note = inherited_note(note, filter(None, (model_args.model_name_or_path, checkpoint, output)))
    scores = ValidationScores(processor, rows.validation["id"], rows.validation["captions"], args.sample_captions)
    trainer = LavcapTrainer(
        model=model,
        args=args,
        data_collator=collator,
        eval_data_collator=EvaluationCollator(processor, widths[1]),
        train_dataset=train_set,
        eval_dataset=validation_set,
        processing_class=processor,
        compute_metrics=scores,
        callbacks=[TrainingNote(note), *early_stopping(args)],
    )
    trainer.add_callback(SampleCaptions(trainer, scores))
    if trainer.pop_callback(ProgressCallback) is not None:
        trainer.add_callback(TrainingProgress())
    with errors_in_one_line((MediaError, CheckpointError, TrainingStopped)):
        result = trainer.train(resume_from_checkpoint=checkpoint)
        trainer.save_model()
        trainer.save_state()
        facts = {
            "train_clips": note["train_clips"],
            **sizes,
            "processes": args.world_size,
            "seed": args.seed,
            "start": model_args.model_name_or_path or model_args.text_model or "scratch",
            "resumed_from": checkpoint,
        }
        trainer.save_metrics("train", result.metrics | facts)
        if args.eval_strategy != "no":
            trainer.save_metrics("eval", trainer.evaluate())
    if args.process_index == 0:
        print(f"Model and processor are in {args.output_dir}")
    if args.push_to_hub:
        with errors_in_one_line():
            trainer.push_to_hub()


def check_training_options(args: TrainingArguments):
    """Refuse fields of the Trainer's that a LAVCap cannot be trained with.

    Raises:
        ValueError: names the field.
    """
    if args.label_smoothing_factor:
        raise ValueError(
            f"label_smoothing_factor is {args.label_smoothing_factor}, expected 0: with it the Trainer would put a "
            "loss of its own in the place of the model's, without the alignment loss; leave it out."
        )
    if args.train_sampling_strategy not in ("random", "sequential"):
        raise ValueError(
            f"train_sampling_strategy is {args.train_sampling_strategy!r}, expected 'random' or 'sequential': clips "
            "have no lengths to group them by."
        )


def check_optimizer(args: TrainingArguments, model: torch.nn.Module):
    """Refuse an optimiser that cannot be made of this model on this machine.

    Raises:
        ValueError: with the library's reason, such as a package that is not installed.
    """
    try:
        Trainer.get_optimizer_cls_and_kwargs(args, model)
    except (ImportError, NotImplementedError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(
            f"optim is {args.optim.value!r}, which cannot be had here ({reason}); name another."
        ) from error


def use_cpu_cores(args: TrainingArguments):
    """`accelerate launch` leaves a CPU process one thread; give it its share of the cores, and pin no memory."""
    if args.device.type == "cpu":
        processes = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
        torch.set_num_threads(args.cpu_threads or max(1, (os.cpu_count() or 1) // processes))
        args.dataloader_pin_memory = False  # torch would warn at every loader


def build_augmentation(args: AugmentationArguments) -> Augmentation:
    given = args.instructions or []
    instructions = [text for name in given for text in (RELEASED_INSTRUCTIONS if name == "released" else [name])]
    return Augmentation(**vars(args) | {"instructions": tuple(instructions)})


if __name__ == "__main__":
    sys.exit(main())
