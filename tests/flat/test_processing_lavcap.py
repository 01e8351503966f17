"""The processor: exact token counts, labels token by token, and one meaning per input."""

import copy
import logging

import numpy as np
import pytest
import torch
from clips import pictures, placeholders, sound
from media_files import write_media
from PIL import Image
from tiny_models import tiny_config

from media_captioning import read_clip
from processing_lavcap import LavcapProcessor
from sources_captioning import MediaError


AUDIO_TOKENS, VIDEO_TOKENS = 3, 4


# ---------------------------------------------------------------------------------------------------- placeholders


def test_released_sizes_give_84_placeholders(tokenizer):
    from configuration_lavcap import LavcapConfig

    processor = LavcapProcessor.from_config(LavcapConfig(), tokenizer)
    assert processor.num_soft_tokens(audio=True, video=True) == 84
    assert processor.num_soft_tokens(audio=True, video=False) == 64
    assert processor.num_soft_tokens(audio=False, video=True) == 20
    assert processor.feature_extractor.window == pytest.approx(10.24)


@pytest.mark.parametrize(
    ("fusion", "counts"),
    [("concat_time", [7, 3, 4]), ("concat_channel", [3, 3, 3]), ("cross_attention", [3, 3, 4])],
)
def test_placeholders_are_as_many_as_the_model_makes_soft_tokens(fitting_config, tokenizer, fusion, counts):
    from modeling_lavcap import LavcapForConditionalGeneration

    frames = 3 if fusion == "concat_channel" else 4
    vocabulary = {"vocab_size": fitting_config.text_config.vocab_size}
    config = tiny_config(fusion=fusion, num_video_frames=frames, text_config=vocabulary)
    counts = counts if frames == 4 else [3, 3, 3]
    processor = LavcapProcessor.from_config(config, tokenizer)
    model = LavcapForConditionalGeneration(config).eval()
    inputs = processor(audio=[sound(), sound(), None], videos=[pictures(), None, pictures()])
    assert placeholders(processor, inputs) == counts
    assert model(**inputs).logits.isfinite().all()


def test_prompt_is_the_released_one_with_bos_and_placeholders_in_place(processor):
    ids = processor(audio=sound(), videos=pictures())["input_ids"][0].tolist()
    tokenizer = processor.tokenizer
    start = ids.index(processor.av_token_id)
    assert ids[0] == tokenizer.bos_token_id
    assert tokenizer.decode(ids[1:start]).strip() == "USER: <Speech>"
    assert ids[start : start + 7] == [processor.av_token_id] * 7
    assert tokenizer.decode(ids[start + 7 :]).strip() == "</Speech> Please describe the audio.\nASSISTANT:"


def test_own_instruction_and_own_prompt(processor):
    tokenizer = processor.tokenizer
    asked = processor(audio=sound(), text="What is heard?")["input_ids"][0]
    assert "What is heard?" in tokenizer.decode(asked)
    whole = processor(audio=sound(), text="Sound: <av> Caption:")["input_ids"][0].tolist()
    assert tokenizer.decode(whole, skip_special_tokens=True).split() == ["Sound:", "Caption:"]
    with pytest.raises(ValueError, match="2 placeholders <av>, expected 1"):
        processor(audio=sound(), text="<av> and <av>")


# ---------------------------------------------------------------------------------------------------------- labels


def test_labels_are_the_caption_and_its_end_token_and_nothing_else(processor):
    captions = ["a red circle beeps", "rain falls"]
    batch = processor(audio=[sound(), sound()], captions=captions)
    tokenizer = processor.tokenizer
    for row, caption in enumerate(captions):
        answer = tokenizer(caption, add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id]
        labels, ids = batch["labels"][row], batch["input_ids"][row]
        assert labels[labels != -100].tolist() == answer
        assert ids[labels != -100].tolist() == answer
        assert batch["attention_mask"][row].sum() == len(ids[batch["attention_mask"][row] == 1])
    assert batch["attention_mask"][:, 0].tolist() == [1, 1]  # padded on the right
    assert batch["labels"][1, -1] == -100 and batch["attention_mask"][1, -1] == 0


def test_prompts_for_generation_are_padded_on_the_left(processor):
    batch = processor(audio=[sound(), sound()], videos=[pictures(), None])
    assert batch["attention_mask"][:, -1].tolist() == [1, 1]
    assert batch["attention_mask"][1, :VIDEO_TOKENS].tolist() == [0] * VIDEO_TOKENS
    assert batch["video_mask"].tolist() == [True, False] and "audio_mask" not in batch


@torch.no_grad()
def test_captions_of_a_mixed_batch_are_those_one_by_one(processor, model):
    audio, videos = [sound(0.4), sound(0.2), None], [pictures(), None, pictures(3)]
    batch = processor(audio=audio, videos=videos)
    together = processor.decode_captions(model.generate(**batch), batch)
    for index in range(3):
        single = processor(
            audio=None if audio[index] is None else [audio[index]],
            videos=None if videos[index] is None else [videos[index]],
        )
        assert processor.decode_captions(model.generate(**single), single) == [together[index]]


