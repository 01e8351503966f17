"""DALI's processor: what it takes of a file, squares, prompts."""

import numpy as np
import pytest
import torch
from media_files import write_media
from PIL import Image

from processing_dali import BACKGROUND, PROMPT, TRAINING_PROMPT, DaliProcessor


@pytest.fixture
def files(tmp_path):
    film = write_media(tmp_path / "film.mp4", seconds=0.4)
    picture = tmp_path / "picture.jpg"
    Image.fromarray(np.full((40, 80, 3), 200, np.uint8)).save(picture)
    return {"film": film, "picture": picture}


def test_a_film_is_heard_a_picture_seen(dali_processor, files):
    heard = dali_processor(files["film"])
    assert "input_features" in heard and "pixel_values_videos" not in heard
    both = dali_processor(files["film"], modalities=["audio", "video"])
    assert both["input_features"].shape == (1, 48, 128) and both["pixel_values_videos"].shape == (1, 1, 3, 16, 16)
    count = (both["input_ids"] == dali_processor.av_token_id).sum()
    assert count == 28
    seen = dali_processor(files["picture"])
    assert "input_features" not in seen
    assert "input_features" not in dali_processor(files["film"], modalities=["video"])
    with pytest.raises(ValueError, match="smell"):
        dali_processor(files["film"], modalities=["smell"])


def test_what_is_taken_of_films_can_be_another_by_default(dali, tokenizer, files, tmp_path):
    processor = DaliProcessor.from_config(dali.config, tokenizer, film_modalities=["audio", "video"])
    processor.save_pretrained(tmp_path / "saved")
    again = DaliProcessor.from_pretrained(tmp_path / "saved")
    assert {"input_features", "pixel_values_videos"} <= again(files["film"]).keys()
    with pytest.raises(ValueError, match="film_modalities"):
        DaliProcessor.from_config(dali.config, tokenizer, film_modalities=["sound"])


@pytest.mark.parametrize("shape", [(40, 80), (80, 40), (64, 64)])
def test_pictures_become_squares_of_the_released_colour(dali_processor, shape):
    picture = np.full((1, *shape, 3), 255, np.uint8)
    pixels = dali_processor(videos=picture)["pixel_values_videos"][0, 0]
    whole = dali_processor(videos=picture / np.float32(255))["pixel_values_videos"][0, 0]
    torch.testing.assert_close(pixels, whole, atol=0.02, rtol=0)
    mean, std = (np.array(getattr(dali_processor.image_processor, f"image_{name}")) for name in ("mean", "std"))
    colour = torch.tensor((np.array(BACKGROUND) / 255 - mean) / std, dtype=torch.float32)
    tall = pixels if shape[0] <= shape[1] else pixels.transpose(1, 2)
    edge = tall[:, 0, 8]
    if shape[0] == shape[1]:
        assert (edge - colour).abs().min() > 0.5
    else:
        torch.testing.assert_close(edge, colour, atol=0.02, rtol=0)
        assert (tall[:, 8, 8] - colour).abs().min() > 0.5


def test_both_prompts_are_written(dali_processor):
    asked = dali_processor.encode_text([2])["input_ids"][0]
    trained = dali_processor.encode_text([2], captions="a red circle beeps")
    texts = [
        dali_processor.tokenizer.decode(row, skip_special_tokens=True) for row in (asked, trained["input_ids"][0])
    ]
    assert texts[0] != texts[1] and PROMPT.replace("human", "user") == TRAINING_PROMPT
    answer = trained["labels"][0][trained["labels"][0] != -100]
    assert dali_processor.tokenizer.decode(answer, skip_special_tokens=True).strip() == "a red circle beeps"


def test_a_conversation_is_the_released_prompt(dali_processor, files):
    turn = {"role": "user", "content": [{"type": "audio", "path": str(files["film"])}]}
    text = dali_processor.apply_chat_template([turn], add_generation_prompt=True)
    expected = PROMPT.replace("{av}", dali_processor.av_token).replace("{instruction}", dali_processor.instruction)
    assert text == expected
    inputs = dali_processor.apply_chat_template([turn], add_generation_prompt=True, tokenize=True, return_dict=True)
    assert torch.equal(inputs["input_ids"], dali_processor(files["film"])["input_ids"])
