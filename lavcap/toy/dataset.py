"""The toy world on disk, in AudioCaps' layout or as people have AudioCaps, with the tokenizer of its captions."""

import csv
import inspect
import json
import multiprocessing
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from tqdm import tqdm

from lavcap.data.wav import write_wav
from lavcap.documents import read_json
from lavcap.endings import interrupts_left_to_this_process
from lavcap.files import whole_folder
from lavcap.toy.natural import sample_natural_clip, sample_typical_clip
from lavcap.toy.rendering import FRAMES_PER_CLIP, frame_times, render_frame, render_waveform, write_video
from lavcap.toy.world import CAPTION_TEMPLATES, SAMPLING_RATE, ToyClip, sample_clip


FRAME_QUALITY = 92  # of JPEG
LONG_CLIP_SCENES = 5  # of `long_clip.mp4`
MIN_TRAIN_CLIPS = 16  # as many as there are objects
VOCABULARY_SIZE = 512
TOY_PROMPT = "USER: <Speech></Speech> Please describe the audio.\nASSISTANT:"


# Worlds


class _Split(NamedTuple):
    """A split on disk: how many clips it has is what was asked for of another, a number of times, or a number."""

    size: str | int
    has_sound: bool = True
    has_picture: bool = True
    times: int = 1


class _World(NamedTuple):
    sample: Callable[[str, int, int], ToyClip]
    splits: Mapping[str, _Split]  # on disk, in the order of their captions' ids
    frames: int  # per clip
    prompts: Callable[[], Sequence[str]]  # that the tokenizer has words for
    vocabulary: int


def _dali_prompts() -> list[str]:
    from processing_dali import PROMPT, TRAINING_PROMPT, DaliProcessor  # workers need no torch

    instruction = inspect.signature(DaliProcessor).parameters["instruction"].default
    return [prompt.format(av="", instruction=instruction) for prompt in (PROMPT, TRAINING_PROMPT)]


_THREE_SPLITS = {name: _Split(name) for name in ("train", "val", "test")}
WORLDS = {
    "free": _World(sample_clip, _THREE_SPLITS, FRAMES_PER_CLIP, lambda: [TOY_PROMPT], VOCABULARY_SIZE),
    "typical": _World(sample_typical_clip, _THREE_SPLITS, FRAMES_PER_CLIP, lambda: [TOY_PROMPT], VOCABULARY_SIZE),
    "natural": _World(
        sample_natural_clip,
        {
            "pictures": _Split("train", has_sound=False, times=3),
            "pictures_val": _Split("val", has_sound=False),
            "prefix": _Split(16, has_sound=False),
            "train": _Split("train"),
            "val": _Split("val"),
            "test": _Split("test", has_picture=False),
        },
        1,
        _dali_prompts,
        2 * VOCABULARY_SIZE,
    ),
}


# Tokenizer


def train_tokenizer(
    captions: Sequence[str], prompts: Sequence[str] = (TOY_PROMPT,), size: int = VOCABULARY_SIZE
) -> Any:
    """Byte-level BPE over captions and prompts, as a `PreTrainedTokenizerFast` with `<pad>`, `<s>`, `</s>`.

    Args:
        size: most tokens that there may be.
    """
    # Imported here because worker processes import this module and need no transformers.
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=["<pad>", "<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([*captions, *prompts], trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        add_prefix_space=True,
        clean_up_tokenization_spaces=False,
    )


# Files


class _Job(NamedTuple):
    root: Path
    split: str
    index: int
    seed: int
    with_video: bool
    world: str = "free"
    raw: bool = False  # a film in `media/` instead of sound and frames


