"""What a request may name: data in it, and where that is allowed addresses of some hosts and files of some folders."""

import urllib.error
import urllib.request
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from sources_captioning import MediaError, Source, StoredFile, as_source


FETCH_SECONDS = 30.0
# Entries that name a medium, under their type, with the type by which the server hands them on; the last is OpenAI's,
# for sound in the request.
KINDS = {"video_url": "video_url", "audio_url": "audio_url", "image_url": "image_url", "input_audio": "audio_url"}


@dataclass(frozen=True)
class Allowed:
    """What requests may name.

    Args:
        hosts: whose addresses are fetched, over http and https; redirects are not followed.
        folders: whose files are read, links followed.
        most_bytes: of one medium.
    """

    hosts: frozenset[str] = frozenset()
    folders: tuple[Path, ...] = ()
    most_bytes: int = 64 << 20

    def read(self, url: str) -> Source:
        """The medium that an address names.

        Raises:
            MediaError: it is not allowed, too large, or cannot be had.
        """
        scheme = url.partition(":")[0].lower()
        if scheme == "data":
            if len(url) > 4 * self.most_bytes // 3 + 100:
                raise MediaError(f"The data are more than {self.most_bytes >> 20} MiB; send a smaller clip.")
            return as_source(url)
        if scheme in ("http", "https"):
            return self._fetched(url)
        return self._file(url)

    def _fetched(self, url: str) -> StoredFile:
        host = urlsplit(url).hostname
        if host not in self.hosts:
            raise MediaError(
                f"{url:.200}: addresses of {host} are not fetched here; send the clip as a data: address, or start "
                f"the server with --allow_hosts {host}."
            )
        try:
            with _OPENER.open(url, timeout=FETCH_SECONDS) as answer:
                data = answer.read(self.most_bytes + 1)
        except urllib.error.HTTPError as error:
            raise MediaError(f"{url:.200}: its server answers {error.code}; check the address.") from error
        except (TimeoutError, OSError, ValueError) as error:
            raise MediaError(f"{url:.200}: cannot be fetched ({error!s:.200}); check the address.") from error
        if len(data) > self.most_bytes:
            raise MediaError(f"{url:.200}: holds more than {self.most_bytes >> 20} MiB; send a smaller clip.")
        return StoredFile(urlsplit(url).path.rpartition("/")[2] or "clip", data)

    def _file(self, url: str) -> Path:
        try:
            real = Path(as_source(url)).resolve()
        except (OSError, ValueError, RuntimeError):
            real = None
        if real is None or not any(real.is_relative_to(folder.resolve()) for folder in self.folders):
            raise MediaError(
                f"{url:.200}: files are not read here; send the clip as a data: address, or start the server with "
                "--allow_files and a folder."
            )
        return real


def with_media(messages: Any, allowed: Allowed, takes_words: bool) -> list[dict[str, Any]]:
    """Messages of a request with their media read, as the library's server hands them to a processor.

    Args:
        takes_words: whether the model is asked something; words are left out otherwise.

    Raises:
        MediaError: as [`Allowed.read`].
        ValueError: messages of another form.
    """
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        raise ValueError("messages must be a list of objects, each with a role and content.")
    read = [
        message | {"content": list(_entries(message.get("content"), allowed, takes_words))} for message in messages
    ]
    if not any(entry["type"] != "text" for message in read for entry in message["content"]):
        raise ValueError(f"Got no clip, expected an entry of type {', '.join(KINDS)}.")
    return [message for message in read if message["content"]]


def _entries(content: Any, allowed: Allowed, takes_words: bool) -> Iterable[dict[str, Any]]:
    if isinstance(content, str):
        content = [{"type": "text", "text": content}]
    if not isinstance(content, list):
        raise ValueError("content must be a text, or a list of entries.")
    for entry in content:
        kind = entry.get("type") if isinstance(entry, dict) else None
        if kind == "text" and isinstance(entry.get("text"), str):
            if takes_words:
                yield {"type": "text", "text": entry["text"]}
        elif kind in KINDS:
            yield {"type": KINDS[kind], KINDS[kind]: {"url": allowed.read(_address(kind, entry.get(kind)))}}
        else:
            raise ValueError(f"Got an entry of type {kind!r}, expected text, {', '.join(KINDS)}.")


def _address(kind: str, named: Any) -> str:
    """The address in an entry; OpenAI's sound in the request as one."""
    if kind == "input_audio" and isinstance(named, dict) and isinstance(named.get("data"), str):
        return f"data:audio/{named.get('format') or 'wav'};base64,{named['data']}"
    url = named.get("url") if isinstance(named, dict) else named
    if not isinstance(url, str) or kind == "input_audio":
        raise ValueError(f"Got an entry of type {kind!r} without its data, expected a url.")
    return url


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Refuses to go where an allowed host sends to."""

    def redirect_request(self, *args: Any) -> None:
        return None


_OPENER = urllib.request.build_opener(_NoRedirects, urllib.request.ProxyHandler({}))
