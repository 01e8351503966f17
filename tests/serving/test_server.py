"""Captions over HTTP by OpenAI's own client: what is answered, what is refused, and what no request may read."""

import base64
import threading
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from clock_films import write_clock
from media_files import write_media
from PIL import Image

from lavcap.serving.media import Allowed, with_media
from sources_captioning import MediaError


openai = pytest.importorskip("openai")
pytest.importorskip("fastapi")

from lavcap.serving.server import serve  # noqa: E402 (needs them)


NAME = "my-captioner"


@pytest.fixture(scope="module")
def films(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("films")
    write_clock(folder / "both.mp4", 0.4)
    write_clock(folder / "silent.mp4", 0.4, audio=None)
    write_media(folder / "sound.wav", seconds=0.4, audio="pcm_s16le", video=None)
    Image.new("RGB", (32, 32), "red").save(folder / "still.png")
    (folder / "large.mp4").write_bytes(b"0" * 3_000_000)
    return folder


def data_url(path: Path, kind: str = "video/mp4") -> str:
    return f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"


def entry(kind: str, url: str) -> dict:
    return {"type": kind, kind: {"url": url}}


@pytest.fixture(scope="module")
def host(films):
    """A server of files, one of which sends its clients elsewhere."""

    class Handler(SimpleHTTPRequestHandler):
        def do_GET(self):
            if self.path != "/moved.mp4":
                return super().do_GET()
            self.send_response(302)
            self.send_header("Location", "/both.mp4")
            self.end_headers()
            return None

        def log_message(self, *words):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(films)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module", params=["lavcap", "avcap", "dali"])
def client(request, films):
    family = request.param
    model = request.getfixturevalue("model" if family == "lavcap" else family)
    processor = request.getfixturevalue("processor" if family == "lavcap" else f"{family}_processor")
    port = free_port()
    allowed = Allowed(frozenset({"127.0.0.1"}), (films,), 2 << 20)
    server = serve(model, processor, NAME, allowed, "127.0.0.1", port, wait=False)
    while not server.server.started:
        threading.Event().wait(0.05)
    client = openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0, timeout=60)
    client.model, client.processor, client.server = model, processor, server
    yield client
    server.kill_server()
    assert not server._thread.is_alive()


def ask(client, *entries: dict, **options):
    content = [*entries, {"type": "text", "text": "What can be heard?"}]
    options = {"max_tokens": 5} | options
    return client.chat.completions.create(model=NAME, messages=[{"role": "user", "content": content}], **options)


def expected(client, path: Path, **options) -> str:
    """What model and processor say of a clip, without a server."""
    processor, model = client.processor, client.model
    inputs = {"modalities": processor.modalities}
    if processor.takes_instruction:
        turn = [{"type": "video", "path": str(path)}, {"type": "text", "text": "What can be heard?"}]
        prompt = processor.apply_chat_template([{"role": "user", "content": turn}], add_generation_prompt=True)
        inputs["text"] = prompt
    batch = processor(str(path), **inputs)
    return processor.decode_captions(model.generate(**batch, max_new_tokens=5, **options), batch)[0]


def words(text: str) -> str:
    return " ".join(text.split())


def test_a_film_is_captioned_as_without_a_server(client, films):
    answer = ask(client, entry("video_url", data_url(films / "both.mp4")))
    assert words(answer.choices[0].message.content) == expected(client, films / "both.mp4")
    assert answer.model.startswith(NAME) and 1 <= answer.usage.completion_tokens <= 5


def test_every_kind_of_clip_has_an_answer(client, films):
    sound = base64.b64encode((films / "sound.wav").read_bytes()).decode()
    for each in (
        entry("video_url", data_url(films / "silent.mp4")),
        entry("audio_url", data_url(films / "sound.wav", "audio/wav")),
        entry("image_url", data_url(films / "still.png", "image/png")),
        {"type": "input_audio", "input_audio": {"data": sound, "format": "wav"}},
    ):
        assert ask(client, each).choices[0].finish_reason in ("stop", "length")


def test_tokens_come_one_by_one_by_a_greedy_search(client, films):
    parts = ask(client, entry("video_url", data_url(films / "both.mp4")), stream=True)
    text = "".join(part.choices[0].delta.content or "" for part in parts if part.choices)
    whole = expected(client, films / "both.mp4", num_beams=1)
    assert words(whole).replace("\ufffd", "") == words(text).replace("\ufffd", "")  # of half a character


