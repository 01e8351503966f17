import csv
import json
import wave
from collections import Counter
from itertools import combinations
from math import hypot
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image
from stranger import run_inside
from transformers import AutoTokenizer

from lavcap.toy import dataset as toy_dataset
from lavcap.toy.dataset import LONG_CLIP_SCENES, TOY_PROMPT, write_raw_world, write_toy_world
from lavcap.toy.rendering import frame_times, render_frame, render_waveform, write_video
from lavcap.toy.world import (
    BACKGROUNDS,
    CAPTION_TEMPLATES,
    CLIP_SAMPLES,
    COLOURS,
    SAMPLING_RATE,
    SHAPES,
    SOUNDS,
    UNSEEN_PAIRS,
    ToyClip,
    ToyEvent,
    ToyObject,
    caption_accuracy,
    paraphrase_captions,
    parse_caption,
    sample_clip,
)


COUNTS = {"train_clips": 16, "validation_clips": 2, "test_clips": 4, "videos": 2}
SPLIT_COUNTS = {"train": 16, "val": 2, "test": 4}


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("toy") / "world"
    write_toy_world(folder, **COUNTS, seed=3)
    return folder


def list_files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def find_clip(condition, split: str = "train") -> ToyClip:
    return next(clip for clip in (sample_clip(split, index) for index in range(500)) if condition(clip))


def loudness(waveform: np.ndarray, time: float, window: float = 0.04) -> float:
    middle, half = round(time * SAMPLING_RATE), round(window / 2 * SAMPLING_RATE)
    return float(np.sqrt(np.mean(waveform[max(0, middle - half) : middle + half] ** 2)))


def drawn_area(clip: ToyClip, item: ToyObject, time: float, size: int = 128) -> float:
    """Share of the picture that is not backdrop, within the object's cell of the board."""
    picture = render_frame(clip, time, size).astype(int)
    rows, columns = (np.mgrid[:size, :size] + 0.5) / size
    near = np.maximum(abs(columns - item.x), abs(rows - item.y)) < 1 / 4
    return float(np.mean(near & (np.abs(picture - clip.backdrop).max(axis=-1) > 40)))


# Held-out pairs


def test_held_out_pairs_spread_evenly_over_objects_and_sounds():
    objects = Counter((colour, shape) for colour, shape, _ in UNSEEN_PAIRS)
    assert len(objects) == 16 and set(objects.values()) == {1}
    assert set(Counter(sound for _, _, sound in UNSEEN_PAIRS).values()) == {2, 3}
    assert max(Counter((colour, sound) for colour, _, sound in UNSEEN_PAIRS).values()) == 1
    assert max(Counter((shape, sound) for _, shape, sound in UNSEEN_PAIRS).values()) == 1


def test_training_shows_every_other_pair_and_no_held_out_one():
    clips = [sample_clip("train", index) for index in range(1000)] + [sample_clip("val", i) for i in range(100)]
    shown = {(event.colour, event.shape, event.sound) for clip in clips for event in clip.events}
    assert not shown & UNSEEN_PAIRS
    assert len(shown) == len(COLOURS) * len(SHAPES) * len(SOUNDS) - len(UNSEEN_PAIRS)


def test_half_of_the_test_events_and_the_new_clip_use_held_out_pairs():
    unseen = [event.unseen for index in range(300) for event in sample_clip("test", index).events]
    assert 0.43 < np.mean(unseen) < 0.57
    assert all(any(event.unseen for event in sample_clip("new", 0, seed).events) for seed in range(20))


# Clips


def test_a_clip_depends_on_seed_split_and_index_alone():
    assert sample_clip("test", 5, seed=1) == sample_clip("test", 5, seed=1)
    others = [("test", 6, 1), ("val", 5, 1), ("test", 5, 2)]
    assert all(sample_clip(*other).events != sample_clip("test", 5, 1).events for other in others)


def test_an_unknown_split_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="'validation'.*train, val, test, new"):
        sample_clip("validation", 0)


def test_a_clip_read_back_from_json_renders_the_same():
    clip = sample_clip("test", 4)
    copy = ToyClip.from_dict(json.loads(json.dumps(clip.to_dict())))
    assert copy == clip
    assert np.array_equal(render_waveform(copy), render_waveform(clip))
    assert np.array_equal(render_frame(copy, 1.0), render_frame(clip, 1.0))


