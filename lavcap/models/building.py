"""The model that a run trains: fresh, assembled of pretrained parts, or trained before."""

import dataclasses
import inspect
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from peft import PeftModel
from torch import nn
from transformers import AutoTokenizer, BitsAndBytesConfig, PreTrainedConfig
from transformers.utils import is_bitsandbytes_available, logging

from adapters_captioning import ADAPTER_SETTINGS, ASSEMBLY_OPTIONS, BASE_PARTS
from configuration_captioning import CaptioningConfig
from lavcap.arguments import parse_object, reject_unknown
from lavcap.models.families import (
    DEFAULT_FAMILY,
    check_name,
    config_class,
    is_captioner,
    load_processor,
    model_class,
    processor_class,
    type_of,
)
from lavcap.models.kernel_advice import KERNEL_ADVICE
from lavcap.models.lora import add_lora, freeze, load_lora, train_in_float32
from lavcap.models.saved_weights import check_finite_model, check_saved_model, put_parts
from modeling_captioning import CaptioningModel
from parts_captioning import WITHOUT_BEAMS, as_dtype, find_file, read_json
from processing_captioning import CaptioningProcessor


logger = logging.get_logger(__name__)


@dataclass
class ModelArguments:
    model_name_or_path: str | None = field(
        default=None,
        metadata={"help": "Trained model to start from, whole or an adapter: a folder or a name on the Hub."},
    )
    model_class: str | None = field(
        default=None,
        metadata={"help": "Another model of the family than its captioner, such as DaliForAlignment."},
    )
    config_overrides: dict | str | None = field(
        default=None,
        metadata={"help": "Fields of the trained model's configuration to change, such as use_prefix: an object."},
    )
    parts_from: str | None = field(
        default=None,
        metadata={"help": "Folder whose parts replace those of the trained model, such as an aligned audio tower."},
    )
    text_model: str | None = field(
        default=None,
        metadata={"help": "Language model to start from, with its tokenizer: a folder or a name on the Hub."},
    )
    audio_model: str | None = field(
        default=None, metadata={"help": "CED to start from, beside text_model: a file, a folder or a name on the Hub."}
    )
    vision_model: str | None = field(
        default=None,
        metadata={"help": "CLIP to start from, beside text_model. Default: none, for stored visual features."},
    )
    audio_visual_model: str | None = field(
        default=None,
        metadata={"help": "CAV-MAE to start from, beside text_model: a file, a folder or a name on the Hub."},
    )
    model_dtype: str | None = field(
        default=None,
        metadata={"help": "dtype of pretrained weights: float32 or bfloat16. Default: that of the language model's."},
    )
    load_in_4bit: bool = field(
        default=False,
        metadata={"help": "QLoRA: the language model's layers in 4 bits (NF4), by bitsandbytes; needs lora."},
    )
    model_config: dict | str | None = field(
        default=None,
        metadata={
            "help": "Fields of the configuration, for a fresh model or beside text_model: an object, or JSON text. "
            "model_type names the family; default: lavcap."
        },
    )
    tokenizer_name: str | None = field(
        default=None,
        metadata={"help": "Tokenizer, a folder or a name on the Hub. Default beside text_model: its own."},
    )
    lora: dict | str | None = field(
        default=None,
        metadata={"help": "Train LoRA alone: fields of peft.LoraConfig; modules_to_save are trained whole."},
    )
    freeze: list[str] | None = field(
        default=None,
        metadata={"help": "Parts that are not trained, where there is no lora: vision_tower, language_model, …"},
    )
    num_beams: int | None = field(
        default=None,
        metadata={"help": "Beams of the decoding saved with the model. Default: 4, or the model's own."},
    )
    max_new_tokens: int | None = field(
        default=None,
        metadata={"help": "Longest caption, saved with the model. Default: 200 tokens, or the model's own."},
    )

    def __post_init__(self):
        for name in ("model_config", "config_overrides", "lora"):
            if isinstance(getattr(self, name), str):
                setattr(self, name, parse_object(getattr(self, name), name))

    @property
    def start(self) -> str:
        """Name of what is trained on, or `"scratch"`."""
        return self.model_name_or_path or self.text_model or "scratch"


def build_model(args: ModelArguments) -> tuple[CaptioningModel | PeftModel, CaptioningProcessor]:
    """The model of a recipe, with LoRA if it has that, and its processor.

    Raises:
        ValueError: options that contradict each other, or a model that cannot be trained as it is.
    """
    _check_choice(args)
    if args.model_name_or_path is not None:
        model, processor = _trained_model(args)
    elif args.text_model is not None:
        model, processor = _assembled_model(args)
    else:
        model, processor = _fresh_model(args)
    if args.load_in_4bit:
        _keep_gradients(model)
    if model.can_generate():
        _set_decoding(model, args)
    if args.lora is not None:
        if args.model_name_or_path is None:
            _check_fresh_modules(model, args)
        return add_lora(model, args.lora), processor
    if not isinstance(model, PeftModel):
        model.config.base_parts = None  # trained, they are no longer what lies there
    freeze(model, args.freeze or ())
    return model, processor


