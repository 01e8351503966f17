"""Adapters: each belongs to one base only, and one alone is a model if it tells what its base is made of."""

import json
import math
import shutil
import subprocess
import sys

import pytest
import torch
from clips import clip_inputs
from model_parts import assemble, write_parts
from peft import (
    IA3Config,
    LoHaConfig,
    LoraConfig,
    PeftModel,
    PromptTuningConfig,
    get_peft_model,
    get_peft_model_state_dict,
)
from safetensors.torch import load_file, save_file
from stranger import run_stranger
from tiny_models import tiny_model

from conftest import ROOT
from lavcap.endings import errors_in_one_line
from lavcap.models.lora import add_lora, load_lora, save_adapter
from lavcap.models.saved_weights import check_saved_weights
from modeling_lavcap import LavcapForConditionalGeneration
from weights_captioning import WeightsError


@pytest.fixture(scope="module")
def adapter(tmp_path_factory):
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


@pytest.mark.parametrize("name", ["/models/Llama-Tiny", None])
def test_a_base_of_the_same_name_in_another_place_is_taken(adapter, name):
    tiny_model(text_model_name=name).load_adapter(adapter[0])


def test_a_base_of_another_name_stops_with_both_names(adapter):
    message = (
        "was trained on another language model, expected me/llama-tiny, got other/vicuna; load it on me/llama-tiny"
    )
    with pytest.raises(WeightsError, match=message):
        tiny_model(text_model_name="other/vicuna").load_adapter(adapter[0])


WITHOUT_PEFT = """
import sys
import transformers.utils.import_utils as utils
utils._peft_available = False
import adapters_captioning, modeling_lavcap
adapters_captioning.is_peft_available = lambda: False
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


# ------------------------------------------------------------------------------------------------ adapters of parts


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Folder of the parts, folder of an adapter that was trained on them, and its logits."""
    parts, folder = tmp_path_factory.mktemp("parts"), tmp_path_factory.mktemp("trained")
    write_parts(parts)
    config = LoraConfig(
        target_modules=r".*(audio_tower|language_model)\..*\.(q_proj|v_proj)",
        modules_to_save=["multi_modal_projector", "fusion"],
        init_lora_weights=False,
    )
    torch.manual_seed(1)
    model = get_peft_model(
        assemble(
            parts,
            transport_attention="barycentric",
            audio=parts / "ced.pt",
            audio_config={"num_attention_heads": 3, "max_frames": 48},
        ),
        config,
    ).eval()
    save_adapter(model, folder)
    with torch.no_grad():
        return parts, folder, model(**clip_inputs(model.get_base_model())).logits


def on_its_base(folder):
    """As merging and training load it."""
    return load_lora(LavcapForConditionalGeneration.base_of_adapter(folder), folder)


LOADERS = (LavcapForConditionalGeneration.from_pretrained, on_its_base)


def logits_of(model) -> torch.Tensor:
    with torch.no_grad():
        return model(**clip_inputs(model)).logits


def test_an_adapter_alone_is_loaded_onto_the_parts_that_it_names(trained):
    parts, folder, expected = trained
    assert not list(folder.glob("model*.safetensors")) and (folder / "modeling_lavcap.py").is_file()
    torch.manual_seed(2)
    model = LavcapForConditionalGeneration.from_pretrained(folder)
    assert torch.equal(logits_of(model), expected)
    assert model.config.transport_attention == "barycentric" and model.generation_config.num_beams == 4
    assert model.config.base_parts["audio"] == str(parts / "ced.pt")


def test_such_a_model_is_saved_as_it_was_loaded(trained, tmp_path):
    LavcapForConditionalGeneration.from_pretrained(trained[1]).save_pretrained(tmp_path)
    assert not list(tmp_path.glob("model*.safetensors"))
    assert torch.equal(logits_of(LavcapForConditionalGeneration.from_pretrained(tmp_path)), trained[2])


