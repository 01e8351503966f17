"""The contrast between clips by the value of their transport, against another solver, finite differences and loops."""

import numpy as np
import ot
import pytest
import torch
from clips import clip_inputs
from tiny_models import tiny_model
from torch.nn.functional import normalize

from transport_captioning import clip_contrast


SETTINGS = 0.1, 2000  # epsilon, and iterations to convergence


def tokens(*shape: int, seed: int = 0) -> torch.Tensor:
    draw = torch.Generator().manual_seed(seed)
    return normalize(torch.randn(*shape, generator=draw, dtype=torch.float64), dim=-1)


def everybody(count: int) -> torch.Tensor:
    return torch.ones(count, dtype=torch.bool)


def transport_value(video: torch.Tensor, audio: torch.Tensor, epsilon: float) -> float:
    """Entropic value of the best plan of another library's solver."""
    similarity = (video @ audio.T).numpy()
    even = [np.full(length, 1 / length) for length in similarity.shape]
    plan = ot.sinkhorn(*even, -similarity, epsilon, stopThr=1e-14, numItermax=100_000)
    return float((plan * similarity).sum() - epsilon * (plan * np.log(plan)).sum())


def test_contrast_is_that_of_another_solver_and_plain_loops():
    audio, video, scale = tokens(4, 5, 8), tokens(4, 3, 8, seed=1), 7.0
    values = np.array([[transport_value(v, a, SETTINGS[0]) for a in audio] for v in video])
    logits = scale * values
    expected = []
    for clip in range(4):
        to_sounds = -np.log(np.exp(logits[clip, clip]) / np.exp(logits[clip]).sum())
        to_pictures = -np.log(np.exp(logits[clip, clip]) / np.exp(logits[:, clip]).sum())
        expected.append((to_sounds + to_pictures) / 2)
    found = clip_contrast(audio, video, everybody(4), torch.tensor([scale]), *SETTINGS)
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=1e-8, atol=1e-10)


def test_contrast_has_the_gradient_of_finite_differences():
    audio, video = tokens(3, 4, 4).requires_grad_(), tokens(3, 3, 4, seed=1).requires_grad_()
    scale = torch.tensor([5.0], dtype=torch.float64, requires_grad=True)

    def contrast(audio: torch.Tensor, video: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        return clip_contrast(normalize(audio, dim=-1), normalize(video, dim=-1), everybody(3), scale, *SETTINGS)

    assert torch.autograd.gradcheck(contrast, (audio, video, scale))


def test_clips_that_lack_a_modality_are_nobody_to_be_compared_with():
    audio, video, scale = tokens(5, 4, 8), tokens(5, 3, 8, seed=1), torch.tensor([5.0])
    both = torch.tensor([True, False, True, True, False])
    audio[1], video[4] = float("nan"), float("inf")
    found = clip_contrast(audio.requires_grad_(), video, both, scale, *SETTINGS)
    alone = clip_contrast(audio[both], video[both], everybody(3), scale, *SETTINGS)
    torch.testing.assert_close(found[both], alone)
    assert not found[~both].any()
    (gradient,) = torch.autograd.grad(found.sum(), audio)
    assert gradient.isfinite().all() and gradient[both].any() and not gradient[~both].any()


def test_a_clip_on_its_own_has_no_contrast():
    assert clip_contrast(tokens(1, 4, 8), tokens(1, 3, 8), everybody(1), torch.ones(1), *SETTINGS).tolist() == [0.0]


def test_matching_clips_have_less_contrast_than_others():
    audio, scale = tokens(4, 4, 8), torch.tensor([10.0])
    matched = clip_contrast(audio, audio, everybody(4), scale, *SETTINGS)
    crossed = clip_contrast(audio, audio.roll(1, 0), everybody(4), scale, *SETTINGS)
    assert (matched < crossed).all() and (matched < np.log(4)).all()


def test_a_model_adds_the_weighted_contrast_of_its_batch():
    torch.manual_seed(0)
    model = tiny_model(alignment_objective="clips", alignment_loss_weight=0.5).eval()
    inputs = clip_inputs(model)
    features = {name: inputs[name] for name in ("input_features", "pixel_values_videos")}
    audio = model.get_audio_features(features["input_features"]).pooler_output
    audio = audio.unflatten(1, (model.config.audio_config.num_frequency_patches, -1)).mean(1)
    video = model.get_video_features(features["pixel_values_videos"]).pooler_output
    settings = model.config.sinkhorn_epsilon, model.config.sinkhorn_iterations
    scale = torch.tensor([model.config.logit_scale_init])
    both = everybody(len(audio))
    expected = clip_contrast(normalize(audio, dim=-1), normalize(video, dim=-1), both, scale, *settings).mean() / 2
    assert len(audio) > 1
    torch.testing.assert_close(model(**inputs).alignment_loss, expected)


def test_what_the_alignment_asks_for_is_checked():
    with pytest.raises(ValueError, match="alignment_objective is 'clip', expected one of 'tokens', 'clips'"):
        tiny_model(alignment_objective="clip")
