"""The released folder of DALI, onto LLaVA, as a `from_pretrained` folder.

Source of the layouts: hugomalard/AnEyeForAnEar. Names of tensors are in `dali_names`.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from cavmae_captioning import CavMaeConfig
from cavmae_weights_captioning import cavmae_fields, cavmae_weights, is_built
from configuration_captioning import build_part
from configuration_dali import CLIP_VIT_L_14_336, VICUNA_7B, DaliConfig
from lavcap.arguments import reject_unknown
from lavcap.conversion.dali_names import PREFIX, PROJECTOR_NAMES, AudioBackbone, split_backbone, split_llava
from lavcap.conversion.parts import Weights, write_model
from lavcap.documents import parse_json, read_bytes, reason_of
from modeling_dali import DaliForAlignment, DaliForConditionalGeneration
from parts_captioning import caption_decoding, read_part
from processing_dali import DaliProcessor
from weights_captioning import WEIGHT_SUFFIXES, WeightsError, check_values, load_strictly, read_weights, rename


BACKBONE, PREFIX_FILE, PROJECTOR = "audio_backbone", "prefix", "prefixMLP"
STEMS = (BACKBONE, PREFIX_FILE, PROJECTOR)
LLAVA_TYPES = ("llava", "llava_llama", "llava_llava_llama")
VISION_FIELDS = ("hidden_size", "intermediate_size", "num_hidden_layers", "image_size", "patch_size")
TEXT_FIELDS = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers")
OPTIONS = (
    *("modality", "embed_dim", "num_heads", "depth_audio", "depth_joint", "clip", "prefix_length", "audio_tokens"),
    *("image_tokens", "llama", "train_text", "prompt_text", "method", "x_attn", "frames", "mel_bins", "clip_width"),
    *("scorer_heads", "entropy_weight_by_epoch"),
)


def is_dali(checkpoint: str | Path) -> bool:
    """Whether a path is a folder with files of DALI."""
    return any(_file(Path(checkpoint), stem) for stem in STEMS)


def convert(
    checkpoint: str | Path,
    config: str | Path | None,
    output: str | Path,
    llava: str | Path | None = None,
    dtype: torch.dtype | None = None,
) -> str:
    """Write the released files as a folder for `from_pretrained`; the table of what went where.

    Args:
        checkpoint: folder with some of `audio_backbone.pth`, `prefix.bin` and `prefixMLP.bin`; or the file of a
            CAV-MAE, from which the audio tower's alignment begins.
        config: JSON with the released sizes; default: read off the tensors and LLaVA's configuration, with the heads
            that were published.
        output: new folder; it appears when it is complete.
        llava: LLaVA-1.5, a name on the Hub or a folder. Without it the encoders alone are written, with the CLIP of
            the released file, as a [`DaliForAlignment`].
        dtype: of the written weights; default: float32.

    Raises:
        WeightsError: a tensor without a place, a place without a tensor, shapes that differ.
        ValueError: options that are unknown, or files that are missing.
    """
    folder, options = Path(checkpoint), _read_options(config)
    found = {BACKBONE: folder} if folder.is_file() else {stem: _file(folder, stem) for stem in STEMS}
    files = {stem: read_weights(file) for stem, file in found.items() if file is not None}
    if not files:
        expected = ", ".join(f"{stem}.*" for stem in STEMS)
        raise ValueError(
            f"{folder}: holds none of {expected}, expected some of them, or a CAV-MAE's file in its place."
        )
    if BACKBONE not in files and llava is None:
        raise ValueError(f"{folder}: holds no {BACKBONE}.pth, expected it, or --llava to start an alignment from.")
    try:
        backbone = split_backbone(files.get(BACKBONE, {}))
        weights = Weights()
        if llava is None:
            model = _aligned(backbone, options, weights)
            return write_model(model, weights, output, dtype)
        model = _captioner(backbone, files, llava, options, weights)
    except WeightsError as error:
        raise error.of(folder) from error
    return write_model(model, weights, output, dtype, DaliProcessor, str(llava))


# -------------------------------------------------------------------------------------------------------- internals


def _file(folder: Path, stem: str) -> Path | None:
    return next((file for suffix in WEIGHT_SUFFIXES if (file := folder / f"{stem}{suffix}").is_file()), None)


def _read_options(path: str | Path | None) -> dict[str, Any]:
    if path is None:
        return {}
    try:
        options = parse_json(read_bytes(path))
        if not isinstance(options, dict):
            raise ValueError(f"holds {type(options).__name__}, expected an object of options.")
        reject_unknown("an option of DALI", options, OPTIONS)
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: {reason_of(error)}") from error
    return options


def _aligned(backbone: AudioBackbone, options: Mapping[str, Any], weights: Weights) -> DaliForAlignment:
    if not backbone.vision:
        raise WeightsError(f"{BACKBONE} holds no vision_tower, expected CLIP: pass --llava, which has one.")
    fields = _encoder_fields(backbone, backbone.vision, options, {})
    fields["alignment"] = "attentive_transport" if backbone.scorers else "transport"
    with torch.device("meta"):
        model = DaliForAlignment(DaliConfig(**fields))
    _fill_encoders(model, backbone, backbone.vision, BACKBONE, weights)
    if backbone.scorers:
        _fill(model.scorers, backbone.scorers, BACKBONE, "scorers", weights)
    return model.eval()


def _captioner(
    backbone: AudioBackbone,
    files: Mapping[str, Mapping[str, torch.Tensor]],
    llava: str | Path,
    options: Mapping[str, Any],
    weights: Weights,
) -> DaliForConditionalGeneration:
    saved, tensors = read_part(llava, *LLAVA_TYPES)
    parts = split_llava(tensors)
    vision, source = parts["vision_tower"], str(llava)
    if not vision:  # LLaVA's own files do without
        vision, source = backbone.vision, BACKBONE
    fields = _encoder_fields(backbone, vision, options, saved.get("vision_config") or {})
    fields["text_config"] = _text_fields(parts["language_model"], options, saved)
    prefix, own = _prefix_and_projector(files)
    fields |= {"has_prefix": prefix is not None, "text_model_name": Path(llava).name}
    if prefix is not None:
        fields["num_prefix_tokens"] = len(prefix)
    config = DaliConfig(**fields)
    with torch.device("meta"):
        model = DaliForConditionalGeneration(config)
    _fill_encoders(model, backbone, vision, source, weights)
    image = parts["multi_modal_projector"]
    _fill(model.multi_modal_projector, image, str(llava), "multi_modal_projector", weights)
    copied = {name: tensor.clone() for name, tensor in image.items()}
    where = PROJECTOR if own else f"{llava}, a copy of the image projector"
    _fill(model.audio_multi_modal_projector, own or copied, where, "audio_multi_modal_projector", weights)
    _fill(model.language_model, parts["language_model"], str(llava), "language_model", weights)
    model.language_model.tie_weights()
    if prefix is not None:
        model.prefix = nn.Parameter(prefix)
        weights.add({"prefix": prefix}, PREFIX_FILE)
    weights.unused |= dict.fromkeys(backbone.scorers, "attentions of the alignment's training")
    base = build_part("text_config", config.text_config, "llama", {})
    model.generation_config = caption_decoding(base, **model.decoding)
    return model.eval()


def _encoder_fields(
    backbone: AudioBackbone, vision: Mapping[str, torch.Tensor], options: Mapping[str, Any], saved: Mapping[str, Any]
) -> dict[str, Any]:
    """Fields of `DaliConfig` that concern the two encoders."""
    heads = {"num_attention_heads": options["num_heads"]} if "num_heads" in options else {}
    named, _ = cavmae_weights(backbone.encoder)
    audio = cavmae_fields(named, heads | {"mode": "audio"}) if named else {}
    patches = vision.get("embeddings.patch_embedding.weight")
    positions = vision.get("embeddings.position_embedding.weight")
    first = vision.get("encoder.layers.0.mlp.fc1.weight")
    if patches is None or positions is None or first is None:
        raise WeightsError(f"got {len(vision)} tensors of a vision tower, expected those of CLIP.")
    told = {
        "hidden_size": patches.shape[0],
        "patch_size": patches.shape[-1],
        "image_size": round((len(positions) - 1) ** 0.5) * patches.shape[-1],
        "intermediate_size": first.shape[0],
        "num_hidden_layers": _count(vision, "encoder.layers."),
    }
    clip = {**CLIP_VIT_L_14_336, **saved, **(options.get("clip") or {}), **told}
    return {"audio_config": audio, "vision_config": clip}


def _text_fields(
    tensors: Mapping[str, torch.Tensor], options: Mapping[str, Any], saved: Mapping[str, Any]
) -> dict[str, Any]:
    """Fields of the language model: what the tensors tell, and beside that options, configuration, Vicuna's."""
    words, gate = tensors.get("model.embed_tokens.weight"), tensors.get("model.layers.0.mlp.gate_proj.weight")
    if words is None or gate is None:
        raise WeightsError(f"got {len(tensors)} tensors of a language model, expected those of LLaMA.")
    told = {
        "vocab_size": len(words),
        "hidden_size": words.shape[1],
        "intermediate_size": gate.shape[0],
        "num_hidden_layers": _count(tensors, "model.layers."),
        "tie_word_embeddings": "lm_head.weight" not in tensors,
    }
    known = saved.get("text_config") or {name: saved[name] for name in VICUNA_7B if name in saved}
    if "pad_token_id" in saved:
        known = {"pad_token_id": saved["pad_token_id"]} | known
    fields = {**VICUNA_7B, **known, **(options.get("llama") or {}), **told}
    if "num_key_value_heads" not in known | (options.get("llama") or {}):
        fields["num_key_value_heads"] = fields["num_attention_heads"]
    return {"model_type": "llama"} | fields


