"""What a run trains and validates on, and the note of it that travels with the model."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from datasets import Dataset
from pyarrow import parquet
from transformers.utils import logging

from lavcap.data.dataset import ClipDataset
from lavcap.data.leakage import check_selection, clips_of_a_test, keys_of_tests, origins
from lavcap.data.manifest import DataError, read_facts, take_rows
from lavcap.data.precomputed_features import check_features_fit, feature_facts
from lavcap.data.splits import check_usable, load_split, load_splits, one_row_per_caption
from lavcap.data.streaming import ClipStream, find_shards, stored_example


logger = logging.get_logger(__name__)

ORIGIN = ["id", "youtube_id", "captions"]


@dataclass
class DataArguments:
    data_dir: str | None = field(
        default=None, metadata={"help": "Prepared data set, shards of one, or a folder in AudioCaps' layout."}
    )
    train_split: str = field(default="train", metadata={"help": "Split to train on."})
    validation_split: str = field(default="val", metadata={"help": "Split to watch during training."})
    validation_data_dir: str | None = field(
        default=None, metadata={"help": "Where the validation split is. Default: data_dir."}
    )
    select_model_on_test_split: bool = field(
        default=False,
        metadata={"help": "Allow test clips for validation. Scores on that test then mean nothing; results say so."},
    )
    skip_missing_media: bool = field(default=False, metadata={"help": "Do without clips whose media are missing."})
    cache_features: bool = field(default=False, metadata={"help": "Keep every clip's features in memory."})
    streaming: bool = field(default=False, metadata={"help": "Read the training split from shards, in a stream."})
    shuffle_buffer: int = field(default=256, metadata={"help": "Rows of a stream to draw the next one from."})
    max_train_clips: int | None = field(default=None, metadata={"help": "Train on the first clips only."})
    max_validation_clips: int | None = field(default=None, metadata={"help": "Validate on the first clips only."})


@dataclass(frozen=True)
class TrainingRows:
    """Rows before a model has seen them.

    Args:
        train: one row per caption; shards when streaming.
        validation: one row per clip.
        note: see [`write_note`].
    """

    train: Dataset | list[Path]
    validation: Dataset
    note: dict[str, Any]


def load_rows(args: DataArguments) -> TrainingRows:
    """Read the annotations of both splits; everything that is wrong with them is said before any work.

    Raises:
        DataError: as of [`load_splits`], [`find_shards`] and [`check_selection`].
    """
    if args.data_dir is None:
        raise DataError("Got no data_dir: name a prepared data set, or one in AudioCaps' layout.")
    if args.streaming and (args.cache_features or args.max_train_clips):
        raise DataError("Got streaming with cache_features or max_train_clips, which a stream does not have.")
    for name in ("shuffle_buffer", "max_train_clips", "max_validation_clips"):
        if getattr(args, name) is not None and getattr(args, name) < 1:
            raise DataError(f"{name} is {getattr(args, name)}, expected at least 1.")
    validation_dir = args.validation_data_dir or args.data_dir
    if args.streaming:
        train: Dataset | list[Path] = find_shards(args.data_dir, args.train_split)
        known = [row for file in train for row in parquet.read_table(file, columns=ORIGIN).to_pylist()]
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
    note = {
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
    return TrainingRows(train, _first(validation, args.max_validation_clips), note)


def as_model_inputs(rows: TrainingRows, args: DataArguments, model, processor, training_args):
    """Both splits as model features: `(train, validation)`.

    Raises:
        DataError: clips that the model can make nothing of, or stored features of another image encoder.
    """
    validation_dir = args.validation_data_dir or args.data_dir
    if "video" in processor.modalities:
        example = stored_example(rows.train)
        check_features_fit(model, args.data_dir, args.train_split, example)
        if example is None and any(weight.requires_grad for weight in model.vision_tower.parameters()):
            model.config.vision_model_name = None  # trained on, it is no longer the published one
        check_features_fit(model, validation_dir, args.validation_split, stored_example(rows.validation))
    check_usable(rows.validation, processor)
    width = model.config.vision_config.projection_dim
    validation = ClipDataset(rows.validation, processor, args.cache_features, tolerant=True, stored_width=width)
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
    train = ClipDataset(rows.train, processor, args.cache_features, training_args.seed, True, width)
    if args.cache_features:
        train.preload("Reading training clips")
        validation.preload("Reading validation clips")
    return train, validation


def _first(rows: Dataset, count: int | None) -> Dataset:
    return rows if count is None else take_rows(rows, range(min(count, len(rows))))
