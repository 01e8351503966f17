"""`torch.export` of the encoder and the fusion: one graph from features to soft tokens, for any batch."""

import pytest
import torch
from clips import clip_inputs
from tiny_models import tiny_model
from torch import nn


pytestmark = pytest.mark.slow


class Encoder(nn.Module):
    """Features in, soft tokens and how many there are of them out."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, input_features, pixel_values_videos):
        clips = self.model.get_soft_tokens(input_features, pixel_values_videos)
        return clips.soft_tokens, clips.soft_token_counts


@torch.no_grad()
@pytest.mark.parametrize("attention", ["concat_time", "concat_channel", "cross_attention"])
def test_an_exported_encoder_gives_the_soft_tokens_of_the_model(attention, tmp_path):
    model = tiny_model(fusion=attention, num_video_frames=3)
    inputs = clip_inputs(model, frames=3)
    features = (inputs["input_features"], inputs["pixel_values_videos"])
    batch = torch.export.Dim("batch", min=1, max=64)
    exported = torch.export.export(Encoder(model), features, dynamic_shapes=({0: batch}, {0: batch}))
    torch.export.save(exported, tmp_path / "encoder.pt2")
    again = torch.export.load(tmp_path / "encoder.pt2").module()
    for count in (1, 2, 5):
        clips = clip_inputs(model, batch=count, frames=3)
        expected = Encoder(model)(clips["input_features"], clips["pixel_values_videos"])
        found = again(clips["input_features"], clips["pixel_values_videos"])
        torch.testing.assert_close(found[0], expected[0], atol=1e-5, rtol=1e-4)
        assert found[1].tolist() == expected[1].tolist()


@torch.no_grad()
def test_the_audio_tower_alone_is_exported_too():
    model = tiny_model()
    features = clip_inputs(model)["input_features"]
    exported = torch.export.export(model.audio_tower, (features,), strict=False).module()
    found = exported(features)
    torch.testing.assert_close(found.last_hidden_state, model.audio_tower(features).last_hidden_state)
