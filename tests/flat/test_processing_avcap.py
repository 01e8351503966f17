"""AVCap's processor: the released filter bank and pictures, frames that follow each other, BERT's words."""

import json

import numpy as np
import pytest
import torch
from avcap_golden import read_golden
from media_files import write_media
from PIL import Image
from transformers import AutoProcessor

from media_captioning import read_clip
from position_tables_captioning import grid_positions, video_positions
from processing_avcap import AvcapFeatureExtractor, AvcapProcessor
from processing_captioning import imagenet_image_processor


# Energies of the quietest bands differ in the last bits of the Fourier transform from one processor to the next.
FBANK_TOLERANCE = 5e-4


@pytest.mark.parametrize(("name", "options"), [("mono", {}), ("stereo", {}), ("rate22050", {"keeps_rate": True})])
def test_spectrograms_are_the_released_ones(name, options):
    tensors, _ = read_golden("fbank")
    rate = int(tensors[f"{name}.sampling_rate"])
    extractor = AvcapFeatureExtractor(max_frames=256, **options)
    (found,) = extractor([tensors[f"{name}.waveform"]], sampling_rate=rate)["input_features"]
    torch.testing.assert_close(found, tensors[f"{name}.features"], atol=FBANK_TOLERANCE, rtol=0)
    assert found[-1, 0] == pytest.approx(4.346 / 4.332, abs=1e-5)  # what fills a short clip up is normalised, too


def test_a_longer_sound_is_cut():
    tensors, _ = read_golden("fbank")
    (found,) = AvcapFeatureExtractor(max_frames=96)([tensors["mono.waveform"]])["input_features"]
    torch.testing.assert_close(found, tensors["mono.features_96"], atol=FBANK_TOLERANCE, rtol=0)


def test_of_several_channels_the_first_is_heard(avcap_processor):
    tone = np.sin(np.arange(8000, dtype=np.float32) / 5)
    both = np.stack([tone, np.random.default_rng(0).uniform(-1, 1, 8000).astype(np.float32)])
    features = [avcap_processor(audio=audio, sampling_rate=16000)["input_features"] for audio in (tone, both)]
    torch.testing.assert_close(*features)
    mixed = AvcapFeatureExtractor(max_frames=48, channels="mean")([both])["input_features"]
    assert (mixed - features[0]).abs().max() > 0.5


def test_a_file_of_another_rate_is_resampled_unless_its_rate_is_kept(avcap_processor, tmp_path):
    path = write_media(tmp_path / "tone.mp4", 0.4, video=None, rate=44100)
    released = AvcapProcessor(
        AvcapFeatureExtractor(max_frames=48, keeps_rate=True),
        avcap_processor.image_processor,
        avcap_processor.tokenizer,
    )
    clips = [processor.load_clip(path) for processor in (avcap_processor, released)]
    assert [clip.sampling_rate for clip in clips] == [16000, 44100]
    assert len(clips[1].waveform) == pytest.approx(len(clips[0].waveform) * 44100 / 16000, abs=2000)
    expected = released.feature_extractor([clips[1].waveform], sampling_rate=44100)["input_features"]
    found = [processor(path)["input_features"] for processor in (avcap_processor, released)]
    torch.testing.assert_close(found[1], expected)
    assert (found[0] - found[1]).abs().max() > 0.1
    two = released(audio=[{"array": clip.waveform, "sampling_rate": clip.sampling_rate} for clip in clips])
    torch.testing.assert_close(two["input_features"][1:], expected)


@pytest.mark.parametrize("number", range(4))
def test_pictures_are_the_released_ones(number):
    tensors, options = read_golden("frames")
    processor = imagenet_image_processor(options["image_size"])
    image = tensors[f"{number}.image"].numpy()
    (found,) = processor([image], return_tensors="pt", input_data_format="channels_last")["pixel_values"]
    torch.testing.assert_close(found, tensors[f"{number}.pixel_values"], atol=1e-6, rtol=0)


@pytest.mark.parametrize("mode", ["L", "CMYK", "RGBA", "P", "1"])
def test_pictures_of_every_mode_are_seen(avcap_processor, tmp_path, mode):
    image = Image.new("RGB", (40, 30), "teal").convert(mode)
    suffix = "tiff" if mode == "CMYK" else "png"
    pixels = avcap_processor(videos=[image] * 4)["pixel_values_videos"]
    assert pixels.shape == (1, 4, 3, 32, 32)
    if suffix == "png":
        image.save(tmp_path / "frame_0.png")
        torch.testing.assert_close(avcap_processor(videos=[tmp_path / "frame_0.png"])["pixel_values_videos"], pixels)


def frames_taken(processor: AvcapProcessor, available: int, draw: torch.Generator | None = None) -> list[int]:
    return processor.choose_frames(available, draw)