def test_options_of_loading_reach_the_parts(trained):
    options = {"dtype": torch.bfloat16, "attn_implementation": "eager", "device_map": {"": "cpu"}}
    model = LavcapForConditionalGeneration.from_pretrained(trained[1], **options)
    assert model.language_model.dtype == model.audio_tower.dtype == torch.bfloat16
    assert model.audio_tower.batch_norm.weight.dtype == torch.float32
    assert model.audio_tower.config._attn_implementation == "eager"
    assert (logits_of(model).float() - trained[2]).abs().max() < 0.5
    with pytest.raises(TypeError, match="Got unknown options for .*: atn_implementation"):
        LavcapForConditionalGeneration.from_pretrained(trained[1], atn_implementation="eager")


def test_the_parts_may_have_moved(trained, tmp_path):
    parts, folder, expected = trained
    (tmp_path / "here").mkdir()
    write_parts(tmp_path / "here")
    config = json.loads((folder / "config.json").read_text())
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config["base_parts"] |= {"text": "/moved/llama-tiny"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(OSError, match=r"its base is assembled of .*text=/moved/llama-tiny, .*Pass text"):
        LavcapForConditionalGeneration.from_pretrained(tmp_path)
    model = LavcapForConditionalGeneration.from_pretrained(tmp_path, text=tmp_path / "here" / "llama-tiny")
    assert torch.equal(logits_of(model), expected)
    config["base_parts"] = None
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(WeightsError, match=r"does not tell where its language model \(llama-tiny\) is; pass text"):
        LavcapForConditionalGeneration.from_pretrained(tmp_path)


def test_an_adapter_that_was_trained_on_stored_features_can_be_given_eyes(trained, tmp_path):
    parts = trained[0]
    base = assemble(parts, vision=None, vision_config={"projection_dim": 24})
    model = add_lora(base, {"target_modules": ["q_proj"], "modules_to_save": ["multi_modal_projector"]}).eval()
    save_adapter(model, tmp_path)
    blind = LavcapForConditionalGeneration.from_pretrained(tmp_path)
    seeing = LavcapForConditionalGeneration.from_pretrained(tmp_path, vision=parts / "clip-tiny")
    assert blind.vision_tower is None and not blind.config.has_vision_tower
    inputs = clip_inputs(seeing)
    with torch.no_grad():
        features = seeing.get_video_features(inputs.pop("pixel_values_videos")).pooler_output
        expected = blind(**inputs, video_features=features).logits
        assert torch.equal(seeing(**clip_inputs(seeing)).logits, expected)


def test_an_adapter_alone_is_not_put_on_another_language_model(trained, tmp_path):
    write_parts(tmp_path)
    (tmp_path / "llama-tiny").rename(tmp_path / "vicuna")
    with pytest.raises(WeightsError, match="expected llama-tiny, got vicuna"):
        LavcapForConditionalGeneration.from_pretrained(trained[1], text=tmp_path / "vicuna")


def test_an_adapter_alone_is_put_on_the_saved_base_that_it_names(tmp_path):
    tiny_model().save_pretrained(tmp_path / "base")
    base = LavcapForConditionalGeneration.from_pretrained(tmp_path / "base")
    model = get_peft_model(base, LoraConfig(target_modules=["q_proj"], init_lora_weights=False)).eval()
    save_adapter(model, tmp_path / "adapter")
    again = LavcapForConditionalGeneration.from_pretrained(tmp_path / "adapter")
    assert torch.equal(logits_of(again), logits_of(model.get_base_model()))


def test_an_adapter_that_was_trained_on_is_not_taken_for_the_one_it_came_from(trained, tmp_path):
    """As an Auto class calls with a repository of an adapter whose base is one, too."""
    parts, first, expected = trained
    second = get_peft_model(assemble(parts, transport_attention="barycentric"), LoraConfig(target_modules=["q_proj"]))
    with torch.no_grad():
        for name, parameter in second.named_parameters():
            if "lora_B" in name:
                parameter.fill_(0.5)
    save_adapter(second.eval(), tmp_path)
    options = {"adapter_kwargs": {"_adapter_model_path": str(tmp_path)}}
    model = LavcapForConditionalGeneration.from_pretrained(first, **options)
    state = model.state_dict()
    assert all((tensor == 0.5).all() for name, tensor in state.items() if "lora_B" in name)
    assert (logits_of(model) - expected).abs().max() > 1e-2


def test_a_subfolder_is_that_of_the_adapter_alone(tmp_path):
    tiny_model().save_pretrained(tmp_path / "base")
    base = LavcapForConditionalGeneration.from_pretrained(tmp_path / "base")
    model = get_peft_model(base, LoraConfig(target_modules=["q_proj"], init_lora_weights=False)).eval()
    save_adapter(model, tmp_path / "repository" / "inner")
    again = LavcapForConditionalGeneration.from_pretrained(tmp_path / "repository", subfolder="inner")
    assert torch.equal(logits_of(again), logits_of(model.get_base_model()))


@pytest.mark.parametrize("beginning", ["pissa_niter_4", "pissa", "OLoRA", "corda", "loftq", "lora_ga"])
def test_an_adapter_that_rests_on_a_changed_base_is_refused(trained, tmp_path, beginning):
    folder = shutil.copytree(trained[1], tmp_path / "adapter")
    settings = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(settings | {"init_lora_weights": beginning}))
    with pytest.raises(WeightsError, match=rf"began with init_lora_weights '{beginning.lower()}', which changed"):
        LavcapForConditionalGeneration.from_pretrained(folder)
    with pytest.raises(WeightsError, match="Convert it where it was trained"):
        load_lora(LavcapForConditionalGeneration.base_of_adapter(folder), folder)