def _set_decoding(model: CaptioningModel, args: ModelArguments):
    given = {"num_beams": args.num_beams, "max_new_tokens": args.max_new_tokens}
    model.generation_config.update(**{name: value for name, value in given.items() if value is not None})
    if args.num_beams == 1:
        model.generation_config.update(**WITHOUT_BEAMS)
    if args.max_new_tokens is not None:
        model.generation_config.max_length = None  # of a family that counts what stands before the caption, too


def plain(model: nn.Module) -> CaptioningModel:
    """The model without PEFT around it."""
    return model.get_base_model() if isinstance(model, PeftModel) else model


# -------------------------------------------------------------------------------------------------------- internals


def _check_choice(args: ModelArguments):
    beside = [f"{part}_model" for part in BASE_PARTS if getattr(args, f"{part}_model") is not None]
    if args.model_name_or_path is not None and beside:
        raise ValueError(
            f"Got model_name_or_path and {' and '.join(beside)}, expected one or the other to start from."
        )
    changed = [name for name in ("config_overrides", "parts_from") if getattr(args, name) is not None]
    if args.model_name_or_path is None and changed:
        raise ValueError(f"Got {' and '.join(changed)} without model_name_or_path, which names the model to change.")
    if beside and args.text_model is None:
        raise ValueError(f"Got {' and '.join(beside)} without text_model; name the language model, too.")
    if args.lora is not None and args.freeze:
        raise ValueError("Got lora and freeze; with lora everything but modules_to_save is frozen: leave freeze out.")
    if args.load_in_4bit and (args.lora is None or not is_bitsandbytes_available()):
        what = "lora: 4 bits are not trained" if args.lora is None else "bitsandbytes: pip install bitsandbytes"
        raise ValueError(f"load_in_4bit needs {what}.")
    if as_dtype(args.model_dtype) == torch.float16:
        raise ValueError("model_dtype is float16, which overflows in training, expected float32 or bfloat16.")


def _check_fresh_modules(model: nn.Module, args: ModelArguments):
    """Refuse LoRA that would leave random weights as they are, which no checkpoint holds."""
    if args.text_model is None:
        raise ValueError(
            "Got lora for a fresh model, expected pretrained weights below it: name text_model, or leave lora out."
        )
    names = args.lora.get("modules_to_save") or ()
    saved = {names} if isinstance(names, str) else set(names)
    fresh = [name for name in model.fresh_part_names if list(model.get_submodule(name).parameters())]
    if missing := [name for name in fresh if name not in saved]:
        raise ValueError(
            f"lora.modules_to_save is {sorted(saved)}, expected {', '.join(missing)} too: these begin with random "
            "weights, which must be trained and saved."
        )


def _trained_model(args: ModelArguments) -> tuple[CaptioningModel | PeftModel, CaptioningProcessor]:
    name = args.model_name_or_path
    check_saved_model(name)
    if args.model_config is not None:
        logger.warning("model_name_or_path is given: model_config and tokenizer_name of the recipe are not used.")
    options = {"dtype": as_dtype(args.model_dtype)} if args.model_dtype else {}
    options |= {"quantization_config": quantization(args)} if args.load_in_4bit else {}
    overrides = args.config_overrides or {}
    family = type_of(name)
    reject_unknown("a field of config_overrides", overrides, {field.name for field in fields(config_class(family))})
    options |= overrides
    processor, kind = load_processor(name, overrides), model_class(family, args.model_class)
    if find_file(name, ADAPTER_SETTINGS, {}) is None:
        model = kind.from_pretrained(name, **options)
    elif args.lora is not None:
        raise ValueError(
            f"{name}: holds an adapter, and the recipe's lora would be a second one; leave lora out to train it on, "
            "or fold it in with scripts/merge_lora.py."
        )
    else:
        base = kind.base_of_adapter(name, **options)
        model = train_in_float32(load_lora(base, name, is_trainable=True))
        for settings in model.peft_config.values():
            if settings.base_model_name_or_path == name:  # a repository that names itself for its parts
                settings.base_model_name_or_path = None
    _check_trainable(model, name)
    if args.parts_from is not None:
        put_parts(model, args.parts_from)
    check_finite_model(name, model)
    return model, processor


