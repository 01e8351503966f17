"""What an evaluation during training says of captions: their scores, and some of them to look at."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm
from transformers import EvalPrediction, Trainer, TrainerCallback

from lavcap.endings import printable
from lavcap.evaluation.metrics import score_captions
from processing_captioning import CaptioningProcessor


SAMPLES = "sample_captions.jsonl"


class ValidationScores:
    """`compute_metrics` of a trainer: scores of the captions, which come in the order of the rows.

    A broken clip, which has no label, is not scored. `samples` holds some captions of the last time.

    Args:
        processor: reads captions from tokens.
        ids, references: of the rows.
        num_samples: how many captions to keep, of clips spread evenly over the rows.
    """

    def __init__(
        self, processor: CaptioningProcessor, ids: Sequence[str], references: Sequence[list[str]], num_samples: int = 0
    ):
        self.processor = processor
        self.ids, self.references = list(ids), list(references)
        count = min(num_samples, len(self.ids))
        self._shown = [index * len(self.ids) // count for index in range(count)]
        self.samples: list[dict[str, str]] = []

    def __call__(self, prediction: EvalPrediction) -> dict[str, float]:
        tokens = torch.as_tensor(prediction.predictions)
        captions = self.processor.decode_captions(tokens.masked_fill(tokens < 0, self.processor.pad_token_id))
        readable = (torch.as_tensor(prediction.label_ids) != -100).any(dim=1).tolist()
        self.samples = [self._sample(index, captions[index]) for index in self._shown if readable[index]]
        scored = [index for index, is_readable in enumerate(readable) if is_readable]
        counts = {"scored_clips": len(scored), "broken_clips": len(readable) - len(scored)}
        if not scored:
            return counts
        return counts | score_captions(
            [captions[index] for index in scored], [self.references[index] for index in scored]
        )

    def _sample(self, index: int, caption: str) -> dict[str, str]:
        return {"id": self.ids[index], "caption": caption, "reference": self.references[index][0]}


class SampleCaptions(TrainerCallback):
    """Shows the samples of each evaluation: in the console, in TensorBoard where it runs, and in a file.

    The file, `sample_captions.jsonl` in the output folder, has a line of JSON per caption: `step`, `id`, `caption` and
    `reference`, the first one of the clip.
    """

    def __init__(self, trainer: Trainer, scores: ValidationScores):
        self.trainer = trainer
        self.scores = scores
        self._shown: list[dict[str, Any]] = []

    def on_evaluate(self, args, state, control, **kwargs):
        if not state.is_world_process_zero or not self.scores.samples:
            return
        samples = [{"step": state.global_step, **sample} for sample in self.scores.samples]
        if samples == self._shown:  # the last evaluation of a run repeats the one before
            return
        self._shown = samples
        for sample in samples:
            tqdm.write(f"  {printable(sample['id'])}: {sample['caption']!r}; a person wrote {sample['reference']!r}")
        _append(Path(args.output_dir) / SAMPLES, samples)
        for callback in self.trainer.callback_handler.callbacks:
            if getattr(callback, "tb_writer", None) is not None:
                callback.tb_writer.add_text("sample captions", _table(samples), state.global_step)


def _append(path: Path, records: Sequence[dict[str, Any]]):
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.writelines(json.dumps(record, ensure_ascii=False) + "\n" for record in records)


def _table(samples: Sequence[dict[str, Any]]) -> str:
    """Markdown, which is what TensorBoard shows."""
    rows = [("clip", "caption", "reference"), ("---", "---", "---")]
    rows += [(sample["id"], sample["caption"], sample["reference"]) for sample in samples]
    return "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in row)} |" for row in rows)
