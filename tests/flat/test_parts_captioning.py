"""Models assembled of pretrained parts."""

import json

import pytest
import torch
from clips import clip_inputs
from model_parts import assemble, write_parts
from transformers import AutoModelForCausalLM, GPT2Config

from modeling_lavcap import LavcapForConditionalGeneration
from weights_captioning import WeightsError


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """Folder of the parts of a small model, and that model."""
    folder = tmp_path_factory.mktemp("parts")
    return folder, write_parts(folder)


@torch.no_grad()
def test_parts_keep_their_weights_and_the_model_works(parts, tokenizer):
    folder, original = parts
    model = assemble(folder)
    for name, tensor in model.state_dict().items():
        if not name.startswith(("fusion", "multi_modal_projector")):
            assert torch.equal(tensor, original.state_dict()[name]), name
    assert model.multi_modal_projector.weight.std().item() == pytest.approx(0.02, rel=0.2)
    assert model.fusion.logit_scale.item() == pytest.approx(2.6593, abs=1e-4)
    assert model(**clip_inputs(model)).logits.isfinite().all()
    assert model.generate(**clip_inputs(model), max_new_tokens=3).shape == (2, 14)
    assert (model.generation_config.num_beams, model.generation_config.do_sample) == (4, False)


@pytest.mark.parametrize(("fusion", "dropped"), [("audio_only", "vision"), ("video_only", "audio")])
@torch.no_grad()
def test_a_baseline_is_assembled_of_one_tower(parts, fusion, dropped):
    model = assemble(parts[0], fusion=fusion, **{dropped: None})
    inputs = clip_inputs(model, audio=fusion == "audio_only", video=fusion == "video_only")
    assert model(**inputs).logits.isfinite().all()
    assert getattr(model, f"{dropped}_tower") is None
    if fusion == "video_only":
        model = assemble(parts[0], fusion=fusion, audio=None, vision=None, vision_config={"projection_dim": 24})
        assert model.vision_tower is None and model.get_soft_tokens(video_features=torch.randn(1, 4, 24)) is not None


def test_another_window_cuts_the_positions_of_a_saved_tower(parts):
    folder, original = parts
    model = assemble(folder, audio_config={"max_frames": 32})
    assert torch.equal(model.audio_tower.time_pos_embed, original.audio_tower.time_pos_embed[..., :2])
    assert model.config.num_audio_tokens == 2


def test_the_base_is_recorded(parts, tmp_path):
    folder, _ = parts
    assemble(folder).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["text_model_name"] == "llama-tiny"
    assert (config["text_model_vocab_size"], config["text_model_hidden_size"]) == (300, 32)
    again = LavcapForConditionalGeneration.from_pretrained(tmp_path)
    again.resize_token_embeddings(310)
    assert again.config.text_config.vocab_size == 310 and again.config.text_model_vocab_size == 300


def test_ceds_own_file_tells_its_sizes(parts):
    folder, original = parts
    model = assemble(folder, audio=folder / "ced.pt", audio_config={"num_attention_heads": 3, "max_frames": 48})
    sizes = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_mel_bins", "patch_size", "max_frames")
    for size in sizes:
        assert getattr(model.config.audio_config, size) == getattr(original.config.audio_config, size)
    assert torch.equal(model.audio_tower.layers[1].mlp.fc2.weight, original.audio_tower.layers[1].mlp.fc2.weight)


def test_loaded_models_serve_as_parts_and_any_language_model_will_do(parts):
    folder, original = parts
    text = AutoModelForCausalLM.from_config(GPT2Config(n_embd=32, n_layer=1, n_head=2, vocab_size=90))
    model = assemble(folder, text=text, audio=original.audio_tower, vision=None)
    assert model.language_model is text and model.config.text_model_name is None
    assert model.config.av_token_id == 90 and model.vision_tower is None


def test_parts_come_in_one_dtype_but_for_statistics(parts):
    model = assemble(parts[0], dtype="bfloat16")
    kept = {name for name, tensor in model.state_dict().items() if tensor.dtype == torch.float32}
    assert {name.rpartition(".")[0] for name in kept} == {"audio_tower.batch_norm", "fusion"}
    assert model.dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"audio": None}, "Got no audio part for fusion='concat_time', expected CED"),
        ({"fusion": "video_only"}, "for fusion='video_only', which has no such tower"),
        ({"fusion": "audio_only"}, "Got vision=.* for fusion='audio_only', which has no such tower"),
        (
            {"audio_config": {"hidden_size": 36}},
            r"layer_norm.bias: expected \(36,\), got \(24,\)",
        ),
        ({"text": "no/such/folder"}, "no/such/folder"),
        ({"text_config": {"hidden_size": 64}}, "Got text_config beside a part that has one of its own"),
        ({"vision_config": {"projection_dim": 24}}, "Got vision_config beside a part"),
        ({"dtype": "bfloat"}, "dtype is 'bfloat', expected a torch dtype"),
        ({"audio": "no/such/ced.pt"}, "no/such/ced.pt: no such file"),
        ({"fuson": "concat_time"}, "'fuson' is not an option of LavcapConfig; did you mean fusion"),
    ],
)
def test_parts_that_do_not_fit_are_refused(parts, options, message):
    with pytest.raises((ValueError, OSError, RuntimeError), match=message):
        assemble(parts[0], **options)


def test_a_file_that_is_not_ceds_is_refused(parts, tmp_path):
    torch.save({"conv1.weight": torch.ones(1)}, tmp_path / "resnet.pt")
    with pytest.raises(WeightsError, match=r"resnet.pt: Got 1 tensors named conv1.weight, expected those of CED"):
        assemble(parts[0], audio=tmp_path / "resnet.pt")
