"""An upload is one commit, and what becomes of one that goes wrong."""

import json
import re

import pytest
from huggingface_hub import ModelCard
from published_models import NAME, error_of, head, push, write
from safetensors.torch import load_file, save_file

from conftest import ROOT
from lavcap.models.weight_files import fingerprint
from lavcap.publishing.card import is_untouched
from lavcap.publishing.files import Publication, collect_files
from lavcap.publishing.upload import UploadError, open_repository, upload


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


@pytest.mark.parametrize("token", ["hf_bäd", "hf_b\x0bone"])
def test_a_token_that_no_header_can_carry_ends_in_one_line_without_it(hub, folder, monkeypatch, token):
    monkeypatch.setenv("HF_TOKEN", token)
    error = error_of(push(folder, NAME))
    assert "hf_b" not in error and not hub.repositories


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
    code = "".join((ROOT / "lavcap" / file).read_text() for file in ("publishing/upload.py", "hub.py"))
    assert len(messages) == 9 and all(message in code for message in messages)


def test_an_offline_machine_is_told_so(folder):
    assert "HF_HUB_OFFLINE is set" in error_of(push(folder, NAME))
