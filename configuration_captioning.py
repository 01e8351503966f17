# Copyright 2026 The LAVCap for Transformers authors. Licensed under the Apache License, Version 2.0.
"""What the configurations of all captioners share: the language model they end in, and checks of their options."""

import copy
import dataclasses
import difflib
import math
from typing import Any, ClassVar

import transformers
from packaging.version import Version


OLDEST_TRANSFORMERS = "5.10.4"  # older ones rename CLIP's tensors, or load less of a folder than its code needs

if Version(transformers.__version__) < Version(OLDEST_TRANSFORMERS):  # before anything that an older one lacks
    # No ImportError: the other files take that for a sign that they are plain modules, and would hide the sentence.
    raise RuntimeError(
        f"LAVCap needs Transformers {OLDEST_TRANSFORMERS} or newer, but {transformers.__version__} is installed: "
        f"pip install --upgrade 'transformers>={OLDEST_TRANSFORMERS}'"
    )

from transformers import CONFIG_MAPPING, AutoConfig, PreTrainedConfig  # noqa: E402


# Fields by which language models scale, or bound, the logits of their heads, with what leaves these as they are.
LOGIT_SCALES = {"logit_scale": 1.0, "logits_scaling": 1.0, "lm_head_multiplier": 1.0, "final_logit_softcapping": None}
# Kinds of several parts whose own heads know of no such field.
UNSCALED = (
    *("audioflamingo3", "aya_vision", "cohere2_vision", "gemma3", "got_ocr2", "granite_speech", "granite_speech_plus"),
    *("idefics2", "idefics3", "internvl", "llava", "llava_next", "llava_next_video", "llava_onevision", "mistral3"),
    *("qwen2_audio", "smolvlm", "video_llava", "vipllava"),
)
# Those that scale as their language model does alone.
SCALED = (
    *("blip-2", "cohere_compass", "gemma3n", "gemma4", "gemma4_unified", "hyperclovax_vision_v2", "inkling2"),
    *("instructblip", "instructblipvideo", "nemotron_h_omni", "paligemma"),
)
GENERATION_CLASSES = ("AutoModel", "AutoModelForCausalLM", "AutoModelForImageTextToText", "AutoModelForMultimodalLM")
PIPELINES = {
    "audio-visual-captioning": {
        "impl": "pipeline_captioning.AudioVisualCaptioningPipeline",
        "pt": ["AutoModelForMultimodalLM"],
    }
}
# Least and most of a size, by its name in any part. The most are far above those of any model: beyond them lies a slip
# of the keyboard, and days of work or all of a machine's memory.
SIZES: dict[str, tuple[int, int]] = {
    **dict.fromkeys(("num_hidden_layers", "num_modality_layers", "num_joint_layers"), (0, 1024)),
    **dict.fromkeys(("num_attention_heads", "cross_attention_heads", "num_scorer_heads"), (1, 1024)),
    **dict.fromkeys(("hidden_size", "intermediate_size", "projection_dim"), (1, 2**20)),
    **dict.fromkeys(("vocab_size", "max_position_embeddings"), (1, 2**27)),
    **dict.fromkeys(("num_mel_bins", "patch_size"), (1, 1024)),
    **dict.fromkeys(("num_video_frames", "frames_per_clip", "num_prefix_tokens"), (1, 4096)),
    **dict.fromkeys(("num_audio_tokens", "num_video_tokens"), (0, 100_000)),
    "image_size": (1, 8192),
    "max_frames": (1, 100_000),
    "sinkhorn_iterations": (1, 100_000),
    "feature_size": (1, 1024),
    "sampling_rate": (16_000, 16_000),  # Hz, of the sounds that all encoders were trained on
    "r": (0, 4096),  # rank of an adapter; some kinds have none
}
# Least and most of other numbers, single ones or one for each channel: what is outside makes noise of every clip.
SCALES: dict[str, tuple[float, float]] = {
    **dict.fromkeys(("mean", "padding_value", "image_mean"), (-1e4, 1e4)),
    **dict.fromkeys(("std", "image_std", "rescale_factor"), (1e-6, 1e4)),
    **dict.fromkeys(("lora_alpha", "alpha"), (1e-6, 1e6)),
}
SIGNED = ("rescale_factor",)  # which may be below zero, too: pictures are turned over
# Those that an image processor may do without, by what needs them.
NEEDED_FOR = {"image_mean": "do_normalize", "image_std": "do_normalize", "rescale_factor": "do_rescale"}


