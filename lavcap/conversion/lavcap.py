"""Released LAVCap and CED checkpoints as `from_pretrained` folders.

Released tensor names are known to `lavcap_checkpoint` and, for CED, to `ced_captioning`; released option names to
`lavcap_options`.
"""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import (
    AutoConfig,
    AutoTokenizer,
    CLIPVisionModelWithProjection,
    GenerationConfig,
    PreTrainedConfig,
    PreTrainedTokenizerBase,
)

from ced_captioning import ced_weights, fit_time_positions
from configuration_captioning import language_model_config
from configuration_lavcap import LavcapConfig
from language_model_captioning import load_language_model
from lavcap.conversion.lavcap_checkpoint import (
    AUDIO,
    LOGIT_SCALE,
    TEXT,
    check_lora_layers,
    check_loras,
    is_ced,
    merge_loras,
    sort_checkpoint,
)
from lavcap.conversion.lavcap_options import ReleasedOptions
from lavcap.conversion.parts import Weights, format_parts
from lavcap.files import whole_folder
from modeling_lavcap import KEPT_IN_FLOAT32, LavcapAudioModel, LavcapForConditionalGeneration
from parts_captioning import caption_decoding, find_file, load_part, published_name, read_json
from processing_lavcap import LavcapProcessor
from weights_captioning import (
    WeightsError,
    check_values,
    load_strictly,
    read_weights,
    shorten,
)


VISION = "vision_tower."
PARTS = LavcapForConditionalGeneration.part_names
PAD_TOKEN = "[PAD]"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "vocab.json")


# -------------------------------------------------------------------------------------------------------- conversion


@dataclass(frozen=True)
class Sources:
    """Where the parts come from that a checkpoint lacks: names on the Hub or folders; of CED a file."""

    text_model: str | None = None
    vision_model: str | None = None
    audio_encoder: str | Path | None = None


def convert(
    checkpoint: str | Path,
    options: ReleasedOptions | None,
    output: str | Path,
    sources: Sources = Sources(),
    lora: str = "merge",
    dtype: torch.dtype | None = None,
    tensors: dict[str, torch.Tensor] | None = None,
) -> str:
    """Write a released checkpoint as a folder for `from_pretrained`; the table of what went where.

    Args:
        checkpoint: LAVCap's, that is the CUDA runner's file or the Gaudi Trainer's state dict, as pickle or
            safetensors; or CED's own file, which becomes an audio tower.
        options: the configuration that it was trained with. CED does without: heads of 64 channels and a window of
            1024 frames.
        output: new folder; it appears when it is complete.
        sources: of what the checkpoint lacks.
        lora: `"merge"` folds both LoRAs into the weights, `"adapter"` writes a PEFT adapter beside them.
        dtype: of the written weights. Default: that of the language model's.
        tensors: of the checkpoint, where they have been read.

    Raises:
        WeightsError: a tensor without a place, a place without a tensor, shapes that differ.
        ValueError: options that are unknown or contradict the checkpoint.
    """
    tensors = read_weights(checkpoint) if tensors is None else tensors
    if is_ced(tensors):
        if sources != Sources() or dtype is not None or lora != "merge":
            raise ValueError(
                f"--checkpoint {checkpoint}: CED's own file, which takes --config and --output only; beside a LAVCap "
                "checkpoint it goes to --audio-encoder."
            )
        return _convert_ced(checkpoint, tensors, options, output)
    if options is None:
        raise ValueError("Got no --config, expected the configuration that the checkpoint was trained with.")
    weights = sort_checkpoint(tensors, "checkpoint")
    return _convert_lavcap(checkpoint, weights, options, output, sources, lora, dtype)


def _convert_ced(
    checkpoint: str | Path, tensors: dict[str, torch.Tensor], options: ReleasedOptions | None, output: str | Path
) -> str:
    model = LavcapAudioModel.from_ced(checkpoint, **({} if options is None else options.audio_fields))
    with whole_folder(output) as folder:
        model.save_pretrained(folder)
    _, unused = ced_weights(tensors)
    weights = Weights(unused=unused)
    weights.add(model.state_dict(), Path(checkpoint).name, AUDIO)
    return format_parts(weights, PARTS, model.dtype, output)


