"""Media of clips in folders, found by their names: files, folders of images, and frames in the released layout."""

import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from lavcap.data.schema import DataError
from lavcap.preparation.annotations import stem_of
from lavcap.preparation.media import Media, MediaFile
from media_captioning import even_indices
from sources_captioning import AUDIO_SUFFIXES, IMAGE_SUFFIXES, MEDIA_SUFFIXES, MediaError, list_images


WINDOW_NAME = re.compile(r"(?P<base>.+)_(?P<start>\d+)_(?P<end>\d+)", re.DOTALL)  # milliseconds
FRAME_FOLDER = re.compile(r"frame_(\d+)")
SAME_START_SECONDS = 0.01


class MediaIndex:
    """Names of all media below some folders, read once.

    Args:
        folders: searched with all that is below them; links are followed.
    """

    def __init__(self, folders: Sequence[str | Path]):
        self.unlisted: list[str] = []  # folders that cannot be looked into, with the reason
        self._files: dict[str, list[str]] = {}  # paths by stem
        self._windows: dict[str, list[tuple[str, float, float]]] = {}  # stems with their windows, by what precedes
        self._image_folders: dict[str, str] = {}
        self._frame_sets: list[tuple[dict[str, str], list[tuple[str, frozenset[str]]]]] = []
        for folder in folders:
            if not os.path.isdir(folder):
                raise DataError(f"{folder}: no such folder; check the folders of media.")
            for path, files, images in self._walk(os.path.abspath(folder), set()):
                self._add(path, files, images)

    def find(self, clip: str | None, file: str | None, start: float | None, window: float, num_frames: int) -> Media:
        """Media of a clip.

        Args:
            clip, file: its id, and the file that its annotation names; one of them is there.
            start, window: of the clip in its video, in seconds.
            num_frames: of a longer sequence of images, as many are taken at even distances.
        """
        media = Media()
        stems = self._candidates(clip, file, start, window)
        for kind in ("audio", "video"):
            found = [
                MediaFile(path, named)
                for stem, named in stems
                for path in self._matching(stem, file)
                if (os.path.splitext(path)[1].lower() in AUDIO_SUFFIXES) == (kind == "audio")
            ]
            if found:
                setattr(media, kind, found[0])
                media.others += [(other.path, found[0].path) for other in found[1:]]
        media.frames = next(filter(None, (self._frames(stem, num_frames, media) for stem, _ in stems)), None)
        if media.frames:
            media.reason = None
        if not (media.audio or media.video) and media.reason is None and clip is not None:
            there = [stem for base in (clip, f"Y{clip}") for stem, _, _ in self._windows.get(base, [])]
            if there and start is not None and not media.frames:
                media.reason = f"only {', '.join(there[:3])}, which does not hold {start:g}-{start + window:g} s"
        return media

    def _candidates(
        self, clip: str | None, file: str | None, start: float | None, window: float
    ) -> list[tuple[str, tuple[float, float] | None]]:
        """Stems that media of a clip may have, the most exact first, each with the window that it gives."""
        exact, plain, wider = [], [], []
        for base in (clip, f"Y{clip}") if clip else ():
            plain.append((base, None))
            for stem, begin, end in self._windows.get(base, []):
                if start is None or abs(begin - start) < SAME_START_SECONDS:
                    exact.append((stem, (begin, end)))
                elif begin < start and start + window <= end + SAME_START_SECONDS:
                    wider.append((stem, (begin, end)))
        named = dict(exact + wider)
        stated = [(stem_of(file), named.get(stem_of(file)))] if file else []
        return list(dict.fromkeys(stated + exact + plain + wider))

    def _matching(self, stem: str, file: str | None) -> list[str]:
        """Files of a stem; those that end as the annotation says come first, or alone if it names a folder."""
        paths = self._files.get(stem, [])
        if not file or stem != stem_of(file):
            return paths
        ending = os.sep + file.replace("\\", "/").lstrip("./")
        stated = [path for path in paths if path.endswith(ending) or path == file]
        if stated and "/" in ending[1:]:
            kept = os.path.splitext(stated[0])[0]
            return stated + [path for path in paths if path not in stated and os.path.splitext(path)[0] == kept]
        return stated + [path for path in paths if path not in stated]

    def _frames(self, stem: str, num_frames: int, media: Media) -> list[str] | None:
        for first, folders in self._frame_sets:
            if stem in first:
                absent = [folder for folder, names in folders if first[stem] not in names]
                if not absent:
                    paths = [os.path.join(folder, first[stem]) for folder, _ in folders]
                    return _evenly(paths, num_frames)
                media.reason = f"{os.path.join(absent[0], first[stem])}: no such file"
        if stem in self._image_folders:
            try:
                return _evenly([str(path) for path in list_images(self._image_folders[stem])], num_frames)
            except MediaError as error:
                media.reason = str(error)
        return None

    def _walk(self, folder: str, above: set[tuple[int, int]]) -> Iterator[tuple[str, list[str], bool]]:
        """Folders with the names of their media files and whether they hold images."""
        try:
            status = os.stat(folder)
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError as error:
            self.unlisted.append(f"{folder}: cannot be listed ({error.strerror})")
            return
        identity = (status.st_dev, status.st_ino)
        if identity in above:  # a link to a folder that it is in
            return
        self.unlisted += [f"{entry.path!a}: its name is no UTF-8" for entry in entries if not _is_text(entry.name)]
        entries = [entry for entry in entries if not entry.name.startswith(".") and _is_text(entry.name)]
        folders = {entry.name for entry in entries if _is(entry.is_dir)}
        files = [entry.name for entry in entries if _is(entry.is_file)]
        suffixes = {name: os.path.splitext(name)[1].lower() for name in files}
        media = [sys.intern(name) for name, suffix in suffixes.items() if suffix in MEDIA_SUFFIXES]
        yield folder, media, not IMAGE_SUFFIXES.isdisjoint(suffixes.values())
        frames = sorted((name for name in folders if FRAME_FOLDER.fullmatch(name)), key=lambda name: int(name[6:]))
        if frames:
            self._add_frames([os.path.join(folder, name) for name in frames])
        for name in sorted(folders - set(frames)):
            yield from self._walk(os.path.join(folder, name), above | {identity})

    def _add(self, folder: str, files: list[str], images: bool):
        if images:
            self._image_folders.setdefault(os.path.basename(folder), folder)
        for name in files:
            stem, path = os.path.splitext(name)[0], os.path.join(folder, name)
            paths = self._files.setdefault(stem, [])
            if not any(os.path.samefile(path, known) for known in paths if os.path.exists(path)):
                paths.append(path)
            if len(paths) == 1 and (match := WINDOW_NAME.fullmatch(stem)):
                begin, end = int(match["start"]) / 1000, int(match["end"]) / 1000
                if begin < end:
                    self._windows.setdefault(match["base"], []).append((stem, begin, end))

    def _add_frames(self, folders: list[str]):
        listed = []
        for folder in folders:
            try:
                names = (sys.intern(name) for name in os.listdir(folder))
                suitable = (name for name in names if os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES)
                listed.append((folder, frozenset(suitable)))
            except OSError as error:
                self.unlisted.append(f"{folder}: cannot be listed ({error.strerror})")
        if listed:
            everything = frozenset().union(*(names for _, names in listed))
            self._frame_sets.append(({os.path.splitext(name)[0]: name for name in sorted(everything)}, listed))


def _is_text(name: str) -> bool:
    return not any("\udc80" <= character <= "\udcff" for character in name)


def _is(kind: Callable[[], bool]) -> bool:
    try:
        return kind()
    except OSError:  # a link that leads nowhere, or round in a circle
        return False


def _evenly(paths: list[str], count: int) -> list[str]:
    return [paths[index] for index in even_indices(len(paths), count)] if len(paths) > count else paths
