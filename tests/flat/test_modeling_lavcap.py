"""The model against other solvers, closed forms, and the promises of its documentation."""

import copy
import math
from itertools import product

import numpy as np
import ot
import pytest
import torch
from clips import clip_inputs
from released_reference import read_golden
from tiny_models import tiny_model

from generation_captioning import clip_inputs as inputs_of_clips
from modeling_lavcap import LavcapForConditionalGeneration, alignment_loss, log_sinkhorn


# --------------------------------------------------------------------------------- against vectors and other solvers


@pytest.mark.parametrize("case", range(5))
def test_plan_equals_the_released_plan(case):
    _, tensors = read_golden("sinkhorn")
    log_plan = log_sinkhorn(
        tensors[f"{case}.similarity"], float(tensors[f"{case}.epsilon"]), int(tensors[f"{case}.iterations"])
    )
    torch.testing.assert_close(log_plan, tensors[f"{case}.log_plan"], atol=1e-5, rtol=0)


@pytest.mark.parametrize(("frames", "steps", "epsilon"), [(20, 64, 0.1), (5, 8, 0.5), (7, 3, 0.05), (1, 6, 0.1)])
def test_plan_equals_that_of_python_optimal_transport(frames, steps, epsilon):
    similarity = torch.randn(2, frames, steps, dtype=torch.float64).tanh()
    log_plan = log_sinkhorn(similarity, epsilon, iterations=5000)
    for clip, found in zip(similarity, log_plan, strict=True):
        even = [np.full(count, 1 / count) for count in (frames, steps)]
        expected = ot.bregman.sinkhorn_log(*even, -clip.numpy(), epsilon, numItermax=5000, stopThr=1e-15)
        np.testing.assert_allclose(found.exp().numpy(), expected, rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize(("spread", "error"), [(0.5, 1e-5), (2.0, 1e-5), (3.3, 2e-5), (3.8, 2e-5), (6.0, 1e-3)])
@pytest.mark.parametrize("shape", [(1, 20, 64), (9, 7, 3), (2, 1, 5), (2, 200, 300)])
def test_plan_is_the_same_by_scaling_and_in_the_log_domain(spread, error, shape):
    similarity = spread * torch.rand(shape, generator=torch.Generator().manual_seed(0))
    similarity[:, 0], similarity[:, :, -1] = 0.0, spread  # a row and a column as bad as they can be
    even = torch.full((1,), 1.0).log()
    rows, columns = (even - math.log(size) for size in shape[1:])
    expected = log_sinkhorn(similarity.double(), 0.1, 50, rows.expand(shape[:2]), columns.expand(shape[0], shape[2]))
    found = log_sinkhorn(similarity, 0.1, 50)
    torch.testing.assert_close(found, expected.float(), atol=error, rtol=0)


def test_gradients_are_the_same_by_scaling_and_in_the_log_domain():
    weights, gradients = torch.randn(2, 20, 64, dtype=torch.float64), []
    even = [torch.full((2, size), -math.log(size), dtype=torch.float64) for size in (20, 64)]
    for marginals in ([], even):
        similarity = torch.rand(2, 20, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        (log_sinkhorn(similarity.requires_grad_(), 0.1, 50, *marginals).exp() * weights).sum().backward()
        gradients.append(similarity.grad)
    torch.testing.assert_close(*gradients)


def test_gradient_through_the_plan_is_that_of_finite_differences():
    similarity = torch.randn(2, 3, 4, dtype=torch.float64).tanh().requires_grad_()
    assert torch.autograd.gradcheck(lambda given: log_sinkhorn(given, 0.3, 5), (similarity,))


def test_a_plan_of_costs_far_apart_is_finite():
    assert log_sinkhorn(500 * torch.rand(2, 20, 64), 0.1, 50).isfinite().all()


@pytest.mark.parametrize("spread", (10, 60, 500))
def test_the_log_domain_gives_the_same_plan_with_and_without_a_graph(spread):
    torch.manual_seed(0)
    similarity = spread * torch.rand(3, 20, 64)
    marginals = [torch.rand(3, tokens).log_softmax(dim=-1) for tokens in (20, 64)]
    kept = log_sinkhorn(similarity.clone().requires_grad_(), 1.0, 50, *marginals)
    found = log_sinkhorn(similarity, 1.0, 50, *marginals)
    assert kept.requires_grad and not found.requires_grad
    torch.testing.assert_close(found, kept.detach(), rtol=1e-6, atol=1e-5)
    torch.testing.assert_close(found.exp().sum(dim=1), marginals[1].exp(), rtol=1e-4, atol=1e-6)


def test_a_plan_of_nan_is_nan_and_of_no_clips_is_none():
    assert log_sinkhorn(torch.full((1, 2, 3), math.nan), 0.1, 5).isnan().all()
    assert log_sinkhorn(torch.zeros(0, 2, 3), 0.1, 5).shape == (0, 2, 3)


# ------------------------------------------------------------------------------------------- against closed forms


def test_plan_has_uniform_marginals():
    similarity = torch.randn(3, 5, 8, dtype=torch.float64).tanh()
    plan = log_sinkhorn(similarity, epsilon=0.1, iterations=2000).exp()
    torch.testing.assert_close(plan.sum(1), torch.full((3, 8), 1 / 8, dtype=torch.float64))
    torch.testing.assert_close(plan.sum(2), torch.full((3, 5), 1 / 5, dtype=torch.float64))


def test_plan_of_equal_costs_is_even():
    plan = log_sinkhorn(torch.full((1, 4, 6), 0.3), epsilon=0.1, iterations=1).exp()
    torch.testing.assert_close(plan, torch.full((1, 4, 6), 1 / 24))


def test_plan_finds_a_hidden_permutation():
    order = torch.tensor([2, 0, 3, 1])
    plan = log_sinkhorn(torch.eye(4)[order][None], epsilon=0.02, iterations=100)[0]
    assert plan.argmax(dim=1).tolist() == order.tolist()


def test_alignment_loss_has_the_gradient_of_finite_differences():
    similarity = torch.randn(2, 3, 4, dtype=torch.float64).tanh().requires_grad_()
    weights = log_sinkhorn(similarity.detach(), 0.1, 50)
    scale = torch.tensor([2.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda s, t: alignment_loss(s, weights, t), (similarity, scale))


def test_no_gradient_flows_through_the_plan():
    fusion = tiny_model(has_vision_tower=False, transport_attention="none").fusion
    audio, video = torch.randn(2, 12, 24), torch.randn(2, 4, 24, requires_grad=True)
    (found,) = torch.autograd.grad(fusion(audio, video).alignment_loss, video)
    unit_audio = torch.nn.functional.normalize(audio.unflatten(1, (4, 3)).mean(1), dim=-1)
    similarity = torch.nn.functional.normalize(video, dim=-1) @ unit_audio.transpose(1, 2)
    fixed = log_sinkhorn(similarity, 0.1, 50).detach()
    (expected,) = torch.autograd.grad(alignment_loss(similarity, fixed, fusion.logit_scale).mean(), video)
    torch.testing.assert_close(found, expected)


def test_alignment_loss_of_indifferent_tokens_is_the_entropy_of_a_guess():
    similarity = torch.zeros(2, 3, 4)
    loss = alignment_loss(similarity, similarity, torch.ones(1))
    torch.testing.assert_close(loss, torch.full((2,), 3.0).log() + torch.full((2,), 4.0).log())


@pytest.mark.parametrize(("value", "effective"), [(2.0, 2.0), (9.0, 4.6052), (-1.0, 0.0)])
def test_alignment_scale_is_clamped_but_keeps_its_gradient(value, effective):
    fusion = tiny_model(has_vision_tower=False).fusion
    fusion.logit_scale.data.fill_(value)
    scale = fusion._alignment_scale()
    scale.backward()
    assert scale.item() == pytest.approx(effective)
    assert fusion.logit_scale.grad.item() == 1.0


@torch.no_grad()
def test_barycentric_plan_gives_every_audio_token_a_mean_of_video_tokens():
    joint = tiny_model(has_vision_tower=False).fusion
    barycentric = tiny_model(has_vision_tower=False, transport_attention="barycentric").fusion
    audio, video = torch.randn(2, 12, 24), torch.randn(2, 4, 24)  # audio: four frequency rows of three time steps
    unit_audio = torch.nn.functional.normalize(audio.unflatten(1, (4, 3)).mean(1), dim=-1)
    unit_video = torch.nn.functional.normalize(video, dim=-1)
    plan = joint(audio, video).transport_plan
    weights = plan.transpose(1, 2) / plan.sum(1)[:, :, None]
    expected = unit_audio + weights @ unit_video
    torch.testing.assert_close(barycentric(audio, video).tokens[:, :3], expected)
    torch.testing.assert_close(joint(audio, video).tokens[:, :3], unit_audio + plan.transpose(1, 2) @ unit_video)


@torch.no_grad()
def test_channel_fusion_spreads_video_tokens_over_the_audio_tokens():
    fusion = tiny_model(
        has_vision_tower=False, fusion="concat_channel", num_video_frames=1, transport_attention="none"
    ).fusion
    audio, video = torch.randn(2, 12, 24), torch.randn(2, 1, 24)
    fused = fusion(audio, video)
    assert fused.tokens.shape == (2, 3, 48) and fused.counts.tolist() == [3, 3]
    torch.testing.assert_close(fused.tokens[:, :1, 24:], torch.nn.functional.normalize(video, dim=-1))
    assert not fused.tokens[:, 1:, 24:].any()


@torch.no_grad()
def test_cross_attention_adds_what_the_audio_attends_to():
    fusion = tiny_model(has_vision_tower=False, fusion="cross_attention", transport_attention="none").fusion
    audio, video = torch.randn(2, 12, 24), torch.randn(2, 4, 24)
    unit_audio = torch.nn.functional.normalize(audio.unflatten(1, (4, 3)).mean(1), dim=-1)
    unit_video = torch.nn.functional.normalize(video, dim=-1)
    attended, _ = fusion.cross_attention(unit_audio, unit_video, unit_video)
    torch.testing.assert_close(fusion(audio, video).tokens, unit_audio + attended)


# ------------------------------------------------------------------------------------------------------- contracts


@torch.no_grad()
@pytest.mark.parametrize("changed", ["input_features", "pixel_values_videos"])
def test_each_modality_changes_the_logits(model, changed):
    inputs = clip_inputs(model)
    other = inputs | {changed: inputs[changed].flip(0)}
    assert (model(**inputs).logits - model(**other).logits).abs().max() > 1e-3


@torch.no_grad()
@pytest.mark.parametrize(("audio", "video"), [(True, False), (False, True)])
def test_one_modality_is_enough_and_has_no_transport(model, audio, video):
    output = model(**clip_inputs(model, audio=audio, video=video))
    assert output.logits.isfinite().all()
    assert output.transport_plan is None and output.alignment_loss is None


@torch.no_grad()
@pytest.mark.parametrize(("fusion", "audio"), [("audio_only", True), ("video_only", False)])
def test_a_baseline_takes_its_tokens_as_the_tower_made_them(fusion, audio):
    model = tiny_model(fusion=fusion)
    towers = {name for name in ("audio_tower", "vision_tower") if getattr(model, name) is not None}
    assert towers == {"audio_tower" if audio else "vision_tower"}
    inputs = clip_inputs(model, audio=audio, video=not audio)
    output = model(**inputs)
    assert output.logits.isfinite().all() and output.alignment_loss is None and output.transport_plan is None
    if audio:
        tokens = model.get_audio_features(inputs["input_features"]).pooler_output.unflatten(1, (4, 3)).mean(1)
    else:
        tokens = model.get_video_features(inputs["pixel_values_videos"]).pooler_output
    features = {name: value for name, value in inputs.items() if name in inputs_of_clips(model.feature_names)}
    expected = model.multi_modal_projector(tokens)
    torch.testing.assert_close(model.get_soft_tokens(**features).soft_tokens, expected)
    assert model.generate(**inputs, max_new_tokens=3).shape[1] == inputs["input_ids"].shape[1] + 3


@pytest.mark.parametrize(("fusion", "other"), [("audio_only", "video"), ("video_only", "audio")])
def test_a_baseline_refuses_the_other_modality(fusion, other):
    model = tiny_model(fusion=fusion)
    with pytest.raises(ValueError, match=f"Got features of the {other}, but this model is a baseline on"):
        model(**clip_inputs(model))


@torch.no_grad()
@pytest.mark.parametrize("fusion", ["concat_time", "concat_channel", "cross_attention", "audio_only", "video_only"])
def test_every_fusion_is_saved_and_loaded_whole(fusion, tmp_path):
    model = tiny_model(fusion=fusion, num_video_frames=3, token_layer_norm=True)
    model.save_pretrained(tmp_path)
    again = LavcapForConditionalGeneration.from_pretrained(tmp_path)
    for option in ("fusion", "optimal_transport", "transport_attention", "cross_attention_heads", "has_vision_tower"):
        assert getattr(again.config, option) == getattr(model.config, option)
    assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize(
    ("fusion", "transport"),
    [
        *product(("concat_time", "concat_channel", "cross_attention"), (True, False)),
        ("audio_only", False),
        ("video_only", False),
    ],
)
def test_no_parameter_of_any_fusion_is_without_gradient(fusion, transport):
    """One that is stops plain data parallelism at its second step."""
    model = tiny_model(fusion=fusion, optimal_transport=transport, token_layer_norm=True, num_video_frames=3).train()
    inputs = clip_inputs(model, audio=fusion != "video_only", video=fusion != "audio_only", frames=3)
    features = {name: value for name, value in inputs.items() if name in inputs_of_clips(model.feature_names)}
    clips = model.get_soft_tokens(**features)
    loss = clips.soft_tokens.square().sum() + (clips.alignment_loss or 0)
    loss.backward()
    parts = ("fusion", "multi_modal_projector", "audio_tower")
    assert [n for n, p in model.named_parameters() if n.startswith(parts) and p.grad is None] == []


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.float32])
def test_stored_features_may_have_any_dtype(dtype):
    model = tiny_model(has_vision_tower=False)
    audio, video = torch.randn(1, 48, 64), torch.randn(1, 4, 24).half()
    expected = model.get_soft_tokens(audio, video_features=video.float()).soft_tokens
    torch.testing.assert_close(model.get_soft_tokens(audio, video_features=video.to(dtype)).soft_tokens, expected)
    model.double().get_soft_tokens(audio, video_features=video.float())


def test_a_language_model_may_embed_in_fewer_channels_than_it_computes_in():
    text_config = {"model_type": "opt", "word_embed_proj_dim": 16, "ffn_dim": 32, "do_layer_norm_before": False}
    model = tiny_model(text_config=text_config)
    assert model(**clip_inputs(model)).logits.shape[-1] == 300


@torch.no_grad()
@pytest.mark.parametrize("fusion", ["concat_time", "concat_channel", "cross_attention"])
def test_a_masked_modality_is_a_missing_one(fusion):
    frames = 3 if fusion == "concat_channel" else 4
    model = tiny_model(fusion=fusion, num_video_frames=frames, has_vision_tower=False)
    audio, video = torch.randn(3, 48, 64), torch.randn(3, frames, 24)
    mixed = model.get_soft_tokens(
        audio,
        video_features=video,
        audio_mask=torch.tensor([True, True, False]),
        video_mask=torch.tensor([True, False, True]),
    )
    alone = [
        model.get_soft_tokens(audio[:1], video_features=video[:1]),
        model.get_soft_tokens(audio[1:2]),
        model.get_soft_tokens(video_features=video[2:]),
    ]
    for index, single in enumerate(alone):
        count = int(mixed.soft_token_counts[index])
        assert count == int(single.soft_token_counts[0])
        torch.testing.assert_close(
            mixed.soft_tokens[index, :count], single.soft_tokens[0, :count], atol=1e-5, rtol=1e-5
        )
    torch.testing.assert_close(mixed.alignment_loss, alone[0].alignment_loss)
    assert not mixed.transport_plan[1:].any()


def test_masking_every_clip_leaves_finite_gradients(model):
    model = copy.deepcopy(model).train()
    inputs = clip_inputs(model, video=False) | {
        "pixel_values_videos": torch.zeros(2, 4, 3, 16, 16),
        "video_mask": torch.tensor([False, False]),
    }
    model(**inputs, labels=inputs["input_ids"].masked_fill(inputs["input_ids"] >= 300, -100)).loss.backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def test_neither_modality_is_an_error(model):
    with pytest.raises(ValueError, match="neither sound"):
        model.get_soft_tokens()
    with pytest.raises(ValueError, match=r"\[7\] placeholders per row for \[0\] soft tokens"):
        model(input_ids=clip_inputs(model, batch=1)["input_ids"])


def test_a_wrong_number_of_placeholders_names_both_counts(model):
    inputs = clip_inputs(model)
    inputs["input_ids"] = inputs["input_ids"][:, :-3]
    inputs["attention_mask"] = inputs["attention_mask"][:, :-3]
    with pytest.raises(ValueError, match=r"\[6, 6\] placeholders per row for \[7, 7\] soft tokens"):
        model(**inputs)


@torch.no_grad()
@pytest.mark.slow
def test_a_wrong_number_of_placeholders_is_noticed_in_a_compiled_graph_too(model):
    inputs = clip_inputs(model)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(**inputs).logits, model(**inputs).logits)
    inputs["input_ids"][1, -1] = model.config.av_token_id
    with pytest.raises(RuntimeError, match="placeholders for soft tokens"):
        compiled(**inputs)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"soft_tokens": torch.zeros(2, 7, 32)}, "Got soft_tokens and input_features, pixel_values_videos"),
        ({"input_features": None, "audio_mask": torch.ones(2)}, "Got audio_mask without the audio that it is of"),
        ({"pixel_values_videos": None, "video_mask": torch.ones(2)}, "Got video_mask without the video"),
    ],
)
def test_inputs_that_would_be_ignored_are_refused(model, given, message):
    for call in (model, model.generate):
        with pytest.raises(ValueError, match=message):
            call(**clip_inputs(model) | given)


