"""Names of tensors in the released files of DALI and in LLaVA's, and what they are called here.

Source: hugomalard/AnEyeForAnEar (`src/models/cav_mae.py`, `LLaVA/llava/model`), llava-hf/llava-1.5-7b-hf.
"""

import re
from collections.abc import Mapping
from typing import NamedTuple

import torch

from weights_captioning import Renaming, WeightsError, rename, shorten


SIDES, ROLES = {"a": "audio", "i": "image"}, {"q": "query", "k": "key", "v": "value"}
SCORER_NAMES: tuple[Renaming, ...] = (
    (re.compile(r"^([ai])_([qkv])\."), lambda found: f"{SIDES[found[1]]}_{ROLES[found[2]]}."),
    (re.compile(r"^(audio|image)_scorer\."), r"\1_attention."),
)
PROJECTOR_NAMES: tuple[Renaming, ...] = (
    (re.compile(r"^(model\.)?mm_projector\.0\."), "linear_1."),
    (re.compile(r"^(model\.)?mm_projector\.2\."), "linear_2."),
)
PREFIX = "model.audio_tower.prefix"
# LLaVA's, in the original layout and in those of Transformers before and since 5.
LLAVA_PARTS = {
    "vision_tower": re.compile(r"^(model\.)?vision_tower\.(vision_tower\.)?(vision_model\.)?"),
    "multi_modal_projector": re.compile(r"^(model\.)?(multi_modal_projector\.|(?=mm_projector\.))"),
    "language_model": re.compile(
        r"^(model\.language_model\.(?!model\.)|language_model\.model\.|model\.(?=layers|embed|norm))"
    ),
    "head": re.compile(r"^(language_model\.)?lm_head\."),
}
COUNTS = re.compile(r"(position_ids|rotary_emb\.inv_freq)$")  # that models compute themselves


class AudioBackbone(NamedTuple):
    """Tensors of `audio_backbone.pth`: `encoder` under CAV-MAE's names, the others under ours."""

    encoder: dict[str, torch.Tensor]
    projection: dict[str, torch.Tensor]
    scorers: dict[str, torch.Tensor]
    vision: dict[str, torch.Tensor]


def split_backbone(tensors: Mapping[str, torch.Tensor]) -> AudioBackbone:
    """Parts of the released alignment model."""
    parts = AudioBackbone({}, {}, {}, {})
    for name, tensor in tensors.items():
        name = name.removeprefix("module.")
        if name.startswith("proj."):
            parts.projection[name.removeprefix("proj.")] = tensor
        elif name.startswith("vision_tower."):
            _add_vision(parts.vision, name, tensor)
        elif (ours := rename(name, SCORER_NAMES)) != name:
            parts.scorers[ours] = tensor
        else:
            parts.encoder[name] = tensor
    return parts


def split_llava(tensors: Mapping[str, torch.Tensor]) -> dict[str, dict[str, torch.Tensor]]:
    """LLaVA's tensors by part, under our names.

    Raises:
        WeightsError: a tensor that LLaVA does not have.
    """
    parts: dict[str, dict[str, torch.Tensor]] = {"vision_tower": {}, "multi_modal_projector": {}, "language_model": {}}
    strange = []
    for name, tensor in tensors.items():
        if COUNTS.search(name):
            continue
        part = next((part for part, pattern in LLAVA_PARTS.items() if pattern.match(name)), None)
        if part is None:
            strange.append(name)
        elif part == "vision_tower":
            _add_vision(parts[part], name, tensor)
        elif part == "multi_modal_projector":
            parts[part][rename(LLAVA_PARTS[part].sub("", name), PROJECTOR_NAMES)] = tensor
        elif part == "head":
            parts["language_model"][LLAVA_PARTS[part].sub("lm_head.", name)] = tensor
        else:
            parts[part][LLAVA_PARTS[part].sub("model.", name)] = tensor
    if strange:
        raise WeightsError(f"holds {shorten(strange)}, expected the tensors of LLaVA alone.")
    return parts


def _add_vision(parts: dict[str, torch.Tensor], name: str, tensor: torch.Tensor):
    if not COUNTS.search(name):
        parts[LLAVA_PARTS["vision_tower"].sub("", name)] = tensor