def _convert_lavcap(
    checkpoint: str | Path,
    weights: Weights,
    options: ReleasedOptions,
    output: str | Path,
    sources: Sources,
    lora: str,
    dtype: torch.dtype | None,
) -> str:
    check_loras(weights, options)
    if options.defaults_taken:
        taken = ", ".join(f"{name} {value}" for name, value in options.defaults_taken.items())
        weights.notes.append(f"configuration does not say, so the released defaults hold: {taken}")
    tokenizer = load_tokenizer(sources.text_model)
    config = _configure(weights, options, sources, tokenizer)
    with torch.device("meta"):
        model = LavcapForConditionalGeneration(config)
    _complete(weights, model, options, sources)
    check_lora_layers(weights)
    dtype = dtype or _language_model_dtype(weights)
    if lora == "merge":
        merge_loras(weights, options)
    _finish(weights, dtype)
    _fill(model, weights, checkpoint)
    model.generation_config = _generation_config(config, options)
    with whole_folder(output) as folder:
        model.save_pretrained(folder)
        if lora == "adapter":
            _write_adapter(weights, options, folder, output)
        _write_processor(weights, config, options, tokenizer, folder)
    return format_parts(weights, PARTS, dtype, output, _lora_lines(weights, lora, options))


# ------------------------------------------------------------------------------------------------ the configuration


def load_tokenizer(text_model: str | None) -> PreTrainedTokenizerBase | None:
    """Tokenizer with `[PAD]`, which the released code adds; none for a folder that has none."""
    if text_model is None:
        return None
    folder = Path(text_model)
    if folder.is_dir() and not any((folder / name).is_file() for name in TOKENIZER_FILES):
        return None
    tokenizer = AutoTokenizer.from_pretrained(text_model, trust_remote_code=False)
    tokenizer.add_special_tokens({"pad_token": PAD_TOKEN})
    return tokenizer


def _configure(
    weights: Weights, options: ReleasedOptions, sources: Sources, tokenizer: PreTrainedTokenizerBase | None
) -> LavcapConfig:
    text_config, vision_config = _text_config(options, sources.text_model), None
    if sources.vision_model is not None:
        vision_config = _vision_config(sources.vision_model)
    text_config._name_or_path = ""  # a folder of this machine means nothing elsewhere
    base_vocab_size = text_config.vocab_size
    _fix_vocabulary(text_config, weights, options, tokenizer)
    return options.to_config(
        text_config=text_config,
        vision_config=vision_config,
        has_vision_tower=vision_config is not None,
        text_model_name=published_name(sources.text_model) if sources.text_model else options.base_name,
        vision_model_name=sources.vision_model and published_name(sources.vision_model),
        text_model_vocab_size=base_vocab_size,
        pad_token_id=_pad_token_id(text_config, tokenizer, base_vocab_size),
    )


def _text_config(options: ReleasedOptions, text_model: str | None) -> PreTrainedConfig:
    if text_model is not None:
        config = language_model_config(AutoConfig.from_pretrained(text_model, trust_remote_code=False))
        if not hasattr(config, "vocab_size"):
            raise ValueError(f"--text-model {text_model}: a {config.model_type} model, expected a language model.")
        return config
    if options.llama is None:
        raise ValueError(
            "Got neither --text-model nor `llama` in the configuration: name the language model, or a folder with its "
            "config.json."
        )
    return AutoConfig.for_model(**({"model_type": "llama"} | options.llama))


def _vision_config(vision_model: str) -> PreTrainedConfig:
    kind = read_json(find_file(vision_model, "config.json", {})).get("model_type")
    if kind not in (None, "clip", "clip_vision_model"):
        raise ValueError(f"--vision-model {vision_model}: a {kind} model, expected CLIP.")
    return CLIPVisionModelWithProjection.config_class.from_pretrained(vision_model)