@torch.no_grad()
def test_placeholders_among_labels_are_not_words_to_be_learned(model):
    inputs = clip_inputs(model)
    ids, token = inputs["input_ids"], model.config.av_token_id
    masked = model(**inputs, labels=ids.masked_fill(ids == token, -100)).loss
    torch.testing.assert_close(model(**inputs, labels=ids.clone()).loss, masked)


def test_frozen_statistics_stay_and_others_move(model):
    features = clip_inputs(model)["input_features"]
    for frozen in (True, False):
        tower = copy.deepcopy(model.audio_tower).train()
        tower.batch_norm.requires_grad_(not frozen)
        before = tower.batch_norm.running_mean.clone()
        output = tower(features).last_hidden_state
        assert torch.equal(tower.batch_norm.running_mean, before) == frozen
        if frozen:
            torch.testing.assert_close(output, copy.deepcopy(tower).eval()(features).last_hidden_state)


def test_an_unknown_keyword_raises(model):
    with pytest.raises(TypeError, match="pixel_values_video"):
        model(**clip_inputs(model), pixel_values_video=None)
    with pytest.raises(ValueError, match="pixel_values_video"):
        model.generate(**clip_inputs(model), pixel_values_video=1)


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("input_features", (2, 48, 32), r"shape \(2, 48, 32\), expected \(batch, frames, 64\)"),
        ("input_features", (2, 64, 64), "has 64 frames, expected 16 to 48"),
        ("pixel_values_videos", (2, 3, 16, 16), r"expected \(batch, video_frames, 3, height, width\)"),
    ],
)
def test_wrong_shapes_say_what_was_expected(model, name, shape, message):
    with pytest.raises(ValueError, match=message):
        model(**clip_inputs(model) | {name: torch.zeros(shape)})


