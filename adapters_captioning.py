# Copyright 2026 The LAVCap for Transformers authors. Licensed under the Apache License, Version 2.0.
"""Adapters: whether one belongs to a base, and models whose folder holds nothing but what was trained."""

import dataclasses
import os
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn
from transformers import GenerationConfig, PreTrainedConfig, PreTrainedModel
from transformers.dynamic_module_utils import custom_object_save
from transformers.utils import is_peft_available


try:  # inside a package: the Hub's module cache
    from .configuration_captioning import check_scales, check_sizes
    from .language_model_captioning import quantized_language_model
    from .parts_captioning import HUB_OPTIONS, find_file, hub_options, read_json
    from .weights_captioning import FOLDER_FILES, WeightsError, check_values, itemised, read_weights, shorten
except ImportError:  # as a plain module: a clone, or after `pip install`
    from configuration_captioning import check_scales, check_sizes
    from language_model_captioning import quantized_language_model
    from parts_captioning import HUB_OPTIONS, find_file, hub_options, read_json
    from weights_captioning import FOLDER_FILES, WeightsError, check_values, itemised, read_weights, shorten


ADAPTER_SETTINGS = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
PICKLED_WEIGHTS = "adapter_model.bin"
BASE_PARTS = ("text", "audio", "vision", "audio_visual")
ASSEMBLY_OPTIONS = ("attn_implementation", "device_map", "quantization_config")
MOVED = "Where its base has moved, write the place into base_model_name_or_path of adapter_config.json."
PEFT_PREFIX = "base_model.model."  # of names in the files that PEFT writes
# Ways in which LoRA may begin that leave the weights below as they are; the others rest on a changed base, which no
# adapter holds.
PLAIN_BEGINNINGS = (True, False, None, "gaussian", "orthogonal", "eva", "mica")
OF_THE_ADAPTER = ("config", "revision", "subfolder", "_commit_hash")  # which its base does not share
# Options of `from_pretrained` that ask nothing of a model that is assembled.
IDLE_OPTIONS = frozenset(
    {*HUB_OPTIONS, "force_download", "low_cpu_mem_usage", "proxies", "state_dict", "trust_remote_code"}
    | {"use_safetensors", "variant", "weights_only", "_commit_hash", "_from_auto"}
)