def _fix_vocabulary(
    text_config: PreTrainedConfig,
    weights: Weights,
    options: ReleasedOptions,
    tokenizer: PreTrainedTokenizerBase | None,
):
    """Set the vocabulary of the trained model: that of the base and `[PAD]`, unless the checkpoint tells."""
    embedding = weights.tensors.get(f"{TEXT}model.embed_tokens.weight")
    if embedding is not None:
        text_config.vocab_size = embedding.shape[0]
    elif options.llama is not None and "vocab_size" in options.llama:
        text_config.vocab_size = options.llama["vocab_size"]
    elif tokenizer is not None:
        text_config.vocab_size = max(text_config.vocab_size, len(tokenizer))
    if tokenizer is not None and len(tokenizer) > text_config.vocab_size:
        raise WeightsError(
            f"--text-model: its tokenizer has {len(tokenizer)} tokens with {PAD_TOKEN}, expected at most the "
            f"{text_config.vocab_size} of the checkpoint's language model: name the one that it was trained with."
        )


def _pad_token_id(text_config, tokenizer: PreTrainedTokenizerBase | None, base_vocab_size: int) -> int | None:
    if tokenizer is not None:
        return tokenizer.pad_token_id
    if text_config.pad_token_id is None and text_config.vocab_size > base_vocab_size:
        return base_vocab_size
    return text_config.pad_token_id


# ----------------------------------------------------------------------------------------------------- missing parts


def _complete(weights: Weights, model: LavcapForConditionalGeneration, options: ReleasedOptions, sources: Sources):
    """Fill what the checkpoint lacks from where the user says it is."""
    if sources.audio_encoder is not None:
        tensors, unused = ced_weights(read_weights(sources.audio_encoder))
        weights.add(tensors, Path(sources.audio_encoder).name, AUDIO)
        weights.unused |= unused
    if sources.vision_model is not None:
        tower = load_part(CLIPVisionModelWithProjection, sources.vision_model, "auto")
        weights.add(tower.state_dict(), published_name(sources.vision_model), VISION)
    for name, twin in model.all_tied_weights_keys.items():
        if twin in weights.tensors:
            weights.add({name: weights.tensors[twin]}, f"tied to {twin}")
    missing = [name for name in model.state_dict() if name.startswith(TEXT) and name not in weights.tensors]
    if missing and sources.text_model is not None:
        _add_base(weights, model.config, options, sources.text_model, missing)
    if not model.config.optimal_transport and LOGIT_SCALE in weights.tensors:
        del weights.tensors[LOGIT_SCALE], weights.sources[LOGIT_SCALE]
        weights.unused["logit_scale"] = "scale of an alignment loss that is off"
    elif model.config.optimal_transport and options["ot_loss_weight"] == 0:  # a checkpoint may do without the scale
        weights.add({LOGIT_SCALE: torch.full((1,), model.config.logit_scale_init)}, "initial value")
    _fit_window(weights, model.config)


def _add_base(weights: Weights, config: LavcapConfig, options: ReleasedOptions, text_model: str, missing: list[str]):
    """Fill the rest of the language model from the base, grown to the vocabulary of the checkpoint."""
    base, name = _load_base(text_model, missing), published_name(text_model)
    rows, vocab_size = base.get_input_embeddings().weight.shape[0], config.text_config.vocab_size
    if rows != vocab_size:
        _grow(base, rows, vocab_size)
        weights.notes.append(
            f"language_model: rows {rows} to {vocab_size - 1} ({PAD_TOKEN}) are not in the checkpoint, which draws "
            "them anew in every run: mean of the others"
        )
    if options.base_name and Path(name).name.lower() != options.base_name.lower():
        weights.notes.append(
            f"language_model: expected {options.base_name}, which the configuration names, got {name}; captions are "
            "right only if the weights are the same"
        )
    weights.add(base.state_dict(), name, TEXT)


def _load_base(text_model: str, missing: list[str]):
    try:
        return load_language_model(text_model, "auto")
    except OSError as error:
        raise WeightsError(
            f"The checkpoint lacks {len(missing)} tensors of the language model ({shorten(missing)}), and "
            f"--text-model {text_model} has no weights: name the language model that it was trained with."
        ) from error


@torch.no_grad()
def _grow(base, rows: int, vocab_size: int):
    if vocab_size < rows:
        raise WeightsError(f"--text-model: expected a vocabulary of at most {vocab_size}, got {rows}.")
    base.resize_token_embeddings(vocab_size, mean_resizing=False)
    for layer in (base.get_input_embeddings(), base.get_output_embeddings()):
        layer.weight[rows:] = layer.weight[:rows].mean(dim=0)


