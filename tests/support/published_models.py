"""Folders of models to publish, a Hub to publish them on, and what the tests ask of both."""

import json
import shutil
from pathlib import Path

import huggingface_hub
import pytest
import torch
from family_code import code_of
from hub_server import run_hub
from huggingface_hub import ModelCard
from peft import LoraConfig, get_peft_model
from stranger import run_inside

from lavcap.publishing.files import Publication, collect_files
from modeling_lavcap import LavcapForConditionalGeneration


NAME = "me/lavcap"
CODE = code_of("lavcap")


@pytest.fixture
def folder(saved_model, tmp_path) -> Path:
    """A run's output folder: the model, and what stays here."""
    folder = tmp_path / "run"
    shutil.copytree(saved_model, folder)
    for name in ("optimizer.pt", "training_args.bin", "rng_state.pth", "train.log"):
        (folder / name).write_bytes(b"private")
    write(folder / "notes_lavcap.py", "private = True")  # of the user's own, whatever its name
    for name in ("checkpoint-3", "runs"):
        (folder / name).mkdir()
        (folder / name / "model.safetensors").write_bytes(b"private")
    write(folder / "README.md", "# what the PEFT library writes")
    return folder


@pytest.fixture(scope="module")
def results() -> dict:
    """A `results.json` as scripts/evaluate.py writes it, but for the weights."""
    row = {
        "metrics": {"bleu_4": 0.2512345678, "cider_d": 0.7},
        "intervals": {"bleu_4": [0.2, 0.3], "cider_d": [0.6, 0.8]},
        "skipped": {"spice": "no Java"},
        "expected": 6,
        "scored": 6,
        "missing": 0,
        "scored_ids": ["a", "b", "c", "d", "e", "f"],
        "missing_ids": [],
    }
    return row | {
        "model": "/home/somebody/run",
        "data_dir": "/home/somebody/AudioCaps",
        "split": "test",
        "decoding": {"num_beams": 4, "max_new_tokens": 200},
        "dataset": {"version": "v1", "clips": 6, "references": 30, "lower_case": False},
        "libraries": {"torch": "2.13"},
        "modality": "audio+video",
        "modalities": {"audio+video": row, "audio": row | {"metrics": {"bleu_4": 0.1, "cider_d": 0.2}}},
    }


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A Hub that this process uses."""
    with run_hub() as hub:
        use_hub(monkeypatch, hub, tmp_path / "cache")
        yield hub
        huggingface_hub.close_session()


def use_hub(monkeypatch, hub, cache: Path):
    template = hub.url + "/{repo_id}/resolve/{revision}/{filename}"
    constants = {"ENDPOINT": hub.url, "HUGGINGFACE_CO_URL_TEMPLATE": template} | {
        "HF_HUB_OFFLINE": False,
        "HF_HUB_DISABLE_XET": True,
        "HF_HUB_CACHE": str(cache),
    }
    for name, value in constants.items():
        monkeypatch.setattr(huggingface_hub.constants, name, value)
    # What the library waits between its trials of a large file adds up to 23 seconds.
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)
    monkeypatch.setenv("HF_TOKEN", "hf_writer")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    huggingface_hub.close_session()


def write(path: Path, content: str | dict):
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")


def change(path: Path, **fields):
    write(path, json.loads(path.read_text()) | fields)


def card_of(folder: Path, **asked) -> ModelCard:
    return ModelCard(collect_files(folder, Publication(NAME, **asked))["README.md"].decode())


def head(hub) -> dict[str, bytes]:
    return hub.repositories[NAME].find("main")[1]


def push(*arguments: object):
    return run_inside("scripts/push_to_hub.py", *arguments)


def error_of(result) -> str:
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert result.returncode == 2
    return line


@pytest.fixture
def adapter(folder, tmp_path) -> Path:
    """A folder of an adapter alone, as training writes it, beside `folder`, its base."""
    model = LavcapForConditionalGeneration.from_pretrained(folder)
    settings = LoraConfig(r=2, target_modules=r".*language_model\..*q_proj", modules_to_save=["multi_modal_projector"])
    peft_model = get_peft_model(model, settings)
    with torch.no_grad():
        for name, parameter in peft_model.named_parameters():
            if "lora_B" in name or "modules_to_save" in name:
                parameter.add_(0.3)
    peft_model.save_pretrained(tmp_path / "adapter")
    for file in folder.iterdir():
        if file.is_file() and file.suffix in (".json", ".jinja", ".py"):
            shutil.copy(file, tmp_path / "adapter")
    return tmp_path / "adapter"
