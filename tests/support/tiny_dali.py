"""A tiny DALI and its processor."""

from pathlib import Path

import pytest
import torch
from tiny_models import tiny_config

from configuration_dali import DaliConfig
from modeling_dali import DaliForAlignment, DaliForConditionalGeneration
from processing_dali import DaliProcessor


def tiny_dali_config(**fields) -> DaliConfig:
    """DALI with 8 x 3 audio tokens, 4 image tokens, 2 prefix vectors, and a vocabulary of 300."""
    audio = {"hidden_size": 24, "intermediate_size": 48, "num_attention_heads": 3, "num_modality_layers": 1}
    text = tiny_config().text_config.to_dict() | fields.pop("text_config", {})
    vision = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    vision |= {"patch_size": 8, "image_size": 16} | fields.pop("vision_config", {})
    return DaliConfig(
        audio_config=audio | {"max_frames": 48} | fields.pop("audio_config", {}),
        vision_config=vision,
        text_config=text,
        **{"num_prefix_tokens": 2, **fields},
    )


def enlarge(model):
    """Fresh weights are small: larger ones make every input count in the logits."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(4)
    return model.eval()


def tiny_dali(**fields) -> DaliForConditionalGeneration:
    torch.manual_seed(0)
    model = enlarge(DaliForConditionalGeneration(tiny_dali_config(**fields)))
    model.generation_config.update(max_new_tokens=6, num_beams=1, do_sample=False)
    return model


def tiny_alignment(**fields) -> DaliForAlignment:
    torch.manual_seed(0)
    return enlarge(DaliForAlignment(tiny_dali_config(**fields)))


@pytest.fixture(scope="session")
def dali(tokenizer) -> DaliForConditionalGeneration:
    return tiny_dali(text_config={"vocab_size": len(tokenizer)})


@pytest.fixture(scope="session")
def dali_processor(dali, tokenizer) -> DaliProcessor:
    return DaliProcessor.from_config(dali.config, tokenizer)


@pytest.fixture(scope="session")
def saved_dali(dali, dali_processor, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("saved dali") / "model"
    dali.save_pretrained(folder)
    dali_processor.save_pretrained(folder)
    return folder