@torch.no_grad()
def test_stored_features_replace_the_frames(model):
    inputs = clip_inputs(model)
    expected = model(**inputs).logits
    pixels = inputs.pop("pixel_values_videos")
    features = model.get_video_features(pixels).pooler_output
    torch.testing.assert_close(model(**inputs, video_features=features).logits, expected)
    with pytest.raises(ValueError, match="both pixel_values_videos and video_features"):
        model(**inputs, pixel_values_videos=pixels, video_features=features)


def test_a_model_without_vision_tower_asks_for_features():
    model = tiny_model(has_vision_tower=False)
    assert not any("vision" in name for name in model.state_dict())
    with pytest.raises(ValueError, match="pass video_features"):
        model.get_video_features(torch.zeros(1, 4, 3, 16, 16))


def test_generation_encodes_each_clip_once(model, monkeypatch):
    calls = []
    encode = model.get_soft_tokens
    monkeypatch.setattr(model, "get_soft_tokens", lambda **inputs: calls.append(1) or encode(**inputs))
    model.generate(**clip_inputs(model), num_beams=3, num_return_sequences=2, max_new_tokens=5)
    assert len(calls) == 1


def test_cached_and_uncached_generation_agree(model):
    inputs = clip_inputs(model)
    with_cache = model.generate(**inputs, max_new_tokens=6, use_cache=True)
    assert with_cache.tolist() == model.generate(**inputs, max_new_tokens=6, use_cache=False).tolist()


