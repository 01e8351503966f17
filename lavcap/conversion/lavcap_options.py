"""Options of the released LAVCap code, and what they are called here.

Source: Hyeongkeun/LAVCap (`configs/config_best.yaml`, `models/lavcaps.py`) and NAVER-INTEL-Co-Lab/gaudi-lavcap
(`configs/lavcap.yaml`). An option that a configuration leaves out has the default of the released `from_config`.
"""

import difflib
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transformers import PreTrainedConfig

from configuration_lavcap import LavcapAudioConfig, LavcapConfig
from lavcap.documents import parse_json, parse_yaml


_CONCAT_TIME, _CONCAT_CHANNEL, _CROSS_ATTENTION = (
    {"fusion": fusion, "optimal_transport": True, "transport_attention": "none"}
    for fusion in ("concat_time", "concat_channel", "cross_attention")
)
FUSION_TYPES = {
    "ot_tempcat_QAV_add": _CONCAT_TIME | {"transport_attention": "joint"},
    "ot_loss_temp_cat_QAV_add": _CONCAT_TIME | {"transport_attention": "joint"},  # in gaudi-lavcap's lavcap.yaml
    "ot_tempcat": _CONCAT_TIME,
    "ot_chancat": _CONCAT_CHANNEL,
    "ot_crossattn": _CROSS_ATTENTION,
    "tempcat": _CONCAT_TIME | {"optimal_transport": False},
    "chancat_bfQF": _CONCAT_CHANNEL | {"optimal_transport": False},
}
AUDIO_FIELDS = {
    "embed_dim": "hidden_size",
    "melbins": "num_mel_bins",
    "target_length": "max_frames",
    "depth": "num_hidden_layers",
    "num_heads": "num_attention_heads",
}
MODEL_FIELDS = {
    "spec_f_mean": "frequency_mean",
    "av_embed_norm": "token_layer_norm",
    "ot_loss_weight": "alignment_loss_weight",
    "num_sinkhorn_iter": "sinkhorn_iterations",
    "sinkhorn_epsilon": "sinkhorn_epsilon",
    "cross_attn_heads": "cross_attention_heads",
}
# Defaults of the released `from_config`, with their types; `depth`, `num_heads` and `cross_attn_heads` are constants
# of the released code.
RELEASED_DEFAULTS: dict[str, bool | int | float] = {
    "embed_dim": 768,
    "melbins": 128,
    "target_length": 1024,
    "depth": 12,
    "num_heads": 12,
    "cross_attn_heads": 12,
    "spec_f_mean": False,
    "av_embed_norm": False,
    "ot_loss_weight": 0.1,
    "num_sinkhorn_iter": 50,
    "sinkhorn_epsilon": 0.1,
    "use_exp_Q": False,
    "enc_lora_rank": 8,
    "enc_lora_alpha": 32,
    "enc_lora_dropout": 0.1,
    "dec_lora_rank": 8,
    "dec_lora_alpha": 32,
    "dec_lora_dropout": 0.1,
}
OTHERS = {
    "fusion_type", "llama", "enc_lora", "dec_lora", "lora_rank", "lora_alpha", "lora_dropout", "llama_decoder_path",
    "prompt_template", "vis_embed_dim", "use_speech_Qformer", "total_frame", "generate",
}  # fmt: skip
WITHOUT_EFFECT = {
    "encoder_path", "freeze_enc", "ckpt", "resume_from", "n_class", "prompt_ratio", "num_speech_query_token",
    "freeze_speech_QFormer", "window_level_Qformer", "second_per_window", "second_stride", "speech_llama_proj_model",
    "freeze_speech_llama_proj", "multi_prompt", "prompt_path", "test_prompt_path", "max_txt_len", "end_sym",
    "loss_type", "padding_idx", "low_resource", "device_8bit",
}  # fmt: skip
KINDS = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    dict: "an object of options",
}
DECODING_OPTIONS = ("num_beams", "max_new_tokens", "do_sample", "repetition_penalty", "length_penalty")


