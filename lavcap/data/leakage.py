"""Model selection without the test split: whether clips that are to choose a checkpoint are clips of a test."""

import re
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from lavcap.data.manifest import DataError
from lavcap.data.splits import read_split


TEST_NAME = re.compile(r"(?<!la)(?<!con)(?<!fas)(?<!grea)test", re.IGNORECASE)
FLAG = "--select_model_on_test_split"
YOUTUBE_FILE = re.compile(r"Y?(?P<id>[\w-]{11})(_\d+_\d+)?(\.\w+)?")  # how AudioCaps' media are called


class Origin(NamedTuple):
    """A clip's id, and what tells it from clips of other splits: its YouTube id, else its id with its captions."""

    id: str
    key: str


def origins(rows: Iterable[dict[str, Any]]) -> list[Origin]:
    """Where clips come from; `rows` have `id`, `youtube_id` and `captions`."""
    return [Origin(row["id"], row["youtube_id"] or "\0".join((row["id"], *_captions(row)))) for row in rows]


@lru_cache(maxsize=1)
def audiocaps_test_ids() -> frozenset[str]:
    """YouTube ids of the 944 AudioCaps test clips that LAVCap and AVCap report on (AVCap's `dataset/test.json`)."""
    path = Path(__file__).with_name("audiocaps_test_ids.txt")
    return frozenset(path.read_text(encoding="utf-8").split())


def keys_of_tests(data_dirs: Iterable[str | Path]) -> frozenset[str]:
    """What the clips of all test splits of some folders are told by."""
    folders = set(map(str, data_dirs))
    return frozenset(key for folder in folders for split in _test_splits(folder) for key in _keys(folder, split))


def clips_of_a_test(clips: Iterable[Origin], known: frozenset[str]) -> list[str]:
    """Those clips, by id, that are among the `known` ones from [`keys_of_tests`], or on AudioCaps' test list."""
    return [clip.id for clip in dict.fromkeys(clips) if clip.key in known or _is_audiocaps_test(clip)]


def check_selection(clips: list[Origin], known: frozenset[str], split: str, allowed: bool) -> bool:
    """Whether a validation split holds clips of a test, which is refused unless it is allowed.

    Args:
        clips: of the validation split, from [`origins`].
        known: clips of test splits, from [`keys_of_tests`].
        split: its name; one that says "test" is taken at its word.
        allowed: by the flag `FLAG`.

    Raises:
        DataError: it does, and is not allowed.
    """
    found = [clip.id for clip in clips] if TEST_NAME.search(split) else clips_of_a_test(clips, known)
    if found and not allowed:
        raise DataError(
            f"{len(found)} of {len(clips)} clips of the validation split {split!r} are clips of a test split "
            f"({', '.join(found[:3])}, …), expected others: a checkpoint chosen by its test score has none that means "
            f"anything. Name another --validation_split, or pass {FLAG} true, which marks all results."
        )
    return bool(found)


def _captions(row: dict[str, Any]) -> list[str]:
    return sorted(caption for caption in row["captions"] or () if caption)


def _test_splits(data_dir: str) -> set[str]:
    folder = Path(data_dir)
    prepared = {path.stem.rsplit("-", 3)[0] for path in (folder / "data").glob("*-of-*.parquet")}
    layout = {path.stem for path in folder.glob("*.json") if not path.stem.endswith(("_coco", "_events"))}
    return {name for name in prepared | layout if TEST_NAME.search(name)}


def _keys(data_dir: str, split: str) -> set[str]:
    try:
        rows, missing = read_split(data_dir, split, stored_features=False)
    except DataError:  # some other file, or a split that is of no use
        return set()
    return {*missing, *(clip.key for clip in origins(rows))}


def _is_audiocaps_test(clip: Origin) -> bool:
    named = YOUTUBE_FILE.fullmatch(clip.id)
    return not audiocaps_test_ids().isdisjoint({clip.key, clip.id, named["id"] if named else clip.id})
