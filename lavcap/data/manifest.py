"""The manifest of a prepared data set: one row per clip, in parquet files that `datasets` reads.

    <data_dir>/data/<split>-00000-of-00001.parquet
    <data_dir>/manifest.json                        what is known of each split

Its columns are `schema.CLIP_COLUMNS`. A medium is `{"bytes", "path"}`, as in the `Audio` and `Image` types of
`datasets`, left undecoded: bytes where the file travels in the manifest, else a path, which is relative to `data_dir`
where the file lies below it. Any reader of parquet can use it; with `load_dataset(data_dir)` the splits come by name.
"""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import NoneType
from typing import Any
from uuid import uuid4

import pyarrow as pa
from datasets import Dataset, Features, load_dataset
from pyarrow import compute, parquet

from lavcap.data.batches import in_batches
from lavcap.data.schema import CLIP_COLUMNS, SHARD_COLUMNS, STREAM_COLUMNS, DataError
from lavcap.documents import read_json
from lavcap.files import replace_json, whole_file
from sources_captioning import MediaError, check_file, one_line


ROWS_PER_GROUP = 64  # what a streaming reader holds in memory at a time
ROWS_AT_A_TIME = 50_000  # whose paths are made absolute: an array of text holds 2 GiB at most
MANIFEST_FILE = "manifest.json"
# Facts of a split that the tools read.
FACTS = {"missing": dict, "embedded": bool, "dataset_version": (str, NoneType), "visual_features": (dict, NoneType)}


def shards_of(data_dir: str | Path, split: str) -> list[Path]:
    """Parquet files of a split, in order; none if the folder holds no manifest of it."""
    return sorted((Path(data_dir) / "data").glob(f"{split}-[0-9]*-of-[0-9]*.parquet"))


def write_split(data_dir: str | Path, split: str, rows: Iterable[dict[str, Any]], facts: dict[str, Any]):
    """Write the rows of a split as one parquet file, and what is known of it into `manifest.json`.

    A reader sees the old file or the new one, never half of one.

    Args:
        rows: with the columns of `CLIP_COLUMNS`; paths of media below `data_dir` become relative to it, others
            absolute.
        facts: JSON values, such as `expected` (clips) and `dataset_version`.
    """
    data_dir = Path(data_dir).absolute()
    others = shards_of(data_dir, split)
    path = data_dir / "data" / f"{split}-00000-of-00001.parquet"
    with whole_file(path) as partial:
        write_parquet(partial, (_relative(row, data_dir) for row in rows), CLIP_COLUMNS)
    for other in others:
        if other != path:
            other.unlink()
    write_facts(data_dir, split, facts)


def write_parquet(path: Path, rows: Iterable[dict[str, Any]], columns: Features):
    """Write rows as parquet. Memory: one row group."""
    schema = columns.arrow_schema
    with parquet.ParquetWriter(path, schema) as writer:
        for group in in_batches(rows, ROWS_PER_GROUP):
            writer.write_table(pa.Table.from_pylist(group, schema=schema))


def read_manifest(data_dir: str | Path, split: str) -> Dataset:
    """Rows of a split with absolute paths, in memory; of a split that holds its media, from a cache on disk.

    Raises:
        DataError: no such split, a file that is no parquet, columns other than `CLIP_COLUMNS`, or two rows of one id.
    """
    files = shards_of(data_dir, split)
    if not files:
        raise DataError(f"{Path(data_dir) / 'data'}: no {split}-*.parquet; run scripts/prepare_audiocaps.py first.")
    if read_facts(data_dir).get(split, {}).get("embedded"):
        _check_ids(files, [read_columns(file, ["id"]) for file in files])
        return load_dataset("parquet", data_files=list(map(str, files)), split="train")
    tables = [read_columns(file, list(CLIP_COLUMNS), required=list(CLIP_COLUMNS)) for file in files]
    _check_ids(files, tables)
    batches = (batch for table in tables for batch in table.to_batches(max_chunksize=ROWS_AT_A_TIME))
    absolute = [_absolute(batch, Path(data_dir).absolute()) for batch in batches]
    return in_memory(pa.Table.from_batches(absolute, CLIP_COLUMNS.arrow_schema))


def read_columns(file: Path, columns: Sequence[str], required: Sequence[str] = STREAM_COLUMNS) -> pa.Table:
    """Columns of one parquet file of a manifest or of shards.

    Args:
        columns: that are read.
        required: that must be there beside them, in the types of `SHARD_COLUMNS`.

    Raises:
        DataError: no regular file, no parquet, a column that lacks or is of another type, or a row without an id.
    """
    advice = "write it again with scripts/prepare_audiocaps.py or scripts/write_shards.py."
    try:
        check_file(file)
        with parquet.ParquetFile(file) as opened:
            found = {field.name: field.type for field in opened.schema_arrow}
            if absent := [name for name in required if name not in found]:
                raise DataError(f"{file}: lacks the columns {', '.join(absent)}, found {', '.join(found)}; {advice}")
            for name in found.keys() & SHARD_COLUMNS.keys():
                wanted = SHARD_COLUMNS.arrow_schema.field(name).type
                if not _fits(found[name], wanted):
                    raise DataError(f"{file}: its column {name} holds {found[name]}, expected {wanted}; {advice}")
            table = opened.read(columns=list(columns))
    except MediaError as error:  # no regular file
        raise DataError(str(error)) from None
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{file}: not readable as parquet ({one_line(error)}); {advice}") from error
    if "id" in columns and (table["id"].null_count or pa.types.is_null(table["id"].type)) and len(table):
        raise DataError(f"{file}: row {table['id'].to_pylist().index(None)} has no id; {advice}")
    return table


