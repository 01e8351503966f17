"""Small configurations of many kinds of language model."""

import dataclasses
from typing import Any

from transformers import CONFIG_MAPPING


# Under every name that some kind has for it.
SIZES = {
    **dict.fromkeys(("vocab_size", "vocab_size_per_layer_input"), 300),
    **dict.fromkeys(("hidden_size", "n_embd", "d_model", "word_embed_proj_dim", "lru_width"), 32),
    **dict.fromkeys(("intermediate_size", "ffn_dim", "dff"), 48),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "num_layers"), 2),
    **dict.fromkeys(("num_attention_heads", "n_head", "num_experts", "num_local_experts", "n_routed_experts"), 4),
    **dict.fromkeys(("num_key_value_heads", "num_experts_per_tok", "altup_num_inputs", "linear_num_key_heads"), 2),
    **dict.fromkeys(("head_dim", "global_head_dim", "v_head_dim", "qk_rope_head_dim", "qk_nope_head_dim"), 8),
    **dict.fromkeys(
        ("linear_key_head_dim", "linear_value_head_dim", "hidden_size_per_layer_input", "mamba_d_state"), 8
    ),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size", "q_lora_rank", "kv_lora_rank"), 16),
    **dict.fromkeys(("max_position_embeddings", "n_positions"), 256),
    **dict.fromkeys(("sliding_window", "attention_window_size"), 64),
    **dict.fromkeys(("n_group", "topk_group", "n_shared_experts", "mamba_n_groups", "num_dense_layers"), 1),
    **dict.fromkeys(("linear_num_value_heads", "laurel_rank", "rotary_dim", "mamba_n_heads"), 4),
    **{"num_kv_shared_layers": 0, "mamba_d_head": 16, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0},
}
LATENT = {"num_key_value_heads": 4}
LINEAR = {"layer_types": ["linear_attention", "full_attention"]}
SLIDING = {"layer_types": ["sliding_attention", "full_attention"]}
CONVOLVING = {"layer_types": ["conv", "full_attention"]}

QUICK = {
    "gemma3n_text": SLIDING | {"intermediate_size": [48, 48], "activation_sparsity_pattern": [0.0, 0.5]},
    "gemma4_text": SLIDING,
    "gpt2": {},
    "lfm2": {},
    "mixtral": {},
    "qwen3_5_text": LINEAR,
}
KINDS = QUICK | {
    "apertus": {}, "arcee": {}, "bamba": {"attn_layer_indices": [1]}, "bloom": {}, "codegen": {}, "cohere": {},
    "cohere2": {}, "deepseek_v2": LATENT, "deepseek_v3": LATENT, "ernie4_5": {}, "exaone4": {}, "falcon": {},
    "falcon_h1": {"mamba_d_ssm": 64}, "gemma": {}, "gemma2": {}, "gemma3_text": {}, "glm": {}, "glm4": {},
    "glm4_moe": {}, "gpt_bigcode": {}, "gpt_neo": {"attention_types": [[["global", "local"], 1]]}, "gpt_neox": {},
    "gpt_oss": {}, "gptj": {}, "granite": {}, "granitemoe": {},
    "granitemoehybrid": {"layer_types": ["mamba", "attention"]}, "helium": {}, "hunyuan_v1_dense": {},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1, "expert_layer_period": 2, "expert_layer_offset": 1},
    "lfm2_moe": CONVOLVING, "llama": {}, "llama4_text": {}, "ministral": {}, "mistral": {}, "mpt": {}, "nemotron": {},
    "olmo": {}, "olmo2": {}, "olmo3": {}, "olmoe": {}, "opt": {}, "persimmon": {}, "phi": {}, "phi3": {},
    "phimoe": {}, "qwen2": {}, "qwen2_moe": {}, "qwen3": {}, "qwen3_moe": {}, "qwen3_next": LINEAR,
    "recurrent_gemma": {"block_types": ["recurrent", "attention"]}, "seed_oss": {}, "smollm3": {}, "stablelm": {},
    "starcoder2": {}, "xglm": {},
}  # fmt: skip
ENCODER = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
PICTURES = {
    "aya_vision": ENCODER | {"image_size": 28, "patch_size": 14},
    "cohere2_vision": ENCODER | {"image_size": 28, "patch_size": 14},
    "gemma3": ENCODER | {"image_size": 28, "patch_size": 14},
    "gemma4": None,
    "granite_speech": {"hidden_dim": 16, "num_layers": 1, "num_heads": 2, "dim_head": 8, "context_size": 8},
    "idefics3": ENCODER | {"image_size": 28, "patch_size": 14},
    "internvl": ENCODER | {"image_size": [28, 28], "patch_size": [14, 14]},
    "kimi_k25": ENCODER | {"patch_size": 14},
    "llava": ENCODER | {"image_size": 28, "patch_size": 14},
    "llava_next": ENCODER | {"image_size": 28, "patch_size": 14},
    "mistral3": ENCODER | {"image_size": 28, "patch_size": 14, "head_dim": 8},
    "qianfan_ocr": ENCODER | {"image_size": 28, "patch_size": 14},
    "qwen2_audio": {"d_model": 16, "encoder_ffn_dim": 24, "encoder_layers": 1, "encoder_attention_heads": 2},
    "qwen3_5": {"hidden_size": 16, "depth": 1, "num_heads": 2, "out_hidden_size": 32, "num_position_embeddings": 16},
}
"""Kinds of several parts, with their encoder of pictures or sound, if they have one."""

TEXTS = {
    "gemma3": {"model_type": "gemma3_text", "final_logit_softcapping": 0.1},
    "granite_speech": {"model_type": "granite", "logits_scaling": 8.0},
    "internvl": {"model_type": "falcon_h1", "mamba_d_ssm": 64, "lm_head_multiplier": 0.5},
    "kimi_k25": {"model_type": "deepseek_v3", "first_k_dense_replace": 1},
    "llava_next": {"model_type": "granite", "logits_scaling": 8.0},
}
"""Language models of such kinds where theirs are not those of the default configuration."""


ENCODERS = ("vision_config", "audio_config", "encoder_config")


def small_fields(model_type: str) -> dict[str, Any]:
    """A language model of two layers and a vocabulary of 300."""
    kind = CONFIG_MAPPING[model_type]
    known = {field.name for field in dataclasses.fields(kind)} | set(kind.attribute_map)
    sizes = {name: value for name, value in SIZES.items() if name in known}
    return {"model_type": model_type} | sizes | KINDS.get(model_type, {})


def small_whole(model_type: str) -> dict[str, Any]:
    """A model of several parts around such a language model."""
    whole = CONFIG_MAPPING[model_type]()
    text = TEXTS.get(model_type) or {"model_type": whole.get_text_config(decoder=True).model_type}
    fields = {"model_type": model_type, "text_config": small_fields(text["model_type"]) | text}
    if PICTURES[model_type] is not None:
        encoder = next(name for name in ENCODERS if hasattr(whole, name))
        fields[encoder] = {"model_type": getattr(whole, encoder).model_type} | PICTURES[model_type]
    return fields
