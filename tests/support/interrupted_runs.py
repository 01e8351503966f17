"""Small runs of the trainer with everything drawn, in processes that are killed at a chosen moment.

The processes are forked from one that has imported everything and trained nothing: each takes a second.
"""

import hashlib
import io
import json
import multiprocessing
import os
import resource
import shutil
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr
from dataclasses import dataclass, field, replace
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

import peft.peft_model
import torch
import transformers.modeling_utils
from model_parts import LORA as SMALL_LORA
from stranger import import_path
from transformers import set_seed

import train_hf
from lavcap.data.augmentation import RELEASED_INSTRUCTIONS, Augmentation
from lavcap.data.collation import EvaluationCollator, TrainingCollator
from lavcap.data.dataset import ClipDataset
from lavcap.data.shards import find_shards
from lavcap.data.splits import load_split, one_row_per_caption
from lavcap.data.streaming import ClipStream
from lavcap.files import UNFINISHED
from lavcap.models.lora import add_lora
from lavcap.training.checkpoints import CheckpointError
from lavcap.training.resume import find_checkpoint
from lavcap.training.trainer import CaptioningTrainer, ProvenanceCallback
from modeling_lavcap import LavcapForConditionalGeneration
from processing_lavcap import LavcapProcessor
from train_hf import TrainingArguments


PROCESSES = multiprocessing.get_context("forkserver")
UNLIMITED = -1  # bytes of a file
CHANGES = {"open", "os.mkdir", "os.remove", "os.rename", "os.rmdir"}
FEATURES: dict[tuple[Path, str], dict] = {}  # of clips that this process has read: its runs have the same ones
LORA = SMALL_LORA | {"lora_dropout": 0.1}


@dataclass
class Run:
    """6 steps of 2 x 2 of 20 clips, 5 an epoch; checkpoints at steps 3 and 6, of which one is kept.

    Args:
        data: prepared data set, or shards when `streaming`.
        model: folder of a model with dropout.
    """

    data: Path
    model: Path
    output: Path
    streaming: bool = False
    lora: bool = False
    options: dict[str, Any] = field(default_factory=dict)

    def arguments(self) -> TrainingArguments:
        options = {"max_steps": 6, "save_steps": 3, "save_total_limit": 1, "logging_steps": 3, "seed": 5}
        options |= {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2, "learning_rate": 1e-2}
        options |= {"use_cpu": True, "report_to": "none", "disable_tqdm": True, "predict_with_generate": False}
        return TrainingArguments(output_dir=str(self.output), **options | self.options)

    def arguments_to_resume(self, checkpoint: str | Path) -> TrainingArguments:
        """As the command reads them."""
        args = self.arguments()
        args.resume_from_checkpoint = str(checkpoint)
        return args

    def trainer(self) -> CaptioningTrainer:
        torch.set_num_threads(1)  # as in the processes that are killed, whatever a test before has set
        args = self.arguments()
        set_seed(args.seed)
        model = LavcapForConditionalGeneration.from_pretrained(self.model)
        processor = LavcapProcessor.from_pretrained(self.model)
        if self.streaming:
            shards = find_shards(self.data, "train")
            clips = ClipStream(shards, processor, 2, 5, 8, args.process_index, args.world_size)
            validation = None
        else:
            rows = one_row_per_caption(load_split(self.data, "train")).select(range(20))
            clips = ClipDataset(rows, processor, cache=True, seed=5)
            validation = ClipDataset(load_split(self.data, "val"), processor, cache=True)
            for dataset, split in ((clips, "train"), (validation, "val")):
                dataset._cache = FEATURES.setdefault((self.data, split), {})
        return CaptioningTrainer(
            model=add_lora(model, LORA) if self.lora else model,
            args=args,
            data_collator=TrainingCollator(processor, Augmentation(16, 12, True, 0.2, 0.2, RELEASED_INSTRUCTIONS)),
            eval_data_collator=EvaluationCollator(processor),
            train_dataset=clips,
            eval_dataset=validation,
            processing_class=processor,
            callbacks=[ProvenanceCallback({"train_split": "train"})],
        )

    def finish(self, resume: bool = False) -> CaptioningTrainer:
        """Train, and save as the command does."""
        trainer = self.trainer()
        trainer.train(resume_from_checkpoint=resume)
        trainer.save_model()
        trainer.save_state()
        trainer.save_metrics("train", {"steps": trainer.state.global_step})
        return trainer


