"""Captions: of batches, of a folder of films, of a long one, and how long a command takes to begin."""

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from lavcap.benchmarks.commands import run_command, run_python
from lavcap.benchmarks.films import write_film
from lavcap.benchmarks.measure import Bench, Row
from lavcap.benchmarks.models import random_clips, random_model
from lavcap.captioning.captions import write_captions
from modeling_captioning import CaptioningModel
from processing_captioning import CaptioningProcessor


NEW_TOKENS = 20
MINUTES, SMALL, LONG_RATE = (10, 120), (320, 180), 5  # lengths of long films, and their pictures


def measure_captioning(bench: Bench) -> Iterator[Row]:
    """Batches of clips, greedy and by 4 beams, against the same clips one by one."""
    model, processor = random_model(bench.device, bench.dtype)
    for batch in (1, 2) if bench.tiny else (1, 8, 32, 128):
        clips = random_clips(model, processor, batch)
        for beams in (1, 4):
            options = {"num_beams": beams, "max_new_tokens": NEW_TOKENS, "min_new_tokens": NEW_TOKENS}
            yield bench.compare(
                "captioning",
                f"batch {batch}, {'greedy' if beams == 1 else f'{beams} beams'}",
                lambda: _written(model, processor, clips, options),  # noqa: B023 (called at once)
                "one by one",
                lambda: [_written(model, processor, [clip], options) for clip in clips],  # noqa: B023
                per_second={"captions": batch},
                tokens=NEW_TOKENS,
            )


def measure_avcap_search(bench: Bench) -> Iterator[Row]:
    """AVCap's beam search for one clip, against the released way of it: no cache, and every step over the whole
    sequence of the clip's tokens and the words up to then. Both encode the clip once."""
    model, processor = random_model(bench.device, bench.dtype, "avcap")
    inputs = processor.batch(random_clips(model, processor, 1)).to(bench.device)
    search = {name: value for name, value in model.decoding.items() if name != "max_length"}
    for tokens in (5,) if bench.tiny else (20, 100):
        options = inputs | search | {"max_new_tokens": tokens, "min_new_tokens": tokens}
        same = torch.equal(model.generate(**options), model.generate(**options, use_cache=False))
        yield bench.compare(
            "avcap_search",
            f"{tokens} tokens, {search['num_beams']} beams",
            lambda: model.generate(**options),  # noqa: B023 (called at once)
            "without a cache",
            lambda: model.generate(**options, use_cache=False),  # noqa: B023
            per_second={"tokens": tokens},
            same_caption=same,
        )


def measure_folder(bench: Bench) -> Iterator[Row]:
    """`lavcap caption` on a folder of films of 10 s, without and with processes that decode ahead of the model."""
    with tempfile.TemporaryDirectory() as name:
        folder, films = Path(name), 2 if bench.tiny else 32
        model = save_model(folder / "model", bench)
        (folder / "films").mkdir()
        for number in range(films):
            write_film(folder / "films" / f"{number}.mp4", 1 if bench.tiny else 10, seed=number)
        for workers in (1, 2):
            yield bench.compare(
                "folder",
                f"{films} films, {workers} worker{'s' * (workers > 1)}",
                lambda: _caption(folder / "films", model, folder, "--num_workers", workers),  # noqa: B023
                "no worker",
                lambda: _caption(folder / "films", model, folder, "--num_workers", 0),
                per_second={"films": films},
            )


def measure_long_film(bench: Bench) -> Iterator[Row]:
    """`lavcap caption` on films of ten minutes and of two hours: time, and the most memory that it takes."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model, found = save_model(folder / "model", bench), {}
        for minutes in (0.1, 0.2) if bench.tiny else MINUTES:
            write_film(folder / "long.mp4", 60 * minutes, size=SMALL, frame_rate=LONG_RATE)
            found[minutes] = _caption(folder / "long.mp4", model, folder)
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
        commands = {
            "--help": ["--help"],
            "caption --help": ["caption", "--help"],
            "a caption": ["caption", folder / "film.mp4", "--model", model, "--max_new_tokens", "1"],
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
    """A checkpoint from disk, against `torch.load` of the same weights; memory is in the facts."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = save_model(folder / "model", bench)
        model, _ = random_model(bench.device, bench.dtype)
        torch.save(model.state_dict(), folder / "weights.pt")
        kind = type(model)
        yield bench.compare(
            "loading",
            f"{sum(each.nbytes for each in model.state_dict().values()) / 2**20:.0f} MiB",
            lambda: kind.from_pretrained(path),
            "torch.load",
            lambda: torch.load(folder / "weights.pt", weights_only=True),
        )


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


def _caption(clips: Path, model: Path, folder: Path, *options: object) -> dict[str, Any]:
    """Run `lavcap caption` in a process of its own, and say what it took."""
    output = ["--output_dir", folder / "captions", "--overwrite", "--output_format", "jsonl"]
    return run_command("caption", clips, "--model", model, *output, *options)
