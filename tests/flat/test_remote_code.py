"""A saved folder works on its own: loaded by every Auto class in a process that does not know this project."""

import numpy as np
import pytest
import torch
from stranger import run_stranger


pytestmark = pytest.mark.whole


LOAD = """
import json, socket, sys

def refuse(*_):
    raise OSError("a network call")

socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse

import numpy as np
import torch
import transformers
from transformers import AutoConfig, AutoFeatureExtractor, AutoProcessor

folder, options = sys.argv[1], {"trust_remote_code": True}
config = AutoConfig.from_pretrained(folder, **options)
extractor = AutoFeatureExtractor.from_pretrained(folder, **options)
processor = AutoProcessor.from_pretrained(folder, **options)
inputs = processor(audio=np.sin(np.arange(6000, dtype=np.float32)), videos=np.full((5, 16, 16, 3), 90, np.uint8))
found = {"config": config.model_type, "window": extractor.window, "models": []}
for name in ("", "ForMultimodalLM", "ForCausalLM", "ForImageTextToText"):
    model = getattr(transformers, "AutoModel" + name).from_pretrained(folder, **options).eval()
    with torch.no_grad():
        logits = model(**inputs).logits[0, -1].tolist()
    captions = processor.decode_captions(model.generate(**inputs), inputs)
    found["models"].append({"class": str(type(model)), "captions": captions, "logits": logits})
fresh = transformers.AutoModel.from_config(config, **options)
found["from_config"] = [str(type(fresh)), sum(p.numel() for p in fresh.parameters())]
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def stranger(saved_model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("stranger")
    return run_stranger(LOAD, str(saved_model), folder=folder, HF_HOME=str(folder), HF_HUB_OFFLINE="0")


def test_every_auto_class_gives_the_same_logits_and_captions(stranger, model, processor):
    inputs = processor(audio=np.sin(np.arange(6000, dtype=np.float32)), videos=np.full((5, 16, 16, 3), 90, np.uint8))
    with torch.no_grad():
        expected = model(**inputs).logits[0, -1].tolist()
    captions = processor.decode_captions(model.generate(**inputs), inputs)
    assert len(stranger.printed["models"]) == 4
    for found in stranger.printed["models"]:
        assert "transformers_modules." in found["class"] and "LavcapForConditionalGeneration" in found["class"]
        assert found["captions"] == captions
        np.testing.assert_allclose(found["logits"], expected, atol=1e-5)


def test_configuration_feature_extractor_and_a_fresh_model_come_from_the_folder(stranger, model):
    assert stranger.printed["config"] == "lavcap"
    assert stranger.printed["window"] == pytest.approx(0.48)
    kind, parameters = stranger.printed["from_config"]
    assert "transformers_modules." in kind and parameters == sum(p.numel() for p in model.parameters())


def test_loading_a_folder_makes_no_network_call_and_says_nothing(stranger):
    lines = [line for line in stranger.errors.splitlines() if "Loading weights" not in line and line.strip()]
    assert lines == []