@torch.no_grad()
def test_alignment_loss_is_shared_out_over_gradient_accumulation(model):
    inputs = clip_inputs(model)
    labels = inputs["input_ids"].masked_fill(inputs["input_ids"] == model.config.av_token_id, -100)
    whole = model(**inputs, labels=labels)
    part = model(**inputs, labels=labels, num_items_in_batch=2 * int((labels[:, 1:] != -100).sum()))
    torch.testing.assert_close(part.loss, whole.loss / 2)
    torch.testing.assert_close(whole.loss, whole.caption_loss + whole.alignment_loss)


def test_bfloat16_keeps_statistics_and_plan_in_float32(saved_model, model):
    half = LavcapForConditionalGeneration.from_pretrained(saved_model, dtype=torch.bfloat16)
    assert half.multi_modal_projector.weight.dtype == torch.bfloat16
    assert half.audio_tower.batch_norm.running_var.dtype == torch.float32
    assert half.fusion.logit_scale.dtype == torch.float32
    inputs = clip_inputs(model)
    with torch.no_grad():
        plan, expected = half(**inputs).transport_plan, model(**inputs).transport_plan
    assert plan.dtype == torch.float32
    torch.testing.assert_close(plan, expected, rtol=0.2, atol=1e-3)


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_a_model_may_be_cast_as_a_whole(model, dtype):
    cast = copy.deepcopy(model).to(dtype)
    difference = cast(**clip_inputs(model)).logits.float() - model(**clip_inputs(model)).logits
    assert difference.abs().max() < (0.5 if dtype == torch.bfloat16 else 1e-3)


