"""A Hub that is broken or hostile, or none at all: one line without the token, and an end in time."""

import logging
import time
from types import SimpleNamespace
from urllib.parse import quote

import huggingface_hub
import pytest
from huggingface_hub import constants
from published_models import NAME, error_of, head, push
from stranger import run_inside
from transformers.trainer_utils import HubStrategy

from conftest import ROOT
from lavcap.hub import LONGEST, cleaned_logs, one_line, without_tokens
from lavcap.publishing import limits
from lavcap.publishing.upload import UploadError, open_repository, upload
from lavcap.training.publisher import Publisher


TOKEN = "hf_writer"  # of the fixture `hub`
SPELLINGS = {
    "plain": TOKEN,
    "in another case": TOKEN.upper(),
    "as a header": f"Bearer {TOKEN}",
    "of an address": "".join(f"%{ord(letter):02X}" for letter in TOKEN),
    "of JSON": "".join(f"\\u{ord(letter):04x}" for letter in TOKEN),
    "of HTML": "".join(f"&#{ord(letter)};" for letter in TOKEN),
    "with codes of a terminal between": "\x1b[0m".join(TOKEN),
    "with what nobody sees between": "\u200b".join(TOKEN),
}
JSON = {"Content-Type": "application/json"}
MODEL = f"/api/models/{NAME}"
FILES = {"config.json": b"{}", "model.safetensors": b"weights", "README.md": b"# A model"}


@pytest.fixture
def quick(monkeypatch):
    """Limits of a fraction of a second."""
    monkeypatch.setattr(limits, "LIMITS", dict.fromkeys(limits.LIMITS, 0.2))
    monkeypatch.setattr(limits, "ANSWER", 0.2)


def refusal(repo_id: str = NAME, token: str | None = None) -> str:
    with pytest.raises(UploadError) as raised:
        upload(FILES, repo_id, message="Test", token=token)
    return str(raised.value)


# ------------------------------------------------------------------------------------------------ words of the Hub


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_a_token_is_shown_in_no_spelling(monkeypatch, spelling):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    shown = one_line(f"no access for {SPELLINGS[spelling]}, sorry")
    assert shown.replace("Bearer ", "") == "no access for …, sorry"


@pytest.mark.parametrize("place", ["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "hf auth login"])
def test_the_token_of_each_place_is_known(monkeypatch, tmp_path, place):
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    if place == "hf auth login":
        (tmp_path / "token").write_text("hf_secret\n")
    else:
        monkeypatch.setenv(place, "hf_secret\n")
    assert huggingface_hub.get_token() == "hf_secret"
    assert without_tokens("a hf_secret b") == "a … b"


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        ("\x1b[31mred\x1b[0m\x9b1mbold", "redbold"),
        ("\x1b]0;title\x07a \x1b]8;;http://x\x1b\\b", "a b"),
        ("one\r\ntwo\u2028three\x0bfour\tfive", "one two three four five"),
        ("a\x00\x07\x7f\u202eb", "ab"),
        ("at https://me:p@ss@hub.example/x", "at https://…@hub.example/x"),
    ],
)
def test_words_of_the_hub_are_one_line_that_steers_no_terminal(words, shown):
    assert one_line(words) == shown


def test_of_many_words_the_first_and_the_last_are_told():
    shown = one_line("first " + "x" * 2**20 + " last")
    assert shown.startswith("first ") and shown.endswith(" last") and len(shown) <= LONGEST + 3


HOSTILE = f"\x1b[31mno access\nfor {TOKEN}\x07" + "x" * 2**20
ECHOES = {
    "of plain text": ({}, HOSTILE.encode()),
    "in an object": (JSON, b'{"error": "no \\u001b[31maccess\\nfor hf_writer%s"}' % (b"x" * 2**20)),
    "in a list of errors": (JSON, b'{"errors": [{"message": "\\u001b[1mfor hf_writer"}]}'),
    "in a header": ({"X-Error-Message": f"\x1b[31mfor {TOKEN}"}, b"{}"),
    "in a code": ({"X-Error-Code": f"\x1b[31m{TOKEN}", "X-Request-Id": f"\x1b[31m{TOKEN}"}, b"{}"),
    "in HTML": ({"Content-Type": "text/html"}, b"<html>" + HOSTILE.encode()),
    "in an address": ({"Location": f"/api/echo/{TOKEN}?token={quote(TOKEN)}"}, b""),
}


