"""A tiny AVCap and its processor."""

import string
from pathlib import Path

import pytest
import torch
from transformers import BertTokenizer

from configuration_avcap import AvcapConfig
from modeling_avcap import AvcapForConditionalGeneration
from processing_avcap import AvcapProcessor


def tiny_avcap_config(**fields) -> AvcapConfig:
    """AVCap with 8 x 3 audio tokens, 2 x 4 video tokens of four frames, and a vocabulary of 300."""
    encoder = {"hidden_size": 24, "intermediate_size": 48, "num_attention_heads": 3, "num_modality_layers": 2}
    encoder |= {"max_frames": 48, "image_size": 32, "num_video_frames": 4} | fields.pop("audio_visual_config", {})
    text = {"vocab_size": 300, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    text |= {"num_attention_heads": 2, "max_position_embeddings": 64} | fields.pop("text_config", {})
    return AvcapConfig(audio_visual_config=encoder, text_config=text, **fields)


def tiny_avcap(**fields) -> AvcapForConditionalGeneration:
    torch.manual_seed(0)
    model = AvcapForConditionalGeneration(tiny_avcap_config(**fields)).eval()
    with torch.no_grad():  # fresh weights are small: larger ones make every input count in the logits
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(4)
    for name, value in model.decoding.items():
        setattr(model.generation_config, name, value)
    model.generation_config.max_length = 12
    return model


@pytest.fixture(scope="session")
def bert_tokenizer(tmp_path_factory) -> BertTokenizer:
    """Pieces of words as BERT's tokenizer has them, with its special ids."""
    special = {0: "[PAD]", 100: "[UNK]", 101: "[CLS]", 102: "[SEP]", 103: "[MASK]"}
    letters = string.ascii_lowercase
    pieces = ["a", "red", "circle", "beeps", "then", "blue", "square", "buzzes", "while", "rain", "falls", ",", "."]
    rest = iter(dict.fromkeys([*pieces, *letters, *(f"##{letter}" for letter in letters)]))
    vocabulary = [special.get(number) or next(rest, f"[unused{number}]") for number in range(200)]
    path = tmp_path_factory.mktemp("bert") / "vocab.txt"
    path.write_text("\n".join(vocabulary))
    return BertTokenizer(vocab=str(path))


@pytest.fixture(scope="session")
def avcap() -> AvcapForConditionalGeneration:
    return tiny_avcap()


@pytest.fixture(scope="session")
def avcap_processor(avcap, bert_tokenizer) -> AvcapProcessor:
    return AvcapProcessor.from_config(avcap.config, bert_tokenizer)


@pytest.fixture(scope="session")
def saved_avcap(avcap, avcap_processor, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("saved avcap") / "model"
    avcap.save_pretrained(folder)
    avcap_processor.save_pretrained(folder)
    return folder