def test_a_resized_vocabulary_never_says_the_placeholder_and_loads_again(model, tmp_path):
    resized = copy.deepcopy(model)
    token = resized.config.av_token_id
    resized.resize_token_embeddings(token + 3)
    head = resized.get_output_embeddings().weight.data
    head[token] = 10 * head[:token].sum(dim=0)  # as loud as can be
    ids = resized.generate(**clip_inputs(model), max_new_tokens=8)[:, clip_inputs(model)["input_ids"].shape[1] :]
    assert (ids != token).all()
    resized.save_pretrained(tmp_path)
    again = LavcapForConditionalGeneration.from_pretrained(tmp_path)
    assert again.generate(**clip_inputs(model), max_new_tokens=8).tolist()[0][-8:] == ids.tolist()[0]


@torch.no_grad()
def test_output_may_be_a_tuple(model):
    output = model(**clip_inputs(model))
    assert torch.equal(model(**clip_inputs(model), return_dict=False)[0], output.logits)


@torch.no_grad()
def test_silence_and_equal_frames_give_finite_losses(model):
    inputs = clip_inputs(model)
    inputs["input_features"] = torch.full_like(inputs["input_features"], -2.7)
    inputs["pixel_values_videos"] = torch.zeros_like(inputs["pixel_values_videos"])
    output = model(**inputs)
    assert output.alignment_loss.isfinite() and output.transport_plan.isfinite().all()


def test_every_part_of_the_model_learns(model):
    model = copy.deepcopy(model).train()
    inputs = clip_inputs(model)
    labels = inputs["input_ids"].masked_fill(inputs["input_ids"] == model.config.av_token_id, -100)
    model(**inputs, labels=labels).loss.backward()
    still = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    # CLIP's key biases cancel in the softmax, as they do in the audio tower.
    assert [name for name in still if "k_proj.bias" not in name] == []