class CaptioningConfig(PreTrainedConfig):
    r"""
    What the configurations of all captioners share; a family adds its encoders.

    Args:
        text_config (`PreTrainedConfig` or `dict`): the causal language model, or a model of several parts with
            one.
        text_model_name (`str`, *optional*), text_model_vocab_size (`int`), text_model_hidden_size (`int`): the base
            language model that the weights belong to, as its authors published it. Vocabulary and width default to
            those of `text_config`, whose vocabulary may grow afterwards.
        vision_model_name (`str`, *optional*): the image encoder that the model holds, or whose stored features it was
            trained on, as its authors published it.
        base_parts (`dict`, *optional*): where the parts are that an adapter's base is assembled of: `text`, `audio`
            and `vision`, each a name on the Hub, a file, a folder, or `None`. Weights that are saved whole need none.
        bos_token_id, eos_token_id, pad_token_id (`int`, *optional*): default to those of `text_config`.

    Class attributes:
        family (`str`): what messages call a model of this kind.
        feature_names (`dict`): by modality, the model inputs that hold it; a family's one table of them. Whether a
            clip has a modality is told under the modality's name with `_mask` behind it.
        default_text (`tuple`): model type, and fields, of `text_config` where none is given.
        generation_class (`str`): what the Auto classes of models stand for, as `module.Class`.
    """

    family: ClassVar[str] = "captioner"
    feature_names: ClassVar[dict[str, tuple[str, ...]]] = {}
    default_text: ClassVar[tuple[str, dict[str, Any]]] = ("llama", {})
    generation_class: ClassVar[str] = ""
    sub_configs = {"text_config": AutoConfig}

    text_config: dict | PreTrainedConfig | None = None
    text_model_name: str | None = None
    text_model_vocab_size: int | None = None
    text_model_hidden_size: int | None = None
    vision_model_name: str | None = None
    base_parts: dict | None = None
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None
    pad_token_id: int | None = None
    tie_word_embeddings: bool = False

    def __post_init__(self, **kwargs):
        reject_misspelt(self, kwargs)
        text = build_part("text_config", self.text_config, *self.default_text)
        self.text_config = language_model_config(text)
        for name in ("vocab_size", "hidden_size"):
            if not hasattr(self.text_config, name):
                raise ValueError(
                    f"text_config has model_type {text.model_type!r} and no {name}: it is no language model."
                )
        super().__post_init__(**kwargs)
        own_place = f"{type(self).__module__.rpartition('.')[2]}.{type(self).__name__}"
        self.auto_map = {"AutoConfig": own_place} | dict.fromkeys(GENERATION_CLASSES, self.generation_class)
        self.custom_pipelines = {name: dict(place) for name, place in PIPELINES.items()}
        self.tie_word_embeddings = getattr(self.text_config, "tie_word_embeddings", False)
        for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
            if getattr(self, name) is None:
                setattr(self, name, getattr(self.text_config, name, None))
        if self.text_model_vocab_size is None:
            self.text_model_vocab_size = self.text_config.vocab_size
        if self.text_model_hidden_size is None:
            self.text_model_hidden_size = self.text_config.hidden_size

    def check(self):
        """Refuse options that a model cannot be built with. Options that are given where a model is loaded come after
        the rest, so that the model looks again.

        Raises:
            ValueError: an unknown choice, a size out of [`SIZES`], or options that contradict each other.
        """
        check_sizes(self)
        for name in self.sub_configs:
            check_sizes(getattr(self, name), f"{name}.")
        if not isinstance(self.base_parts, dict | None):
            raise ValueError(f"base_parts is {self.base_parts!r}, expected an object: names of parts by their kind.")

    @property
    def modalities(self) -> tuple[str, ...]:
        """What the model takes of a clip, such as `("audio", "video")`."""
        return tuple(self.feature_names)

    @property
    def takes_media(self) -> bool:
        """Whether the model encodes all that it takes itself; `False`: it needs features that were stored before."""
        return True

    def part_origins(self) -> dict[str, str | None]:
        """Pretrained parts of the model, as a card calls them, with the names of their origins where known."""
        return {"language model": (self.base_parts or {}).get("text") or self.text_model_name}


class SoftTokenConfig(CaptioningConfig):
    r"""
    Configuration of a captioner whose clips stand as soft tokens among the words, in the place of placeholders.

    Args:
        av_token_id (`int`, *optional*): id of the placeholder where soft tokens stand. Default: the first id after
            the language model's vocabulary, so that no embedding row is needed and it can never be generated.
    """

    av_token_id: int | None = None

    def __post_init__(self, **kwargs):
        super().__post_init__(**kwargs)
        if self.av_token_id is None:
            self.av_token_id = self.text_config.vocab_size
        if self.av_token_id < 0:
            raise ValueError(f"av_token_id is {self.av_token_id}, expected the id of a token.")