def _fit_window(weights: Weights, config: LavcapConfig):
    name, length = f"{AUDIO}time_pos_embed", config.audio_config.num_time_patches
    table = weights.tensors.get(name)
    if table is not None and table.ndim == 4 and table.shape[-1] != length:
        weights.tensors[name] = fit_time_positions(table, length)
        how = "cut" if table.shape[-1] > length else "interpolated"
        weights.notes.append(f"audio_tower: time positions {how} from {table.shape[-1]} to {length}")


# ----------------------------------------------------------------------------------------------------------- writing


def _language_model_dtype(weights: Weights) -> torch.dtype:
    kinds = Counter(tensor.dtype for name, tensor in weights.tensors.items() if name.startswith(TEXT))
    return kinds.most_common(1)[0][0] if kinds else torch.float32


def _finish(weights: Weights, dtype: torch.dtype):
    """Bring every tensor to its dtype, and refuse those that no model can work with."""
    for name, tensor in weights.tensors.items():
        if tensor.is_floating_point():
            weights.tensors[name] = tensor.to(dtype if KEPT_IN_FLOAT32.isdisjoint(name.split(".")) else torch.float32)
    check_values({weights.origins.get(name, name): tensor for name, tensor in weights.tensors.items()})


def _fill(model: LavcapForConditionalGeneration, weights: Weights, checkpoint: str | Path):
    try:
        load_strictly(model, weights.tensors, weights.origins)
    except WeightsError as error:
        missing = [name for name in model.state_dict() if name not in weights.tensors]
        options = {AUDIO: "--audio-encoder", TEXT: "--text-model", VISION: "--vision-model"}
        hints = [
            f"What the checkpoint lacks of the {part[:-1]} comes from {option}."
            for part, option in options.items()
            if any(name.startswith(part) for name in missing)
        ]
        hints += [f"The {note}." for note in weights.notes if note.startswith("configuration")]
        raise error.of(checkpoint, *hints) from error
    model.tie_weights()


def _generation_config(config: LavcapConfig, options: ReleasedOptions) -> GenerationConfig:
    decoding = caption_decoding(config, **LavcapForConditionalGeneration.decoding)
    decoding.update(**options.decoding)
    return decoding


def _write_processor(
    weights: Weights,
    config: LavcapConfig,
    options: ReleasedOptions,
    tokenizer: PreTrainedTokenizerBase | None,
    folder: Path,
):
    if tokenizer is not None:
        LavcapProcessor.from_config(config, tokenizer, **options.prompt).save_pretrained(folder)
        return
    weights.notes.append(
        "no processor: --text-model has no tokenizer; LavcapProcessor.from_config(model.config, tokenizer) makes one"
    )


def _write_adapter(weights: Weights, options: ReleasedOptions, folder: Path, output: str | Path):
    from peft import LoraConfig

    if not weights.loras:
        weights.notes.append("no adapter: the checkpoint holds no LoRA")
        return
    present = {layer.partition(".")[0] for layer in weights.loras}
    loras = {part: lora for part, lora in options.loras.items() if part in present}
    main = list(loras.values())[-1]  # the language model's where it has one
    config = LoraConfig(
        r=main.rank,
        lora_alpha=main.alpha,
        lora_dropout=main.dropout,
        target_modules=sorted(weights.loras),
        rank_pattern={rf"{part}\..+": lora.rank for part, lora in loras.items()},
        alpha_pattern={rf"{part}\..+": lora.alpha for part, lora in loras.items()},
        base_model_name_or_path=str(output),
        inference_mode=True,
    )
    config.save_pretrained(folder)
    tensors = {
        f"base_model.model.{layer}.lora_{side}.weight": lora[side].contiguous()
        for layer, lora in weights.loras.items()
        for side in "AB"
    }
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})


def _lora_lines(weights: Weights, lora: str, options: ReleasedOptions) -> dict[str, str]:
    """What became of the LoRA of each part that has one."""
    lines = {}
    for part in PARTS:
        layers = [name for name in weights.loras if name.startswith(f"{part}.")]
        if layers:
            how = "folded in" if lora == "merge" else "in the adapter"
            lines[part] = f"; LoRA of {len(layers)} layers {how}, scale {options.loras[part].scale:g}"
    return lines