def write_facts(data_dir: str | Path, split: str, facts: dict[str, Any]):
    """Note in `manifest.json` what is known of a split, in place of what was known."""
    replace_json(Path(data_dir) / MANIFEST_FILE, read_facts(data_dir) | {split: facts})


def take_rows(rows: Dataset, indices: Iterable[int]) -> Dataset:
    """Some rows, in this order, as a table of their own: `Dataset.select` would keep all of them behind its back."""
    return in_memory(rows.data.table.take(pa.array(list(indices), pa.int64())))


def in_memory(table: pa.Table) -> Dataset:
    """Rows as a data set with a name of its own: to make one of their content all of them would be pickled, which
    takes as long as reading them, and four times their memory."""
    return Dataset(table, fingerprint=uuid4().hex)


def read_facts(data_dir: str | Path) -> dict[str, dict[str, Any]]:
    """What `manifest.json` knows, by split; empty without the file.

    Raises:
        DataError: it holds something else.
    """
    path = Path(data_dir) / MANIFEST_FILE
    if not path.exists():
        return {}
    known = read_json(path, "prepare the data set again", error=DataError)
    if not isinstance(known, dict) or not all(isinstance(facts, dict) for facts in known.values()):
        raise DataError(f"{path}: expected an object of splits, each with an object; prepare the data set again.")
    for split, facts in known.items():
        for name in FACTS.keys() & facts.keys():
            if not isinstance(facts[name], FACTS[name]):
                raise DataError(f"{path}: {name} of {split} is {facts[name]!r:.40}; prepare the data set again.")
    return known


# -------------------------------------------------------------------------------------------------------- internals


def _check_ids(files: Sequence[Path], tables: Sequence[pa.Table]):
    """Refuse two rows of one id: captions, features and scores of a clip are found by it."""
    first: dict[str, str] = {}
    for file, table in zip(files, tables, strict=True):
        for number, name in enumerate(table["id"].to_pylist()):
            place = f"row {number} of {file.name}"
            if first.setdefault(name, place) != place:
                raise DataError(
                    f"{file}: row {number} has the id {name} of {first[name]}; give each clip an id of its own, and "
                    "all its captions one row."
                )


def _fits(found: pa.DataType, wanted: pa.DataType) -> bool:
    """Whether values of a type can be taken for those of another; a column without any value has no type."""
    types = pa.types
    if types.is_null(found):
        return True
    if types.is_struct(wanted):
        fields = {field.name: field.type for field in found} if types.is_struct(found) else {}
        return all(field.name in fields and _fits(fields[field.name], field.type) for field in wanted)
    kinds = {
        types.is_list: (types.is_list, types.is_large_list, types.is_fixed_size_list),
        types.is_string: (types.is_string, types.is_large_string),
        types.is_binary: (types.is_binary, types.is_large_binary),
        types.is_floating: (types.is_floating, types.is_integer),
    }
    known = next(several for is_wanted, several in kinds.items() if is_wanted(wanted))
    if not any(is_kind(found) for is_kind in known):
        return False
    return not types.is_list(wanted) or _fits(found.value_type, wanted.value_type)


def _relative(row: dict[str, Any], root: Path) -> dict[str, Any]:
    """The row with paths of media from a folder on, where they are below it; names of embedded files stay."""

    def relative(medium: dict[str, Any] | None) -> dict[str, Any] | None:
        if medium is None or medium["bytes"] is not None:
            return medium
        full = Path(medium["path"]).absolute()  # of a name that holds for the working folder alone
        return {"bytes": None, "path": os.path.relpath(full, root) if full.is_relative_to(root) else str(full)}

    frames = None if row["frames"] is None else [relative(frame) for frame in row["frames"]]
    return row | {"audio": relative(row["audio"]), "frames": frames}


def _absolute(rows: pa.RecordBatch, root: Path) -> pa.RecordBatch:
    """The rows in the types of `CLIP_COLUMNS`, with absolute paths of media; names of embedded files stay.

    By column: rows as dictionaries take fifteen times the memory, and of a million clips more than a machine has.
    """
    schema = CLIP_COLUMNS.arrow_schema
    changes = {"audio": _media_below, "frames": _lists_below}
    columns = [
        changes[name](rows[name], root) if name in changes and not pa.types.is_null(rows[name].type) else rows[name]
        for name in schema.names
    ]
    cast = [column.cast(kind) for column, kind in zip(columns, schema.types, strict=True)]
    return pa.RecordBatch.from_arrays(cast, schema=schema)


def _lists_below(lists: pa.Array, root: Path) -> pa.ListArray:
    """As [`_media_below`], of lists of media."""
    media = compute.list_flatten(lists)
    lengths = compute.fill_null(compute.list_value_length(lists), 0).cast(pa.int32())
    starts = compute.subtract(compute.cumulative_sum(lengths), lengths)
    starts = compute.if_else(lists.is_valid(), starts, None)  # a list that is null has no place
    offsets = pa.concat_arrays([starts, pa.array([len(media)], pa.int32())])
    return pa.ListArray.from_arrays(offsets, _media_below(media, root))


def _media_below(media: pa.StructArray, root: Path) -> pa.StructArray:
    """Media in files that are named from a folder on, by their full paths."""
    content = compute.struct_field(media, "bytes").cast(pa.binary())
    path = compute.struct_field(media, "path").cast(pa.string())
    full = compute.binary_join_element_wise(os.path.join(root, ""), path, "")
    keeps = compute.or_(content.is_valid(), compute.starts_with(path, "/"))
    return pa.StructArray.from_arrays(
        [content, compute.if_else(compute.fill_null(keeps, True), path, full)], ["bytes", "path"], mask=media.is_null()
    )
