"""AVCap as a model: what sees what, clips that lack a modality, losses, decoding, and options that do not fit."""

import pytest
import torch
from torch import nn

from cavmae_captioning import CavMaeConfig, CavMaeModel
from git_captioning import GitTextConfig
from length_norm_captioning import GnmtLengthPenalty
from modeling_avcap import AvcapForConditionalGeneration
from tiny_avcap import tiny_avcap, tiny_avcap_config


@pytest.fixture(scope="module")
def model():
    return tiny_avcap()


def clips(rows: int = 2, frames: int = 4) -> dict[str, torch.Tensor]:
    draw = torch.Generator().manual_seed(1)
    return {
        "input_features": torch.randn(rows, 48, 128, generator=draw),
        "pixel_values_videos": torch.randn(rows, frames, 3, 32, 32, generator=draw),
    }


IDS = torch.tensor([[101, 5, 6, 7, 102], [101, 8, 9, 102, 0]])


def logits_of(model, **inputs) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=IDS, **inputs).logits


def test_a_word_sees_the_clip_and_the_words_before_it(model):
    clip = clips()
    with torch.no_grad():
        words = model.get_input_embeddings()(IDS)
        words.requires_grad_(True)
    tokens = model.get_soft_tokens(**clip).soft_tokens.detach().requires_grad_(True)
    logits = model(inputs_embeds=words, soft_tokens=tokens).logits
    by_words, by_clip = torch.autograd.grad(logits[:, 2].square().sum(), (words, tokens))
    assert by_words[:, :3].abs().amax(dim=-1).min() > 0 and not by_words[:, 3:].any()
    assert by_clip.abs().amax(dim=-1).min() > 0


def test_a_clip_does_not_see_the_words(model):
    states = [
        model(input_ids=ids, **clips(), output_hidden_states=True).hidden_states[-1] for ids in (IDS, IDS.flip(0))
    ]
    tokens = states[0].shape[1] - IDS.shape[1]
    assert tokens == 24 + 8 and torch.equal(*(state[:, :tokens] for state in states))


def test_eager_and_sdpa_agree_and_padding_before_the_text_changes_nothing(model):
    clip = clips()
    expected = logits_of(model, **clip)
    model.set_attn_implementation("eager")
    torch.testing.assert_close(logits_of(model, **clip), expected, atol=1e-5, rtol=0)
    model.set_attn_implementation("sdpa")
    mask = torch.tensor([[0, 0, 1, 1, 1, 1, 1]] * 2)
    padded = torch.cat([torch.zeros(2, 2, dtype=torch.long), IDS], dim=1)
    with torch.no_grad():
        found = model(input_ids=padded, attention_mask=mask, **clip).logits[:, 2:]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("training", [False, True])
def test_a_batch_of_clips_that_lack_modalities_gives_what_each_alone_gives(model, training):
    clip = clips(3)
    masks = {"audio_mask": torch.tensor([True, True, False]), "video_mask": torch.tensor([True, False, True])}
    encoder = model.audio_visual_encoder.train(training)
    with torch.no_grad():
        mixed = encoder(**clip, **masks)
        alone = [
            encoder(**{name: value[:1] for name, value in clip.items()}),
            encoder(input_features=clip["input_features"][1:2]),
            encoder(pixel_values_videos=clip["pixel_values_videos"][2:]),
        ]
    assert mixed.token_counts.tolist() == [32, 24, 8]
    for row, (each, count) in enumerate(zip(alone, (32, 24, 8), strict=True)):
        torch.testing.assert_close(mixed.last_hidden_state[row, :count], each.last_hidden_state[0], atol=1e-5, rtol=0)
    encoder.eval()
    ids = IDS[[0, 1, 0]]
    with torch.no_grad():
        found = model(input_ids=ids, **clip, **masks).logits
        tokens = [model.multi_modal_projector(each.last_hidden_state) for each in alone]
        expected = [model(input_ids=ids[row : row + 1], soft_tokens=each).logits[0] for row, each in enumerate(tokens)]
    for row in range(3):
        torch.testing.assert_close(found[row], expected[row], atol=1e-4, rtol=0)
    captions = model.generate(**clip, **masks)
    for row, each in enumerate(tokens):
        own = model.generate(soft_tokens=each)[0]
        assert captions[row, : len(own)].tolist() == own.tolist()


