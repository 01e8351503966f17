"""What is published of a model and of an adapter, and what is refused."""

import json
import os
import re
import shutil
import sys

import pytest
from huggingface_hub import ModelCard
from published_models import CODE, NAME, card_of, change, error_of, push, write

from lavcap.models.weight_files import count_parameters, fingerprint
from lavcap.publishing.files import Publication, collect_files


def test_a_dry_run_writes_the_model_its_code_and_the_card_and_nothing_else(folder, tmp_path, saved_model):
    result = push(folder, NAME, "--dry_run", tmp_path / "upload")
    assert result.returncode == 0, result.stderr
    names = {path.name for path in (tmp_path / "upload").rglob("*")}
    assert names == {path.name for path in saved_model.iterdir()} | {"README.md"} and names > CODE
    for name in names - {"README.md"}:
        kept, given = (tmp_path / "upload" / name).read_bytes(), (folder / name).read_bytes()
        assert kept == given or json.loads(kept) == json.loads(given)
        assert re.search(rf"^ +{len(kept):,}  {re.escape(name)}$", result.stdout, re.M)
    assert push(folder, NAME, "--dry_run", tmp_path / "upload").returncode == 2


def test_paths_of_this_machine_are_not_published(folder, results, monkeypatch):
    monkeypatch.setenv("HOME", "/home/some body")
    told = json.loads((folder / "config.json").read_text())["text_config"]
    change(folder / "config.json", text_config=told | {"_name_or_path": "/home/some body/secret/llama"})
    change(folder / "processor_config.json", note="kept in /home/some body/secret/notes.txt")
    recipe = {"data_dir": "somewhere/AudioCaps", "model_name_or_path": "me/start", "output_dir": "/srv/secret/run"}
    data = {"data_dir": "/home/some body/secret/AudioCaps", "train_split": "train", "recipe": recipe}
    write(folder / "training_data.json", data)
    skipped = f"spice.jar is not in {sys.prefix}/lib (see https://example.org/a/b), nor in '/opt/secret/lib/c', 1/2"
    row = results["modalities"]["audio"] | {"skipped": {"spice": skipped}}
    changed = results | {"skipped": {"spice": skipped}, "modalities": {"audio+video": row, "audio": row}}
    write(folder / "results.json", changed | {"weights": fingerprint(folder), "data_dir": "somewhere/AudioCaps"})
    files = collect_files(folder, Publication(NAME))
    everything = b"".join(
        content if isinstance(content, bytes) else content.read_bytes()
        for name, content in files.items()
        if not name.endswith((".py", ".safetensors"))
    )
    for secret in ("some body", "somewhere", "secret", sys.prefix, os.getcwd(), str(folder.parent)):
        assert secret.encode() not in everything, everything[max(0, everything.find(secret.encode()) - 80) :][:160]
    assert b"AudioCaps" in everything and b"llama" in everything and b"me/start" in everything
    assert json.loads(files["training_data.json"])["data_dir"] == "AudioCaps"
    found = json.loads(files["results.json"])["skipped"]["spice"]
    assert found == "spice.jar is not in lib (see https://example.org/a/b), nor in 'c', 1/2"


def break_weights(folder):
    (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:-8])


def lose_shard(folder):
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    shards = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    write(folder / "model.safetensors.index.json", {"weight_map": shards})


def adapter_without_weights(folder):
    write(folder / "adapter_config.json", {"r": 8})


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (break_weights, "model.safetensors: is cut short or damaged"),
        (lose_shard, "lacks model-00002-of-00002.safetensors"),
        (adapter_without_weights, "holds no adapter_model.safetensors"),
        (lambda folder: (folder / "model.safetensors").unlink(), "holds no model.safetensors"),
        (lambda folder: (folder / "transport_captioning.py").unlink(), "lacks transport_captioning.py"),
        (lambda folder: (folder / "modeling_lavcap.py").unlink(), "lacks modeling_lavcap.py"),
        (lambda folder: (folder / "tokenizer.json").unlink(), "lacks tokenizer.json"),
        (lambda folder: (folder / "generation_config.json").unlink(), "lacks generation_config.json"),
        (lambda folder: write(folder / "processor_config.json", '{"av_token": '), "not readable as JSON"),
        (lambda folder: write(folder / "config.json", {"model_type": "llama"}), "a model of type 'llama'"),
        (shutil.rmtree, "no such folder"),
    ],
)
def test_a_folder_without_a_whole_model_is_refused_in_one_line(folder, damage, message):
    damage(folder)
    assert message in error_of(push(folder, NAME, "--dry_run", folder.parent / "upload"))
    assert not (folder.parent / "upload").exists()


