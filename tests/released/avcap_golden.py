"""Runs of the released AVCap on tiny models: the released files, and what came out."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file


GOLDEN = Path(__file__).parents[1] / "golden" / "avcap"


def read_golden(name: str) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Tensors of a golden file by their names, and its options."""
    with safe_open(GOLDEN / f"{name}.safetensors", "pt") as file:
        return {key: file.get_tensor(key) for key in file.keys()}, json.loads(file.metadata()["config"])  # noqa: SIM118


def below(tensors: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def write_released(name: str, folder: Path, prefix: str = "") -> tuple[Path, Path]:
    """The released checkpoint of a golden file, and its options as JSON."""
    tensors, options = read_golden(name)
    checkpoint, config = folder / f"{name}.safetensors", folder / f"{name}.json"
    state = {prefix + key: tensor.contiguous() for key, tensor in below(tensors, "state.").items()}
    save_file(state, checkpoint)
    config.write_text(json.dumps(options))
    return checkpoint, config


def golden_clip(tensors: dict[str, torch.Tensor], *kinds: str) -> dict[str, torch.Tensor]:
    """The inputs of a golden file as our models take them; `kinds` are `audio`, `video` or both."""
    visual = tensors["in.visual"]
    frames = visual[:, None] if visual.ndim == 4 else visual.transpose(1, 2)
    clip = {"audio": ("input_features", tensors["in.audio"]), "video": ("pixel_values_videos", frames)}
    return dict(clip[kind] for kind in kinds or clip)


def up_to_end(rows: torch.Tensor, end: int = 102) -> list[list[int]]:
    """Ids of each row up to its first end token: what follows is filler."""
    return [row[: row.index(end) + 1] if end in row else row for row in rows.tolist()]


def random_avcap(
    frames: int, width: int = 768, words: int = 30522, layers: int = 11, text_layers: int = 6
) -> dict[str, torch.Tensor]:
    """Every tensor of the released checkpoint; by default of the released sizes.

    Args:
        frames: 1, or an even number.
        width: of encoder and decoder; words: of the tokenizer; layers: of each modality.
    """

    def layer(prefix: str, norms: dict[str, int], linears: dict[str, tuple[int, int]]) -> dict[str, tuple[int, ...]]:
        shapes = {f"{prefix}.{name}.{kind}": (size,) for name, size in norms.items() for kind in ("weight", "bias")}
        shapes |= {f"{prefix}.{name}.weight": shape for name, shape in linears.items()}
        return shapes | {f"{prefix}.{name}.bias": shape[:1] for name, shape in linears.items()}

    norms = {f"norm{number}{way}": width for number in (1, 2) for way in ("", "_a", "_v")}
    mlp = {"mlp.fc1": (4 * width, width), "mlp.fc2": (width, 4 * width)}
    vit = {"attn.qkv": (3 * width, width), "attn.proj": (width, width)} | mlp
    shapes: dict[str, tuple[int, ...]] = {}
    for kind, depth in {"a": layers, "v": layers, "u": 1}.items():
        for number in range(depth):
            shapes |= layer(f"av_encoder.blocks_{kind}.{number}", norms, vit)
    shapes |= layer("av_encoder", {"norm": width, "norm_a": width, "norm_v": width}, {})
    patch = (16, 16) if frames == 1 else (2, 16, 16)
    shapes |= {f"av_encoder.patch_embed_{kind}.proj.bias": (width,) for kind in "av"}
    shapes |= {f"av_encoder.modality_{kind}": (1, 1, width) for kind in "av"}
    shapes |= {"av_encoder.patch_embed_a.proj.weight": (width, 1, 16, 16), "av_encoder.pos_embed_a": (1, 512, width)}
    shapes |= {"av_encoder.patch_embed_v.proj.weight": (width, 3, *patch)}
    shapes |= {"av_encoder.pos_embed_v": (1, 196 * max(1, frames // 2), width)}
    linears = {f"attention.self.{name}": (width, width) for name in ("query", "key", "value")}
    linears |= {"attention.output.dense": (width, width)}
    linears |= {"intermediate.dense": (4 * width, width), "output.dense": (width, 4 * width)}
    for number in range(text_layers):
        place = f"textual.transformer.encoder.layer.{number}"
        shapes |= layer(place, {"attention.output.LayerNorm": width, "output.LayerNorm": width}, linears)
    shapes |= {"textual.embedding.words.weight": (words, width), "textual.embedding.positions.weight": (1024, width)}
    shapes |= layer("textual", {"embedding.layer_norm": width, "av_projection.1": width}, {"output": (words, width)})
    shapes |= layer("textual", {}, {"av_projection.0": (width, width)})
    return {name: torch.randn(shape) * 0.1 for name, shape in shapes.items()}
