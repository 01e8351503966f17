"""Stored visual features: the projected CLIP embedding of each frame, computed once for a frozen image encoder.

    <data_dir>/visual_feature/<split>/<stem>.npy        (video_frames, hidden); the stem is that of the clip's sound
    <data_dir>/visual_feature/<split>/features.json     which encoder, sampler and dtype they come from
    <data_dir>/visual_feature/<split>/failed.json       clips whose frames cannot be read, with the reason

The layout and the `.npy` files are those of the released LAVCap, whose features lack `features.json`.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import torch
from datasets import Dataset

from lavcap.data.manifest import in_memory, read_facts
from lavcap.data.schema import STORED_FEATURES, DataError, stored_features_of
from lavcap.documents import read_json
from lavcap.files import replace_json, whole_file
from parts_captioning import published_name
from sources_captioning import MediaError


if TYPE_CHECKING:
    from processing_captioning import CaptioningProcessor


ORIGIN_FILE = "features.json"
FAILED_FILE = "failed.json"


@dataclass(frozen=True)
class FeatureFacts:
    """Where stored features come from.

    Args:
        model: image encoder, as its authors published it.
        weights: digest of its weights, from [`weights_digest`].
        frame_sampler: how frames were chosen of a clip.
        num_frames: frames per clip.
        hidden_size: width of an embedding.
        dtype: in which the encoder ran; the files hold float32.
    """

    model: str
    weights: str
    frame_sampler: str
    num_frames: int
    hidden_size: int
    dtype: str


def feature_stem(row: dict[str, Any]) -> str:
    """Name of a row's feature file: that of its sound, or of its first frame, without the ending."""
    medium = row["audio"] or row["frames"][0]
    return Path(medium["path"]).stem


def add_stored_features(rows: Dataset, data_dir: str | Path, split: str) -> Dataset:
    """The rows with a column `video_features`, the path of the clip's file or null, if the split has stored features.

    Raises:
        DataError: some clips with frames have no file, as after an interruption.
    """
    folder = stored_features_of(data_dir, split)
    stored = {path.name for path in folder.glob("*.npy")} if folder.is_dir() else set()
    if not stored or not len(rows):
        return rows
    names = [f"{feature_stem(row)}.npy" for row in rows]
    seen = rows.data.column("frames").is_valid().to_pylist()
    absent = [name for name, has_frames in zip(names, seen, strict=True) if has_frames and name not in stored]
    if absent:
        raise DataError(
            f"{folder}: lacks the features of {len(absent)} of {sum(seen)} clips with frames ({absent[0]}, …); run "
            "scripts/extract_visual_features.py again, which does what is left, or move the folder away."
        )
    paths = [str(folder / name) if name in stored else None for name in names]
    return in_memory(rows.data.table.append_column(STORED_FEATURES, pa.array(paths, pa.string())))


def failed_features(data_dir: str | Path, split: str) -> dict[str, str]:
    """Clips whose frames could not be read when features were extracted, by id, with the reason."""
    path = stored_features_of(data_dir, split) / FAILED_FILE
    failed = read_json(path, "extract the features again", error=DataError) if path.is_file() else {}
    if not isinstance(failed, dict):
        raise DataError(f"{path}: holds a {type(failed).__name__}, expected an object; extract the features again.")
    return failed


def read_stored_features(
    stored: str | list[list[float]], num_frames: int | None = None, width: int | None = None
) -> torch.Tensor:
    """Features of a clip, `(video_frames, hidden)` float32, from their file or from a row that holds them.

    Args:
        num_frames: that there should be; default: any number.
        width: `hidden` that there should be; default: any.

    Raises:
        MediaError: no such file, not an array of numbers, or of another shape.
    """
    features = _read_array(stored) if isinstance(stored, str) else torch.tensor(stored, dtype=torch.float32)
    name = stored if isinstance(stored, str) else "stored features"
    if num_frames is not None and len(features) != num_frames:
        raise MediaError(f"{name}: of {len(features)} frames, expected {num_frames}; extract it again.")
    if width is not None and features.shape[1] != width:
        raise MediaError(f"{name}: {features.shape[1]} wide, expected {width} as the model's; extract it again.")
    return features