def _assembled_model(args: ModelArguments) -> tuple[CaptioningModel, CaptioningProcessor]:
    for name in filter(None, (args.text_model, args.vision_model, args.tokenizer_name)):
        check_name(name, has_owner=False)
    told = read_json(find_file(args.text_model, "config.json", {})).get("model_type")
    if is_captioner(told):
        raise ValueError(
            f"{args.text_model}: is a {config_class(told).family}, expected a language model: name it as "
            "model_name_or_path."
        )
    family, options = _family_and_fields(args.model_config or {})
    # What the parts' own configurations tell, `from_parts` refuses.
    known = {field.name for field in fields(config_class(family))} | _assembly_options(model_class(family))
    reject_unknown("a field of model_config", options, known)
    parts = {part: getattr(args, f"{part}_model") for part in BASE_PARTS}
    parts = {part: name for part, name in parts.items() if name is not None}
    if args.load_in_4bit:
        options["quantization_config"] = quantization(args)
    kind = model_class(family)
    _check_parts(kind, parts.keys() | options.keys() & {"quantization_config"})
    model = kind.from_parts(**parts, dtype=args.model_dtype, **options)
    _check_trainable(model, args.text_model)
    tokenizer = AutoTokenizer.from_pretrained(args.tokenizer_name or args.text_model, trust_remote_code=False)
    return model, processor_class(family).from_config(model.config, tokenizer)


def _fresh_model(args: ModelArguments) -> tuple[CaptioningModel, CaptioningProcessor]:
    if args.model_config is None or args.tokenizer_name is None:
        raise ValueError(
            "Got neither model_name_or_path nor text_model nor model_config with tokenizer_name, expected one: name a "
            "model to train."
        )
    check_name(args.tokenizer_name, has_owner=False)
    tokenizer = AutoTokenizer.from_pretrained(args.tokenizer_name, trust_remote_code=False)
    family, fields = _family_and_fields(args.model_config)
    config = _fresh_config(config_class(family), fields, tokenizer)
    model = model_class(family, args.model_class)(config)
    if model.can_generate():
        for name, value in model.decoding.items():
            setattr(model.generation_config, name, value)
    return model, processor_class(family).from_config(config, tokenizer)


def _assembly_options(kind: type[CaptioningModel]) -> set[str]:
    """What a family's `from_parts` takes of its own, beside parts and how they are loaded."""
    known = inspect.signature(kind.from_parts).parameters.values()
    named = {each.name for each in known if each.kind is inspect.Parameter.KEYWORD_ONLY}
    return named - {*BASE_PARTS, *ASSEMBLY_OPTIONS, "dtype"}


def _check_parts(kind: type[CaptioningModel], given: Iterable[str]):
    """Refuse parts that a family is not assembled of, and a missing one."""
    known = inspect.signature(kind.from_parts).parameters
    parts = [part for part in BASE_PARTS if part in known]
    missing = [part for part in parts if known[part].default is inspect.Parameter.empty and part not in given]
    strange = [part for part in given if part not in known]
    if missing or strange:
        raise ValueError(
            f"Got {', '.join(sorted(given))} for {kind.config_class.family}, which is assembled of "
            f"{', '.join(f'{part}_model' for part in parts)}: "
            + (f"leave {', '.join(strange)} out." if strange else f"name {', '.join(missing)}, too.")
        )


def quantization(args: ModelArguments) -> BitsAndBytesConfig:
    """NF4 with doubly quantised scales, as QLoRA has it (arXiv 2305.14314, section 3)."""
    KERNEL_ADVICE.release()
    compute = as_dtype(args.model_dtype) or torch.bfloat16
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=compute,
    )


def _keep_gradients(model: nn.Module):
    """Have bitsandbytes leave its layers as they are in evaluations: on processors with AVX-512 for bfloat16 it would
    pack them anew for captioning, and no gradient goes through a packed layer from then on (seen in 0.50.2).
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def _check_trainable(model: nn.Module, name: str):
    if model.dtype == torch.float16:
        raise ValueError(
            f"{name}: has float16 weights, which overflow in training, expected float32 or bfloat16; pass "
            "--model_dtype bfloat16."
        )


def _family_and_fields(model_config: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Family that a recipe's configuration names, and the other fields of it."""
    fields = dict(model_config)
    return fields.pop("model_type", DEFAULT_FAMILY), fields


def _fresh_config(kind: type[CaptioningConfig], fields: dict[str, Any], tokenizer) -> CaptioningConfig:
    """Configuration from a recipe's fields; vocabulary and special ids are the tokenizer's."""
    text_config = {
        "vocab_size": len(tokenizer),
        # BERT begins and ends a text with tokens that it calls otherwise.
        "bos_token_id": tokenizer.cls_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id,
        "eos_token_id": tokenizer.sep_token_id if tokenizer.eos_token_id is None else tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        **fields.get("text_config", {}),
    }
    config = kind(**(fields | {"text_config": text_config}))
    check_config_fields(fields, config)
    return config


def check_config_fields(fields: dict[str, Any], config: PreTrainedConfig, path: str = "model_config"):
    """Refuse fields that a configuration does not have: it would keep them without using them."""
    known = {field.name for field in dataclasses.fields(config)} | {"model_type"}
    reject_unknown(f"a field of {path}", fields, known)
    for name, value in fields.items():
        if isinstance(value, dict) and isinstance(getattr(config, name), PreTrainedConfig):
            check_config_fields(value, getattr(config, name), f"{path}.{name}")
