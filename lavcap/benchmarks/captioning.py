"""Captions: of batches, of a folder of films, of a long one, and how long a command takes to begin."""

import io
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import redirect_stdout
from functools import partial
from pathlib import Path
from typing import Any

import torch

from lavcap.benchmarks.commands import run_command, run_python
from lavcap.benchmarks.films import write_film, write_films
from lavcap.benchmarks.measure import Bench, Cost, Row, most_memory
from lavcap.benchmarks.models import TEXT, random_clips, random_model, writing_cost
from lavcap.captioning.captions import write_captions
from lavcap.captioning.loading import Loaded, Options, WindowLoader
from lavcap.captioning.media_list import list_media
from lavcap.captioning.outputs import Printed
from lavcap.captioning.run import WINDOW_TIMEOUT, Captioning, lost
from lavcap.workers import side_by_side, threads_of_each, work_through
from modeling_captioning import CaptioningModel
from processing_captioning import CaptioningProcessor


NEW_TOKENS = 20
BATCH = 8  # windows that are captioned at a time
LARGER = {"hidden_size": 768, "intermediate_size": 2048, "num_hidden_layers": 12, "vocab_size": 32_000}
# As TinyLlama-1.1B: in float32, 4 GB.
LARGEST = LARGER | {
    "hidden_size": 2048,
    "intermediate_size": 5632,
    "num_hidden_layers": 22,
    "num_attention_heads": 32,
    "num_key_value_heads": 4,
}
MINUTES, SMALL, LONG_RATE = (10, 120), (320, 180), 5  # lengths of long films, and their pictures


def measure_captioning(bench: Bench) -> Iterator[Row]:
    """Batches of clips, greedy and by 4 beams, against the same clips one by one: of a small language model, and of
    one as large as fits a machine without an accelerator."""
    small, large = ((1, 2), (1,)) if bench.tiny else ((1, 8, 32, 128), (1, 8, 32))
    yield from _captions_in_batches(bench, small)
    yield from _captions_in_batches(bench, large, **TEXT | {"num_hidden_layers": 2} if bench.tiny else LARGEST)


def _captions_in_batches(bench: Bench, batches: Sequence[int], **text_fields: Any) -> Iterator[Row]:
    model, processor = random_model(bench.device, bench.dtype, **text_fields)
    weights = model.language_model.num_parameters()
    size = f"{weights / 1e9:.1f}B, " if text_fields else ""
    for batch in batches:
        clips = random_clips(model, processor, batch)
        for beams in (1, 4):
            options = {"num_beams": beams, "max_new_tokens": NEW_TOKENS, "min_new_tokens": NEW_TOKENS}
            yield bench.compare(
                "captioning",
                f"{size}batch {batch}, {'greedy' if beams == 1 else f'{beams} beams'}",
                lambda: _written(model, processor, clips, options),  # noqa: B023 (called at once)
                "one by one",
                lambda: [_written(model, processor, [clip], options) for clip in clips],  # noqa: B023
                writing_cost(model, NEW_TOKENS, batch * beams),
                per_second={"captions": batch},
                tokens=NEW_TOKENS,
                weights=weights,
            )


def measure_avcap_search(bench: Bench) -> Iterator[Row]:
    """AVCap's beam search for one clip, against the released way of it: no cache, and every step over the whole
    sequence of the clip's tokens and the words up to then. Both encode the clip once."""
    model, processor = random_model(bench.device, bench.dtype, "avcap")
    inputs = processor.batch(random_clips(model, processor, 1)).to(bench.device)
    search = {name: value for name, value in model.decoding.items() if name != "max_length"}
    for tokens in (5,) if bench.tiny else (20, 100, 400, 900):
        options = inputs | search | {"max_new_tokens": tokens, "min_new_tokens": tokens}
        written: dict[bool, torch.Tensor] = {}

        def write(cache: bool):
            written[cache] = model.generate(**options, use_cache=cache)  # noqa: B023 (called at once)

        row = bench.compare(
            "avcap_search",
            f"{tokens} tokens, {search['num_beams']} beams",
            partial(write, True),
            "without a cache",
            partial(write, False),
            writing_cost(model, tokens, search["num_beams"]),
            per_second={"tokens": tokens},
        )
        row.facts["same_caption"] = torch.equal(written[True], written[False])
        yield row


