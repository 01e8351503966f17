"""`lavcap caption` on files of all kinds: what is printed and written, and how it goes on after a stop."""

import csv
import io
import json
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from clock_films import write_clock
from interrupted_runs import limit_files
from media_files import write_floats, write_media
from PIL import Image
from stranger import import_path, run_inside

from conftest import ROOT
from lavcap.captioning import run as captioning_run
from lavcap.progress_log import read_log
from processing_lavcap import LavcapProcessor
from sources_captioning import MediaError


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Clips of 3, 1 and 2 windows of 0.48 s, a still, and a file that is none."""
    folder = tmp_path_factory.mktemp("clips") / "my clips ü"
    (folder / "sub").mkdir(parents=True)
    write_clock(folder / "long.mp4", 1.3)
    write_clock(folder / "sub" / "short.mkv", 0.3)
    write_clock(folder / "sub" / "short.mp3", 0.7, video=None, audio="libmp3lame")
    (folder / "sub" / "frames").mkdir()
    Image.new("RGB", (32, 32), "red").save(folder / "sub" / "frames" / "0.png")
    (folder / "broken.wav").write_bytes(b"noise")
    return folder


def caption(model, *arguments: object) -> subprocess.CompletedProcess:
    options = ("--max_new_tokens", 4, "--num_beams", 1)
    return run_inside("scripts/caption.py", *arguments, "--model", model, *options)


def lines(text: str) -> list[dict]:
    return [json.loads(line) for line in text.splitlines()]


@pytest.fixture(scope="module")
def whole(saved_model, folder, tmp_path_factory) -> Path:
    """What a run that nothing stopped writes."""
    output = tmp_path_factory.mktemp("whole")
    done = caption(saved_model, folder, "--output_dir", output, "--output_format", "all", "--batch_size", 2)
    assert done.returncode == 2, done.stderr
    return output


def content(output: Path) -> dict[str, str]:
    files = (path for path in output.rglob("*") if path.is_file() and ".progress" not in path.parts)
    return {path.relative_to(output).as_posix(): path.read_text(encoding="utf-8") for path in files}


def test_each_clip_has_its_files_and_all_have_tables(whole):
    found = content(whole)
    stems = ["long", "sub/frames", "sub/short.mkv", "sub/short.mp3"]
    wanted = {f"{stem}.{form}" for stem in stems for form in ("txt", "srt", "vtt", "json")}
    assert found.keys() == wanted | {"captions.csv", "captions.jsonl"}
    records = lines(found["captions.jsonl"])
    clips = [record["clip"].rpartition("/")[2] for record in records]
    assert clips == ["broken.wav", *["long.mp4"] * 3, "short.mkv", *["short.mp3"] * 2, "frames"]
    spans = [(record["start"], record["end"]) for record in records if record["clip"].endswith("long.mp4")]
    assert spans == [(0, 0.48), (0.48, 0.96), (0.96, pytest.approx(1.3, abs=0.05))]
    assert records[0].keys() == {"clip", "error"} and records[-1]["start"] is None
    said = [record for record in records[1:] if record["modalities"]]
    assert len(said) >= 5 and all(record["mean_log_probability"] < 0 < record["tokens"] for record in said)
    assert len(list(csv.DictReader(io.StringIO(found["captions.csv"])))) == 8
    assert json.loads(found["long.json"]) == records[1:4]


def test_a_second_run_finds_nothing_left_and_loads_no_model(whole, folder, monkeypatch):
    before = content(whole)
    monkeypatch.setattr("lavcap.models.loading.load_model", lambda *args, **options: pytest.fail("loaded"))
    done = caption("nowhere", folder, "--output_dir", whole, "--output_format", "all")
    assert "5 of 5 were there" in done.stderr and done.returncode == 2  # one of them cannot be used
    assert content(whole) == before


@pytest.mark.parametrize("stop", [1, 2])
def test_a_run_that_is_stopped_goes_on_and_ends_as_one_that_was_not(
    saved_model, folder, tmp_path, whole, monkeypatch, stop
):
    real, batches = captioning_run.write_captions, []

    def stopped(model, processor, clips, **options):
        if len(batches) == stop:
            raise KeyboardInterrupt
        batches.append(len(clips))
        return real(model, processor, clips, **options)

    command = (folder, "--output_dir", tmp_path / "out", "--output_format", "all", "--batch_size", 2)
    monkeypatch.setattr(captioning_run, "write_captions", stopped)
    done = caption(saved_model, *command)
    assert done.returncode == 130 and done.stderr.splitlines()[-1] == "interrupted"
    stop = None
    done = caption(saved_model, *command)
    assert done.returncode == 2
    assert sum(batches) <= 8  # of what was known the last window of a clip is captioned again
    assert content(tmp_path / "out") == content(whole)


@pytest.fixture
def limit():
    """Sets how many bytes a file takes, until the test ends."""
    yield limit_files
    limit_files(resource.RLIM_INFINITY)


def test_a_full_disk_is_named_and_what_was_written_is_completed_where_there_is_room(
    saved_model, folder, tmp_path, whole, monkeypatch, limit
):
    output, real = tmp_path / "out", captioning_run.write_captions
    command = (folder, "--output_dir", output, "--output_format", "all", "--batch_size", 2)
    log = output / ".progress" / "captions-0.jsonl"

    def fills_the_disk(*arguments, **options):
        limit(log.stat().st_size + 300)  # a record, and the beginning of another one
        return real(*arguments, **options)

    with monkeypatch.context() as full:
        full.setattr(captioning_run, "write_captions", fills_the_disk)
        done = caption(saved_model, *command)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith(f"error: {log}: could not be written (File too large)")
    limit(resource.RLIM_INFINITY)
    begun = read_log(log)[1]
    assert caption(saved_model, *command).returncode == 2
    assert len(begun) == 2 and begun.items() < read_log(log)[1].items()
    assert content(output) == content(whole)


def test_captions_of_another_run_are_not_written_over_unasked(saved_model, folder, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "long.srt").write_text("mine")
    command = (folder / "long.mp4", "--output_dir", tmp_path / "out", "--output_format", "srt")
    done = caption("nowhere", *command)
    assert done.returncode == 2 and "long.srt: there already; pass --skip_existing" in done.stderr
    done = caption("nowhere", *command, "--skip_existing")
    assert done.returncode == 0 and (tmp_path / "out" / "long.srt").read_text() == "mine"
    done = caption(saved_model, *command, "--overwrite")
    assert done.returncode == 0 and (tmp_path / "out" / "long.srt").read_text().startswith("1\n00:00:00,000 --> ")


def test_what_is_known_stays_where_no_model_is_there_to_write_it_anew(folder, whole, tmp_path):
    output = shutil.copytree(whole, tmp_path / "out")
    command = (folder, "--output_dir", output, "--output_format", "all")
    check_refused(caption("nowhere", *command, "--overwrite"), "nowhere: no such folder")
    assert "5 of 5 were there" in caption("nowhere", *command).stderr


def test_a_folder_that_was_begun_otherwise_is_refused(saved_model, folder, whole):
    done = caption(saved_model, folder, "--output_dir", whole, "--overlap", 0.1, "--retry_errors")
    assert done.returncode == 2 and "was begun with overlap 0.0, asked for 0.1" in done.stderr


def test_what_could_not_be_used_is_tried_again_when_asked(saved_model, tmp_path):
    clips, output = tmp_path / "clips", tmp_path / "out"
    clips.mkdir()
    (clips / "a.wav").write_bytes(b"noise")
    write_clock(clips / "b.mp4", 0.3)
    assert caption(saved_model, clips, "--output_dir", output).returncode == 2
    write_media(clips / "a.wav", seconds=0.4, audio="pcm_s16le", video=None)
    assert caption(saved_model, clips, "--output_dir", output).returncode == 2
    assert not (output / "a.txt").exists()
    assert caption(saved_model, clips, "--output_dir", output, "--retry_errors").returncode == 0
    assert (output / "a.txt").exists() and (output / "b.txt").exists()


def test_what_was_captioned_before_a_clip_broke_is_kept(saved_model, folder, tmp_path, monkeypatch):
    real = LavcapProcessor.load_windows

    def breaks(self, *args, **options):
        for number, item in enumerate(real(self, *args, **options)):
            if number == 2:
                raise MediaError("long.mp4: takes more than 120 s to read and decode")
            yield item

    command = (folder / "long.mp4", "--output_dir", tmp_path, "--output_format", "jsonl", "txt")
    with monkeypatch.context() as broken:
        broken.setattr(LavcapProcessor, "load_windows", breaks)
        assert caption(saved_model, *command).returncode == 2
    first = lines((tmp_path / "captions.jsonl").read_text(encoding="utf-8"))
    assert [record.get("start") for record in first] == [0, 0.48, None] and "takes more than" in first[2]["error"]
    done = caption(saved_model, *command, "--retry_errors")
    assert done.returncode == 0, done.stderr
    again = lines((tmp_path / "captions.jsonl").read_text(encoding="utf-8"))
    assert again[:2] == first[:2] and [record["start"] for record in again] == [0, 0.48, 0.96]
    assert len((tmp_path / "long.txt").read_text(encoding="utf-8").splitlines()) == 3


def test_captions_beside_their_clips(saved_model, tmp_path):
    write_clock(tmp_path / "a.mp4", 0.3)
    done = caption(saved_model, tmp_path, "--beside", "--output_format", "all")
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.json", "a.mp4", "a.srt", "a.txt", "a.vtt"]


def test_standard_output_has_one_line_a_window(saved_model, folder):
    done = caption(saved_model, folder / "long.mp4")
    spans = [line.split("\t")[0] for line in done.stdout.splitlines()]
    assert spans[:2] == ["00:00:00.000 --> 00:00:00.480", "00:00:00.480 --> 00:00:00.960"] and len(spans) == 3
    several = caption(saved_model, folder / "long.mp4", folder / "sub" / "short.mkv").stdout.splitlines()
    assert [line.count("\t") for line in several] == [2, 2, 2, 1]
    part = caption(saved_model, folder / "long.mp4", "--range", "0.5", "0:00.9", "--json")
    ((start, end),) = [(record["start"], record["end"]) for record in lines(part.stdout)]
    assert (start, end) == (0.5, 0.9)
    overlapping = lines(caption(saved_model, folder / "long.mp4", "--overlap", 0.24, "--json").stdout)
    assert [record["start"] for record in overlapping] == pytest.approx([0, 0.24, 0.48, 0.72, 0.96], abs=1e-6)
    scenes = lines(caption(saved_model, folder / "long.mp4", "--json", "--scene_cut", "1").stdout)
    assert [record["start"] for record in scenes] == [0, 0.48, 0.96]
    assert caption(saved_model, folder / "long.mp4", "--min_window", 0.4).stdout.count("\n") == 2
    assert caption(saved_model, folder / "long.mp4", "--output_format", "srt").stdout.startswith("1\n00:00:00,000")
    assert caption(saved_model, folder / "long.mp4", "--output_format", "csv").stdout.count("\n") == 4


def test_what_would_steer_a_terminal_is_shown_by_its_codes(saved_model, folder):
    """Random weights write whatever bytes there are."""
    done = caption(saved_model, folder / "long.mp4", "--max_new_tokens", 30)
    assert not [sign for sign in done.stdout if ord(sign) < 32 and sign not in "\n\t"]


def test_sound_below_a_level_counts_as_missing(saved_model, tmp_path):
    write_clock(tmp_path / "silent.mp4", 0.4, audio=None)
    write_floats(tmp_path / "quiet.wav", np.full(6000, 1e-4, np.float32))
    (record,) = lines(caption(saved_model, tmp_path / "quiet.wav", "--json").stdout)
    assert record["silent"] and record["caption"] == "" and record["modalities"] == ""
    (record,) = lines(caption(saved_model, tmp_path / "quiet.wav", "--json", "--silence_db=-90").stdout)
    assert "silent" not in record and record["modalities"] == "audio" and record["tokens"] > 0


def test_several_captions_come_with_what_each_is_worth(saved_model, folder):
    options = ("--json", "--num_captions", 3)
    record = lines(caption(saved_model, folder / "sub" / "short.mkv", *options).stdout)[0]
    worth = [each["mean_log_probability"] for each in record["captions"]]
    assert len(worth) == 3 and worth == sorted(worth, reverse=True)
    assert record["caption"] == record["captions"][0]["text"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--output_dir", "x", "--beside"), "Got --output_dir and --beside, expected one of them"),
        (("--beside", "--output_format", "csv"), "tables of all clips: pass --output_dir"),
        (("--output_format", "srt", "vtt"), "Got 2 formats for standard output, expected one"),
        (("--skip_existing",), "Got --skip_existing, which is about files"),
        (("--output_dir", "x", "--skip_existing", "--overwrite"), "expected one of them"),
        (("--beside", "--retry_errors"), "Got --retry_errors without --output_dir"),
        (("--range", "5", "3"), "--range is 5 to 3, expected the start before the end"),
        (("--range", "1:2:3:4", "5"), "got '1:2:3:4', expected seconds, such as 90 or 1:30"),
        (("--overlap", "-1"), "got '-1', expected seconds"),
        (("--silence_db", "3"), "expected a level of at most 0"),
        (("--scene_cut", "3"), "got '3', expected a share from 0 to 1"),
        (("--num_captions", "100"), "--num_captions is 100, expected 1 to 64"),
        (("--output_format", "mp4"), "invalid choice: 'mp4'"),
        (("--files_from", "nowhere.txt"), "nowhere.txt"),
        (("--data_dir", "x"), "Expected clips, or --data_dir with --as_dataset, and not both"),
        (("--min_window", "long"), "got 'long', expected seconds"),
        (("--num_captions", "0"), "got '0', expected a whole number of at least 1"),
        (("--batch_size", "0"), "got '0', expected a whole number of at least 1"),
        (("--num_workers", "-1"), "got '-1', expected a whole number of at least 0"),
        (("--modalities", "smell"), "invalid choice: 'smell'"),
        (("--config_overrides", "[1]"), "config_overrides is a list, expected an object of fields"),
        (("--device", "abacus"), "device 'abacus' cannot be used here"),
        (("--device", "abacus", "--beside"), "device 'abacus' cannot be used here"),
        (("--output_dir", "README.md"), "README.md: cannot be written (Not a directory)"),
        (("--output_dir", "README.md/captions"), "README.md/captions: cannot be written (Not a directory)"),
    ],
    ids=" ".join,
)
def test_options_that_contradict_themselves_are_one_line_before_a_model_is_loaded(folder, options, message):
    check_refused(caption("nowhere", folder / "long.mp4", *options), message)


def check_refused(done: subprocess.CompletedProcess, message: str):
    (told,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert done.returncode == 2 and message in told and "Traceback" not in done.stderr


def test_no_clips_are_one_line_before_a_model_is_loaded(tmp_path):
    check_refused(caption("nowhere"), "Expected clips, or --data_dir with --as_dataset")
    check_refused(caption("nowhere", tmp_path), "holds neither media files nor images")
    check_refused(caption("nowhere", tmp_path / "gone.mp4"), "gone.mp4: no such file")
    (tmp_path / "list.txt").write_text("\n")
    check_refused(caption("nowhere", "--files_from", tmp_path / "list.txt"), "list.txt: names no clips")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--as_dataset", "x", "--range", "1", "2"), "Got --range, which is about clips, with --as_dataset"),
        (("--as_dataset", "x", "--json"), "Got --json, which is about clips, with --as_dataset"),
        (("--as_dataset", "README.md"), "README.md: cannot be written (Not a directory)"),
    ],
    ids=" ".join,
)
def test_options_that_mean_nothing_for_a_data_set_are_one_line(options, message):
    check_refused(caption("nowhere", "--data_dir", "nowhere", *options), message)


def test_an_overlap_as_long_as_the_window_is_refused(saved_model, folder):
    done = caption(saved_model, folder / "long.mp4", "--overlap", 0.48)
    assert done.returncode == 2 and "--overlap is 0.48, expected less than the window of 0.48 s" in done.stderr


@pytest.mark.whole
@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_a_reader_that_has_had_enough_ends_it_without_a_word(saved_model, tmp_path, workers):
    film = write_media(tmp_path / "long.wav", seconds=24, audio="pcm_s16le", video=None)
    command = [sys.executable, "-m", "lavcap", "caption", film, "--model", saved_model, "--batch_size", 1]
    command += ["--silence_db=-inf", "--num_workers", workers]
    shell = ["bash", "-c", '"$@" | head -n 1; exit ${PIPESTATUS[0]}', "bash", *map(str, command)]
    done = subprocess.run(shell, env=os.environ | {"PYTHONPATH": import_path()}, capture_output=True, text=True)
    assert done.returncode == 141 and done.stdout.startswith("00:00:00.000 --> 00:00:00.480\t")
    assert [line for line in done.stderr.splitlines() if line and "%|" not in line] == []


@pytest.mark.whole
def test_processes_that_decode_ahead_change_nothing(saved_model, folder, whole, tmp_path):
    options = ("--output_format", "all", "--batch_size", 2, "--num_workers", 2)
    done = caption(saved_model, folder, "--output_dir", tmp_path, *options)
    assert done.returncode == 2, done.stderr
    ours, theirs = content(tmp_path), content(whole)
    assert ours.keys() == theirs.keys()
    assert [record.get("caption") for record in lines(ours["captions.jsonl"])] == [
        record.get("caption") for record in lines(theirs["captions.jsonl"])
    ]


@pytest.mark.slow
def test_several_processes_share_the_clips_and_lose_none(saved_model, folder, whole, tmp_path):
    config = ROOT / "configs" / "accelerate" / "ddp.yaml"
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(config), "--num_processes", "2"]
    launch += ["-m", "lavcap", "caption"]
    options = ["--model", str(saved_model), "--max_new_tokens", "4", "--num_beams", "1", "--device", "cpu"]
    options += ["--output_dir", str(tmp_path), "--output_format", "all"]
    good = [str(path) for path in (folder / "long.mp4", folder / "sub")]
    environment = os.environ | {"PYTHONPATH": import_path(), "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    done = subprocess.run([*launch, *good, *options], env=environment, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert len(list((tmp_path / ".progress").glob("captions-*.jsonl"))) == 2
    records = lines((tmp_path / "captions.jsonl").read_text(encoding="utf-8"))
    keys = [(record["clip"], record["start"]) for record in records]
    theirs = lines(content(whole)["captions.jsonl"])
    assert keys == [(record["clip"], record["start"]) for record in theirs if "error" not in record]