@pytest.mark.parametrize(
    "name", ["lavcap", "me/my/lavcap", "me/lav cap", "me/lavcap.git", "me/lav--cap", "/lavcap", "me/lävcap"]
)
def test_a_name_that_the_hub_does_not_take_is_refused_in_one_line(folder, name):
    error = error_of(push(folder, name, "--dry_run", folder.parent / "upload"))
    assert f"{name!r} is no name on the Hub" in error and "expected owner/name" in error


def test_whole_weights_of_somebody_elses_language_model_go_up_only_when_asked_for(folder):
    change(folder / "config.json", text_model_name="meta-llama/Llama-2-7b-chat-hf")
    error = error_of(push(folder, NAME, "--dry_run", folder.parent / "upload"))
    assert "whole weights of meta-llama/Llama-2-7b-chat-hf" in error and "--with_language_model" in error
    data = card_of(folder, with_language_model=True).data
    assert data.license == "llama2" and data.base_model == ["meta-llama/Llama-2-7b-chat-hf"]
    change(folder / "config.json", text_model_name="me/my-own-llm")
    data = card_of(folder).data
    assert data.license == "other" and data.license_link == "https://huggingface.co/me/my-own-llm"
    assert card_of(folder, licence="mit").data.license == "mit"


# ---------------------------------------------------------------------------------------------------------- adapters


def base_in(files) -> str:
    return json.loads(files["adapter_config.json"])["base_model_name_or_path"]


def test_an_adapter_goes_up_without_its_base_and_names_a_base_that_others_find(adapter):
    with pytest.raises(ValueError, match="which others do not have; publish that model, and name it"):
        collect_files(adapter, Publication(NAME))
    files = collect_files(adapter, Publication(NAME, base_model="me/base"))
    assert {name for name in files if name.endswith(".safetensors")} == {"adapter_model.safetensors"}
    assert base_in(files) == "me/base"
    card = ModelCard(files["README.md"].decode())
    assert card.data.base_model == ["me/base"] and card.data.base_model_relation == "adapter"
    assert " av peft\n" in card.text and "| adapter: r | 2 |" in card.text
    assert f"{count_parameters([adapter / 'adapter_model.safetensors']):,} parameters" in card.text


def test_an_adapter_on_parts_names_its_own_repository_if_the_parts_are_on_the_hub(adapter):
    change(adapter / "adapter_config.json", base_model_name_or_path=None)
    with pytest.raises(ValueError, match="does not tell its base"):
        collect_files(adapter, Publication(NAME))
    names = {"text": "meta-llama/Llama-2-7b-chat-hf", "audio": "mispeech/ced-base", "vision": "openai/clip"}
    change(adapter / "config.json", base_parts=names | {"text": str(adapter), "vision": "/models/clip"})
    with pytest.raises(ValueError, match=f"text {adapter}, vision /models/clip; name them on the Hub"):
        collect_files(adapter, Publication(NAME))
    files = collect_files(adapter, Publication(NAME, parts={"text": names["text"], "vision": names["vision"]}))
    card = ModelCard(files["README.md"].decode())
    assert base_in(files) == NAME and json.loads(files["config.json"])["base_parts"] == names
    assert card.data.license == "llama2" and card.data.base_model == [*names.values()]
    assert "are not in this repository" in card.text


def test_an_adapter_beside_its_base_names_its_own_repository(adapter, folder):
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        shutil.copy(adapter / name, folder)
    change(folder / "adapter_config.json", base_model_name_or_path=str(folder))
    files = collect_files(folder, Publication(NAME))
    assert base_in(files) == NAME
    assert {name for name in files if name.endswith("safetensors")} == {
        "adapter_model.safetensors",
        "model.safetensors",
    }
