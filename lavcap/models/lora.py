"""What of a model is trained: all of it, all but frozen parts, or LoRA and a few whole modules."""

import dataclasses
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import Linear as LoraLinear
from torch import nn
from transformers import PreTrainedModel
from transformers.dynamic_module_utils import custom_object_save

from adapters_captioning import PEFT_PREFIX, one_size, put_adapter, read_adapter
from lavcap.arguments import reject_unknown
from lavcap.models.families import errors_of
from parts_captioning import location
from weights_captioning import WeightsError


BEGINNINGS = (True, False, "gaussian", "orthogonal")  # of LoRA's matrices: such as leave the base as it is


def add_lora(model: PreTrainedModel, fields: dict[str, Any]) -> PeftModel:
    """LoRA on layers of a model, and copies of whole modules that are trained; everything else is frozen.

    What is trained is in float32, whatever dtype the rest has: updates of a small learning rate are lost in bfloat16.

    Args:
        fields: of [`peft.LoraConfig`]; `modules_to_save` names the modules that are trained whole. Those that have no
            parameters in this model are left out.

    Raises:
        ValueError: a field or a module that there is not, layers that match nothing or choose experts, or an adapter
            that could not be loaded again.
    """
    reject_unknown("a field of lora", fields, {field.name for field in dataclasses.fields(LoraConfig)})
    _check_can_be_loaded(fields)
    try:
        names = fields.get("modules_to_save") or ()
        whole = [name for name in ([names] if isinstance(names, str) else names) if _parameters_below(model, name)]
        adapted = get_peft_model(model, LoraConfig(**fields | {"modules_to_save": whole or None}))
    except (AttributeError, NotImplementedError, TypeError, re.error) as error:
        raise ValueError(f"lora is {fields}, which PEFT cannot make an adapter of: {error}.") from error
    _check_routers(adapted)
    for settings in adapted.peft_config.values():  # a relative path would mean another folder elsewhere
        settings.base_model_name_or_path = location(settings.base_model_name_or_path)
    return train_in_float32(adapted)


def load_lora(base: PreTrainedModel, name: str | Path, is_trainable: bool = False) -> PeftModel:
    """An adapter on the base that it was trained on, with all of its tensors as they were saved.

    Args:
        name: folder or repository of the adapter.

    Raises:
        WeightsError: it belongs to another base, or its file is damaged, lacks tensors, or holds others.
        ValueError: PEFT cannot make an adapter of its settings.
    """
    tensors = read_adapter(base, name, {})
    with errors_of(name, "its adapter cannot be loaded", "copy it again"):
        try:
            with one_size(name):
                adapted = PeftModel.from_pretrained(base, name, is_trainable=is_trainable)
        except KeyError as error:
            raise WeightsError(f"{name}: its weights are not whole, {error} is missing; copy them again.") from error
        put_adapter(adapted, tensors, name)
    return adapted


def train_in_float32(model: PeftModel) -> PeftModel:
    """The model, with everything that is trained in float32."""
    for parameter in model.parameters():
        if parameter.requires_grad and parameter.dtype in (torch.float16, torch.bfloat16):
            parameter.data = parameter.data.float()
    return model


def freeze(model: nn.Module, names: Iterable[str]):
    """Exclude modules from training.

    Raises:
        ValueError: a name that the model does not have; or nothing is left to train.
    """
    for name in names:
        for parameter in _parameters_below(model, name):
            parameter.requires_grad_(False)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ValueError("Got freeze for every part of the model, expected something to train; leave a part out.")


def trainable_table(model: nn.Module) -> str:
    """Parameters that are trained, of all, by part of the model."""
    trained, total, ways = defaultdict(int), defaultdict(int), defaultdict(set)
    for name, parameter in _own_parameters(model):
        part, count = name.partition(".")[0], _count(parameter)
        is_lora = ".lora_" in name
        total[part] += 0 if is_lora else count
        trained[part] += count if parameter.requires_grad else 0
        ways[part].add("LoRA" if is_lora else "whole" if parameter.requires_grad else "frozen")
    rows = [("part", "trained", "of", "how")]
    rows += [(part, f"{trained[part]:,}", f"{total[part]:,}", _way(ways[part])) for part in total]
    share = sum(trained.values()) / max(1, sum(total.values()))
    rows.append(("all", f"{sum(trained.values()):,}", f"{sum(total.values()):,}", f"{share:.2%}"))
    return _aligned(rows)


