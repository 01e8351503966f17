"""Runs of a study: the world is made, a model trained and evaluated, and what it gave noted; what is there is kept."""

import hashlib
import json
import multiprocessing
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple

import yaml
from filelock import FileLock, Timeout
from tqdm.auto import tqdm

from lavcap.documents import parse_yaml, read_json
from lavcap.endings import interrupts_left_to_this_process, printable
from lavcap.experiments import steps
from lavcap.experiments.studies import Study, Variant
from lavcap.files import replace_text


ROOT = Path(__file__).resolve().parents[2]
RESULT, SETTINGS, LOG = "run.json", "recipe.yaml", "log.txt"  # in the folder of a run
REASON = 200  # characters of it
RECORD = "results.json"  # of all runs, a line each: with a copy of it they go on in another folder
FOLDERS = ("data_dir", "tokenizer_name", "output_dir")  # of a recipe
TINY = {  # to see that it works
    "max_steps": 2,
    "max_new_tokens": 8,
    "num_beams": 1,
    "per_device_train_batch_size": 4,
    "lr_scheduler_type": "constant",
    "lr_scheduler_kwargs": None,
    "warmup_steps": 0,
}
TINY_WORLD = {"train_clips": 16, "validation_clips": 4, "test_clips": 4, "videos": 0}


@dataclass(frozen=True)
class Run:
    """One training."""

    variant: Variant
    world: str
    seed: int

    @property
    def name(self) -> str:
        return f"{self.world}/{self.variant.name}/seed_{self.seed}"


def runs_of(studies: Iterable[Study]) -> list[Run]:
    """Runs of studies, each once, seed by seed: what is there when they are stopped is balanced."""
    found = [
        Run(variant, world, seed)
        for study in studies
        for variant in study.variants
        for world in study.worlds
        for seed in study.seeds
    ]
    order = list(dict.fromkeys(run.seed for run in found))
    unique = {run.name: run for run in found}
    return sorted(unique.values(), key=lambda run: order.index(run.seed))


class Recorded(NamedTuple):
    """What a record says of runs.

    Attributes:
        known: what they gave, by name; of those that failed `failed`, which is why.
        outdated: names of those that were of another recipe, or of another version of this command.
    """

    known: dict[str, dict[str, Any]]
    outdated: list[str]


def known_results(output: Path, runs: Sequence[Run], tiny: bool = False) -> Recorded:
    """What runs gave that have ended.

    Raises:
        ValueError: the record cannot be read.
    """
    recorded, known, outdated = _read_record(output), {}, []
    for run in runs:
        if run.name not in recorded:
            continue
        if _is_known(recorded[run.name], recipe_digest(run, tiny)):
            known[run.name] = recorded[run.name]["gave"]
        else:
            outdated.append(run.name)
    return Recorded(known, outdated)


def carry_out(runs: Sequence[Run], output: Path, jobs: int, tiny: bool) -> Iterator[tuple[Run, dict[str, Any]]]:
    """Carry out the runs that have not ended, several at a time, each on one thread, with a bar.

    Yields:
        Each run with what it gave, also of one that failed: then `failed` is why.

    Raises:
        ValueError: another command works in the folder.
    """
    output.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(output / ".lock", timeout=0):
            yield from _carry_out(runs, output, jobs, tiny)
    except Timeout:
        raise ValueError(f"{output}: another command works there; wait for it, or name another folder.") from None


def _carry_out(runs: Sequence[Run], output: Path, jobs: int, tiny: bool) -> Iterator[tuple[Run, dict[str, Any]]]:
    known = known_results(output, runs, tiny).known
    left = [run for run in runs if "failed" in known.get(run.name, {"failed": "not run"})]
    for unfinished in (output / "worlds").glob(".*"):  # of a command that was killed
        shutil.rmtree(unfinished, ignore_errors=True)
    site = _Site(output, tiny, {(run.world, run.seed): Lock() for run in left})
    with ThreadPoolExecutor(jobs) as pool, tqdm(total=len(left), desc="Runs", unit="run", smoothing=0) as bar:
        futures = {pool.submit(site.carry_out, run): run for run in left}
        try:
            for future in as_completed(futures):
                bar.update()
                run, found = futures[future], future.result()
                record(run, found, output, tiny)
                yield run, found
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            site.close()
            raise


def recipe_of(run: Run, data: Path, model: Path, tiny: bool = False) -> dict[str, Any]:
    """The recipe of a run: what its variant changes, its seed and its folders; nothing is chosen by validation."""
    recipe = yaml.safe_load((ROOT / "configs" / f"{run.variant.recipe}.yaml").read_text(encoding="utf-8"))
    recipe["model_config"] = _merged(recipe["model_config"], run.variant.config)
    folders = dict(zip(FOLDERS, map(str, (data, data / "tokenizer", model)), strict=True))
    plain = {"eval_strategy": "no", "save_strategy": "no", "report_to": "none", "cpu_threads": 1, "seed": run.seed}
    return recipe | dict(run.variant.options) | folders | plain | (TINY if tiny else {})