def weights_digest(encoder: torch.nn.Module) -> str:
    """Digest of an encoder's weights, rounded to bfloat16: the same for float32 and for bfloat16 ones."""
    digest = hashlib.blake2b(digest_size=16)
    for name, weight in sorted(encoder.state_dict().items()):
        if weight.is_floating_point():
            digest.update(name.encode())
            digest.update(weight.detach().to("cpu", torch.bfloat16).contiguous().view(torch.uint8).numpy())
    return digest.hexdigest()


def _read_array(stored: str) -> torch.Tensor:
    try:
        array = np.load(stored, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise MediaError(f"{stored}: not readable as an array ({error}); extract it again.") from error
    if array.ndim != 2 or array.dtype.kind != "f" or not np.isfinite(array).all():
        raise MediaError(
            f"{stored}: holds {array.dtype} of shape {array.shape}, expected finite floating-point numbers of shape "
            "(video_frames, hidden); extract it again."
        )
    return torch.from_numpy(array.astype(np.float32))


def feature_facts(data_dir: str | Path, split: str) -> FeatureFacts | None:
    """Where a split's features come from; `None` without features, and for released ones, which do not say."""
    path = stored_features_of(data_dir, split) / ORIGIN_FILE
    fields = read_facts(data_dir).get(split, {}).get("visual_features")  # of shards, which hold their features
    if fields is None and path.exists():
        fields = read_json(path, "extract the features again", error=DataError)
    try:
        return fields and FeatureFacts(**fields)
    except TypeError as error:
        raise DataError(f"{path}: does not say where the features come from ({error}); extract them again.") from error


def encoder_name(model) -> str | None:
    """What a model's image encoder is called: its published name, or the model's own if it was trained with it."""
    return model.config.vision_model_name or published_name(model)


def check_features_fit(
    model, processor: "CaptioningProcessor", data_dir: str | Path, split: str, example: str | list[list[float]] | None
):
    """Refuse stored features that are not those of a model's image encoder, or a model that has neither.

    Args:
        processor: of the model.
        example: the stored features of one clip; `None` if there are none.

    Raises:
        DataError: another encoder, sampler, number of frames or width, with both values.
        ValueError: neither stored features nor an encoder.
    """
    if example is None:
        check_sees(model, model.name_or_path)
        return
    facts = feature_facts(data_dir, split)
    # Where the split tells its sizes, one odd file is a broken clip: its own affair.
    sizes = (facts.num_frames, facts.hidden_size) if facts else read_stored_features(example).shape
    found = dict(zip(("num_frames", "hidden_size"), sizes, strict=True))
    expected = {"num_frames": processor.num_video_frames, "hidden_size": model.stored_feature_size}
    if facts is not None:
        found |= {"frame_sampler": facts.frame_sampler}
        expected |= {"frame_sampler": processor.frame_sampler}
        found["model"], expected["model"] = _encoders(facts, model)
    wrong = [name for name in expected if found[name] != expected[name]]
    if wrong:
        both = "; ".join(f"{name} {found[name]!r}, the model's is {expected[name]!r}" for name in wrong)
        raise DataError(
            f"{stored_features_of(data_dir, split)}: the stored features have {both}. Extract them again with --model "
            "of this model, or move the folder away to use the frames."
        )


def note_encoder(model, data_dir: str | Path, split: str, example: str | list[list[float]] | None):
    """Note in a model's configuration which encoder the features are of that were found to fit it."""
    facts = None if example is None else feature_facts(data_dir, split)
    if facts is not None:
        model.config.vision_model_name = facts.model


def check_sees(model, name_or_path: str | Path):
    """Refuse a model that takes stored features only, where media files are to be seen."""
    if not model.takes_media:
        raise ValueError(
            f"{name_or_path}: has no vision tower, so it takes stored video_features and cannot see media files; "
            "extract those of the data set by scripts/extract_visual_features.py, or assemble the model with vision."
        )


def _encoders(facts: FeatureFacts, model) -> tuple[str, str]:
    """What the encoders of features and model are known by: weights, named, or names alone if the model has none."""
    if model.feature_encoder is None:
        return _last_part(facts.model), _last_part(model.config.vision_model_name or facts.model)
    own = weights_digest(model.feature_encoder)
    name = facts.model if own == facts.weights else encoder_name(model) or "a fresh one"
    return f"{_last_part(facts.model)} ({facts.weights[:8]})", f"{_last_part(name)} ({own[:8]})"


def _last_part(name: str) -> str:
    """A folder and a Hub repository of one encoder differ in what stands before."""
    return name.rsplit("/", 1)[-1]


@torch.no_grad()
def extract_features(
    rows: Dataset,
    data_dir: str | Path,
    split: str,
    facts: FeatureFacts,
    encode: Callable[[torch.Tensor], torch.Tensor],
    read_pixels: Callable[[dict[str, Any]], torch.Tensor],
    batch_size: int = 16,
    threads: int = 2,
) -> Iterator[str | None]:
    """Store the features of every row with frames that has none yet.

    Args:
        data_dir, split: of the rows; the files go into [`stored_features_of`] them.
        encode: pixels `(batch, video_frames, 3, height, width)` to features `(batch, video_frames, hidden)`.
        read_pixels: pixels of a row, `(video_frames, 3, height, width)`; raises `MediaError`.
        batch_size: clips encoded at a time.
        threads: that read frames ahead of the encoder.

    Yields:
        For each row `None`, or why it has no features: its frames cannot be read.

    Raises:
        DataError: the folder holds features of another origin, or two rows would share a file.
    """
    folder = stored_features_of(data_dir, split)
    _claim(folder, feature_facts(data_dir, split), facts, rows)
    todo = []
    for row in rows:
        if row["frames"] is None or _is_done(folder / f"{feature_stem(row)}.npy", row):
            yield None
        else:
            todo.append(row)
    failed: dict[str, str] = {}
    with ThreadPoolExecutor(threads) as pool:
        batches = [todo[start : start + batch_size] for start in range(0, len(todo), batch_size)]
        ahead = [pool.submit(_read, row, read_pixels) for batch in batches[:2] for row in batch]
        for index, batch in enumerate(batches):
            if index + 2 < len(batches):
                ahead += [pool.submit(_read, row, read_pixels) for row in batches[index + 2]]
            results = [ahead.pop(0).result() for _ in batch]
            readable = [(row, found) for row, found in zip(batch, results, strict=True) if not isinstance(found, str)]
            if readable:
                features = encode(torch.stack([pixels for _, pixels in readable])).float().cpu().numpy()
                for (row, _), array in zip(readable, features, strict=True):
                    _save(folder / f"{feature_stem(row)}.npy", array)
            failed |= {row["id"]: found for row, found in zip(batch, results, strict=True) if isinstance(found, str)}
            yield from (failed.get(row["id"]) and f"{row['id']}: {failed[row['id']]}" for row in batch)
    if failed:
        replace_json(folder / FAILED_FILE, failed)
    else:
        (folder / FAILED_FILE).unlink(missing_ok=True)


def _is_done(path: Path, row: dict[str, Any]) -> bool:
    """Whether a row's features are there and younger than its frames."""
    if not path.exists():
        return False
    images = [Path(frame["path"]) for frame in row["frames"] if frame["bytes"] is None]
    changed = max((image.stat().st_mtime_ns for image in images if image.exists()), default=0)
    return path.stat().st_mtime_ns >= changed


def _claim(folder: Path, known: FeatureFacts | None, facts: FeatureFacts, rows: Dataset):
    """Make sure that all features of a folder have one origin, and that each row has a file of its own."""
    stems = Counter(feature_stem(row) for row in rows if row["frames"] is not None)
    if shared := [stem for stem, count in stems.items() if count > 1]:
        raise DataError(
            f"{len(shared)} names of media stand for several clips ({', '.join(shared[:20])}), expected one each, as "
            "features are stored under them; rename the files."
        )
    if known is None and any(folder.glob("*.npy")):
        raise DataError(
            f"{folder}: holds features without {ORIGIN_FILE}, as released; move them away, or use them as is."
        )
    if known is not None and known != facts:
        pairs = zip(asdict(known).items(), asdict(facts).values(), strict=True)
        changed = "; ".join(f"{name} {old!r}, now {new!r}" for (name, old), new in pairs if old != new)
        raise DataError(
            f"{folder}: holds features of another origin ({changed}); move them away, or ask for the same."
        )
    replace_json(folder / ORIGIN_FILE, asdict(facts))


def _read(row: dict[str, Any], read_pixels: Callable) -> torch.Tensor | str:
    try:
        return read_pixels(row)
    except MediaError as error:
        return str(error)


def _save(path: Path, array: np.ndarray):
    with whole_file(path) as partial, partial.open("wb") as file:
        np.save(file, array)