class AdapterMixin:
    """Loading and saving of a model whose weights are those of published parts and an adapter on them.

    The folder of such a model holds the adapter with the projection and the scale of the alignment, the configuration
    and the code; `config.base_parts` tells where the parts are.
    """

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path | None,
        *args,
        text: str | Path | PreTrainedModel | None = None,
        audio: str | Path | PreTrainedModel | None = None,
        vision: str | Path | PreTrainedModel | None = None,
        audio_visual: str | Path | PreTrainedModel | None = None,
        **kwargs,
    ):
        """As [`PreTrainedModel.from_pretrained`]; a folder with an adapter is never loaded without its adapter.

        An adapter alone is put on the base that its `adapter_config.json` names; where that names none, or the
        folder itself, on the parts that its configuration names.

        Args:
            text, audio, vision, audio_visual: where a part of an adapter's base is, if not where the configuration
                says.
            kwargs: a `quantization_config` concerns the layers of the language model alone, unless it names what it
                spares.

        Raises:
            WeightsError: the adapter was trained on another language model; both names are in the message.
        """
        parts = _given(text=text, audio=audio, vision=vision, audio_visual=audio_visual)
        name = pretrained_model_name_or_path
        settings = find_file(name, ADAPTER_SETTINGS, kwargs)
        if settings is not None and not is_peft_available():
            raise ImportError(
                f"{name} holds a LoRA adapter, which needs PEFT: pip install peft. Without it the captions would be "
                "those of the untrained base model."
            )
        if settings is not None and not holds_weights(name, kwargs):
            return cls._from_adapter(name, read_json(settings).get("base_model_name_or_path"), args, parts, kwargs)
        if parts:
            raise ValueError(
                f"Got {' and '.join(parts)} for {name}, which holds all its weights; leave that out, or assemble a "
                "model of parts with from_parts."
            )
        if kwargs.get("quantization_config") is not None and name is not None:
            config = kwargs.get("config") or cls.config_class.from_pretrained(name, **hub_options(kwargs))
            kwargs["quantization_config"] = quantized_language_model(
                kwargs["quantization_config"], config, cls.parts_beside_the_language_model()
            )
        return super().from_pretrained(name, *args, **kwargs)

    def get_submodule(self, target: str) -> nn.Module:
        """As [`nn.Module.get_submodule`]; prompt tuning of PEFT finds the embeddings of words under BERT's name for
        them, where it would guess among the weights of the first encoder."""
        return self.get_input_embeddings() if target == "embeddings.word_embeddings" else super().get_submodule(target)

    @classmethod
    def _from_adapter(cls, name: str | Path, base: str | None, args: tuple, parts: dict[str, Any], kwargs: dict):
        """A folder that holds an adapter and no weights of its own."""
        hub = hub_options(kwargs)
        adapter_kwargs = dict(kwargs.pop("adapter_kwargs", None) or {})
        # An Auto class calls with the base that an adapter names, which may be an adapter that was trained on.
        adapter = adapter_kwargs.pop("_adapter_model_path", None) or name
        model = cls._base_of_adapter(name, base, args, parts, kwargs)
        options = adapter_kwargs if adapter != name else hub | adapter_kwargs
        if os.path.isdir(adapter):  # an older Transformers looks for the weights of an adapter beside a subfolder
            adapter = Path(adapter) / options.pop("subfolder", "")
        model.load_adapter(str(adapter), adapter_kwargs=options)
        return model.eval()

    @classmethod
    def base_of_adapter(cls, name: str | Path, *args, **kwargs):
        """The model that an adapter was trained on, without the adapter; arguments as of `from_pretrained`.

        Raises:
            WeightsError: adapter and base share a repository on the Hub; as a local folder they do.
        """
        if holds_weights(name, kwargs):
            if not os.path.isdir(name):
                raise WeightsError(f"{name}: holds a base and an adapter, expected a local folder; download it first.")
            config = cls.config_class.from_pretrained(name)
            # The library would load the adapter, too.
            model = cls.from_pretrained(None, *args, config=config, state_dict=read_weights(name), **kwargs)
            model.generation_config = GenerationConfig.from_pretrained(name)
            return model
        parts = _given(**{part: kwargs.pop(part, None) for part in BASE_PARTS})
        base = read_json(find_file(name, ADAPTER_SETTINGS, kwargs)).get("base_model_name_or_path")
        return cls._base_of_adapter(name, base, args, parts, kwargs)

    @classmethod
    def _base_of_adapter(cls, name: str | Path, base: str | None, args: tuple, parts: dict[str, Any], kwargs: dict):
        check_bases(name, base)
        hub = hub_options(kwargs)
        is_assembled = base in (None, "", str(name))
        if parts and not is_assembled:
            given = ", ".join(parts)
            raise WeightsError(
                f"{name}: got {given} for an adapter of {base}, which is a whole {cls.config_class.family}. {MOVED}"
            )
        if is_assembled:
            config = kwargs.pop("config", None) or cls.config_class.from_pretrained(name, **hub)
            model = cls._from_base_parts(name, config, parts, kwargs)
        else:
            kwargs = {option: value for option, value in kwargs.items() if option not in OF_THE_ADAPTER}
            try:
                has_adapter = find_file(base, ADAPTER_SETTINGS, kwargs) is not None  # of its own, not the one wanted
                model = (cls.base_of_adapter if has_adapter else cls.from_pretrained)(base, *args, **kwargs)
            except OSError as error:
                raise OSError(f"{name}: its base {base} cannot be loaded ({error}). {MOVED}") from error
        if find_file(name, "generation_config.json", hub) is not None:
            model.generation_config = GenerationConfig.from_pretrained(name, **hub)
        return model

    @classmethod
    def _from_base_parts(cls, name: str | Path, config: PreTrainedConfig, given: dict[str, Any], kwargs: dict):
        kwargs = {option: value for option, value in kwargs.items() if option not in IDLE_OPTIONS}
        dtype = kwargs.pop("torch_dtype", None) or kwargs.pop("dtype", None)
        options = {option: kwargs.pop(option) for option in ASSEMBLY_OPTIONS if option in kwargs}
        if kwargs:
            raise TypeError(f"Got unknown options for {name}, the adapter of assembled parts: {', '.join(kwargs)}.")
        parts = _given(**config.base_parts or {}) | given
        if "text" not in parts:
            raise WeightsError(
                f"{name}: holds an adapter and does not tell where its language model "
                f"({config.text_model_name or 'without a name'}) is; pass text, and the other parts with it."
            )
        try:
            return cls.from_parts(
                **parts,
                dtype=config.dtype if dtype in (None, "auto") else dtype,
                **options,
                **cls.assembly_options(config, has_vision="vision" in parts),
            )
        except OSError as error:
            places = ", ".join(f"{part}={path}" for part, path in parts.items())
            names = ", ".join(part for part in BASE_PARTS if part in parts)
            raise OSError(
                f"{name}: its base is assembled of {places}, and one of these cannot be loaded ({error}). "
                f"Pass {names} to say where a part is."
            ) from error

    @classmethod
    def assembly_options(cls, config: PreTrainedConfig, has_vision: bool) -> dict[str, Any]:
        """What `from_parts` must be told, beside its parts, to build the model of a configuration."""
        # The names are those of what is loaded: that they are the right ones is checked with the adapter.
        told = {"text_config", "text_model_name", "text_model_vocab_size", "text_model_hidden_size", "base_parts"}
        told |= {"vision_config", "vision_model_name"} if has_vision else set()
        return {name: getattr(config, name) for name in sorted(own_fields(config) - told)}

    @classmethod
    def parts_beside_the_language_model(cls) -> list[str]:
        """Parts that are never quantised."""
        return [name for name in cls.part_names if name != "language_model"]

    def load_adapter(self, peft_model_id: str | Path | None = None, adapter_name: str | None = None, *args, **kwargs):
        """As [`PreTrainedModel.load_adapter`], after a look whether the adapter was trained on this base.

        Raises:
            WeightsError: its language model or towers were others, by name, vocabulary, width or shapes.
        """
        adapter, tensors = adapter_name or "default", None
        if peft_model_id is not None and kwargs.get("adapter_state_dict") is None:
            options = kwargs | (kwargs.get("adapter_kwargs") or {})
            tensors = read_adapter(self, peft_model_id, options)
            whole = _whole_modules(read_json(find_file(peft_model_id, ADAPTER_SETTINGS, options)))
            kwargs["adapter_state_dict"] = {_name_in_model(key, whole, adapter): tensors[key] for key in tensors}
        with one_size(peft_model_id):
            report = super().load_adapter(peft_model_id, adapter_name, *args, **kwargs)
        if tensors is not None:
            put_adapter(self, tensors, peft_model_id, adapter)
        if self.name_or_path:  # so that it is saved with the base that it is on, wherever it was made
            for adapter in self.peft_config.values():
                adapter.base_model_name_or_path = self.name_or_path
        return report

    def save_pretrained(self, save_directory: str | Path, *args, **kwargs):
        """As [`PreTrainedModel.save_pretrained`], with the code of the pipeline; beside an adapter with the
        configuration, which tells its base."""
        if kwargs.get("is_main_process", True):
            Path(save_directory).mkdir(parents=True, exist_ok=True)
            custom_object_save(_pipeline_class(), save_directory)
        if getattr(self, "_hf_peft_config_loaded", False):
            super().save_pretrained(save_directory, *args, **kwargs)
            if kwargs.get("is_main_process", True):
                self.config.save_pretrained(save_directory)
            return
        parts, self.config.base_parts = self.config.base_parts, None  # weights that are saved whole need none
        try:
            super().save_pretrained(save_directory, *args, **kwargs)
        finally:
            self.config.base_parts = parts


