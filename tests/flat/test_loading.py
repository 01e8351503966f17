"""`from_pretrained` and its kin: dtypes, devices, shards, tied heads, and what a saved folder holds."""

import copy
import json

import pytest
import torch
from clips import clip_inputs
from safetensors import safe_open
from tiny_models import tiny_config, tiny_model
from transformers import AutoModel, AutoModelForCausalLM

from modeling_lavcap import LavcapForConditionalGeneration


@pytest.fixture(scope="module")
def logits(model) -> torch.Tensor:
    with torch.no_grad():
        return model(**clip_inputs(model)).logits


def load(folder, **options) -> LavcapForConditionalGeneration:
    return LavcapForConditionalGeneration.from_pretrained(folder, **options)


@torch.no_grad()
@pytest.mark.parametrize(
    "options",
    [
        {"device_map": "cpu"},
        {"device_map": {"": "cpu"}},
        {"device_map": "auto"},
        {"low_cpu_mem_usage": True},
        {"dtype": "auto"},
        {"attn_implementation": "eager"},
    ],
    ids=str,
)
def test_ways_of_loading_give_the_same_logits(saved_model, logits, model, options):
    found = load(saved_model, **options)
    assert not any(p.is_meta for p in (*found.parameters(), *found.buffers()))
    torch.testing.assert_close(found(**clip_inputs(model)).logits, logits, atol=1e-6, rtol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, "bfloat16", torch.float64])
def test_a_dtype_may_be_asked_for(saved_model, logits, model, dtype):
    found = load(saved_model, dtype=dtype)
    wanted = getattr(torch, dtype) if isinstance(dtype, str) else dtype
    assert found.dtype == found.language_model.dtype == found.vision_tower.dtype == wanted
    assert found.audio_tower.batch_norm.running_mean.dtype == torch.promote_types(wanted, torch.float32)
    scale = logits.abs().max()
    assert (found(**clip_inputs(model)).logits.float() - logits).abs().max() < 0.05 * scale


def test_a_saved_dtype_comes_back(saved_model, tmp_path):
    load(saved_model, dtype=torch.bfloat16).save_pretrained(tmp_path)
    again = load(tmp_path)
    assert again.dtype == torch.bfloat16
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        kinds = {name: file.get_tensor(name).dtype for name in file.keys()}  # noqa: SIM118, not a dict
    kept = {name for name, dtype in kinds.items() if dtype == torch.float32}
    assert kept and all("batch_norm" in name or "logit_scale" in name for name in kept)


@torch.no_grad()
def test_a_sharded_model_is_the_same(model, logits, tmp_path):
    model.save_pretrained(tmp_path, max_shard_size="60KB")
    shards = sorted(tmp_path.glob("model-*.safetensors"))
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert len(shards) > 2 and set(index["weight_map"].values()) == {shard.name for shard in shards}
    assert torch.equal(load(tmp_path)(**clip_inputs(model)).logits, logits)


def test_a_model_from_its_configuration_has_its_own_fresh_weights():
    one, two = (LavcapForConditionalGeneration(tiny_config()) for _ in range(2))
    shapes = [{name: tensor.shape for name, tensor in model.state_dict().items()} for model in (one, two)]
    assert shapes[0] == shapes[1]
    assert not torch.equal(one.audio_tower.time_pos_embed, two.audio_tower.time_pos_embed)
    assert one.fusion.logit_scale.item() == pytest.approx(2.6593, abs=1e-4)


def test_a_model_on_the_meta_device_takes_no_memory_and_knows_its_shapes(model):
    with torch.device("meta"):
        empty = LavcapForConditionalGeneration(tiny_config())
    assert all(p.is_meta for p in empty.parameters())
    found = {name: tensor.shape for name, tensor in empty.state_dict().items()}
    fresh = LavcapForConditionalGeneration(tiny_config())
    assert found == {name: tensor.shape for name, tensor in fresh.state_dict().items()}


@torch.no_grad()
@pytest.mark.parametrize("tied", [True, False])
def test_a_tied_head_stays_tied_and_an_untied_one_apart(tied, tmp_path):
    model = tiny_model(text_config={"tie_word_embeddings": tied})
    head, table = model.get_output_embeddings().weight, model.get_input_embeddings().weight
    assert (head is table) == tied and model.config.tie_word_embeddings == tied
    expected = model(**clip_inputs(model)).logits
    model.save_pretrained(tmp_path)
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        assert ("language_model.lm_head.weight" in file.keys()) != tied  # noqa: SIM118, not a dict
    again = load(tmp_path)
    assert (again.get_output_embeddings().weight is again.get_input_embeddings().weight) == tied
    assert torch.equal(again(**clip_inputs(model)).logits, expected)


@pytest.mark.parametrize("tied", [True, False])
def test_a_resized_vocabulary_has_rows_for_new_words_in_both_tables(tied, tmp_path):
    model = tiny_model(text_config={"tie_word_embeddings": tied})
    model.resize_token_embeddings(310)
    assert model.config.text_config.vocab_size == 310 and model.config.av_token_id == 300
    assert model.config.text_model_vocab_size == 300  # of the base, whose adapters fit
    model.save_pretrained(tmp_path)
    again = load(tmp_path)
    assert again.get_input_embeddings().num_embeddings == again.get_output_embeddings().out_features == 310


def test_id_fields_come_from_the_language_model_unless_given():
    config = tiny_config()
    assert (config.bos_token_id, config.eos_token_id, config.pad_token_id) == (1, 2, 0)
    assert config.av_token_id == 300  # the first that is no word
    assert tiny_config(pad_token_id=2).pad_token_id == 2
    assert copy.deepcopy(config).to_dict() == config.to_dict()


def test_the_folder_holds_decoding_and_code(saved_model):
    names = {path.name for path in saved_model.iterdir()}
    assert {"config.json", "generation_config.json", "model.safetensors", "processor_config.json"} <= names
    assert {"modeling_lavcap.py", "configuration_lavcap.py", "processing_lavcap.py"} <= names
    auto_map = json.loads((saved_model / "config.json").read_text())["auto_map"]
    assert auto_map["AutoModelForMultimodalLM"] == "modeling_lavcap.LavcapForConditionalGeneration"


def test_the_language_model_alone_is_a_causal_lm_of_its_own(model, tmp_path):
    model.language_model.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert all(
        torch.equal(tensor, again.state_dict()[name]) for name, tensor in model.language_model.state_dict().items()
    )


@pytest.mark.parametrize("saved", ["saved_model", "saved_avcap", "saved_dali"])
def test_a_loaded_model_is_saved_under_the_names_of_its_tensors(saved, request, tmp_path):
    """A run that is continued looks for these: what has another name would silently begin anew."""
    folder = request.getfixturevalue(saved)
    AutoModel.from_pretrained(folder).save_pretrained(tmp_path)
    names = []
    for path in (folder, tmp_path):
        with safe_open(path / "model.safetensors", "pt") as file:
            names.append(set(file.keys()))
    assert names[0] == names[1]