def recipe_digest(run: Run, tiny: bool = False) -> str:
    """What two runs of the same recipe share, wherever their folders are."""
    return _digest(recipe_of(run, Path(), Path(), tiny))


def record(run: Run, found: Mapping[str, Any], output: Path, tiny: bool = False):
    """Note what a run gave beside what others did."""
    noted = _read_record(output) | {run.name: {"recipe": recipe_digest(run, tiny), "gave": found}}
    lines = [f"{json.dumps(name)}: {json.dumps(noted[name])}" for name in sorted(noted)]
    replace_text(output / RECORD, "{\n" + ",\n".join(lines) + "\n}\n")


# -------------------------------------------------------------------------------------------------------- internals


class _Site:
    """Where runs are carried out, several at a time, each in a process of one thread.

    Args:
        output: folder of all runs and worlds.
        tiny: few clips and steps.
        worlds: by world and seed, what is held while it is made.
    """

    def __init__(self, output: Path, tiny: bool, worlds: Mapping[tuple[str, int], Lock]):
        self.output, self.tiny, self.worlds = output, tiny, worlds
        # Processes are forked off one that has imported everything and has no thread: a run takes as long to import.
        self._processes = multiprocessing.get_context("forkserver")
        self._processes.set_forkserver_preload(["lavcap.experiments.steps"])
        self._begun: set[BaseProcess] = set()
        self._starting, self._closed = Lock(), False

    def carry_out(self, run: Run) -> dict[str, Any]:
        """What a run gave, or why it failed."""
        folder, data = self.output / run.name, self.output / "worlds" / f"{run.world}_{run.seed}"
        model, result = folder / "model", folder / RESULT
        folder.mkdir(parents=True, exist_ok=True)
        for left in (result, folder / LOG):  # what is there after this is of this run
            left.unlink(missing_ok=True)
        ended = 0
        with self.worlds[run.world, run.seed]:
            if not data.exists():
                size = TINY_WORLD if self.tiny else {}
                ended = self._do(steps.make_world, folder, data, {"world": run.world, "seed": run.seed, **size})
        if data.exists():
            if not (_is_of(run, folder / SETTINGS, self.tiny) and (model / steps.TRAINED).exists()):
                shutil.rmtree(model, ignore_errors=True)  # of a run that was stopped, or of another recipe
            recipe = recipe_of(run, data, model, self.tiny)
            ended = self._do(steps.train_and_measure, folder, recipe, folder / SETTINGS, result)
        if not result.exists():
            return {"failed": _reason(ended, folder / LOG, f"{run.name}/{LOG}")}
        return read_json(result, "run again")

    def close(self):
        """End what runs, and begin nothing any more."""
        with self._starting:
            self._closed = True
            for process in self._begun:
                process.kill()

    def _do(self, step: Callable[..., None], folder: Path, *args: Any) -> int:
        """Have a process take a step; its exit status, negative where a signal ended it."""
        process = self._processes.Process(target=step, args=(folder / LOG, *args))
        with self._starting:
            if self._closed:
                return 0
            with interrupts_left_to_this_process():
                process.start()
            self._begun.add(process)
        process.join()
        with self._starting:
            self._begun.discard(process)
        return process.exitcode


def _reason(ended: int, log: Path, named: str) -> str:
    """Why a run failed, by the signal that ended it or the last line of its log, and where to read more."""
    if ended < 0:
        return f"ended by signal {-ended}, which is 9 where memory runs out (see {named})"
    said = log.read_text(encoding="utf-8", errors="replace").split("\n") if log.exists() else []
    last = next((line.rpartition("\r")[2].strip() for line in reversed(said) if line.strip()), "")
    return f"{printable(last)[:REASON]} (see {named})"


def _is_known(recorded: Any, digest: str) -> bool:
    """Whether an entry of the record is of a recipe, and has all that is told of a run."""
    if not isinstance(recorded, dict) or recorded.get("recipe") != digest:
        return False
    gave = recorded.get("gave")
    return isinstance(gave, dict) and ("failed" in gave or gave.keys() >= steps.MEASURED)


def _is_of(run: Run, recipe: Path, tiny: bool) -> bool:
    """Whether a recipe is there and, but for its folders, is that of the run as it is now."""
    found = parse_yaml(recipe.read_text(encoding="utf-8")) if recipe.exists() else None
    return isinstance(found, dict) and _digest(found) == recipe_digest(run, tiny)


def _digest(recipe: Mapping[str, Any]) -> str:
    text = json.dumps({**recipe, **dict.fromkeys(FOLDERS)}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _read_record(output: Path) -> dict[str, Any]:
    file = output / RECORD
    advice = "repair or remove it: models that are there are measured again"
    found = read_json(file, advice) if file.exists() else {}
    if not isinstance(found, dict):
        raise ValueError(f"{file}: holds no object of runs; {advice}.")
    return found


def _merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of both; objects among them are merged, too."""
    deeper = {name: _merged(base[name], value) for name, value in changes.items() if isinstance(base.get(name), dict)}
    return {**base, **changes, **deeper}
