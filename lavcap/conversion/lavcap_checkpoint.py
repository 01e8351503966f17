"""The tensors of released LAVCap checkpoints under our names.

Source of the layouts: Hyeongkeun/LAVCap (`models/lavcaps.py`, `runner.py`) and NAVER-INTEL-Co-Lab/gaudi-lavcap
(`models/lmmcaps_final.py`, `train.py`); CED's own names are in `ced_captioning`.
"""

import re
from collections.abc import Mapping

import torch
from tqdm.auto import tqdm

from ced_captioning import ced_name, ced_weights
from lavcap.conversion.lavcap_options import ReleasedOptions
from lavcap.conversion.parts import Weights
from weights_captioning import WeightsError, check_values, shorten


PART_NAMES = (
    (re.compile(r"^audio_encoder\.(base_model\.model\.)?"), "audio_tower."),
    (re.compile(r"^llama_decoder\.(base_model\.model\.)?"), "language_model."),
    (re.compile(r"^speech_llama_proj\."), "multi_modal_projector."),
    (re.compile(r"^logit_scale$"), "fusion.logit_scale"),
    (re.compile(r"^ln_aud\."), "fusion.audio_layer_norm."),
    (re.compile(r"^ln_vis\."), "fusion.video_layer_norm."),
    (re.compile(r"^cross_attn\."), "fusion.cross_attention."),
)
LORA = re.compile(r"^(.+)\.lora_([AB])\.default\.weight$")
ROTARY = re.compile(r"\.rotary_emb\.inv_freq$")
LOGIT_SCALE = "fusion.logit_scale"
AUDIO, TEXT = "audio_tower.", "language_model."


def is_ced(tensors: Mapping[str, torch.Tensor]) -> bool:
    """Whether these are CED's own tensors, without the rest of LAVCap."""
    return any(ced_name(name) == "patch_embed.weight" for name in tensors)


def sort_checkpoint(tensors: Mapping[str, torch.Tensor], source: str) -> Weights:
    """Tensors of a released checkpoint under our names; what has no place in LAVCap keeps its name.

    Raises:
        WeightsError: two tensors for one place, or half a LoRA.
    """
    weights = Weights()
    for key, tensor in tensors.items():
        name = _our_name(key.removeprefix("module."))
        lora = LORA.match(name)
        if ROTARY.search(name):
            weights.unused[key] = "computed from the configuration"
        elif lora:
            _place_lora(weights, key, *lora.groups(), tensor)
        else:
            _place(weights, key, name, tensor)
    halves = [layer for layer, lora in weights.loras.items() if len(lora) < 2]
    if halves:
        raise WeightsError(
            f"{shorten(halves)}: half a LoRA, expected lora_A and lora_B; the checkpoint is incomplete."
        )
    weights.sources = dict.fromkeys(weights.tensors, source)
    return weights


def _place_lora(weights: Weights, key: str, layer: str, side: str, tensor: torch.Tensor):
    lora = weights.loras.setdefault(layer, {})
    if side in lora:
        raise WeightsError(f"{key}: a second lora_{side} of {layer}, expected one.")
    if tensor.ndim != 2:
        raise WeightsError(f"{key}: expected a matrix, got shape {tuple(tensor.shape)}.")
    check_values({key: tensor})
    lora[side] = tensor


def _our_name(key: str) -> str:
    for pattern, ours in PART_NAMES:
        name = pattern.sub(ours, key)
        if name == key:
            continue
        name = name.replace(".base_layer.", ".")
        return AUDIO + ced_name(name.removeprefix(AUDIO)) if name.startswith(AUDIO) else name
    return key


def _place(weights: Weights, key: str, name: str, tensor: torch.Tensor):
    placed = {name: tensor.reshape(1) if name == LOGIT_SCALE and tensor.numel() == 1 else tensor}
    if name.startswith(AUDIO):
        placed, unused = ced_weights({name.removeprefix(AUDIO): tensor})
        placed = {AUDIO + name: tensor for name, tensor in placed.items()}
        weights.unused |= dict.fromkeys([key] if unused else [], *unused.values())
    for name in placed:
        if name in weights.tensors:
            raise WeightsError(f"{key} and {weights.origins[name]} are the same tensor of the model, expected one.")
    weights.tensors |= placed
    weights.origins |= dict.fromkeys(placed, key)


def check_loras(weights: Weights, options: ReleasedOptions):
    """Compare the LoRAs of a checkpoint with what its configuration says of them.

    Raises:
        WeightsError: present but off, on but absent, of another rank, or on a part that has none.
    """
    stray = [layer for layer in weights.loras if not layer.startswith((AUDIO, TEXT))]
    if stray:
        raise WeightsError(f"{shorten(stray)}: got a LoRA, expected it on encoder and language model only.")
    for part, expected in options.loras.items():
        loras = [lora for layer, lora in weights.loras.items() if layer.startswith(f"{part}.")]
        ranks = {lora["A"].shape[0] for lora in loras} | {lora["B"].shape[1] for lora in loras}
        if expected.on is not None and expected.on != bool(ranks):
            raise WeightsError(
                f"The configuration says LoRA of the {part} {'on' if expected.on else 'off'}, but the checkpoint "
                f"holds {'none' if expected.on else 'one'}: pass the configuration that it was trained with."
            )
        if ranks and ranks != {expected.rank}:
            got = ", ".join(map(str, sorted(ranks)))
            raise WeightsError(f"LoRA of the {part}: expected rank {expected.rank} as configured, got {got}.")


def check_lora_layers(weights: Weights):
    """Compare each LoRA with the layer that it was trained on, once that is filled.

    Raises:
        WeightsError: no such layer, or of another size; expected and got.
    """
    for layer, lora in weights.loras.items():
        weight = weights.tensors.get(f"{layer}.weight")
        if weight is None:
            option = "--audio-encoder" if layer.startswith(AUDIO) else "--text-model"
            raise WeightsError(
                f"Got a LoRA of {layer}, but nothing fills {layer}.weight: pass {option}, with what the checkpoint "
                "was trained on."
            )
        expected, got = (lora["B"].shape[0], lora["A"].shape[1]), tuple(weight.shape)
        if expected != got:
            raise WeightsError(f"LoRA of {layer}: expected {expected} as it was trained on, got {got} of the base.")


@torch.no_grad()
def merge_loras(weights: Weights, options: ReleasedOptions):
    """Fold `scale * B A` into each layer's weight, in float32."""
    for layer, lora in tqdm(weights.loras.items(), desc="Folding LoRA", unit="layer", disable=not weights.loras):
        name, scale = f"{layer}.weight", options.loras[layer.partition(".")[0]].scale
        update = scale * (lora["B"].float() @ lora["A"].float())
        weights.tensors[name] = weights.tensors[name].float() + update
