"""A small captioner with random weights, on which time and memory do not depend."""

import torch

from lavcap.models.families import DEFAULT_FAMILY, config_class, model_class, processor_class
from lavcap.toy.dataset import train_tokenizer
from modeling_captioning import CaptioningModel
from processing_captioning import CaptioningProcessor


WORDS = ["a red circle beeps, then a blue square buzzes while rain falls"]


def random_model(device: torch.device, dtype: torch.dtype) -> tuple[CaptioningModel, CaptioningProcessor]:
    """A LAVCap of the size of the toy recipe, `configs/toy.yaml`, and its processor."""
    torch.manual_seed(0)
    tokenizer = train_tokenizer(WORDS)
    config = config_class(DEFAULT_FAMILY)(
        audio_config={"hidden_size": 96, "intermediate_size": 384, "num_hidden_layers": 4, "num_attention_heads": 4},
        vision_config={
            "model_type": "clip_vision_model",
            "hidden_size": 96,
            "intermediate_size": 384,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "patch_size": 16,
            "image_size": 64,
            "projection_dim": 96,
        },
        text_config={
            "model_type": "llama",
            "vocab_size": len(tokenizer),
            "hidden_size": 128,
            "intermediate_size": 384,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
        },
    )
    processor = processor_class(DEFAULT_FAMILY).from_config(config, tokenizer)
    model = model_class(DEFAULT_FAMILY)(config).to(device, dtype).eval()
    return model, processor