def write_toy_world(
    output_dir: str | Path,
    train_clips: int = 2000,
    validation_clips: int = 100,
    test_clips: int = 200,
    videos: int = 20,
    seed: int = 0,
    workers: int = 1,
    show_progress: bool = False,
    world: str = "free",
) -> dict[str, int]:
    """Writes a world in AudioCaps' layout: media, annotations, truth, a few mp4 files and a tokenizer.

    In the world `"free"` any object makes any sound; in the `"typical"` one each kind has its sound, but for
    exceptions; so it is in the `"natural"` one, where there are pictures without sound (`pictures`, three times as
    many as clips for training, `pictures_val`, as many as for validation, and `prefix`, 16), and the test has sound
    alone, see `lavcap/toy/natural.py`.

    `output_dir` must be absent or empty; it appears under its name when it is complete. With more than one worker the
    caller's main module must be importable without side effects, as for any spawned process. Returns what was written:
    clips by split, `videos`, `vocabulary` (tokens) and `unseen_events` (test events of held-out pairs).
    """
    output = Path(output_dir).resolve()
    asked = {"train": train_clips, "val": validation_clips, "test": test_clips}
    _check_request(output, asked, videos, seed, workers)
    splits = WORLDS[world].splits
    counts = {name: split.times * asked.get(split.size, split.size) for name, split in splits.items()}
    with whole_folder(output) as root:
        _make_folders(root, WORLDS[world])
        clips = _write_clips(_list_jobs(root, counts, videos, seed, world), workers, show_progress)
        for split in counts:
            _write_annotations(root, split, [clip for clip in clips if clip.split == split])
        learned = [clip for clip in clips if clip.split in ("train", "pictures", "prefix")]
        texts = [caption for clip in learned for caption in clip.captions]
        tokenizer = train_tokenizer(texts, WORLDS[world].prompts(), WORLDS[world].vocabulary)
        tokenizer.save_pretrained(root / "tokenizer")
    unseen = sum(event.unseen for clip in clips if clip.split == "test" for event in clip.events)
    return {**counts, "videos": videos + 2, "vocabulary": len(tokenizer), "unseen_events": unseen}


def write_raw_world(
    output_dir: str | Path,
    train_clips: int = 2000,
    validation_clips: int = 100,
    test_clips: int = 200,
    seed: int = 0,
    workers: int = 1,
    show_progress: bool = False,
) -> dict[str, int]:
    """Writes the same clips as people have AudioCaps: the official columns in `<split>.csv`, and a folder of films.

    `media/<youtube_id>_<start ms>_<end ms>.mp4` holds sound and picture of a clip; `tokenizer/` as in
    [`write_toy_world`]. Returns the clips by split and `vocabulary` (tokens).
    """
    output = Path(output_dir).resolve()
    counts = {"train": train_clips, "val": validation_clips, "test": test_clips}
    _check_request(output, counts, 0, seed, workers)
    with whole_folder(output) as root:
        (root / "media").mkdir()
        jobs = [_Job(root, split, index, seed, True, raw=True) for split in counts for index in range(counts[split])]
        clips = _write_clips(jobs, workers, show_progress)
        for split in counts:
            _write_rows(root / f"{split}.csv", [clip for clip in clips if clip.split == split])
        tokenizer = train_tokenizer([caption for clip in clips if clip.split == "train" for caption in clip.captions])
        tokenizer.save_pretrained(root / "tokenizer")
    return {**counts, "vocabulary": len(tokenizer)}


def _check_request(output: Path, counts: dict[str, int], videos: int, seed: int, workers: int) -> None:
    if output.exists() and not (output.is_dir() and not any(output.iterdir())):
        raise FileExistsError(f"{output} exists and is not an empty folder: choose another one or remove it first")
    names = ("train_clips", "validation_clips", "test_clips", "videos", "seed")
    for name, value in zip(names, (*counts.values(), videos, seed), strict=True):
        if value < 0:
            raise ValueError(f"{name} must not be negative, got {value}")
    if counts["train"] < MIN_TRAIN_CLIPS:
        reason = "the tokenizer learns its words from their captions"
        raise ValueError(f"got {counts['train']} train clips, ask for at least {MIN_TRAIN_CLIPS}: {reason}")
    if videos > counts["test"]:
        raise ValueError(
            f"got {videos} videos of {counts['test']} test clips: ask for fewer videos or more test clips"
        )
    if workers < 1:
        raise ValueError(f"workers must be at least 1, got {workers}")


def _make_folders(root: Path, world: _World) -> None:
    for name, split in world.splits.items():
        if split.has_sound:
            (root / name / "waveforms").mkdir(parents=True)
        for number in range(split.has_picture * world.frames):
            (root / name / "frames" / f"frame_{number}").mkdir(parents=True)
    (root / "videos").mkdir()


def _list_jobs(root: Path, counts: dict[str, int], videos: int, seed: int, world: str) -> list[_Job]:
    """One job per clip, those with a video first because they take longest."""
    jobs = [_Job(root, "new", 0, seed, True, world)]
    for split in reversed(counts):
        films = videos if split == "test" else 0
        jobs += [_Job(root, split, index, seed, index < films, world) for index in range(counts[split])]
    return jobs


def _write_clips(jobs: Sequence[_Job], workers: int, show_progress: bool) -> list[ToyClip]:
    """Runs the jobs and returns their clips in the same order."""
    with tqdm(total=len(jobs), unit="clip", disable=not show_progress) as progress:
        if workers == 1:
            return [_count(progress, _write_clip(job)) for job in jobs]
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(workers, mp_context=context) as pool:
            try:
                with interrupts_left_to_this_process():
                    clips = pool.map(_write_clip, jobs, chunksize=4)
                return [_count(progress, clip) for clip in clips]
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise


