"""What is published of a model, what its card says, and what becomes of an upload that goes wrong."""

import json
import re
import shutil
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
import torch
import yaml
from hub_server import run_hub
from huggingface_hub import ModelCard
from model_parts import assemble, write_parts
from peft import LoraConfig, get_peft_model
from recipes import TINY
from safetensors.torch import load_file, save_file
from stranger import run_inside, run_stranger
from test_hub import ANSWER, assert_same, surroundings
from transformers import Seq2SeqTrainingArguments

from conftest import FLAT_FILES, ROOT, write_media
from lavcap.models.loading import load_config
from lavcap.models.lora import add_lora, save_adapter
from lavcap.models.weight_files import count_parameters, fingerprint
from lavcap.publishing.card import CardFacts, is_untouched, write_card
from lavcap.publishing.files import Publication, collect_files
from lavcap.publishing.upload import UploadError, open_repository, upload
from lavcap.training.publisher import open_hub
from modeling_lavcap import LavcapForConditionalGeneration


NAME = "me/lavcap"
CODE = {path.name for path in FLAT_FILES}

LOAD = """
from transformers import AutoModel, AutoProcessor

found = []
for name in json.loads(sys.argv[1]):
    model = AutoModel.from_pretrained(name, trust_remote_code=True).eval()
    found.append(answer(model, AutoProcessor.from_pretrained(name, trust_remote_code=True)))
print(json.dumps(found))
"""


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


# ------------------------------------------------------------------------------------------------------ what goes up


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


def test_paths_of_this_machine_are_not_published(folder, results):
    change(folder / "config.json", text_config={"_name_or_path": "/home/somebody/secret/llama", "model_type": "llama"})
    write(folder / "training_data.json", {"data_dir": "/home/somebody/secret/AudioCaps", "train_split": "train"})
    write(folder / "results.json", results | {"weights": fingerprint(folder)})
    files = collect_files(folder, Publication(NAME))
    everything = b"".join(content for content in files.values() if isinstance(content, bytes))
    assert b"somebody" not in everything and b"AudioCaps" in everything and b"llama" in everything
    assert json.loads(files["training_data.json"])["data_dir"] == "AudioCaps"


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


# ---------------------------------------------------------------------------------------------------------- the card


def test_the_card_says_what_is_not_known_and_has_no_scores_without_results(folder):
    card = card_of(folder)
    assert "## Evaluation\n\nNot measured." in card.text and "| training data | not recorded |" in card.text
    data = card.data.to_dict()
    assert "model-index" not in data and "base_model" not in data and "datasets" not in data
    assert (data["library_name"], data["pipeline_tag"], data["license"]) == (
        "transformers",
        "video-text-to-text",
        "apache-2.0",
    )
    assert card_of(folder, datasets=["d0rj/audiocaps"]).data.datasets == ["d0rj/audiocaps"]


def test_the_card_tells_of_training_what_the_run_has_written(folder):
    note = {"data_dir": "data/AudioCaps", "train_split": "train", "train_clips": 24, "dataset_version": "v2"}
    note |= {"validation_split": "val", "validation_clips": 5, "selected_on_test": True, "trained_on_test_clips": 3}
    write(folder / "training_data.json", note | {"recipe": {"learning_rate": 1e-4, "optim": "a|b"}})
    write(folder / "train_results.json", {"train_loss": 1.25, "start": "parts/start", "train_runtime": 61.4})
    write(folder / "trainer_state.json", {"global_step": 700})
    text = card_of(folder).text
    rows = {
        "training data": "AudioCaps, split train",
        "version of the captions": "v2",
        "clips": "24",
        "clips of a test split among them": "3",
        "watched on": "split val, 5 clips; SELECTED ON TEST CLIPS",
        "begun from": "start",
        "optimiser steps": "700",
        "training loss, mean of the run": "1.25",
        "duration": "61 s",
        "learning_rate": "0.0001",
        "optim": "a\\|b",
    }
    for name, value in rows.items():
        assert f"\n| {name} | {value} |\n" in text