@pytest.mark.parametrize("index", range(40))
def test_objects_differ_and_never_touch_and_events_never_overlap(index):
    clip = sample_clip("test", index)
    objects = [*clip.events, *clip.distractors]
    assert len({(item.colour, item.shape) for item in objects}) == len(objects)
    for time in np.arange(0, 4, 0.02):
        discs = [(*item.position(time), item.radius * item.size_factor(time)) for item in objects]
        assert all(hypot(a[0] - b[0], a[1] - b[1]) > a[2] + b[2] for a, b in combinations(discs, 2))
        assert all(radius <= min(x, y, 1 - x, 1 - y) + 0.01 for x, y, radius in discs)
    first, second = clip.events
    assert 0 < first.start < first.end < second.start < second.end < 4.0


# Sound and picture


@pytest.mark.parametrize("background", [None, *BACKGROUNDS])
def test_events_are_louder_than_the_background_and_the_background_is_audible(background):
    clip = find_clip(lambda clip: clip.background == background)
    waveform = render_waveform(clip)
    assert waveform.shape == (CLIP_SAMPLES,) and waveform.dtype == np.float32 and np.abs(waveform).max() <= 1
    times = np.arange(CLIP_SAMPLES) / SAMPLING_RATE
    inside = [(times >= event.start) & (times < event.end) for event in clip.events]
    quiet = np.sqrt(np.mean(waveform[~np.any(inside, axis=0)] ** 2))
    assert all(np.sqrt(np.mean(waveform[span] ** 2)) > 2.5 * quiet for span in inside)
    assert quiet > 0.005 if background else quiet < 0.001


@pytest.mark.parametrize("sound", SOUNDS)
def test_an_object_grows_in_step_with_its_sound(sound):
    clip = find_clip(lambda clip: [event.sound for event in clip.events].count(sound) == 1)
    waveform = render_waveform(clip)
    event = next(event for event in clip.events if event.sound == sound)
    times = np.arange(event.start + 0.02, event.end - 0.02, 0.02)
    areas = [drawn_area(clip, event, time) for time in times]
    assert np.corrcoef(areas, [loudness(waveform, time) for time in times])[0, 1] > 0.85
    assert min(areas) > 1.2 * drawn_area(clip, event, event.end + 0.02)


def test_a_silent_object_keeps_its_size():
    clip = find_clip(lambda clip: len(clip.distractors) == 2)
    for item in clip.distractors:
        areas = [drawn_area(clip, item, time) for time in frame_times()]
        assert max(areas) < 1.06 * min(areas)


def test_the_picture_shows_every_object_in_its_colour_all_the_time():
    clip = find_clip(lambda clip: len(clip.distractors) == 2)
    for time in frame_times(7):
        picture = render_frame(clip, time, 64).astype(int)
        for item in (*clip.events, *clip.distractors):
            column, row = (round(64 * at) for at in item.position(time))
            seen = picture[row, column]
            # A silent object is darker, not of another hue: compare the directions in RGB.
            hues = {name: seen @ np.array(rgb) / np.linalg.norm(rgb) for name, rgb in COLOURS.items()}
            assert max(hues, key=hues.get) == item.colour


def test_sounds_can_be_told_apart_by_their_spectrum():
    def spectrum(clip: ToyClip, event: ToyEvent) -> np.ndarray:
        samples = render_waveform(clip)[round(event.start * SAMPLING_RATE) :][:SAMPLING_RATE]
        power = np.abs(np.fft.rfft(samples)) ** 2
        bands = np.geomspace(50, 8000, 25).astype(int)
        return np.log([power[low:high].mean() for low, high in zip(bands, bands[1:], strict=False)])

    heard = [
        (event.sound, spectrum(clip, event))
        for i in range(150)
        if (clip := sample_clip("train", i))
        for event in clip.events
    ]
    known, asked = heard[:200], heard[200:]
    guesses = [min(known, key=lambda pair: np.abs(pair[1] - bands).sum())[0] for _, bands in asked]
    assert np.mean([guess == sound for guess, (sound, _) in zip(guesses, asked, strict=True)]) > 0.9