def test_an_adapter_that_peft_converted_for_the_unchanged_base_is_loaded(tmp_path):
    tiny_model().save_pretrained(tmp_path / "base")
    base = LavcapForConditionalGeneration.from_pretrained(tmp_path / "base")
    settings = LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights="pissa_niter_4")
    model = get_peft_model(base, settings).eval()
    settings.init_lora_weights = True  # as PEFT's guide has it: where it began, without the changed base
    model.save_pretrained(tmp_path / "beginning")
    settings.init_lora_weights = "pissa_niter_4"
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_" in name:
                parameter.add_(torch.randn_like(parameter))
    expected = logits_of(model.get_base_model())
    conversion = str(tmp_path / "beginning")
    model.save_pretrained(tmp_path / "plain", path_initial_model_for_weight_conversion=conversion)
    again = LavcapForConditionalGeneration.from_pretrained(tmp_path / "base")
    found = logits_of(load_lora(again, tmp_path / "plain").get_base_model().eval())
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"peft_type": "LOHA"}, r"of the LOHA .* lacks \d+ of its tensors \(.*hada_w1_a.* and holds \d+ .*\(.*lora_A"),
        ({"peft_type": "XLORA"}, r"of the XLORA adapter .* holds \d+ without a place"),
        ({"peft_type": "NONSENSE"}, "peft_type is 'NONSENSE' in its adapter_config.json, expected one that"),
        ({"modules_to_save": None}, r"holds 3 without a place \(.*multi_modal_projector\.weight"),
        ({"target_modules": ["q_proj"]}, r"holds \d+ without a place \(.*v_proj"),
        ({"r": 4}, "have other sizes than its adapter_config.json describes"),
        ({"r": 10**9}, "r is 1000000000, expected 0 to 4096"),
        ({"rank_pattern": {"q_proj": "2"}}, "rank_pattern.q_proj: r is '2', expected 0 to 4096"),
        ({"lora_alpha": math.nan}, "in its adapter_config.json lora_alpha is nan, expected 1e-06 to 1e"),
        ({"lora_alpha": math.inf}, "lora_alpha is inf"),
        ({"lora_alpha": 0}, "lora_alpha is 0"),
        ({"lora_alpha": True}, "lora_alpha is True"),
        ({"alpha_pattern": {"q_proj": "8"}}, "alpha_pattern.q_proj: lora_alpha is '8'"),
    ],
    ids=str,
)
def test_an_adapter_with_the_settings_of_another_is_refused(trained, tmp_path, fields, message):
    folder = changed(trained[1], tmp_path / "adapter", fields)
    for load in LOADERS:
        with pytest.raises(WeightsError, match=message) as refused:
            load(folder)
        assert str(refused.value).startswith(f"{folder}: ") and "\n" not in str(refused.value)


