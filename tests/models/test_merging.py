"""Adapters folded into their base: the whole model says what the adapter said."""

import json

import pytest
import torch
from model_parts import LORA as SMALL_LORA
from model_parts import assemble, write_parts
from peft import PeftModel
from safetensors.torch import load_file
from stranger import run_inside
from transformers import AutoModel

from lavcap.models.lora import add_lora, save_adapter
from lavcap.models.merging import MergeError, merge_adapter, probe
from modeling_lavcap import LavcapForConditionalGeneration
from processing_lavcap import LavcapProcessor


LORA = SMALL_LORA | {"init_lora_weights": False}


@pytest.fixture(scope="module")
def adapter(tmp_path_factory, tokenizer):
    """Folder of an adapter on parts that lie beside it, and its logits on the probe."""
    folder = tmp_path_factory.mktemp("with ü")
    (folder / "parts").mkdir()
    write_parts(folder / "parts", tokenizer, text_config={"vocab_size": len(tokenizer)})
    model = add_lora(assemble(folder / "parts"), LORA).eval()
    processor = LavcapProcessor.from_config(model.get_base_model().config, tokenizer)
    save_adapter(model, folder / "adapter")
    processor.save_pretrained(folder / "adapter")
    (folder / "adapter" / "training_data.json").write_text('{"selected_on_test": true}')
    return folder / "adapter", probe(model.get_base_model(), processor)


def test_the_whole_model_has_the_logits_of_the_adapter(adapter, tmp_path):
    folder, expected = adapter
    done = run_inside("scripts/merge_lora.py", folder, "--output", tmp_path / "merged")
    assert done.returncode == 0, done.stderr
    merged = LavcapForConditionalGeneration.from_pretrained(tmp_path / "merged")
    processor = LavcapProcessor.from_pretrained(tmp_path / "merged")
    torch.testing.assert_close(probe(merged, processor), expected, atol=1e-4, rtol=1e-4)
    assert not (tmp_path / "merged" / "adapter_config.json").exists() and merged.config.base_parts is None
    assert json.loads((tmp_path / "merged" / "training_data.json").read_text())["selected_on_test"]
    assert not any("lora" in name for name in load_file(tmp_path / "merged" / "model.safetensors"))
    base = LavcapForConditionalGeneration.base_of_adapter(folder)
    assert (probe(base, processor) - expected).abs().max() > 1e-2  # the adapter says something


def test_it_may_be_folded_in_in_another_dtype(adapter, tmp_path):
    merge_adapter(adapter[0], tmp_path / "merged", "bfloat16")
    model = AutoModel.from_pretrained(tmp_path / "merged")
    assert model.dtype == torch.bfloat16 and model.audio_tower.batch_norm.weight.dtype == torch.float32


def test_what_does_not_equal_the_adapter_is_not_written(adapter, tmp_path, monkeypatch):
    def forget(self, **_):
        return self.unload()

    monkeypatch.setattr(PeftModel, "merge_and_unload", forget, raising=False)
    with pytest.raises(MergeError, match="the largest logit changes by"):
        merge_adapter(adapter[0], tmp_path / "merged")
    assert list(tmp_path.iterdir()) == []


def test_what_peft_cannot_fold_in_is_said_in_one_line(adapter, tokenizer, tmp_path):
    model = add_lora(assemble(adapter[0].parent / "parts"), LORA | {"lora_bias": True})
    save_adapter(model, tmp_path / "biased")
    LavcapProcessor.from_pretrained(adapter[0]).save_pretrained(tmp_path / "biased")
    with pytest.raises(MergeError, match="biased: PEFT cannot fold it in .*no bias.*load it as an adapter"):
        merge_adapter(tmp_path / "biased", tmp_path / "merged")
    assert [path.name for path in tmp_path.iterdir()] == ["biased"]


def test_a_folder_without_an_adapter_is_refused(adapter, tmp_path, saved_model):
    done = run_inside("scripts/merge_lora.py", saved_model, "--output", tmp_path / "merged")
    assert done.returncode == 2 and "holds no adapter_config.json, expected the folder of a model" in done.stderr
    parts = adapter[0].parent / "parts"
    other = tmp_path / "vicuna"
    other.mkdir()
    for file in (parts / "llama-tiny").iterdir():
        (other / file.name).write_bytes(file.read_bytes())
    done = run_inside("scripts/merge_lora.py", adapter[0], "--output", tmp_path / "merged", "--text_model", other)
    assert done.returncode == 2 and "expected llama-tiny, got vicuna" in done.stderr
