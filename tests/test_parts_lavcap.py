"""Models assembled of pretrained parts, and adapters that belong to one base only."""

import json
import logging
import subprocess
import sys

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from stranger import run_stranger
from test_modeling_lavcap import clip_inputs
from transformers import AutoModelForCausalLM, GPT2Config

from conftest import ROOT, tiny_model
from modeling_lavcap import LavcapForConditionalGeneration
from weights_lavcap import WeightsError


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """Folders of the parts of a small model, CED's in CED's own layout, and that model."""
    folder, model = tmp_path_factory.mktemp("parts"), tiny_model(audio_config={"max_frames": 48})
    model.language_model.save_pretrained(folder / "llama-tiny")
    model.vision_tower.save_pretrained(folder / "clip-tiny")
    model.audio_tower.save_pretrained(folder / "tower")
    names = {
        "batch_norm.": "init_bn.1.",
        "patch_embed.": "patch_embed.proj.",
        "layers.": "blocks.",
        "self_attn.": "attn.",
    }
    names |= {".out_proj": ".proj", "layer_norm": "norm"}
    ced = {}
    for name, tensor in model.audio_tower.state_dict().items():
        for ours, theirs in names.items():
            name = name.replace(ours, theirs)
        ced[name] = tensor
    torch.save(ced, folder / "ced.pt")
    return folder, model


def assemble(folder, **options) -> LavcapForConditionalGeneration:
    given = {"text": folder / "llama-tiny", "audio": folder / "tower", "vision": folder / "clip-tiny"}
    return LavcapForConditionalGeneration.from_parts(**({"num_video_frames": 4} | given | options))


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


# --------------------------------------------------------------------------------------------------------- adapters


@pytest.fixture(scope="module")
def adapter(parts, tmp_path_factory):
    """An adapter of LoRA on both towers and the whole projection, its folder and the logits with it."""
    folder = tmp_path_factory.mktemp("adapter")
    config = LoraConfig(
        target_modules=r".*(audio_tower|language_model)\..*\.(q_proj|v_proj)",
        modules_to_save=["multi_modal_projector"],
        init_lora_weights=False,
    )
    model = get_peft_model(tiny_model(text_model_name="me/llama-tiny"), config)
    with torch.no_grad():
        model.base_model.model.multi_modal_projector.weight.mul_(2)
    model.save_pretrained(folder)
    model.get_base_model().config.save_pretrained(folder)
    with torch.no_grad():
        return folder, model(**clip_inputs(model.get_base_model())).logits


@torch.no_grad()
def test_an_adapter_loads_onto_its_base(adapter):
    folder, expected = adapter
    model = tiny_model()
    plain = model(**clip_inputs(model)).logits
    model.load_adapter(folder)
    assert torch.equal(model(**clip_inputs(model)).logits, expected)
    assert (plain - expected).abs().max() > 1e-2
    assert torch.equal(PeftModel.from_pretrained(tiny_model(), folder)(**clip_inputs(model)).logits, expected)


@pytest.mark.parametrize(
    "options",
    [
        {"target_modules": r".*(audio_tower|language_model)\..*\.q_proj", "use_dora": True},
        {"target_modules": ["embed_tokens", "q_proj"]},
        {"target_modules": ["patch_embed"]},
        {"target_modules": ["q_proj"], "modules_to_save": ["fusion", "multi_modal_projector"], "use_rslora": True},
    ],
    ids=str,
)
def test_what_was_trained_is_what_is_loaded(options, tmp_path):
    """Also the statistics at the input of the sound, which no adapter holds."""
    model = get_peft_model(tiny_model(), LoraConfig(init_lora_weights=False, **options)).train()
    inputs = clip_inputs(model.get_base_model())
    labels = inputs["input_ids"].masked_fill(inputs["input_ids"] == 300, -100)
    optimizer = torch.optim.SGD((p for p in model.parameters() if p.requires_grad), lr=1.0)
    for _ in range(2):
        model(**inputs, labels=labels).loss.backward()
        optimizer.step()
    model.eval().save_pretrained(tmp_path)
    again = tiny_model()
    again.load_adapter(tmp_path)
    with torch.no_grad():
        torch.testing.assert_close(again(**inputs).logits, model(**inputs).logits)


REMOTE = """
import json, sys
import torch
from transformers import AutoModel

model = AutoModel.from_pretrained(sys.argv[1], trust_remote_code=True)
inputs = torch.load(sys.argv[2])
with torch.no_grad():
    print(json.dumps([type(model).__module__, model(**inputs).logits[0, -1].tolist()]))
"""


