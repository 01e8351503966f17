"""Files of captions: predictions as JSON lines, references as these or in COCO's layout; faults are named at once."""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from lavcap.arguments import listed
from lavcap.data.references import as_id, as_text, coco_annotations, join_annotations, use_all
from lavcap.documents import parse_json, read_bytes, reason_of
from lavcap.evaluation.tokenization import tokenize_caption


Entry = TypeVar("Entry")


@dataclass(frozen=True)
class Prediction:
    """Caption of a clip, beside its references.

    Attributes:
        modality: what the caption was made from; empty where a file does not say.
        video_of: the clip whose frames were seen, if it is another one.
    """

    id: str
    modality: str
    caption: str
    references: list[str]
    video_of: str | None = None


def write_predictions(path: str | Path, predictions: Iterable[Prediction]):
    """One JSON object a line; a field without value is left out."""
    with open(path, "w", encoding="utf-8", newline="\n") as file:
        for prediction in predictions:
            fields = {name: value for name, value in asdict(prediction).items() if value not in (None, "")}
            # An empty caption is a caption.
            file.write(json.dumps(fields | {"caption": prediction.caption}, ensure_ascii=False) + "\n")


def read_predictions(path: str | Path, references: dict[str, list[str]] | None = None) -> list[Prediction]:
    """Predictions of a file with `id`, `caption` and `references` in each line, and perhaps `modality`.

    Args:
        references: by clip, from [`read_references`]: all clips that there may be. They serve a line that has no
            references of its own.

    Raises:
        ValueError: lines cannot be used, clips are unknown or occur twice; all of them are named.
    """
    predictions = _read_lines(path, lambda row: _prediction(row, references))
    if references is not None and (unknown := {p.id for p in predictions} - references.keys()):
        raise ValueError(
            f"{path}: {len(unknown)} clips are not among the references: {listed(sorted(unknown))}; remove their "
            "lines, or name the references that they belong to."
        )
    _check_once(path, predictions)
    bare = [prediction.id for prediction in predictions if not prediction.modality]
    if bare and len(bare) < len(predictions):
        raise ValueError(
            f"{path}: {len(bare)} of {len(predictions)} lines name no modality and the others do: {listed(bare)}; "
            "name it in all lines or in none."
        )
    return predictions


def read_references(path: str | Path) -> dict[str, list[str]]:
    """Captions by clip, from COCO's layout (`annotations` with `image_id` and `caption`) or from JSON lines.

    Raises:
        ValueError: something in the file cannot be used; all of it is named.
    """
    annotations = coco_annotations(_read_bytes(path))
    if not annotations:
        rows = _read_lines(path, lambda row: (as_id(row.get("id"), "id"), _captions(row.get("references"))))
        if twice := sorted(name for name, count in Counter(name for name, _ in rows).items() if count > 1):
            raise ValueError(
                f"{path}: {len(twice)} clips occur more than once: {listed(twice)}; keep one line of each."
            )
        return dict(rows)
    return join_annotations(path, annotations, _reference)


def check_references(source: str | Path, references: dict[str, list[str]]):
    """Refuse clips that no caption could be scored against, before any is made.

    Raises:
        ValueError: references are missing or have no words; all such clips are named.
    """
    faults = []
    for name, captions in references.items():
        try:
            _captions(list(captions))
        except ValueError as error:
            faults.append(f"{name} ({error})")
    if faults:
        raise ValueError(f"{source}: {len(faults)} clips cannot be scored: {listed(faults)}; mend their captions.")


def by_modality(predictions: Iterable[Prediction]) -> dict[str, list[Prediction]]:
    """Predictions of each modality, in the order of the file."""
    sets: dict[str, list[Prediction]] = {}
    for prediction in predictions:
        sets.setdefault(prediction.modality, []).append(prediction)
    return sets


# ----------------------------------------------------------------------------------------------------------- lines


def _read_lines(path: str | Path, use: Callable[[dict], Entry]) -> list[Entry]:
    """What `use` makes of the object in each line that is not blank."""
    # Some editors put a byte-order mark first. Lines end at line feeds alone: captions may hold U+2028.
    lines = _read_bytes(path).removeprefix(b"\xef\xbb\xbf").split(b"\n")
    numbered = [(number, line) for number, line in enumerate(lines, start=1) if line.strip()]
    if not numbered:
        raise ValueError(f"{path}: holds no lines, expected one JSON object per clip.")
    return use_all(path, "line", numbered, lambda line: use(_object(line)))


def _read_bytes(path: str | Path) -> bytes:
    try:
        return read_bytes(path)
    except OSError as error:
        raise OSError(f"{path}: {reason_of(error)}; name a file of captions.") from error


def _object(line: bytes) -> dict:
    try:
        row = parse_json(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8: {error.reason}") from None
    except ValueError as error:
        raise ValueError(f"not JSON: {error}") from None
    if not isinstance(row, dict):
        raise ValueError(f"a {type(row).__name__}, expected an object")
    return row


def _prediction(row: dict, references: dict[str, list[str]] | None) -> Prediction:
    name = as_id(row.get("id"), "id")
    if "caption" not in row:
        raise ValueError("no caption")
    modality = row.get("modality") or ""
    if not isinstance(modality, str):
        raise ValueError(f"modality is a {type(modality).__name__}, expected text")
    captions = row.get("references")
    if captions is None and references is not None:
        captions = references.get(name, ["unknown clip"])  # refused with all other unknown ones
    captions = _captions(captions)
    video_of = row.get("video_of")
    video_of = None if video_of is None else as_text(video_of, "video_of")
    return Prediction(name, modality, as_text(row["caption"], "caption"), captions, video_of)


def _captions(captions: Any) -> list[str]:
    if captions is None:
        raise ValueError("no references")
    if not isinstance(captions, list):
        raise ValueError(f"references are a {type(captions).__name__}, expected a list of texts")
    if not captions:
        raise ValueError("references are empty")
    return [_reference(caption) for caption in captions]


def _reference(caption: Any, name: str = "a reference") -> str:
    if not tokenize_caption(as_text(caption, name)):
        raise ValueError(f"{name} has no words: {caption!r}")
    return caption


def _check_once(path: str | Path, predictions: Sequence[Prediction]):
    seen: set[tuple[str, str]] = set()
    twice = []
    for prediction in predictions:
        key = (prediction.id, prediction.modality)
        if key in seen:
            twice.append(f"{prediction.id} ({prediction.modality})" if prediction.modality else prediction.id)
        seen.add(key)
    if twice:
        names = list(dict.fromkeys(twice))
        raise ValueError(f"{path}: {len(names)} clips occur more than once: {listed(names)}; keep one line of each.")