def test_the_model_index_holds_the_numbers_of_the_results_of_these_weights(folder, tmp_path, results):
    (tmp_path / "scores").mkdir()
    write(tmp_path / "scores" / "results.json", results | {"weights": fingerprint(folder)})
    files = collect_files(folder, Publication(NAME, evaluation=tmp_path / "scores"))
    text = files["README.md"].decode()
    (index,) = yaml.safe_load(text.split("---\n")[1])["model-index"]
    (entry,) = index["results"]
    assert index["name"] == "lavcap"
    assert {metric["type"]: metric["value"] for metric in entry["metrics"]} == results["metrics"]
    assert entry["dataset"]["name"] == "AudioCaps" and entry["dataset"]["split"] == "test"
    assert entry["dataset"]["args"] == {
        "clips": 6,
        "references": "v1",
        "input": "audio+video",
        "decoding": results["decoding"],
    }
    assert "### Scores on 6 clips" in text and "| audio+video | 6 | 0.2512 | 0.7000 |" in text
    assert "Decoding: num_beams 4, max_new_tokens 200." in text and "- spice: skipped: no Java" in text
    assert json.loads(files["results.json"])["metrics"] == results["metrics"]


def test_scores_of_a_partial_set_or_selected_on_test_are_marked_where_machines_read_them(folder, results):
    missing = {"expected": 9, "missing": 3, "missing_ids": ["g", "h", "i"]}
    marked = results | missing | {"weights": fingerprint(folder), "selected_on_test": True, "modalities": None}
    write(folder / "results.json", marked)
    text = collect_files(folder, Publication(NAME))["README.md"].decode()
    (entry,) = yaml.safe_load(text.split("---\n")[1])["model-index"][0]["results"]
    assert entry["dataset"]["name"] == "AudioCaps (selected on test; partial: 6 of 9 clips)"
    assert "### Scores on a PARTIAL set: 6 of 9 clips" in text and "WARNING: this checkpoint was chosen" in text


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"weights": "0" * 64}, "scores other weights (/home/somebody/run, sha256 000000000000…)"),
        ({"weights": None}, "does not say which weights it scored"),
        ({"comparison": {}}, "not the results of one model"),
    ],
)
def test_results_of_other_weights_are_refused_in_one_line(folder, tmp_path, results, fields, message):
    (tmp_path / "scores").mkdir()
    write(tmp_path / "scores" / "results.json", results | {"weights": fingerprint(folder)} | fields)
    options = ("--evaluation", tmp_path / "scores", "--dry_run", tmp_path / "upload")
    assert message in error_of(push(folder, NAME, *options))
    assert "no such file" in error_of(push(folder, NAME, "--evaluation", tmp_path, *options[2:]))


@pytest.mark.parametrize(
    "fields",
    [
        {"dataset": None},
        {"modalities": {"audio": {"metrics": {}}}},
        {"metrics": [0.9]},
        {"modalities": {"audio": 1}},
    ],
)
def test_results_that_were_edited_are_refused_in_one_line_by_the_name_of_the_file(folder, results, fields):
    write(folder / "results.json", results | {"weights": fingerprint(folder)} | fields)
    with pytest.raises(ValueError, match="not as scripts/evaluate.py wrote it") as caught:
        collect_files(folder, Publication(NAME))
    assert str(caught.value).startswith(f"{folder / 'results.json'}: ") and "\n" not in str(caught.value)


def test_the_fingerprint_tells_weights_apart_and_nothing_else(folder, saved_model):
    assert fingerprint(folder) == fingerprint(saved_model)
    weights = load_file(folder / "model.safetensors")
    weights["fusion.logit_scale"] = weights["fusion.logit_scale"] + 1e-3
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    assert fingerprint(folder) != fingerprint(saved_model)


def test_a_card_is_known_again_unless_it_was_edited(folder):
    card = write_card(CardFacts(NAME, None, load_config(folder), 10.24, {}, True, 1, 1, folder, {}))
    assert is_untouched(card) and is_untouched(card.replace("\n", "\r\n"))
    assert not is_untouched(card.replace("Not measured", "Splendid")) and not is_untouched("# mine")