def test_frames_are_taken_in_the_middle_of_twenty_equal_shares():
    assert frame_times() == pytest.approx([0.1 + 0.2 * number for number in range(20)])


# Captions


@pytest.mark.parametrize("background", [None, *BACKGROUNDS])
@pytest.mark.parametrize("index", range(10))
def test_every_template_reads_back_as_what_happens(index, background):
    events = sample_clip("test", index).events
    captions = paraphrase_captions(events, background)
    assert len(set(captions)) == len(CAPTION_TEMPLATES) == 5
    for caption in captions:
        parsed = parse_caption(caption)
        assert parsed.colours == tuple(event.colour for event in events)
        assert parsed.shapes == tuple(event.shape for event in events)
        assert parsed.sounds == tuple(event.sound for event in events)
        assert parsed.background == background
        assert caption == caption.lower().strip() and not caption.endswith(".")
        assert " a engine" not in caption


def test_train_clips_have_one_caption_and_the_other_splits_five():
    assert [len(sample_clip(split, 0).captions) for split in ("train", "val", "test", "new")] == [1, 5, 5, 5]
    # "begins" stands in one template only, so that more than one template must be in use.
    assert 0 < sum(" begins " in sample_clip("train", index).captions[0] for index in range(50)) < 25


@pytest.mark.parametrize(
    ("text", "sounds", "background"),
    [
        ("", (), None),
        ("it starts bringing windows, redder clickbait \udcff \x00 日本", (), None),
        ("Whistle! BEEPED buzz-buzz; it rained near engines", ("whistle", "beep", "buzz", "buzz"), "engine"),
        ("rings ring ringing", ("ring",) * 3, None),
    ],
)
def test_any_text_can_be_parsed(text, sounds, background):
    parsed = parse_caption(text)
    assert (parsed.sounds, parsed.background) == (sounds, background)
    assert parsed.colours == parsed.shapes == ()


def test_accuracy_counts_position_by_position():
    clip = find_clip(lambda clip: clip.background == "rain" and clip.events[0].sound != clip.events[1].sound, "test")
    first, second = clip.events
    right = {"colour": True, "shape": True, "sound": True}
    for caption in clip.captions:
        truth = [right | {"unseen": event.unseen} for event in clip.events]
        assert caption_accuracy(caption, clip) == {"events": truth, "background": True}
    swapped = f"a {first.colour} {first.shape} {second.sound}s, then a {second.colour} {second.shape} {first.sound}s"
    judged = caption_accuracy(swapped, clip)
    assert [event["sound"] for event in judged["events"]] == [False, False]
    assert all(event["colour"] and event["shape"] for event in judged["events"])
    assert judged["background"] is False
    assert not any(event["sound"] or event["shape"] for event in caption_accuracy("", clip)["events"])


# Files


def test_the_number_of_workers_does_not_change_a_byte(world, tmp_path):
    write_toy_world(tmp_path / "world", **COUNTS, seed=3, workers=2)
    assert list_files(tmp_path / "world") == list_files(world)


@pytest.mark.parametrize("split", SPLIT_COUNTS)
def test_annotations_media_and_truth_agree(world, split):
    rows, coco, truth = (json.loads((world / f"{split}{kind}.json").read_text()) for kind in ("", "_coco", "_events"))
    assert len(rows) == SPLIT_COUNTS[split]
    assert [row["torch_id"] for row in rows] == list(range(len(rows)))
    captions = {row["youtube_id"]: [] for row in rows}
    for annotation in coco["annotations"]:
        captions[annotation["image_id"]].append(annotation["caption"])
    assert [image["id"] for image in coco["images"]] == list(captions) == list(truth)
    assert len({annotation["id"] for annotation in coco["annotations"]}) == len(coco["annotations"])
    for row in rows:
        clip = ToyClip.from_dict(truth[row["youtube_id"]])
        assert clip == sample_clip(split, row["torch_id"], seed=3) and len(clip.id) == 11
        assert captions[clip.id] == list(clip.captions) and row["caption"] == clip.captions[0]
    keys = ["audiocap_id", "youtube_id", "start_time", "caption", "labels", "audio_path", "video_path", "torch_id"]
    assert list(rows[0]) == keys


