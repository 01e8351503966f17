"""The steps of a run, each in a process of its own: a world is made; a model is trained, and what it gave is noted."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
import yaml
from tqdm.auto import tqdm

import train_hf
from lavcap.documents import read_json
from lavcap.evaluation.evaluation import Evaluation
from lavcap.evaluation.scoring import Scoring
from lavcap.experiments.disturbances import choose_disturbances
from lavcap.experiments.robustness import subject_of, summarise
from lavcap.files import replace_json, replace_text
from lavcap.toy.accuracy import accuracy_table
from lavcap.toy.dataset import read_truth, write_toy_world
from lavcap.toy.plan import alignments, event_mass
from lavcap.workers import end_with_parent


METRICS = ("cider_d", "bleu_4")
DISTURBED = ("other_video", "missing", "noise_20_db", "noise_5_db", "delay_0.5_s", "dropped_75")
MEASURED = {"scores", "intervals", "words", "plan", "disturbed", "train_seconds", "parameters"}  # see `measure_run`
TRAINED = "train_results.json"  # what `train_hf.py` writes when the model is there


def make_world(log: Path, folder: Path, options: dict[str, Any]):
    """Write a world, as of [`write_toy_world`]."""
    with _told(log):
        write_toy_world(folder, **options)


def train_and_measure(log: Path, recipe: dict[str, Any], settings: Path, result: Path):
    """Train by a recipe, unless its model is there, and write what that gave, see [`measure_run`].

    Args:
        settings: file for the recipe.
    """
    model = Path(recipe["output_dir"])
    torch.set_num_threads(recipe["cpu_threads"])  # also where the model is there: sums depend on it
    with _told(log):
        if not (model / TRAINED).exists():
            replace_text(settings, yaml.safe_dump(recipe, sort_keys=False))
            sys.argv = ["train_hf.py", str(settings)]
            train_hf.main()
        replace_json(result, measure_run(model, Path(recipe["data_dir"])))


def measure_run(model: Path, data: Path) -> dict[str, Any]:
    """Evaluate a trained model on the test clips of its world, with each modality that it takes, and disturbed.

    Args:
        model: folder that `train_hf.py` wrote.
        data: folder of a world that is told in order, free or typical.

    Returns:
        `scores` and `intervals` over clips by modality and metric; `words`: shares of right words by modality and
        novelty; `plan`: mass on the `own` and the `other` event, or nothing; `disturbed`: by disturbance `shares` of
        right words, and `whose`, as of [`lavcap.experiments.robustness.summarise`]; `train_seconds`, `parameters`.
    """
    evaluation = Evaluation(str(model), data, device="cpu")
    scores = evaluation.score(Scoring(METRICS))
    clips = read_truth(data, "test")
    plans = alignments(evaluation.model, evaluation.processor, evaluation.rows)
    trained = read_json(model / TRAINED, "train again")
    rows = scores.results["modalities"]
    subject = subject_of(
        str(model),
        evaluation.model,
        evaluation.processor,
        evaluation.provenance,
        evaluation.rows,
        evaluation.split,
        choose_disturbances(DISTURBED),
    )
    known = {modality: list(found) for modality, found in groupby(scores.predictions, lambda each: each.modality)}
    with tqdm(unit="clip") as progress:
        captions = subject.caption(evaluation.rows, evaluation.batch_size, 0, progress, known)
    return {
        "scores": {modality: row["metrics"] for modality, row in rows.items()},
        "intervals": {modality: row["intervals"] for modality, row in rows.items()},
        "words": accuracy_table(scores.predictions, clips),
        "plan": event_mass(plans, clips)._asdict() if plans else None,
        "disturbed": {name: _shares(row) for name, row in summarise(captions, clips, resamples=0).items()},
        "train_seconds": trained["train_runtime"],
        "parameters": trained["parameters"],
    }


def _shares(row: dict[str, Any]) -> dict[str, Any]:
    whose = {side: {"shares": each["shares"]} for side, each in row.get("whose", {}).items()}
    return {"shares": row["shares"], **({"whose": whose} if whose else {})}


@contextmanager
def _told(log: Path) -> Iterator[None]:
    """Have what this process says go to a file, and end it with the one that began it."""
    end_with_parent()
    with log.open("a") as file:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
            os.dup2(file.fileno(), stream.fileno())
    yield
