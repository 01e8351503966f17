"""How robust captioners are: the right words of their captions of the generated world, undisturbed and disturbed."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from datasets import Dataset
from tqdm.auto import tqdm

from lavcap.arguments import listed
from lavcap.data.dataset import ClipDataset, read_media
from lavcap.data.manifest import take_rows
from lavcap.data.splits import check_media, read_split, shown_modalities
from lavcap.endings import printable
from lavcap.evaluation.evaluation import describe_model
from lavcap.evaluation.predict import predict
from lavcap.evaluation.predictions import Prediction
from lavcap.evaluation.results import library_versions
from lavcap.evaluation.significance import SEED, Statistics, bootstrap_intervals, compare_paired
from lavcap.experiments.disturbances import UNDISTURBED, Disturbance, choose_disturbances, draws_of, obstacle
from lavcap.experiments.robustness_table import format_robustness
from lavcap.models.families import check_model_name
from lavcap.models.loading import load_model
from lavcap.provenance import read_provenance
from lavcap.toy.accuracy import count_words, whose_words
from lavcap.toy.dataset import read_truth
from lavcap.toy.world import ToyClip
from modeling_captioning import CaptioningModel
from processing_captioning import CaptioningProcessor


class DisturbedClips(torch.utils.data.Dataset):
    """Clips as model features, disturbed before the processor makes these: `{"id", "captions", "features"}` per row.

    Every frame of a clip is there when it is disturbed; the processor takes its choice of them afterwards.

    Args:
        rows: from [`read_split`], without stored features.
        disturbance: one that changes clips.
        seed: of what is drawn for a clip.
    """

    def __init__(self, rows: Dataset, processor: CaptioningProcessor, disturbance: Disturbance, seed: int):
        self.rows, self.processor, self.disturbance, self.seed = rows, processor, disturbance, seed

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        row = self.rows[index]
        clip = read_media(row, self.processor, range(len(row["frames"] or ())))
        clip = self.disturbance.change(clip, draws_of(row["id"], self.seed))
        if clip.frames is not None:
            clip = replace(clip, frames=clip.frames[self.processor.choose_frames(len(clip.frames))])
        return {"id": row["id"], "captions": row["captions"], "features": self.processor.clip_features(clip)}


@dataclass(frozen=True)
class Subject:
    """A model that is measured.

    Attributes:
        modality: what it is given of an undisturbed clip.
        disturbances: those that apply, the undisturbed clips before them.
        skipped: why the others do not, by name.
    """

    name: str
    model: CaptioningModel
    processor: CaptioningProcessor
    provenance: dict[str, Any]
    modality: str
    disturbances: Sequence[Disturbance]
    skipped: Mapping[str, str]

    def caption(
        self,
        rows: Dataset,
        batch_size: int,
        seed: int,
        progress: tqdm,
        known: Mapping[str, Sequence[Prediction]] | None = None,
    ) -> dict[str, list[Prediction]]:
        """Captions by disturbance, in the order of the rows; their modality is the name of the disturbance.

        Args:
            known: by modality, captions of the clips as they are, which this model has made before; default: they are
                made.
        """
        if known is None:
            known = self._caption_unchanged(rows, batch_size, progress)
        captions = {}
        for each in self.disturbances:
            if each.change:
                clips = DisturbedClips(rows, self.processor, each, seed)
                made = self._predict(clips, each, batch_size, progress)
            else:
                made = known[each.modality or self.modality]
            found = {prediction.id: prediction for prediction in made}
            captions[each.name] = [replace(found[name], modality=each.name) for name in rows["id"]]
        return captions

    def _caption_unchanged(self, rows: Dataset, batch_size: int, progress: tqdm) -> dict[str, list[Prediction]]:
        clips = ClipDataset(rows, self.processor, cache=True).preload("Reading clips")
        unchanged = [each for each in self.disturbances if not each.change]
        return {each.modality or self.modality: self._predict(clips, each, batch_size, progress) for each in unchanged}

    def _predict(
        self, clips: torch.utils.data.Dataset, disturbance: Disturbance, batch_size: int, progress: tqdm
    ) -> list[Prediction]:
        progress.set_description(f"{printable(self.name)}, {disturbance.name}")
        given = disturbance.modality or self.modality
        return predict(self.model, self.processor, clips, given, batch_size, progress)


def subject_of(
    name: str,
    model: CaptioningModel,
    processor: CaptioningProcessor,
    provenance: dict[str, Any],
    rows: Dataset,
    split: str,
    chosen: Sequence[Disturbance],
) -> Subject:
    """A model that is loaded, with those of some disturbances that apply to it and to the clips of a split.

    Raises:
        ValueError: it takes nothing of the clips.
    """
    shown, taken = set.intersection(*shown_modalities(rows)), set(processor.modalities)
    if not shown & taken:
        raise ValueError(
            f"{name}: takes {' and '.join(processor.modalities)}, and the clips of {split} have nothing of it in "
            "common; name another --split."
        )
    frames = min(len(each or ()) for each in rows["frames"])
    obstacles = {each: obstacle(each, taken, shown, frames, len(rows)) for each in chosen}
    return Subject(
        name=name,
        model=model,
        processor=processor,
        provenance=provenance,
        modality="+".join(kind for kind in processor.modalities if kind in shown),
        disturbances=[UNDISTURBED, *(each for each, reason in obstacles.items() if reason is None)],
        skipped={each.name: reason for each, reason in obstacles.items() if reason is not None},
    )


class Measured(NamedTuple):
    """Content of `results.json` and `results.md`, and captions by the names of their files."""

    results: dict[str, Any]
    text: str
    captions: dict[str, list[Prediction]]


class Robustness:
    """Models and the clips of a generated world, read and checked.

    Args:
        models: folders of trained models, or names on the Hub.
        data_dir, split: of the clips.
        disturbances: names or kinds; default: all.
        batch_size: clips captioned at a time.
        max_clips: the first clips only; default: all.
        seed: of what is drawn for each clip.
        device: as of [`lavcap.models.loading.choose_device`].

    Raises:
        ValueError: no such models, no generated world, unknown disturbances, or a model that takes nothing of the
            clips.
    """

    def __init__(
        self,
        models: Sequence[str],
        data_dir: str | Path,
        split: str = "test",
        *,
        disturbances: Sequence[str] | None = None,
        batch_size: int = 32,
        max_clips: int | None = None,
        seed: int = 0,
        device: str | None = None,
    ):
        chosen = choose_disturbances(disturbances)
        if twice := sorted({name for name in models if models.count(name) > 1}):
            raise ValueError(f"--model: got {', '.join(twice)} more than once, expected different models.")
        for name in models:
            check_model_name(name)
        self.data_dir, self.split, self.batch_size, self.seed = str(data_dir), split, batch_size, seed
        self.truth = read_truth(data_dir, split)
        rows, missing = read_split(data_dir, split, stored_features=False)
        check_media(rows, missing, data_dir, split)
        if absent := [name for name in rows["id"] if name not in self.truth]:
            raise ValueError(
                f"{data_dir}: {split}_events.json lacks {len(absent)} clips of {split}.json: {listed(absent)}; write "
                "the world again."
            )
        self.expected = len(rows)
        self.rows = take_rows(rows, range(min(max_clips or len(rows), len(rows))))
        self.subjects = [
            subject_of(name, *load_model(name, device), read_provenance(name), self.rows, split, chosen)
            for name in models
        ]

    def measure(self, resamples: int = 1000) -> Measured:
        """Captions of every model under every disturbance, and the shares of right words in them.

        Args:
            resamples: sets of clips drawn for the intervals; 0: no intervals.
        """
        results: dict[str, Any] = {
            "data_dir": self.data_dir,
            "split": self.split,
            "world": self.truth[self.rows[0]["id"]].world,
            "expected": self.expected,
            "scored": len(self.rows),
            "scored_ids": list(self.rows["id"]),
            "batch_size": self.batch_size,
            "seed": self.seed,
            "bootstrap": {"resamples": resamples, "seed": SEED},
            "libraries": library_versions(),
            "disturbances": {each.name: each.does for subject in self.subjects for each in subject.disturbances},
            "models": [],
        }
        total = len(self.rows) * sum(len(subject.disturbances) for subject in self.subjects)
        files: dict[str, list[Prediction]] = {}
        with tqdm(total=total, unit="clip") as progress:
            for number, subject in enumerate(self.subjects, start=1):
                start, file = time.perf_counter(), f"predictions_{number}.jsonl"
                captions = subject.caption(self.rows, self.batch_size, self.seed, progress)
                seconds = {"captioning_seconds": round(time.perf_counter() - start, 1)}
                files[file] = [prediction for each in captions.values() for prediction in each]
                described = describe_model(subject.name, subject.model, subject.provenance, {})
                rows = summarise(captions, self.truth, resamples)
                skipped = dict(subject.skipped)
                results["models"].append(described | seconds | {"predictions": file, "rows": rows, "skipped": skipped})
        return Measured(results, format_robustness(results), files)


# ---------------------------------------------------------------------------------------------------------- shares


def summarise(
    captions: Mapping[str, Sequence[Prediction]], truth: Mapping[str, ToyClip], resamples: int
) -> dict[str, dict[str, Any]]:
    """Shares of right words by disturbance, with intervals, and their difference to those of undisturbed clips.

    Args:
        captions: of the same clips in the same order for each disturbance, those of undisturbed clips among them.

    Returns:
        By disturbance: `shares`, their `totals`, `intervals`; of all but the undisturbed `differences`, as of
        [`compare_paired`]; where the picture is that of another clip `whose`: the first three of the words of the clip
        that is `heard`, and of that which is `seen`. A share of nothing is left out.
    """
    counted = {
        name: _statistics(chosen, lambda prediction: count_words(prediction.caption, truth[prediction.id]))
        for name, chosen in captions.items()
    }
    rows = {}
    for name, chosen in captions.items():
        drawn = resamples if len(chosen) > 1 else 0
        rows[name] = _shares(counted[name], drawn)
        if name != UNDISTURBED.name:
            rows[name]["differences"] = compare_paired(counted[name], counted[UNDISTURBED.name], drawn)
        if all(prediction.video_of for prediction in chosen):
            rows[name]["whose"] = _whose(chosen, truth, drawn)
    return rows


def _whose(chosen: Sequence[Prediction], truth: Mapping[str, ToyClip], resamples: int) -> dict[str, Any]:
    """Shares of the words in which the clip that is heard and the one that is seen differ, by whose words they are."""

    def counts(side: int) -> Callable[[Prediction], dict[str, tuple[int, int]]]:
        return lambda prediction: {
            word: sides[side]
            for word, sides in whose_words(
                prediction.caption, truth[prediction.id], truth[prediction.video_of]
            ).items()
        }

    return {
        side: _shares(_statistics(chosen, counts(number)), resamples) for number, side in enumerate(("heard", "seen"))
    }


def _statistics(
    chosen: Sequence[Prediction], count: Callable[[Prediction], dict[str, tuple[int, int]]]
) -> dict[str, Statistics]:
    """What words add up over clips, by kind of word; without those of which there are none to say."""
    counts = [count(prediction) for prediction in chosen]
    columns = {name: list(zip(*(each[name] for each in counts), strict=True)) for name in counts[0]}
    return {name: Statistics.of_share(hits, totals) for name, (hits, totals) in columns.items() if any(totals)}


def _shares(statistics: Mapping[str, Statistics], resamples: int) -> dict[str, Any]:
    intervals = bootstrap_intervals(statistics, resamples) if resamples else {}
    return {
        "shares": {name: each.total() for name, each in statistics.items()},
        "totals": {name: int(each.parts[:, 1].sum()) for name, each in statistics.items()},
        "intervals": {name: list(interval) for name, interval in intervals.items()},
    }
