"""A page on the Hub: what goes up, that it starts with nothing else of this project, what becomes of an old one."""

import os
import subprocess
import sys
import urllib.request

import pytest
from huggingface_hub import SpaceCard
from media_files import write_media
from published_models import NAME, error_of, push
from stranger import link_libraries

from lavcap.publishing.card import is_untouched


pytest.importorskip("gradio")

SPACE = "me/lavcap-page"


def space_of(hub) -> dict[str, bytes]:
    return hub.repositories[f"spaces/{SPACE}"].find("main")[1]


@pytest.mark.whole
def test_a_page_goes_up_with_its_model_and_starts_there(hub, folder, tmp_path):
    write_media(tmp_path / "waves.mp4", seconds=0.4)
    result = push(folder, NAME, "--space", SPACE, "--space_examples", tmp_path / "waves.mp4")
    assert result.returncode == 0 and f"Published: {hub.url}/spaces/{SPACE}" in result.stdout
    for name, content in space_of(hub).items():
        (tmp_path / "space" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "space" / name).write_bytes(content)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0", "HF_HUB_CACHE": str(tmp_path / "its cache")}
    environment |= {"PYTHONPATH": str(link_libraries(tmp_path / "libraries")), "HF_HUB_DISABLE_XET": "1"}
    command = [sys.executable, "-S", "app.py"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, cwd=tmp_path / "space", env=environment, text=True, **pipes) as process:
        try:
            said = process.stdout.readline()
            assert said, process.stderr.read()
            page = urllib.request.urlopen(said.removeprefix("the page is at ").partition(";")[0], timeout=20).read()
        finally:
            process.kill()
    assert b'"title":"lavcap"' in page and b"waves.mp4" in page


def test_the_card_names_the_model_and_what_it_needs(folder, tmp_path):
    result = push(folder, NAME, "--space", SPACE, "--dry_run", tmp_path / "upload", "--license", "mit")
    assert result.returncode == 0, result.stderr
    assert {path.name for path in (tmp_path / "upload").iterdir()} == {"model", "space"}
    card = SpaceCard.load(tmp_path / "upload" / "space" / "README.md", repo_type="space")
    assert (card.data.sdk, card.data.app_file, card.data.models, card.data.license) == (
        "gradio",
        "app.py",
        [NAME],
        "mit",
    )
    link = f"\n\n[Try it in the browser](https://huggingface.co/spaces/{SPACE}).\n\n## Caption your own clip\n"
    assert link in (tmp_path / "upload" / "model" / "README.md").read_text()
    needed = (tmp_path / "upload" / "space" / "requirements.txt").read_text().splitlines()
    assert {"torch>=2.6", "matplotlib>=3.8"} <= set(needed) and not any("gradio" in line for line in needed)


def test_a_page_that_is_there_gets_the_new_files_and_keeps_what_is_not_ours(hub, folder):
    assert push(folder, NAME, "--space", SPACE).returncode == 0
    earlier = space_of(hub) | {"lavcap/old.py": b"", "examples/old.mp4": b"", "packages.txt": b"mine"}
    hub.repositories[f"spaces/{SPACE}"].add("main", earlier)
    assert push(folder, NAME, "--space", SPACE).returncode == 0
    assert earlier.keys() - space_of(hub).keys() == {"lavcap/old.py", "examples/old.mp4"}
    assert is_untouched(space_of(hub)["README.md"].decode())
    hub.repositories[f"spaces/{SPACE}"].add("main", space_of(hub) | {"README.md": b"# Mine"})
    result = push(folder, NAME, "--space", SPACE)
    assert f"warning: the README.md of {SPACE} was not written" in result.stderr
    assert space_of(hub)["README.md"] == b"# Mine"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--space", "page"], "'page' is no name on the Hub; expected owner/name."),
        (["--space", SPACE, "--revision", "next"], "Got --space with --revision"),
        (["--space_examples", "a.mp4"], "Got --space_examples without --space"),
        (["--space", SPACE, "--space_examples", "none.mp4"], "--space_examples none.mp4: no such file."),
        (["--space", SPACE, "--space_examples", "a.mp4", "b/a.mp4"], "two files of one name"),
    ],
)
def test_mistakes_are_told_before_anything_goes_up(hub, folder, options, message):
    assert message in error_of(push(folder, NAME, *options))
    assert not hub.repositories
