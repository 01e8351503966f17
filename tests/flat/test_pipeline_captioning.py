"""The pipeline: one clip, many, as they come, long ones; the same captions as the processor and the model give."""

import io

import numpy as np
import pytest
from clock_films import write_clock
from datasets import Dataset
from stranger import run_stranger
from transformers import pipeline
from transformers.pipelines.pt_utils import KeyDataset

from media_captioning import Clip
from pipeline_captioning import AudioVisualCaptioningPipeline
from sources_captioning import MediaError


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    folder = tmp_path_factory.mktemp("films")
    return [write_clock(folder / f"{seconds}.mp4", seconds) for seconds in (0.4, 1.2, 0.3)]


@pytest.fixture(scope="module")
def pipe(model, processor) -> AudioVisualCaptioningPipeline:
    return AudioVisualCaptioningPipeline(model=model, processor=processor, max_new_tokens=6, num_beams=1)


def expected(model, processor, film) -> list[dict]:
    records = []
    for window, clip in processor.load_windows(film):
        inputs = processor.batch([processor.clip_features(clip)])
        (text,) = processor.decode_captions(model.generate(**inputs, max_new_tokens=6, num_beams=1), inputs)
        records.append({"generated_text": text, "timestamp": (window.start, window.end)})
    return records


@pytest.mark.parametrize("batch_size", [1, 2, 3])
def test_one_and_many_give_what_the_model_says_of_each_window(pipe, model, processor, films, batch_size):
    wanted = [expected(model, processor, film) for film in films]
    assert [len(each) for each in wanted] == [1, 3, 1]
    assert pipe(str(films[1]), batch_size=batch_size) == wanted[1]
    assert pipe([str(film) for film in films], batch_size=batch_size) == wanted
    assert list(pipe((film for film in films), batch_size=batch_size)) == wanted
    column = Dataset.from_dict({"clip": [film.read_bytes() for film in films]})
    assert list(pipe(KeyDataset(column, "clip"), batch_size=batch_size)) == wanted


def test_captions_come_while_clips_are_read(pipe, films):
    read = []

    def clips():
        for film in films * 2:
            read.append(film)
            yield film

    found = pipe(clips(), batch_size=2)
    next(found)
    assert len(read) < 4
    assert len(list(found)) == 5


def test_clips_in_all_their_forms(pipe, films):
    data = films[0].read_bytes()
    wanted = pipe(films[0])
    for form in (data, io.BytesIO(data), {"bytes": data, "path": None}, films[0].as_uri()):
        assert pipe(form) == wanted
    heard = pipe(films[0], modalities="audio")
    assert heard[0]["timestamp"] == wanted[0]["timestamp"]
    samples = np.zeros(6000, np.float32)
    (record,) = pipe({"array": samples, "sampling_rate": 16000})
    assert record["timestamp"] is None and isinstance(record["generated_text"], str)
    pictures = np.zeros((4, 20, 20, 3), np.uint8)
    assert len(pipe({"audio": samples, "videos": pictures})) == 1


def test_options_of_windows_and_of_decoding(pipe, films):
    spans = [record["timestamp"] for record in pipe(films[1], start=0.3, end=1.0, overlap=0.1)]
    assert spans[0][0] == 0.3 and spans[-1][1] == 1.0 and spans[1][0] == pytest.approx(spans[0][1] - 0.1)
    (short,) = pipe(films[0], max_new_tokens=1)
    (longer,) = pipe(films[0], generate_kwargs={"max_new_tokens": 8})
    assert len(short["generated_text"]) < len(longer["generated_text"])


def test_a_clip_that_cannot_be_used_is_an_error_with_its_name(pipe, tmp_path):
    with pytest.raises(MediaError, match="none.mp4: no such file"):
        pipe(str(tmp_path / "none.mp4"))
    with pytest.raises(MediaError, match="none.mp4: no such file"):
        list(pipe([str(tmp_path / "none.mp4")]))


LOAD = """
import json, sys
from transformers import pipeline

captioner = pipeline("audio-visual-captioning", model=sys.argv[1], trust_remote_code=True, device="cpu")
print(json.dumps([type(captioner).__module__, captioner([sys.argv[2]], batch_size=2, max_new_tokens=6, num_beams=1)]))
"""


@pytest.mark.whole
@pytest.mark.parametrize("family", ["saved_model", "saved_avcap", "saved_dali"])
def test_a_saved_folder_is_all_that_the_library_needs(request, family, films, tmp_path):
    folder = request.getfixturevalue(family)
    told = run_stranger(LOAD, str(folder), str(films[0]), folder=tmp_path, HF_HOME=str(tmp_path), HF_HUB_OFFLINE="1")
    module, ((record,),) = told.printed
    assert module.startswith("transformers_modules.") and record["timestamp"][0] == 0.0


def test_the_library_finds_it_by_the_name_of_the_task(saved_model, films):
    captioner = pipeline("audio-visual-captioning", model=str(saved_model), trust_remote_code=True, device="cpu")
    assert captioner(str(films[0]), max_new_tokens=2)[0]["timestamp"] == (0.0, pytest.approx(0.4, abs=0.05))


def test_a_hole_in_both_streams_has_an_empty_caption(pipe, monkeypatch, films):
    real = type(pipe.processor).load_windows

    def with_a_hole(self, *args, **options):
        for number, (window, clip) in enumerate(real(self, *args, **options)):
            yield window, Clip(None, None, 1.2) if number == 1 else clip

    monkeypatch.setattr(type(pipe.processor), "load_windows", with_a_hole)
    texts = [record["generated_text"] for record in pipe(films[1], batch_size=3)]
    assert texts[1] == "" and texts[0] and texts[2]
