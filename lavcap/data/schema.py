"""Rows of a data set: their columns, where features are stored beside them, and what is raised of a set of no use."""

from collections.abc import Iterable
from pathlib import Path

from datasets import Audio, Features, Image, List, Value


STORED_FEATURES = "video_features"  # column of stored visual features, and the model input that they become
CLIP_COLUMNS = Features(
    {
        "id": Value("string"),  # unique in its split; for AudioCaps the YouTube id
        "youtube_id": Value("string"),
        "start_time": Value("float64"),  # seconds, of the clip in the video that it was taken from
        "duration": Value("float64"),  # seconds, of the clip
        "audio": Audio(decode=False),  # null without sound
        "frames": List(Image(decode=False)),  # evenly spaced, in order; null without picture
        "captions": List(Value("string")),
    }
)
SHARD_COLUMNS = Features(CLIP_COLUMNS | {STORED_FEATURES: List(List(Value("float32")))})  # (video_frames, hidden)
STREAM_COLUMNS = ("id", "youtube_id", "audio", "frames", "captions")  # without which shards are of no use
MEDIA_COLUMNS = {"audio": ("audio",), "video": ("frames", STORED_FEATURES)}  # that show a modality


class DataError(ValueError):
    """A data set cannot be used as it is. The message says which file, what was found and what to do.

    Args:
        message: one line.
        items: what it lists, each in a line of its own; `lines` holds all of them.
    """

    def __init__(self, message: str, items: Iterable[str] = ()):
        self.lines = [message, *(f"  {item}" for item in items)]
        super().__init__("\n".join(self.lines))

    @classmethod
    def joined(cls, errors: Iterable["DataError"]) -> "DataError":
        """One error that says what several say."""
        lines = [line for error in errors for line in error.lines]
        error = cls("\n".join(lines))
        error.lines = lines
        return error


def stored_features_of(data_dir: str | Path, split: str) -> Path:
    """Folder of a split's stored visual features."""
    return Path(data_dir) / "visual_feature" / split
