"""What a run trains and validates on, and the note of it that travels with the model."""

import copy
import multiprocessing
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from torch.utils.data import DataLoader
from transformers import TrainingArguments
from transformers.utils import logging

from lavcap.data.dataset import ClipDataset
from lavcap.data.leakage import check_selection, clips_of_a_test, keys_of_tests, origins
from lavcap.data.manifest import read_columns, read_facts, take_rows
from lavcap.data.precomputed_features import check_features_fit, feature_facts, note_encoder
from lavcap.data.schema import DataError
from lavcap.data.shards import find_shards, stored_example
from lavcap.data.splits import check_usable, load_split, load_splits, one_by_one, one_row_per_caption
from lavcap.data.streaming import ClipStream
from lavcap.endings import interrupts_left_to_this_process
from lavcap.training.arguments import DataArguments


logger = logging.get_logger(__name__)

ORIGIN = ["id", "youtube_id", "captions"]


@dataclass(frozen=True)
class TrainingRows:
    """Rows before a model has seen them.

    Args:
        train: one row per caption; shards when streaming.
        validation: one row per clip.
        provenance: see [`write_provenance`].
        num_captions: of the training clips.
    """

    train: Dataset | list[Path]
    validation: Dataset
    provenance: dict[str, Any]
    num_captions: int


def load_rows(args: DataArguments) -> TrainingRows:
    """Read the annotations of both splits; everything that is wrong with them is said before any work.

    Raises:
        DataError: as of [`load_splits`], [`find_shards`] and [`check_selection`].
    """
    if args.data_dir is None:
        raise DataError("Got no data_dir: name a prepared data set, or one in AudioCaps' layout.")
    if args.streaming and (args.cache_features or args.max_train_clips):
        raise DataError("Got streaming with cache_features or max_train_clips, which a stream does not have.")
    validation_dir = args.validation_data_dir or args.data_dir
    if args.streaming:
        train: Dataset | list[Path] = find_shards(args.data_dir, args.train_split)
        known = [row for file in train for row in read_columns(file, ORIGIN).to_pylist()]
        validation = load_split(validation_dir, args.validation_split, args.skip_missing_media)
    else:
        splits = [(args.data_dir, args.train_split), (validation_dir, args.validation_split)]
        train, validation = load_splits(splits, args.skip_missing_media)
        train = _first(train, args.max_train_clips)
        known, train = train.select_columns(ORIGIN), one_row_per_caption(train)
    tests = keys_of_tests([args.data_dir, validation_dir])
    selected_on_test = check_selection(
        origins(validation.select_columns(ORIGIN)), tests, args.validation_split, args.select_model_on_test_split
    )
    train_clips = origins(known)
    if leaked := clips_of_a_test(train_clips, tests):
        logger.warning(
            f"{args.data_dir}: {len(leaked)} of {len(train_clips)} clips of {args.train_split} are clips of a test "
            f"split ({', '.join(leaked[:3])}, …): scores on that test will mean nothing, and results say so."
        )
    facts = feature_facts(args.data_dir, args.train_split)
    provenance = {
        "data_dir": args.data_dir,
        "train_split": args.train_split,
        "train_clips": len(train_clips),
        "validation_split": args.validation_split,
        "validation_clips": len(validation),
        "dataset_version": read_facts(args.data_dir).get(args.train_split, {}).get("dataset_version"),
        "visual_features": facts and asdict(facts),
        "selected_on_test": selected_on_test,
        "trained_on_test_clips": len(leaked),
    }
    captions = sum(len(each) for row in known for each in one_by_one(row["captions"]))
    return TrainingRows(train, _first(validation, args.max_validation_clips), provenance, captions)


def as_model_inputs(rows: TrainingRows, args: DataArguments, model, processor, training_args):
    """Both splits as model features: `(train, validation)`.

    Raises:
        DataError: clips that the model can make nothing of, no caption for one that learns from captions, or stored
            features of another image encoder.
    """
    if not rows.num_captions and "tokens" in model.loss_terms.values():
        raise DataError(
            f"{args.data_dir}: no clip of {args.train_split} has a caption, and {type(model).__name__} learns from "
            "captions; write some into its rows."
        )
    _fit_features(rows, args, model, processor)
    check_usable(rows.validation, processor)
    width = model.stored_feature_size
    validation = ClipDataset(rows.validation, processor, args.cache_features, tolerant=True, stored_size=width)
    if args.streaming:
        train = ClipStream(
            rows.train,
            processor,
            training_args.per_device_train_batch_size,
            training_args.seed,
            args.shuffle_buffer,
            training_args.process_index,
            training_args.world_size,
            width,
        )
        return train, validation
    check_usable(rows.train, processor)
    train = ClipDataset(rows.train, processor, args.cache_features, training_args.seed, True, width, True)
    if args.cache_features:
        train.preload("Reading training clips")
        validation.preload("Reading validation clips")
    return train, validation


def stream_loader(stream: ClipStream, args: TrainingArguments, collate: Callable) -> DataLoader:
    """Loader of a training stream, which gives each process its own rows: Accelerate must not share them out again."""
    loader = DataLoader(
        stream,
        batch_size=args.train_batch_size,
        collate_fn=collate,
        drop_last=args.dataloader_drop_last,
        num_workers=args.dataloader_num_workers,
        pin_memory=args.dataloader_pin_memory and torch.accelerator.is_available(),
        persistent_workers=args.dataloader_persistent_workers,
        prefetch_factor=args.dataloader_prefetch_factor,
    )
    return with_own_workers(loader, args.seed)


class LoaderProcess(multiprocessing.Process):
    """A worker of a loader, which leaves Ctrl-C to the process that trains."""

    def start(self):
        with interrupts_left_to_this_process():
            super().start()


def with_own_workers(loader: DataLoader, seed: int) -> DataLoader:
    """The loader, whose workers leave Ctrl-C to this process, and draw their seeds from a generator of its own.

    Drawn from the global state, they would change dropout after an interruption: workers that persist are seeded once,
    and those of the continued run once more.
    """
    base = getattr(loader, "base_dataloader", loader)
    base.generator = torch.Generator().manual_seed(seed)
    if base.num_workers:
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # or each that is forked gives four lines of advice
        base.multiprocessing_context = copy.copy(multiprocessing.get_context())
        base.multiprocessing_context.Process = LoaderProcess
    return loader


def _fit_features(rows: TrainingRows, args: DataArguments, model, processor):
    """Refuse stored features that are not those of a model's encoder; note in its configuration whose they are."""
    if "video" not in model.modalities:
        return
    train = (args.data_dir, args.train_split, stored_example(rows.train))
    validation_dir = args.validation_data_dir or args.data_dir
    validation = (validation_dir, args.validation_split, stored_example(rows.validation))
    check_features_fit(model, processor, *train)
    note_encoder(model, *train)
    encoder = model.feature_encoder
    if train[-1] is None and encoder is not None and any(weight.requires_grad for weight in encoder.parameters()):
        model.config.vision_model_name = None  # trained on, it is no longer the published one
    check_features_fit(model, processor, *validation)
    note_encoder(model, *validation)


def _first(rows: Dataset, count: int | None) -> Dataset:
    return rows if count is None else take_rows(rows, range(min(count, len(rows))))
