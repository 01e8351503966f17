"""Reference captions in COCO's layout: `{"annotations": [{"image_id", "caption"}, …]}`; every fault is named."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

from lavcap.arguments import listed
from lavcap.documents import parse_json


Entry = TypeVar("Entry")


def coco_annotations(content: bytes) -> list | None:
    """Annotations of the content of a file in COCO's layout; `None` if it has another one."""
    try:
        layout = parse_json(content)
    except ValueError:
        return None
    annotations = layout.get("annotations") if isinstance(layout, dict) else None
    return annotations if isinstance(annotations, list) else None


def join_annotations(
    path: str | Path, annotations: Iterable[Any], read_caption: Callable[[Any, str], str]
) -> dict[str, list[str]]:
    """Captions by clip id.

    Args:
        path: what messages call the annotations.
        read_caption: the caption of a value that is called by the text; raises a `ValueError` with the complaint.

    Raises:
        ValueError: annotations cannot be used; all of them are named.
    """

    def read(annotation: Any) -> tuple[str, str]:
        if not isinstance(annotation, dict):
            raise ValueError(f"a {type(annotation).__name__}, expected an object")
        return as_id(annotation.get("image_id"), "image_id"), read_caption(annotation.get("caption"), "a reference")

    references: dict[str, list[str]] = {}
    for name, caption in use_all(path, "annotation", enumerate(annotations), read):
        references.setdefault(name, []).append(caption)
    return references


def use_all(
    path: str | Path, kind: str, numbered: Iterable[tuple[int, Any]], use: Callable[[Any], Entry]
) -> list[Entry]:
    """What `use` makes of the entries of a file.

    Args:
        kind: of entry, for messages.
        use: raises a `ValueError` with the complaint about an entry.

    Raises:
        ValueError: entries cannot be used; all of them are named by kind and number.
    """
    used, faults, total = [], [], 0
    for number, entry in numbered:
        total += 1
        try:
            used.append(use(entry))
        except ValueError as error:
            faults.append(f"{kind} {number} ({error})")
    if faults:
        raise ValueError(f"{path}: {len(faults)} of {total} {kind}s cannot be used: {listed(faults)}; mend them.")
    return used


def as_text(value: Any, name: str) -> str:
    """A value of JSON that must be text; `name` is what the complaint calls it."""
    if not isinstance(value, str):
        raise ValueError(f"{name} is a {type(value).__name__}, expected text")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{name} holds half of a surrogate pair, which is no character") from None
    return value


def as_id(value: Any, name: str) -> str:
    """A value of JSON that must name a clip: text, or a whole number."""
    if value is None or (isinstance(value, str) and not value.strip()):
        raise ValueError(f"no {name}")
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return as_text(value, name)