def _pipeline_class() -> type:
    """The pipeline that [`CaptioningConfig`] names, which no model imports: a relative import has it travel along."""
    try:
        from .pipeline_captioning import AudioVisualCaptioningPipeline
    except ImportError:  # as a plain module: a clone, or after `pip install`
        from pipeline_captioning import AudioVisualCaptioningPipeline
    return AudioVisualCaptioningPipeline


def holds_weights(name: str | Path, options: dict) -> bool:
    """Whether a folder or a repository holds weights of a whole model; options as of `from_pretrained`."""
    return any(find_file(name, file, options) is not None for file in FOLDER_FILES)


def check_bases(name: str | Path, base: Any):
    """Refuse an adapter whose base is, over other adapters, itself; `base` is what its settings name.

    Raises:
        WeightsError: with the way that leads back.
    """
    way = [str(name)]
    while base not in (None, "", way[-1]):
        if not isinstance(base, str) or base in way:
            raise WeightsError(
                f"{name}: its base is {base!r} ({' -> '.join(map(str, [*way, base]))}), expected a model in the end. "
                f"{MOVED}"
            )
        way.append(base)
        settings = os.path.join(base, ADAPTER_SETTINGS)
        base = read_json(settings).get("base_model_name_or_path") if os.path.isfile(settings) else None


