"""Options of the released AVCap code, and what they are called here.

Source: JongSuk1/AVCap (`models/cav_mae.py`, `models/avcap.py`, GIT's `TransformerDecoderTextualHead`). A checkpoint
tells its sizes; options are needed where it was trained with others than the published ones.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transformers import PreTrainedConfig

from lavcap.arguments import reject_unknown
from lavcap.documents import parse_json, read_bytes, reason_of


MODES = {"captioning": "audio_visual", "audio_captioning": "audio", "video_captioning": "video"}
ENCODER_FIELDS = {
    "img_size": "image_size",
    "audio_length": "max_frames",
    "patch_size": "patch_size",
    "embed_dim": "hidden_size",
    "modality_specific_depth": "num_modality_layers",
    "num_heads": "num_attention_heads",
    "num_frames": "num_video_frames",
}
DECODER_FIELDS = {
    "vocab_size": "vocab_size",
    "hidden_size": "hidden_size",
    "num_layers": "num_hidden_layers",
    "attention_heads": "num_attention_heads",
    "feedforward_size": "intermediate_size",
    "max_caption_length": "max_position_embeddings",
    "embedding_norm_eps": "embedding_norm_eps",
    "norm_eps": "layer_norm_eps",
    "padding_idx": "pad_token_id",
}
# What a checkpoint does not tell, or not apart from something else.
ENCODER_CHOICES = ("image_size", "num_attention_heads", "num_video_frames")
DECODER_CHOICES = ("num_attention_heads", "embedding_norm_eps", "layer_norm_eps", "pad_token_id")
WITHOUT_EFFECT = ("label_dim", "in_chans", "mlp_ratio", "tr_pos", "av_feature_size", "projection_norm_eps")
SECTIONS = ("mode", "label_smoothing", "pad_index", "sos_index", "eos_index", "encoder", "decoder", "search")
SEARCH = {"max_steps": "max_length", "beam_size": "num_beams", "length_penalty": "length_penalty"}


@dataclass
class AvcapOptions:
    """Released options: `mode`, `label_smoothing`, special ids, and those of `encoder`, `decoder` and `search`."""

    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self):
        reject_unknown("an option of AVCap", self.options, SECTIONS)
        reject_unknown("an option of the encoder", self._section("encoder"), {*ENCODER_FIELDS, *WITHOUT_EFFECT})
        reject_unknown("an option of the decoder", self._section("decoder"), {*DECODER_FIELDS, *WITHOUT_EFFECT})
        known = {*SEARCH, "per_node_beam_size", "max_steps_short"}
        reject_unknown("an option of the search", self._section("search"), known)
        if self._section("search").get("per_node_beam_size", 2) != 2:
            raise ValueError("search.per_node_beam_size is other than 2, expected 2: the search here has no other.")
        mode = self.options.get("mode", "captioning")
        if mode not in MODES:
            raise ValueError(f"mode is {mode!r}, expected one of {', '.join(map(repr, MODES))}.")

    @classmethod
    def read(cls, path: str | Path | None, part: str | None = None) -> "AvcapOptions":
        """From a JSON file; of a `part` alone the file may hold its section alone.

        Raises:
            ValueError: no JSON object, or an option that is unknown or has a bad value.
        """
        if path is None:
            return cls()
        try:
            options = parse_json(read_bytes(path))
            if not isinstance(options, dict):
                raise ValueError(f"holds {type(options).__name__}, expected an object of options.")
            if part is not None and options.keys().isdisjoint(SECTIONS):
                options = {"encoder" if part == "av_encoder." else "decoder": options}
            return cls(options)
        except (OSError, ValueError) as error:
            raise ValueError(f"{path}: {reason_of(error)}") from error

    def _section(self, name: str) -> dict[str, Any]:
        section = self.options.get(name) or {}
        if not isinstance(section, dict):
            raise ValueError(f"{name} is {section!r}, expected an object of options.")
        return section

    @property
    def encoder_fields(self) -> dict[str, Any]:
        """Fields of `CavMaeConfig` that no tensor tells."""
        fields = _renamed(self._section("encoder"), ENCODER_FIELDS)
        fields = {name: value for name, value in fields.items() if name in ENCODER_CHOICES}
        return fields | {"mode": MODES[self.options.get("mode", "captioning")]}

    @property
    def text_fields(self) -> dict[str, Any]:
        """Fields of `GitTextConfig` that no tensor tells."""
        fields = _renamed(self._section("decoder"), DECODER_FIELDS)
        fields = {name: value for name, value in fields.items() if name in DECODER_CHOICES}
        names = {"pad_index": "pad_token_id", "sos_index": "bos_token_id", "eos_index": "eos_token_id"}
        return fields | _renamed(self.options, names)

    @property
    def model_fields(self) -> dict[str, Any]:
        """Fields of `AvcapConfig`."""
        names = {"projection_norm_eps": "projector_norm_eps"}
        return _renamed(self.options, {"label_smoothing": "label_smoothing"}) | _renamed(
            self._section("decoder"), names
        )

    @property
    def decoding(self) -> dict[str, Any]:
        """Keywords of `generate` that the options have."""
        return _renamed(self._section("search"), SEARCH)

    def check_encoder(self, config: PreTrainedConfig, told: Mapping[str, Any]):
        """Refuse options that contradict the sizes of the tensors."""
        options = self._section("encoder")
        _check_told("encoder", options, ENCODER_FIELDS, told, ENCODER_CHOICES)
        ratio, own = options.get("mlp_ratio"), config.intermediate_size / config.hidden_size
        if ratio not in (None, own):
            raise ValueError(f"encoder.mlp_ratio is {ratio}, expected {own:g}, as the checkpoint has it.")

    def check_decoder(self, config: PreTrainedConfig, told: Mapping[str, Any]):
        """Refuse options that contradict the sizes of the tensors."""
        _check_told("decoder", self._section("decoder"), DECODER_FIELDS, told, DECODER_CHOICES)


def _renamed(options: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    return {ours: options[name] for name, ours in names.items() if options.get(name) is not None}


def _check_told(
    section: str,
    options: Mapping[str, Any],
    names: Mapping[str, str],
    told: Mapping[str, Any],
    choices: tuple[str, ...],
):
    for name, ours in names.items():
        if name in options and ours not in choices and options[name] != told[ours]:
            raise ValueError(
                f"{section}.{name} is {options[name]}, expected {told[ours]}, as the checkpoint has it: pass the "
                "options that it was trained with."
            )
