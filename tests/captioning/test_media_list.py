"""Which clips are meant: folders with all that lies below, patterns, lists, pipes; and where their captions go."""

import os
import threading
from pathlib import Path, PurePosixPath
from types import SimpleNamespace

import pytest
from media_files import write_media
from PIL import Image

from lavcap.captioning import pipes
from lavcap.captioning.media_list import Medium, list_media, read_list
from lavcap.captioning.places import places_of
from sources_captioning import MediaError


@pytest.fixture(scope="module")
def film(tmp_path_factory) -> Path:
    return write_media(tmp_path_factory.mktemp("films") / "film.mp4", seconds=0.4)


@pytest.fixture
def tree(tmp_path) -> Path:
    """Films in folders, frames in another, a sleeve beside sounds, a link that goes round, and what is no medium."""
    for name in ("a.mp4", "b/a.mp4", "b/c d/a.wav", "b/c d/a.mp3", "b/.hidden/x.mp4", "._a.mp4"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "frames").mkdir()
    for name in ("frames/0.png", "frames/1.png", "b/c d/sleeve.jpg"):
        Image.new("RGB", (4, 4)).save(tmp_path / name)
    (tmp_path / "notes.txt").touch()
    (tmp_path / "b" / "round").symlink_to(tmp_path)
    (tmp_path / "empty").mkdir()
    return tmp_path


def clips(items) -> list[Medium]:
    return [item for item in items if isinstance(item, Medium)]


def test_everything_below_a_folder_is_meant_and_named_once(tree):
    items = list_media([str(tree), str(tree / "a.mp4")])
    found = [str(medium.source.relative_to(tree)) for medium in clips(items)]
    assert found == ["a.mp4", "b/a.mp4", "b/c d/a.mp3", "b/c d/a.wav", "frames"]
    (left_out,) = [item for item in items if not isinstance(item, Medium)]
    assert left_out.left_out and "1 of its files are pictures beside 2 media files, and left out" in str(
        left_out.reason
    )


def test_patterns_reach_into_folders(tree, monkeypatch):
    monkeypatch.chdir(tree)
    assert [str(clip) for clip in clips(list_media(["*.mp4", "b/*/*.mp3"]))] == ["a.mp4", "b/c d/a.mp3"]
    assert "b/a.mp4" in [str(clip) for clip in clips(list_media(["**/*.mp4"]))]
    assert [clip.place for clip in clips(list_media(["b/*/*.wav"]))] == [PurePosixPath("a.wav")]


def test_a_pattern_that_matches_nothing_is_told(tree):
    (refused,) = list_media([f"{tree}/*.ogg"])
    assert "matches 0 files, none of them a medium; check the pattern" in str(refused.reason)
    (tree / "[1].mp4").touch()
    (found,) = list_media([f"{tree}/[1].mp4"])
    assert found.source == tree / "[1].mp4"  # a file of this name comes before a pattern


def test_what_is_no_clip_costs_no_other(tree, film):
    wrong = [str(tree / "empty"), "https://example.org/a.mp4", str(tree / "none.mp4"), "a" * 5000]
    *refused, found = list_media([*wrong, str(film), film.as_uri()])
    reasons = ["holds neither media files nor images", "an address, not a file", "no such file", "File name too long"]
    assert all(reason in str(item.reason) for reason, item in zip(reasons, refused, strict=True))
    assert found.source == film


def test_a_list_has_a_clip_on_each_line(tmp_path, monkeypatch):
    (tmp_path / "list.txt").write_bytes("\ufeffa b.mp4\r\n\r\nü.wav\n".encode())
    assert read_list(str(tmp_path / "list.txt")) == ["a b.mp4", "ü.wav"]
    monkeypatch.setattr("sys.stdin", SimpleNamespace(read=lambda: "a.mp4\nb.mp4"))
    assert read_list("-") == ["a.mp4", "b.mp4"]
    (tmp_path / "list.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="not readable as UTF-8"):
        read_list(str(tmp_path / "list.txt"))


def place(path: str, below: str = "") -> Medium:
    return Medium(Path(path), PurePosixPath(below or Path(path).name))


@pytest.mark.parametrize(
    ("media", "expected"),
    [
        ([place("/x/a.mp4"), place("/x/sub/b.mp4", "sub/b.mp4")], ["a", "sub/b"]),
        ([place("/x/a.mp4"), place("/x/a.wav")], ["a.mp4", "a.wav"]),
        ([place("/x/a.mp4"), place("/y/a.mp4")], ["x/a", "y/a"]),
        ([place("/x/a.mp4"), place("/y/a.wav"), place("/y/b.wav")], ["a.mp4", "a.wav", "b"]),
        ([place("/p/x/a.mp4"), place("/q/x/a.mp4")], ["p/x/a", "q/x/a"]),
    ],
)
def test_captions_have_the_names_of_their_clips(media, expected):
    found = places_of(media, Path("out"))
    assert [str(found[str(medium)]) for medium in media] == [f"out/{name}" for name in expected]


def test_captions_beside_clips(tmp_path):
    assert places_of([place("/x/a.mp4")], None) == {"/x/a.mp4": Path("/x/a")}
    (pipe,) = list_media(["data:,abc"])
    with pytest.raises(ValueError, match="is no file, so that nothing can be written beside it"):
        places_of([pipe], None)


@pytest.mark.parametrize("way", ["-", "/dev/fd/"])
def test_the_captioning_command_reads_pipes_within_its_bounds(film, monkeypatch, way):
    def piped(data: bytes, ends: bool = True) -> str:
        reader, writer = os.pipe()
        threading.Thread(target=lambda: (os.write(writer, data[:9]), os.write(writer, data[9:]))).start()
        if ends:
            threading.Timer(0.2, os.close, [writer]).start()
        monkeypatch.setattr(pipes.sys, "stdin", SimpleNamespace(fileno=lambda: reader))
        return way if way == "-" else f"{way}{reader}"

    data = film.read_bytes()
    path = piped(data)
    assert pipes.is_pipe(path)
    source = pipes.read_pipe(path)
    assert source.data == data and str(source) == path
    monkeypatch.setattr(pipes, "MAX_STREAM_BYTES", 100)
    with pytest.raises(MediaError, match=r"gives more than 0 MiB; save it to a file"):
        pipes.read_pipe(piped(data))
    monkeypatch.setattr("bounds_captioning.CLIP_SECONDS", 0.5)
    with pytest.raises(MediaError, match=r"takes more than 0\.5 s"):
        pipes.read_pipe(piped(b"x" * 20, ends=False))
