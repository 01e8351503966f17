# Copyright 2026 The LAVCap for Transformers authors. Licensed under the Apache License, Version 2.0.
"""Conversations about a clip: the clip that is in the messages."""

from collections.abc import Sequence
from typing import Any


# Types of entries that bring part of a clip: the argument of the call that takes it, and the keys that may hold it.
SOURCES = {
    "audio": ("audio", ("audio", "url", "path")),
    "video": ("videos", ("video", "url", "path")),
    "image": ("images", ("image", "url", "path")),
    "image_url": ("images", ("image_url",)),
}


def clips_of(messages: Sequence[dict[str, Any]], load_audio_from_video: bool = False) -> dict[str, Any]:
    """The clip of a conversation, as `audio`, `videos` and `images` of the call of a processor; empty without one.

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
    if load_audio_from_video:
        found["audio"] += found["videos"]
    clip = {"images": found["images"]} if found["images"] else {}
    for kind, argument in (("audio", "audio"), ("video", "videos")):
        if len(found[argument]) > 1:
            raise ValueError(
                f"Got a conversation with {len(found[argument])} {kind} entries, expected at most one: LAVCap takes "
                "one clip per conversation."
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
