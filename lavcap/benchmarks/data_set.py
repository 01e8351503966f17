"""What a data set costs: preparation, visual features, shards and reading, of generated clips of 10 s."""

import csv
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from lavcap.benchmarks.commands import run_command
from lavcap.benchmarks.films import write_films
from lavcap.benchmarks.measure import Bench, Row
from lavcap.data.dataset import ClipDataset
from lavcap.data.shards import find_shards
from lavcap.data.splits import load_split
from lavcap.data.streaming import ClipStream
from lavcap.models.families import DEFAULT_FAMILY, config_class, processor_class
from lavcap.toy.dataset import train_tokenizer
from processing_captioning import CaptioningProcessor


CLIPS, TINY_CLIPS, SEEN_CLIPS = 40, 2, 2  # the last of the image encoder
SECONDS = 10


def measure_data_set(bench: Bench, num_proc: Iterable[int] = (1, 2)) -> Iterator[Row]:
    """Each step once, of as many clips, with clips per second and the disk that 1,000 of them take. The encoder has
    the size of CLIP ViT-L/14 and random weights; of a tiny run it is left out."""
    clips = TINY_CLIPS if bench.tiny else CLIPS
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        raw = folder / "raw"
        _write_clips(raw, clips)
        prepare = ["prepare", "--annotations", raw / "train.csv", "--media", raw, "--split", "train"]
        first = None
        for count in num_proc:
            output = folder / f"prepared by {count}"
            seconds = _timed(*prepare, "--output", output, "--num_proc", count)
            yield _row(f"prepare, {count} process{'es' * (count > 1)}", clips, seconds, output, first)
            first = first or seconds
        prepared = folder / f"prepared by {next(iter(num_proc))}"
        processor = _processor()
        dataset = ClipDataset(load_split(prepared, "train"), processor)
        yield _row("read sound and 20 frames", clips, _read(dataset[index] for index in range(clips)))
        shards = ["shards", "--split", "train", "--data_dir", prepared, "--output", folder / "shards", "--media", raw]
        yield _row("write shards", clips, _timed(*shards), folder / "shards")
        yield _row("read shards", clips, _read(ClipStream(find_shards(folder / "shards", "train"), processor, 4)))
        if not bench.tiny:
            yield _features(bench, raw, folder)


def _features(bench: Bench, raw: Path, folder: Path) -> Row:
    from transformers import CLIPVisionModelWithProjection

    lines = (raw / "train.csv").read_text().splitlines()
    (folder / "few.csv").write_text("\n".join(lines[: SEEN_CLIPS + 1]) + "\n")
    few = folder / "few"
    options = ["--annotations", folder / "few.csv", "--media", raw, "--split", "train", "--output", few]
    run_command("prepare", *options)
    model = folder / "clip-vit-large-patch14"
    CLIPVisionModelWithProjection(config_class(DEFAULT_FAMILY)().vision_config).save_pretrained(model)
    words = ["features", "--data_dir", few, "--split", "train", "--model", model, "--device", bench.device]
    seconds = _timed(*words) - _timed(*words)  # the second time nothing is left: loading alone
    return _row("visual features", SEEN_CLIPS, seconds, few / "visual_feature")


def _row(case: str, clips: int, seconds: float, folder: Path | None = None, baseline: float | None = None) -> Row:
    facts = {"clips": clips, "clips per second": round(clips / seconds, 2)}
    if folder is not None:
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        facts["GB per 1,000 clips"] = round(size / clips / 1e6, 3)
    base = baseline and 1000 * baseline
    ratio = baseline and baseline / seconds
    return Row("data_set", case, 1000 * seconds, None, baseline and "1 process", base, ratio, facts=facts)


def _timed(*words: object) -> float:
    start = time.perf_counter()
    run_command(*words)
    return time.perf_counter() - start


def _read(clips: Iterable) -> float:
    start = time.perf_counter()
    for _ in clips:
        pass
    return time.perf_counter() - start


def _processor() -> CaptioningProcessor:
    config = config_class(DEFAULT_FAMILY)()
    return processor_class(DEFAULT_FAMILY).from_config(config, train_tokenizer(["a dog barks"]))


def _write_clips(folder: Path, count: int):
    videos = [f"clip{number:07}" for number in range(count)]
    write_films(folder / "media", [f"{video}_30000_40000" for video in videos], SECONDS)
    with (folder / "train.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["audiocap_id", "youtube_id", "start_time", "caption"])
        writer.writerows([number, video, 30, "A dog barks"] for number, video in enumerate(videos))
