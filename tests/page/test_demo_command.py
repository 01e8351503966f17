"""`lavcap demo`: what it says, what it refuses, and how it ends."""

import os
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from stranger import import_path

from lavcap.commands import main


pytest.importorskip("gradio")


@contextmanager
def demo(*arguments: object) -> Iterator[subprocess.Popen]:
    command = [sys.executable, "-m", "lavcap", "demo", *map(str, arguments)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, env=os.environ | {"PYTHONPATH": import_path()}, text=True, **pipes) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.whole
def test_it_says_where_the_page_is_and_ends_at_an_interrupt(saved_model):
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # shells have it ignored in the background
    with demo(saved_model, "--title", "My captioner", "--device", "cpu") as process:
        signal.signal(signal.SIGINT, before)
        said = process.stdout.readline()
        address = said.removeprefix("the page is at ").partition(";")[0]
        assert '"title":"My captioner"' in urllib.request.urlopen(address, timeout=20).read().decode()
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130
        errors = [line for line in process.stderr.read().splitlines() if line and "it/s]" not in line]
    assert errors == ["interrupted"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none", "--examples", "none.mp4"], "--examples none.mp4: no such file."),
        (["none", "--port", "0"], "got '0', expected 1 to 65535"),
        (["none", "--port", "70000"], "got '70000', expected 1 to 65535"),
        (["none", "--max_mib", "no"], "got 'no', expected a whole number of at least 1"),
    ],
)
def test_mistakes_are_told_in_one_line(capsys, monkeypatch, arguments, message):
    monkeypatch.setattr(sys, "argv", ["lavcap"])
    with pytest.raises(SystemExit) as ended:
        main(["demo", *arguments])
    told = capsys.readouterr().err
    assert ended.value.code == 2 and told.startswith("error: ") and message in told and told.count("\n") == 1


@pytest.mark.parametrize("command", ["demo", "serve"])
def test_a_port_that_is_taken_is_told_before_a_model_is_loaded(capsys, monkeypatch, command):
    monkeypatch.setattr(sys, "argv", ["lavcap"])
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(SystemExit) as ended:
        port = str(taken.getsockname()[1])
        main([command, "no/model", "--host", "127.0.0.1", "--port", port])
    expected = f"error: --port {port}: cannot be used at 127.0.0.1 (Address already in use); pass another one.\n"
    assert ended.value.code == 2 and capsys.readouterr().err == expected
