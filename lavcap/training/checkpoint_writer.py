"""How a run saves: checkpoints, the model and its figures appear when they are whole, or not at all.

A checkpoint is written into `_unfinished/` beside the others. When every process has written its part, the files are
flushed to the disk, `checkpoint.json` notes their sizes and checksums, and the folder gets its name
`checkpoint-<step>` in one rename. Older checkpoints are removed after that.
"""

import errno
import json
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import DistributedType
from transformers import TrainerState
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from transformers.utils import logging

from lavcap.files import (
    UNFINISHED,
    checksum,
    clear_unfinished,
    publish_folder,
    publish_model,
    replace_synced,
    share,
    sync_folder,
    write_synced,
)
from lavcap.provenance import NOTE
from lavcap.training.checkpoints import (
    MANIFEST,
    CheckpointError,
    check_checkpoint_is_intact,
    check_checkpoint_is_whole,
    is_usable,
    last_checkpoint,
    read_manifest,
    read_object,
    remove_old_checkpoints,
)
from lavcap.training.resume import changes, course_of, why_not_to_continue
from lavcap.training.run_totals import Totals, WholeRunTotals


logger = logging.get_logger(__name__)

# What torch, safetensors and tokenizers say instead of an OSError when a file cannot be written.
WRITE_ERRORS = re.compile(r"PytorchStreamWriter failed|unexpected pos \d+ vs|I/O error|IoError|os error \d+")
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class CompleteCheckpoints(WholeRunTotals):
    """Trainer whose folder holds whole checkpoints alone, whatever moment the run is killed at.

    Raises:
        CheckpointError: by `train`, a checkpoint of another engine, optimizer or set of trained tensors, or one that
            lacks files; by all that write, files that cannot be written, such as on a full disk. The last complete
            checkpoint is still there.
    """

    _unfinished: Path | None = None  # where a checkpoint is being written
    _course: dict[str, Any]  # that of the run, asked before it begins

    def train(self, resume_from_checkpoint: str | bool | None = None, *args, **kwargs):
        if resume_from_checkpoint is True:
            resume_from_checkpoint = last_checkpoint(self.args.output_dir)
            if resume_from_checkpoint is None:
                raise CheckpointError(f"{self.args.output_dir}: holds no complete checkpoint to continue from.")
        self._course = course_of(self)
        if resume_from_checkpoint:
            self._check_resumable(Path(resume_from_checkpoint))
        try:
            return super().train(str(resume_from_checkpoint) if resume_from_checkpoint else None, *args, **kwargs)
        except OSError as error:  # of notes, logs and curves
            if error.errno not in FULL:
                raise
            message = self._write_message(Path(self.args.output_dir), error.filename or "a file", error)
            raise CheckpointError(message) from error

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False):
        if self._unfinished is not None:
            super().save_model(output_dir, _internal_call=_internal_call)
            return
        folder = Path(output_dir or self.args.output_dir)
        partial = folder / UNFINISHED / "model"
        with self._reported(folder, "the model"):
            if self.args.should_save:
                folder.mkdir(parents=True, exist_ok=True)
                shutil.rmtree(partial, ignore_errors=True)
            self._wait_for_shards()
            super().save_model(str(partial), _internal_call=True)
            self._wait_for_shards()
            if self.args.should_save and partial.is_dir():
                share(partial)
                sync_folder(partial)
                publish_model(partial, folder)

    def save_state(self):
        if self.is_world_process_zero():
            text = json.dumps(asdict(self.state), indent=2, sort_keys=True) + "\n"
            self._write_text(TRAINER_STATE_NAME, text)

    def save_metrics(self, split: str, metrics: dict[str, float], combined: bool = True):
        if not self.is_world_process_zero():
            return
        self._write_text(f"{split}_results.json", json.dumps(metrics, indent=4, sort_keys=True))
        if combined:
            path = Path(self.args.output_dir) / "all_results.json"
            everything = (read_object(path) or {}) | metrics
            self._write_text(path.name, json.dumps(everything, indent=4, sort_keys=True))

    def _save_checkpoint(self, model, trial):
        run = Path(self._get_output_dir(trial))
        folder = run / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        partial = run / UNFINISHED / folder.name
        with self._reported(run, folder.name):
            if self.args.should_save:
                clear_unfinished(run)
            self.accelerator.wait_for_everyone()
            with self._written_to(partial.parent):
                super()._save_checkpoint(model, trial)
            self._note_best(partial, folder)
            totals = self.totals()
            self.accelerator.wait_for_everyone()
            if self.args.should_save:
                self._complete(partial, folder, totals)
            self.accelerator.wait_for_everyone()
        if self.args.push_to_hub:
            self._push_from_checkpoint(str(folder))
        if self.args.should_save:
            best = self.state.best_model_checkpoint
            remove_old_checkpoints(run, self.args.save_total_limit, {folder, Path(best or folder)})

    def _push_from_checkpoint(self, checkpoint_folder: str):
        if self._unfinished is None:
            super()._push_from_checkpoint(checkpoint_folder)

    def _get_output_dir(self, trial) -> str:
        return super()._get_output_dir(trial) if self._unfinished is None else str(self._unfinished)

    def _init_training_state(self, max_steps, updates_per_epoch, epochs, resume_from_checkpoint, trial):
        start = super()._init_training_state(max_steps, updates_per_epoch, epochs, resume_from_checkpoint, trial)
        self.earlier = Totals()
        if resume_from_checkpoint is not None:
            self._find_best(Path(resume_from_checkpoint), Path(self._get_output_dir(trial)))
            self.earlier = _totals_at(Path(resume_from_checkpoint))
        return start

    def _run_epoch(self, *args, **kwargs):
        # Killed between its last checkpoint and its end, a run must not take one step more.
        if self.state.global_step >= self.state.max_steps:
            self.control.should_training_stop = True
        else:
            super()._run_epoch(*args, **kwargs)

    # --------------------------------------------------------------------------------------------------- internals

    @contextmanager
    def _written_to(self, folder: Path) -> Iterator[None]:
        self._unfinished = folder
        try:
            yield
        finally:
            self._unfinished = None

    @contextmanager
    def _reported(self, run: Path, what: str) -> Iterator[None]:
        """Turn a failure to write into one line that says what to do; what is half-written is removed."""
        try:
            yield
        except Exception as error:
            if self.args.should_save:
                clear_unfinished(run)
            if not isinstance(error, OSError) and not WRITE_ERRORS.search(str(error)):
                raise
            raise CheckpointError(self._write_message(run, what, error)) from error

    def _write_message(self, run: Path, what: str, error: Exception) -> str:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        last = last_checkpoint(self.args.output_dir)
        kept = f"{last} is complete" if last else "no checkpoint is complete yet"
        needed = _size(last) if last else self._expected_size()
        return (
            f"{run}: {what} could not be written ({reason}); {_megabytes(_free_bytes(run))} are free there, a "
            f"checkpoint takes about {_megabytes(needed)}, and {kept}: make room and continue with "
            "--resume_from_checkpoint true."
        )

    def _expected_size(self) -> int:
        """Bytes of what is trained, or of the whole model, and of the optimizer's state."""
        adapted = hasattr(self.model, "peft_config")
        tensors = [tensor for tensor in self.model.parameters() if tensor.requires_grad or not adapted]
        states = getattr(self.optimizer, "state", None) or {}
        tensors += [value for state in states.values() for value in state.values() if torch.is_tensor(value)]
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)

    def _write_text(self, name: str, text: str):
        with self._reported(Path(self.args.output_dir), name):
            replace_synced(Path(self.args.output_dir) / name, text)

    def _wait_for_shards(self):
        # Where one process writes alone it may do so while the others are elsewhere.
        if self.is_deepspeed_enabled or self.is_fsdp_enabled:
            self.accelerator.wait_for_everyone()

    def _note_best(self, partial: Path, folder: Path):
        """Have the state name the best checkpoint as it will be called."""
        if self.state.best_global_step == self.state.global_step:
            self.state.best_model_checkpoint = str(folder)
            if self.args.should_save:
                self.state.save_to_json(str(partial / TRAINER_STATE_NAME))

    def _complete(self, partial: Path, folder: Path, totals: Totals):
        note = Path(self.args.output_dir) / NOTE
        if note.is_file():
            shutil.copyfile(note, partial / NOTE)
        share(partial)
        sizes = sync_folder(partial)
        manifest = {
            "step": self.state.global_step,
            "engine": self._engine(),
            "num_processes": self.args.world_size,
            "resumable": not self.args.save_only_model,
            "course": self._course,
            "totals": totals.as_json(),
            "files": sizes,
            "crc32": {name: checksum(partial / name) for name in sizes},
        }
        write_synced(partial / MANIFEST, json.dumps(manifest, indent=2, ensure_ascii=False) + "\n")
        publish_folder(partial, folder)
        clear_unfinished(folder.parent, only_empty=True)

    def _find_best(self, resumed: Path, run: Path):
        """Where the best checkpoint so far is: the run may have been moved, or the file may have been removed."""
        noted = TrainerState.load_from_json(str(resumed / TRAINER_STATE_NAME)).best_model_checkpoint
        if noted is None:
            return
        places = (resumed.parent / Path(noted).name, run / Path(noted).name, Path(noted))
        best = next((place for place in places if is_usable(place)), None)
        self.state.best_model_checkpoint = best and str(best)
        if best is None:
            self.state.best_metric = self.state.best_global_step = None
            logger.warning(f"{noted}: the best checkpoint so far is gone; the best is sought anew from here on.")

    def _engine(self) -> str:
        kind = self.accelerator.distributed_type
        if kind == DistributedType.DEEPSPEED:
            return f"DeepSpeed ZeRO-{self.accelerator.state.deepspeed_plugin.zero_stage}"
        return "FSDP" if kind == DistributedType.FSDP else "replicas"

    def _check_resumable(self, checkpoint: Path):
        """Refuse what this run cannot read; warn of what makes it another run."""
        check_checkpoint_is_whole(checkpoint)
        check_checkpoint_is_intact(checkpoint, self.args)
        manifest = read_manifest(checkpoint)
        if manifest is None:
            return
        engine, processes = self._engine(), self.args.world_size
        if engine != manifest["engine"] or (engine.startswith("DeepSpeed") and processes != manifest["num_processes"]):
            raise CheckpointError(
                f"{checkpoint}: was made by {manifest['num_processes']} processes ({manifest['engine']}), got "
                f"{processes} ({engine}); continue with the launch settings that it was made with."
            )
        earlier = manifest["course"] | {"processes": manifest["num_processes"]}
        current = self._course | {"processes": processes}
        if reason := why_not_to_continue(earlier, current):
            raise CheckpointError(
                f"{checkpoint}: cannot be continued from: {reason}; continue with the recipe that it was made with, "
                "or name it as model_name_or_path of a new run."
            )
        if changed := changes(earlier, current):
            logger.warning(
                f"{checkpoint}: was made with other settings ({'; '.join(changed)}): the run goes on, but does not "
                "end with the model of a run without an interruption."
            )


# -------------------------------------------------------------------------------------------------------- internals


def _totals_at(checkpoint: Path) -> Totals | None:
    totals = Totals.read((read_manifest(checkpoint) or {}).get("totals"))
    if totals is None:
        logger.warning(f"{checkpoint}: has no totals; train_loss and train_runtime will not be of the whole run.")
    return totals


def _size(folder: str | Path) -> int:
    return sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())


def _free_bytes(folder: Path) -> int:
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    return shutil.disk_usage(existing).free


def _megabytes(count: int) -> str:
    return f"{count / 1e6:,.1f} MB"
