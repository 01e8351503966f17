"""A small captioner with random weights, on which time and memory do not depend."""

from typing import Any

import torch

from lavcap.models.families import DEFAULT_FAMILY, config_class, model_class, processor_class
from lavcap.toy.dataset import train_tokenizer
from modeling_captioning import CaptioningModel
from processing_captioning import CaptioningProcessor


WORDS = ["a red circle beeps, then a blue square buzzes while rain falls"]
TOWER = {"hidden_size": 96, "intermediate_size": 384, "num_hidden_layers": 4, "num_attention_heads": 4}
TEXT = TOWER | {"hidden_size": 128}
# Of the sizes of the toy recipes, `configs/toy.yaml` and `configs/toy_avcap.yaml`.
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
    device: torch.device, dtype: torch.dtype, family: str = DEFAULT_FAMILY
) -> tuple[CaptioningModel, CaptioningProcessor]:
    """A model of the size of its toy recipe, and its processor."""
    torch.manual_seed(0)
    tokenizer = train_tokenizer(WORDS)
    special = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    parts = PARTS[family]
    text = parts["text_config"] | {"vocab_size": len(tokenizer)} | special
    config = config_class(family)(**parts | {"text_config": text})
    processor = processor_class(family).from_config(config, tokenizer)
    model = model_class(family)(config).to(device, dtype).eval()
    return model, processor


def random_clips(model: CaptioningModel, processor: CaptioningProcessor, number: int) -> list[dict[str, torch.Tensor]]:
    """Features of clips with every modality."""
    draw = torch.Generator().manual_seed(0)
    blank = processor.blank_features(model.stored_feature_size)
    return [{name: torch.randn(each.shape, generator=draw) for name, each in blank.items()} for _ in range(number)]