@dataclass
class ReleasedOptions:
    """A released configuration.

    Args:
        model: the `model` section, by released names.
        generate: the `generate` section.
        num_video_frames: `total_frame` of the `datasets` section.
    """

    model: dict[str, Any]
    generate: dict[str, Any] = field(default_factory=dict)
    num_video_frames: int = 20

    def __post_init__(self):
        self._check_kinds()
        self._check_names()
        self._check_values()
        if self.get("fusion_type") not in FUSION_TYPES:
            raise ValueError(f"fusion_type is {self.get('fusion_type')!r}, expected one of {', '.join(FUSION_TYPES)}.")
        if self.get("use_speech_Qformer"):
            raise ValueError("use_speech_Qformer is on, expected off: the variants with a Q-Former are not ported.")
        if self.get("vis_embed_dim") not in (None, self["embed_dim"]):
            raise ValueError(
                f"vis_embed_dim is {self.get('vis_embed_dim')} and embed_dim {self['embed_dim']}, expected equal "
                "widths: audio and video tokens are compared."
            )

    @classmethod
    def read(cls, path: str | Path) -> "ReleasedOptions":
        """From the released YAML, or the same options as JSON; `llama` may hold a Llama configuration.

        Raises:
            ValueError: no configuration, or an option that is unknown or has a bad value.
        """
        content = _read(Path(path))
        sections = content if isinstance(content.get("model"), dict) else {"model": content}
        model = {"llama": sections["llama"]} | sections["model"] if "llama" in sections else dict(sections["model"])
        generate = sections.get("generate") or model.get("generate") or {}
        datasets = sections.get("datasets")
        frames = datasets.get("total_frame") if isinstance(datasets, dict) else None
        frames = model.get("total_frame", 20) if frames is None else frames
        try:
            return cls(model, generate, frames)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error

    def get(self, name: str) -> Any:
        return self.model.get(name)

    def __getitem__(self, name: str) -> Any:
        """Value of an option of `RELEASED_DEFAULTS`, with its default."""
        for spelling in (name, name.removeprefix("enc_"), name.removeprefix("dec_")):
            if self.model.get(spelling) is not None:
                return type(RELEASED_DEFAULTS[name])(self.model[spelling])
        if name == "cross_attn_heads":
            return max(1, self["embed_dim"] // 64)
        return RELEASED_DEFAULTS[name]

    @property
    def llama(self) -> dict[str, Any] | None:
        """Configuration of the language model, if there is one."""
        fields = self.get("llama")
        # YAML 1.1 takes 1e-05 for a word.
        return None if fields is None else {name: _number(value) for name, value in fields.items()}

    @property
    def base_name(self) -> str | None:
        """Last part of the path that the language model was loaded from."""
        path = self.get("llama_decoder_path")
        return Path(path).name if path else None

    @property
    def defaults_taken(self) -> dict[str, bool | int | float]:
        """Options of the architecture that the configuration leaves to the released defaults."""
        constants = ("depth", "num_heads", "cross_attn_heads")
        names = [name for name in RELEASED_DEFAULTS if "lora" not in name and name not in constants]
        return {name: self[name] for name in names if self.get(name) is None}

    @property
    def loras(self) -> dict[str, "ReleasedLora"]:
        """Options of both LoRAs, by our name of the part."""
        return {
            part: ReleasedLora(
                on=self.get(f"{kind}_lora"),
                rank=self[f"{kind}_lora_rank"],
                alpha=self[f"{kind}_lora_alpha"],
                dropout=self[f"{kind}_lora_dropout"],
            )
            for part, kind in {"audio_tower": "enc", "language_model": "dec"}.items()
        }

    @property
    def audio_fields(self) -> dict[str, int]:
        """Fields of `LavcapAudioConfig`."""
        fields = {ours: self[name] for name, ours in AUDIO_FIELDS.items()}
        return fields | {"intermediate_size": 4 * fields["hidden_size"]}

    @property
    def decoding(self) -> dict[str, Any]:
        """Keywords of `GenerationConfig` that the configuration has."""
        return {name: self.generate[name] for name in DECODING_OPTIONS if self.generate.get(name) is not None}

    @property
    def prompt(self) -> dict[str, str]:
        """Keywords of `LavcapProcessor` for the prompt."""
        template = self.get("prompt_template")
        return {"prompt": template.replace("{}", "<Speech>{av}</Speech> {instruction}")} if template else {}

    def to_config(self, vision_config: PreTrainedConfig | None, **fields) -> LavcapConfig:
        """Our configuration; `fields` are those that the released one does not know."""
        audio_config = LavcapAudioConfig(**self.audio_fields)
        if vision_config is None and self["embed_dim"] != 768:  # not CLIP ViT-L/14's, which is the default
            vision_config = {"projection_dim": self["embed_dim"]}
        fusion = FUSION_TYPES[self.get("fusion_type")]
        options = {ours: self[name] for name, ours in MODEL_FIELDS.items()}
        if fusion["fusion"] != "cross_attention":
            options.pop("cross_attention_heads")
        config = {"audio_config": audio_config, "vision_config": vision_config}
        config |= fusion | options | {"alignment_weights": "plan" if self["use_exp_Q"] else "log_plan"}
        config["num_video_frames"] = self._frames_that_fit(audio_config, fusion["fusion"])
        return LavcapConfig(**(config | fields))

    def _frames_that_fit(self, audio_config: LavcapAudioConfig, fusion: str) -> int:
        """The released frames; not more than audio tokens where they share a channel, as in a short window."""
        if fusion != "concat_channel":
            return self.num_video_frames
        rows = 1 if self["spec_f_mean"] else audio_config.num_frequency_patches
        return min(self.num_video_frames, rows * audio_config.num_time_patches)

    def _check_kinds(self):
        known = {"fusion_type": str, "prompt_template": str, "llama_decoder_path": str, "llama": dict}
        known |= {"enc_lora": bool, "dec_lora": bool, "use_speech_Qformer": bool}
        for name, kind in known.items():
            if not isinstance(self.model.get(name), (kind, type(None))):
                raise ValueError(f"{name} is {self.model[name]!r}, expected {KINDS[kind]}.")
        template = self.get("prompt_template")
        if template is not None and template.count("{}") != 1:
            raise ValueError(f"prompt_template is {template!r}, expected one {{}} in it.")
        if not isinstance(self.generate, dict):
            raise ValueError(f"generate is {self.generate!r}, expected an object of options.")
        counts = {"total_frame": self.num_video_frames}
        counts |= {name: self.generate[name] for name in ("num_beams", "max_new_tokens") if self.generate.get(name)}
        for name, value in counts.items():
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} is {value!r}, expected {KINDS[int]} of at least 1.")

    def _check_names(self):
        known = RELEASED_DEFAULTS.keys() | OTHERS | WITHOUT_EFFECT
        for name in self.model:
            if name not in known:
                near = difflib.get_close_matches(str(name), known, n=1)
                hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(sorted(known))}."
                raise ValueError(f"{name!r} is not an option of the released LAVCap; {hint}")

    def _check_values(self):
        shared = {name: RELEASED_DEFAULTS[f"enc_{name}"] for name in ("lora_rank", "lora_alpha", "lora_dropout")}
        for name, default in (RELEASED_DEFAULTS | shared).items():
            value = self.model.get(name)
            if value is not None and not _fits(value, type(default)):
                raise ValueError(f"{name} is {value!r}, expected {KINDS[type(default)]}.")


@dataclass(frozen=True)
class ReleasedLora:
    """Options of one LoRA; `on` is `None` where the configuration does not say."""

    on: bool | None
    rank: int
    alpha: int
    dropout: float

    @property
    def scale(self) -> float:
        """What the product of its matrices is multiplied by."""
        return self.alpha / self.rank


def _number(value: Any) -> Any:
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


def _fits(value: Any, kind: type) -> bool:
    """Whether an option has a value of its kind; whole numbers are counts, other numbers not negative."""
    if kind is bool or isinstance(value, bool):
        return kind is bool and isinstance(value, bool)
    try:
        number = float(value)
    except (TypeError, ValueError):
        return False
    if not math.isfinite(number):
        return False
    return number >= 1 and number == int(number) if kind is int else number >= 0


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ValueError(f"{path}: no such file; expected the released YAML, or the same options as JSON.")
    try:
        text = path.read_text(encoding="utf-8")
        content = parse_json(text) if path.suffix == ".json" else parse_yaml(text)
    except ValueError as error:
        raise ValueError(f"{path}: neither YAML nor JSON ({error}).") from error
    if not isinstance(content, dict) or not content:
        raise ValueError(f"{path}: holds no options, expected the released YAML with its `model` section, or JSON.")
    return content
