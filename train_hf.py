#!/usr/bin/env python
"""Train LAVCap with the Hugging Face Trainer.

One process, CPU or one GPU (tested on two CPU cores):

    accelerate launch train_hf.py configs/toy.yaml

The recipe is a YAML file of fields; any of them can be overridden, named as `HfArgumentParser` names them:

    accelerate launch train_hf.py configs/toy.yaml --learning_rate 5e-4 --output_dir outputs/lower_rate

Continue after an interruption from the last checkpoint of the output folder:

    accelerate launch train_hf.py configs/toy.yaml --resume_from_checkpoint true

`train_hf.py --help` lists every field. Watch the curves with `tensorboard --logdir outputs/demo/model`.
"""

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from transformers import AutoTokenizer, EvalPrediction, Seq2SeqTrainingArguments, set_seed
from transformers.trainer_utils import get_last_checkpoint
from transformers.utils import logging

from configuration_lavcap import LavcapConfig
from lavcap.augmentation import RELEASED_INSTRUCTIONS, Augmentation
from lavcap.captioning import check_model_name
from lavcap.cli import check_new_folder, errors_in_one_line
from lavcap.collation import EvaluationCollator, TrainingCollator
from lavcap.metrics import score_captions
from lavcap.recipe import check_config_fields, parse_object, parse_recipe
from lavcap.trainer import LavcapTrainer, TrainingNote
from lavcap.training_data import DataArguments, as_model_inputs, inherited_note, load_rows
from media_lavcap import MediaError
from modeling_lavcap import LavcapForConditionalGeneration
from parts_lavcap import RELEASED_DECODING
from processing_lavcap import LavcapProcessor


logger = logging.get_logger(__name__)


@dataclass
class ModelArguments:
    model_name_or_path: str | None = field(
        default=None, metadata={"help": "Trained LAVCap to start from: a folder or a name on the Hub."}
    )
    model_config: dict | str | None = field(
        default=None, metadata={"help": "Fields of LavcapConfig for a fresh model: an object in YAML, or JSON text."}
    )
    tokenizer_name: str | None = field(
        default=None, metadata={"help": "Tokenizer of a fresh model: a folder or a name on the Hub."}
    )
    num_beams: int | None = field(
        default=None,
        metadata={"help": "Beams of the decoding saved with the model. Default: 4, or the model's own."},
    )
    max_new_tokens: int | None = field(
        default=None,
        metadata={"help": "Longest caption, saved with the model. Default: 200 tokens, or the model's own."},
    )


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
class TrainingArguments(Seq2SeqTrainingArguments):
    # The Trainer knows the model's inputs, not the columns that the collator makes them of.
    remove_unused_columns: bool = field(default=False, metadata={"help": "Leave this off."})
    predict_with_generate: bool = field(
        default=True, metadata={"help": "Caption the validation clips and score them."}
    )
    generation_num_beams: int | None = field(default=1, metadata={"help": "Beams during training's evaluations."})
    report_to: None | str | list[str] = field(default="tensorboard", metadata={"help": "Where to log."})
    cpu_threads: int | None = field(
        default=None, metadata={"help": "Threads per process on a CPU. Default: its share of the cores."}
    )


def main():
    kinds = (ModelArguments, DataArguments, AugmentationArguments, TrainingArguments)
    with errors_in_one_line():
        model_args, data_args, augmentation_args, args = parse_recipe(kinds)
        checkpoint = find_checkpoint(args)
        set_seed(args.seed)
        use_cpu_cores(args)
        augmentation = build_augmentation(augmentation_args)
        rows = load_rows(data_args)
        model, processor = build_model(model_args)
        collator = TrainingCollator(processor, augmentation)
        train_set, validation_set = as_model_inputs(rows, data_args, model, processor, args)
    output = args.output_dir if Path(args.output_dir).is_dir() else None
    note = inherited_note(rows.note, filter(None, (model_args.model_name_or_path, checkpoint, output)))
    trainer = LavcapTrainer(
        model=model,
        args=args,
        data_collator=collator,
        eval_data_collator=EvaluationCollator(processor),
        train_dataset=train_set,
        eval_dataset=validation_set,
        processing_class=processor,
        compute_metrics=caption_metrics(processor, rows.validation["captions"]),
        callbacks=[TrainingNote(note)],
    )
    with errors_in_one_line((MediaError,)):
        result = trainer.train(resume_from_checkpoint=checkpoint)
    trainer.save_model()
    trainer.save_state()
    facts = {
        "train_clips": note["train_clips"],
        "parameters": model.num_parameters(),
        "seed": args.seed,
        "start": model_args.model_name_or_path or "scratch",
        "resumed_from": checkpoint,
    }
    trainer.save_metrics("train", result.metrics | facts)
    if args.eval_strategy != "no":
        trainer.save_metrics("eval", trainer.evaluate())
    print(f"Model and processor are in {args.output_dir}")