@pytest.mark.parametrize(
    ("count", "available", "expected"),
    [
        (4, 20, [8, 9, 10, 11]),
        (8, 20, [6, 7, 8, 9, 10, 11, 12, 13]),
        (1, 20, [10]),
        (5, 20, [7, 8, 9, 10, 11]),
        (4, 4, [0, 1, 2, 3]),
        (4, 2, [0, 0, 1, 1]),
    ],
)
def test_frames_that_follow_each_other_are_taken_in_the_middle(avcap_processor, count, available, expected):
    parts = (avcap_processor.feature_extractor, avcap_processor.image_processor, avcap_processor.tokenizer)
    processor = AvcapProcessor(*parts, num_video_frames=count)
    assert frames_taken(processor, available) == expected
    drawn = {tuple(frames_taken(processor, available, torch.Generator().manual_seed(seed))) for seed in range(200)}
    if available > count:
        starts = {numbers[0] for numbers in drawn}
        assert starts == set(range(available - count + 1))
        assert all(numbers == tuple(range(numbers[0], numbers[0] + count)) for numbers in drawn)
    else:
        assert drawn == {tuple(expected)}


def test_frames_of_a_film_are_those_of_its_middle_or_at_even_distances(avcap_processor, tmp_path):
    path = write_media(tmp_path / "film.mp4", 0.4, size=32)  # ten frames, each brighter than the one before
    parts = (avcap_processor.feature_extractor, avcap_processor.image_processor, avcap_processor.tokenizer)
    for sampling, chosen in (("consecutive", [3, 4, 5, 6]), ("even", [1, 3, 6, 8])):
        processor = AvcapProcessor(*parts, frame_sampling=sampling, frames_per_clip=10)
        frames = read_clip(path, 16000, 10, processor.window).frames if sampling == "consecutive" else None
        found = processor.load_clip(path).frames
        assert len(found) == 4
        if frames is not None:
            np.testing.assert_array_equal(found, frames[chosen])
        else:
            np.testing.assert_array_equal(found, read_clip(path, 16000, 4, processor.window).frames)
    with pytest.raises(ValueError, match="'consecutive', 'even'"):
        AvcapProcessor(*parts, frame_sampling="uniform")


def test_a_caption_is_begun_and_ended_and_cut(avcap_processor):
    silence = np.zeros(4000, np.float32)
    batch = avcap_processor(audio=[silence] * 2, captions=["a red circle beeps", "rain, " * 40])
    ids, labels = batch["input_ids"], batch["labels"]
    tokenizer = avcap_processor.tokenizer
    assert tokenizer.convert_ids_to_tokens(ids[0, :6].tolist()) == ["[CLS]", "a", "red", "circle", "beeps", "[SEP]"]
    assert ids.shape == (2, 42) and ids[1, -1] == 102 and not ids[0, 6:].any()
    assert labels[:, 0].tolist() == [-100, -100] and (labels[0, 6:] == -100).all()
    assert torch.equal(labels[labels != -100], ids[:, 1:][batch["attention_mask"][:, 1:] == 1])
    begun = avcap_processor(audio=silence)["input_ids"]
    assert begun.tolist() == [[101]]
    begun = avcap_processor(audio=[silence] * 2, text=["a red", "rain"])
    assert begun["input_ids"].tolist()[0][0] == 101 and begun["attention_mask"].tolist() == [[1, 1, 1], [0, 1, 1]]
    with pytest.raises(ValueError, match="text and captions"):
        avcap_processor(audio=silence, text="a", captions="b")


def test_a_processor_comes_back_as_it_was_saved(saved_avcap, avcap_processor):
    again = AutoProcessor.from_pretrained(saved_avcap)
    assert type(again).__name__ == "AvcapProcessor"
    assert json.loads(again.to_json_string()) == json.loads(
        AvcapProcessor.from_pretrained(saved_avcap).to_json_string()
    )
    assert again.frame_sampler == avcap_processor.frame_sampler == "consecutive of 20"
    assert again.feature_extractor.channels == "first" and again.modalities == ("audio", "video")


# ----------------------------------------------------------------------------------------------------- position tables


@pytest.mark.parametrize("number", range(4))
def test_tables_of_positions_are_the_released_ones(number):
    tensors, _ = read_golden("sincos")
    table = grid_positions(*tensors[f"{number}.dim_height_width"].tolist())
    table = table[tensors["3.rows"]] if number == 3 else table
    torch.testing.assert_close(table, tensors[f"{number}.table"], atol=1e-7, rtol=0)


def test_positions_of_several_frames_tell_place_and_time():
    place, table = grid_positions(24, 3, 3), video_positions(24, (4, 3, 3), "space_time")
    torch.testing.assert_close(video_positions(24, (1, 3, 3), "space_time"), place)
    times = table.view(4, 9, 24) - place
    torch.testing.assert_close(times, times[:, :1].expand_as(times), atol=1e-6, rtol=0)
    assert (times[1:, 0] - times[:-1, 0]).abs().amax(dim=1).min() > 0.1
    torch.testing.assert_close(video_positions(24, (4, 3, 3), "square"), grid_positions(24, 6, 6))
    assert video_positions(24, (2, 3, 3), "square") is None