def changed(adapter, folder, fields=None, change=lambda tensors: None):
    """A copy of an adapter with other settings, and with tensors that a function changes in place."""
    shutil.copytree(adapter, folder)
    settings = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(settings | (fields or {})))
    tensors = load_file(folder / "adapter_model.safetensors")
    change(tensors)
    save_file(tensors, folder / "adapter_model.safetensors")
    return folder


def lose(tensors):
    del tensors[min(tensors)]


def gain_a_tensor_of_the_base(tensors):
    tensors["base_model.model.language_model.model.norm.weight"] = torch.zeros(32)


def gain_a_tensor_of_another_kind(tensors):
    tensors["base_model.model.language_model.model.layers.0.self_attn.q_proj.vera_lambda_b"] = torch.zeros(32)


ON_WORDS = {"target_modules": r"language_model\..*\.[qv]_proj"}
OF_KINDS = {
    "LoRA": LoraConfig(init_lora_weights=False, **ON_WORDS),
    "LoHa": LoHaConfig(init_weights=False, **ON_WORDS),
    "IA3": IA3Config(init_ia3_weights=False, feedforward_modules=[], **ON_WORDS),
}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """Folder of a whole model."""
    tiny_model().save_pretrained(tmp_path_factory.mktemp("base"))
    return tmp_path_factory.getbasetemp() / "base0"


@pytest.mark.parametrize("kind", OF_KINDS)
def test_each_tensor_of_a_file_has_a_place_and_each_place_a_tensor(base, tmp_path, kind):
    """Of every kind of adapter, not of LoRA alone: what PEFT leaves over it tells no one."""
    model = get_peft_model(LavcapForConditionalGeneration.from_pretrained(base), OF_KINDS[kind]).eval()
    save_adapter(model, tmp_path / "adapter")
    for load in LOADERS:
        again = load(tmp_path / "adapter").eval()
        assert torch.equal(logits_of(getattr(again, "base_model", again)), logits_of(model.get_base_model()))
    faults = {
        lose: "lacks 1 of its tensors",
        gain_a_tensor_of_the_base: r"holds 1 without a place \(language_model\.model\.norm\.weight\)",
        gain_a_tensor_of_another_kind: "holds 1 without a place",
    }
    for change, message in faults.items():
        folder = changed(tmp_path / "adapter", tmp_path / change.__name__, change=change)
        for load in LOADERS:
            with pytest.raises(WeightsError, match=rf"{kind.upper()} adapter .*: the file {message}"):
                load(folder)


@pytest.mark.parametrize(
    "fields",
    [
        {"target_modules": ["q_proj"], "bias": "lora_only"},
        {"target_modules": ["embed_tokens", "q_proj"]},
        {"target_modules": ["q_proj"], "trainable_token_indices": [7]},
        {"target_modules": ["q_proj"], "modules_to_save": ["audio_tower", "multi_modal_projector"]},
        {"target_modules": [r"fc1"], "target_parameters": ["q_proj.weight"]},
    ],
    ids=str,
)
def test_all_of_an_adapter_comes_from_its_file(base, tmp_path, fields):
    """Biases of the base, embeddings and statistics too, whatever was in their places before."""
    model = get_peft_model(
        LavcapForConditionalGeneration.from_pretrained(base), LoraConfig(init_lora_weights=False, **fields)
    ).eval()
    save_adapter(model, tmp_path / "adapter")

    def change(tensors):
        for name, tensor in tensors.items():
            tensors[name] = tensor if name.endswith("num_batches_tracked") else torch.rand_like(tensor)

    folder = changed(tmp_path / "adapter", tmp_path / "changed", change=change)
    file = load_file(folder / "adapter_model.safetensors")
    first, second = (load(folder).eval() for load in LOADERS)
    assert torch.equal(logits_of(first), logits_of(second.base_model))
    for name, tensor in get_peft_model_state_dict(second, save_embedding_layers="auto").items():
        assert torch.equal(tensor, file[name]), name


