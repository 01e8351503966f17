"""The configuration: released sizes by default, bad options refused in one sentence."""

import pytest
from tiny_models import tiny_config

from configuration_lavcap import LavcapConfig


def test_defaults_are_the_released_sizes():
    config = LavcapConfig()
    assert config.num_audio_tokens == 64 and config.num_video_frames == 20
    assert config.audio_config.hidden_size == config.vision_config.projection_dim == 768
    assert (config.vision_config.num_hidden_layers, config.vision_config.patch_size) == (24, 14)
    assert config.text_config.hidden_size == 4096
    assert config.av_token_id == config.text_config.vocab_size == 32001
    assert config.logit_scale_init == pytest.approx(2.6593, abs=1e-4)


def test_saved_configuration_comes_back_equal(tmp_path):
    config = tiny_config(fusion="cross_attention", transport_attention="barycentric", frequency_mean=False)
    config.save_pretrained(tmp_path)
    assert LavcapConfig.from_pretrained(tmp_path).to_dict() == config.to_dict()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"fusion": "ot_tempcat"}, "fusion is 'ot_tempcat', expected one of 'concat_time', 'concat_channel'"),
        ({"transport_attention": "row"}, "expected one of 'none', 'joint', 'barycentric'"),
        ({"alignment_weights": "exp"}, "expected one of 'log_plan', 'plan'"),
        (
            {"optimal_transport": False, "transport_attention": "joint"},
            "moves tokens along a transport plan, but optimal_transport is False",
        ),
        ({"fusion": "audio_only", "optimal_transport": True}, "has one modality, but optimal_transport is True"),
        ({"cross_attention_heads": 5}, "cross_attention_heads is 5, expected a divisor of the width of the tokens"),
        ({"audio_config": {"max_frames": 10**7}}, "audio_config.max_frames is 10000000, expected 1 to 100000"),
        ({"audio_config": {"num_attention_heads": 0}}, "audio_config.num_attention_heads is 0, expected 1 to 1024"),
        (
            {"text_config": {"num_hidden_layers": 10**6}},
            "text_config.num_hidden_layers is 1000000, expected 0 to 1024",
        ),
        ({"vision_config": {"image_size": 10**6}}, "vision_config.image_size is 1000000, expected 1 to 8192"),
        ({"sinkhorn_iterations": 10**9}, "sinkhorn_iterations is 1000000000, expected 1 to 100000"),
        ({"sinkhorn_epsilon": float("nan")}, "sinkhorn_epsilon is nan, expected a positive number"),
        ({"sinkhorn_epsilon": 0}, "sinkhorn_epsilon is 0, expected a positive number"),
        ({"fuson": "concat_channel"}, "'fuson' is not an option of LavcapConfig; did you mean fusion"),
        ({"audio_config": {"hiden_size": 24}}, "not an option of LavcapAudioConfig; did you mean hidden_size"),
        ({"audio_config": {"hidden_size": 36}}, "hidden_size is 36 and vision_config.projection_dim is 24"),
        ({"audio_config": {"max_frames": 50}}, "max_frames is 50, expected a multiple of patch_size"),
        ({"fusion": "concat_channel", "num_video_frames": 9}, "spreads 9 video tokens over 3 audio tokens"),
    ],
)
def test_a_bad_option_says_what_is_expected(fields, message):
    with pytest.raises(ValueError, match=message):
        tiny_config(**fields)
