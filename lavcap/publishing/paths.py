"""Names of the project's code in a repository; and paths of this machine, which are cut out of what is published."""

import os
import re
import sys
from pathlib import Path
from typing import Any

from lavcap.publishing.family_text import described_families


# From a slash that ends no word and is none of an address, to what can stand behind a path in a sentence.
PATH_IN_TEXT = re.compile(r"(?<![\w:/.~-])/(?:[^\s/'\"()\[\]{},;:]+/)+[^\s/'\"()\[\]{},;:]*")

CODE = ("*_captioning.py", *(f"*_{model_type}.py" for model_type in described_families()))


def without_paths(value: Any, name: str = "") -> Any:
    """The same with paths of this machine cut to their last part: the rest tells of a machine, and helps nobody.

    Args:
        name: under which the value stands: those of folders hold relative paths, too.
    """
    if isinstance(value, dict):
        return {key: without_paths(each, key) for key, each in value.items()}
    if isinstance(value, list):
        return [without_paths(each, name) for each in value]
    if not isinstance(value, str):
        return value
    if Path(value).is_absolute() or name.endswith("_dir"):
        return Path(value).name
    for root in (os.getcwd(), sys.prefix, str(Path.home())):  # may hold spaces, by which a sentence has no end of them
        value = value.replace(root, "/…") if len(root) > 1 else value
    return PATH_IN_TEXT.sub(lambda found: Path(found[0]).name, value)
