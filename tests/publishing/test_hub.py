"""A pushed model works by its name on the Hub, at any revision, in a process that does not know this project."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from family_code import code_of
from hub_server import run_hub
from stranger import run_script, run_stranger

from conftest import ROOT


pytestmark = pytest.mark.slow

NAME = "me/lavcap"

ANSWER = """
import json, sys
import numpy as np
import torch

def answer(model, processor):
    inputs = processor(audio=np.sin(np.arange(6000, dtype=np.float32)), videos=np.full((5, 16, 16, 3), 90, np.uint8))
    with torch.no_grad():
        logits = model(**inputs).logits[0, -1].tolist()
    return {"logits": logits, "captions": processor.decode_captions(model.generate(**inputs), inputs)}
"""

PUSH = """
from huggingface_hub import HfApi
from lavcap import LavcapForConditionalGeneration, LavcapProcessor

name, folder = sys.argv[1:]
model = LavcapForConditionalGeneration.from_pretrained(folder).eval()
processor = LavcapProcessor.from_pretrained(folder)
versions = []
for tag, sign in (("v1", 1), ("v2", -1)):
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(sign)
    model.push_to_hub(name)
    commit = processor.push_to_hub(name).oid
    HfApi().create_tag(name, tag=tag)
    versions.append({"commit": commit} | answer(model, processor))
print(json.dumps(versions))
"""

LOAD = """
from transformers import AutoConfig, AutoFeatureExtractor, AutoModel, AutoProcessor

name, *revisions = json.loads(sys.argv[1])
versions = []
for revision in revisions:
    options = {"trust_remote_code": True} | ({"revision": revision} if revision else {})
    config = AutoConfig.from_pretrained(name, **options)
    extractor = AutoFeatureExtractor.from_pretrained(name, **options)
    processor = AutoProcessor.from_pretrained(name, **options)
    model = AutoModel.from_pretrained(name, **options).eval()
    same = config.to_dict() == model.config.to_dict()
    same = same and extractor.to_dict() == processor.feature_extractor.to_dict()
    modules = [type(part).__module__ for part in (config, extractor, processor, model)]
    versions.append({"same": same, "modules": modules} | answer(model, processor))
print(json.dumps(versions))
"""


@pytest.fixture(scope="module")
def hub():
    with run_hub() as hub:
        yield hub


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("home")


def surroundings(hub, home: Path, **others: str) -> dict[str, str]:
    """Environment of a user of that Hub, whatever that of the tests is."""
    caches = {"HF_HOME": home, "HF_HUB_CACHE": home / "hub", "HF_MODULES_CACHE": home / "modules"}
    return {
        **{name: str(folder) for name, folder in caches.items()},
        "HF_ENDPOINT": hub.url,
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_HUB_DISABLE_XET": "1",
        "HF_TOKEN": "hf_dummy",
        "NO_PROXY": "127.0.0.1",
        **others,
    }


@pytest.fixture(scope="module")
def pushed(hub, saved_model, tmp_path_factory) -> list[dict]:
    """Commits and answers of the two versions that are pushed, one after the other."""
    environment = surroundings(hub, tmp_path_factory.mktemp("publisher"))
    return run_script(ANSWER + PUSH, NAME, str(saved_model), folder=ROOT, **environment).printed


def load(revisions: list[str | None], hub, home: Path, **others: str):
    names = json.dumps([NAME, *revisions])
    return run_stranger(ANSWER + LOAD, names, folder=home, **surroundings(hub, home, **others))


@pytest.fixture(scope="module")
def pinned(hub, home, pushed):
    """The first version, by its commit and by its tag, with what was asked for on the way."""
    start = len(hub.requests)
    result = load([pushed[0]["commit"], "v1"], hub, home)
    return result, hub.requests[start:]


@pytest.fixture(scope="module")
def latest(hub, home, pinned):
    return load([None], hub, home)


@pytest.fixture(scope="module")
def offline(hub, home, pushed, latest):
    hub.stop()
    return load([None, pushed[0]["commit"], "v1"], hub, home, HF_HUB_OFFLINE="1")


def assert_same(found: dict, expected: dict):
    assert found["captions"] == expected["captions"]
    np.testing.assert_allclose(found["logits"], expected["logits"], atol=1e-5)


def test_what_is_pushed_holds_the_code_as_it_is_here(hub, pushed):
    files = hub.repositories[NAME].commits[pushed[0]["commit"]]
    code = {path: content for path, content in files.items() if path.endswith(".py")}
    assert code == {name: (ROOT / name).read_bytes() for name in code_of("lavcap")}


def test_a_stranger_gets_the_logits_and_captions_of_the_version_pushed_last(pushed, latest):
    (found,) = latest.printed
    assert_same(found, pushed[1])
    assert found["captions"] != pushed[0]["captions"]
    assert found["same"]
    assert all(module.startswith("transformers_modules.") for module in found["modules"])


def test_a_pinned_commit_or_tag_gives_the_version_of_then(pushed, pinned, model, processor):
    inputs = processor(audio=np.sin(np.arange(6000, dtype=np.float32)), videos=np.full((5, 16, 16, 3), 90, np.uint8))
    with torch.no_grad():
        logits = model(**inputs).logits[0, -1].tolist()
    expected = {"logits": logits, "captions": processor.decode_captions(model.generate(**inputs), inputs)}
    for found in pinned[0].printed:
        assert_same(found, expected)
        assert found["same"]
        assert all(pushed[0]["commit"] in module for module in found["modules"])


def test_a_pinned_revision_takes_no_code_or_weights_from_elsewhere(pushed, pinned):
    paths = [path.split("/") for _, path in pinned[1] if path.endswith((".py", ".safetensors"))]
    assert {path[4] for path in paths} == {pushed[0]["commit"], "v1"}


def test_a_pinned_revision_loads_without_a_warning(pinned):
    # What bitsandbytes says where it is imported on some processors is of no model.
    assert [line for line in pinned[0].errors.splitlines() if "gemm_4bit_forward" not in line] == []


def test_what_was_loaded_once_loads_again_without_a_hub(pushed, offline):
    for found, expected in zip(offline.printed, (pushed[1], pushed[0], pushed[0]), strict=True):
        assert_same(found, expected)