def own_fields(config: PreTrainedConfig) -> set[str]:
    """Fields of a configuration that not every configuration has."""
    names, common = ({field.name for field in dataclasses.fields(kind)} for kind in (config, PreTrainedConfig))
    return names - common


def _given(**parts: Any) -> dict[str, Any]:
    """Those of some parts that there are."""
    return {name: part for name, part in parts.items() if part is not None}


def read_adapter(model: PreTrainedModel, name: str | Path, options: dict) -> dict[str, torch.Tensor]:
    """Weights of a PEFT adapter that was trained on this base, by their names without PEFT's prefix.

    Args:
        model: that shall take the adapter.
        name: folder or Hub repository of the adapter.
        options: of `from_pretrained`, such as `revision`.

    Raises:
        WeightsError: another language model by name, vocabulary or width, as the LAVCap configuration beside the
            adapter tells it, or that of the folder that it names as its base; a layer that the model lacks, or one of
            another size; a kind that PEFT does not know; LoRA that rests on a changed base, as PiSSA does; a rank or
            a scale out of bounds.
    """
    settings = read_json(find_file(name, ADAPTER_SETTINGS, options))
    _check_kind(name, settings)
    _check_beginning(name, settings)
    _check_numbers(name, settings)
    theirs = read_json(find_file(name, "config.json", options))
    if not theirs:  # PEFT writes no configuration beside its adapters, but says which base they were trained on
        base = settings.get("base_model_name_or_path")
        theirs = read_json(find_file(base, "config.json", {})) if base and os.path.exists(base) else {}
    check_base(model.config, name, theirs)
    file = find_file(name, ADAPTER_WEIGHTS, options) or find_file(name, PICKLED_WEIGHTS, options)
    if file is None:
        raise WeightsError(f"{name}: holds no {ADAPTER_WEIGHTS} beside its {ADAPTER_SETTINGS}; copy it there.")
    tensors = {key.removeprefix(PEFT_PREFIX): tensor for key, tensor in read_weights(file).items()}
    check_values(tensors)
    _check_shapes(model, tensors, _whole_modules(settings))
    return tensors


