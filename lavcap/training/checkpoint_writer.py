"""How a run saves: checkpoints, the model and its figures appear when they are whole, or not at all.

A checkpoint is written into `_unfinished/` beside the others. When every process has written its part, the files are
flushed to the disk, `checkpoint.json` notes their sizes and checksums, and the folder gets its name
`checkpoint-<step>` in one rename. Older checkpoints are removed after that.
"""

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import Trainer, TrainerCallback
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from lavcap.documents import read_object
from lavcap.files import (
    FULL,
    UNFINISHED,
    WRITE_ERRORS,
    checksum,
    clear_unfinished,
    publish_folder,
    publish_model,
    replace_synced,
    share,
    sync_folder,
)
from lavcap.models.lora import complete_adapter
from lavcap.provenance import PROVENANCE_FILE
from lavcap.training.checkpoints import RECORD, CheckpointError, last_checkpoint, remove_old_checkpoints
from lavcap.training.distributed import engine_name
from lavcap.training.resume import run_settings
from lavcap.training.run_totals import RunTotals, Totals


class CheckpointWriter(TrainerCallback):
    """Writes what a trainer saves, so that its folder holds whole checkpoints alone, whenever the run is killed.

    All that writes raises a `CheckpointError` where files cannot be written, such as on a full disk. The last complete
    checkpoint is still there.

    Args:
        trainer: whose model and state are saved.
        totals: of its run.

    Attributes:
        unfinished: where a checkpoint is being written.
        settings: of the run, see [`run_settings`].
    """

    def __init__(self, trainer: Trainer, totals: RunTotals):
        self.trainer = trainer
        self.totals = totals
        self.unfinished: Path | None = None
        self.settings: dict[str, Any] = {}

    def begin(self) -> dict[str, Any]:
        """Ask for the settings of a run that begins, before an engine takes its model over."""
        self.settings = run_settings(self.trainer)
        return self.settings

    def on_train_begin(self, args, state, control, **kwargs):
        if args.should_save:  # of an earlier process of this run
            clear_unfinished(Path(args.output_dir))

    @contextmanager
    def full_disk_is_told(self) -> Iterator[None]:
        """Turn it into one line that notes, logs or curves find no room on the disk."""
        try:
            yield
        except OSError as error:
            if error.errno not in FULL:
                raise
            message = self._write_message(Path(self.trainer.args.output_dir), error.filename or "a file", error)
            raise CheckpointError(message) from error

    def save(self, write: Callable[[], None], run: Path):
        """Write a checkpoint of the current step.

        Args:
            write: writes it into a folder of its name below `unfinished`.
            run: folder of the checkpoints.
        """
        trainer, args = self.trainer, self.trainer.args
        folder = run / f"{PREFIX_CHECKPOINT_DIR}-{trainer.state.global_step}"
        partial = run / UNFINISHED / folder.name
        with self._reported(run, folder.name):
            if args.should_save:
                clear_unfinished(run)
            trainer.accelerator.wait_for_everyone()
            with self._written_to(partial.parent):
                write()
            self._note_best(partial, folder)
            totals = self.totals.now()
            trainer.accelerator.wait_for_everyone()
            if args.should_save:
                self._complete(partial, folder, totals)
            trainer.accelerator.wait_for_everyone()
        if args.should_save:
            best = trainer.state.best_model_checkpoint
            remove_old_checkpoints(run, args.save_total_limit, {folder, Path(best or folder)})

    def save_model(self, write: Callable[[str], None], output_dir: str | None):
        """Write the model into a folder: that of a checkpoint being written, or one that may hold an earlier model.

        Args:
            write: writes model and processor into a folder.
            output_dir: where they shall be; default: the output folder.
        """
        if self.unfinished is not None:
            self._write_model(write, output_dir)
            return
        folder = Path(output_dir or self.trainer.args.output_dir)
        partial, should_save = folder / UNFINISHED / "model", self.trainer.args.should_save
        with self._reported(folder, "the model"):
            if should_save:
                folder.mkdir(parents=True, exist_ok=True)
                shutil.rmtree(partial, ignore_errors=True)
            self._wait_for_shards()
            self._write_model(write, str(partial))
            self._wait_for_shards()
            if should_save and partial.is_dir():
                share(partial)
                sync_folder(partial)
                publish_model(partial, folder)

    def save_state(self):
        """Write the state of the trainer."""
        if self.trainer.is_world_process_zero():
            text = json.dumps(asdict(self.trainer.state), indent=2, sort_keys=True) + "\n"
            self._write_text(TRAINER_STATE_NAME, text)

    def save_metrics(self, split: str, metrics: dict[str, float], combined: bool):
        """Write figures of a split, and into `all_results.json` if they are `combined` with others."""
        if not self.trainer.is_world_process_zero():
            return
        self._write_text(f"{split}_results.json", json.dumps(metrics, indent=4, sort_keys=True))
        if combined:
            path = Path(self.trainer.args.output_dir) / "all_results.json"
            everything = (read_object(path) or {}) | metrics
            self._write_text(path.name, json.dumps(everything, indent=4, sort_keys=True))

    # --------------------------------------------------------------------------------------------------- internals

    def _write_model(self, write: Callable[[str], None], folder: str):
        write(folder)
        model = self.trainer.accelerator.unwrap_model(self.trainer.model, keep_torch_compile=False)
        if self.trainer.args.should_save and isinstance(model, PeftModel):
            complete_adapter(model, folder)

    @contextmanager
    def _written_to(self, folder: Path) -> Iterator[None]:
        self.unfinished = folder
        try:
            yield
        finally:
            self.unfinished = None

    @contextmanager
    def _reported(self, run: Path, what: str) -> Iterator[None]:
        """Turn a failure to write into one line that says what to do; what is half-written is removed."""
        try:
            yield
        except Exception as error:
            if self.trainer.args.should_save:
                clear_unfinished(run)
            if not isinstance(error, OSError) and not WRITE_ERRORS.search(str(error)):
                raise
            raise CheckpointError(self._write_message(run, what, error)) from error

    def _write_message(self, run: Path, what: str, error: Exception) -> str:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        last = last_checkpoint(self.trainer.args.output_dir)
        kept = f"{last} is complete" if last else "no checkpoint is complete yet"
        needed = _size(last) if last else self._expected_size()
        return (
            f"{run}: {what} could not be written ({reason}); {_megabytes(_free_bytes(run))} are free there, a "
            f"checkpoint takes about {_megabytes(needed)}, and {kept}: make room and continue with "
            "--resume_from_checkpoint true."
        )

    def _expected_size(self) -> int:
        """Bytes of what is trained, or of the whole model, and of the optimizer's state."""
        adapted = hasattr(self.trainer.model, "peft_config")
        tensors = [tensor for tensor in self.trainer.model.parameters() if tensor.requires_grad or not adapted]
        states = getattr(self.trainer.optimizer, "state", None) or {}
        tensors += [value for state in states.values() for value in state.values() if torch.is_tensor(value)]
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)

    def _write_text(self, name: str, text: str):
        run = Path(self.trainer.args.output_dir)
        with self._reported(run, name):
            replace_synced(run / name, text)

    def _wait_for_shards(self):
        # Where one process writes alone it may do so while the others are elsewhere.
        if self.trainer.is_deepspeed_enabled or self.trainer.is_fsdp_enabled:
            self.trainer.accelerator.wait_for_everyone()

    def _note_best(self, partial: Path, folder: Path):
        """Have the state name the best checkpoint as it will be called."""
        state = self.trainer.state
        if state.best_global_step == state.global_step:
            state.best_model_checkpoint = str(folder)
            if self.trainer.args.should_save:
                state.save_to_json(str(partial / TRAINER_STATE_NAME))

    def _complete(self, partial: Path, folder: Path, totals: Totals):
        provenance = Path(self.trainer.args.output_dir) / PROVENANCE_FILE
        if provenance.is_file():
            shutil.copyfile(provenance, partial / PROVENANCE_FILE)
        share(partial)
        sizes = sync_folder(partial)
        record = {
            "step": self.trainer.state.global_step,
            "engine": engine_name(self.trainer.accelerator),
            "num_processes": self.trainer.args.world_size,
            "resumable": not self.trainer.args.save_only_model,
            "course": self.settings,
            "totals": totals.as_json(),
            "files": sizes,
            "crc32": {name: checksum(partial / name) for name in sizes},
        }
        replace_synced(partial / RECORD, json.dumps(record, indent=2, ensure_ascii=False) + "\n")
        publish_folder(partial, folder)
        clear_unfinished(folder.parent, only_empty=True)


# -------------------------------------------------------------------------------------------------------- internals


def _size(folder: str | Path) -> int:
    return sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())


def _free_bytes(folder: Path) -> int:
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    return shutil.disk_usage(existing).free


def _megabytes(count: int) -> str:
    return f"{count / 1e6:,.1f} MB"
