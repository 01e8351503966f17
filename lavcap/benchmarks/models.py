"""Captioners with random weights, on which time and memory do not depend: small ones, and those of recipes."""

from pathlib import Path
from typing import Any

import torch

from lavcap.benchmarks.measure import Cost
from lavcap.models.families import DEFAULT_FAMILY, config_class, model_class, processor_class
from lavcap.toy.dataset import train_tokenizer
from modeling_captioning import CaptioningModel
from parts_captioning import as_dtype, cast
from processing_captioning import CaptioningProcessor


INSTRUCTION_WORDS = 19  # each a token
WORDS = ["a red circle beeps, then a blue square buzzes while rain falls"]
TOWER = {"hidden_size": 96, "intermediate_size": 384, "num_hidden_layers": 4, "num_attention_heads": 4}
TEXT = TOWER | {"hidden_size": 128}
# Near the sizes of the toy recipes, `configs/toy.yaml` and `configs/toy_avcap.yaml`.
PARTS: dict[str, dict[str, dict[str, Any]]] = {
    "lavcap": {
        "audio_config": TOWER,
        "vision_config": TOWER
        | {"model_type": "clip_vision_model", "patch_size": 16, "image_size": 64, "projection_dim": 96},
        "text_config": TEXT | {"model_type": "llama"},
    },
    "avcap": {
        "audio_visual_config": {
            "hidden_size": 128,
            "intermediate_size": 512,
            "num_attention_heads": 4,
            "num_modality_layers": 3,
            "num_joint_layers": 1,
            "max_frames": 416,
            "image_size": 64,
            "num_video_frames": 20,
            "patch_size": 32,
        },
        "text_config": TEXT,
    },
}


def random_model(
    device: torch.device, dtype: torch.dtype, family: str = DEFAULT_FAMILY, **text_fields: Any
) -> tuple[CaptioningModel, CaptioningProcessor]:
    """A model of the size of its toy recipe, and its processor.

    Args:
        text_fields: of the language model, that are others.
    """
    torch.manual_seed(0)
    tokenizer = train_tokenizer(WORDS)
    special = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    parts = PARTS[family]
    text = parts["text_config"] | {"vocab_size": len(tokenizer)} | special | text_fields
    config = config_class(family)(**parts | {"text_config": text})
    processor = processor_class(family).from_config(config, tokenizer)
    model = model_class(family)(config).to(device, dtype).eval()
    return model, processor


def random_clips(model: CaptioningModel, processor: CaptioningProcessor, number: int) -> list[dict[str, torch.Tensor]]:
    """Features of clips with every modality."""
    draw = torch.Generator().manual_seed(0)
    blank = processor.blank_features(model.stored_feature_size)
    return [{name: torch.randn(each.shape, generator=draw) for name, each in blank.items()} for _ in range(number)]


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
    clips = random_clips(model, processor, size)
    texts = {"text": " ".join(["word"] * INSTRUCTION_WORDS)}
    if caption_words is not None:
        texts["captions"] = " ".join(["word"] * caption_words)
    return {name: tensor.to(device) for name, tensor in processor.batch(clips, **texts).items()}


def writing_cost(model: CaptioningModel, tokens: int, rows: int = 1) -> Cost:
    """What it costs at least to write tokens: each reads all weights of the language model, for all rows at once."""
    weights = list(model.language_model.parameters())
    number, size = (sum(map(count, weights)) for count in (torch.Tensor.numel, lambda weight: weight.nbytes))
    return Cost(operations=2 * number * tokens * rows, bytes=tokens * size)