@pytest.mark.slow
def test_an_adapter_in_the_folder_of_its_base_is_loaded_as_remote_code_too(adapter, tmp_path):
    folder, expected = adapter
    model = tiny_model(text_model_name="me/llama-tiny")
    model.save_pretrained(tmp_path / "both")
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        (tmp_path / "both" / name).write_bytes((folder / name).read_bytes())
    torch.save(clip_inputs(model), tmp_path / "inputs.pt")
    arguments = (str(tmp_path / "both"), str(tmp_path / "inputs.pt"))
    module, logits = run_stranger(REMOTE, *arguments, folder=tmp_path, HF_HOME=str(tmp_path)).printed
    assert module.startswith("transformers_modules.")
    torch.testing.assert_close(torch.tensor(logits), expected[0, -1])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"text_config": {"hidden_size": 64}}, "expected text_model_hidden_size 32, got 64 of another language model"),
        (
            {"text_config": {"vocab_size": 310}},
            "on me/llama-tiny, expected text_model_vocab_size 300, got 310",
        ),
    ],
)
def test_another_base_is_refused_by_what_the_configuration_says(adapter, fields, message):
    with pytest.raises(WeightsError, match=message):
        tiny_model(**fields).load_adapter(adapter[0])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"text_config": {"hidden_size": 64}}, r"layers.0.self_attn.q_proj.lora_A.weight: expected 32, got 64"),
        ({"text_config": {"hidden_size": 64}}, r"multi_modal_projector.weight: expected \(32, 24\), got \(64, 24\)"),
        ({"text_config": {"num_hidden_layers": 1}}, r"layers.1.self_attn.v_proj.lora_B.weight: the model has no such"),
    ],
)
def test_another_base_is_refused_by_its_shapes_where_there_is_no_configuration(adapter, fields, message, tmp_path):
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        (tmp_path / name).write_bytes((adapter[0] / name).read_bytes())
    with pytest.raises(WeightsError, match=message):
        tiny_model(**fields).load_adapter(tmp_path)


def test_a_plain_adapter_is_compared_with_the_base_that_it_names(tmp_path):
    tiny_model().save_pretrained(tmp_path / "base")
    base = LavcapForConditionalGeneration.from_pretrained(tmp_path / "base")
    get_peft_model(base, LoraConfig(target_modules=["q_proj"])).save_pretrained(tmp_path / "adapter")
    assert not (tmp_path / "adapter" / "config.json").exists()
    tiny_model().load_adapter(tmp_path / "adapter")
    with pytest.raises(WeightsError, match="expected text_model_vocab_size 300, got 310"):
        tiny_model(text_config={"vocab_size": 310}).load_adapter(tmp_path / "adapter")


def test_a_base_of_another_name_is_a_warning(adapter, caplog):
    logger = logging.getLogger("parts_lavcap")
    with caplog.at_level(logging.WARNING, logger="parts_lavcap"):
        logger.addHandler(caplog.handler)
        tiny_model(text_model_name="other/vicuna").load_adapter(adapter[0])
        tiny_model(text_model_name="/models/Llama-Tiny").load_adapter(adapter[0])
        logger.removeHandler(caplog.handler)
    assert caplog.messages.count(caplog.messages[0]) >= 1
    assert {message for message in caplog.messages if "expected" in message} == {
        f"{adapter[0]}: was trained on another language model, expected me/llama-tiny, got other/vicuna."
    }


WITHOUT_PEFT = """
import sys
import transformers.utils.import_utils as utils
utils._peft_available = False
import modeling_lavcap
modeling_lavcap.is_peft_available = lambda: False
modeling_lavcap.LavcapForConditionalGeneration.from_pretrained(sys.argv[1])
"""


@pytest.mark.slow
def test_a_model_with_an_adapter_does_not_load_without_peft(adapter, tmp_path):
    model = tiny_model()
    model.save_pretrained(tmp_path)
    command = [sys.executable, "-c", WITHOUT_PEFT, str(tmp_path)]
    assert subprocess.run(command, cwd=ROOT, capture_output=True).returncode == 0
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        (tmp_path / name).write_bytes((adapter[0] / name).read_bytes())
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 1 and "holds a LoRA adapter, which needs PEFT: pip install peft" in result.stderr