def test_an_adapter_in_a_pickle_is_as_strictly_checked(trained, tmp_path):
    folder = changed(trained[1], tmp_path / "adapter")
    tensors = load_file(folder / "adapter_model.safetensors")
    (folder / "adapter_model.safetensors").unlink()
    torch.save(tensors, folder / "adapter_model.bin")
    assert torch.equal(logits_of(LavcapForConditionalGeneration.from_pretrained(folder)), trained[2])
    lose(tensors)
    torch.save(tensors, folder / "adapter_model.bin")
    for load in LOADERS:
        with pytest.raises(WeightsError, match="lacks 1 of its tensors"):
            load(folder)


@pytest.mark.parametrize("lost", ["multi_modal_projector", "language_model.model.layers.1.self_attn.v_proj.lora_B"])
def test_an_adapter_that_lacks_tensors_is_refused(trained, tmp_path, lost):
    for file in trained[1].iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    tensors = {name: tensor.clone() for name, tensor in load_file(tmp_path / "adapter_model.safetensors").items()}
    save_file({n: t for n, t in tensors.items() if lost not in n}, tmp_path / "adapter_model.safetensors")
    with pytest.raises(WeightsError, match=rf"the file lacks \d of its tensors \(.*{lost}"):
        LavcapForConditionalGeneration.from_pretrained(tmp_path)
    with pytest.raises(WeightsError, match="not whole|lacks"):
        load_lora(LavcapForConditionalGeneration.base_of_adapter(tmp_path), tmp_path)
    (tmp_path / "adapter_model.safetensors").write_bytes(b"cut")
    with pytest.raises(WeightsError, match="not a readable safetensors file"):
        load_lora(LavcapForConditionalGeneration.base_of_adapter(tmp_path), tmp_path)
    (tmp_path / "adapter_model.safetensors").unlink()
    with pytest.raises(WeightsError, match="holds no adapter_model.safetensors beside"):
        LavcapForConditionalGeneration.from_pretrained(tmp_path)
    broken = {name: tensor * float("nan") for name, tensor in tensors.items()}
    save_file(broken, tmp_path / "adapter_model.safetensors")
    with pytest.raises(WeightsError, match="NaN or infinite values"):
        LavcapForConditionalGeneration.from_pretrained(tmp_path)


def test_what_was_trained_in_float32_stays_so_on_a_base_in_bfloat16(trained, tmp_path):
    tensors = load_file(trained[1] / "adapter_model.safetensors")
    model = LavcapForConditionalGeneration.from_pretrained(trained[1], dtype=torch.bfloat16)
    model.save_pretrained(tmp_path)
    again = load_file(tmp_path / "adapter_model.safetensors")
    short = {name.removeprefix("base_model.model."): tensor for name, tensor in tensors.items()}
    assert {name: tensor for name, tensor in again.items() if "lora_" in name}
    for name, tensor in again.items():
        assert torch.equal(tensor, short[name.removeprefix("base_model.model.")]), name
    base = LavcapForConditionalGeneration.base_of_adapter(trained[1], dtype=torch.bfloat16)
    trainable = {n: p for n, p in load_lora(base, trained[1], is_trainable=True).named_parameters() if p.requires_grad}
    assert trainable and all(parameter.dtype == torch.float32 for parameter in trainable.values())


def test_a_moved_base_is_not_replaced_by_parts(trained, tmp_path):
    tiny_model().save_pretrained(tmp_path / "base")
    base = LavcapForConditionalGeneration.from_pretrained(tmp_path / "base")
    save_adapter(get_peft_model(base, LoraConfig(target_modules=["q_proj"])), tmp_path / "adapter")
    (tmp_path / "base").rename(tmp_path / "moved")
    with pytest.raises(
        OSError, match="its base .*base cannot be loaded .*write the place into base_model_name_or_path"
    ):
        LavcapForConditionalGeneration.from_pretrained(tmp_path / "adapter")
    with pytest.raises(WeightsError, match="got text for an adapter of .*base, which is a whole LAVCap"):
        LavcapForConditionalGeneration.from_pretrained(tmp_path / "adapter", text=trained[0] / "llama-tiny")


def test_weights_that_are_saved_whole_name_no_parts_and_take_none(trained, tmp_path):
    model = assemble(trained[0])
    model.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text()).get("base_parts") is None
    assert model.config.base_parts["text"] == str(trained[0] / "llama-tiny")
    with pytest.raises(ValueError, match="Got text for .*, which holds all its weights"):
        LavcapForConditionalGeneration.from_pretrained(tmp_path, text=trained[0] / "llama-tiny")


