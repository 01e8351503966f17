"""Model selection without the test split: whether clips that are to choose a checkpoint are clips of a test."""

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path

from datasets import Dataset

from lavcap.data import read_split
from lavcap.manifest import DataError


TEST_NAME = re.compile(r"(?<![a-z])test(?![a-z])", re.IGNORECASE)
SOURCE = ["id", "youtube_id"]
FLAG = "--select_model_on_test_split"


@lru_cache(maxsize=1)
def audiocaps_test_ids() -> frozenset[str]:
    """YouTube ids of the 944 AudioCaps test clips that LAVCap and AVCap report on (AVCap's `dataset/test.json`)."""
    path = Path(__file__).with_name("audiocaps_test_ids.txt")
    return frozenset(path.read_text(encoding="utf-8").split())


def source_ids(rows: Dataset) -> list[str]:
    """What each row was taken from: its YouTube id, or its own where it has none."""
    return [source or own for own, source in zip(*(rows[name] for name in SOURCE), strict=True)]


def clips_of_a_test(sources: Iterable[str], data_dir: str | Path) -> list[str]:
    """Those clips that the data set's own test split holds too, or AudioCaps' test list."""
    try:
        rows, missing = read_split(data_dir, "test", stored_features=False)
        own = {*source_ids(rows), *missing}
    except DataError:  # no test split here, or one that is of no use
        own = set()
    return [name for name in dict.fromkeys(sources) if name in own or name in audiocaps_test_ids()]


def check_selection(sources: Sequence[str], data_dir: str | Path, split: str, allowed: bool) -> bool:
    """Whether a validation split holds clips of a test, which is refused unless it is allowed.

    Args:
        sources: of the validation clips, from [`source_ids`].
        split: its name; one that says "test" is taken at its word.
        allowed: by the flag `FLAG`.

    Raises:
        DataError: it does, and is not allowed.
    """
    found = list(sources) if TEST_NAME.search(split) else clips_of_a_test(sources, data_dir)
    if found and not allowed:
        raise DataError(
            f"{data_dir}: {len(found)} of {len(sources)} clips of the validation split {split!r} are clips of a test "
            f"split ({', '.join(found[:3])}, …), expected others: a checkpoint chosen by its test score has none that "
            f"means anything. Name another --validation_split, or pass {FLAG} true, which marks all results."
        )
    return bool(found)
