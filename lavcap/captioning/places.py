"""Where the captions of each clip are written: beside it, or in a tree like that of the clips."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from lavcap.captioning.media_list import Medium


def places_of(media: Sequence[Medium], output_dir: Path | None) -> dict[str, Path]:
    """By the name of each clip the path of its captions, without an ending.

    It is the clip's path without the ending of its file. Where two would have one, each keeps its ending; where they
    still would, as clips of one name in different folders, the names of these come before.

    Args:
        output_dir: folder of a tree like that of the clips; `None`: beside each clip.

    Raises:
        ValueError: a clip that is no file has nothing beside it.
    """
    if output_dir is None:
        for medium in media:
            if not isinstance(medium.source, Path):
                raise ValueError(f"{medium}: is no file, so that nothing can be written beside it; pass --output_dir.")
        wanted = {str(medium): PurePosixPath(medium.source.as_posix()) for medium in media}
    else:
        wanted = {str(medium): medium.place for medium in media}
        for depth in range(1, 64):
            doubled = _doubled(wanted)
            if not doubled:
                break
            for medium in media:
                if wanted[str(medium)] in doubled and isinstance(medium.source, Path):
                    wanted[str(medium)] = PurePosixPath(*medium.source.absolute().parts[-1 - depth :])
    stems = {name: _stem(place) for name, place in wanted.items()}
    doubled = _doubled(stems)
    places = {name: wanted[name] if stem in doubled else stem for name, stem in stems.items()}
    return {name: Path(output_dir or "") / place for name, place in places.items()}


def _stem(place: PurePosixPath) -> PurePosixPath:
    return place.with_suffix("") if place.suffix else place


def _doubled(places: dict[str, PurePosixPath]) -> set[PurePosixPath]:
    counts = Counter(places.values())
    return {place for place, count in counts.items() if count > 1}