def test_media_files_hold_what_the_truth_says(world):
    row = json.loads((world / "val.json").read_text())[1]
    clip = ToyClip.from_dict(json.loads((world / "val_events.json").read_text())[row["youtube_id"]])
    assert row["audio_path"] == f"{clip.id}_0_4000.wav"
    with wave.open(str(world / "val" / "waveforms" / row["audio_path"])) as file:
        assert file.getparams()[:4] == (1, 2, SAMPLING_RATE, CLIP_SAMPLES)
        samples = np.frombuffer(file.readframes(CLIP_SAMPLES), "<i2") / 32767
    assert np.abs(samples - render_waveform(clip)).max() < 1e-4
    for number, time in enumerate(frame_times()):
        with Image.open(world / "val" / "frames" / f"frame_{number}" / row["video_path"]) as picture:
            assert np.abs(np.array(picture).astype(int) - render_frame(clip, time)).mean() < 3


def test_no_media_without_a_row_and_no_row_without_media(world):
    for split in SPLIT_COUNTS:
        rows = json.loads((world / f"{split}.json").read_text())
        folders = [*(world / split / "frames").iterdir(), world / split / "waveforms"]
        assert len(folders) == 21
        stems = {row["audio_path"].removesuffix(".wav") for row in rows}
        assert all({path.stem for path in folder.iterdir()} == stems for folder in folders)


def test_ids_are_unique_over_the_splits(world):
    rows = [row for split in SPLIT_COUNTS for row in json.loads((world / f"{split}.json").read_text())]
    for key in ("youtube_id", "audiocap_id"):
        assert len({row[key] for row in rows}) == len(rows)


def test_videos_are_the_first_test_clips_and_one_new_clip(world):
    rows = json.loads((world / "test.json").read_text())
    names = {path.name for path in (world / "videos").iterdir()}
    others = {f"{name}_clip.{kind}" for name in ("new", "long") for kind in ("mp4", "json")}
    assert names == {f"{row['youtube_id']}_0_4000.mp4" for row in rows[:2]} | others
    new = ToyClip.from_dict(json.loads((world / "videos" / "new_clip.json").read_text()))
    assert any(event.unseen for event in new.events)
    assert new.id not in {row["youtube_id"] for row in rows}


def test_a_video_decodes_to_four_seconds_of_sound_and_picture_in_step(world):
    clip = ToyClip.from_dict(json.loads((world / "videos" / "new_clip.json").read_text()))
    with av.open(str(world / "videos" / "new_clip.mp4")) as container:
        names = [stream.codec_context.name for stream in container.streams]
        assert (names, container.duration) == (["h264", "aac"], 4_000_000)
        frames = [(frame.time, frame.to_ndarray(format="rgb24")) for frame in container.decode(video=0)]
    with av.open(str(world / "videos" / "new_clip.mp4")) as container:
        sound = np.concatenate([frame.to_ndarray()[0] for frame in container.decode(audio=0)])[:CLIP_SAMPLES]
    assert len(frames) == 100 and frames[-1][0] == pytest.approx(3.96)
    for time, picture in frames[::9]:
        assert np.abs(picture.astype(int) - render_frame(clip, time, 256)).mean() < 4
    spectra = np.fft.rfft(sound, 2 * CLIP_SAMPLES), np.fft.rfft(render_waveform(clip), 2 * CLIP_SAMPLES)
    lag = int(np.argmax(np.fft.irfft(spectra[0] * np.conj(spectra[1]))))
    assert len(sound) == CLIP_SAMPLES and lag == 0


