"""How long the Hub may take: limits of each piece of a request, however long the whole upload takes.

Without them the library waits for ever for a server that takes a connection and says nothing.
"""

import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from huggingface_hub import set_client_factory
from huggingface_hub.errors import HTTPError
from huggingface_hub.utils import _http


# Seconds until a connection stands, and until a piece of a request or an answer has moved. The Hub's own limit of a
# commit is a minute.
LIMITS = {"connect": 30.0, "read": 120.0, "write": 120.0, "pool": None}
ANSWER = 120.0  # seconds from the head of an answer to its end: in an upload all answers are short
WAIT = 300  # seconds that the Hub may ask for between two trials: what it counts requests over

http = sys.modules[HTTPError.__module__]  # of the two that there may be, the one that the library uses


@contextmanager
def limited_requests() -> Iterator[None]:
    """Requests of the library have limits, whatever it asks for."""
    factory = _http._GLOBAL_CLIENT_FACTORY  # may be a user's own, with certificates or a proxy

    def limited() -> Any:
        client = factory()
        client.event_hooks["request"].append(_limit_request)
        client.event_hooks["response"].append(_limit_answer)
        return client

    set_client_factory(limited)
    try:
        yield
    finally:
        set_client_factory(factory)


def _limit_request(request: Any):
    asked = request.extensions["timeout"]  # of a client's default nothing is left where the library asks for none
    request.extensions["timeout"] = {name: asked[name] or most for name, most in LIMITS.items()}


def _limit_answer(response: Any):
    for name in ("Retry-After", "RateLimit"):  # without them the library waits as long as it sees fit
        if any(int(number) > WAIT for number in re.findall(r"\d+", response.headers.get(name, ""))):
            del response.headers[name]
    response.stream = _TimedAnswer(response.stream)


class _TimedAnswer(http.SyncByteStream):
    """Body of an answer that must be there in time: one that trickles has no pause that is too long."""

    def __init__(self, stream: Any):
        self.stream, self.end = stream, time.monotonic() + ANSWER

    def __iter__(self) -> Iterator[bytes]:
        for piece in self.stream:
            if time.monotonic() > self.end:
                raise http.ReadTimeout(f"an answer was not whole after {ANSWER:g} s")
            yield piece

    def close(self):
        self.stream.close()
