"""Pretrained parts of a small model, in folders and files as others publish them."""

from pathlib import Path

import torch
from tiny_models import tiny_model

from modeling_lavcap import LavcapForConditionalGeneration


CED_NAMES = {
    "batch_norm.": "init_bn.1.",
    "patch_embed.": "patch_embed.proj.",
    "layers.": "blocks.",
    "self_attn.": "attn.",
    ".out_proj": ".proj",
    "layer_norm": "norm",
}


# Of the released recipe, but for its size.
LORA = {
    "r": 2,
    "lora_alpha": 8,
    "target_modules": r".*(audio_tower|language_model)\..*\.(q_proj|v_proj)",
    "modules_to_save": ["multi_modal_projector", "fusion"],
}


def write_parts(folder: Path, tokenizer=None, **fields) -> LavcapForConditionalGeneration:
    """The model whose parts are written to `llama-tiny`, `clip-tiny`, `tower`, and to `ced.pt` in CED's own layout."""
    model = tiny_model(**{"audio_config": {"max_frames": 48}} | fields)
    model.language_model.save_pretrained(folder / "llama-tiny")
    model.vision_tower.save_pretrained(folder / "clip-tiny")
    model.audio_tower.save_pretrained(folder / "tower")
    if tokenizer is not None:
        tokenizer.save_pretrained(folder / "llama-tiny")
    ced = {}
    for name, tensor in model.audio_tower.state_dict().items():
        for ours, theirs in CED_NAMES.items():
            name = name.replace(ours, theirs)
        ced[name] = tensor
    torch.save(ced, folder / "ced.pt")
    return model


def assemble(folder: Path, **options) -> LavcapForConditionalGeneration:
    given = {"text": folder / "llama-tiny", "audio": folder / "tower", "vision": folder / "clip-tiny"}
    return LavcapForConditionalGeneration.from_parts(**({"num_video_frames": 4} | given | options))