def test_the_long_clip_is_its_scenes_one_behind_the_other(world):
    scenes = [ToyClip.from_dict(scene) for scene in json.loads((world / "videos" / "long_clip.json").read_text())]
    assert len({scene.id for scene in scenes}) == LONG_CLIP_SCENES
    with av.open(str(world / "videos" / "long_clip.mp4")) as container:
        assert container.duration == LONG_CLIP_SCENES * 4_000_000
        frames = [(frame.time, frame.to_ndarray(format="rgb24")) for frame in container.decode(video=0)]
    for time, picture in frames[::37]:
        scene = scenes[int(time // 4)]
        assert np.abs(picture.astype(int) - render_frame(scene, time % 4, 256)).mean() < 6


@pytest.mark.slow
def test_a_raw_world_is_what_people_have_of_audiocaps(tmp_path):
    written = write_raw_world(tmp_path / "raw", train_clips=16, validation_clips=0, test_clips=1, seed=3)
    assert (written["train"], written["test"]) == (16, 1) and (tmp_path / "raw" / "tokenizer").is_dir()
    for split, captions in (("train", 1), ("test", 5)):
        with (tmp_path / "raw" / f"{split}.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        assert list(rows[0]) == ["audiocap_id", "youtube_id", "start_time", "caption"]
        assert len(rows) == written[split] * captions == len({row["audiocap_id"] for row in rows})
        clip = sample_clip(split, 0, 3)
        assert [row["caption"] for row in rows[:captions]] == list(clip.captions)
        assert (tmp_path / "raw" / "media" / f"{rows[0]['youtube_id']}_0_4000.mp4").is_file()


def test_an_odd_video_size_is_refused(tmp_path):
    with pytest.raises(ValueError, match="got 65"):
        write_video(sample_clip("test", 0), tmp_path / "clip.mp4", size=65)


def test_the_tokenizer_gives_back_any_text_and_knows_caption_words(world):
    tokenizer = AutoTokenizer.from_pretrained(world / "tokenizer")
    captions = [row["caption"] for row in json.loads((world / "train.json").read_text())]
    for text in [*captions, TOY_PROMPT, "Ünseen wörds, 日本  \t#42!"]:
        ids = tokenizer(text, add_special_tokens=False).input_ids
        assert tokenizer.decode(ids).strip() == text
        assert max(ids) < len(tokenizer)
    for caption in captions:
        words = caption.replace(",", " ,").split()
        assert len(tokenizer(caption, add_special_tokens=False).input_ids) == len(words)
    assert (tokenizer.pad_token, tokenizer.bos_token, tokenizer.eos_token) == ("<pad>", "<s>", "</s>")
    assert tokenizer("a").input_ids[-1] == tokenizer("x a").input_ids[-1]
    assert len(tokenizer) == 1 + max(tokenizer.get_vocab().values()) <= 512


def test_a_folder_with_something_in_it_is_refused_and_left_alone(tmp_path):
    folder = tmp_path / "world"
    folder.mkdir()
    (folder / "mine.txt").write_text("keep")
    with pytest.raises(FileExistsError, match="world exists and is not an empty folder"):
        write_toy_world(folder, **COUNTS)
    assert list_files(tmp_path) == {"world/mine.txt": b"keep"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"validation_clips": -1}, "validation_clips must not be negative, got -1"),
        ({"seed": -1}, "seed must not be negative"),
        ({"train_clips": 15}, "got 15 train clips, ask for at least 16"),
        ({"videos": 5}, "got 5 videos of 4 test clips"),
        ({"workers": 0}, "workers must be at least 1, got 0"),
    ],
)
def test_impossible_requests_are_refused_before_anything_is_written(tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        write_toy_world(tmp_path / "world", **{**COUNTS, **change})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, OSError])
def test_an_interrupted_world_leaves_nothing_behind(tmp_path, monkeypatch, interruption):
    def stop(*arguments):
        raise interruption

    monkeypatch.setattr(toy_dataset, "_write_annotations", stop)
    with pytest.raises(interruption):
        write_toy_world(tmp_path / "world", train_clips=16, validation_clips=0, test_clips=0, videos=0)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("extra", "message"),
    [((), "not an empty folder"), (("--seed", "x"), "invalid int"), (("--test_clips", "-4"), "must not be negative")],
)
def test_the_script_reports_a_mistake_in_one_line(tmp_path, extra, message):
    target = tmp_path / "world"
    if not extra:
        target.mkdir()
        (target / "mine.txt").touch()
    result = run_inside("scripts/make_toy_world.py", "--output", target, *extra)
    assert result.returncode == 2 and result.stdout == ""
    assert message in result.stderr and result.stderr.count("\n") == 1
