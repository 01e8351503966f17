"""Uploads of a run as `scripts/push_to_hub.py` makes them: the same files, the same card, one commit."""

from pathlib import Path

from peft import PeftModel
from torch import nn
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, HubStrategy
from transformers.utils import logging

from lavcap.publishing.files import Publication, check_language_model, collect_files, public_base
from lavcap.publishing.upload import Uploaded, UploadError, check_repo_id, open_repository, upload


logger = logging.get_logger(__name__)

STRATEGIES = (HubStrategy.END, HubStrategy.EVERY_SAVE)


def check_hub_options(args: TrainingArguments):
    """Refuse options of the Hub that cannot be done, before any work.

    Raises:
        ValueError: no name, one that the Hub does not take, or a strategy that uploads optimiser states.
    """
    if not args.push_to_hub:
        return
    if args.hub_model_id is None:
        raise ValueError("Got push_to_hub without hub_model_id, expected owner/name: where shall the model go?")
    check_repo_id(args.hub_model_id)
    if args.hub_strategy not in STRATEGIES:
        raise ValueError(
            f"hub_strategy is {args.hub_strategy.value!r}, expected 'end' or 'every_save': optimiser states are not "
            "uploaded, a run continues from its own folder."
        )


def open_hub(args: TrainingArguments, model: nn.Module):
    """Make the repository of a run that shall be uploaded, once for all processes.

    Args:
        model: that will be trained; with its LoRA, if it has one.

    Raises:
        ValueError: the upload would hold all weights of somebody else's language model, or an adapter without a base
            that others find.
        UploadError: no access to the repository, or no connection.
    """
    if not args.push_to_hub or args.process_index:
        return
    publication = Publication(args.hub_model_id)
    if isinstance(model, PeftModel):
        base = model.active_peft_config.base_model_name_or_path
        public_base(base, model.get_base_model().config, publication)
    else:
        check_language_model(model.config, publication)
    open_repository(args.hub_model_id, args.hub_token, args.hub_private_repo)


class Publisher(TrainerCallback):
    """Uploads of a trainer, which load as models of their own.

    The output folder is uploaded once; with the strategy `every_save` each checkpoint is uploaded too, and the run
    waits for it; one that fails is a warning.
    """

    def __init__(self, trainer: Trainer):
        self.trainer = trainer
        self.args = trainer.args

    def push(self, commit_message: str, **options) -> Uploaded | None:
        """Upload the output folder, which holds the saved model; on other processes than the first, nothing.

        Args:
            options: `token`, `revision` and `private` in place of the training arguments.

        Raises:
            UploadError: the Hub did not take it. The folder is kept, and the message says how to upload it later.
        """
        if not self.trainer.is_world_process_zero():
            return None
        self._tell_callbacks()
        try:
            return self._upload(Path(self.args.output_dir), commit_message, **options)
        except (ValueError, OSError) as error:
            raise UploadError(
                f"{error} The trained model is kept in {self.args.output_dir}; upload it by: python "
                f"scripts/push_to_hub.py {self.args.output_dir} {self.args.hub_model_id}"
            ) from error

    def push_checkpoint(self, folder: Path):
        """Upload a checkpoint, if each one shall be; on other processes than the first, nothing."""
        if not self.trainer.is_world_process_zero() or self.args.hub_strategy == HubStrategy.END:
            return
        step = self.trainer.state.global_step
        self._tell_callbacks()
        try:
            self._upload(folder, f"Training in progress, step {step}")
        except (ValueError, OSError) as error:
            logger.warning(f"Step {step} was not uploaded, training goes on: {error}")

    def on_save(self, args, state, control, **kwargs):
        if args.push_to_hub:
            self.push_checkpoint(Path(args.output_dir) / f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}")

    def _tell_callbacks(self):
        trainer = self.trainer
        trainer.callback_handler.on_push_begin(self.args, trainer.state, trainer.control)

    def _upload(
        self,
        folder: Path,
        message: str,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
    ) -> Uploaded:
        revision = revision or self.args.hub_revision
        files = collect_files(folder, Publication(self.args.hub_model_id, revision))
        done = upload(
            files,
            self.args.hub_model_id,
            message=message,
            token=token or self.args.hub_token,
            private=self.args.hub_private_repo if private is None else private,
            revision=revision,
        )
        if done.kept_card:
            logger.warning(
                f"The README.md of {self.args.hub_model_id} was not written by this program, or was edited: it stays, "
                "and may describe an earlier model; scripts/push_to_hub.py --overwrite_card replaces it."
            )
        return done