def num_trained(model: nn.Module) -> int:
    """Parameters that are trained."""
    return sum(_count(parameter) for parameter in model.parameters() if parameter.requires_grad)


def save_adapter(model: PeftModel, folder: str | Path, **options):
    """Save what was trained, with the configuration, the decoding and the code that make a model of it.

    Args:
        options: of `PeftModel.save_pretrained`.
    """
    had_card = (Path(folder) / "README.md").exists()
    model.save_pretrained(folder, **options)
    if options.get("is_main_process", True):
        complete_adapter(model, folder, keep_card=had_card)


def complete_adapter(model: PeftModel, folder: str | Path, keep_card: bool = False):
    """Put beside a saved adapter what makes a model of it; PEFT's card, which is about a base model alone, goes."""
    if not keep_card:
        (Path(folder) / "README.md").unlink(missing_ok=True)
    base = model.get_base_model()
    base.config.architectures = [type(base).__name__]
    base.config.dtype = base.dtype
    base.config.save_pretrained(folder)
    base.generation_config.save_pretrained(folder)
    custom_object_save(base, folder, config=base.config)


# -------------------------------------------------------------------------------------------------------- internals


def _check_can_be_loaded(fields: dict[str, Any]):
    if fields.get("inference_mode") or fields.get("bias") == "all":
        raise ValueError("lora has inference_mode or bias: all, expected an adapter that can be trained and loaded.")
    beginning = fields.get("init_lora_weights", True)
    if beginning not in BEGINNINGS or fields.get("kasa_config"):
        known = ", ".join(str(each).lower() for each in BEGINNINGS)
        got = "kasa_config" if beginning in BEGINNINGS else f"init_lora_weights: {beginning}"
        raise ValueError(
            f"lora has {got}, expected init_lora_weights: {known}; others "
            "change the weights of the base, which no checkpoint holds, or need a preparation that this project lacks."
        )


def _check_routers(model: PeftModel):
    """Refuse LoRA on routers of experts, such as Llama 4's: these are linear layers, but give several tensors."""
    for name, layer in model.get_base_model().named_modules():
        if isinstance(layer, LoraLinear) and type(layer.get_base_layer()).__name__.endswith("Router"):
            raise ValueError(
                f"lora has target_modules that match {name}, a router of experts, whose several results PEFT cannot "
                f"add to, expected plain layers: add exclude_modules: [{name.rpartition('.')[2]}]."
            )


def _parameters_below(model: nn.Module, name: str) -> list[nn.Parameter]:
    """Parameters of a module, or the one of this name; none of what this model is built without."""
    if not hasattr(model, name.partition(".")[0]):
        parts = ", ".join(part for part, module in model.named_children() if module is not None)
        raise ValueError(f"Got {name!r} to train or to freeze, expected parts of the model: {parts}.")
    if isinstance(getattr(model, name, None), nn.Parameter):
        return [getattr(model, name)]
    try:
        return list(model.get_submodule(name).parameters())
    except AttributeError:
        if getattr(model, name, model) is None:
            return []
        raise ValueError(f"Got {name!r} to train or to freeze, which the model does not have.") from None


def _own_parameters(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Parameters by the names of the model without PEFT; a module that is trained whole counts once."""
    for name, parameter in model.named_parameters():
        if ".original_module." not in name:
            yield name.removeprefix(PEFT_PREFIX), parameter


def _count(parameter: nn.Parameter) -> int:
    """Elements of a parameter, wherever DeepSpeed keeps them, and however bitsandbytes packs them."""
    count = getattr(parameter, "ds_numel", parameter.numel())
    return count * 2 * parameter.element_size() if type(parameter).__name__ == "Params4bit" else count


def _way(ways: set[str]) -> str:
    return "LoRA" if "LoRA" in ways else " and ".join(sorted(ways))


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = (
        (name.ljust(widths[0]), trained.rjust(widths[1]), total.rjust(widths[2]), how)
        for name, trained, total, how in rows
    )
    return "\n".join(map("  ".join, lines))
