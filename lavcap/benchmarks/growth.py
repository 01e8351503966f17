"""How time and memory grow with what is processed, against what a formula says of them; also as a picture."""

import random
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from datasets import Dataset
from pyarrow import parquet

from feature_extraction_captioning import log_mel
from lavcap.benchmarks.films import write_film
from lavcap.benchmarks.measure import Bench, Row, most_memory
from lavcap.benchmarks.media import BANDS, RATE, SECONDS
from lavcap.benchmarks.models import random_clips, random_model
from lavcap.benchmarks.transport import AUDIO_TOKENS, WIDTH, aligned, operations
from lavcap.captioning.captions import write_captions
from lavcap.data.manifest import ROWS_PER_GROUP
from lavcap.data.schema import CLIP_COLUMNS
from lavcap.data.splits import load_split
from media_captioning import read_clip


NEW_TOKENS, TRANSPORTED, FRAMES, DRAWN = 20, 8, 20, 100  # of a caption, of a batch, of a clip, of a data set


def measure_growth(bench: Bench) -> Iterator[Row]:
    """Each step at several sizes, with the most memory that it takes. The baseline is what the size before took, times
    what the formula of the step says: a ratio of 1 and more is growth that is no faster. `memory_ratio` says it of
    memory."""
    for measure in (_sounds, _films, _batches, _transports, _data_sets):
        yield from measure(bench)


def draw_growth(rows: Sequence[Mapping[str, Any]], path: Path):
    """Time and memory of each step against its size, all relative to the first size; linear growth is dotted.

    Args:
        rows: of [`measure_growth`], as objects of JSON.
        path: of the picture; its ending says of which kind it is.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.6, 4.8), layout="constrained")
    steps = dict.fromkeys(row["facts"]["step"] for row in rows)
    values = {"time": lambda row: row["median_ms"], "memory": lambda row: row["facts"]["MiB"]}
    for axes, (title, value) in zip(figure.subplots(1, 2, sharex=True), values.items(), strict=True):
        for step in steps:
            points = [(row["facts"]["size"], value(row)) for row in rows if row["facts"]["step"] == step]
            known = np.array([point for point in points if point[1]], dtype=float).reshape(-1, 2)
            axes.loglog(*(known / known[:1]).T, marker="o", label=step)
        ends = np.array(axes.get_xlim())
        axes.loglog(ends, ends, "k:", label="linear", scalex=False)
        axes.set(title=title, xlabel="size, as a multiple of the first", ylabel=f"{title}, as a multiple of the first")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=3)
    figure.savefig(path)


# -------------------------------------------------------------------------------------------------------- internals


def _sounds(bench: Bench) -> Iterator[Row]:
    runs = (
        (seconds, partial(log_mel, [torch.randn(seconds * RATE, device=bench.device)], BANDS, RATE))
        for seconds in ((1, 10) if bench.tiny else (1, 10, 100, 1000))
    )
    yield from _grown(bench, "filter bank", "seconds", runs)


def _films(bench: Bench) -> Iterator[Row]:
    with tempfile.TemporaryDirectory() as folder:
        film = Path(folder) / "film.mp4"
        write_film(film, 2 if bench.tiny else SECONDS)
        numbers = (5, 20) if bench.tiny else (5, 20, 80)
        runs = ((number, partial(read_clip, film, RATE, number, SECONDS)) for number in numbers)
        yield from _grown(bench, "film", "frames", runs)


def _batches(bench: Bench) -> Iterator[Row]:
    model, processor = random_model(bench.device, bench.dtype)
    options = {"num_beams": 1, "max_new_tokens": NEW_TOKENS, "min_new_tokens": NEW_TOKENS}
    runs = (
        (batch, partial(write_captions, model, processor, random_clips(model, processor, batch), **options))
        for batch in ((1, 2) if bench.tiny else (1, 8, 32, 128))
    )
    yield from _grown(bench, "captioning", "clips", runs)


def _transports(bench: Bench) -> Iterator[Row]:
    def tokens(number: int) -> torch.Tensor:
        drawn = torch.randn(TRANSPORTED, number, WIDTH, device=bench.device)
        return torch.nn.functional.normalize(drawn, dim=-1)

    audio, scale = tokens(AUDIO_TOKENS), torch.ones(1, device=bench.device)
    numbers = (5, 20) if bench.tiny else (5, 20, 80, 320)
    runs = ((number, partial(aligned, tokens(number), audio, scale)) for number in numbers)
    with torch.no_grad():
        yield from _grown(bench, "transport", "frames", runs, operations)


def _data_sets(bench: Bench) -> Iterator[Row]:
    with tempfile.TemporaryDirectory() as name:
        folders = {rows: Path(name) / str(rows) for rows in ((100, 1000) if bench.tiny else (10**3, 10**5, 10**6))}
        for rows, folder in folders.items():
            _write_manifest(folder, rows)
        opened = ((rows, partial(load_split, folder, "train")) for rows, folder in folders.items())
        yield from _grown(bench, "data set, opened", "clips", opened)
        drawn = ((rows, partial(_draw_rows, load_split(folder, "train"))) for rows, folder in folders.items())
        yield from _grown(bench, f"data set, {DRAWN} clips drawn", "clips", drawn, lambda rows: 1)


def _draw_rows(rows: Dataset):
    draw = random.Random(0)
    for _ in range(DRAWN):
        rows[draw.randrange(len(rows))]


def _write_manifest(folder: Path, rows: int):
    """As `write_split`, of clips whose media need not be there, by column."""
    names = [f"clip{number:07}" for number in range(rows)]
    frames = _media(f"media/{name}/{number:02}.jpg" for name in names for number in range(FRAMES))
    places = pa.array(np.arange(0, FRAMES * rows + 1, FRAMES, dtype=np.int32))
    seconds = pa.array(np.full(rows, SECONDS, dtype=np.float64))
    sounds, captions = _media(f"media/{name}.wav" for name in names), [["A dog barks"]] * rows
    columns = [names, names, seconds, seconds, sounds, pa.ListArray.from_arrays(places, frames), captions]
    (folder / "data").mkdir(parents=True)
    table = pa.table(columns, list(CLIP_COLUMNS)).cast(CLIP_COLUMNS.arrow_schema)
    parquet.write_table(table, folder / "data" / "train-00000-of-00001.parquet", row_group_size=ROWS_PER_GROUP)


def _media(paths: Iterator[str]) -> pa.StructArray:
    named = pa.array(paths, pa.string())
    return pa.StructArray.from_arrays([pa.nulls(len(named), pa.binary()), named], ["bytes", "path"])


def _grown(
    bench: Bench,
    step: str,
    unit: str,
    runs: Iterable[tuple[int, Callable[[], Any]]],
    formula: Callable[[int], float] = float,
) -> Iterator[Row]:
    """A row for each size of what is counted in a unit.

    Args:
        runs: with their sizes, the smallest first.
        formula: what time and memory are in proportion to; default: the size.
    """
    before: Row | None = None
    for size, run in runs:
        row = bench.compare("growth", f"{step}, {unit}: {size:,}", run, step=step, size=size, MiB=None)
        row.facts["MiB"] = memory = most_memory(run)
        if before is not None:
            growth = formula(size) / formula(before.facts["size"])
            base = growth * before.median_ms
            row = replace(row, baseline=f"{before.facts['size']:,} x {growth:.4g}", baseline_ms=base)
            row = replace(row, ratio=base / row.median_ms)
            if memory and before.facts["MiB"]:
                row.facts["memory_ratio"] = round(growth * before.facts["MiB"] / memory, 2)
        yield row
        before = row
