"""What a medium may be passed as: every form that people have one in gives the same clip, and others one line."""

import base64
import io
import os
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from media_files import write_media
from PIL import Image

from inputs_captioning import sort_by_clip, to_samples
from sources_captioning import MediaError, StoredFile, as_source, is_source, list_folder, list_images


def kind(value: object) -> str:
    return type(value).__name__


@pytest.fixture(scope="module")
def film(tmp_path_factory) -> Path:
    return write_media(tmp_path_factory.mktemp("films") / "ein Film ü.mp4", seconds=1)


class OwnPath(os.PathLike):
    def __init__(self, path: Path):
        self.path = path

    def __fspath__(self) -> str:
        return str(self.path)


def forms(path: Path) -> dict[str, object]:
    data = path.read_bytes()
    return {
        "text": str(path),
        "path": path,
        "path-like": OwnPath(path),
        "file address": path.as_uri(),
        "data address": "data:video/mp4;base64," + base64.b64encode(data).decode(),
        "bytes": data,
        "bytearray": bytearray(data),
        "memoryview": memoryview(data),
        "BytesIO": io.BytesIO(data),
        "open file": path.open("rb"),
        "bytes column": {"bytes": data, "path": None},
        "path column": {"bytes": None, "path": str(path)},
        "stored": StoredFile("a film", data),
    }


@pytest.mark.parametrize("form", forms(Path(__file__)))
def test_a_film_in_any_form_is_the_same_clip(film, processor, form):
    item, expected = forms(film)[form], processor(str(film))
    assert is_source(item)
    found = processor(item)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


@pytest.mark.parametrize("form", ["bytes", "BytesIO", "path-like", "bytes column", "data address"])
def test_sound_and_picture_apart_and_in_lists(film, processor, form):
    expected = processor(videos=[str(film)] * 2, audio=[str(film)] * 2)
    items = [[forms(film)[form] for _ in range(2)] for _ in range(2)]
    found = processor(videos=items[0], audio=items[1])
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def test_stills_in_memory_are_frames_of_one_clip(processor):
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)).save(file, "png")
    expected = processor(images=[[Image.open(io.BytesIO(file.getvalue()))] * 2])["pixel_values_videos"]
    for form in (bytes, io.BytesIO, lambda data: {"bytes": data, "path": "a.png"}):

        def frames(form=form):
            return [form(file.getvalue()) for _ in range(2)]

        assert torch.equal(processor(videos=frames())["pixel_values_videos"], expected)
        assert [len(row.video) for row in sort_by_clip(None, None, [frames(), frames()], None)] == [2, 2]


def test_an_undecoded_column_of_datasets_is_a_list_of_clips(film, processor):
    rows = datasets.Dataset.from_dict({"clip": [str(film)] * 2})
    rows = rows.cast_column("clip", datasets.Audio(decode=False))
    found = processor(audio=list(rows["clip"]))
    assert torch.equal(found["input_features"], processor(audio=[str(film)] * 2)["input_features"])


def test_samples_come_with_their_rate_in_every_order(processor):
    samples = np.random.default_rng(0).uniform(-0.5, 0.5, 8000).astype(np.float32)
    expected = processor(audio=samples, sampling_rate=8000)["input_features"]

    class Decoder:  # of `datasets`, by torchcodec
        def get_all_samples(self):
            return type("Samples", (), {"data": torch.from_numpy(samples)[None], "sample_rate": 8000})

    for form in (
        {"array": samples, "sampling_rate": 8000},
        (8000, samples),  # gradio
        (samples, 8000),  # librosa
        (samples.tolist(), 8000.0),
        [(8000, samples)],
        Decoder(),
    ):
        assert torch.equal(processor(audio=form)["input_features"], expected)
    integers = (8000, (samples * 32767).astype(np.int16))
    assert torch.allclose(processor(audio=integers)["input_features"], expected, atol=0.2)


@pytest.mark.parametrize(
    ("audio", "rate", "message"),
    [
        ({}, None, r"Got audio with no keys, expected 'array' and 'sampling_rate'"),
        ({"array": np.zeros(8)}, None, r"Got audio with \['array'\]"),
        (np.array([None, 1.0], dtype=object), None, "holds object, expected numbers"),
        (np.array(["a"]), None, "holds <U1, expected numbers"),
        (np.zeros(1600), "16000", "sampling_rate is '16000', expected samples per second"),
        (np.zeros(1600), float("inf"), "sampling_rate is inf"),
        (np.zeros(1600), float("nan"), "sampling_rate is nan"),
        (np.zeros(1600), True, "sampling_rate is True"),
        (np.zeros(1600), 0, "sampling_rate is 0"),
        (3, None, "Got int for audio, expected samples"),
        (object(), None, "Got object for audio, expected samples"),
        ({"array": [[0.1, 0.2], [0.3]], "sampling_rate": 8000}, None, "expected one length"),
    ],
    ids=kind,
)
def test_other_samples_are_refused_in_one_line(processor, audio, rate, message):
    with pytest.raises((ValueError, TypeError), match=message) as raised:
        processor(audio=audio, sampling_rate=rate)
    assert "\n" not in str(raised.value) and len(str(raised.value)) < 400