@pytest.mark.parametrize(
    ("path", "echo"),
    [*(("/repos/create", echo) for echo in ECHOES), ("/large/", "of plain text"), ("/commit/", "in an object")],
)
def test_a_hub_that_sends_the_token_back_does_not_get_it_shown(hub, caplog, echo, path):
    logging.getLogger("huggingface_hub").addHandler(caplog.handler)
    headers, body = ECHOES[echo]
    warned = {"X-HF-Warning": f"{path} {echo}; \x1b[31mfor {TOKEN}"}  # the library tells a topic once
    hub.strange = (path, (302 if "Location" in headers else 400, headers | warned, body))
    try:
        words = refusal() + caplog.text
    finally:
        logging.getLogger("huggingface_hub").removeHandler(caplog.handler)
    assert TOKEN not in words and "\x1b" not in words and "\x07" not in words and len(words) < 6 * LONGEST


def test_a_token_that_was_given_is_shown_as_little(hub):
    hub.strange = ("/repos/create", (400, JSON, b'{"error": "for hf_given"}'))
    assert "hf_given" not in refusal(token="hf_given")


def test_a_run_whose_upload_such_a_hub_refuses_warns_in_one_line_and_goes_on(hub, folder, caplog):
    hub.strange = ("/commit/", (400, JSON, ECHOES["in an object"][1]))
    args = SimpleNamespace(
        hub_model_id=NAME,
        hub_revision=None,
        hub_token=None,
        hub_private_repo=None,
        hub_strategy=HubStrategy.EVERY_SAVE,
    )
    handler = SimpleNamespace(on_push_begin=lambda *state: None)
    state = SimpleNamespace(global_step=3)
    trainer = SimpleNamespace(
        args=args, state=state, control=None, callback_handler=handler, is_world_process_zero=lambda: True
    )
    with caplog.at_level("WARNING"):
        Publisher(trainer).push_checkpoint(folder)
    (said,) = [record for record in caplog.records if "Step 3 was not uploaded" in record.getMessage()]
    words = said.getMessage()
    assert "the Hub refused the upload" in words and said.exc_info is None
    assert TOKEN not in words and words.isprintable() and len(words) < 2 * LONGEST


@pytest.mark.filterwarnings("always")
def test_what_the_hub_says_of_a_card_is_shown_in_one_line_too(hub, folder):
    hub.strange = ("/validate-yaml", (200, JSON, b'{"warnings": [{"message": "\\u001b[31mof\\nhf_writer"}]}'))
    with pytest.warns(UserWarning, match="README") as said:
        assert push(folder, NAME).returncode == 0
    words = [str(each.message) for each in said if "README" in str(each.message)]
    assert words == ["Warnings while validating metadata in README.md: - of …"]


def test_logs_of_others_are_as_they_were(caplog):
    with cleaned_logs():
        logging.getLogger("elsewhere").warning("two\nlines")
    assert "two\nlines" in caplog.text


@pytest.mark.parametrize(
    ("status", "message"),
    [(400, "Bad request: for"), (401, "401 Unauthorized"), (403, "for"), (500, "couldn't connect")],
)
def test_a_model_is_not_loaded_from_such_a_hub_in_one_line_either(hub, folder, status, message):
    hub.strange = (NAME, (status, {"X-Error-Message": f"\x1b[31mfor\x85 {TOKEN}"}, HOSTILE.encode()))
    done = run_inside("scripts/caption.py", folder / "config.json", "--model", NAME)
    assert message in error_of(done) and len(done.stderr.splitlines()) == 1
    assert TOKEN not in done.stderr and "\x1b" not in done.stderr and len(done.stderr) < 3 * LONGEST