# ------------------------------------------------------------------------------------------------------------ the Hub


def test_an_upload_is_one_commit_and_an_unchanged_one_is_none(hub, folder):
    result = push(folder, NAME, "--private")
    assert result.returncode == 0 and f"Published: {hub.url}/{NAME}" in result.stdout
    repository, files = hub.repositories[NAME], collect_files(folder, Publication(NAME))
    assert repository.private and len(repository.commits) == 2
    expected = {name: each if isinstance(each, bytes) else each.read_bytes() for name, each in files.items()}
    assert head(hub) == expected
    assert push(folder, NAME).returncode == 0 and len(repository.commits) == 2


def test_a_repository_that_exists_gets_the_new_model_and_keeps_what_is_not_ours(hub, folder):
    earlier = dict.fromkeys(("adapter_model.safetensors", "results.json", "old_lavcap.py"), b"earlier")
    foreign = dict.fromkeys(("demo.mp4", "notes/config.json", "weights.safetensors"), b"foreign")
    readme = {"README.md": b"# Mine, with my own words"}
    open_repository(NAME)
    hub.repositories[NAME].add("main", earlier | foreign | readme | {"config.json": b"{}"})
    result = push(folder, NAME)
    assert result.returncode == 0 and all(name in result.stdout for name in earlier)
    assert "warning: the README.md of me/lavcap was not written by this command" in result.stderr
    files = head(hub)
    assert foreign.items() <= files.items() and readme.items() <= files.items() and not earlier.keys() & files.keys()
    assert json.loads(files["config.json"])["model_type"] == "lavcap"

    assert push(folder, NAME, "--overwrite_card").returncode == 0
    assert is_untouched(head(hub)["README.md"].decode())
    write(folder / "trainer_state.json", {"global_step": 123})
    result = push(folder, NAME)
    assert "warning" not in result.stderr and b"| optimiser steps | 123 |" in head(hub)["README.md"]


def test_a_branch_is_made_and_named_in_the_card_and_main_stays_as_it_is(hub, folder):
    assert push(folder, NAME, "--revision", "next/try").returncode == 0
    assert head(hub) == {}
    card = hub.repositories[NAME].find("next/try")[1]["README.md"].decode()
    assert 'from_pretrained("me/lavcap", revision="next/try", trust_remote_code=True)' in card


@pytest.mark.parametrize(("status", "message"), [(401, "rejected the token"), (403, "the token may not write there")])
def test_a_rejected_token_ends_in_one_line_and_changes_nothing(hub, folder, status, message):
    hub.rejected = {"hf_writer": status}
    assert message in error_of(push(folder, NAME)) and not hub.repositories


def test_a_token_that_may_read_but_not_write_changes_nothing(hub, folder, monkeypatch):
    push(folder, NAME)
    before, commits = head(hub), len(hub.repositories[NAME].commits)
    hub.rejected_writes = {"hf_writer": 403}
    write(folder / "trainer_state.json", {"global_step": 123})
    assert "may not write there (403)" in error_of(push(folder, NAME))
    assert head(hub) == before and len(hub.repositories[NAME].commits) == commits


