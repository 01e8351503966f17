"""A data set made of what people have: what is written, what is reported, and what an interruption costs."""

import csv
import json
import os
import runpy
import shutil
import signal
import subprocess
import sys
import time
import wave
from pathlib import Path

import numpy as np
import pytest
from datasets import Audio, Dataset
from media_files import write_media
from PIL import Image
from stranger import run_inside

from conftest import ROOT
from lavcap.data.manifest import read_facts, read_manifest
from lavcap.data.schema import DataError
from lavcap.preparation.cutting import Settings
from lavcap.preparation.preparation import Policy, guess_version, prepare
from lavcap.preparation.sources import Reading, from_dataset, from_files, from_layout
from lavcap.toy.dataset import write_raw_world
from media_captioning import read_clip


RATE, WINDOW = 16000, 4.0
SETTINGS = Settings(window=WINDOW, num_frames=4, frame_size=32)
READING = Reading(WINDOW)


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    """AudioCaps as people have it: csv files and a folder of films of 4 s."""
    folder = tmp_path_factory.mktemp("raw") / "my data ü"
    write_raw_world(folder, train_clips=16, validation_clips=0, test_clips=2)
    return folder


def source_of(raw, split="train", media=None, **options):
    return from_files(raw / f"{split}.csv", [media or raw / "media"], Reading(WINDOW, **options))


def run(source, output, split="train", num_proc=0, settings=SETTINGS, **policy):
    return prepare(source, output, split, settings, Policy(**policy), num_proc)


def rows_of(output, split="train"):
    return {row["id"]: row for row in read_manifest(output, split)}


def entries_of(report, heading):
    return {entry["id"]: entry for entry in report.entries[heading]}


def write_rows(path, rows):
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["audiocap_id", "youtube_id", "start_time", "caption"], *rows])
    return path


def noise(seconds, seed=0, rate=RATE):
    return np.random.default_rng(seed).integers(-9999, 9999, round(seconds * rate)).astype("<i2")


def write_wav(path, samples, rate=RATE):
    path.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(samples.tobytes())
    return path


def read_wav(path):
    with wave.open(str(path)) as file:
        assert (file.getnchannels(), file.getsampwidth(), file.getframerate()) == (1, 2, RATE)
        return np.frombuffer(file.readframes(file.getnframes()), "<i2")