# -------------------------------------------------------------------------------------------- answers of another kind


ANYWHERE = {
    "HTML": (200, {"Content-Type": "text/html"}, b"<html>Log in to the hotel</html>"),
    "nothing": (200, {}, b""),
    "null": (200, JSON, b"null"),
    "a list": (200, JSON, b"[1, 2]"),
    "a text": (200, JSON, b'"done"'),
    "an object without its keys": (200, JSON, b"{}"),
    "half an object": (200, JSON, b'{"url": "htt'),
    "depth": (200, JSON, b"[" * 100_000),
    "no text": (200, JSON, b"\xff\xfe\x00{"),
    "damaged gzip": (200, JSON | {"Content-Encoding": "gzip"}, b"no gzip"),
    "not modified": (304, {}, b""),
}


@pytest.mark.parametrize(
    ("path", "answer"),
    [
        *(("/repos/create", answer) for answer in ANYWHERE),
        (MODEL, "a list"),
        ("/preupload/", "HTML"),
        ("/objects/batch", "null"),
        ("/commit/", "nothing"),
        ("/commit/", "not modified"),
    ],
)
def test_what_is_no_answer_of_a_hub_is_told_as_that(hub, answer, path):
    open_repository(NAME)
    hub.strange = (path, ANYWHERE[answer])
    error = refusal()
    assert f"what answered is not as the Hub answers ({hub.url}: " in error and "Check HF_ENDPOINT" in error
    assert "\n" not in error and head(hub) == {}


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/repos/create", b'{"url": 5}'),
        (MODEL, b'{"id": "me/lavcap", "sha": 5, "siblings": []}'),
        (MODEL, b'{"id": "me/lavcap", "siblings": null}'),
        (MODEL, b'{"id": "me/lavcap", "sha": "a", "siblings": [{"rfilename": 5}]}'),
        (MODEL, b'{"id": "me/lavcap", "sha": "a", "siblings": ["README.md"]}'),
        ("/preupload/", b'{"files": [{"path": "config.json", "uploadMode": 5}]}'),
        ("/preupload/", b'{"files": null}'),
        ("/objects/batch", b'{"objects": [{"oid": 5}]}'),
        ("/commit/", b'{"commitUrl": 5, "commitOid": null}'),
    ],
)
def test_a_field_of_another_type_is_told_as_that(hub, path, body):
    open_repository(NAME)
    hub.strange = (path, (200, JSON, body))
    assert "what answered is not as the Hub answers" in refusal() and head(hub) == {}


def test_a_head_without_files_is_an_empty_repository(hub):
    open_repository(NAME)
    commit = hub.repositories[NAME].refs["main"]
    hub.strange = (f"{MODEL}?", (200, JSON, b'{"id": "me/lavcap", "sha": "%s", "siblings": null}' % commit.encode()))
    assert upload(FILES, NAME, message="Test").deleted == []


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ((302, {"Location": "/api/repos/create"}, b""), "is not as the Hub answers"),
        ((302, {"Location": "ftp://elsewhere"}, b""), "is not as the Hub answers"),
        ((401, JSON, b'["no"]'), "rejected the token"),
        ((502, JSON, b'"no"'), "the Hub had an error of its own"),
    ],
)
def test_redirects_without_end_and_refusals_of_another_type(hub, answer, message):
    hub.strange = ("/repos/create", answer)
    assert message in refusal()


@pytest.mark.parametrize("answer", ["HTML", "nothing", "damaged gzip", "not modified"])
def test_a_card_that_cannot_be_read_is_not_replaced(hub, answer):
    open_repository(NAME)
    hub.repositories[NAME].add("main", {"README.md": b"# Mine"})
    hub.strange = ("/resolve/", ANYWHERE[answer])
    assert "what answered is not as the Hub answers" in refusal() and head(hub) == {"README.md": b"# Mine"}


