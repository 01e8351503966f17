# Copyright 2026 The LAVCap for Transformers authors. Licensed under the Apache License, Version 2.0.
"""CAV-MAE (Gong et al., arXiv 2210.07839): one encoder of sound and picture, each apart and both together.

Axes are spelled `batch, frames, mel, audio_tokens, video_tokens, hidden`. A clip takes one of three ways: with both
modalities its tokens go side by side through the joint layers, with one of them they go through the same layers with
LayerNorms of their own.
"""

from dataclasses import dataclass

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.processing_utils import Unpack
from transformers.utils import ModelOutput, TransformersKwargs


try:  # inside a package: the Hub's module cache
    from .configuration_captioning import check_choice, check_multiples, check_sizes, reject_misspelt
    from .position_tables_captioning import grid_positions, video_positions
    from .precision_captioning import FloatConv2d, FloatConv3d, FloatLayerNorm
    from .vit_captioning import VitAttention, VitLayer
except ImportError:  # as a plain module: a clone, or after `pip install`
    from configuration_captioning import check_choice, check_multiples, check_sizes, reject_misspelt
    from position_tables_captioning import grid_positions, video_positions
    from precision_captioning import FloatConv2d, FloatConv3d, FloatLayerNorm
    from vit_captioning import VitAttention, VitLayer

# After the configuration, which has looked at the version: an older Transformers lacks them.
from transformers import initialization as init
from transformers.utils.output_capturing import capture_outputs


MODALITIES = {"audio_visual": ("audio", "video"), "audio": ("audio",), "video": ("video",)}  # by mode
POSITION_GRIDS = ("space_time", "square")
PATCHED = {"audio": ("num_mel_bins", "max_frames"), "video": ("image_size",)}  # sizes that are cut into patches
TUBELET = 2  # frames that a patch of several frames covers