def test_every_parameter_has_a_gradient_whatever_the_clips_of_a_batch_show(model):
    """What plain data parallelism needs: which clips a process has must not decide what gets a gradient."""
    model.train()
    for masks in ({}, {"audio_mask": torch.tensor([True, False])}, {"video_mask": torch.tensor([False, False])}):
        model.zero_grad(set_to_none=True)
        model(input_ids=IDS, labels=IDS, **clips(), **masks).loss.backward()
        assert not [name for name, each in model.named_parameters() if each.grad is None]
    model.zero_grad(set_to_none=True)
    model.eval()


def test_the_loss_is_the_divergence_from_smoothed_labels(model):
    logits = torch.randn(2, 5, 300, generator=torch.Generator().manual_seed(2))
    labels = torch.tensor([[-100, 5, 6, 7, 102], [-100, 8, 102, 0, -100]])  # [PAD] is never predicted
    target = torch.full((2, 4, 300), 0.1 / 299)
    target.scatter_(2, labels[:, 1:].clamp(min=0)[..., None], 0.9)
    divergence = nn.functional.kl_div(logits[:, :-1].log_softmax(-1), target, reduction="none").sum(-1)
    counted = torch.tensor([[True] * 4, [True, True, False, False]])
    expected = divergence[counted]
    torch.testing.assert_close(model.compute_caption_loss(logits, labels, None), expected.mean())
    torch.testing.assert_close(model.compute_caption_loss(logits, labels, 24), expected.sum() / 24)
    half = model.compute_caption_loss(logits.half(), labels, None)
    assert half.dtype == torch.float32 and half == pytest.approx(expected.mean().item(), abs=2e-3)
    plain = tiny_avcap(label_smoothing=0.0).compute_caption_loss(logits, labels, None)
    torch.testing.assert_close(plain, nn.functional.cross_entropy(logits[:, :-1][counted], labels[:, 1:][counted]))


@pytest.mark.parametrize("options", [{}, {"num_beams": 1}, {"num_beams": 3, "num_return_sequences": 2}])
def test_decoding_with_a_cache_gives_what_decoding_without_gives(model, options):
    clip = clips()
    found = [model.generate(**clip, use_cache=cache, **options) for cache in (True, False)]
    assert torch.equal(*found) and (found[0][:, 0] == 101).all()
    static = model.generate(**clip, cache_implementation="static", **options)
    assert torch.equal(static, found[0])


def test_a_clip_is_encoded_once(model, monkeypatch):
    calls, encode = [], CavMaeModel.forward
    monkeypatch.setattr(CavMaeModel, "forward", lambda *args, **kwargs: calls.append(1) or encode(*args, **kwargs))
    model.generate(**clips(), num_beams=3)
    assert len(calls) == 1


def test_a_caption_goes_on_from_how_it_begins(model):
    ids, mask = torch.tensor([[0, 101, 5], [101, 8, 9]]), torch.tensor([[0, 1, 1], [1, 1, 1]])
    clip = clips()
    found = model.generate(input_ids=ids, attention_mask=mask, **clip)
    assert found[:, :3].tolist() == ids.tolist()
    one = {name: value[:1] for name, value in clip.items()}
    alone = model.generate(input_ids=ids[:1, 1:], attention_mask=mask[:1, 1:], **one, max_length=11)
    assert found[0, 1 : 1 + alone.shape[1]].tolist() == alone[0].tolist()


def test_the_length_norm_of_the_released_search_is_googles():
    penalty = GnmtLengthPenalty(0.6)
    assert 7**penalty == pytest.approx((12 / 6) ** 0.6)
    assert 1**penalty == 1