def tree(folder):
    """Content of everything that was written, but for the notes on how."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and ".progress" not in path.parts)
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


# ------------------------------------------------------------------------------------------------- what is written


def test_official_rows_and_films_become_a_manifest(raw, tmp_path):
    report = run(source_of(raw, "test"), tmp_path, "test")
    rows = rows_of(tmp_path, "test")
    assert report.counts["expected"] == report.counts["kept"] == len(rows) == 2
    row = rows["toye0000000"]
    assert (row["youtube_id"], row["start_time"], len(row["captions"])) == ("toye0000000", 0.0, 5)
    assert row["duration"] == pytest.approx(4, abs=0.1)
    # The film is the clip, so its sound stays where it is; the frames are in the released layout.
    assert row["audio"]["path"] == str(raw / "media" / "toye0000000_0_4000.mp4")
    assert not (tmp_path / "test" / "waveforms").exists()
    assert [frame["path"] for frame in row["frames"]] == [
        str(tmp_path / "test" / "frames" / f"frame_{number}" / "toye0000000_0_4000.jpg") for number in range(4)
    ]
    facts = read_facts(tmp_path)["test"]
    assert facts == {
        "expected": 2,
        "missing": {},
        "dataset_version": "v2",
        "window": 4.0,
        "num_frames": 4,
        "frame_sampler": "centres of equal parts",
        "source": "test.csv",
    }


def test_frames_are_those_of_the_film_and_reduced(raw, tmp_path):
    run(source_of(raw, "test"), tmp_path, "test")
    row = rows_of(tmp_path, "test")["toye0000001"]
    expected = read_clip(raw / "media" / "toye0000001_0_4000.mp4", RATE, 4, WINDOW).frames
    for frame, whole in zip(row["frames"], expected, strict=True):
        with Image.open(frame["path"]) as image:
            assert image.size == (32, 32)
            reduced = Image.fromarray(whole).resize((32, 32), Image.Resampling.BICUBIC)
            assert np.abs(np.asarray(image, int) - np.asarray(reduced, int)).mean() < 6  # of 255: JPEG


def test_small_frames_are_not_enlarged(raw, tmp_path):
    run(source_of(raw, "test"), tmp_path, "test", settings=Settings(WINDOW, 2, 1000))
    with Image.open(rows_of(tmp_path, "test")["toye0000000"]["frames"][0]["path"]) as image:
        assert image.size == (256, 256)


def test_a_window_is_cut_from_a_longer_file_to_the_sample(tmp_path):
    samples = noise(20)
    write_wav(tmp_path / "media" / "Yid_-A.wav", samples)
    write_wav(tmp_path / "media" / "idB_5000_17000.wav", samples[5 * RATE : 17 * RATE])
    write_media(tmp_path / "media" / "Yid_-A.mp4", seconds=9, audio=None)
    rows = write_rows(tmp_path / "test.csv", [[1, "id_-A", 3, "rain"], [2, "idB", 8, "wind"]])
    run(from_files(rows, [tmp_path / "media"], READING), tmp_path / "out", "test")
    rows = rows_of(tmp_path / "out", "test")
    assert rows["id_-A"]["audio"]["path"] == str(tmp_path / "out" / "test" / "waveforms" / "id_-A_3000_7000.wav")
    assert np.array_equal(read_wav(rows["id_-A"]["audio"]["path"]), samples[3 * RATE : 7 * RATE])
    assert np.array_equal(read_wav(rows["idB"]["audio"]["path"]), samples[8 * RATE : 12 * RATE])
    assert [row["duration"] for row in rows.values()] == [4.0, 4.0]
    # The picture brightens by 2 every 40 ms.
    values = [np.asarray(Image.open(frame["path"])).mean() for frame in rows["id_-A"]["frames"]]
    assert values == pytest.approx([2 * 25 * (3 + number + 0.5) % 256 for number in range(4)], abs=5)


@pytest.mark.parametrize(("name", "audio"), [("long.flac", "flac"), ("long.mp4", "aac")])
def test_a_cut_of_any_codec_is_what_decoding_from_the_beginning_gives(tmp_path, name, audio):
    path = write_media(tmp_path / name, seconds=9, audio=audio, video=None, rate=RATE)
    (tmp_path / "captions.csv").write_text("file,start_time,caption\n" + f"{name},3,a tone begins\n")
    run(from_files(tmp_path / "captions.csv", [tmp_path], READING), tmp_path / "out")
    cut = read_wav(rows_of(tmp_path / "out")["long"]["audio"]["path"]) / 32768
    whole = read_clip(path, RATE, 1, 9.0).waveform[3 * RATE : 7 * RATE]
    assert len(cut) == 4 * RATE and np.abs(cut - whole).max() < 1e-3
    assert np.flatnonzero(np.abs(cut) > 0.1)[0] / RATE == pytest.approx(1.5, abs=0.07)  # the tone, from 4.5 s on


def test_originals_that_need_no_change_stay_where_they_are(toy_world, tmp_path):
    before = tree(toy_world)
    report = run(from_layout(toy_world, "test", READING), tmp_path / "out", "test", settings=Settings(WINDOW, 20, 32))
    row = next(iter(rows_of(tmp_path / "out", "test").values()))
    assert row["audio"]["path"].startswith(str(toy_world / "test" / "waveforms"))
    assert row["frames"][19]["path"].startswith(str(toy_world / "test" / "frames" / "frame_19"))
    assert report.kept == 6 and tree(toy_world) == before
    assert "test" not in {name.split("/")[0] for name in tree(tmp_path / "out")}


def test_a_folder_of_any_clips_with_captions_becomes_a_manifest(tmp_path):
    (tmp_path / "clips").mkdir()
    write_media(tmp_path / "clips" / "ü 1.mp4", 4)
    write_wav(tmp_path / "clips" / "sub" / "two.wav", noise(3.5, rate=44100), 44100)
    lines = [{"file_name": "ü 1.mp4", "captions": ["rain", "rain"]}, {"file_name": "two.wav", "captions": "wind"}]
    (tmp_path / "mine.jsonl").write_text("\n".join(map(json.dumps, lines)))
    report = run(from_files(tmp_path / "mine.jsonl", [tmp_path / "clips"], READING), tmp_path / "out")
    rows = rows_of(tmp_path / "out")
    assert rows["ü 1"]["captions"] == ["rain", "rain"] and len(rows["ü 1"]["frames"]) == 4
    assert rows["two"]["audio"]["path"].endswith("sub/two.wav") and rows["two"]["frames"] is None
    assert report.dataset_version is None and rows["two"]["youtube_id"] is None
    assert entries_of(report, "without_picture")["two"]["kept"]


def test_media_of_a_data_set_are_written_out_as_they_are_or_cut(tmp_path):
    short, long = (write_wav(tmp_path / f"{s}.wav", noise(s, s, 8000), 8000).read_bytes() for s in (4, 9))
    columns = {
        "audio": [{"bytes": short, "path": "x.wav"}, {"bytes": long, "path": None}, None],
        "youtube_id": ["idA", "idB", "idC"],
        "start_time": [30, 5, 0],
        "caption": ["rain", "wind", "hail"],
    }
    Dataset.from_dict(columns).cast_column("audio", Audio(decode=False)).save_to_disk(tmp_path / "set")
    for _ in range(2):
        source = from_dataset(str(tmp_path / "set"), "test", [], READING)
        report = run(source, tmp_path / "out", "test")
        rows = rows_of(tmp_path / "out", "test")
        assert rows["idA"]["audio"]["path"] == str(tmp_path / "out" / "test" / "media" / "idA_30000_34000.wav")
        assert Path(rows["idA"]["audio"]["path"]).read_bytes() == short
        assert len(read_wav(rows["idB"]["audio"]["path"])) == 4 * RATE
        assert entries_of(report, "missing")["idC"]["reason"] == "no media in its row"


def test_films_of_a_data_set_give_frames(raw, tmp_path):
    film = (raw / "media" / "toye0000000_0_4000.mp4").read_bytes()
    columns = {"video": [{"bytes": film, "path": "x.mp4"}], "caption": ["rain"]}
    Dataset.from_dict(columns).save_to_disk(tmp_path / "set")
    run(from_dataset(str(tmp_path / "set"), "test", [], READING), tmp_path / "out", "test")
    (row,) = rows_of(tmp_path / "out", "test").values()
    assert len(row["frames"]) == 4 and Path(row["audio"]["path"]).read_bytes() == film


# ------------------------------------------------------------------------------------------------ what is reported


@pytest.fixture(scope="module")
def damaged(raw, tmp_path_factory):
    """The training clips of the raw world, many of them damaged, and what the report must say of each."""
    folder = tmp_path_factory.mktemp("damaged") / "media"
    shutil.copytree(raw / "media", folder)
    films = sorted(folder.glob("toyt*"))
    names = [path.stem.split("_")[0] for path in films]
    films[1].unlink()
    films[2].write_bytes(films[2].read_bytes()[: films[2].stat().st_size // 2])
    films[3].write_bytes(b"")
    films[4].write_text("this is no film\n" * 50)
    films[5].unlink()
    write_media(films[5], seconds=2)
    films[6].unlink()
    write_media(films[6], seconds=4, audio=None)
    films[7].unlink()
    write_wav(films[7].with_suffix(".wav"), np.zeros(4 * RATE, "<i2"))
    films[8].unlink()
    write_wav(films[8].with_suffix(".wav"), noise(4))
    shutil.copy(films[0], films[9])
    shutil.copy(films[10], folder / f"Y{names[10]}.mp4")
    films[11].rename(folder / f"{names[11]}_1000_5000.mp4")
    films[12].rename(folder / f"Y{names[12]}.mp4")
    write_wav(films[13].with_suffix(".wav"), noise(4, 1))
    films[13].write_bytes(b"noise")
    films[14].unlink()
    write_wav(folder / f"{names[14]}_0_1000.wav", noise(1, 2))
    return folder, names


LEFT_OUT = {
    1: ("missing", "no media found"),
    2: ("unreadable", "not readable as media"),
    3: ("unreadable", "not readable as media"),
    4: ("unreadable", "not readable as media"),
    5: ("too_short", "2.0 s of 4 s, at least 3.5 s wanted, 4 s promised by its name"),
    6: ("silent", "no sound in it"),
    7: ("silent", "all samples are 0"),
    9: ("duplicate", "sound and picture are those of toyt0000000"),
    11: ("missing", "only toyt0000011_1000_5000, which does not hold 0-4 s"),
}


def test_every_damaged_clip_is_under_its_heading_and_every_good_one_in_the_manifest(raw, damaged, tmp_path):
    media, names = damaged
    report = run(source_of(raw, media=media), tmp_path)
    rows, facts = rows_of(tmp_path), read_facts(tmp_path)["train"]
    assert set(rows) == {name for index, name in enumerate(names) if index not in LEFT_OUT}
    assert set(facts["missing"]) == set(names) - set(rows)
    for index, (heading, reason) in LEFT_OUT.items():
        entry = entries_of(report, heading)[names[index]]
        assert reason in entry["reason"] and not entry["kept"]
        assert facts["missing"][names[index]] == f"{heading}: {entry['reason']}"
    assert rows[names[8]]["frames"] is None and entries_of(report, "without_picture")[names[8]]["kept"]
    assert "not used" in entries_of(report, "duplicate")[names[10]]["reason"]
    # A damaged film costs its picture alone where the sound is a file of its own.
    assert "not readable as media" in entries_of(report, "without_picture")[names[13]]["reason"]
    assert rows[names[12]]["audio"]["path"].endswith(f"Y{names[12]}.mp4")
    assert rows[names[14]]["duration"] == 1.0  # its name promises no more
    assert report.counts == {
        "expected": 16,
        "found": 14,
        "missing": 2,
        "unreadable": 3,
        "too_short": 1,
        "silent": 2,
        "without_picture": 3,
        "duplicate": 2,
        "kept": 7,
    }


def test_the_reports_say_the_same_to_programs_people_and_downloaders(raw, damaged, tmp_path):
    media, names = damaged
    report = run(source_of(raw, media=media), tmp_path)
    stored = json.loads((tmp_path / "reports" / "train.json").read_text())
    assert stored["counts"] == report.counts
    assert stored["unreadable"] == report.entries["unreadable"]
    page = (tmp_path / "reports" / "train.md").read_text()
    assert "| missing | 2 |" in page and f"(left out) {names[1]}: no media found" in page
    missing = from_files(tmp_path / "reports" / "train_missing.csv", [media], READING).clips
    wanted = [clip for clip in source_of(raw).clips if clip.id in (names[1], names[11])]
    assert [(clip.id, clip.captions) for clip in missing] == [(clip.id, clip.captions) for clip in wanted]


def test_clips_can_be_kept_all_the_same(raw, damaged, tmp_path):
    media, names = damaged
    before = run(source_of(raw, media=media), tmp_path)
    report = run(source_of(raw, media=media), tmp_path, keep=("silent", "too_short", "duplicate"))
    rows = rows_of(tmp_path)
    assert report.kept == before.kept + 4 and {names[index] for index in (5, 6, 7, 9)} <= set(rows)
    assert rows[names[6]]["audio"] is None and len(rows[names[6]]["frames"]) == 4
    assert entries_of(report, "too_short")[names[5]]["kept"]


def test_a_window_that_begins_past_the_end_is_too_short(tmp_path):
    write_wav(tmp_path / "media" / "idA.wav", noise(9))
    rows = write_rows(tmp_path / "test.csv", [[1, "idA", 30, "rain"], [2, "idA", 7, "rain"], [3, "idA", 1, "wind"]])
    report = run(from_files(rows, [tmp_path / "media"], READING), tmp_path / "out", "test", keep=["too_short"])
    reasons = {name: entry["reason"] for name, entry in entries_of(report, "too_short").items()}
    assert reasons == {"idA_30000_34000": "lasts 9.0 s, its window begins at 30 s"}
    report = run(from_files(rows, [tmp_path / "media"], READING), tmp_path / "out", "test", min_seconds=3)
    assert entries_of(report, "too_short")["idA_7000_11000"]["reason"] == "2.0 s of 4 s, at least 3 s wanted"
    assert set(rows_of(tmp_path / "out", "test")) == {"idA_1000_5000"}


def test_repeated_and_bad_rows_are_reported(raw, tmp_path):
    lines = (raw / "train.csv").read_text().splitlines()
    (tmp_path / "train.csv").write_text("\n".join([*lines[:3], lines[1], "9,,0,no id"]) + "\n")
    source = from_files(tmp_path / "train.csv", [raw / "media"], Reading(WINDOW, skip_bad_rows=True))
    report = run(source, tmp_path / "out")
    assert report.kept == 2 and entries_of(report, "duplicate")["toyt0000000"] == {
        "id": "toyt0000000",
        "reason": "line 4 repeats line 2",
        "kept": True,
    }
    assert report.bad_rows == ["line 5: no id (youtube_id)"]


def test_the_version_of_the_captions_is_guessed_by_their_letters(tmp_path):
    for caption, version in (("A man speaks", "v1"), ("a man speaks", "v2")):
        rows = write_rows(tmp_path / "test.csv", [[1, "idA", 30, caption], [2, "idB", 30, "rain falls"]])
        assert guess_version(from_files(rows, [tmp_path], READING)) == version


def test_ids_that_differ_in_case_alone_have_files_of_their_own(tmp_path):
    for seed, name in enumerate(("abc", "ABC")):
        write_wav(tmp_path / "media" / f"{name}.wav", noise(9, seed))
    rows = write_rows(tmp_path / "test.csv", [[1, "abc", 1, "rain"], [2, "ABC", 1, "wind"]])
    run(from_files(rows, [tmp_path / "media"], READING), tmp_path / "out", "test")
    paths = [row["audio"]["path"] for row in rows_of(tmp_path / "out", "test").values()]
    assert len({path.casefold() for path in paths}) == 2


def test_nothing_that_can_be_used_is_an_error_after_the_report(raw, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="none of the 16 clips of train can be used; see"):
        run(source_of(raw, media=tmp_path / "empty"), tmp_path / "out")
    assert json.loads((tmp_path / "out" / "reports" / "train.json").read_text())["counts"]["missing"] == 16


# --------------------------------------------------------------------------------------------------- interruptions


class Killed(BaseException):
    """Nothing catches it, like a kill."""


@pytest.fixture(scope="module")
def undisturbed(raw, tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    source = source_of(raw)
    source.clips = source.clips[:4]
    run(source, folder)
    return folder


@pytest.mark.parametrize("moment", [1, 3, 6, 9, 17, 21])
def test_work_that_ends_at_any_moment_goes_on_to_the_same_result(raw, tmp_path, monkeypatch, undisturbed, moment):
    """Four clips of four frames, then the manifest, its facts, and three reports."""
    replaced, moves = os.replace, []

    def replace_or_die(*paths):
        moves.append(paths)
        if len(moves) == moment:
            raise Killed
        replaced(*paths)

    source = source_of(raw)
    source.clips = source.clips[:4]
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(os, "replace", replace_or_die)
        run(source, tmp_path)
    run(source, tmp_path)
    assert_same_data_set(tmp_path, undisturbed)


def assert_same_data_set(folder, other):
    assert tree(folder).keys() - {"manifest.json"} == tree(other).keys() - {"manifest.json"}
    for name, content in tree(folder).items():
        assert content == tree(other)[name], name


@pytest.mark.slow
def test_a_process_that_is_killed_leaves_what_a_second_run_completes(raw, tmp_path):
    media = tmp_path / "media"
    media.mkdir()
    rows = [[number, f"id{number}", 1, "rain"] for number in range(60)]
    for number in range(60):
        write_wav(media / f"id{number}.wav", noise(30, number))
    annotations = write_rows(tmp_path / "train.csv", rows)

    def command(output):
        options = ["--annotations", annotations, "--media", media, "--window", 4, "--num_proc", 1]
        script = [sys.executable, str(ROOT / "scripts" / "prepare_audiocaps.py")]
        return [*script, *map(str, [*options, "--output", output])]

    process = subprocess.Popen(command(tmp_path / "a"), stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    log = tmp_path / "a" / ".progress" / "train.jsonl"
    while not log.exists() or log.read_text().count("\n") < 4:
        assert process.poll() is None, "ended before it could be killed"
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = log.read_text().count("\n") - 1
    assert done < 60 and not (tmp_path / "a" / "manifest.json").exists()
    result = subprocess.run(command(tmp_path / "a"), capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert f"/{60 - done} " in result.stderr  # the progress bar counts what was left
    run(from_files(annotations, [media], READING), tmp_path / "b", settings=Settings(WINDOW))
    assert_same_data_set(tmp_path / "a", tmp_path / "b")


def test_a_second_run_does_only_what_is_left(raw, tmp_path, monkeypatch):
    media, cut = tmp_path / "media", []
    shutil.copytree(raw / "media", media)
    films = sorted(media.glob("toyt*"))
    films[3].rename(tmp_path / "elsewhere.mp4")
    run(source_of(raw, media=media), tmp_path / "out")
    original = sys.modules["lavcap.preparation.pool"].cut_clip
    monkeypatch.setattr("lavcap.preparation.pool.cut_clip", lambda job: cut.append(job.stem) or original(job))
    run(source_of(raw, media=media), tmp_path / "out")
    assert cut == []
    (tmp_path / "elsewhere.mp4").rename(films[3])  # was missing
    shutil.copy(films[0], films[5])  # has changed
    (tmp_path / "out" / "train" / "frames" / "frame_2" / f"{films[7].stem}.jpg").unlink()  # was lost
    report = run(source_of(raw, media=media), tmp_path / "out")
    assert cut == [films[index].stem for index in (3, 5, 7)]
    assert report.kept == 15 and report.counts["duplicate"] == 1


def test_other_settings_than_those_of_the_first_run_are_refused(raw, tmp_path):
    run(source_of(raw, "test"), tmp_path, "test")
    with pytest.raises(
        DataError, match=r"was begun with window 4.0, asked for 3.0; num_frames 4, asked for 8; ask for"
    ):
        run(source_of(raw, "test"), tmp_path, "test", settings=Settings(3.0, 8, 32))


def test_a_torn_line_of_the_progress_log_is_done_again(raw, tmp_path):
    run(source_of(raw, "test"), tmp_path, "test")
    before, log = tree(tmp_path), tmp_path / ".progress" / "test.jsonl"
    log.write_bytes(log.read_bytes()[:-40])
    run(source_of(raw, "test"), tmp_path, "test")
    assert tree(tmp_path) == before


def test_a_full_disk_stops_the_work_and_what_is_done_stays(raw, tmp_path, monkeypatch):
    replaced, moves = os.replace, []

    def replace_or_fail(*paths):
        moves.append(paths)
        if len(moves) > 1 + 4 * 4:  # the progress log, then the frames of four clips
            raise OSError(28, "No space left on device", paths[1])
        replaced(*paths)

    with (
        monkeypatch.context() as patch,
        pytest.raises(OSError, match=r"cannot go on \(No space left on device\); what is done stays"),
    ):
        patch.setattr(os, "replace", replace_or_fail)
        run(source_of(raw), tmp_path)
    assert (tmp_path / ".progress" / "train.jsonl").read_text().count("\n") == 1 + 4
    assert run(source_of(raw), tmp_path).kept == 16


# ------------------------------------------------------------------------------------------------------- processes


class Bomb(str):
    """A name whose arrival ends the process, as a decoder may."""

    def __reduce__(self):
        return os._exit, (7,)


@pytest.mark.slow
def test_a_clip_that_brings_its_process_down_is_named_and_the_others_go_on(raw, tmp_path):
    source = source_of(raw)
    source.clips = source.clips[:5]
    find = source.index.find

    def find_bomb(clip, *rest):
        media = find(clip, *rest)
        if clip == "toyt0000002":
            object.__setattr__(media.video, "path", Bomb(media.video.path))
        return media

    source.index.find = find_bomb
    report = run(source, tmp_path, num_proc=1)
    assert report.kept == 4 and set(entries_of(report, "unreadable")) == {"toyt0000002"}
    assert "brings the decoder down" in report.entries["unreadable"][0]["reason"]


@pytest.mark.slow
def test_a_pipe_that_would_hang_is_in_the_report(tmp_path):
    (tmp_path / "media").mkdir()
    os.mkfifo(tmp_path / "fifo")  # whoever opens it waits for ever
    write_wav(tmp_path / "media" / "a.wav", noise(4))
    (tmp_path / "media" / "b.wav").touch()
    source = from_files(
        write_rows(tmp_path / "test.csv", [[1, "a", 0, "rain"], [2, "b", 0, "wind"]]), [tmp_path / "media"], READING
    )
    (tmp_path / "media" / "b.wav").unlink()
    (tmp_path / "fifo").rename(tmp_path / "media" / "b.wav")
    report = prepare(source, tmp_path / "out", "test", SETTINGS, num_proc=1, clip_timeout=30.0)
    assert report.kept == 1 and "is a pipe or a device" in entries_of(report, "unreadable")["b"]["reason"]


@pytest.mark.slow
def test_several_processes_give_what_one_gives(raw, damaged, tmp_path):
    media, _ = damaged
    for num_proc in (0, 2):
        run(source_of(raw, media=media), tmp_path / str(num_proc), num_proc=num_proc)
    assert_same_data_set(tmp_path / "0", tmp_path / "2")


def test_a_decoder_that_raises_costs_one_clip(raw, tmp_path, monkeypatch):
    def read_or_raise(path, *rest, **options):
        if "toyt0000003" in str(path):
            raise ZeroDivisionError("division by zero")
        return read_clip(path, *rest, **options)

    monkeypatch.setattr("lavcap.preparation.cutting.read_clip", read_or_raise)
    report = run(source_of(raw), tmp_path)
    assert report.kept == 15
    assert "ZeroDivisionError: division by zero" in entries_of(report, "unreadable")["toyt0000003"]["reason"]


# ----------------------------------------------------------------------------------------------------- the command


def test_the_command_prints_the_table_and_where_the_reports_are(raw, tmp_path):
    paths = ("--annotations", raw / "test.csv", "--media", raw / "media", "--output", tmp_path)
    result = run_inside("scripts/prepare_audiocaps.py", "--num_proc", 0, "--window", 4, *paths)
    assert result.returncode == 0, result.stderr
    assert "# test: 2 of 2 clips are in the manifest" in result.stdout
    assert "The captions are taken for v2" in result.stdout and f"Reports are in {tmp_path}" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "got none of --annotations, --data_dir and --dataset, expected one"),
        (["--annotations", "a.csv"], "--annotations needs --media"),
        (["--dataset", "x/y"], "--dataset needs --split"),
        (["--annotations", "a b.csv", "--media", "."], "the split is called 'a b', expected letters, digits and _"),
        (["--annotations", "nowhere.csv", "--media", "."], r"nowhere.csv: cannot be read (No such file or directory)"),
    ],
)
def test_a_mistake_ends_in_one_line(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.setattr(sys, "argv", ["prepare_audiocaps.py", *arguments, "--output", str(tmp_path / "out")])
    with pytest.raises(SystemExit) as caught:
        runpy.run_path(str(ROOT / "scripts" / "prepare_audiocaps.py"), run_name="__main__")
    printed = capsys.readouterr().err
    assert caught.value.code == 2 and not (tmp_path / "out").exists()
    assert len(printed.splitlines()) == 1 and message in printed


def test_clips_of_two_splits_may_have_one_name(raw, tmp_path):
    for split, clip in (("train", "toyt0000000"), ("test", "toye0000000")):
        (tmp_path / split).mkdir()
        shutil.copy(raw / "media" / f"{clip}_0_4000.mp4", tmp_path / split / "0.mp4")
        (tmp_path / f"{split}.csv").write_text(f"file_name,caption\n0.mp4,{split}\n")
    for split in ("test", "train"):
        source = from_files(tmp_path / f"{split}.csv", [tmp_path / split], READING)
        run(source, tmp_path / "out", split)
    pictures = {
        Path(rows_of(tmp_path / "out", split)["0"]["frames"][1]["path"]).read_bytes() for split in ("test", "train")
    }
    assert len(pictures) == 2