class CavMaeConfig(PreTrainedConfig):
    r"""
    Configuration of [`CavMaeModel`]. The defaults are CAV-MAE's base size with the pictures of one frame.

    Args:
        mode (`str`): what is encoded: `"audio_visual"`, both and either alone; `"audio"` or `"video"` alone, and then
            nothing is built for the other.
        hidden_size (`int`), intermediate_size (`int`), num_attention_heads (`int`): of every layer.
        num_modality_layers (`int`): layers that each modality has for itself.
        num_joint_layers (`int`): layers after them, for both.
        num_mel_bins (`int`), max_frames (`int`): size of the filter bank, in bands and in frames of 10 ms.
        image_size (`int`): edge of the square frames, in pixels.
        num_video_frames (`int`): frames of a clip. One is cut into square patches, of more each patch covers two,
            and of an odd number the last is left out.
        patch_size (`int`): edge of a patch, in bands and frames of the filter bank and in pixels.
        video_position_grid (`str`): what the positions of several frames begin as, where they are not loaded.
            `"space_time"` tells row, column and time of a patch; `"square"` is the released constructor's table: that
            of a square of as many patches, or random where their number is no square.
        hidden_act (`str`), layer_norm_eps (`float`), hidden_dropout (`float`), attention_dropout (`float`),
            initializer_range (`float`): as of every transformer.
    """

    model_type = "cav_mae"
    attribute_map = {"layer_norm_epsilon": "layer_norm_eps"}

    mode: str = "audio_visual"
    hidden_size: int = 768
    intermediate_size: int = 3072
    num_attention_heads: int = 12
    num_modality_layers: int = 11
    num_joint_layers: int = 1
    num_mel_bins: int = 128
    max_frames: int = 1024
    image_size: int = 224
    num_video_frames: int = 1
    patch_size: int = 16
    video_position_grid: str = "space_time"
    hidden_act: str = "gelu"
    layer_norm_eps: float = 1e-5
    hidden_dropout: float = 0.0
    attention_dropout: float = 0.0
    initializer_range: float = 0.02

    def __post_init__(self, **kwargs):
        reject_misspelt(self, kwargs)
        super().__post_init__(**kwargs)
        self.auto_map = {
            "AutoConfig": "cavmae_captioning.CavMaeConfig",
            "AutoModel": "cavmae_captioning.CavMaeModel",
        }
        check_choice("mode", self.mode, tuple(MODALITIES))
        check_choice("video_position_grid", self.video_position_grid, POSITION_GRIDS)
        check_sizes(self, "CavMaeConfig.")
        patched = (name for modality in self.modalities for name in PATCHED[modality])
        sizes = (("hidden_size", "num_attention_heads"), *((name, "patch_size") for name in patched))
        check_multiples(self, "CavMaeConfig.", sizes)
        if self.hidden_size % 4:
            raise ValueError(
                f"CavMaeConfig.hidden_size is {self.hidden_size}, expected a multiple of 4: a quarter of it "
                "each are sines and cosines of the row and of the column of a patch."
            )

    @property
    def modalities(self) -> tuple[str, ...]:
        """What is encoded."""
        return MODALITIES[self.mode]

    @property
    def num_hidden_layers(self) -> int:
        """Layers that a clip with both modalities goes through."""
        return len(self.modalities) * self.num_modality_layers + self.num_joint_layers

    @property
    def audio_grid(self) -> tuple[int, int]:
        """Patches of the filter bank: bands, times."""
        return self.num_mel_bins // self.patch_size, self.max_frames // self.patch_size

    @property
    def video_grid(self) -> tuple[int, int, int]:
        """Patches of the frames: times, rows, columns."""
        side = self.image_size // self.patch_size
        return max(1, self.num_video_frames // TUBELET), side, side

    @property
    def num_audio_tokens(self) -> int:
        return self.audio_grid[0] * self.audio_grid[1]

    @property
    def num_video_tokens(self) -> int:
        times, rows, columns = self.video_grid
        return times * rows * columns


@dataclass
class CavMaeOutput(ModelOutput):
    """Tokens of a batch of clips.

    Args:
        last_hidden_state (`torch.FloatTensor` of shape `(batch, tokens, hidden)`): tokens of each clip from the left,
            audio before video; zeros beyond `token_counts`. In float32 or better.
        token_counts (`torch.LongTensor` of shape `(batch,)`): how many tokens each clip has.
        hidden_states, attentions: of every layer, where asked for.
    """

    last_hidden_state: torch.Tensor | None = None
    token_counts: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None


class CavMaeJointLayer(VitLayer):
    """Layer whose attention and MLP serve every way, each of which has LayerNorms of its own."""

    def __init__(self, config: CavMaeConfig, ways: tuple[str, ...]):
        super().__init__(config)
        self.layer_norm1, self.layer_norm2 = _norms(config, ways), _norms(config, ways)

    def forward(self, hidden_states: torch.Tensor, way: str, **kwargs: Unpack[TransformersKwargs]) -> torch.Tensor:
        return self._through(hidden_states, self.layer_norm1[way], self.layer_norm2[way], **kwargs)


class CavMaePreTrainedModel(PreTrainedModel):
    config: CavMaeConfig
    base_model_prefix = ""
    input_modalities = ("audio", "video")
    supports_gradient_checkpointing = True
    _no_split_modules = ["VitLayer", "CavMaeJointLayer"]
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_record_outputs = {"hidden_states": VitLayer, "attentions": VitAttention}

    @torch.no_grad()
    def _init_weights(self, module: nn.Module):
        super()._init_weights(module)
        if not isinstance(module, CavMaeModel):
            return
        config = module.config
        for kind in config.modalities:
            init.normal_(getattr(module, f"{kind}_modality_embed"), std=config.initializer_range)
            # As a linear layer of the patch, as the released `initialize_weights` has it.
            weight = getattr(module, f"{kind}_patch_embed").weight
            init.xavier_uniform_(weight.view(weight.shape[0], -1))
        if "audio" in config.modalities:
            init.copy_(module.audio_pos_embed, grid_positions(config.hidden_size, *config.audio_grid)[None])
        if "video" in config.modalities:
            table = video_positions(config.hidden_size, config.video_grid, config.video_position_grid)
            if table is None:
                init.normal_(module.video_pos_embed, std=config.initializer_range)
            else:
                init.copy_(module.video_pos_embed, table[None])


class CavMaeModel(CavMaePreTrainedModel):
    """CAV-MAE's encoder without the decoder of its pretraining."""

    main_input_name = "input_features"

    def __init__(self, config: CavMaeConfig):
        super().__init__(config)
        width, patch = config.hidden_size, config.patch_size
        # Only what is used: a parameter without gradient stops plain data parallelism.
        if "audio" in config.modalities:
            self.audio_patch_embed = FloatConv2d(1, width, kernel_size=patch, stride=patch)
            self.audio_pos_embed = nn.Parameter(torch.zeros(1, config.num_audio_tokens, width))
            self.audio_modality_embed = nn.Parameter(torch.zeros(1, 1, width))
            self.audio_layers = _layers(config)
        if "video" in config.modalities:
            if config.num_video_frames == 1:
                self.video_patch_embed = FloatConv2d(3, width, kernel_size=patch, stride=patch)
            else:
                tube = (TUBELET, patch, patch)
                self.video_patch_embed = FloatConv3d(3, width, kernel_size=tube, stride=tube)
            self.video_pos_embed = nn.Parameter(torch.zeros(1, config.num_video_tokens, width))
            self.video_modality_embed = nn.Parameter(torch.zeros(1, 1, width))
            self.video_layers = _layers(config)
        self.ways = config.modalities if len(config.modalities) == 1 else ("joint", *config.modalities)
        self.joint_layers = nn.ModuleList(CavMaeJointLayer(config, self.ways) for _ in range(config.num_joint_layers))
        self.layer_norm = _norms(config, self.ways)
        self.gradient_checkpointing = False
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return getattr(self, f"{self.config.modalities[0]}_patch_embed")

    @capture_outputs(tie_last_hidden_states=False)
    def forward(
        self,
        input_features: torch.Tensor | None = None,
        pixel_values_videos: torch.Tensor | None = None,
        audio_mask: torch.Tensor | None = None,
        video_mask: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> CavMaeOutput:
        """Encode a batch of clips; where only one modality is given, each clip takes the way of that one.

        Args:
            input_features: normalised log-mel, `(batch, max_frames, mel)`, floating point.
            pixel_values_videos: `(batch, video_frames, 3, height, width)`, normalised, also of one frame.
            audio_mask, video_mask: `(batch,)` bool, whether a clip has the modality; default: all have.

        Raises:
            ValueError: a modality that is not encoded, or none; features of another shape.
        """
        given = {"audio": input_features, "video": pixel_values_videos}
        given = {kind: features for kind, features in given.items() if features is not None}
        self._check(given)
        tokens = {kind: self._embed(kind, features, **kwargs) for kind, features in given.items()}
        if len(tokens) == 1:
            ((kind, alone),) = tokens.items()
            encoded = self._together(alone, kind, **kwargs)
            return self._packed(encoded, audio_mask if kind == "audio" else video_mask)
        return self._mixed(tokens["audio"], tokens["video"], audio_mask, video_mask, **kwargs)

    def _check(self, given: dict[str, torch.Tensor]):
        config, frames = self.config, self.config.num_video_frames
        if not given:
            raise ValueError("Got neither input_features nor pixel_values_videos, expected at least one of them.")
        if others := given.keys() - set(config.modalities):
            raise ValueError(
                f"Got features of the {' and the '.join(sorted(others))}, but this encoder takes "
                f"{config.modalities[0]} alone (mode is {config.mode!r}): leave them out."
            )
        shapes = {
            "audio": ("input_features", (config.max_frames, config.num_mel_bins), "(batch, frames, mel)"),
            "video": (
                "pixel_values_videos",
                (frames, 3, config.image_size, config.image_size),
                "(batch, video_frames, 3, height, width)",
            ),
        }
        for kind, features in given.items():
            name, shape, axes = shapes[kind]
            if features.shape[1:] != shape:
                sizes = ", ".join(map(str, shape))
                raise ValueError(
                    f"{name} has shape {tuple(features.shape)}, expected (batch, {sizes}), which is {axes}: let the "
                    "model's processor make them."
                )

    def _embed(self, kind: str, features: torch.Tensor, **kwargs: Unpack[TransformersKwargs]) -> torch.Tensor:
        """Tokens of one modality after its own layers, `(batch, tokens, hidden)`."""
        if kind == "audio":
            features = features.transpose(1, 2).unsqueeze(1)  # (batch, 1, mel, frames): bands before times
        elif self.config.num_video_frames == 1:
            features = features.squeeze(1)
        else:
            features = features.transpose(1, 2)  # (batch, 3, video_frames, height, width)
        patches = getattr(self, f"{kind}_patch_embed")(features).flatten(2).transpose(1, 2)
        hidden_states = patches + getattr(self, f"{kind}_pos_embed") + getattr(self, f"{kind}_modality_embed")
        for layer in getattr(self, f"{kind}_layers"):
            hidden_states = layer(hidden_states, **kwargs)
        return hidden_states

    def _together(self, hidden_states: torch.Tensor, way: str, **kwargs: Unpack[TransformersKwargs]) -> torch.Tensor:
        for layer in self.joint_layers:
            hidden_states = layer(hidden_states, way, **kwargs)
        return self.layer_norm[way](hidden_states)

    def _packed(self, hidden_states: torch.Tensor, mask: torch.Tensor | None = None) -> CavMaeOutput:
        """Output where all clips take one way; a clip that lacks its modality has no tokens."""
        counts = torch.full((len(hidden_states),), hidden_states.shape[1], device=hidden_states.device)
        if mask is not None:
            mask = mask.to(hidden_states.device, torch.bool)
            hidden_states, counts = hidden_states * mask[:, None, None], counts * mask
        return CavMaeOutput(last_hidden_state=hidden_states, token_counts=counts)

    def _mixed(
        self,
        audio: torch.Tensor,
        video: torch.Tensor,
        audio_mask: torch.Tensor | None,
        video_mask: torch.Tensor | None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> CavMaeOutput:
        """Send each clip its way.

        In training every way is gone, if with a clip that is none of it and counts for nothing: what runs, and what
        gets a gradient, must not depend on which clips a process has.
        """
        both = torch.cat([audio, video], dim=1)
        if audio_mask is None and video_mask is None and not self.training:
            return self._packed(self._together(both, "joint", **kwargs))
        everyone = torch.ones(len(both), dtype=torch.bool, device=both.device)
        heard, seen = (everyone if mask is None else mask.to(everyone) for mask in (audio_mask, video_mask))
        ways = (("joint", both, heard & seen), ("audio", audio, heard & ~seen), ("video", video, seen & ~heard))
        tokens, counts = torch.zeros_like(both), torch.zeros_like(everyone, dtype=torch.long)
        for way, hidden_states, members in ways:
            if members.any():
                encoded = self._together(hidden_states[members], way, **kwargs)
                padding = (0, 0, 0, both.shape[1] - encoded.shape[1])
                tokens = tokens.index_put((members,), nn.functional.pad(encoded, padding).to(tokens.dtype))
                counts = counts.masked_fill(members, encoded.shape[1])
            elif self.training:
                tokens = tokens + 0.0 * self._together(hidden_states[:1], way, **kwargs).sum()
        return CavMaeOutput(last_hidden_state=tokens, token_counts=counts)


def _norms(config: CavMaeConfig, ways: tuple[str, ...]) -> nn.ModuleDict:
    return nn.ModuleDict({way: FloatLayerNorm(config.hidden_size, eps=config.layer_norm_eps) for way in ways})


def _layers(config: CavMaeConfig) -> nn.ModuleList:
    return nn.ModuleList(VitLayer(config) for _ in range(config.num_modality_layers))


CavMaeConfig.register_for_auto_class()
CavMaeModel.register_for_auto_class("AutoModel")

__all__ = ["CavMaeConfig", "CavMaeModel", "CavMaeOutput"]
