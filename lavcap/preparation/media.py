"""What there is of a clip: a file of its sound, a video, frames."""

from dataclasses import dataclass, field

from sources_captioning import StoredFile


@dataclass(frozen=True)
class MediaFile:
    """A file on disk or in memory, and the window in seconds that its name gives: `<id>_<start ms>_<end ms>`."""

    path: str | StoredFile
    named: tuple[float, float] | None = None


@dataclass
class Media:
    """What there is of a clip.

    Args:
        audio, video: files; sound comes from the video where there is no sound file.
        frames: paths of images, in order.
        others: files of the same clip that are not used, with the one that is.
        reason: why sound or picture are not there, where more can be said than that nothing was found.
    """

    audio: MediaFile | None = None
    video: MediaFile | None = None
    frames: list[str] | None = None
    others: list[tuple[str, str]] = field(default_factory=list)
    reason: str | None = None
