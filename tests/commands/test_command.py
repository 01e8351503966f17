"""`lavcap`, one command for all: what it lists, how it refuses, and that an installed wheel has all it needs."""

import os
import subprocess
import sys
import venv
from importlib.util import find_spec

import pytest
from media_files import write_media
from stranger import link_libraries

from conftest import ROOT
from lavcap.commands import COMMANDS, main


LISTED = """
import sys
from lavcap.commands import main
main(["--help"])
assert not {"torch", "transformers", "numpy", "yaml", "huggingface_hub"} & {*sys.modules}, sys.modules.keys()
"""


def test_the_list_of_commands_loads_no_library():
    done = subprocess.run([sys.executable, "-c", LISTED], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    listed = [line.split()[0] for line in done.stdout.split("commands:\n")[1].splitlines()]
    assert listed == [*COMMANDS, "--version"]


def test_every_command_is_a_module_with_a_main():
    for module, does in COMMANDS.values():
        assert find_spec(module) and does


def test_scripts_and_commands_are_the_same():
    for name, (module, _) in COMMANDS.items():
        if name not in ("train", "serve", "demo"):
            (script,) = (
                path for path in (ROOT / "scripts").glob("*.py") if f"from {module} import" in path.read_text()
            )
            assert len(script.read_text().splitlines()) < 15


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (["captoin"], 2, "error: 'captoin' is no command; did you mean caption?"),
        (["qqq"], 2, "error: 'qqq' is no command; known are caption, prepare"),
        ([], 2, ""),
    ],
)
def test_what_is_no_command_is_one_line(capsys, words, status, message):
    assert main(words) == status
    told = capsys.readouterr()
    assert told.err.startswith(message) and (told.err.count("\n") == 1 if message else "usage: lavcap" in told.out)


def test_a_command_calls_itself_by_its_name(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["lavcap"])
    with pytest.raises(SystemExit):
        main(["caption", "--helpp"])
    assert "see lavcap caption --help" in capsys.readouterr().err


@pytest.mark.slow
def test_an_installed_wheel_captions_in_an_empty_folder(saved_model, tmp_path):
    """In an environment that has the libraries, but not this project."""
    build = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--quiet", str(ROOT)]
    subprocess.run([*build, "--wheel-dir", str(tmp_path)], check=True, capture_output=True)
    (wheel,) = tmp_path.glob("lavcap-*.whl")
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv" / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "--no-deps", "--quiet", wheel], check=True, capture_output=True)
    libraries = link_libraries(tmp_path / "libraries")
    write_media(tmp_path / "clip.mp4", seconds=0.4)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"PYTHONPATH": str(libraries), "HF_HUB_OFFLINE": "1"}

    def run(*words: object) -> subprocess.CompletedProcess:
        command = [tmp_path / "venv" / "bin" / "lavcap", *words]
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)

    done = run("caption", "clip.mp4", "--model", saved_model, "--num_beams", "1")
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 1
    assert run("--version").stdout.startswith("lavcap 0.")
    for name in COMMANDS:
        told = run(name, "--help")
        assert told.returncode == 0 and told.stdout.startswith("usage: lavcap "), (name, told.stderr)
