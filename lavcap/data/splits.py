"""Rows of caption data sets: of a prepared one, or of a folder in AudioCaps' layout as published with AVCap.

What `scripts/prepare_audiocaps.py` writes has a manifest. Without one a folder is read in AudioCaps' layout.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
from datasets import Dataset
from transformers.utils import logging

from lavcap.data.audiocaps import read_layout
from lavcap.data.manifest import in_memory, read_facts, read_manifest, shards_of, take_rows
from lavcap.data.precomputed_features import add_stored_features, failed_features
from lavcap.data.schema import MEDIA_COLUMNS, DataError


if TYPE_CHECKING:
    from processing_captioning import CaptioningProcessor


logger = logging.get_logger(__name__)


def load_split(data_dir: str | Path, split: str, skip_missing_media: bool = False) -> Dataset:
    """Rows of a split whose media are all there: [`read_split`], then [`check_media`]."""
    rows, missing = read_split(data_dir, split)
    check_media(rows, missing, data_dir, split, skip_missing_media)
    return rows


def check_media(
    rows: Dataset, missing: dict[str, str], data_dir: str | Path, split: str, skip_missing_media: bool = False
):
    """Refuse what [`read_split`] found if media are missing, unless `skip_missing_media`, or if nothing is left.

    What the preparation of a data set left out was reported there, so it is only said again.

    Raises:
        DataError: with every missing file.
    """
    prepared = bool(shards_of(data_dir, split))
    path = Path(data_dir) / ("manifest.json" if prepared else f"{split}.json")
    total = len(rows) + len(missing)
    if missing and not (skip_missing_media or prepared):
        raise DataError(
            f"{path}: {len(missing)} of {total} clips lack media; restore the files, or pass --skip_missing_media to "
            "do without these clips:",
            (f"{name}: {file}" for name, file in missing.items()),
        )
    if missing:
        logger.warning(f"{path}: {len(missing)} of {total} clips of {split} lack media and are left out.")
    if not len(rows):
        raise DataError(f"{path}: none of the {total} clips of {split} has its media; check --data_dir.")


def load_splits(splits: Sequence[tuple[str | Path, str]], skip_missing_media: bool = False) -> list[Dataset]:
    """Several splits by [`load_split`], each a folder and a name; what is wrong with them is said at once."""
    loaded, complaints = [], []
    for data_dir, split in splits:
        try:
            loaded.append(load_split(data_dir, split, skip_missing_media))
        except DataError as error:
            complaints.append(error)
    if complaints:
        raise DataError.joined(complaints)
    return loaded


def read_split(data_dir: str | Path, split: str, stored_features: bool = True) -> tuple[Dataset, dict[str, str]]:
    """Read the annotations of a split and look for its media.

    Args:
        data_dir: folder with a manifest, or in AudioCaps' layout.
        split: name of the split; in the layout that of the annotation file without `.json`.
        stored_features: look for stored visual features.

    Returns:
        One row per clip with all its media: the columns of [`lavcap.data.schema.CLIP_COLUMNS`], and `video_features`,
        the path of the clip's stored visual features, where the data set has some; and, by clip id, what is missing of
        each other clip.
    """
    prepared = read_facts(data_dir)
    if prepared and split not in prepared and not (Path(data_dir) / f"{split}.json").exists():
        raise DataError(f"{data_dir}: has no split {split!r}, expected one of {', '.join(prepared)}.")
    if shards_of(data_dir, split):
        rows, missing = read_manifest(data_dir, split), prepared.get(split, {}).get("missing", {})
    else:
        rows, missing = read_layout(data_dir, split)
    if not stored_features:
        return rows, missing
    failed = failed_features(data_dir, split)
    if failed:
        rows = take_rows(rows, (number for number, name in enumerate(rows["id"]) if name not in failed))
    return add_stored_features(rows, data_dir, split), missing | failed


def check_usable(rows: Dataset, processor: "CaptioningProcessor"):
    """Refuse rows that show none of the modalities that a model takes.

    Raises:
        DataError: with the ids of these clips.
    """
    shown = shown_modalities(rows)
    lacking = [name for name, kinds in zip(rows["id"], shown, strict=True) if kinds.isdisjoint(processor.modalities)]
    if lacking:
        taken = " and no ".join(processor.modalities)
        raise DataError(
            f"{len(lacking)} of {len(rows)} clips have no {taken}, and the model takes nothing else; leave out their "
            f"rows: {', '.join(lacking)}"
        )


def shown_modalities(rows: Dataset) -> list[set[str]]:
    """Modalities of each clip."""
    shown: list[set[str]] = [set() for _ in range(len(rows))]
    for kind, names in MEDIA_COLUMNS.items():
        for name in set(names).intersection(rows.column_names):
            for kinds, found in zip(shown, rows.data.column(name).is_valid().to_pylist(), strict=True):
                kinds.update([kind] * found)
    return shown


def one_row_per_caption(dataset: Dataset) -> Dataset:
    """Rows for training: a clip with five captions becomes five rows, one without any stays one."""
    captions = [one_by_one(each) for each in dataset["captions"]]
    rows = take_rows(dataset, (row for row, each in enumerate(captions) for _ in each))
    table = rows.data.table
    place = table.column_names.index("captions")
    column = pa.array([each for several in captions for each in several], table.schema.field(place).type)
    return in_memory(table.set_column(place, table.schema.field(place), column))


def one_by_one(captions: Sequence[str | None] | None) -> list[list[str]]:
    """Captions of a clip as those of as many rows, less empty ones; none of them as those of one row."""
    return [[caption] for caption in captions or () if caption and caption.strip()] or [[]]
