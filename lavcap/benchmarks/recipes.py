"""The model of a training recipe at its sizes, with random weights: nothing is downloaded."""

from pathlib import Path
from typing import Any

import torch

from modeling_captioning import CaptioningModel
from processing_captioning import CaptioningProcessor


INSTRUCTION_WORDS = 19  # each a token


def read_training_recipe(path: str | Path) -> dict[str, Any]:
    """A recipe that tells the sizes of its model.

    Raises:
        ValueError: it does not.
    """
    from lavcap.training.recipe import read_recipe

    recipe = read_recipe(path)
    if not isinstance(recipe.get("model_config"), dict):
        raise ValueError(f"{path}: has no model_config, expected a recipe that tells the sizes of its model.")
    return recipe


def model_of(recipe: dict[str, Any], device: str) -> CaptioningModel:
    """Drawn where it is trained: on an accelerator that takes seconds for a 7B. What it encodes is stored already."""
    from lavcap.models.families import DEFAULT_FAMILY, config_class, model_class
    from parts_captioning import as_dtype, cast

    family = recipe["model_config"].get("model_type", DEFAULT_FAMILY)
    config = config_class(family)(**recipe["model_config"])
    dtype = as_dtype(recipe.get("model_dtype")) or torch.float32
    with torch.device(device):
        model = cast(model_class(family)._from_config(config, dtype=dtype), dtype)
    if model.feature_encoder_name:
        setattr(model, model.feature_encoder_name, None)
    return model


def processor_of(model: CaptioningModel) -> CaptioningProcessor:
    """A processor whose tokenizer takes every word for the same one."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    from lavcap.models.families import processor_class

    words = Tokenizer(models.WordLevel({"<s>": 0, "</s>": 1, "word": 2}, unk_token="word"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, bos_token="<s>", eos_token="</s>", unk_token="word")
    return processor_class(model.config.model_type).from_config(model.config, tokenizer)


def batch_of(
    model: CaptioningModel, size: int, device: str, caption_words: int | None = None
) -> dict[str, torch.Tensor]:
    """Clips of a whole window behind an instruction, as a data loader gives them; with captions of so many words, or
    as they are to be captioned."""
    processor = processor_of(model)
    blank = processor.blank_features(model.stored_feature_size)
    clips = [{name: torch.randn_like(feature) for name, feature in blank.items()} for _ in range(size)]
    texts = {"text": " ".join(["word"] * INSTRUCTION_WORDS)}
    if caption_words is not None:
        texts["captions"] = " ".join(["word"] * caption_words)
    return {name: tensor.to(device) for name, tensor in processor.batch(clips, **texts).items()}
