"""What comes from the Hub, for messages of ours: one line of bounded length, without the token; which errors are its.

Whatever answers may be broken, or made by a stranger: it may send back the token that it was sent, and codes that
steer a terminal.
"""

import logging
import os
import re
import sys
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


LONGEST = 1000  # characters that are told of an answer
LOST, STRANGE = "the connection to the Hub was lost", "what answered is not as the Hub answers"
ASKING = ("httpx", "huggingface_hub.hf_api", "huggingface_hub.file_download")  # modules that talk to the Hub
TALKING = ("httpx", "huggingface_hub")  # loggers that pass on what it says
# Of a terminal: what colours and moves (CSI), and titles and links (OSC) with their end.
STEERING = re.compile(r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]|(?:\x1b\]|\x9d)[^\x07\x1b\x9c]*(?:\x1b\\)?")
LOGIN = re.compile(r"(?<=://)[^/\s]+@")
BEARER = re.compile(r"(Bearer\s+)[^\s,;]+", re.IGNORECASE)

_given: set[str] = set()  # tokens that are in no place where this module looks


def one_line(words: object) -> str:
    """Words of the Hub as a message can hold them; of very many the first and the last."""
    text = " ".join(STEERING.sub("", str(words)).split())
    text = without_tokens("".join(filter(str.isprintable, text)))
    half = LONGEST // 2
    return text if len(text) <= LONGEST else f"{text[:half]} … {text[-half:]}"


def without_tokens(text: str) -> str:
    """The same without the tokens of this machine, however they are spelled, and without the login of an address."""
    for token in _tokens():
        text = re.sub("".join(map(_spellings, token)), "…", text, flags=re.IGNORECASE)
    return LOGIN.sub("…@", BEARER.sub(r"\1…", text))


def hide_token(token: str | None):
    """Keep a token out of messages that is neither in the environment nor that of `hf auth login`."""
    if token:
        _given.add(token)


def concerns_hub(error: BaseException) -> bool:
    """Whether an error came up while the Hub was asked."""
    frames = (frame for each in chain(error) for frame, _ in traceback.walk_tb(each.__traceback__))
    return any(frame.f_globals.get("__name__", "").startswith(ASKING) for frame in frames)


def is_lost(error: BaseException) -> bool:
    """Whether an error is that of a connection, in place of an answer that nobody can read."""
    from huggingface_hub.errors import HTTPError

    http = sys.modules[HTTPError.__module__]  # of the two that there may be, the one that the library uses
    broken = (http.TimeoutException, http.NetworkError, http.ProxyError, http.ProtocolError)
    errors = list(chain(error))
    return any(isinstance(each, broken) for each in errors) or type(errors[-1]) is RuntimeError  # the last: of Xet


def explain(error: BaseException) -> str:
    """Message of an error that concerns the Hub, where something was to be loaded."""
    from huggingface_hub.errors import FileMetadataError, HFValidationError, HTTPError

    words = one_line(error)
    if isinstance(error, (OSError, HFValidationError)):  # has a message for people, which may keep the reason back
        reason = next((each for each in chain(error) if isinstance(each, (HTTPError, FileMetadataError))), error)
        return words if one_line(reason) in words else f"{words} ({described(reason)})"
    what = LOST if is_lost(error) else STRANGE
    return f"{what} ({described(error)}); check HF_ENDPOINT, the proxy and the connection, and run the command again."


def described(error: BaseException) -> str:
    """What is known of an error that was not made for people, and who answered."""
    from huggingface_hub import constants

    return f"{one_line(constants.ENDPOINT)}: {type(error).__name__}: {one_line(error)}"


def chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error and those that led to it."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


@contextmanager
def cleaned_logs() -> Iterator[None]:
    """Log records and warnings of the Hub's library pass on what the Hub says: here as [`one_line`]."""
    make, show = logging.getLogRecordFactory(), warnings.showwarning

    def make_clean(*args, **options) -> logging.LogRecord:
        record = make(*args, **options)
        if str(record.name).startswith(TALKING):
            record.msg, record.args = one_line(record.getMessage()), ()
        return record

    def show_clean(message, category, filename, *place):
        show(one_line(message) if "huggingface_hub" in filename else message, category, filename, *place)

    logging.setLogRecordFactory(make_clean)
    warnings.showwarning = show_clean
    try:
        yield
    finally:
        logging.setLogRecordFactory(make)
        warnings.showwarning = show


# -------------------------------------------------------------------------------------------------------- internals


def _tokens() -> set[str]:
    """Those that can be sent: given ones, those of the environment, and that of `hf auth login`."""
    found = {*_given, os.environ.get("HF_TOKEN", ""), os.environ.get("HUGGING_FACE_HUB_TOKEN", ""), _saved_token()}
    return {token for each in found if (token := each.replace("\r", "").replace("\n", "").strip())}


def _saved_token() -> str:
    constants = sys.modules.get("huggingface_hub.constants")  # else nobody was asked, and nothing can come back
    try:
        return Path(constants.HF_TOKEN_PATH).read_text() if constants else ""
    except (OSError, UnicodeDecodeError):
        return ""


def _spellings(character: str) -> str:
    """Pattern of a character: itself, and as addresses, JSON, HTML and Python spell it."""
    code, quoted = ord(character), "".join(f"%{byte:02x}" for byte in character.encode())
    return rf"(?:{re.escape(character)}|{quoted}|\\u{code:04x}|\\x{code:02x}|&#{code};|&#x{code:x};)"
