#!/usr/bin/env python
"""Measure what a data set costs on this machine: time and disk per 1,000 clips; or what DALI's transport does.

    python scripts/benchmark.py --clips 40
    python scripts/benchmark.py --transport --clips 16

Clips of 10 s are generated (640x360 pixels at 25 frames a second, H.264, stereo AAC at 44.1 kHz), prepared, seen by an
image encoder, written as shards and read as training reads them. The encoder has the size of CLIP ViT-L/14 and random
weights, unless --model names one. Prints a Markdown table; figures of a few clips are multiplied.

With --transport optimal transport is solved between random tokens of the released sizes, 512 of a sound and 576 of a
picture, 1024 wide: exactly, as released, and entropically, with how much more the entropic plans cost.
"""

import argparse
import csv
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from lavcap.arguments import Parser, positive
from lavcap.endings import errors_in_one_line


if TYPE_CHECKING:
    from processing_captioning import CaptioningProcessor


SCRIPTS = Path(__file__).resolve().parent
SECONDS, WIDTH, HEIGHT, FRAME_RATE, AUDIO_RATE = 10, 640, 360, 25, 44100


def main() -> int:
    parser = Parser(__doc__)
    parser.add_argument("--clips", type=positive, default=40, help="clips to measure with")
    parser.add_argument("--feature_clips", type=positive, default=4, help="clips that the image encoder sees")
    parser.add_argument("--num_proc", type=positive, nargs="+", default=[1, 2], help="numbers of processes to compare")
    parser.add_argument("--model", help="image encoder: CLIP or LAVCap; default: CLIP ViT-L/14 with random weights")
    parser.add_argument("--device", help="cpu, cuda, mps …; default: an accelerator if there is one")
    parser.add_argument("--transport", action="store_true", help="measure the solvers of DALI's alignment instead")
    args = parser.parse_args()
    from transformers.utils import logging

    from lavcap.models.loading import choose_device, device_name

    if args.transport:
        device, _ = choose_device(args.device)
        print(f"exact on {device_name('cpu')}, entropic on {device_name(device)}, batch of {args.clips}\n")
        print("| solver | seconds per clip | cost above the exact one |\n|---|---|---|")
        with errors_in_one_line():
            for solver, seconds, excess in _measure_transport(args.clips, device):
                print(f"| {solver} | {seconds / args.clips:.2g} | {excess:.2%} |")
        return 0
    logging.set_verbosity_error()
    with errors_in_one_line(), tempfile.TemporaryDirectory() as folder:
        rows = list(_measure(args, Path(folder)))
    device, dtype = choose_device(args.device)
    print(f"{device_name('cpu')}, encoder on {device_name(device)} in {dtype}, {args.clips} clips\n")
    print("| per 1,000 clips of 10 s | minutes | clips per second | GB |\n|---|---|---|---|")
    for what, clips, seconds, size in rows:
        minutes, rate = seconds / clips * 1000 / 60, clips / seconds
        print(f"| {what} | {minutes:.2g} | {rate:.2g} | {'' if size is None else f'{size / clips / 1e6:.2g}'} |")
    return 0


def _measure(args: argparse.Namespace, folder: Path) -> Iterator[tuple[str, int, float, int | None]]:
    """What was done, with how many clips, in how many seconds, and the bytes that it wrote."""
    from lavcap.data.dataset import ClipDataset
    from lavcap.data.shards import find_shards
    from lavcap.data.splits import load_split
    from lavcap.data.streaming import ClipStream

    _write_clips(folder / "raw", args.clips)
    prepare = ["prepare_audiocaps.py", "--annotations", folder / "raw" / "train.csv", "--media", folder / "raw"]
    for count in args.num_proc:
        output = folder / f"prepared by {count}"
        seconds = _run(*prepare, "--output", output, "--num_proc", count)
        yield f"prepare, {count} processes", args.clips, seconds, _size(output)
    prepared = folder / f"prepared by {args.num_proc[0]}"
    processor = _processor()
    yield "read sound and 20 frames", args.clips, _read(ClipDataset(load_split(prepared, "train"), processor)), None
    shards = ["write_shards.py", "--split", "train", "--data_dir"]
    seconds = _run(*shards, prepared, "--output", folder / "with frames")
    yield "write shards with frames", args.clips, seconds, _size(folder / "with frames")
    stream = ClipStream(find_shards(folder / "with frames", "train"), processor, 4)
    yield "read shards with frames", args.clips, _read(stream), None

    few = folder / "few"
    _run(*_first(folder / "raw", args.feature_clips, few), "--output", few / "prepared")
    model = args.model or _random_clip(folder / "clip-vit-large-patch14")
    extract = ["extract_visual_features.py", "--data_dir", few / "prepared", "--split", "train", "--model", model]
    start = _run(*extract, *(["--device", args.device] if args.device else []))
    again = _run(*extract, *(["--device", args.device] if args.device else []))  # nothing left: loading alone
    features = few / "prepared" / "visual_feature"
    yield "visual features", args.feature_clips, start - again, _size(features)
    rows = load_split(few / "prepared", "train")
    yield "read sound and stored features", args.feature_clips, _read(ClipDataset(rows, processor)), None
    seconds = _run(*shards, few / "prepared", "--output", few / "shards")
    yield "write shards with features", args.feature_clips, seconds, _size(few / "shards")


