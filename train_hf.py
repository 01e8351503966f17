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

import signal
import sys
from pathlib import Path

from lavcap.endings import end_at_interrupts, errors_in_one_line, printable


if __name__ == "__main__":
    end_at_interrupts()

# isort: split
import lavcap.models  # noqa: F401, first: the next lines import PEFT, which has bitsandbytes advise on 4-bit kernels


# isort: split
from transformers import ProgressCallback, set_seed

from lavcap.data.collation import EvaluationCollator, TrainingCollator, stored_size
from lavcap.data.shards import stored_example
from lavcap.models.building import ModelArguments, build_model, plain
from lavcap.models.decoding import try_decoding
from lavcap.models.lora import num_trained, trainable_table
from lavcap.provenance import inherited_provenance
from lavcap.publishing.card import training_settings
from lavcap.training.arguments import (
    AugmentationArguments,
    DataArguments,
    TrainingArguments,
    build_augmentation,
    check_batch_size,
    check_clips,
    check_monitoring,
    check_optimizer,
    check_ranges,
    check_training_options,
    early_stopping,
)
from lavcap.training.broken_clips import TrainingStopped
from lavcap.training.checkpoints import CheckpointError
from lavcap.training.data import as_model_inputs, load_rows
from lavcap.training.distributed import use_cpu_cores, whole_weights
from lavcap.training.in_training_evaluation import SampleCaptions, ValidationScores
from lavcap.training.meter import TrainingProgress
from lavcap.training.publisher import check_hub_options, open_hub
from lavcap.training.recipe import parse_recipe
from lavcap.training.resume import check_checkpoint, find_checkpoint
from lavcap.training.trainer import CaptioningTrainer, ProvenanceCallback
from sources_captioning import MediaError


@errors_in_one_line(())
def main():
    with errors_in_one_line():
        kinds = (ModelArguments, DataArguments, AugmentationArguments, TrainingArguments)
        model_args, data_args, augmentation_args, args = parse_recipe(kinds)
        check_ranges(model_args, data_args)
        check_hub_options(args)
        check_monitoring(args)
        check_training_options(args)
        checkpoint = find_checkpoint(args)
        set_seed(args.seed)
        use_cpu_cores(args)
        augmentation = build_augmentation(augmentation_args)
        rows = load_rows(data_args)
        if not isinstance(rows.train, list):  # shards, whose rows are not counted
            check_clips(args, len(rows.train))

        with whole_weights(args):
            model, processor = build_model(model_args)
        check_optimizer(args, model)
        check_batch_size(args, plain(model))
        if checkpoint is not None:
            check_checkpoint(model, checkpoint)

        widths = [stored_size(plain(model), stored_example(split)) for split in (rows.train, rows.validation)]
        collator = TrainingCollator(processor, augmentation, widths[0])
        train_set, validation_set = as_model_inputs(rows, data_args, plain(model), processor, args)
        if model.can_generate():
            try_decoding(plain(model), processor, model_args.start)
        open_hub(args, model)
    if args.process_index == 0:
        print(trainable_table(model), flush=True)
    # Before the engine shares the weights out.
    sizes = {"parameters": plain(model).num_parameters(), "trained_parameters": num_trained(model)}
    provenance = rows.provenance | {"recipe": training_settings(args, **vars(augmentation_args))}
    output = args.output_dir if Path(args.output_dir).is_dir() else None
    provenance = inherited_provenance(provenance, filter(None, (model_args.model_name_or_path, checkpoint, output)))

    scores = ValidationScores(processor, rows.validation["id"], rows.validation["captions"], args.sample_captions)
    with errors_in_one_line((ValueError, TypeError, OSError, ImportError, NotImplementedError)):
        trainer = CaptioningTrainer(
            model=model,
            args=args,
            data_collator=collator,
            eval_data_collator=EvaluationCollator(processor, widths[1], augmentation.missing_modality),
            train_dataset=train_set,
            eval_dataset=validation_set,
            processing_class=processor,
            compute_metrics=scores,
            callbacks=[ProvenanceCallback(provenance), *early_stopping(args)],
        )
    trainer.add_callback(SampleCaptions(trainer, scores))
    if trainer.pop_callback(ProgressCallback) is not None:
        trainer.add_callback(TrainingProgress())
    with errors_in_one_line((MediaError, CheckpointError, TrainingStopped)):
        result = trainer.train(resume_from_checkpoint=checkpoint)

        trainer.save_model()
        trainer.save_state()
        facts = {
            "train_clips": provenance["train_clips"],
            **sizes,
            "processes": args.world_size,
            "seed": args.seed,
            "start": model_args.start,
            "resumed_from": checkpoint,
        }
        trainer.save_metrics("train", result.metrics | facts)
        if args.eval_strategy != "no":
            trainer.save_metrics("eval", trainer.evaluate())
    if args.process_index == 0:
        if trainer.continuation.is_over:
            place, step = printable(checkpoint), trainer.state.global_step
            print(f"Nothing was left to do: {place} is of step {step}, the last one.")
        print(f"Model and processor are in {printable(args.output_dir)}")
    if args.push_to_hub:
        with errors_in_one_line():
            trainer.push_to_hub()


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.exit(main())
