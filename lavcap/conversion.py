"""Released LAVCap and CED checkpoints as `from_pretrained` folders.

The released code's tensor names are known here and, for CED, in `weights_lavcap`; its option names in
`lavcap.released_options`. Source of the layouts: Hyeongkeun/LAVCap (`models/lavcaps.py`, `runner.py`) and
NAVER-INTEL-Co-Lab/gaudi-lavcap (`models/lmmcaps_final.py`, `train.py`).
"""

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import save_file
from tqdm.auto import tqdm
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    CLIPVisionModelWithProjection,
    GenerationConfig,
    PreTrainedConfig,
    PreTrainedTokenizerBase,
)

from configuration_lavcap import LavcapConfig
from lavcap.cli import whole_folder
from lavcap.released_options import ReleasedOptions
from modeling_lavcap import LavcapAudioModel, LavcapForConditionalGeneration
from parts_lavcap import keeps_float32, published_name
from processing_lavcap import LavcapProcessor
from weights_lavcap import (
    WeightsError,
    ced_name,
    ced_weights,
    fit_time_positions,
    load_strictly,
    read_weights,
    shorten,
)


PARTS = (
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
AUDIO, TEXT, VISION = "audio_tower.", "language_model.", "vision_tower."
PAD_TOKEN = "[PAD]"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "vocab.json")


@dataclass
class Weights:
    """Tensors by our names, each with where it comes from.

    Args:
        tensors: without `loras`, which are `(A, B)` of shapes `(rank, in)` and `(out, rank)` by layer.
        sources: by tensor, the name of a file or model.
        origins: by tensor of the checkpoint, its name there.
        unused: by name in its file, why a tensor is not needed.
        notes: what a reader of the table should know.
    """

    tensors: dict[str, torch.Tensor] = field(default_factory=dict)
    sources: dict[str, str] = field(default_factory=dict)
    origins: dict[str, str] = field(default_factory=dict)
    loras: dict[str, dict[str, torch.Tensor]] = field(default_factory=dict)
    unused: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def add(self, tensors: Mapping[str, torch.Tensor], source: str):
        """Fill what is not filled yet."""
        new = {name: tensor for name, tensor in tensors.items() if name not in self.tensors}
        self.tensors |= new
        self.sources |= dict.fromkeys(new, source)

    def has(self, prefix: str) -> bool:
        return any(name.startswith(prefix) for name in (*self.tensors, *self.loras))


# -------------------------------------------------------------------------------------------------------- conversion


def convert_ced(checkpoint: str | Path, output: str | Path, **fields) -> str:
    """Write CED's own file as a folder for `LavcapAudioModel.from_pretrained`; the table of what went where.

    Args:
        fields: of `LavcapAudioConfig`, see [`LavcapAudioModel.from_ced`].
    """
    model = LavcapAudioModel.from_ced(checkpoint, **fields)
    with whole_folder(output) as folder:
        model.save_pretrained(folder)
    _, unused = ced_weights(read_weights(checkpoint))
    weights = Weights(unused=unused)
    weights.add({AUDIO + name: tensor for name, tensor in model.state_dict().items()}, Path(checkpoint).name)
    return format_table(weights, model.dtype, output)


