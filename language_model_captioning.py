# Copyright 2026 The LAVCap for Transformers authors. Licensed under the Apache License, Version 2.0.
"""The language model below a captioner: which kinds may stand there, and what they take beside embeddings."""

import copy
import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import torch
import transformers
from torch import nn
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_MASKED_LM_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    PreTrainedConfig,
    PreTrainedModel,
)


try:  # inside a package: the Hub's module cache
    from .configuration_captioning import language_model_config
    from .parts_captioning import load_part
except ImportError:  # as a plain module: a clone, or after `pip install`
    from configuration_captioning import language_model_config
    from parts_captioning import load_part


HALVES = ("bert-generation", "trocr")  # which neither mapping tells from a language model
# Names of tensors in a checkpoint of several parts, as it is saved and as older ones were, for the one that writes.
ALONE = {
    r"^(model\.)?language_model\.lm_head\.": "lm_head.",
    r"^model\.(language_model|text_model)\.": "model.",
    r"^language_model\.model\.(blocks|encoder\.layers)\.": "model.layers.",  # Kimi K2.5, Qianfan-OCR
    r"^language_model\.(model\.)?": "model.",
}
REPACKED = ("minimax_m3_vl",)  # whose weights the library unpacks within the whole alone


def load_language_model(
    part: str | Path | PreTrainedModel, dtype: torch.dtype | str, **options: Any
) -> PreTrainedModel:
    """A pretrained causal language model; of a model of several parts, such as Gemma 3 with its picture encoder, the
    part that writes. Options are those of `from_pretrained`.

    Raises:
        WeightsError: some weights are missing.
        ValueError: it cannot stand below a captioner.
    """
    config = part.config if isinstance(part, nn.Module) else AutoConfig.from_pretrained(part, trust_remote_code=False)
    if config.model_type in REPACKED and not isinstance(part, nn.Module):
        _refuse(config, "whose weights are packed in a way that its language model alone does not read")
    alone = language_model_config(config)
    check_kind(alone)
    if alone is not config and isinstance(part, nn.Module):
        raise ValueError(
            f"Got a {type(part).__name__}, which is of several parts, expected a causal language model: pass its "
            "folder or name, and the part that writes is taken."
        )
    if alone is not config:
        options |= {"config": alone, "key_mapping": ALONE}
    return load_part(AutoModelForCausalLM, part, dtype, **options)


def build_language_model(config: PreTrainedConfig) -> PreTrainedModel:
    """A fresh causal language model.

    Raises:
        ValueError: it cannot stand below a captioner.
    """
    check_kind(config)
    model = AutoModelForCausalLM.from_config(config)
    takes, name = inspect.signature(model.forward).parameters, type(model).__name__
    if "inputs_embeds" not in takes:
        _refuse(config, f"whose {name} takes words alone, no embeddings")
    if "past_key_values" not in takes or not model._supports_default_dynamic_cache():
        _refuse(config, f"whose {name} keeps what it has read in a way of its own, which generation does not hand on")
    return model


def check_kind(config: PreTrainedConfig):
    """Refuse what cannot stand below a captioner, or would say other things there without a word.

    Raises:
        ValueError: with the model type and the reason.
    """
    kind = type(config)
    if kind in MODEL_FOR_MASKED_LM_MAPPING or config.is_encoder_decoder or config.model_type in HALVES:
        _refuse(config, "which fills gaps, or stands behind an encoder")
    if kind not in MODEL_FOR_CAUSAL_LM_MAPPING:
        _refuse(config, f"which Transformers {transformers.__version__} has no causal language model for")
    if "hash_moe" in (getattr(config, "mlp_layer_types", None) or ()):
        _refuse(config, "whose experts are chosen by the ids of words, where the tokens of a clip have none")


def takes_logits_to_keep(kind: type[PreTrainedModel]) -> bool:
    """Whether models of a kind can leave out logits that nobody asks for."""
    return "logits_to_keep" in inspect.signature(kind.forward).parameters


def looks_up_words(config: PreTrainedConfig) -> bool:
    """Whether layers look up the words themselves, beside the embeddings of the input, as those of Gemma 3n do."""
    return bool(getattr(config, "hidden_size_per_layer_input", None))


def look_up_words(model: PreTrainedModel, words: torch.Tensor) -> torch.Tensor:
    """What the layers of such a model look up of ids `(batch, sequence)`: `(batch, sequence, layers, hidden)`."""
    look_up = model.get_decoder().get_per_layer_inputs
    others = [None] * (len(inspect.signature(look_up).parameters) - 1)  # embeddings, of which Gemma 4 can tell words
    return look_up(words, *others)


def quantized_language_model(quantization_config: Any, config: PreTrainedConfig, parts: Sequence[str]) -> Any:
    """A quantisation that spares everything but the layers of the language model, unless it names what it spares.

    Encoders, what joins them, and the head cost little memory and much accuracy.

    Args:
        parts: names of the model's parts beside the language model.
    """
    fields = ("llm_int8_skip_modules", "modules_to_not_convert")
    if isinstance(quantization_config, dict):
        kinds = {"load_in_4bit", "load_in_8bit", "bnb_4bit_quant_type"} & quantization_config.keys()
        spared = fields[0] if kinds else fields[1]
        if quantization_config.get(spared) is None:
            quantization_config = quantization_config | {spared: _beside_the_layers(config, parts)}
        return quantization_config
    for field in fields:
        if getattr(quantization_config, field, ()) is None:
            quantization_config = copy.deepcopy(quantization_config)
            setattr(quantization_config, field, _beside_the_layers(config, parts))
    return quantization_config


# -------------------------------------------------------------------------------------------------------- internals


def _beside_the_layers(config: PreTrainedConfig, parts: Sequence[str]) -> list[str]:
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config.text_config)
    heads = [name for name, module in model.named_modules() if module is model.get_output_embeddings()]
    return [*parts, *(f"language_model.{name}" for name in heads)]


def _refuse(config: PreTrainedConfig, reason: str) -> NoReturn:
    raise ValueError(
        f"text_config has model_type {config.model_type!r}, {reason}, expected a causal language model, such as llama."
    )
