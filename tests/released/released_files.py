"""Stand-ins for the files that a conversion needs: small, random, and in the layouts of the real ones."""

import re
from pathlib import Path

import torch
from released_reference import OPTIONS
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection, LlamaConfig, LlamaForCausalLM


def trained_parts(state: dict) -> dict:
    """What the CUDA runner keeps: what was trained, and the buffers, which the BatchNorm's statistics are."""
    kept = ("lora_", "speech_llama_proj", "logit_scale", "running_", "num_batches_tracked")
    return {key: value for key, value in state.items() if any(part in key for part in kept)}


def ced_file(state: dict, time_patches: int | None = None) -> dict:
    """CED's own layout: queries, keys and values stacked, its head and front end beside."""
    plain = {
        re.sub(r"^audio_encoder\.(base_model\.model\.)?|\.base_layer", "", key): value
        for key, value in state.items()
        if key.startswith("audio_encoder.") and "lora_" not in key
    }
    ced = {key.replace("output_layer", "outputlayer"): value for key, value in plain.items() if "_proj." not in key}
    for layer in range(sum(key.endswith("norm1.weight") for key in plain)):
        for kind in ("weight", "bias"):
            parts = [plain[f"blocks.{layer}.attn.{part}_proj.{kind}"] for part in "qkv"]
            ced[f"blocks.{layer}.attn.qkv.{kind}"] = torch.cat(parts)
    return ced | {"front_end.0.mel_scale.fb": torch.rand(257, 64), "front_end.0.spectrogram.window": torch.rand(512)}


def text_folder(folder, options: dict, state: dict, rows: int | None = None) -> str:
    """A folder with the base language model, cut to its first `rows` words."""
    base = {
        key.removeprefix("llama_decoder.base_model.model.").replace(".base_layer", ""): value
        for key, value in state.items()
        if key.startswith("llama_decoder.") and "lora_" not in key
    }
    rows = options["llama"]["vocab_size"] if rows is None else rows
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        base[name] = base[name][:rows]
    model = LlamaForCausalLM(LlamaConfig(**(options["llama"] | {"vocab_size": rows})))
    model.load_state_dict(base)
    model.save_pretrained(folder)
    return str(folder)


def clip_folder(folder: Path, width: int = OPTIONS["embed_dim"]) -> str:
    """A folder with a CLIP vision tower that makes tokens of a width."""
    config = CLIPVisionConfig(
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=1,
        num_attention_heads=2,
        patch_size=8,
        image_size=16,
        projection_dim=width,
    )
    CLIPVisionModelWithProjection(config).save_pretrained(folder)
    return str(folder)