@pytest.mark.parametrize("lost", ["/large/", "/commit/", "/preupload/", "/repos/create"])
def test_a_connection_lost_in_mid_upload_leaves_the_repository_as_it_was(hub, folder, model, lost):
    if lost != "/repos/create":
        assert push(folder, NAME).returncode == 0
        before = head(hub)
    weights = {name: weight + 1 for name, weight in load_file(folder / "model.safetensors").items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    hub.lost = lost
    error = error_of(push(folder, NAME))
    assert "the connection to the Hub was lost" in error and "Run the command again" in error
    if lost == "/repos/create":
        assert not hub.repositories
    else:
        assert head(hub) == before and len(hub.repositories[NAME].commits) == 2
    hub.lost = None
    assert push(folder, NAME).returncode == 0
    assert head(hub)["model.safetensors"] == (folder / "model.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("path", "status", "message"),
    [
        ("/commit/", 429, "the Hub got too many requests (429); the repository is as it was. Wait some minutes"),
        ("/large/", 507, "the Hub has no room left for it (507)"),
        ("/commit/", 500, "the Hub had an error of its own (Server error '500"),
        ("/preupload/", 503, "Wait, and run the command again; large files that have arrived are not sent twice"),
        ("/commit/", 409, "the Hub refused the upload (Client error '409"),
    ],
)
def test_each_refusal_of_the_hub_is_told_as_what_it_is(hub, folder, path, status, message):
    hub.failing = path, status
    error = error_of(push(folder, NAME))
    assert message in error and "connection" not in error and head(hub) == {}


def test_a_token_that_no_header_can_carry_ends_in_one_line(hub, folder, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_bäd")
    error = error_of(push(folder, NAME))
    assert "hf_bäd" not in error and not hub.repositories


def test_a_data_set_that_cannot_be_is_refused_before_any_work(folder, tmp_path):
    options = ("--dataset", "me/sounds", "--dataset", "Ü/x", "--dry_run", tmp_path / "upload")
    assert "'Ü/x' is no data set on the Hub" in error_of(push(folder, NAME, *options))
    assert not (tmp_path / "upload").exists()


def test_a_branch_that_the_hub_refuses_ends_in_one_line(hub, folder):
    hub.failing = "/branch/", 400
    assert "the Hub refused the upload" in error_of(push(folder, NAME, "--revision", "bad branch"))
    assert head(hub) == {}


def test_a_card_names_every_data_set_that_is_given(folder, tmp_path):
    options = (
        "--dataset",
        "me/sounds",
        "me/films",
        "--dataset",
        "squad",
        "--license",
        "cc-by-4.0",
        "--revision",
        "ä/1",
    )
    assert push(folder, NAME, *options, "--dry_run", tmp_path / "upload").returncode == 0
    data = ModelCard((tmp_path / "upload" / "README.md").read_text(encoding="utf-8")).data
    assert data.datasets == ["me/sounds", "me/films", "squad"] and data.license == "cc-by-4.0"


def test_what_somebody_else_commits_during_an_upload_is_not_lost(hub, folder, monkeypatch):
    assert push(folder, NAME).returncode == 0
    write(folder / "trainer_state.json", {"global_step": 123})
    theirs = head(hub) | {"README.md": b"# Mine"}

    def ours(*args) -> bool:
        hub.repositories[NAME].add("main", theirs)
        return True

    monkeypatch.setattr("lavcap.publishing.upload._is_our_card", ours)
    assert "the Hub refused the upload" in error_of(push(folder, NAME)) and head(hub) == theirs


def test_a_commit_that_the_hub_refuses_is_told_in_its_own_words(hub, folder):
    files = collect_files(folder, Publication(NAME)) | {"README.md": b"---\nlicense: 1\n---\n"}
    hub.invalid_yaml = '"license" must be a string'
    with pytest.raises((UploadError, ValueError), match='"license" must be a string'):
        upload(files, NAME, message="Test")
    assert head(hub) == {}


@pytest.mark.parametrize("page", ["README.md", "docs/training.md"])
def test_the_commands_of_the_pages_publish(hub, folder, tmp_path, results, page):
    (tmp_path / "scores").mkdir()
    write(tmp_path / "scores" / "results.json", results | {"weights": fingerprint(folder)})
    places = {
        "outputs/demo/model": folder,
        "outputs/demo/evaluation": tmp_path / "scores",
        "outputs/upload": tmp_path / "upload",
    }
    lines = re.findall(r"^\.venv/bin/python scripts/push_to_hub\.py (.*)$", (ROOT / page).read_text(), re.M)
    assert lines
    for line in lines:
        done = push(*(places.get(word, word) for word in line.split()))
        assert done.returncode == 0, done.stderr
    assert b"### Scores on 6 clips" in hub.repositories["me/lavcap-demo"].find("main")[1]["README.md"]


def test_the_messages_of_the_page_are_those_of_the_code():
    section = (ROOT / "docs" / "training.md").read_text().partition("\n## Publish\n")[2].partition("\n## ")[0]
    messages = re.findall(r"^\| `(.*?)` \|", section.partition("| message |")[2], re.M)
    code = (ROOT / "lavcap" / "publishing" / "upload.py").read_text()
    assert len(messages) == 8 and all(message in code for message in messages)


def test_an_offline_machine_is_told_so(folder):
    assert "HF_HUB_OFFLINE is set" in error_of(push(folder, NAME))


# ------------------------------------------------------------------------------------------------- training, strangers


@pytest.fixture
def train(toy_world, tmp_path):
    fields = TINY | {"data_dir": str(toy_world), "tokenizer_name": str(toy_world / "tokenizer"), "report_to": "none"}
    fields |= {"output_dir": str(tmp_path / "run"), "push_to_hub": True, "hub_model_id": NAME, "eval_strategy": "no"}
    write(tmp_path / "recipe.yaml", yaml.safe_dump(fields | {"max_train_clips": 4, "max_validation_clips": 2}))
    return lambda *arguments: run_inside("train_hf.py", tmp_path / "recipe.yaml", *arguments)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--hub_model_id", "lavcap"), "'lavcap' is no name on the Hub"),
        (("--hub_strategy", "checkpoint"), "expected 'end' or 'every_save'"),
    ],
)
def test_training_refuses_a_push_that_cannot_be_done_before_any_work(train, tmp_path, options, message):
    assert message in error_of(train(*options)) and not (tmp_path / "run").exists()