def _measure_transport(clips: int, device: str) -> Iterator[tuple[str, float, float]]:
    """Solver, its seconds for a batch, and by which share its plans cost more than the exact ones."""
    import torch

    from set_distances_captioning import entropic_transport, even_weights, exact_transport, squared_distances

    draw = torch.Generator().manual_seed(0)
    sound, picture = (torch.randn(clips, number, 1024, generator=draw) for number in (512, 576))
    cost, weights = squared_distances(sound, picture), (even_weights(sound), even_weights(picture))
    start = time.perf_counter()
    least = (exact_transport(cost, *weights).plan * cost).sum(dim=(1, 2))
    yield "exact", time.perf_counter() - start, 0.0
    moved = [tensor.to(device) for tensor in (cost, *weights)]
    for epsilon in (0.1, 0.01, 0.001):
        start = time.perf_counter()
        plan = entropic_transport(*moved, epsilon, 200).plan.cpu()
        excess = (plan * cost).sum(dim=(1, 2)) / least - 1
        yield f"entropic, epsilon {epsilon}, 200 iterations", time.perf_counter() - start, excess.mean().item()


def _run(script: str, *options: object) -> float:
    """Seconds that a script of this project takes, its start included."""
    command = [sys.executable, SCRIPTS / script, *options]
    start = time.perf_counter()
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    if done.returncode:
        raise ValueError(f"{script} failed: {done.stderr.strip()[-500:]}")
    return time.perf_counter() - start


def _read(clips: Iterable) -> float:
    import torch

    start = time.perf_counter()
    items = clips if isinstance(clips, torch.utils.data.IterableDataset) else (clips[i] for i in range(len(clips)))
    for _ in items:
        pass
    return time.perf_counter() - start


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _processor() -> "CaptioningProcessor":
    from lavcap.models.families import DEFAULT_FAMILY, config_class, processor_class
    from lavcap.toy.dataset import train_tokenizer

    config = config_class(DEFAULT_FAMILY)()
    return processor_class(DEFAULT_FAMILY).from_config(config, train_tokenizer(["a dog barks"]))


def _random_clip(folder: Path) -> Path:
    from transformers import CLIPVisionModelWithProjection

    from lavcap.models.families import DEFAULT_FAMILY, config_class

    CLIPVisionModelWithProjection(config_class(DEFAULT_FAMILY)().vision_config).save_pretrained(folder)
    return folder


def _first(raw: Path, count: int, few: Path) -> list[object]:
    few.mkdir()
    lines = (raw / "train.csv").read_text().splitlines()
    (few / "train.csv").write_text("\n".join(lines[: count + 1]) + "\n")
    return ["prepare_audiocaps.py", "--annotations", few / "train.csv", "--media", raw]


def _write_clips(folder: Path, count: int):
    from tqdm.auto import tqdm

    (folder / "media").mkdir(parents=True)
    with (folder / "train.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["audiocap_id", "youtube_id", "start_time", "caption"])
        writer.writerows([number, f"clip{number:07}", 30, "A dog barks"] for number in range(count))
    for number in tqdm(range(count), desc="Generating clips", unit="clip"):
        _write_video(folder / "media" / f"clip{number:07}_30000_40000.mp4", number)


def _write_video(path: Path, seed: int):
    """Moving waves of colour with a little noise, and a chord in noise."""
    import av
    import numpy as np

    draw = np.random.default_rng(seed)
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=FRAME_RATE, options={"preset": "veryfast"})
        video.width, video.height, video.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        audio = container.add_stream("aac", rate=AUDIO_RATE, layout="stereo")
        across, down = np.arange(WIDTH)[None, :, None], np.arange(HEIGHT)[:, None, None]
        waves, colours = draw.uniform(0.005, 0.05, (3, 3)), draw.uniform(0, 6, 3)
        for index in range(SECONDS * FRAME_RATE):
            phase = waves[0] * across + waves[1] * down + waves[2] * index + colours
            noise = draw.integers(0, 12, (HEIGHT, WIDTH, 1))
            pixels = (110 + 100 * np.sin(phase) + noise).astype(np.uint8)
            container.mux(video.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(video.encode(None))
        times = np.arange(SECONDS * AUDIO_RATE) / AUDIO_RATE
        chord = sum(0.1 * np.sin(2 * np.pi * pitch * times) for pitch in draw.uniform(100, 2000, 3))
        samples = (chord + 0.02 * draw.standard_normal((2, len(times)))).astype(np.float32)
        frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout="stereo")
        frame.sample_rate = AUDIO_RATE
        container.mux(audio.encode(frame))
        container.mux(audio.encode(None))


if __name__ == "__main__":
    sys.exit(main())