class Watch:
    """Calls back before each change of the output folder, and when a file of tensors is half-written there."""

    def __init__(self, folder: Path, on_change: Callable[[int, str], None]):
        self.folder, self.on_change, self.count = str(folder), on_change, 0
        sys.addaudithook(self._notice)
        for module, name in ((torch, "save"), (transformers.modeling_utils, "safe_save_file")):
            setattr(module, name, self._halved(getattr(module, name)))
        peft.peft_model.safe_save_file = transformers.modeling_utils.safe_save_file

    def _notice(self, event: str, details: tuple):
        is_reading = event == "open" and not set(str(details[1])) & set("wax+")
        if event in CHANGES and not is_reading and str(details[0]).startswith(self.folder):
            self._change(str(details[0]))

    def _halved(self, write: Callable) -> Callable:
        def written(content, file, *args, **kwargs):
            write(content, file, *args, **kwargs)
            whole = Path(file).read_bytes()
            os.truncate(file, len(whole) // 2)
            self._change(str(file))
            Path(file).write_bytes(whole)

        return written

    def _change(self, path: str):
        self.count += 1
        self.on_change(self.count, path)


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def die_at_half_a_file(run: Run, name: str):
    """Where a file of tensors in the output folder is half-written."""
    written = f"{run.output}/{UNFINISHED}/{name}"

    def die_at(count: int, path: str):
        if path == written and Path(path).exists() and Path(path).stat().st_size:
            die()

    Watch(run.output, die_at)
    run.finish()


def take_snapshots(run: Run, folder: Path):
    """Finish a run; before each change of its output folder, write down what is there: `restore` brings it back."""
    (folder / "contents").mkdir(parents=True)

    def keep(count: int, path: str):
        state = {}
        for found in sorted(run.output.rglob("*")):
            content = found.read_bytes() if found.is_file() else None
            name = None if content is None else hashlib.sha1(content).hexdigest()
            if name and not (folder / "contents" / name).exists():
                (folder / "contents" / name).write_bytes(content)
            state[str(found.relative_to(run.output))] = name
        (folder / f"{count:04}.json").write_text(json.dumps(state))

    Watch(run.output, keep)
    run.finish()


def states(folder: Path) -> list[dict[str, str | None]]:
    """Snapshots of a folder that differ, in order: the name of the content of each file, none of folders."""
    taken = [path.read_text() for path in sorted(folder.glob("*.json"))]
    return [json.loads(state) for state in dict.fromkeys(taken)]


def restore(folder: Path, state: dict[str, str | None], output: Path):
    """Make a folder what it was in a snapshot."""
    shutil.rmtree(output, ignore_errors=True)
    for name, content in state.items():
        if content is None:
            (output / name).mkdir(parents=True)
        else:
            output.mkdir(exist_ok=True)
            shutil.copyfile(folder / "contents" / content, output / name)


def die_in_step(run: Run, step: int):
    """After the second micro-batch of a step, from 1."""
    trainer, losses = run.trainer(), []
    train_on_batch = trainer.training_step

    def dying_step(*args, **kwargs):
        losses.append(train_on_batch(*args, **kwargs))
        if len(losses) == 2 * step:
            die()
        return losses[-1]

    trainer.training_step = dying_step
    trainer.train()


def fill_disk(run: Run, step: int, largest_file: int, answer: Path):
    """From a step on files of more than so many bytes cannot be written."""
    trainer = run.trainer()
    save = trainer._save_checkpoint

    def save_on_full_disk(*args):
        if trainer.state.global_step == step:
            limit_files(largest_file)
        save(*args)

    trainer._save_checkpoint = save_on_full_disk
    try:
        trainer.train()
    except CheckpointError as error:
        limit_files(resource.RLIM_INFINITY)
        answer.write_text(str(error))
        raise SystemExit(2) from error


def limit_files(largest: int):
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest, resource.RLIM_INFINITY))


def run_command(folder: Path, errors: Path, fatal: str, largest_file: int, *arguments: str):
    """`train_hf.py` with an output folder, killed before it writes a file of it, or on a disk that is full."""
    Watch(folder, lambda count, path: die() if path.endswith(fatal) else None)
    limit_files(largest_file)
    with redirect_stderr(io.StringIO()) as said:
        sys.argv = ["train_hf.py", *arguments, "--output_dir", str(folder)]
        try:
            train_hf.main()
        finally:
            limit_files(resource.RLIM_INFINITY)
            errors.write_text(said.getvalue())


def answer_checkpoint(run: Run, folders: Sequence[Path]):
    """Write down which checkpoint a process would continue from in the folder that is its own."""
    folder = folders[int(os.environ["RANK"])]
    found = find_checkpoint(replace(run, output=folder).arguments_to_resume("true"))
    (folder / "answer").write_text(Path(found).name)


def in_rank(rank: int, port: int, work: Callable, *arguments: Any):
    """Work as one of two processes of a run."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "ACCELERATE_USE_CPU": "true"}
    work(*arguments)


def die_writing_state(run: Run, rank: int, step: int):
    """The process of a rank dies where it would write the state of its random numbers at a step."""
    trainer = run.trainer()
    save = trainer._save_rng_state

    def dying_save(folder):
        if trainer.args.process_index == rank and trainer.state.global_step == step:
            die()
        save(folder)

    trainer._save_rng_state = dying_save
    trainer.train()


def finish(run: Run, resume: bool = False):
    run.finish(resume)


def start_server():
    """Start the process that others are forked from; it finds this module by the environment alone.

    A module that it cannot import is none that it complains of: each process would import all of them by itself.
    """
    PROCESSES.set_forkserver_preload(["interrupted_runs"])
    path = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = import_path()
    try:
        forkserver.ensure_running()
    finally:
        os.environ.pop("PYTHONPATH")
        os.environ |= {"PYTHONPATH": path} if path else {}


def start(work: Callable, *arguments: Any) -> multiprocessing.Process:
    start_server()
    process = PROCESSES.Process(target=work, args=arguments, daemon=True)
    process.start()
    return process


def exit_code(work: Callable, *arguments: Any) -> int:
    """Status of a process that did the work; -9 if it was killed."""
    process = start(work, *arguments)
    process.join(120)
    return process.exitcode