def put_adapter(model: nn.Module, tensors: Mapping[str, torch.Tensor], name: str | Path, adapter: str = "default"):
    """Give an adapter that a model has the tensors of its file, in their own dtype: on a base in bfloat16 too.

    Args:
        tensors: from [`read_adapter`].
        name: of the adapter's folder, for messages.
        adapter: what it is called in the model.

    Raises:
        WeightsError: the file lacks some, which would be what the adapter began with, or drawn; or holds others, for
            which the adapter has no place, as where its settings are those of another kind.
    """
    needed, known = (_places(model, adapter, has_embeddings) for has_embeddings in (False, True))
    # An encoder that was put beside it for the stored features it was trained on has none, and needs none.
    encoder = f"{getattr(model, 'feature_encoder_name', None)}."
    is_adapted = any(key.startswith(encoder) for key in tensors)
    missing = [key for key in needed if key not in tensors and (is_adapted or not key.startswith(encoder))]
    unknown = [key for key in tensors if key not in known]
    faults = [f"lacks {len(missing)} of its tensors ({shorten(missing)})"] if missing else []
    faults += [f"holds {len(unknown)} without a place ({shorten(unknown)})"] if unknown else []
    if faults:
        kind = model.peft_config[adapter].peft_type.value
        raise WeightsError(
            f"{name}: its weights are not those of the {kind} adapter that its {ADAPTER_SETTINGS} describes: the file "
            f"{' and '.join(faults)}; copy both files again."
        )
    for key, tensor in tensors.items():
        place = known[key]
        place.data = tensor.to(place.device if key in needed else place)


def _places(model: nn.Module, adapter: str, has_embeddings: bool) -> dict[str, torch.Tensor]:
    """Tensors of an adapter in a model, by their names in its file, without PEFT's prefix.

    Args:
        has_embeddings: with the embeddings of the base, which PEFT saves beside an adapter on them, or on a vocabulary
            that grew.
    """
    from peft import get_peft_model_state_dict

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what PEFT says of saving, where nothing is saved
        state = model.state_dict(keep_vars=True)
        found = get_peft_model_state_dict(model, state, adapter, save_embedding_layers=has_embeddings)
    return {key.removeprefix(PEFT_PREFIX): tensor for key, tensor in found.items()}


@contextmanager
def one_size(name: str | Path | None) -> Iterator[None]:
    """Tensors of another size than their adapter, as where its rank is, in one line with the name of its folder.

    Raises:
        WeightsError: in the place of what Transformers and PEFT raise.
    """
    try:
        yield
    except RuntimeError as error:
        if "mismatch" not in str(error):
            raise
        raise WeightsError(
            f"{name}: its weights have other sizes than its {ADAPTER_SETTINGS} describes, such as by r; copy both "
            "files again."
        ) from error


def _whole_modules(settings: dict) -> tuple[str, ...]:
    """Ends of the names of modules that an adapter holds whole, with their dots."""
    return tuple(f".{module}" for module in settings.get("modules_to_save") or ())


def _name_in_model(key: str, whole: tuple[str, ...], adapter: str) -> str:
    """Name of a tensor of a module that the adapter holds whole, or of DoRA's magnitudes; other names stay."""
    if key.endswith(".lora_magnitude_vector"):
        return f"{key}.{adapter}.weight"
    module = _whole_module(key, whole)
    return key if module is None else f"{module}.modules_to_save.{adapter}{key.removeprefix(module)}"


def _whole_module(key: str, whole: tuple[str, ...]) -> str | None:
    """The module of a tensor that the adapter holds whole; `whole` are from [`_whole_modules`]."""
    parts = key.split(".")
    modules = (".".join(parts[:length]) for length in range(1, len(parts)))
    return next((module for module in modules if whole and f".{module}".endswith(whole)), None)


