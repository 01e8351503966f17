"""Options of a processor's call: what they do to rows and media, and what is refused."""

import logging

import numpy as np
import pytest
import torch
from clips import pictures, placeholders, sound
from media_files import write_media
from transformers.utils import logging as transformers_logging


@pytest.fixture
def said(caplog):
    transformers_logging.enable_propagation()
    transformers_logging.get_logger("processing_lavcap").warning_once.__func__.cache_clear()
    with caplog.at_level(logging.WARNING):
        yield caplog
    transformers_logging.disable_propagation()


@pytest.mark.parametrize(
    ("options", "length"),
    [
        ({}, None),
        ({"padding": "longest"}, None),
        ({"padding": "max_length", "max_length": 120}, 120),
        ({"padding": "max_length", "max_length": 5}, None),
        ({"pad_to_multiple_of": 64}, 64),
        ({"max_length": 500, "truncation": True}, None),
        ({"text_kwargs": {"padding": "max_length", "max_length": 120}}, 120),
    ],
    ids=str,
)
def test_rows_are_padded_as_asked(processor, options, length):
    texts = ["a", "rain falls"]
    inputs = processor(audio=[sound(), sound()], text=texts, **options)
    alone = [processor(audio=sound(), text=text)["input_ids"].shape[1] for text in texts]
    assert inputs["input_ids"].shape == (2, length or max(alone))
    assert inputs["attention_mask"].sum(dim=1).tolist() == alone


def test_the_side_of_the_padding_is_chosen_by_use_or_by_the_user(processor):
    audio, texts = [sound(), sound()], ["a", "rain falls"]
    prompts = processor(audio=audio, text=texts)
    assert prompts["attention_mask"][0, 0] == 0 and prompts["attention_mask"][0, -1] == 1
    examples = processor(audio=audio, text=texts, captions=["rain", "rain"])
    assert examples["attention_mask"][0, 0] == 1 and examples["attention_mask"][0, -1] == 0
    right = processor(audio=audio, text=texts, padding_side="right")
    assert right["attention_mask"][0, 0] == 1 and right["attention_mask"][0, -1] == 0


def test_without_padding_rows_keep_their_lengths(processor):
    rows = processor(audio=[sound(), sound()], text=["a", "rain falls"], padding=False, return_tensors=None)
    assert len(rows["input_ids"][0]) < len(rows["input_ids"][1])
    assert isinstance(rows["input_features"], list)
    with pytest.raises(ValueError, match="expected one length for a tensor: pass padding=True"):
        processor(audio=[sound(), sound()], text=["a", "rain falls"], padding=False)


def test_the_first_token_may_be_left_out(processor):
    ids = processor(audio=sound())["input_ids"][0].tolist()
    assert processor(audio=sound(), add_special_tokens=False)["input_ids"][0].tolist() == ids[1:]


@pytest.mark.parametrize("kind", ["pt", "np", None])
def test_a_batch_comes_in_the_kind_that_is_asked_for(processor, kind):
    found = processor(audio=[sound(), None], videos=[None, pictures()], return_tensors=kind)
    expected = processor(audio=[sound(), None], videos=[None, pictures()])
    for name, value in expected.items():
        assert isinstance(found[name], {"pt": torch.Tensor, "np": np.ndarray, None: list}[kind])
        np.testing.assert_array_equal(np.asarray(found[name]), value.numpy())


@pytest.mark.parametrize(("options", "frames"), [({}, 4), ({"num_frames": 2}, 2), ({"do_sample_frames": False}, 6)])
def test_frames_are_as_many_as_asked_and_so_are_their_placeholders(processor, options, frames):
    inputs = processor(videos=pictures(6), **options)
    assert inputs["pixel_values_videos"].shape[1] == frames and placeholders(processor, inputs) == [frames]


def test_options_reach_the_image_processor(processor):
    plain = processor(videos=pictures())["pixel_values_videos"]
    raw = processor(videos=pictures(), do_normalize=False)["pixel_values_videos"]
    nested = processor(videos=pictures(), images_kwargs={"do_normalize": False})["pixel_values_videos"]
    assert torch.equal(raw, nested) and raw.min() >= 0 and raw.max() <= 1 and not torch.equal(raw, plain)