def test_training_with_a_rejected_token_does_not_begin(hub, train, tmp_path):
    hub.rejected = {"hf_writer": 401}
    assert "rejected the token" in error_of(train()) and not (tmp_path / "run").exists()


def test_a_run_whose_upload_others_could_not_load_or_may_not_have_is_refused_before_training(tmp_path):
    write_parts(tmp_path)
    model = assemble(tmp_path)
    args = Seq2SeqTrainingArguments(str(tmp_path / "run"), push_to_hub=True, hub_model_id=NAME, use_cpu=True)
    with pytest.raises(ValueError, match="whole weights of llama-tiny"):
        open_hub(args, model)
    with pytest.raises(ValueError, match=f"parts that others do not have: text {tmp_path / 'llama-tiny'}, audio"):
        open_hub(args, add_lora(model, {"target_modules": ["q_proj"]}))


@pytest.mark.slow
def test_training_publishes_every_save_and_the_whole_run_at_its_end(hub, train, tmp_path, toy_world):
    result = train("--hub_strategy", "every_save", "--save_steps", 3)
    assert not result.returncode, result.stderr[-2000:]
    run, repository = tmp_path / "run", hub.repositories[NAME]
    pushed = [files for files in repository.commits.values() if files]
    weights = [run / "checkpoint-3" / "model.safetensors", run / "checkpoint-6" / "model.safetensors"]
    weights += [run / "model.safetensors"]
    assert [files["model.safetensors"] for files in pushed] == [file.read_bytes() for file in weights]
    for files in pushed:
        assert files.keys() >= CODE | {"processor_config.json", "tokenizer.json", "training_data.json"}
        assert not any(name.startswith(("optimizer", "checkpoint", "runs", "training_args")) for name in files)
    card = head(hub)["README.md"].decode()
    assert "| optimiser steps | 6 |" in card and "| learning_rate | 0.001 |" in card and "Not measured." in card

    quick = ("--metrics", "bleu_4", "cider_d", "--bootstrap", 0)
    data = ("--data_dir", toy_world, "--max_clips", 3, "--modalities", "audio+video", *quick)
    scored = run_inside("scripts/evaluate.py", "--model", run, *data, "--output", tmp_path / "scores")
    assert scored.returncode == 0, scored.stderr
    rescored = ("--predictions", tmp_path / "scores" / "predictions.jsonl", "--output", tmp_path / "rescored")
    assert run_inside("scripts/evaluate.py", *rescored, *quick).returncode == 0
    for name in ("scores", "rescored"):
        assert push(run, NAME, "--evaluation", tmp_path / name).returncode == 0
        results = json.loads((tmp_path / name / "results.json").read_text())
        (entry,) = ModelCard(head(hub)["README.md"].decode()).data.to_dict()["model-index"][0]["results"]
        assert {metric["type"]: metric["value"] for metric in entry["metrics"]} == results["metrics"]
    assert "scores other weights" in error_of(push(run / "checkpoint-3", NAME, "--evaluation", tmp_path / "scores"))