def convert_lavcap(
    checkpoint: str | Path,
    options: ReleasedOptions,
    output: str | Path,
    text_model: str | None = None,
    vision_model: str | None = None,
    audio_encoder: str | Path | None = None,
    lora: str = "merge",
    dtype: torch.dtype | None = None,
) -> str:
    """Write a released LAVCap checkpoint as a folder for `from_pretrained`; the table of what went where.

    Args:
        checkpoint: the CUDA runner's file or the Gaudi Trainer's state dict, as pickle or safetensors.
        options: the configuration that it was trained with.
        output: new folder; it appears when it is complete.
        text_model, vision_model: name or folder of what the checkpoint lacks: language model, CLIP.
        audio_encoder: CED's file, for what the checkpoint lacks.
        lora: `"merge"` folds both LoRAs into the weights, `"adapter"` writes a PEFT adapter beside them.
        dtype: of the written weights. Default: that of the language model's.

    Raises:
        WeightsError: a tensor without a place, a place without a tensor, shapes that differ.
        ValueError: options that are unknown or contradict the checkpoint.
    """
    weights = sort_checkpoint(read_weights(checkpoint), "checkpoint")
    check_loras(weights, options)
    tokenizer = load_tokenizer(text_model)
    text_config = _text_config(options, text_model)
    base_vocab_size = text_config.vocab_size
    _fix_vocabulary(text_config, weights, options, tokenizer)
    vision_config = _add_vision(weights, vision_model)
    _add_audio(weights, audio_encoder)
    config = options.to_config(
        text_config=text_config,
        vision_config=vision_config,
        has_vision_tower=vision_model is not None,
        text_model_name=published_name(text_model) if text_model else options.base_name,
        text_model_vocab_size=base_vocab_size,
        pad_token_id=_pad_token_id(text_config, tokenizer, base_vocab_size),
    )
    with torch.device("meta"):
        model = LavcapForConditionalGeneration(config)
    _add_text(weights, model, text_model)
    _add_initial(weights, model, options)
    _fit_window(weights, config)
    dtype = dtype or _language_model_dtype(weights)
    if lora == "merge":
        _merge_loras(weights, options)
    _finish(weights, dtype)
    _fill(model, weights, checkpoint)
    model.generation_config = _generation_config(model, options)
    with whole_folder(output) as folder:
        model.save_pretrained(folder)
        if lora == "adapter" and weights.loras:
            _write_adapter(weights, options, folder, output)
        if tokenizer is None:
            weights.notes.append(
                "no processor: --text-model has no tokenizer; LavcapProcessor.from_config(model.config, tokenizer) "
                "makes one"
            )
        else:
            _processor(config, tokenizer, options).save_pretrained(folder)
    return format_table(weights, dtype, output, lora, options)


# ---------------------------------------------------------------------------------------------------- the checkpoint


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
            weights.loras.setdefault(lora.group(1), {})[lora.group(2)] = tensor
        else:
            _place(weights, key, name, tensor)
    halves = [layer for layer, lora in weights.loras.items() if len(lora) < 2]
    if halves:
        raise WeightsError(
            f"{shorten(halves)}: half a LoRA, expected lora_A and lora_B; the checkpoint is incomplete."
        )
    weights.sources = dict.fromkeys(weights.tensors, source)
    return weights


def _our_name(key: str) -> str:
    for pattern, ours in PARTS:
        name = pattern.sub(ours, key)
        if name == key:
            continue
        name = name.replace(".base_layer.", ".")
        return AUDIO + ced_name(name.removeprefix(AUDIO)) if name.startswith(AUDIO) else name
    return key