def find_checkpoint(args: TrainingArguments) -> str | None:
    """Checkpoint to continue from, if one is asked for; else the output folder must be new."""
    wanted = args.resume_from_checkpoint
    if wanted is None or wanted.lower() == "false":
        if args.process_index == 0:
            check_new_folder(args.output_dir, "--output_dir")
        return None
    if wanted.lower() != "true":
        if not Path(wanted).is_dir():
            raise ValueError(f"{wanted}: no such checkpoint; check --resume_from_checkpoint.")
        if Path(wanted).resolve().parent != Path(args.output_dir).resolve():
            check_new_folder(args.output_dir, "--output_dir")
        return wanted
    last = get_last_checkpoint(args.output_dir) if Path(args.output_dir).is_dir() else None
    if last is None:
        raise ValueError(f"{args.output_dir}: holds no checkpoint to resume from; leave --resume_from_checkpoint out.")
    return last


def use_cpu_cores(args: TrainingArguments):
    """`accelerate launch` leaves a CPU process one thread; give it its share of the cores."""
    if args.device.type == "cpu":
        processes = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
        torch.set_num_threads(args.cpu_threads or max(1, (os.cpu_count() or 1) // processes))


def build_model(args: ModelArguments) -> tuple[LavcapForConditionalGeneration, LavcapProcessor]:
    """Trained model and its processor, or a fresh model whose language model fits the tokenizer."""
    if args.model_name_or_path is not None:
        check_model_name(args.model_name_or_path)
        if args.model_config is not None:
            logger.warning("model_name_or_path is given: model_config and tokenizer_name of the recipe are not used.")
        model = LavcapForConditionalGeneration.from_pretrained(args.model_name_or_path)
        processor = LavcapProcessor.from_pretrained(args.model_name_or_path)
        check_trainable(model, args.model_name_or_path)
    elif args.model_config is None or args.tokenizer_name is None:
        raise ValueError("Got neither model_name_or_path nor model_config with tokenizer_name: name a model to train.")
    else:
        check_tokenizer(args.tokenizer_name)
        tokenizer = AutoTokenizer.from_pretrained(args.tokenizer_name)
        config = fresh_config(args.model_config, tokenizer)
        model, processor = LavcapForConditionalGeneration(config), LavcapProcessor.from_config(config, tokenizer)
        model.generation_config.update(**RELEASED_DECODING)
    given = {"num_beams": args.num_beams, "max_new_tokens": args.max_new_tokens}
    model.generation_config.update(**{name: value for name, value in given.items() if value is not None})
    return model, processor


def check_trainable(model: LavcapForConditionalGeneration, name: str):
    """Refuse what could not be trained as it is, before any work."""
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ValueError(
            f"{name}: holds an adapter, which is loaded for inference; train the model with its LoRA folded in, or "
            "load it by PeftModel.from_pretrained(…, is_trainable=True) in a script of your own."
        )
    if model.dtype == torch.float16:
        raise ValueError(
            f"{name}: has float16 weights, which overflow in training, expected float32 or bfloat16; assemble or "
            "convert it with another dtype."
        )


def check_tokenizer(name: str):
    path = Path(name)
    if not path.exists() and len(path.parts) > 2:
        raise ValueError(
            f"{path}: no such tokenizer; the toy world's is written by scripts/make_toy_world.py, into its --output."
        )


def fresh_config(fields: dict | str, tokenizer) -> LavcapConfig:
    """Configuration from a recipe's fields; vocabulary and special ids are the tokenizer's."""
    fields = parse_object(fields, "model_config") if isinstance(fields, str) else fields
    names = ("bos_token_id", "eos_token_id", "pad_token_id")
    text_config = {
        "vocab_size": len(tokenizer),
        **{name: getattr(tokenizer, name) for name in names},
        **fields.get("text_config", {}),
    }
    config = LavcapConfig(**(fields | {"text_config": text_config}))
    check_config_fields(fields, config)
    return config


def build_augmentation(args: AugmentationArguments) -> Augmentation:
    given = args.instructions or []
    instructions = [text for name in given for text in (RELEASED_INSTRUCTIONS if name == "released" else [name])]
    return Augmentation(**vars(args) | {"instructions": tuple(instructions)})


def caption_metrics(processor: LavcapProcessor, references: list[list[str]]) -> Callable[[EvalPrediction], dict]:
    """Scores of the validation captions, which come in the order of the rows."""

    def compute(prediction: EvalPrediction) -> dict[str, float]:
        tokens = torch.as_tensor(prediction.predictions)
        tokens = tokens.masked_fill(tokens < 0, processor.pad_token_id)
        return score_captions(processor.decode_captions(tokens), list(references))

    return compute


if __name__ == "__main__":
    sys.exit(main())
