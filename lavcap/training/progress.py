"""What the console shows of a training: a bar, and a line for each log that a person can read."""

from transformers import ProgressCallback


# What is logged, what it is called in a line, and how it is written.
TRAINING = {
    "loss": "loss {:.4f}",
    "caption_loss": "caption {:.4f}",
    "alignment_loss": "alignment {:.4f}",
    "relative_plan_entropy": "plan entropy {:.1%}",
    "grad_norm": "gradient {:.3g}",
    "learning_rate": "rate {:.2e}",
    "clips_per_second": "{:.1f} clips/s",
    "tokens_per_second": "{:.0f} tokens/s",
    "peak_memory_gib": "{:.2f} GiB",
    "steps_left_out": "{:.0f} steps left out",
}
UNSHOWN = ("runtime", "_per_second", "epoch", "preparation_time", "flos", "scored_clips")


class TrainingProgress(ProgressCallback):
    """Bar of a training, with lines in place of the dictionaries that the library writes."""

    def on_log(self, args, state, control, logs=None, **kwargs):
        if not state.is_world_process_zero or self.training_bar is None:
            return
        self.training_bar.write(progress_line(logs or {}, state.global_step))
        if "loss" in (logs or {}):
            self.training_bar.set_postfix(loss=f"{logs['loss']:.4f}")


def progress_line(logs: dict[str, float], step: int) -> str:
    """What was logged at a step, in one line."""
    begin = f"step {step}, epoch {logs.get('epoch', 0):.2f}: "
    if not logs.keys().isdisjoint(("loss", "steps_left_out")):
        return begin + ", ".join(form.format(logs[name]) for name, form in TRAINING.items() if name in logs)
    shown = {name: value for name, value in logs.items() if not name.endswith(UNSHOWN)}
    return begin + ", ".join(f"{name} {_number(value)}" for name, value in shown.items())


def _number(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
