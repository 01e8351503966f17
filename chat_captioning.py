# Copyright 2026 The LAVCap for Transformers authors. Licensed under the Apache License, Version 2.0.
"""Conversations about a clip: the clip that is in the messages, and the template of their turns."""

import re
from collections.abc import Iterable, Sequence
from typing import Any


# Types of entries that bring part of a clip: the argument of the call that takes it, and the keys that may hold it.
SOURCES = {
    "audio": ("audio", ("audio", "url", "path")),
    "video": ("videos", ("video", "url", "path")),
    "image": ("images", ("image", "url", "path")),
    "image_url": ("images", ("image_url",)),
}

_CHAT_TEMPLATE = """\
{%- set media = ["audio", "video", "image"] -%}
{%- set seen = namespace(clip=false) -%}
SYSTEM{%- for message in messages -%}
{%- set words = namespace(text="", clip=false) -%}
{%- if message.content is string -%}
{%- set words.text = message.content -%}
{%- else -%}
{%- for entry in message.content -%}
{%- if entry.type == "text" -%}{%- set words.text = words.text + entry.text -%}{%- endif -%}
{%- if entry.type in media -%}{%- set words.clip = true -%}{%- endif -%}
{%- endfor -%}
{%- endif -%}
{%- if message.role == "user" -%}
{{- "USER: " -}}
{%- if words.clip and not seen.clip -%}
{%- set seen.clip = true -%}
{{- CLIP -}}
{{- words.text or instruction -}}
{%- else -%}
{{- words.text -}}
{%- endif -%}
{{- END -}}
{%- elif message.role == "assistant" -%}
{{- "ASSISTANT: " + words.text -}}
{%- if not loop.last or not continue_final_message -%}{{- ANSWERED -}}{%- endif -%}
{%- else -%}
{{- words.text + END -}}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- "ASSISTANT:" -}}{%- endif -%}
"""


def chat_template(clip: str, end: str, answered: str, system: str | None = None) -> str:
    """Jinja template of turns of `USER:` and `ASSISTANT:`. Whatever entries bring a clip, it stands in the first turn
    that has one, before what is asked.

    Args:
        clip: what stands for a clip; end: after a turn; answered: after an answer. Each is an expression of Jinja.
        system: what a conversation begins with that has no such message of its own.
    """
    begin = f'{{%- if messages[0].role != "system" -%}}{{{{- "{system}" -}}}}{{%- endif -%}}\n' if system else ""
    pieces = {"SYSTEM": begin, "CLIP": clip, "END": end, "ANSWERED": answered}
    return re.sub("|".join(pieces), lambda found: pieces[found[0]], _CHAT_TEMPLATE)


# What the library's method takes itself, whatever the template has.
OPTIONS = {
    *("tools", "documents", "add_generation_prompt", "continue_final_message", "return_assistant_tokens_mask"),
    "sanitize_control_tokens",
}


def check_options(options: Iterable[str], template: str | None):
    """Refuse options of a conversation that neither the library nor the template knows.

    Raises:
        TypeError: with their names.
    """
    known = OPTIONS | set(re.findall(r"\w+", template or ""))
    if unknown := sorted(set(options) - known):
        raise TypeError(
            f"Got {', '.join(unknown)} for a conversation, but neither the processor nor its template knows that: "
            "leave it out. The sound of video files is taken with load_audio_from_video=True."
        )


def clips_of(messages: Sequence[dict[str, Any]], load_audio_from_video: bool = False) -> dict[str, Any]:
    """The clip of a conversation, as `audio`, `videos` and `images` of the call of a processor, or as `media`, a film
    whose sound is wanted, too; empty without one.

    Raises:
        ValueError: an entry of unknown type, or that brings nothing; more than one sound or video: a conversation is
            about one clip.
    """
    found: dict[str, list] = {"audio": [], "videos": [], "images": []}
    for message in messages:
        content = message.get("content") or []
        for entry in () if isinstance(content, str) else content:
            if entry["type"] != "text":
                argument, source = _source(entry)
                found[argument].append(source)
    clip = {"images": found["images"]} if found["images"] else {}
    if load_audio_from_video and len(found["videos"]) == 1 and not found["audio"] and not clip:
        return {"media": found["videos"][0]}
    for kind, argument in (("audio", "audio"), ("video", "videos")):
        if len(found[argument]) > 1:
            raise ValueError(
                f"Got a conversation with {len(found[argument])} {kind} entries, expected at most one: it is "
                "about one clip."
            )
        if found[argument]:
            clip[argument] = found[argument][0]
    return clip


def _source(entry: dict[str, Any]) -> tuple[str, Any]:
    """Argument of the call that takes what an entry brings, and what it brings."""
    kind = entry["type"]
    if kind not in SOURCES:
        raise ValueError(f"Got an entry of type {kind!r}, expected one of 'text', {', '.join(map(repr, SOURCES))}.")
    argument, keys = SOURCES[kind]
    name = next((name for name in keys if entry.get(name) is not None), None)
    if name is None:
        raise ValueError(
            f"Got a {kind} entry with {', '.join(map(repr, entry.keys() - {'type'})) or 'nothing'}, expected one of "
            f"{', '.join(map(repr, keys))}: a path or what was decoded."
        )
    value = entry[name]
    if kind == "image_url":
        value = value["url"] if isinstance(value, dict) else value
    if entry.get("sampling_rate") is not None:
        value = {"array": value, "sampling_rate": entry["sampling_rate"]}
    return argument, value
