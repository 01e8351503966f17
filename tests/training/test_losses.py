"""What losses are averaged over, whatever a model's terms are called, and whether its rows have labels or none."""

import pytest
import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from lavcap.benchmarks.models import random_clips
from lavcap.training.arguments import TrainingArguments
from lavcap.training.losses import labels_of, split_loss, wanted_logits
from lavcap.training.meter import progress_line
from lavcap.training.trainer import CaptioningTrainer


class Level(PreTrainedModel):
    """A captioner whose rows have no labels: its loss is a mean over clips, of how far its level is from theirs."""

    config_class = PreTrainedConfig
    loss_terms = {"level_loss": "clips"}

    def __init__(self, config):
        super().__init__(config)
        self.level = nn.Parameter(torch.zeros(1, 1))
        self.post_init()

    def set_epoch(self, epoch):
        pass

    def counted_clips(self, batch):
        return batch["audio_mask"]

    def statistics(self, output):
        return {"loudness": (output["loudness"].sum(), torch.tensor(len(output["loudness"])))}

    def parameter_groups(self):
        return [{"names": ["level"], "decay": False}]

    def forward(self, input_ids, levels, audio_mask, num_items_in_batch=None, num_clips_in_batch=None, **kwargs):
        errors = (levels - self.level[0]).square() * audio_mask
        loss = errors.sum() / (audio_mask.sum() if num_clips_in_batch is None else num_clips_in_batch)
        return LevelOutput(loss=loss, level_loss=loss, loudness=levels)

    def generate(self, input_ids, levels, **kwargs):
        return torch.cat([input_ids, levels.long()[:, None]], dim=1)


class LevelOutput(dict):
    loss = property(lambda self: self["loss"])


CLIPS = [{"id": f"clip {level}", "level": float(level)} for level in (1, 2, 3, 9, 5, 6)]
BROKEN = "clip 9"


def collate(items):
    broken = {item["id"]: "is cut short" for item in items if item["id"] == BROKEN}
    ids = torch.ones(len(items), 2, dtype=torch.int64)
    return {
        "input_ids": ids,
        "levels": torch.tensor([item["level"] for item in items]),
        "audio_mask": torch.tensor([item["id"] not in broken for item in items]),
        "generation_input_ids": ids,
        "clip_ids": [item["id"] for item in items],
        "broken": broken,
    }


@pytest.fixture
def build(tmp_path):
    def trainer(**options) -> CaptioningTrainer:
        fixed = {"use_cpu": True, "report_to": "none", "save_strategy": "no", "disable_tqdm": True, "optim": "sgd"}
        fixed |= {"max_steps": 1, "learning_rate": 0.1, "lr_scheduler_type": "constant", "max_grad_norm": 0.0}
        fixed |= {"logging_steps": 1, "max_broken_share": 1.0, "train_sampling_strategy": "sequential"}
        return CaptioningTrainer(
            model=Level(PreTrainedConfig()),
            args=TrainingArguments(output_dir=str(tmp_path), **fixed | options),
            data_collator=collate,
            train_dataset=CLIPS,
            eval_dataset=CLIPS,
            compute_metrics=lambda prediction: {
                "readable": int((prediction.label_ids != -100).sum()),
                "highest": int(prediction.predictions.max()),
            },
        )

    return trainer


COUNTED = [clip["level"] for clip in CLIPS if clip["id"] != BROKEN]


@pytest.mark.parametrize(
    ("family", "processor_name"), [("model", "processor"), ("avcap", "avcap_processor"), ("dali", "dali_processor")]
)
def test_logits_before_the_first_label_are_not_made_and_change_nothing(request, family, processor_name):
    model, processor = request.getfixturevalue(family), request.getfixturevalue(processor_name)
    clips = random_clips(model, processor, 3)
    batch = processor.batch(clips, captions=["a dog", "a dog barks at rain", "rain"])
    found = []
    for wanted in ({}, wanted_logits(batch)):
        model.zero_grad()
        output = model(**batch, **wanted, num_items_in_batch=7)
        output.loss.backward()
        gradients = [each.grad.clone() for each in model.parameters() if each.grad is not None]
        found.append((output.logits, output.loss, gradients))
    model.zero_grad()
    (whole, loss, gradients), (kept, same_loss, same_gradients) = found
    first = int((batch["labels"] != -100).any(dim=0).nonzero()[0])
    assert kept.shape[1] == whole.shape[1] - max(0, first - 1) == wanted["logits_to_keep"]
    torch.testing.assert_close(kept, whole[:, -kept.shape[1] :])
    torch.testing.assert_close(same_loss, loss)
    torch.testing.assert_close(same_gradients, gradients)


