"""What a card says of a family of models: one file of text per family, `families/<model_type>.yaml`."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml


FOLDER = Path(__file__).with_name("families")


@dataclass(frozen=True)
class Family:
    """Text of a family.

    Args:
        description: what a model of it does, in a sentence or two that end in a full stop.
        tags: of the card's metadata, beside those of every captioner.
        citation: BibTeX; none where there is no paper.
    """

    description: str
    tags: Sequence[str] = ("audio-captioning",)
    citation: str | None = None


def describe_family(model_type: str, name: str) -> Family:
    """Text of a family, and a plain one where it has no file; `name` is what messages call it."""
    file = FOLDER / f"{model_type}.yaml"
    if file.is_file():
        return Family(**yaml.safe_load(file.read_text(encoding="utf-8")))
    return Family(
        f"A captioner of type {name}: it takes a clip and writes one sentence about what can be heard.",
        (model_type, "audio-captioning"),
    )


def described_families() -> list[str]:
    """Model types of the families that have a file."""
    return sorted(file.stem for file in FOLDER.glob("*.yaml"))