def _count(progress: tqdm, clip: ToyClip) -> ToyClip:
    progress.update()
    return clip


def _write_clip(job: _Job) -> ToyClip:
    world = WORLDS[job.world]
    clip = world.sample(job.split, job.index, job.seed)
    if job.raw:
        write_video(clip, job.root / "media" / f"{clip.stem}.mp4")
        return clip
    if job.split == "new":
        write_video(clip, job.root / "videos" / "new_clip.mp4")
        (job.root / "videos" / "new_clip.json").write_text(json.dumps(clip.to_dict(), indent=2) + "\n")
        scenes = [world.sample(job.split, 1 + scene, job.seed) for scene in range(LONG_CLIP_SCENES)]
        write_video(scenes, job.root / "videos" / "long_clip.mp4")
        truth = [scene.to_dict() for scene in scenes]
        (job.root / "videos" / "long_clip.json").write_text(json.dumps(truth, indent=2) + "\n")
        return clip
    split = world.splits[job.split]
    if split.has_sound:
        samples = np.round(render_waveform(clip) * 32767).astype("<i2")
        write_wav(str(job.root / job.split / "waveforms" / f"{clip.stem}.wav"), samples, SAMPLING_RATE)
    for number, time in enumerate(frame_times(world.frames) if split.has_picture else ()):
        path = job.root / job.split / "frames" / f"frame_{number}" / f"{clip.stem}.jpg"
        Image.fromarray(render_frame(clip, time)).save(path, quality=FRAME_QUALITY, subsampling=0)
    if job.with_video:
        write_video(clip, job.root / "videos" / f"{clip.stem}.mp4")
    return clip


def _write_rows(path: Path, clips: Sequence[ToyClip]) -> None:
    """Writes AudioCaps' official columns: one row per caption, of which a train clip has one and others have five."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["audiocap_id", "youtube_id", "start_time", "caption"])
        for number, clip in enumerate(clips):
            start = int(clip.stem.rsplit("_", 2)[1]) // 1000
            for k, caption in enumerate(clip.captions[:1] if clip.split == "train" else clip.captions):
                writer.writerow([_first_caption_id(clip, number) + k, clip.id, start, caption])


def _first_caption_id(clip: ToyClip, number: int) -> int:
    return 1_000_000 * (1 + list(WORLDS[clip.world].splits).index(clip.split)) + number * len(CAPTION_TEMPLATES)


def _write_annotations(root: Path, split: str, clips: Sequence[ToyClip]) -> None:
    """Writes `<split>.json`, `<split>_coco.json` and `<split>_events.json`."""
    rows, images, annotations = [], [], []
    for number, clip in enumerate(clips):
        first_id = _first_caption_id(clip, number)
        media = _describe_media(clip)
        rows.append(
            {
                "audiocap_id": str(first_id),
                "youtube_id": clip.id,
                "start_time": "0",
                "caption": clip.captions[0],
                **media,
                "torch_id": number,
            }
        )
        images.append({"id": clip.id, **media})
        annotations += [
            {"id": str(first_id + k), "image_id": clip.id, "caption": text} for k, text in enumerate(clip.captions)
        ]
    truth = {clip.id: clip.to_dict() for clip in clips}
    (root / f"{split}.json").write_text(json.dumps(rows))
    (root / f"{split}_coco.json").write_text(json.dumps({"images": images, "annotations": annotations}))
    (root / f"{split}_events.json").write_text(json.dumps(truth))


def read_truth(data_dir: str | Path, split: str) -> dict[str, ToyClip]:
    """What happens in the clips of a split, by clip.

    Raises:
        ValueError: the folder holds no toy world with this split.
    """
    path = Path(data_dir) / f"{split}_events.json"
    truth = read_json(path, "write the world again", "expected the folder of a toy world, which lavcap toy writes")
    try:
        return {name: ToyClip.from_dict(clip) for name, clip in truth.items()}
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path}: not the truth of a toy world ({type(error).__name__}: {error}); write the world again."
        ) from error


def _describe_media(clip: ToyClip) -> dict[str, str]:
    heard = [event.sound for event in clip.events] + ([clip.background] if clip.background else [])
    split = WORLDS[clip.world].splits[clip.split]
    sound = {"audio_path": f"{clip.stem}.wav"} if split.has_sound else {}
    picture = {"video_path": f"{clip.stem}.jpg"} if split.has_picture else {}
    return {"labels": ",".join(heard), **sound, **picture}