def test_a_batch_without_labels_asks_for_nothing_and_one_without_any_label_for_the_least():
    assert wanted_logits({"levels": torch.ones(2)}) == {}
    assert wanted_logits({"labels": torch.full((2, 5), -100)}) == {"logits_to_keep": 1}
    assert wanted_logits({"labels": torch.zeros(2, 5)}) == {"logits_to_keep": 5}


@pytest.mark.parametrize("batch_size", [6, 2, 1])
def test_a_loss_over_clips_alone_is_a_mean_over_those_of_the_step(build, batch_size):
    trainer = build(per_device_train_batch_size=batch_size, gradient_accumulation_steps=6 // batch_size)
    trainer.train()
    mean = sum(COUNTED) / len(COUNTED)
    assert trainer.model.level.item() == pytest.approx(0.1 * 2 * mean)
    entry = next(entry for entry in trainer.state.log_history if "loss" in entry)
    assert entry["loss"] == entry["level_loss"] == pytest.approx(sum(level**2 for level in COUNTED) / len(COUNTED))
    assert entry["loudness"] == pytest.approx(sum(clip["level"] for clip in CLIPS) / len(CLIPS))


@pytest.mark.parametrize("batch_size", [6, 4, 1])
def test_an_evaluation_without_labels_counts_every_clip_that_can_be_read_once(build, batch_size):
    metrics = build(per_device_eval_batch_size=batch_size).evaluate()
    expected = sum(level**2 for level in COUNTED) / len(COUNTED)
    assert metrics["eval_loss"] == metrics["eval_level_loss"] == pytest.approx(expected)
    assert metrics["eval_readable"] == len(COUNTED) and metrics["eval_highest"] == 9


def test_the_last_term_is_what_the_others_leave_and_one_that_is_not_there_is_nothing():
    terms = {"a": "tokens", "b": "clips", "c": "clips"}
    loss, given = torch.tensor(10.0), {"a": torch.tensor(2.0), "b": torch.tensor(1.0), "c": torch.tensor(100.0)}
    assert split_loss(loss, given, terms, scale=2) == {"a": 4.0, "b": 2.0, "c": 4.0}
    assert split_loss(loss, given | {"c": None}, terms) == {"a": 2.0, "b": 8.0, "c": 0.0}
    assert split_loss(loss, {}, terms) == {"a": 10.0, "b": 0.0, "c": 0.0}


def test_labels_of_rows_that_have_some_are_theirs():
    labels = torch.tensor([[-100, 5]])
    assert labels_of({"labels": labels}, torch.tensor([False])) is labels
    assert labels_of({}, torch.tensor([True, False])).tolist() == [[0], [-100]]


def test_a_line_of_the_console_names_the_terms_of_any_model():
    logs = {"loss": 3.0, "level_loss": 3.0, "relative_spread": 0.5, "loudness": 4.0, "grad_norm": 1.0}
    assert progress_line(logs, 2) == "step 2, epoch 0.00: loss 3.0000, level 3.0000, spread 50.0%, gradient 1"


def test_the_fused_adamw_takes_the_steps_of_the_plain_one():
    weights = []
    for options in ({"fused": True}, {"foreach": False}):
        torch.manual_seed(0)
        layers = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 1))
        optimizer = torch.optim.AdamW(layers.parameters(), lr=0.1, weight_decay=0.1, **options)
        for _ in range(5):
            optimizer.zero_grad()
            layers(torch.rand(16, 8, generator=torch.Generator().manual_seed(1))).square().mean().backward()
            optimizer.step()
        weights.append([weight.detach() for weight in layers.parameters()])
    torch.testing.assert_close(*weights)
