# Copyright 2026 The LAVCap for Transformers authors. Licensed under the Apache License, Version 2.0.
"""Configuration of DALI: an audio tower whose tokens stand where an image captioner expects those of a picture."""

try:  # inside a package: the Hub's module cache
    from .cavmae_captioning import CavMaeConfig
    from .configuration_captioning import SoftTokenConfig, build_part, check_choice, check_positive
except ImportError:  # as a plain module: a clone, or after `pip install`
    from cavmae_captioning import CavMaeConfig
    from configuration_captioning import SoftTokenConfig, build_part, check_choice, check_positive

# After the shared configuration, which has looked at the version.
from transformers import AutoConfig, PreTrainedConfig


PROJECTORS = ("audio", "image")
ALIGNMENTS = ("mmd", "transport", "attentive_transport")
SOLVERS = ("exact", "entropic")
GENERATION, ALIGNMENT = "DaliForConditionalGeneration", "DaliForAlignment"

AUDIO = {"mode": "audio"}
CLIP_VIT_L_14_336 = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "image_size": 336,
    "patch_size": 14,
    "projection_dim": 768,
}
VICUNA_7B = {
    "vocab_size": 32000,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-5,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}


class DaliConfig(SoftTokenConfig):
    r"""
    Configuration of [`DaliForConditionalGeneration`] and of [`DaliForAlignment`]. The defaults are what was released
    with the paper (arXiv 2410.05997): CAV-MAE scale++, and LLaVA-1.5-7B.

    Args:
        audio_config (`CavMaeConfig` or `dict`): the audio tower, CAV-MAE's audio half.
        vision_config (`PreTrainedConfig` or `dict`): the image encoder, CLIP.
        vision_feature_layer (`int`): of the encoder's hidden states, which are the tokens of a picture; its class
            token is left out.
        projector_hidden_act (`str`): of the two-layer projectors.
        audio_projector (`str`): what sound goes through on its way to the language model: `"audio"`, a projector of
            its own, as after distillation; `"image"`, that of pictures, as before.
        has_audio_projector (`bool`): whether the model has such a projector; a fresh one begins as a copy of that of
            pictures, to be trained.
        use_prefix (`bool`): whether the learned vectors of prefix tuning follow a clip.
        has_prefix (`bool`): whether the model has such vectors; fresh ones are for training.
        num_prefix_tokens (`int`): how many there are.
        prefix_init_std (`float`): standard deviation of fresh ones.
        alignment (`str`): distance of sound and picture that [`DaliForAlignment`] makes small (paper, section 3.2):
            `"mmd"`, maximum mean discrepancy; `"transport"`, the cost of optimal transport between even weights;
            `"attentive_transport"`, between weights that two attentions give.
        transport_solver (`str`): `"exact"`, the linear program as released, on the CPU; `"entropic"`, Sinkhorn's
            iterations on the device of the tokens, which is not what was released.
        sinkhorn_epsilon (`float`), sinkhorn_iterations (`int`): of `"entropic"`; epsilon as a share of the mean cost.
        num_scorer_heads (`int`), scorer_temperature (`float`): of the attentions that give weights.
        entropy_weights (`list[float]`): factor of the weights' entropy by epoch, from the first on which the
            attentions are trained, the second; the last one counts from there on, and where no epoch is told.
        leaks_gradient (`bool`): `True`: the audio tower gets the gradient of the attentions' objective, too, as in
            the released training loop.
        others: of [`SoftTokenConfig`]; `text_config` defaults to Vicuna-7B.
    """

    model_type = "dali"
    sub_configs = {"audio_config": CavMaeConfig, "vision_config": AutoConfig, "text_config": AutoConfig}
    family = "DALI"
    feature_names = {"audio": ("input_features",), "video": ("pixel_values_videos",)}
    default_text = ("llama", VICUNA_7B)
    generation_class = f"modeling_dali.{GENERATION}"

    audio_config: dict | PreTrainedConfig | None = None
    vision_config: dict | PreTrainedConfig | None = None
    vision_feature_layer: int = -2
    projector_hidden_act: str = "gelu"
    audio_projector: str = "audio"
    has_audio_projector: bool = True
    use_prefix: bool = False
    has_prefix: bool = True
    num_prefix_tokens: int = 16
    prefix_init_std: float = 1e-4
    alignment: str = "attentive_transport"
    transport_solver: str = "exact"
    sinkhorn_epsilon: float = 0.01
    sinkhorn_iterations: int = 200
    num_scorer_heads: int = 8
    scorer_temperature: float = 20.0
    entropy_weights: list[float] | tuple[float, ...] = (500.0, 400.0, 300.0, 200.0, 100.0)
    leaks_gradient: bool = False

    def __post_init__(self, **kwargs):
        audio = self.audio_config
        audio = AUDIO | audio if isinstance(audio, dict) else audio
        self.audio_config = build_part("audio_config", audio, CavMaeConfig, AUDIO)
        self.vision_config = build_part("vision_config", self.vision_config, "clip_vision_model", CLIP_VIT_L_14_336)
        super().__post_init__(**kwargs)
        self.entropy_weights = list(self.entropy_weights)
        self.check()

    def check(self):
        super().check()
        check_choice("audio_projector", self.audio_projector, PROJECTORS)
        check_choice("alignment", self.alignment, ALIGNMENTS)
        check_choice("transport_solver", self.transport_solver, SOLVERS)
        if self.audio_config.modalities != ("audio",):
            raise ValueError(
                f"audio_config.mode is {self.audio_config.mode!r}, expected 'audio': pictures go to CLIP."
            )
        check_positive(self, "sinkhorn_epsilon", "scorer_temperature")
        if not self.entropy_weights:
            raise ValueError("entropy_weights is empty, expected at least one factor.")
        if self.audio_projector == "audio" and not self.has_audio_projector:
            raise ValueError(
                "audio_projector is 'audio', but this model has no projector for sound: pass audio_projector='image', "
                "or has_audio_projector=True to begin with a copy of that of pictures, for training."
            )
        if self.use_prefix and not self.has_prefix:
            raise ValueError(
                "use_prefix is True, but this model has no learned prefix: leave use_prefix out, or pass "
                "has_prefix=True to begin with fresh vectors, for training."
            )

    @property
    def num_audio_tokens(self) -> int:
        """Soft tokens of a sound."""
        return self.audio_config.num_audio_tokens

    @property
    def num_video_tokens(self) -> int:
        """Soft tokens of a picture."""
        return (self.vision_config.image_size // self.vision_config.patch_size) ** 2

    def part_origins(self) -> dict[str, str | None]:
        places = self.base_parts or {}
        own = {"audio encoder": places.get("audio"), "image encoder": places.get("vision") or self.vision_model_name}
        return super().part_origins() | own


DaliConfig.register_for_auto_class()

__all__ = ["CavMaeConfig", "DaliConfig"]