def test_the_length_norm_decides_between_captions(model):
    """A norm that rewards length more gives captions that are no shorter; an unknown one is refused."""
    clip = clips(6)

    def lengths(**options) -> int:
        ids = model.generate(**clip, **options)
        return (ids != 102).sum().item()

    assert lengths(length_penalty=4.0) >= lengths(length_penalty=0.0)
    power = model.generate(**clip, length_norm="power", length_penalty=1.0)
    assert power.shape[0] == 6
    with pytest.raises(ValueError, match="'power', 'gnmt'"):
        model.generate(**clip, length_norm="google")


def test_the_search_stops_when_nothing_can_get_better(model, monkeypatch):
    """With the released limit of 1024 tokens a caption that ends early must not cost a thousand steps."""
    model.config.text_config.max_position_embeddings, steps = 64, []
    forward = AvcapForConditionalGeneration.forward
    monkeypatch.setattr(
        AvcapForConditionalGeneration, "forward", lambda *args, **kwargs: steps.append(1) or forward(*args, **kwargs)
    )
    with torch.no_grad():
        bias = model.language_model.output.bias
        bias[102] += 20  # everything ends at once
        model.generate(**clips(), max_length=64)
        bias[102] -= 20
    assert len(steps) < 10


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"input_features": torch.zeros(2, 40, 128)}, r"expected \(batch, 48, 128\)"),
        ({"pixel_values_videos": torch.zeros(2, 3, 3, 32, 32)}, r"expected \(batch, 4, 3, 32, 32\)"),
        ({"pixel_values_videos": torch.zeros(2, 3, 32, 32)}, "video_frames, 3, height, width"),
        ({"video_features": torch.zeros(2, 4, 8)}, "unknown keyword"),
        ({"attention_mask": torch.ones(2, 9)}, r"expected \(2, 5\)"),
        ({"inputs_embeds": torch.zeros(2, 5, 32)}, "exactly one"),
        ({"input_ids": torch.ones(2, 65, dtype=torch.long)}, "at most 64"),
    ],
)
def test_inputs_that_do_not_fit_are_named(model, change, message):
    with pytest.raises((ValueError, TypeError), match=message):
        model(**{"input_ids": IDS} | clips() | change)


def test_an_encoder_of_one_modality_refuses_the_other():
    model = tiny_avcap(audio_visual_config={"mode": "audio"})
    assert model.modalities == ("audio",)
    with pytest.raises(ValueError, match="takes audio alone"):
        model(input_ids=IDS, **clips())
    assert not [name for name, _ in model.named_parameters() if "video" in name or "joint.weight" in name]


@pytest.mark.parametrize(
    ("kind", "fields", "message"),
    [
        (CavMaeConfig, {"mode": "both"}, "'audio_visual', 'audio', 'video'"),
        (CavMaeConfig, {"num_video_frames": 0}, "expected 1 to 4096"),
        (CavMaeConfig, {"max_frames": 1000}, "multiple of patch_size"),
        (CavMaeConfig, {"num_attention_head": 3}, "did you mean num_attention_heads"),
        (GitTextConfig, {"hidden_size": 100}, "multiple of num_attention_heads"),
        (tiny_avcap_config, {"label_smoothing": 1.0}, "label_smoothing is 1.0"),
    ],
)
def test_options_that_mean_nothing_are_refused(kind, fields, message):
    with pytest.raises(ValueError, match=message):
        kind(**fields)


def test_sizes_of_a_modality_that_is_not_encoded_may_be_anything():
    assert CavMaeConfig(mode="audio", patch_size=64).audio_grid == (2, 16)
    with pytest.raises(ValueError, match=r"image_size is 224, expected a multiple of patch_size \(64\)"):
        CavMaeConfig(mode="video", patch_size=64)


@pytest.mark.parametrize("frames", [1, 2, 3, 5, 7, 8, 20])
def test_every_number_of_frames_can_be_built(frames):
    config = CavMaeConfig(
        hidden_size=24, intermediate_size=48, num_attention_heads=3, num_modality_layers=1, max_frames=48,
        image_size=32, num_video_frames=frames,
    )  # fmt: skip
    model = CavMaeModel(config).eval()
    with torch.no_grad():
        tokens = model(**clips(1, frames)).last_hidden_state
    assert tokens.shape == (1, 24 + max(1, frames // 2) * 4, 24) and tokens.isfinite().all()