def test_requests_at_once_are_all_answered(client, films):
    url = data_url(films / "both.mp4")
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: ask(client, entry("video_url", url)).choices[0].message.content, range(4)))
    assert len(set(answers)) == 1


def test_the_model_and_its_health_are_told(client):
    assert [model.id for model in client.models.list()] == [NAME]
    with urllib.request.urlopen(str(client.base_url).replace("/v1/", "/health")) as answer:
        assert answer.status == 200


def test_allowed_hosts_and_folders_are_read(client, films, host):
    wanted = expected(client, films / "both.mp4")
    for url in (f"{host}/both.mp4", str(films / "both.mp4"), (films / "both.mp4").as_uri()):
        assert words(ask(client, entry("video_url", url)).choices[0].message.content) == wanted


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("/etc/passwd", "files are not read here"),
        ("file:///etc/passwd", "files are not read here"),
        ("{films}/../../etc/passwd", "files are not read here"),
        ("http://169.254.169.254/latest", "addresses of 169.254.169.254 are not fetched here"),
        ("{host}/none.mp4", "its server answers 404"),
        ("{host}/moved.mp4", "its server answers 302"),
        ("{host}/large.mp4", "holds more than 2 MiB"),
        ("data:video/mp4;base64,bm9pc2U=", "not readable as media"),
        ("data:video/mp4;base64,***", "not base64"),
    ],
)
def test_what_is_not_allowed_or_no_clip_is_told_to_the_client(client, films, host, url, message):
    with pytest.raises(openai.BadRequestError, match=message) as raised:
        ask(client, entry("video_url", url.format(films=films, host=host)))
    assert "\n" not in raised.value.message


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"messages": [{"role": "user", "content": "Hello"}]}, "Got no clip, expected an entry of type video_url"),
        (
            {"messages": [{"role": "user", "content": [{"type": "file"}]}]},
            "Got an entry of type 'file', expected text",
        ),
        ({"messages": [{"role": "user", "content": [{"type": "video_url"}]}]}, "without its data, expected a url"),
        ({"max_tokens": 10**9}, "max_new_tokens is 1000000000, expected 1 to 1048576"),
        ({"extra_body": {"generation_config": "{}"}}, "are not taken here"),
        ({"model": "gpt"}, "pinned to 'my-captioner'; requested 'gpt'"),
    ],
    ids=str,
)
def test_other_requests_are_refused_in_one_line(client, films, options, message):
    content = [entry("video_url", data_url(films / "both.mp4"))]
    request = {"model": NAME, "messages": [{"role": "user", "content": content}], "max_tokens": 2} | options
    with pytest.raises(openai.BadRequestError, match=message):
        client.chat.completions.create(**request)


def test_a_request_that_is_too_large_is_refused_before_it_is_read(client):
    with pytest.raises(openai.APIStatusError, match="of at most 4 MiB; send a smaller clip") as raised:
        ask(client, entry("video_url", "data:video/mp4;base64," + "A" * 6_000_000))
    assert raised.value.status_code == 413


def test_other_routes_are_closed(client):
    """They would read what a request names."""
    for route in ("responses", "completions", "audio/transcriptions"):
        with pytest.raises(openai.NotFoundError):
            client.post(f"/{route}", body={"model": NAME, "input": "x"}, cast_to=object)


def test_words_are_left_out_for_a_model_that_is_asked_nothing(films):
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "?"}]},
    ]
    messages[1]["content"].append(entry("video_url", data_url(films / "both.mp4")))
    (message,) = with_media(messages, Allowed(), takes_words=False)
    assert [each["type"] for each in message["content"]] == ["video_url"]
    assert len(with_media(messages, Allowed(), takes_words=True)) == 2


def test_a_link_out_of_an_allowed_folder_is_not_followed(films, tmp_path):
    (tmp_path / "films").mkdir()
    (tmp_path / "films" / "link.mp4").symlink_to(films / "both.mp4")
    with pytest.raises(MediaError, match="files are not read here"):
        Allowed(folders=(tmp_path / "films",)).read(str(tmp_path / "films" / "link.mp4"))