def _prefix_and_projector(
    files: Mapping[str, Mapping[str, torch.Tensor]],
) -> tuple[torch.Tensor | None, dict[str, torch.Tensor]]:
    """The learned prefix, of either file, and the audio projector, of `prefixMLP.bin`."""
    prefix, projector = None, {}
    for stem in (PROJECTOR, PREFIX_FILE):
        for name, tensor in files.get(stem, {}).items():
            name = name.removeprefix("module.")
            ours = rename(name, PROJECTOR_NAMES)
            if name == PREFIX:
                prefix = tensor.float()
            elif ours == name:
                raise WeightsError(f"{stem}: holds {name}, expected {PREFIX} and model.mm_projector.")
            elif stem == PROJECTOR:
                projector[ours] = tensor
    return prefix, projector


def _fill_encoders(
    model: PreTrainedModel,
    backbone: AudioBackbone,
    vision: Mapping[str, torch.Tensor],
    vision_source: str,
    weights: Weights,
):
    named, unused = cavmae_weights(backbone.encoder)
    config: CavMaeConfig = model.config.audio_config
    built = {name: tensor for name, tensor in named.items() if is_built(name, config)}
    for part, tensors in {"audio_tower": built, "audio_projection": backbone.projection}.items():
        if tensors:
            _fill(getattr(model, part), tensors, BACKBONE, part, weights)
        else:
            fresh = getattr(model, part).to_empty(device="cpu").apply(model._init_weights)
            weights.add(fresh.state_dict(), "nothing: fresh, to be aligned", f"{part}.")
    _fill(model.vision_tower, vision, vision_source, "vision_tower", weights)
    weights.unused |= unused | dict.fromkeys(named.keys() - built.keys(), "CAV-MAE's video half")


def _fill(module: nn.Module, tensors: Mapping[str, torch.Tensor], source: str, part: str, weights: Weights):
    check_values(tensors)
    load_strictly(module, tensors)
    weights.add(tensors, source, f"{part}.")


def _count(tensors: Mapping[str, torch.Tensor], layers: str) -> int:
    return len({name.removeprefix(layers).split(".")[0] for name in tensors if name.startswith(layers)})