@pytest.mark.slow
def test_a_push_that_fails_after_training_keeps_the_model_and_says_how_to_push_it(hub, train, tmp_path, monkeypatch):
    hub.lost = "/commit/"
    error = error_of(train("--hub_strategy", "every_save"))
    run = tmp_path / "run"
    assert f"upload it by: python scripts/push_to_hub.py {run} {NAME}" in error
    assert (run / "train_results.json").is_file() and head(hub) == {}
    hub.lost = None
    assert push(run, NAME).returncode == 0
    assert head(hub)["model.safetensors"] == (run / "model.safetensors").read_bytes()


def adapter_on_parts(folder: Path, processor) -> Path:
    """A folder as training with LoRA on pretrained parts writes it; the parts are in `parts/`."""
    (folder / "parts").mkdir()
    write_parts(folder / "parts", text_config={"vocab_size": len(processor.tokenizer) - 1})
    fields = {"r": 2, "target_modules": r".*language_model\..*q_proj", "modules_to_save": ["multi_modal_projector"]}
    save_adapter(add_lora(assemble(folder / "parts"), fields), folder / "on parts")
    processor.save_pretrained(folder / "on parts")
    return folder / "on parts"


@pytest.mark.slow
def test_a_stranger_loads_what_was_pushed_and_runs_the_code_of_the_card(
    hub, folder, adapter, model, processor, tmp_path
):
    assert push(folder, NAME).returncode == 0
    assert push(adapter, "me/adapter", "--base_model", NAME).returncode == 0
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        shutil.copy(adapter / name, folder)
    change(folder / "adapter_config.json", base_model_name_or_path=str(folder))
    assert push(folder, "me/both").returncode == 0
    on_parts = adapter_on_parts(tmp_path, processor)
    for part in ("llama-tiny", "tower", "clip-tiny"):
        open_repository(f"me/{part}")
        files = {file.name: file.read_bytes() for file in (tmp_path / "parts" / part).iterdir()}
        hub.repositories[f"me/{part}"].add("main", files)
    places = ("--text_model", "me/llama-tiny", "--audio_model", "me/tower", "--vision_model", "me/clip-tiny")
    assert push(on_parts, "me/on-parts", *places).returncode == 0

    scope = {}
    exec(ANSWER, scope)  # the strangers' own question
    adapted = LavcapForConditionalGeneration.from_pretrained(folder).eval()
    assembled = LavcapForConditionalGeneration.from_pretrained(on_parts)
    expected = [scope["answer"](each, processor) for each in (model, adapted, adapted, assembled)]
    names = json.dumps([NAME, "me/adapter", "me/both", "me/on-parts"])
    found = run_stranger(ANSWER + LOAD, names, folder=tmp_path, **surroundings(hub, tmp_path / "home")).printed
    for each, own in zip(found, expected, strict=True):
        assert_same(each, own)
    assert np.abs(np.subtract(expected[0]["logits"], expected[1]["logits"])).max() > 0.1

    write_media(tmp_path / "my_clip.mp4", seconds=0.4)
    (code,) = re.findall(r"^```python\n(.*?)^```", head(hub)["README.md"].decode(), re.M | re.S)
    code = code.replace("print(", "import json\nprint(json.dumps(") + ")"
    caption = run_stranger(code, folder=tmp_path, **surroundings(hub, tmp_path / "home")).printed
    inputs = processor(str(tmp_path / "my_clip.mp4"))
    assert caption == processor.decode_captions(model.generate(**inputs), inputs)[0]