@pytest.mark.parametrize(
    ("endpoint", "message"),
    [
        ("127.0.0.1:9", "what answered is not as the Hub answers (127.0.0.1:9: UnsupportedProtocol: "),
        ("http://hub.invalid", "the connection to the Hub was lost (http://hub.invalid: "),
        ("http://me:secret@127.0.0.1:9", "the connection to the Hub was lost (http://…@127.0.0.1:9: "),
    ],
)
def test_a_mistyped_endpoint_ends_in_one_line_without_its_login(hub, folder, tmp_path, monkeypatch, endpoint, message):
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    )
    error = error_of(push(folder, NAME))
    assert message in error and "secret" not in error
    done = run_inside("scripts/caption.py", folder / "config.json", "--model", NAME)
    assert error_of(done) and "secret" not in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize("answer", ["HTML", "nothing", "damaged gzip", "not modified"])
def test_a_model_that_no_hub_sends_is_refused_in_one_line(hub, folder, answer):
    hub.strange = (NAME, ANYWHERE[answer])
    done = run_inside("scripts/caption.py", folder / "config.json", "--model", NAME)
    told = ("FileMetadataError: ", "what answered is not as the Hub answers")  # as the release of the library sees it
    assert any(words in error_of(done) for words in told) and len(done.stderr.splitlines()) == 1


def test_a_model_whose_hub_is_lost_is_refused_in_one_line(hub, folder):
    hub.lost = NAME
    done = run_inside("scripts/caption.py", folder / "config.json", "--model", NAME)
    assert "the connection to the Hub was lost" in error_of(done)


# ----------------------------------------------------------------------------------------------------- limits of time


@pytest.mark.parametrize(
    ("way", "path"),
    [
        ("silent", "/repos/create"),
        ("silent", MODEL),  # for which the library asks for no limit
        ("silent", "/large/"),
        ("trickling", "/repos/create"),
        ("trickling", "/commit/"),
    ],
)
def test_a_hub_that_says_nothing_is_waited_for_in_vain_for_a_stated_time(hub, quick, path, way):
    open_repository(NAME)
    setattr(hub, way, path)
    error = refusal()
    assert "the connection to the Hub was lost" in error and "Run the command again" in error and head(hub) == {}


def test_a_slow_upload_whose_pieces_move_is_not_cut_off(hub, monkeypatch):
    monkeypatch.setattr(limits, "LIMITS", dict.fromkeys(limits.LIMITS, 1.5))
    hub.pause = 0.1
    weights = bytes(20 * 2**20)
    begun = time.monotonic()
    upload(FILES | {"model.safetensors": weights}, NAME, message="Test")
    assert time.monotonic() - begun > 1.5 and head(hub)["model.safetensors"] == weights


@pytest.mark.parametrize("header", [("Retry-After", "86400"), ("RateLimit", '"api";r=0;t=86400')])
def test_the_hub_does_not_have_an_upload_wait_for_a_day(hub, monkeypatch, header):
    waits = []
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", waits.append)
    hub.strange = ("/preupload/", (429, dict([header]), b"{}"))
    assert "too many requests (429)" in refusal() and max(waits) < 60


def test_limits_are_of_uploads_alone_and_a_client_of_ones_own_is_kept(hub):
    made = []
    default = huggingface_hub.utils._http.default_client_factory

    def own():
        made.append(default())
        return made[-1]

    huggingface_hub.set_client_factory(own)
    try:
        open_repository(NAME)
        assert len(made) == 1 and len(made[0].event_hooks["response"]) == 1
        assert huggingface_hub.get_session().event_hooks["response"] == [] and len(made) == 2
    finally:
        huggingface_hub.set_client_factory(default)


def test_the_page_states_the_limits():
    page = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
    assert f"{limits.LIMITS['connect']:g} s" in page and f"{limits.LIMITS['read']:g} s" in page
