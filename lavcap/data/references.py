"""Reference captions of a split, in COCO's layout."""

import json
from pathlib import Path

from lavcap.data.manifest import DataError


def read_coco_references(path: Path) -> dict[str, list[str]]:
    """Captions by clip id from a file in COCO's layout; none if there is no such file."""
    if not path.exists():
        return {}
    try:
        references: dict[str, list[str]] = {}
        for annotation in json.loads(path.read_text(encoding="utf-8"))["annotations"]:
            if annotation["caption"].strip():
                references.setdefault(str(annotation["image_id"]), []).append(annotation["caption"])
        return references
    except (AttributeError, OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{path}: not in COCO's layout ({type(error).__name__}: {error}), expected an object with `annotations`, "
            "each with `image_id` and `caption`."
        ) from error
