"""Attention through the library's interface, in towers and language model; recomputation; what is recorded."""

import copy

import pytest
import torch
from clips import clip_inputs
from tiny_models import tiny_model
from transformers import AttentionInterface
from transformers.utils import is_flash_attn_2_available

from modeling_lavcap import LavcapForConditionalGeneration
from vit_captioning import eager_attention_forward


PARTS = ("audio_tower", "vision_tower", "language_model")


def with_attention(model, kind: str | dict) -> LavcapForConditionalGeneration:
    model = copy.deepcopy(model)
    model.set_attn_implementation(kind)
    return model


def labelled(model) -> dict[str, torch.Tensor]:
    inputs = clip_inputs(model)
    return inputs | {"labels": inputs["input_ids"].masked_fill(inputs["input_ids"] == model.config.av_token_id, -100)}


@torch.no_grad()
@pytest.mark.parametrize("kind", ["eager", "sdpa", pytest.param("flex_attention", marks=pytest.mark.slow)])
def test_every_kind_of_attention_gives_the_same_logits_and_plan(model, kind):
    other = with_attention(model, kind)
    assert {getattr(other, part).config._attn_implementation for part in PARTS} == {kind}
    inputs = clip_inputs(model)
    inputs["attention_mask"][1, :2] = 0
    expected, found = model(**inputs), other(**inputs)
    torch.testing.assert_close(found.transport_plan, expected.transport_plan, atol=1e-6, rtol=1e-5)
    seen = inputs["attention_mask"].bool()
    torch.testing.assert_close(found.logits[seen], expected.logits[seen], atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_the_parts_may_differ(saved_model, model):
    kinds = {"audio_config": "eager", "vision_config": "sdpa", "text_config": "eager"}
    mixed = LavcapForConditionalGeneration.from_pretrained(saved_model, attn_implementation=kinds)
    assert [getattr(mixed, part).config._attn_implementation for part in PARTS] == ["eager", "sdpa", "eager"]
    torch.testing.assert_close(
        mixed(**clip_inputs(model)).logits, model(**clip_inputs(model)).logits, atol=1e-5, rtol=1e-4
    )


@torch.no_grad()
def test_an_attention_that_was_registered_is_the_one_that_the_audio_tower_calls(model):
    calls = []

    def counted(module, *args, **kwargs):
        calls.append(type(module).__name__)
        return eager_attention_forward(module, *args, **kwargs)

    AttentionInterface.register("counted", counted)
    other = with_attention(model, {"audio_config": "counted"})
    other.get_audio_features(clip_inputs(model)["input_features"])
    assert calls == ["VitAttention"] * 2


@pytest.mark.skipif(
    not (is_flash_attn_2_available() and torch.cuda.is_available()),
    reason="flash attention needs its package and a GPU",
)
@torch.no_grad()
def test_flash_attention_gives_the_same_logits_to_the_bits_of_its_dtype(model):
    model = copy.deepcopy(model).to("cuda", torch.bfloat16)
    inputs = {name: value.to("cuda") for name, value in clip_inputs(model).items()}
    difference = with_attention(model, "flash_attention_2")(**inputs).logits - model(**inputs).logits
    assert difference.abs().max() < 0.05 * model(**inputs).logits.abs().max()


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_recomputing_activations_leaves_loss_and_gradients_as_they_are(model, use_reentrant):
    plain, saving = (copy.deepcopy(model).train() for _ in range(2))
    saving.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": use_reentrant})
    assert saving.audio_tower.layers[0].gradient_checkpointing and saving.is_gradient_checkpointing
    inputs = labelled(model)
    if use_reentrant:  # its own condition: some input of every recomputed layer wants a gradient
        saving.enable_input_require_grads()
    losses = [each(**inputs, use_cache=False).loss for each in (plain, saving)]
    for loss in losses:
        loss.backward()
    torch.testing.assert_close(*losses)
    for (name, expected), (_, found) in zip(plain.named_parameters(), saving.named_parameters(), strict=True):
        torch.testing.assert_close(found.grad, expected.grad, msg=name)


@torch.no_grad()
def test_the_towers_record_hidden_states_and_attentions_where_asked(model):
    eager = with_attention(model, "eager")
    inputs = clip_inputs(model)
    asked = {"output_hidden_states": True, "output_attentions": True}
    audio = eager.get_audio_features(inputs["input_features"], **asked)
    assert audio.pooler_output.shape == (2, 12, 24)  # 4 frequency rows of 3 time steps
    assert len(audio.hidden_states) == 3 and all(state.shape == (2, 12, 24) for state in audio.hidden_states)
    assert len(audio.attentions) == 2 and all(weights.shape == (2, 3, 12, 12) for weights in audio.attentions)
    torch.testing.assert_close(audio.attentions[0].sum(-1), torch.ones(2, 3, 12))
    video = eager.get_video_features(inputs["pixel_values_videos"], **asked)
    assert video.pooler_output.shape == (2, 4, 24)
    assert len(video.hidden_states) == 2 and video.hidden_states[0].shape == (8, 5, 16)  # 4 patches and the class
    assert len(video.attentions) == 1 and video.attentions[0].shape == (8, 2, 5, 5)
    quiet = eager.get_audio_features(inputs["input_features"])
    assert quiet.hidden_states is None and quiet.attentions is None


@torch.no_grad()
def test_the_language_model_records_its_own(model):
    eager = with_attention(model, "eager")
    output = eager(**clip_inputs(model), output_hidden_states=True, output_attentions=True)
    assert len(output.hidden_states) == 3 and output.hidden_states[0].shape == (2, 11, 32)
    assert len(output.attentions) == 2 and output.attentions[0].shape == (2, 2, 11, 11)


@torch.no_grad()
def test_hidden_states_of_the_audio_tower_lead_to_its_output(model):
    tower = model.audio_tower
    output = tower(clip_inputs(model)["input_features"], output_hidden_states=True)
    torch.testing.assert_close(tower.layer_norm(output.hidden_states[-1]), output.last_hidden_state)
    torch.testing.assert_close(tower.layers[0](output.hidden_states[0]), output.hidden_states[1])


def test_every_trainable_tensor_of_adapters_on_both_towers_moves_and_no_frozen_one(model):
    from peft import LoraConfig, get_peft_model

    for checkpointing in (False, True):
        base = tiny_model()
        config = LoraConfig(
            r=4,
            target_modules=r"(audio_tower|language_model)\..*\.(q_proj|v_proj)",
            modules_to_save=["multi_modal_projector", "fusion"],
            init_lora_weights=False,  # both halves get a gradient at the first step
        )
        adapted = get_peft_model(base, config).train()
        if checkpointing:
            adapted.gradient_checkpointing_enable()
            adapted.enable_input_require_grads()
        before = {name: tensor.detach().clone() for name, tensor in adapted.named_parameters()}
        trainable = {name for name, tensor in adapted.named_parameters() if tensor.requires_grad}
        optimizer = torch.optim.SGD((p for p in adapted.parameters() if p.requires_grad), lr=1.0)
        adapted(**labelled(base)).loss.backward()
        optimizer.step()
        moved = {name for name, tensor in adapted.named_parameters() if not torch.equal(tensor, before[name])}
        assert moved == trainable
        for part in ("audio_tower", "language_model", "multi_modal_projector", "logit_scale"):
            assert any(part in name for name in moved)
        assert not any("vision_tower" in name for name in moved)
