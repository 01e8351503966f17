"""Runs of the released DALI on tiny models: the released files, and what came out."""

import json
from pathlib import Path
from typing import Any

import torch
from avcap_golden import below
from safetensors import safe_open
from safetensors.torch import save_file


GOLDEN = Path(__file__).parents[1] / "golden" / "dali"
FILES = {"audio_backbone": "audio_backbone.pth", "prefix": "prefix.bin", "prefixMLP": "prefixMLP.bin"}


def read_golden(name: str) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Tensors of a golden file by their names, and its options, if it has any."""
    with safe_open(GOLDEN / f"{name}.safetensors", "pt") as file:
        options = json.loads((file.metadata() or {}).get("config", "{}"))
        return {key: file.get_tensor(key) for key in file.keys()}, options  # noqa: SIM118


def write_released(folder: Path, *kept: str) -> tuple[Path, Path, Path]:
    """The released folder, LLaVA in its original layout with its tokenizer, and the options as JSON.

    Args:
        kept: which of the released files; default: all.
    """
    tensors, options = read_golden("llava_audio")
    released, llava, config = folder / "released", folder / "llava", folder / "config.json"
    released.mkdir()
    for stem, file in FILES.items():
        if stem in (kept or FILES):
            torch.save(below(tensors, f"state.{stem}."), released / file)
    llava.mkdir()
    save_file(below(tensors, "state.llava."), llava / "model.safetensors")
    for file in (GOLDEN / "tokenizer").iterdir():
        (llava / file.name).write_bytes(file.read_bytes())
    (llava / "config.json").write_text(json.dumps({"model_type": "llava_llama"} | options["llama"]))
    config.write_text(json.dumps(options))
    return released, llava, config


def write_alignment(folder: Path, name: str = "align_attentive") -> tuple[Path, Path]:
    """The released folder of an alignment model alone, and its options as JSON."""
    tensors, options = read_golden(name)
    (folder / "released").mkdir()
    torch.save(below(tensors, "state."), folder / "released" / FILES["audio_backbone"])
    (folder / "config.json").write_text(json.dumps(options))
    return folder / "released", folder / "config.json"
