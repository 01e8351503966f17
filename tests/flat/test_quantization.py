"""4-bit loading: the layers of the language model shrink, and nothing else does."""

import pytest
import torch
from clips import clip_inputs
from stranger import run_stranger
from tiny_models import tiny_model
from transformers import BitsAndBytesConfig

from modeling_lavcap import LavcapForConditionalGeneration


bitsandbytes = pytest.importorskip("bitsandbytes", reason="the extra lavcap[quantization] is not installed")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    text_config = {"hidden_size": 64, "intermediate_size": 128}  # bitsandbytes packs blocks of 64
    tiny_model(text_config=text_config).save_pretrained(folder)
    return folder


def quantized(model) -> set[str]:
    return {name for name, module in model.named_modules() if isinstance(module, bitsandbytes.nn.Linear4bit)}


@torch.no_grad()
@pytest.mark.parametrize(
    "config",
    [
        BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32),
        {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "quant_method": "bitsandbytes"},
    ],
    ids=["config", "dict"],
)
def test_only_the_layers_of_the_language_model_are_quantized(folder, config):
    whole = LavcapForConditionalGeneration.from_pretrained(folder)
    model = LavcapForConditionalGeneration.from_pretrained(folder, quantization_config=config)
    names = quantized(model)
    assert len(names) == 2 * 7 and all(name.startswith("language_model.model.layers.") for name in names)
    for part in ("audio_tower", "vision_tower", "fusion", "multi_modal_projector"):
        expected, found = getattr(whole, part).state_dict(), getattr(model, part).state_dict()
        for name, tensor in expected.items():
            torch.testing.assert_close(found[name].to(tensor.dtype), tensor, atol=0.02, rtol=0.01)
    assert model.get_output_embeddings().weight.dtype.is_floating_point
    inputs = clip_inputs(whole)
    expected, found = whole(**inputs).logits, model(**inputs).logits.float()
    assert torch.nn.functional.cosine_similarity(found.flatten(), expected.flatten(), dim=0) > 0.9
    assert model.generate(**inputs, max_new_tokens=3).shape == (2, 14)


def test_what_a_user_spares_is_what_is_spared(folder):
    config = BitsAndBytesConfig(load_in_4bit=True, llm_int8_skip_modules=["vision_tower", "language_model"])
    names = quantized(LavcapForConditionalGeneration.from_pretrained(folder, quantization_config=config))
    assert names and all(name.startswith(("audio_tower", "multi_modal_projector", "fusion")) for name in names)
    assert config.llm_int8_skip_modules == ["vision_tower", "language_model"]


REMOTE = """
import json, sys
from transformers import AutoModel

options = {"load_in_4bit": True, "quant_method": "bitsandbytes"}
model = AutoModel.from_pretrained(sys.argv[1], trust_remote_code=True, quantization_config=options)
names = [name for name, module in model.named_modules() if type(module).__name__ == "Linear4bit"]
print(json.dumps({"module": type(model).__module__, "names": names}))
"""


@pytest.mark.slow
def test_so_it_is_with_remote_code(folder, tmp_path):
    found = run_stranger(REMOTE, str(folder), folder=tmp_path, HF_HOME=str(tmp_path)).printed
    assert found["module"].startswith("transformers_modules.") and len(found["names"]) == 2 * 7
    assert all(name.startswith("language_model.model.layers.") for name in found["names"])