@pytest.mark.slow
def test_an_adapter_alone_is_loaded_as_remote_code_too(trained, tmp_path):
    model = assemble(trained[0], transport_attention="barycentric")
    torch.save(clip_inputs(model), tmp_path / "inputs.pt")
    arguments = (str(trained[1]), str(tmp_path / "inputs.pt"))
    module, logits = run_stranger(REMOTE, *arguments, folder=tmp_path, HF_HOME=str(tmp_path)).printed
    assert module.startswith("transformers_modules.")
    torch.testing.assert_close(torch.tensor(logits), trained[2][0, -1])


def test_a_batch_may_have_an_adapter_for_each_clip():
    settings = {"target_modules": r".*language_model.*\.[qv]_proj", "init_lora_weights": False}
    model = get_peft_model(tiny_model(), LoraConfig(**settings, task_type="CAUSAL_LM")).eval()
    model.add_adapter("other", LoraConfig(**settings))
    inputs, names = clip_inputs(model), ["default", "other"]
    for options in ({"num_beams": 1}, {"num_beams": 3}):
        options |= {"max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False}
        alone = []
        for name in names:
            model.set_adapter(name)
            alone.append(model.generate(**inputs, **options))
        assert not torch.equal(*alone)
        mixed = model.generate(**inputs, **options, adapter_names=names)
        assert torch.equal(mixed, torch.stack([alone[0][0], alone[1][1]]))


def test_prompt_tuning_puts_its_vectors_before_the_prompt():
    base = tiny_model(av_token_id=299)  # a row of the embeddings
    inputs = clip_inputs(base)
    virtual = torch.tensor([[11, 12, 13]] * len(inputs["input_ids"]))
    with torch.no_grad():
        longer = inputs | {
            "input_ids": torch.cat([virtual, inputs["input_ids"]], dim=1),
            "attention_mask": torch.cat([torch.ones_like(virtual), inputs["attention_mask"]], dim=1),
        }
        expected = base(**longer).logits
    model = get_peft_model(base, PromptTuningConfig(num_virtual_tokens=3, task_type="CAUSAL_LM")).eval()
    with torch.no_grad():
        model.prompt_encoder["default"].embedding.weight.copy_(base.get_input_embeddings().weight[11:14])
        torch.testing.assert_close(model(**inputs).logits, expected)
    options = {"max_new_tokens": 4, "min_new_tokens": 4, "num_beams": 1, "do_sample": False}
    captions = model.generate(**inputs, **options)
    assert torch.equal(captions[:, -4:], base.generate(**longer, **options)[:, -4:])


@pytest.mark.parametrize("base", ["b", "c", 7, ["a"]])
def test_an_adapter_that_leads_back_to_itself_is_refused_with_the_way(adapter, tmp_path, base):
    names = {name: str(shutil.copytree(adapter[0], tmp_path / name)) for name in ("a", "b", "c")}
    bases = {"a": names.get(str(base), base), "b": names["a"], "c": names["b"]}
    for name, base in bases.items():
        path = tmp_path / name / "adapter_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"base_model_name_or_path": base}))
    with pytest.raises(WeightsError, match="its base is .* ->.*expected a model in the end"):
        LavcapForConditionalGeneration.from_pretrained(tmp_path / "a")
    with pytest.raises(WeightsError, match="its base is .* ->.*expected a model in the end"):
        check_saved_weights(tmp_path / "a")


@pytest.mark.parametrize("base", ["a" * 6000, f"a/{'b' * 6000}", f"/{'a/' * 3000}", "a\0b"])
def test_a_base_whose_name_can_be_none_is_refused_with_the_adapter(adapter, tmp_path, capsys, base):
    folder = shutil.copytree(adapter[0], tmp_path / "adapter")
    settings = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(settings | {"base_model_name_or_path": base}))
    check_saved_weights(folder)  # which are whole
    with pytest.raises(SystemExit), errors_in_one_line():
        LavcapForConditionalGeneration.from_pretrained(folder)
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and len(said) < 1800 and said.startswith(f"error: {folder}: its base "), said
