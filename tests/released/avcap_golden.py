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
