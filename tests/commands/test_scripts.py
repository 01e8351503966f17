"""The commands as a user meets them: what they print, and how they refuse."""

import json
import shutil
import subprocess

import pytest
from media_files import write_media
from stranger import run_inside

from lavcap.data.batches import in_batches
from lavcap.models.loading import load_model


def caption(saved_model, *arguments: object) -> subprocess.CompletedProcess:
    return run_inside("scripts/caption.py", *arguments, "--model", saved_model)


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """A folder of clips with a space and an umlaut in its name: both modalities, each alone, one too long."""
    folder = tmp_path_factory.mktemp("clips") / "my clips ü"
    folder.mkdir()
    write_media(folder / "both.mp4", seconds=0.4)
    write_media(folder / "sound.wav", seconds=0.4, audio="pcm_s16le", video=None)
    write_media(folder / "picture.mkv", seconds=0.4, audio=None)
    write_media(folder / "too long.mp4", seconds=1.2)
    return folder


def test_one_clip_gives_one_line(saved_model, clips):
    result = caption(saved_model, clips / "both.mp4")
    assert result.returncode == 0 and len(result.stdout.splitlines()) == 1
    assert "error" not in result.stderr


def test_a_folder_of_clips_gives_json_with_modalities_and_times(saved_model, clips):
    result = caption(saved_model, clips, "--json", "--batch_size", 3)
    assert result.returncode == 0, result.stderr
    windows = {}
    for record in map(json.loads, result.stdout.splitlines()):
        windows.setdefault(record["clip"].rpartition("/")[2], []).append(record)
    assert {name: each[0]["modalities"] for name, each in windows.items()} == {
        "both.mp4": "audio+video",
        "picture.mkv": "video",
        "sound.wav": "audio",
        "too long.mp4": "video",  # of its first window, which is silent
    }
    assert windows["too long.mp4"][0]["silent"] and windows["too long.mp4"][-1]["modalities"] == "audio+video"
    spans = [(record["start"], record["end"]) for record in windows.pop("too long.mp4")]
    assert spans == [(0, 0.48), (0.48, 0.96), (0.96, pytest.approx(1.2, abs=0.05))]
    assert all(len(each) == 1 for each in windows.values())
    single = caption(saved_model, clips / "both.mp4", "--json")
    assert json.loads(single.stdout)["caption"] == windows["both.mp4"][0]["caption"]


def test_a_bad_clip_costs_no_good_one(saved_model, clips, tmp_path):
    (tmp_path / "broken.mp4").write_bytes((clips / "both.mp4").read_bytes()[:1000])
    result = caption(saved_model, tmp_path / "broken.mp4", clips / "both.mp4", tmp_path / "none.wav", "--json")
    assert result.returncode == 2
    errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 2 and "none.wav: no such file" in errors[0] and "broken.mp4" in errors[1]
    records = [json.loads(line) for line in result.stdout.splitlines()]
    assert ["error" in record for record in records] == [True, True, False]


def test_every_clip_has_one_line_whatever_its_name_holds(saved_model, clips, tmp_path):
    names = ["a\nb\x1b[31m.mp4", "c\td.mp4"]
    for name in names:
        shutil.copy(clips / "both.mp4", tmp_path / name)
    (tmp_path / "e\nf.mp4").write_bytes(b"noise")
    plain, told = caption(saved_model, tmp_path), caption(saved_model, tmp_path, "--json")
    shown = [line.rpartition("\t")[0].rpartition("/")[2] for line in plain.stdout.splitlines()]
    assert shown == ["a\\nb\\x1b[31m.mp4", "c\\td.mp4"]
    errors = [line for line in plain.stderr.splitlines() if "e\\nf.mp4" in line]
    assert len(errors) == 1 and errors[0].startswith("error: ") and "\x1b" not in plain.stderr
    records = [json.loads(line) for line in told.stdout.splitlines()]
    assert sorted(record["clip"].rpartition("/")[2] for record in records) == sorted([*names, "e\nf.mp4"])


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("no/such/model", "no/such/model: no such folder"),
        ("nothing", "nothing: no such folder"),
        ("tests", "tests: holds no config.json"),
    ],
)
def test_a_wrong_model_is_one_line(clips, model, message):
    result = caption(model, clips / "both.mp4")
    assert result.returncode == 2 and "Traceback" not in result.stderr
    assert [message in line for line in result.stderr.splitlines() if line.startswith("error: ")] == [True]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--num_beams", "0"), "expected a whole number of at least 1"),
        (("--device", "abacus"), "device 'abacus' cannot be used here"),
        (("--clips", "x"), "unrecognized arguments: --clips"),
    ],
)
def test_wrong_options_are_one_line(saved_model, clips, options, message):
    result = caption(saved_model, clips / "both.mp4", *options)
    assert result.returncode == 2 and "Traceback" not in result.stderr
    assert [message in line for line in result.stderr.splitlines() if line.startswith("error: ")] == [True]


def test_damaged_weights_are_one_line(saved_model, clips, tmp_path):
    damaged = shutil.copytree(saved_model, tmp_path / "model")
    weights = damaged / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])
    result = caption(damaged, clips / "both.mp4")
    assert result.returncode == 2 and "is cut short or damaged" in result.stderr and "Traceback" not in result.stderr


def test_a_half_precision_model_captions_too(saved_model, processor):
    model, _ = load_model(saved_model, device="cpu", dtype="bfloat16")
    assert model.dtype.is_floating_point and model.dtype.itemsize == 2


def test_batches_keep_order_and_size():
    assert list(in_batches(range(5), 2)) == [[0, 1], [2, 3], [4]]
    with pytest.raises(ValueError, match="batch_size is 0"):
        list(in_batches(range(5), 0))