def build_part(name: str, part: dict | PreTrainedConfig | None, kind: type | str, defaults: dict) -> PreTrainedConfig:
    """Configuration of a part from its fields; `kind` is its class, or the model type where the fields name none."""
    if isinstance(part, PreTrainedConfig):
        return part
    fields = defaults if part is None else part
    if not isinstance(fields, dict):
        raise TypeError(f"{name} is of type {type(part).__name__}, expected a configuration or a dict of its fields.")
    if isinstance(kind, str):
        model_type = fields.get("model_type", kind)
        if model_type not in CONFIG_MAPPING:
            raise ValueError(
                f"{name} has model_type {model_type!r}, expected one that Transformers {transformers.__version__} "
                "knows: check the spelling, or update Transformers."
            )
        kind = CONFIG_MAPPING[model_type]
    return kind(**fields)


def language_model_config(config: PreTrainedConfig) -> PreTrainedConfig:
    """Configuration of the language model, as it writes within a model of several parts, such as Gemma 3; that of a
    language model is its own.

    Raises:
        ValueError: it scales its logits, and it is not known whether the model of several parts does, too.
    """
    alone = config.get_text_config(decoder=True)
    if alone is config:
        return config
    alone = copy.deepcopy(alone)
    if hasattr(config, "tie_word_embeddings"):  # what the whole says holds
        alone.tie_word_embeddings = config.tie_word_embeddings
    scales = {name: getattr(alone, name, plain) for name, plain in LOGIT_SCALES.items() if hasattr(alone, name)}
    scales = {name: scale for name, scale in scales.items() if scale != LOGIT_SCALES[name]}
    if scales and config.model_type not in UNSCALED + SCALED:
        told = ", ".join(f"{name} {scale}" for name, scale in scales.items())
        raise ValueError(
            f"text_config has model_type {config.model_type!r} around {alone.model_type!r} with {told}, and it is not "
            "known whether the whole scales its logits so, expected a causal language model, such as llama."
        )
    for name in scales if config.model_type in UNSCALED else ():
        setattr(alone, name, LOGIT_SCALES[name])
    return alone


def reject_misspelt(config: PreTrainedConfig, extra: dict[str, Any]):
    """Refuse an extra field that looks like a known one; others are kept, as every configuration does."""
    known = [field.name for field in dataclasses.fields(config)]
    for name in extra.keys() - config.attribute_map:
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.8)
        if near and not name.startswith("_"):
            raise ValueError(f"{name!r} is not an option of {type(config).__name__}; did you mean {near[0]}?")


def check_choice(name: str, value: Any, choices: tuple[str, ...]):
    if value not in choices:
        raise ValueError(f"{name} is {value!r}, expected one of {', '.join(map(repr, choices))}.")


def check_sizes(config: PreTrainedConfig, place: str = ""):
    """Refuse sizes out of [`SIZES`]; `place` is what messages put before the name of a field."""
    for name, (least, most) in SIZES.items():
        size = getattr(config, name, None)
        if isinstance(size, (int, float, str)) and not (type(size) is int and least <= size <= most):
            expected = f"{least} to {most}" if least < most else least
            raise ValueError(f"{place}{name} is {size!r}, expected {expected}.")


def check_scales(processor: Any, place: str = ""):
    """Refuse settings of a feature extractor, an image processor or an adapter that are out of [`SCALES`], NaN too.

    Args:
        place: what messages put before the name of a setting.
    """
    for name, (least, most) in SCALES.items():
        if not hasattr(processor, name):
            continue
        value = getattr(processor, name)
        if value is None and name in NEEDED_FOR and not getattr(processor, NEEDED_FOR[name], False):
            continue
        for number in value if isinstance(value, (list, tuple)) else (value,):
            is_number = isinstance(number, (int, float)) and not isinstance(number, bool)
            if not is_number or not least <= (abs(number) if name in SIGNED else number) <= most:
                raise ValueError(f"{place}{name} is {value!r:.80}, expected {least:g} to {most:g}.")


def check_positive(config: PreTrainedConfig, *names: str):
    """Refuse numbers of which zero, or less, has no meaning, NaN and infinity."""
    for name in names:
        if not 0 < getattr(config, name) < math.inf:
            raise ValueError(f"{name} is {getattr(config, name)}, expected a positive number.")


def check_multiples(config: PreTrainedConfig, place: str, pairs: tuple[tuple[str, str], ...]):
    """Refuse sizes that do not divide each other.

    Args:
        place: what messages put before the name of a field, such as `audio_config.`.
        pairs: names of a field and of the field that it must be a multiple of.
    """
    for multiple, divisor in pairs:
        if getattr(config, multiple) % getattr(config, divisor):
            raise ValueError(
                f"{place}{multiple} is {getattr(config, multiple)}, expected a multiple of {divisor} "
                f"({getattr(config, divisor)})."
            )
