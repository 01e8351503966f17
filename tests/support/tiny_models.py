"""A tiny model and processor, and a tiny toy world."""

from pathlib import Path

import pytest
import torch

from configuration_lavcap import LavcapConfig
from lavcap.toy.dataset import train_tokenizer, write_toy_world
from modeling_lavcap import LavcapForConditionalGeneration
from processing_lavcap import LavcapProcessor


def tiny_config(**fields) -> LavcapConfig:
    """LAVCap with 3 audio tokens per frequency row, 4 video tokens, and a vocabulary of 300."""
    text_config = {
        "model_type": "llama",
        "vocab_size": 300,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "max_position_embeddings": 256,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
    }
    vision_config = {
        "model_type": "clip_vision_model",
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "patch_size": 8,
        "image_size": 16,
        "projection_dim": 24,
    }
    audio_config = {
        "hidden_size": 24,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 3,
        "max_frames": 48,
    }
    text_config |= fields.pop("text_config", {})
    audio_config |= fields.pop("audio_config", {})
    vision_config |= fields.pop("vision_config", {})
    return LavcapConfig(
        **{"num_video_frames": 4, **fields},
        audio_config=audio_config,
        vision_config=vision_config,
        text_config=text_config,
    )


def tiny_model(**fields) -> LavcapForConditionalGeneration:
    torch.manual_seed(0)
    model = LavcapForConditionalGeneration(tiny_config(**fields)).eval()
    # Fresh weights are small: larger ones make every input count in the logits.
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(4)
    return model


@pytest.fixture(scope="session")
def tokenizer():
    return train_tokenizer(["a red circle beeps, then a blue square buzzes while rain falls"])


@pytest.fixture(scope="session")
def fitting_config(tokenizer) -> LavcapConfig:
    """`tiny_config` with the tokenizer's vocabulary, before a processor adds the placeholder to it."""
    return tiny_config(text_config={"vocab_size": len(tokenizer)})


@pytest.fixture(scope="session")
def processor(fitting_config, tokenizer) -> LavcapProcessor:
    return LavcapProcessor.from_config(fitting_config, tokenizer)


@pytest.fixture(scope="session")
def model(fitting_config) -> LavcapForConditionalGeneration:
    model = tiny_model(text_config={"vocab_size": fitting_config.text_config.vocab_size})
    model.generation_config.update(max_new_tokens=6, num_beams=1, do_sample=False)
    return model


@pytest.fixture(scope="session")
def saved_model(model, processor, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("saved") / "model"
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def toy_world(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("world") / "toy world ü"
    write_toy_world(folder, train_clips=24, validation_clips=6, test_clips=6, videos=2)
    return folder