def _place(weights: Weights, key: str, name: str, tensor: torch.Tensor):
    placed = {name: tensor.reshape(1) if name == "fusion.logit_scale" else tensor}
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
        WeightsError: present but off, on but absent, or of another rank.
    """
    for part, expected in options.loras.items():
        ranks = {lora["A"].shape[0] for layer, lora in weights.loras.items() if layer.startswith(f"{part}.")}
        if expected.on is not None and expected.on != bool(ranks):
            raise WeightsError(
                f"The configuration says LoRA of the {part} {'on' if expected.on else 'off'}, but the checkpoint "
                f"holds {'none' if expected.on else 'one'}: pass the configuration that it was trained with."
            )
        if ranks and ranks != {expected.rank}:
            got = ", ".join(map(str, sorted(ranks)))
            raise WeightsError(f"LoRA of the {part}: expected rank {expected.rank} as configured, got {got}.")


# ----------------------------------------------------------------------------------------------------- missing parts


def load_tokenizer(text_model: str | None) -> PreTrainedTokenizerBase | None:
    """Tokenizer with `[PAD]`, which the released code adds; none for a folder that has none."""
    if text_model is None:
        return None
    folder = Path(text_model)
    if folder.is_dir() and not any((folder / name).is_file() for name in TOKENIZER_FILES):
        return None
    tokenizer = AutoTokenizer.from_pretrained(text_model)
    tokenizer.add_special_tokens({"pad_token": PAD_TOKEN})
    return tokenizer


def _text_config(options: ReleasedOptions, text_model: str | None) -> PreTrainedConfig:
    if text_model is not None:
        return AutoConfig.from_pretrained(text_model)
    if options.llama is None:
        raise ValueError(
            "Got neither --text-model nor `llama` in the configuration: name the language model, or a folder with its "
            "config.json."
        )
    return AutoConfig.for_model(**({"model_type": "llama"} | options.llama))


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


def _add_vision(weights: Weights, vision_model: str | None) -> PreTrainedConfig | None:
    if vision_model is None:
        return None
    tower = CLIPVisionModelWithProjection.from_pretrained(vision_model, dtype="auto")
    weights.add({VISION + name: tensor for name, tensor in tower.state_dict().items()}, published_name(vision_model))
    return tower.config


def _add_audio(weights: Weights, audio_encoder: str | Path | None):
    if audio_encoder is None:
        return
    tensors, unused = ced_weights(read_weights(audio_encoder))
    weights.add({AUDIO + name: tensor for name, tensor in tensors.items()}, Path(audio_encoder).name)
    weights.unused |= unused


def _add_text(weights: Weights, model: LavcapForConditionalGeneration, text_model: str | None):
    """Fill the rest of the language model from the base, grown to the vocabulary of the checkpoint."""
    missing = [name for name in model.state_dict() if name.startswith(TEXT) and name not in weights.tensors]
    if not missing or text_model is None:
        return
    base = _load_base(text_model, missing)
    rows, vocab_size = base.get_input_embeddings().weight.shape[0], model.config.text_config.vocab_size
    if rows != vocab_size:
        _grow(base, rows, vocab_size)
        weights.notes.append(
            f"language_model: rows {rows} to {vocab_size - 1} ({PAD_TOKEN}) are not in the checkpoint, which draws "
            "them anew in every run: mean of the others"
        )
    weights.add({TEXT + name: tensor for name, tensor in base.state_dict().items()}, published_name(text_model))


def _load_base(text_model: str, missing: list[str]):
    try:
        return AutoModelForCausalLM.from_pretrained(text_model, dtype="auto")
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


def _add_initial(weights: Weights, model: LavcapForConditionalGeneration, options: ReleasedOptions):
    """What the released model lacks though ours has it: the scale of an alignment loss that does not count."""
    if options.alignment_counts or "fusion.logit_scale" in weights.tensors:
        return
    weights.add({"fusion.logit_scale": torch.full((1,), model.config.logit_scale_init)}, "initial value")


def _fit_window(weights: Weights, config: LavcapConfig):
    name, length = f"{AUDIO}time_pos_embed", config.audio_config.num_time_patches
    table = weights.tensors.get(name)
    if table is not None and table.ndim == 4 and table.shape[-1] != length:
        weights.tensors[name] = fit_time_positions(table, length)
        how = "cut" if table.shape[-1] > length else "interpolated"
        weights.notes.append(f"audio_tower: time positions {how} from {table.shape[-1]} to {length}")


# -------------------------------------------------------------------------------------------------- LoRA and writing


@torch.no_grad()
def _merge_loras(weights: Weights, options: ReleasedOptions):
    """Fold `scale * B A` into each layer's weight, in float32."""
    for layer, lora in tqdm(weights.loras.items(), desc="Folding LoRA", unit="layer", disable=not weights.loras):
        name = f"{layer}.weight"
        if name not in weights.tensors:
            option = "--audio-encoder" if layer.startswith(AUDIO) else "--text-model"
            raise WeightsError(f"Got a LoRA of {layer}, but nothing fills {name}: pass {option}.")
        weight = weights.tensors[name].float()
        expected, got = tuple(weight.shape), (lora["B"].shape[0], lora["A"].shape[1])
        if expected != got:
            raise WeightsError(f"LoRA of {layer}: expected {got} as it was trained on, got {expected} of the base.")
        scale = options.loras[layer.partition(".")[0]].scale
        weights.tensors[name] = weight + scale * (lora["B"].float() @ lora["A"].float())


