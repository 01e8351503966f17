"""A second family, as small as one can be: another encoder, one frame, another loss. The tools know nothing of it."""

from dataclasses import dataclass

import torch
from torch import nn
from transformers import AutoModelForCausalLM
from transformers.utils import can_return_tuple


try:
    from .configuration_captioning import SoftTokenConfig
    from .feature_extraction_captioning import FilterBankFeatureExtractor
    from .modeling_captioning import CaptioningOutput, SoftTokenModel, SoftTokens, register_family
    from .processing_captioning import clip_image_processor, register_processor
    from .prompts_captioning import SoftTokenProcessor
except ImportError:
    from configuration_captioning import SoftTokenConfig
    from feature_extraction_captioning import FilterBankFeatureExtractor
    from modeling_captioning import CaptioningOutput, SoftTokenModel, SoftTokens, register_family
    from processing_captioning import clip_image_processor, register_processor
    from prompts_captioning import SoftTokenProcessor


class SecondConfig(SoftTokenConfig):
    model_type = "second"
    family = "Second"
    feature_names = {"audio": ("input_features",), "video": ("pixel_values_videos",)}
    generation_class = "modeling_second.SecondModel"
    num_mel_bins: int = 32
    max_frames: int = 400
    stillness_weight: float = 0.5


@dataclass
class SecondTokens(SoftTokens):
    stillness_loss: torch.Tensor | None = None


@dataclass
class SecondOutput(CaptioningOutput):
    stillness_loss: torch.Tensor | None = None


class SecondModel(SoftTokenModel):
    config: SecondConfig
    output_class, clip_outputs = SecondOutput, ("stillness_loss",)
    part_names, fresh_part_names = ("ear", "eye", "language_model"), ("ear", "eye")
    loss_terms = {"caption_loss": "tokens", "stillness_loss": "clips"}
    resume_fields = ("num_mel_bins",)

    def __init__(self, config: SecondConfig):
        super().__init__(config)
        self.ear = nn.Linear(config.num_mel_bins, config.text_config.hidden_size)
        self.eye = nn.Linear(3, config.text_config.hidden_size)
        self.language_model = AutoModelForCausalLM.from_config(config.text_config)
        self.post_init()

    def get_soft_tokens(self, input_features=None, pixel_values_videos=None, audio_mask=None, video_mask=None):
        given = input_features if input_features is not None else pixel_values_videos
        blank = given.new_zeros(len(given), self.config.text_config.hidden_size)
        heard = blank if input_features is None else self.ear(input_features.mean(dim=1))
        seen = blank if pixel_values_videos is None else self.eye(pixel_values_videos.mean(dim=(1, 3, 4)))
        tokens = [
            token if mask is None else token * mask[:, None]
            for token, mask in ((heard, audio_mask), (seen, video_mask))
        ]
        counts = torch.full((len(given),), 2, device=given.device)
        loss = self.config.stillness_weight * heard.square().mean()
        return SecondTokens(torch.stack(tokens, dim=1), counts, counts.sum() // 2, loss)

    @can_return_tuple
    def forward(self, input_ids=None, attention_mask=None, input_features=None, pixel_values_videos=None,
                audio_mask=None, video_mask=None, soft_tokens=None, soft_token_counts=None, labels=None,
                inputs_embeds=None, num_items_in_batch=None, num_clips_in_batch=None, **kwargs):  # fmt: skip
        features = {"input_features": input_features, "pixel_values_videos": pixel_values_videos}
        features |= {"audio_mask": audio_mask, "video_mask": video_mask}
        clips = SoftTokens(soft_tokens, soft_token_counts)
        given = (features, input_ids, inputs_embeds, clips, labels, num_items_in_batch, num_clips_in_batch)
        return self._caption(*given, attention_mask=attention_mask, **kwargs)


class SecondProcessor(SoftTokenProcessor):
    config_class = SecondConfig

    @classmethod
    def from_config(cls, config, tokenizer, **kwargs):
        extractor = FilterBankFeatureExtractor(feature_size=config.num_mel_bins, max_frames=config.max_frames)
        return cls(extractor, clip_image_processor(16), tokenizer, num_video_frames=1, **kwargs)

    def num_soft_tokens(self, audio, video, video_tokens=None):
        return 2


for kind in (SecondConfig, SecondProcessor):
    kind.register_for_auto_class()
SecondModel.register_for_auto_class("AutoModel")
if __name__ == "modeling_second":
    register_family(SecondConfig, SecondModel)
    register_processor(SecondConfig, SecondProcessor, FilterBankFeatureExtractor)
