"""Golden files of the released code: their tensors under our names."""

import json
import re
from pathlib import Path

import torch
from safetensors import safe_open

from configuration_lavcap import LavcapConfig
from modeling_lavcap import LavcapForConditionalGeneration


GOLDEN = Path(__file__).parent / "data" / "golden"
RENAMES = (
    (r"^audio_encoder\.", "audio_tower."),
    (r"init_bn\.1", "batch_norm"),
    (r"patch_embed\.proj", "patch_embed"),
    (r"blocks\.(\d+)\.norm([12])", r"layers.\1.layer_norm\2"),
    (r"blocks\.(\d+)\.attn\.proj", r"layers.\1.self_attn.out_proj"),
    (r"blocks\.(\d+)\.attn", r"layers.\1.self_attn"),
    (r"blocks", "layers"),
    (r"^audio_tower\.norm\.", "audio_tower.layer_norm."),
    (r"^llama_decoder", "language_model"),
    (r"^speech_llama_proj", "multi_modal_projector"),
    (r"^logit_scale", "fusion.logit_scale"),
)


def read_golden(name: str) -> tuple[dict, dict[str, torch.Tensor]]:
    """Released options and tensors of `tests/data/golden/<name>.safetensors`."""
    with safe_open(GOLDEN / f"{name}.safetensors", "pt") as file:
        options = json.loads((file.metadata() or {}).get("config", "{}"))
        return options, {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  (not a dict)


def golden_model(options: dict, tensors: dict[str, torch.Tensor]) -> LavcapForConditionalGeneration:
    width = options["embed_dim"]
    config = LavcapConfig(
        audio_config={
            "hidden_size": width,
            "intermediate_size": 4 * width,
            "num_hidden_layers": options["depth"],
            "num_attention_heads": options["num_heads"],
            "max_frames": options["target_length"],
        },
        vision_config={"model_type": "clip_vision_model", "projection_dim": width},
        has_vision_tower=False,
        text_config={"model_type": "llama", "pad_token_id": 3, **options["llama"]},
        num_video_frames=tensors["in.clip_feat"].shape[1],
        optimal_transport=options["fusion_type"].startswith("ot_"),
        transport_attention="joint" if options["fusion_type"].endswith("QAV_add") else "none",
    )
    model = LavcapForConditionalGeneration(config).eval()
    model.load_state_dict(_our_state(options, tensors), strict=True)
    return model


def _our_state(options: dict, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    released = {key.removeprefix("state."): value for key, value in tensors.items() if key.startswith("state.")}
    state = {}
    for key, value in released.items():
        if "output_layer" in key or "lora_" in key:  # CED's tagging head; LoRA is folded in below
            continue
        if key.endswith("base_layer.weight"):
            stem = key.removesuffix("base_layer.weight")
            scale = options["lora_alpha"] / options["lora_rank"]
            value = value + scale * released[f"{stem}lora_B.default.weight"] @ released[f"{stem}lora_A.default.weight"]
        name = key.replace("base_layer.", "").replace("base_model.model.", "")
        for pattern, replacement in RENAMES:
            name = re.sub(pattern, replacement, name)
        state[name] = value.reshape(1) if name == "fusion.logit_scale" else value
    return state