# ---------------------------------------------------------------------------------------------------------- inputs


def test_a_path_equals_its_parts(processor, tmp_path):
    path = write_media(tmp_path / "clip.mp4", seconds=0.4)
    whole, parts = processor(path), processor(audio=str(path), videos=path)
    for name in ("input_ids", "input_features", "pixel_values_videos"):
        assert torch.equal(whole[name], parts[name])


def test_stereo_at_another_rate_equals_mono_at_16_khz(processor):
    time = np.arange(48000 * 2 // 5) / 48000
    tone = np.sin(2 * np.pi * 440 * time).astype(np.float32)
    stereo = processor(audio=np.stack([tone, tone]), sampling_rate=48000)["input_features"]
    mono = processor(audio=tone[::3].copy())["input_features"]
    assert (stereo - mono)[0, 2:36, :20].abs().max() < 0.05


def test_arrays_images_and_lists_of_frames_mean_the_same(processor):
    frames = pictures()
    expected = processor(videos=frames)["pixel_values_videos"]
    assert expected.shape == (1, VIDEO_TOKENS, 3, 16, 16)
    images = [Image.fromarray(frame) for frame in frames]
    channels_first = torch.from_numpy(frames).permute(0, 3, 1, 2)
    unit = torch.from_numpy(frames).double().div(255).requires_grad_()
    for form in (list(frames), images, [images], [frames], torch.from_numpy(frames), channels_first, unit):
        assert torch.equal(processor(videos=form)["pixel_values_videos"], expected)
    assert processor(videos=[frames, images])["pixel_values_videos"].shape[0] == 2


def test_iterators_lose_nothing_and_black_and_white_is_seen(processor):
    videos = [pictures(3), pictures(4), pictures(5)]
    expected = processor(videos=videos)["pixel_values_videos"]
    assert torch.equal(processor(videos=iter(videos))["pixel_values_videos"], expected)
    assert processor(audio=(sound() for _ in range(2)))["input_features"].shape[0] == 2
    masks = pictures() > 127
    assert torch.equal(
        processor(videos=masks)["pixel_values_videos"],
        processor(videos=masks.astype(np.uint8) * 255)["pixel_values_videos"],
    )


def test_a_placeholder_that_is_a_word_is_refused(fitting_config, tokenizer):
    config = copy.deepcopy(fitting_config)
    config.av_token_id = 7
    with pytest.raises(ValueError, match="av_token_id is 7, expected the id of '<av>' or one beyond the"):
        LavcapProcessor.from_config(config, tokenizer)


def test_images_of_any_mode_and_paths_of_images_are_frames(processor, tmp_path):
    grey = Image.fromarray(pictures()[0]).convert("L")
    expected = processor(videos=grey)["pixel_values_videos"]
    assert torch.equal(processor(videos=[grey.convert("RGBA")] * 5)["pixel_values_videos"], expected)
    assert torch.equal(processor(videos=np.asarray(grey)[None, ..., None])["pixel_values_videos"], expected)
    for index in range(3):
        grey.save(tmp_path / f"{index}.png")
    paths = [str(tmp_path / f"{index}.png") for index in range(3)]
    assert torch.equal(processor(videos=paths)["pixel_values_videos"], expected)


def test_sound_of_any_kind_of_array_means_the_same(processor):
    samples = (sound() * 2**14).astype(np.int16)
    expected = processor(audio=samples)["input_features"]
    floats = samples / np.float32(2**15)
    for form in (
        floats,
        list(floats),
        torch.from_numpy(floats),
        {"array": floats, "sampling_rate": 16000},
        floats[:, None],
    ):
        torch.testing.assert_close(processor(audio=form)["input_features"], expected, atol=1e-4, rtol=0)
    assert processor.feature_extractor(samples)["input_features"].equal(expected)


def test_a_tokenizer_without_padding_token_will_do(tokenizer, fitting_config):
    bare = copy.deepcopy(tokenizer)
    bare.pad_token = None
    batch = LavcapProcessor.from_config(fitting_config, bare)(
        audio=[sound(), sound()], captions=["rain", "rain falls"]
    )
    assert batch["attention_mask"][0, -1] == 0
    bare.eos_token = None
    with pytest.raises(ValueError, match="no end token"):
        LavcapProcessor.from_config(fitting_config, bare)


def test_a_clip_beyond_the_window_is_cut_with_both_durations(processor, caplog):
    from transformers.utils import logging as transformers_logging

    transformers_logging.enable_propagation()
    with caplog.at_level(logging.WARNING):
        processor(audio=sound(0.56))
        assert not caplog.records
        processor(audio=sound(0.75))
    transformers_logging.disable_propagation()
    assert "lasts 0.75 s, the window is 0.48 s" in caplog.text


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({}, "Got no clip"),
        ({"audio": [None], "videos": [None]}, "Clip 0 has neither sound nor picture"),
        ({"audio": [sound()], "videos": [pictures(), pictures()]}, "Got 1 audio for 2 clips"),
        ({"audio": [sound(), sound()], "text": ["one", "two", "three"]}, "Got 3 texts for 2 clips"),
        ({"audio": [sound(), sound()], "captions": ["one"]}, "Got 1 captions for 2 clips"),
        ({"media": "a.mp4", "audio": sound()}, "pass the clip once"),
        ({"audio": np.array([np.nan] * 400)}, "NaN or infinite"),
        ({"videos": np.zeros((3, 8, 8, 2), np.uint8)}, r"expected \(height, width, 3\) RGB"),
        ({"videos": pictures().astype(np.float32)}, r"values from 0 to 255, expected floating point in \[0, 1\]"),
        ({"videos": [Image.new("RGB", (8, 8)), Image.new("RGB", (9, 8))]}, "expected one \\(height, width\\)"),
        ({"audio": sound() * 30000}, r"expected floating point in \[-1, 1\]"),
        ({"audio": sound(), "sampling_rate": 0}, "sampling_rate is 0"),
        ({"audio": torch.tensor([1000, -1000] * 3000)}, "int64 samples, whose full scale is unknown"),
        ({"audio": [1000, -1000] * 3000}, "int64 samples"),
        ({"videos": np.full((3, 8, 8, 3), np.nan, np.float32)}, "holds values from nan to nan"),
        ({"videos": pictures().astype(np.int64) + 300}, r"of int64 holds values from 30\d to 5"),
        ({"videos": pictures().astype(np.uint16) * 257}, "of uint16 holds values from"),
        ({"audio": sound(), "captions": "a <av> beeps"}, "holds .<av>., expected words alone"),
        ({"videos": [pictures(), None], "video_features": [None, torch.zeros(4, 24)]}, "expected one of them"),
        ({"audio": sound(), "return_tensors": "tf"}, "expected 'pt', 'np' or None"),
    ],
)
def test_bad_input_says_what_was_got_and_expected(processor, inputs, message):
    with pytest.raises(ValueError, match=message):
        processor(**inputs)