def _language_model_dtype(weights: Weights) -> torch.dtype:
    kinds = Counter(
        tensor.dtype for name, tensor in weights.tensors.items() if name.startswith(TEXT) and name not in weights.loras
    )
    return kinds.most_common(1)[0][0] if kinds else torch.float32


def _finish(weights: Weights, dtype: torch.dtype):
    """Bring every tensor to its dtype, and refuse those that no model can work with."""
    broken = []
    for name, tensor in weights.tensors.items():
        if not tensor.is_floating_point():
            continue
        if not tensor.isfinite().all():
            broken.append(weights.origins.get(name, name))
        weights.tensors[name] = tensor.to(torch.float32 if keeps_float32(name) else dtype)
    if broken:
        raise WeightsError(f"{shorten(broken)}: NaN or infinite values, expected finite ones; the training diverged.")


def _fill(model: LavcapForConditionalGeneration, weights: Weights, checkpoint: str | Path):
    try:
        load_strictly(model, weights.tensors, weights.origins)
    except WeightsError as error:
        missing = [name for name in model.state_dict() if name not in weights.tensors]
        options = {AUDIO: "--audio-encoder", TEXT: "--text-model", VISION: "--vision-model"}
        hints = [
            f"\nWhat the checkpoint lacks of the {part[:-1]} comes from {option}."
            for part, option in options.items()
            if any(name.startswith(part) for name in missing)
        ]
        raise WeightsError(f"{checkpoint}: {error}{''.join(hints)}") from error
    model.tie_weights()


def _generation_config(model: LavcapForConditionalGeneration, options: ReleasedOptions) -> GenerationConfig:
    config = model.config
    pad = config.eos_token_id if config.pad_token_id is None else config.pad_token_id
    ids = {"bos_token_id": config.bos_token_id, "eos_token_id": config.eos_token_id, "pad_token_id": pad}
    return GenerationConfig(**ids, **options.decoding)


def _processor(config: LavcapConfig, tokenizer: PreTrainedTokenizerBase, options: ReleasedOptions) -> LavcapProcessor:
    return LavcapProcessor.from_config(config, tokenizer, **options.prompt)


def _write_adapter(weights: Weights, options: ReleasedOptions, folder: Path, output: str | Path):
    from peft import LoraConfig

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


# ------------------------------------------------------------------------------------------------------------- table


def format_table(
    weights: Weights,
    dtype: torch.dtype,
    output: str | Path,
    lora: str = "merge",
    options: ReleasedOptions | None = None,
) -> str:
    """What went where: for each part the number of tensors and their sources."""
    rows = [("part", "tensors", "from")]
    for part in ("audio_tower", "vision_tower", "fusion", "multi_modal_projector", "language_model"):
        sources = Counter(source for name, source in weights.sources.items() if name.startswith(f"{part}."))
        text = ", ".join(f"{source} ({count})" for source, count in sources.items()) or "-"
        layers = [name for name in weights.loras if name.startswith(f"{part}.")]
        if layers:
            how = "folded in" if lora == "merge" else "in the adapter"
            text += f"; LoRA of {len(layers)} layers {how}, scale {options.loras[part].scale:g}"
        rows.append((part, str(sum(sources.values())), text))
    for reason in dict.fromkeys(weights.unused.values()):
        names = [name for name, why in weights.unused.items() if why == reason]
        rows.append(("not used", str(len(names)), f"{reason}: {shorten(names)}"))
    widths = [max(len(row[column]) for row in rows) for column in range(2)]
    lines = [f"{part:<{widths[0]}}  {count:>{widths[1]}}  {text}" for part, count, text in rows]
    return "\n".join([*lines, *weights.notes, f"{str(dtype).removeprefix('torch.')}, written to {output}"])