def check_base(config: PreTrainedConfig, name: str | Path, theirs: dict):
    """Refuse an adapter whose configuration, `theirs`, tells of another language model than that of the base.

    Raises:
        WeightsError: by name, vocabulary or width, with both.
    """
    if theirs.get("model_type") != config.model_type:
        return
    base = theirs.get("text_model_name") or "its language model"
    for field in ("text_model_hidden_size", "text_model_vocab_size"):
        expected, got = theirs.get(field), getattr(config, field)
        if expected not in (None, got):
            raise WeightsError(
                f"{name}: was trained on {base}, expected {field} {expected}, got {got} of "
                f"{config.text_model_name or 'another language model'}."
            )
    expected, got = theirs.get("text_model_name"), config.text_model_name
    if expected and got and Path(expected).name.lower() != Path(got).name.lower():
        raise WeightsError(
            f"{name}: was trained on another language model, expected {expected}, got {got}; load it on {expected}. "
            f"Where that is the same model under another name, give the base text_model_name={expected!r}."
        )


def _check_beginning(name: str | Path, settings: dict):
    """Refuse an adapter on weights that its making changed: a random decomposition cannot be repeated."""
    beginning = settings.get("init_lora_weights", True)
    beginning = beginning.lower() if isinstance(beginning, str) else beginning
    if beginning not in PLAIN_BEGINNINGS or settings.get("kasa_config"):
        field = "kasa_config" if beginning in PLAIN_BEGINNINGS else f"init_lora_weights {beginning!r}"
        raise WeightsError(
            f"{name}: its LoRA began with {field}, which changed the weights of its base, and it does not hold these. "
            "Convert it where it was trained: PEFT's save_pretrained, with path_initial_model_for_weight_conversion."
        )


def _check_kind(name: str | Path, settings: dict):
    """Refuse an adapter of a kind that PEFT does not know."""
    from peft import PEFT_TYPE_TO_CONFIG_MAPPING

    kind = settings.get("peft_type")
    if not isinstance(kind, str) or kind not in PEFT_TYPE_TO_CONFIG_MAPPING:
        raise WeightsError(
            f"{name}: peft_type is {kind!r:.40} in its {ADAPTER_SETTINGS}, expected one that PEFT knows, such as "
            "'LORA'; copy it again, or update PEFT."
        )


def _check_numbers(name: str | Path, settings: dict):
    """Refuse a rank, or a scale, that is out of bounds: the captions would be noise."""
    try:
        check_sizes(SimpleNamespace(**settings))
        check_scales(SimpleNamespace(**settings))
        for layer, rank in (settings.get("rank_pattern") or {}).items():
            check_sizes(SimpleNamespace(r=rank), f"rank_pattern.{layer}: ")
        for layer, alpha in (settings.get("alpha_pattern") or {}).items():
            check_scales(SimpleNamespace(lora_alpha=alpha), f"alpha_pattern.{layer}: ")
    except ValueError as error:
        raise WeightsError(f"{name}: in its {ADAPTER_SETTINGS} {error} Copy it again.") from error


def _check_shapes(model: nn.Module, tensors: Mapping[str, torch.Tensor], whole: tuple[str, ...]):
    """Compare LoRA's matrices and whole modules with the model; of other tensors PEFT itself must judge."""
    problems = []
    for name, tensor in tensors.items():
        lora = re.fullmatch(r"(.+)\.lora_(embedding_)?([AB])(\.\w+)?(\.weight)?", name)
        if lora is None and _whole_module(name, whole) is None:
            continue
        try:
            layer = model.get_submodule(lora.group(1) if lora else name.rpartition(".")[0])
        except AttributeError:
            problems.append(f"{name}: the model has no such layer")
            continue
        if lora is None:
            own = getattr(layer, name.rpartition(".")[2], None)
            expected, got = tuple(tensor.shape), None if own is None else tuple(own.shape)
        else:
            side, axis = ("in_features", 1) if lora.group(3) == "A" else ("out_features", 0)
            expected, got = tensor.shape[axis], getattr(layer, side, tensor.shape[axis])
        if expected != got:
            problems.append(f"{name}: expected {expected}, got {got}")
    if problems:
        raise WeightsError(
            "The adapter was trained on another model: load the language model and the towers that it belongs to.",
            *itemised("layers that do not fit", problems),
        )