def measure_folder(bench: Bench) -> Iterator[Row]:
    """Captions of a folder of films of 10 s by a model that is there: what it takes to decode them one by one, and
    then the model to write, is the baseline; what takes longer of both, decoding side by side and writing, the
    limit."""
    with tempfile.TemporaryDirectory() as name:
        films = 2 if bench.tiny else 32
        model, processor = random_model(bench.device, bench.dtype)
        model.generation_config.update(num_beams=1, max_new_tokens=NEW_TOKENS)
        seconds = 1 if bench.tiny else 10
        media = list_media([str(write_films(Path(name) / "films", [str(each) for each in range(films)], seconds))])
        jobs = [(str(medium), (medium.source, 0, 0.0)) for medium in media]

        def decoded() -> list[Loaded]:
            load = WindowLoader(processor, Options())
            return [window for _, job in jobs for window in load(job) if window is not None]

        def decoded_side_by_side():
            load = WindowLoader(processor, Options(), threads_of_each(len(jobs)))
            return list(work_through(load, jobs, 0, WINDOW_TIMEOUT, lost))

        def write(windows: Sequence[Loaded]):
            for start in range(0, films, BATCH):
                batch = [window.tensors for window in windows[start : start + BATCH]]
                write_captions(model, processor, batch)

        def together(workers: int):
            with redirect_stdout(io.StringIO()):
                Captioning(model, processor, Printed("txt", True), Options(), BATCH, workers).run(media, print)

        windows = decoded()
        pieces = {"decoding": decoded_side_by_side, "the model": lambda: write(windows)}
        rows = {
            piece: bench.compare("folder", f"{films} films, {piece} alone", run, per_second={"films": films})
            for piece, run in pieces.items()
        }
        yield from rows.values()
        slower = max(rows, key=lambda piece: rows[piece].median_ms)
        for workers in (0,) if bench.tiny else sorted({0, 1, 2, side_by_side()}):
            yield bench.compare(
                "folder",
                f"{films} films, {workers} worker{'s' * (workers != 1)}",
                lambda: together(workers),  # noqa: B023 (called at once)
                "decoding one by one, then the model",
                lambda: write(decoded()),
                (slower, pieces[slower]),
                per_second={"films": films},
            )


def measure_long_film(bench: Bench) -> Iterator[Row]:
    """`lavcap caption` on films of ten minutes and of two hours: time, and the most memory that it takes."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model, found = save_model(folder / "model", bench), {}
        for minutes in (0.1, 0.2) if bench.tiny else MINUTES:
            write_film(folder / "long.mp4", 60 * minutes, size=SMALL, frame_rate=LONG_RATE)
            found[minutes] = _caption(folder / "long.mp4", model, folder, "--device", bench.device)
        (short, first), (long, last) = found.items()
        yield Row(
            "long_film",
            f"{long} minutes",
            1000 * last["seconds"],
            None,
            f"{short} minutes",
            1000 * first["seconds"],
            first["seconds"] / last["seconds"],
            facts={
                "MiB": round(last["MiB"]),
                "MiB of the baseline": round(first["MiB"]),
                "seconds of film per second": round(60 * long / last["seconds"], 1),
            },
        )


def measure_start_up(bench: Bench) -> Iterator[Row]:
    """Time until `lavcap --help`, the help of a command, and the first caption are there, against Python's start."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = save_model(folder / "model", bench)
        write_film(folder / "film.mp4", 1)
        place = "--device", bench.device
        commands = {
            "--help": ["--help"],
            "caption --help": ["caption", "--help"],
            "a caption": ["caption", folder / "film.mp4", "--model", model, "--max_new_tokens", "1", *place],
        }
        for case, words in commands.items():
            yield bench.compare(
                "start_up",
                case,
                lambda: run_python("-m", "lavcap", *words),  # noqa: B023 (called at once)
                "import torch, transformers" if case == "a caption" else "python -c ''",
                lambda: run_python("-c", "import torch, transformers" if case == "a caption" else ""),  # noqa: B023
            )


def measure_loading(bench: Bench) -> Iterator[Row]:
    """A checkpoint from disk until all its weights are there, against `torch.load` of the same weights."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model, _ = random_model(torch.device("cpu"), torch.float32, **({} if bench.tiny else LARGER))
        model.save_pretrained(folder / "model")
        torch.save(model.state_dict(), folder / "weights.pt")
        kind, weights = type(model), sum(each.nbytes for each in model.state_dict().values()) / 2**20
        del model

        def ours() -> float:
            return _touched(kind.from_pretrained(folder / "model").state_dict())

        def theirs() -> float:
            return _touched(torch.load(folder / "weights.pt", weights_only=True))

        memory = {"MiB": most_memory(ours), "MiB of the baseline": most_memory(theirs)}
        read = Cost(bytes=weights * 2**20)
        yield bench.compare("loading", f"{weights:.0f} MiB", ours, "torch.load", theirs, read, **memory)


def save_model(folder: Path, bench: Bench) -> Path:
    """A folder with a small captioner that writes `NEW_TOKENS` tokens, greedily."""
    model, processor = random_model(bench.device, bench.dtype)
    model.generation_config.update(num_beams=1, max_new_tokens=NEW_TOKENS)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


# -------------------------------------------------------------------------------------------------------- internals


def _written(
    model: CaptioningModel, processor: CaptioningProcessor, clips: Sequence[dict[str, torch.Tensor]], options: dict
) -> list:
    return write_captions(model, processor, clips, **options)


def _touched(weights: dict[str, torch.Tensor]) -> float:
    """Read all weights: those of a file that is mapped into memory are there only then."""
    return sum(float(each.sum()) for each in weights.values())


def _caption(clips: Path, model: Path, folder: Path, *options: object) -> dict[str, Any]:
    """Run `lavcap caption` in a process of its own, and say what it took."""
    output = ["--output_dir", folder / "captions", "--overwrite", "--output_format", "jsonl"]
    return run_command("caption", clips, "--model", model, *output, *options)
