"""Model selection without the test split: whether clips that are to choose a checkpoint are clips of a test."""

import re
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

from lavcap.data import read_split
from lavcap.manifest import DataError


TEST_NAME = re.compile(r"(?<![a-z])test(?![a-z])", re.IGNORECASE)
FLAG = "--select_model_on_test_split"


@lru_cache(maxsize=1)
def audiocaps_test_ids() -> frozenset[str]:
    """YouTube ids of the 944 AudioCaps test clips that LAVCap and AVCap report on (AVCap's `dataset/test.json`)."""
    path = Path(__file__).with_name("audiocaps_test_ids.txt")
    return frozenset(path.read_text(encoding="utf-8").split())


def clips_of_a_test(ids: Iterable[str], data_dir: str | Path) -> list[str]:
    """Those clips that the data set's own test split holds too, or AudioCaps' test list."""
    try:
        own = read_split(data_dir, "test", stored_features=False)
        own_ids = {*own[0]["id"], *own[1]}
    except DataError:  # no test split here, or one that is of no use
        own_ids = set()
    return [name for name in dict.fromkeys(ids) if name in own_ids or name in audiocaps_test_ids()]


def check_selection(ids: Iterable[str], data_dir: str | Path, split: str, allowed: bool) -> bool:
    """Whether a validation split holds clips of a test, which is refused unless it is allowed.

    Args:
        ids: of the validation clips.
        split: its name; one that says "test" is taken at its word.
        allowed: by the flag `FLAG`.

    Raises:
        DataError: it does, and is not allowed.
    """
    ids = list(ids)
    found = ids if TEST_NAME.search(split) else clips_of_a_test(ids, data_dir)
    if found and not allowed:
        raise DataError(
            f"{data_dir}: {len(found)} of {len(ids)} clips of the validation split {split!r} are clips of a test "
            f"split ({', '.join(found[:3])}, …), expected others: a checkpoint chosen by its test score has none that "
            f"means anything. Name another --validation_split, or pass {FLAG} true, which marks all results."
        )
    return bool(found)