def test_images_are_the_frames_of_clips(processor):
    frames = list(pictures(3))
    expected = processor(videos=frames)["pixel_values_videos"]
    assert torch.equal(processor(images=[frames])["pixel_values_videos"], expected)
    stills = processor(images=frames)  # a list of single images: a clip each
    assert stills["pixel_values_videos"].shape[:2] == (3, 4)
    assert torch.equal(stills["pixel_values_videos"][0, 0], stills["pixel_values_videos"][0, 3])
    with pytest.raises(ValueError, match="Got images and a video for one clip"):
        processor(images=frames[0], videos=pictures())
    with pytest.raises(ValueError, match="Got 2 videos for one clip"):
        processor(videos=[[pictures(), pictures()]])


def test_resampling_and_mixing_down_are_said_once(processor, said):
    stereo = np.zeros((2, 4000), np.float32)
    for _ in range(3):
        processor(audio=stereo, sampling_rate=48000)
    assert len(said.records) == 1
    assert "mixed down from 2 channels and resampled from 48000 to 16000 Hz" in said.text


def test_sound_as_the_model_takes_it_is_not_remarked_on(processor, said):
    processor(audio=sound(), videos=pictures(), sampling_rate=16000)
    processor(audio={"array": sound(), "sampling_rate": 16000})
    assert not said.records


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"paddin": True}, TypeError, "unknown keyword paddin: check the spelling"),
        ({"text_kwargs": {"paddin": True}}, TypeError, "unknown keyword paddin"),
        ({"audio_kwargs": {"rate": 3}}, TypeError, "unknown keyword rate"),
        ({"fps": 2}, ValueError, "fps is 2, but means nothing for LAVCap"),
        ({"stride": 2}, ValueError, "stride is 2, but means nothing"),
        ({"padding": "most"}, ValueError, "padding"),
        ({"padding": "max_length"}, ValueError, "max_length is not given"),
        ({"num_frames": 0}, ValueError, "num_frames is 0, expected 1 to 4096"),
        ({"num_frames": 10**9}, ValueError, "num_frames is 1000000000, expected 1 to 4096"),
        ({"num_frames": "4"}, ValueError, "num_frames is '4', expected 1 to 4096"),
        ({"modalities": "audio"}, ValueError, "modalities is 'audio', expected 'audio', 'video' or both, of media"),
        ({"crop_size": {"height": 10**6, "width": 16}}, ValueError, "expected 1 to 8192"),
        ({"size": 10**6}, ValueError, "size is 1000000, expected 1 to 8192"),
        ({"return_attention_mask": False}, ValueError, "generation needs the mask"),
        ({"padding_side": "top"}, ValueError, "padding_side is 'top', expected 'left' or 'right'"),
        (
            {"truncation": True, "max_length": 9},
            ValueError,
            r"tokens, placeholders included, expected at most .* \(9\)",
        ),
        ({"text_kwargs": {"padding": True}, "padding": False}, ValueError, "passed two times"),
    ],
    ids=str,
)
def test_options_that_cannot_be_followed_are_refused(processor, options, kind, message):
    with pytest.raises(kind, match=message):
        processor(audio=sound(), **options)


def test_frames_of_a_file_are_always_sampled(processor):
    with pytest.raises(ValueError, match="of files frames are sampled"):
        processor(videos="clip.mp4", do_sample_frames=False)


def test_what_is_read_of_a_file_is_chosen_by_name(processor, tmp_path):
    film = write_media(tmp_path / "clip.mp4", seconds=1)
    assert processor(film).keys() - processor(film, modalities="audio").keys() == {"pixel_values_videos"}
    assert "input_features" not in processor(film, modalities=["video"])
    for wrong in ("smell", [], ["audio", "smell"]):
        with pytest.raises(ValueError, match=r"modalities is .*, expected 'audio', 'video' or both"):
            processor(film, modalities=wrong)
    with pytest.raises(TypeError, match="Got dict for a video, expected pictures"):
        processor(videos=(np.zeros((2, 8, 8, 3)), {"fps": 2}))
    with pytest.raises(ValueError, match="num_frames is '4', expected 1 to 4096"):
        processor.load_clip(film, num_frames="4")