@pytest.mark.parametrize(
    ("item", "message"),
    [
        (3, "Got int for a medium, expected a path"),
        ({"array": [0.1]}, "Got dict for a medium"),
        ("https://example.org/a.mp4", "an address, not a file; download it"),
        ("HTTP://example.org/" + "a" * 9999, "an address, not a file; download it"),
        ("file://server/a.mp4", "names a file of server"),
        ("file://[/a.mp4", r"no address of a file \(Invalid IPv6 URL\)"),
        ("data:video/mp4", "a data: address without data"),
        ("data:video/mp4;base64,***", "its data are not base64"),
        ("", "an empty path"),
        ("DATA:video/mp4;BASE64,***", "its data are not base64"),
        ("a\0b.mp4", "null byte"),
        ("a" * 5000 + ".mp4", r"cannot be read \(File name too long\)"),
        ("/proc/version", r"cannot be read \(Invalid argument\)"),
        ("/proc/self/mem", r"cannot be read \(Input/output error\)"),
        ({"bytes": b"1", "path": 5}, "Got int for the path of a medium"),
        ({"bytes": None, "path": None}, "bytes and path are None"),
        (io.StringIO("words"), "open as text"),
    ],
    ids=kind,
)
def test_another_medium_is_one_line_with_its_type_and_never_its_content(processor, item, message):
    with pytest.raises((MediaError, TypeError), match=message) as raised:
        processor(item)
    assert "\n" not in str(raised.value) and len(str(raised.value)) < 300


def test_what_cannot_be_read_costs_a_folder_of_clips_nothing_but_itself(film, processor, monkeypatch):
    def locked(path, *args, **kwargs):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "open", locked)
    with pytest.raises(MediaError, match=r"ein Film ü\.mp4: cannot be read \(Permission denied\); check"):
        processor.load_clip(film)


def test_addresses_are_taken_in_capitals(film):
    assert as_source(film.as_uri().replace("file:", "FILE:")) == film
    assert as_source("DATA:,a%20b").data == b"a b" and as_source("data:;BASE64,YWI=").data == b"ab"


def test_bytes_are_not_shown_in_messages(processor):
    secret = b"SECRET" * 1000
    for item in (secret, {"bytes": secret, "path": None}, io.BytesIO(secret), [secret]):
        with pytest.raises(MediaError) as raised:
            processor(item)
        assert "SECRET" not in str(raised.value)


def test_an_open_file_is_read_from_where_it_stands(film, processor):
    with film.open("rb") as file:
        assert as_source(file).data == film.read_bytes() and as_source(file).data == b""
    closed = film.open("rb")
    closed.close()
    with pytest.raises(MediaError, match=r"cannot be read \(.*closed file"):
        as_source(closed)


def test_hidden_files_are_none_of_a_folder_s(tmp_path):
    for name in ("frame_1.png", "._frame_0.png", ".DS_Store", ".hidden.mp4"):
        (tmp_path / name).write_bytes(b"")
    assert [path.name for path in list_folder(tmp_path)] == [path.name for path in list_images(tmp_path)]
    assert list_images(tmp_path) == [tmp_path / "frame_1.png"]


def test_a_rate_that_is_no_whole_number_is_rounded():
    assert to_samples(np.zeros(8), np.float64(44099.6))[1] == 44100


def test_stored_features_must_be_finite_and_of_one_shape(processor):
    for features, message in (
        (torch.full((4, 8), float("nan")), "NaN or infinite"),
        (torch.zeros(4, 0), r"shape \(4, 0\), expected \(video_frames, hidden\)"),
    ):
        with pytest.raises(ValueError, match=message):
            processor(video_features=features)


# ------------------------------------------------------------------------------------------------------------ words


@pytest.mark.parametrize(
    ("captions", "message"),
    [
        (["rain falls", None], "Got NoneType as number 1 of captions, expected text for every clip"),
        (["rain falls", 3], "Got int as number 1 of captions"),
        (["rain</s> falls", "rain"], "holds '</s>', expected words alone"),
        (["<av> rain", "rain"], "holds '<av>', expected words alone"),
    ],
)
def test_captions_that_are_no_words_are_one_line(processor, captions, message):
    with pytest.raises(ValueError, match=message):
        processor(audio=[np.zeros(1600)] * 2, captions=captions)


def test_an_option_that_no_template_knows_is_named(processor, film):
    ask = [{"role": "user", "content": [{"type": "video", "path": str(film)}, {"type": "text", "text": "What?"}]}]
    with pytest.raises(TypeError, match=r"use_audio_in_video .* taken with load_audio_from_video=True"):
        processor.apply_chat_template(ask, tokenize=True, return_dict=True, use_audio_in_video=True)
    heard = processor.apply_chat_template(ask, tokenize=True, return_dict=True, load_audio_from_video=True)
    assert "input_features" in heard


def test_an_output_of_generate_is_decoded_as_its_ids(processor, model):
    inputs = processor(audio=np.zeros(1600))
    ids = model.generate(**inputs, max_new_tokens=4)
    output = model.generate(**inputs, max_new_tokens=4, return_dict_in_generate=True)
    assert processor.decode_captions(output, inputs) == processor.decode_captions(ids, inputs)