def test_an_unknown_keyword_raises(processor):
    with pytest.raises(TypeError, match="vidoes"):
        processor(vidoes=pictures())


@pytest.mark.parametrize(
    ("fusion", "kept", "other"),
    [("audio_only", "input_features", "videos"), ("video_only", "pixel_values_videos", "audio")],
)
def test_the_processor_of_a_baseline_uses_one_modality(fusion, kept, other, fitting_config, tokenizer, tmp_path):
    config = copy.deepcopy(fitting_config)
    config.fusion, config.optimal_transport, config.transport_attention = fusion, False, "none"
    processor = LavcapProcessor.from_config(config, tokenizer)
    inputs = processor(write_media(tmp_path / "clip.mp4", seconds=0.4))
    assert {"input_features", "pixel_values_videos"} & set(inputs) == {kept}
    assert (inputs["input_ids"] == config.av_token_id).sum() == (3 if fusion == "audio_only" else 4)
    assert processor.clip_features(read_clip(tmp_path / "clip.mp4", 16000, 4, 1.0)).keys() == {kept}
    with pytest.raises(ValueError, match=f"Got {other}, but the model is a baseline on"):
        processor(**{other: np.zeros((4, 16, 16, 3), np.uint8) if other == "videos" else np.zeros(8000, np.float32)})
    lacking = write_media(tmp_path / "x.mkv", audio=None) if fusion == "audio_only" else tmp_path / "x.wav"
    if fusion == "video_only":
        write_media(lacking, audio="pcm_s16le", video=None)
    with pytest.raises(MediaError, match="holds no (sound|picture)"):
        processor(lacking)


def test_a_folder_of_frames_has_no_sound(processor, tmp_path):
    Image.new("RGB", (16, 16)).save(tmp_path / "frame_0.png")
    with pytest.raises(MediaError, match="a folder of frames, which has no sound"):
        processor.load_clip(tmp_path, video=False)


def test_saved_processor_comes_back_with_equal_outputs(processor, saved_model):
    loaded = LavcapProcessor.from_pretrained(saved_model)
    expected, found = (p(audio=sound(), videos=pictures(), captions="rain falls") for p in (processor, loaded))
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_a_caption_is_one_line(processor):
    ids = torch.tensor([processor.tokenizer("rain\n falls\u2028 on\r a roof ")["input_ids"]])
    assert processor.decode_captions(ids) == ["rain falls on a roof"]
