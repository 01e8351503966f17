"""What a run shows: its logs, its curves, its console; and that steps that are not finite change nothing."""

import copy
import json
import math
import sys
from importlib.machinery import ModuleSpec
from unittest.mock import MagicMock

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from transformers import EvalPrediction, Seq2SeqTrainingArguments, TrainerCallback

from lavcap.data.collation import EvaluationCollator, TrainingCollator, model_inputs
from lavcap.data.dataset import ClipDataset
from lavcap.data.splits import load_split, one_row_per_caption
from lavcap.models.lora import add_lora
from lavcap.training.arguments import check_monitoring, early_stopping
from lavcap.training.broken_clips import TrainingStopped
from lavcap.training.in_training_evaluation import SampleCaptions, ValidationScores
from lavcap.training.losses import split_loss
from lavcap.training.meter import Step, progress_line
from lavcap.training.trainer import CaptioningTrainer
from train_hf import TrainingArguments


@pytest.fixture(scope="module")
def clips(toy_world, processor):
    rows = one_row_per_caption(load_split(toy_world, "train")).select(range(6))
    dataset = ClipDataset(rows, processor, cache=True)
    for index in range(len(dataset)):
        dataset[index]  # fills the cache
    return dataset


@pytest.fixture
def build(model, processor, clips, tmp_path):
    """Trainers on six clips, two a step; keywords are training arguments."""

    def trainer(train_dataset=clips, eval_dataset=None, callbacks=(), model=model, **options) -> CaptioningTrainer:
        fixed = {"output_dir": str(tmp_path / "out"), "use_cpu": True, "report_to": "none", "save_strategy": "no"}
        fixed |= {"max_steps": 3, "logging_steps": 1, "per_device_train_batch_size": 2, "learning_rate": 1e-3}
        scores = None if eval_dataset is None else scores_of(eval_dataset, processor)
        built = CaptioningTrainer(
            model=copy.deepcopy(model),
            args=TrainingArguments(**fixed | {"disable_tqdm": True, "use_cpu": True} | options),
            data_collator=TrainingCollator(processor),
            eval_data_collator=EvaluationCollator(processor),
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            processing_class=processor,
            compute_metrics=scores,
            callbacks=list(callbacks),
        )
        if scores is not None:
            built.add_callback(SampleCaptions(built, scores))
        return built

    return trainer


def scores_of(dataset, processor) -> ValidationScores:
    return ValidationScores(processor, dataset.rows["id"], dataset.rows["captions"], num_samples=2)


def poisoned(clips, *numbers):
    """The clips, of which some have NaN for a picture."""
    dataset = copy.copy(clips)
    dataset._cache = dict(clips._cache)
    for name in (clips.rows["id"][number] for number in numbers):
        pixels = torch.full_like(dataset._cache[name,]["pixel_values_videos"], math.nan)
        dataset._cache[name,] = dataset._cache[name,] | {"pixel_values_videos": pixels}
    return dataset


def test_logs_hold_the_parts_of_the_loss_and_the_entropy_of_the_plans(build, model, processor, clips):
    trainer = build(max_steps=1, per_device_train_batch_size=3, gradient_accumulation_steps=2)
    trainer.model.audio_tower.batch_norm.requires_grad_(False)  # else it has the statistics of its micro-batch
    trainer.train()
    entry = next(entry for entry in trainer.state.log_history if "loss" in entry)
    batch = TrainingCollator(processor)([clips[index] for index in range(6)])
    alike = copy.deepcopy(model).train()
    alike.audio_tower.batch_norm.requires_grad_(False)
    output = alike(**model_inputs(batch))
    assert entry["caption_loss"] == pytest.approx(output.caption_loss.item(), rel=1e-4)
    assert entry["alignment_loss"] == pytest.approx(output.alignment_loss.item(), rel=1e-4)
    assert entry["loss"] == pytest.approx(entry["caption_loss"] + entry["alignment_loss"], rel=1e-6)
    plans = output.transport_plan.detach().double()
    entropy = -(plans * plans.log()).sum(dim=(1, 2)).mean().item()
    assert entry["plan_entropy"] == pytest.approx(entropy, rel=1e-4)
    assert entry["relative_plan_entropy"] == pytest.approx(entry["plan_entropy"] / math.log(12), rel=1e-5)
    assert entry["grad_norm"] > 0 and entry["learning_rate"] == 1e-3
    assert entry["peak_memory_gib"] > 0.05 and entry["clips_per_second"] > 0
    tokens = batch["attention_mask"].sum().item()
    assert entry["tokens_per_second"] / entry["clips_per_second"] == pytest.approx(tokens / 6)


def test_plans_are_counted_where_a_clip_has_both_modalities(model):
    plan = torch.zeros(3, 2, 4)
    plan[0], plan[1, 0, 0] = 1 / 8, 1.0
    step = Step()
    outputs = {"transport_plan": plan, "alignment_loss": torch.ones(()), "caption_loss": torch.ones(())}
    parts = split_loss(torch.tensor(3.0), outputs, model.loss_terms, scale=2)
    step.add(parts, model.statistics(outputs))
    assert step.parts == {"caption_loss": 2.0, "alignment_loss": 1.0}
    assert step.statistics["plan_entropy"].tolist() == pytest.approx([math.log(8), 2.0])
    assert step.statistics["relative_plan_entropy"].tolist() == pytest.approx([1.0, 2.0])


def test_speed_is_that_of_training_alone(build, clips, monkeypatch):
    """Every look at the clock is a second later; evaluations and savings look once each and do not count."""
    ticks = iter(range(1000))
    monkeypatch.setattr("lavcap.training.meter.time.perf_counter", lambda: float(next(ticks)))
    trainer = build(eval_dataset=clips, eval_strategy="steps", eval_steps=1, logging_steps=2, max_steps=4)
    trainer.train()
    speeds = [entry["clips_per_second"] for entry in trainer.state.log_history if "loss" in entry]
    assert speeds == [2.0, 2.0]


def test_curves_and_sample_captions_are_in_tensorboard_and_in_a_file(build, clips, tmp_path):
    trainer = build(
        eval_dataset=clips, eval_strategy="steps", eval_steps=3, report_to="tensorboard", logging_steps=3, max_steps=3
    )
    trainer.train()
    (events,) = (tmp_path / "out" / "runs").rglob("events.out.tfevents.*")
    curves = EventAccumulator(str(events)).Reload()
    wanted = {"loss", "caption_loss", "alignment_loss", "plan_entropy", "relative_plan_entropy", "clips_per_second"}
    wanted |= {"tokens_per_second", "peak_memory_gib", "grad_norm", "learning_rate"}
    assert {f"train/{name}" for name in wanted} | {"eval/cider_d"} <= set(curves.Tags()["scalars"])
    (text,) = curves.Tensors("sample captions/text_summary")
    lines = [json.loads(line) for line in (tmp_path / "out" / "sample_captions.jsonl").read_text().splitlines()]
    assert [(line["step"], line["id"]) for line in lines] == [(3, clips.rows["id"][0]), (3, clips.rows["id"][3])]
    assert lines[0]["reference"] == clips.rows["captions"][0][0]
    assert lines[1]["reference"] in text.tensor_proto.string_val[0].decode() and text.step == 3


def test_a_line_of_the_console_can_be_read():
    logs = {"loss": 3.25, "caption_loss": 2.75, "alignment_loss": 0.5, "relative_plan_entropy": 0.93, "epoch": 0.5}
    logs |= {"grad_norm": 1.5, "learning_rate": 1e-3, "clips_per_second": 41.0, "peak_memory_gib": 1.5}
    line = "loss 3.2500, caption 2.7500, alignment 0.5000, plan entropy 93.0%, gradient 1.5, rate 1.00e-03, "
    assert progress_line(logs, 20) == f"step 20, epoch 0.50: {line}41.0 clips/s, 1.50 GiB"
    logs = {"eval_cider_d": 0.51234, "eval_broken_clips": 1, "eval_runtime": 3.0, "eval_samples_per_second": 2.0}
    left_out = {"steps_left_out": 2, "clips_per_second": 41.0}
    assert progress_line(left_out, 20) == "step 20, epoch 0.00: 41.0 clips/s, 2 steps left out"
    assert progress_line(logs | {"epoch": 1.0}, 40) == "step 40, epoch 1.00: eval_cider_d 0.5123, eval_broken_clips 1"


def test_a_step_that_is_not_finite_is_left_out_and_said(build, clips, caplog):
    trainer = build(poisoned(clips, 4), max_steps=3, max_nonfinite_steps=2, logging_steps=3, optim="sgd")
    trainer.train()
    assert all(tensor.isfinite().all() for tensor in trainer.model.state_dict().values())
    (entry,) = (entry for entry in trainer.state.log_history if "loss" in entry)
    assert entry["steps_left_out"] == 1 and math.isfinite(entry["loss"]) and entry["loss"] > 5
    (message,) = (record.message for record in caplog.records if "left out" in record.message)
    assert clips.rows["id"][4] in message and message.count("toyt") == 2
    assert math.isfinite(trainer.state.log_history[-1]["train_loss"])


def test_such_steps_in_a_row_stop_the_run_with_its_weights_and_the_clips(build, clips, model, tmp_path):
    trainer = build(poisoned(clips, *range(6)), max_steps=6, max_nonfinite_steps=2, per_device_train_batch_size=1)
    seen = trainer.model.audio_tower.batch_norm.running_mean.clone()
    with pytest.raises(TrainingStopped, match=r"at step 2 \(2 in a row\), on toyt\d+\. They .*resume") as stop:
        trainer.train()
    assert "\n" not in str(stop.value)
    for name, parameter in trainer.model.named_parameters():
        assert torch.equal(parameter, dict(model.named_parameters())[name]), name
    assert not torch.equal(seen, trainer.model.audio_tower.batch_norm.running_mean)  # statistics of finite sound


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_gradient_that_is_not_finite_under_a_finite_loss_is_left_out_too(build, model, value):
    trainer = build(max_steps=1, max_nonfinite_steps=5)
    trainer.model.multi_modal_projector.weight.register_hook(lambda gradient: torch.full_like(gradient, value))
    trainer.train()
    start = dict(model.named_parameters())
    assert all(torch.equal(parameter, start[name]) for name, parameter in trainer.model.named_parameters())
    entry = trainer.state.log_history[0]
    assert entry["steps_left_out"] == 1 and not {"loss", "caption_loss", "alignment_loss"} & entry.keys()


def test_clips_of_finite_losses_are_not_named_beside_the_one_that_is_not(build, clips, caplog):
    trainer = build(poisoned(clips, 4), max_steps=1, per_device_train_batch_size=2, gradient_accumulation_steps=3)
    trainer.train()
    (message,) = (record.message for record in caplog.records if "left out" in record.message)
    assert clips.rows["id"][4] in message and message.count("toyt") == 2


class WeightsOfSteps(TrainerCallback):
    """Keeps a weight as it is after each step."""

    def __init__(self):
        self.kept = []

    def on_step_end(self, args, state, control, model=None, **kwargs):
        self.kept.append(model.multi_modal_projector.weight.detach().clone())


def test_a_step_of_broken_clips_alone_changes_nothing_and_counts_for_no_loss(build, clips):
    """The momentum of the steps before it would change weights even so."""
    dataset = copy.copy(clips)
    dataset._cache = dict(clips._cache) | {(name,): {} for name in clips.rows["id"][:3]}
    weights = WeightsOfSteps()
    trainer = build(
        dataset, callbacks=[weights], max_steps=6, per_device_train_batch_size=1, max_broken_share=1.0, warmup_steps=0
    )
    start = trainer.model.multi_modal_projector.weight.detach().clone()
    trainer.train()
    entries = [entry for entry in trainer.state.log_history if "clips_per_second" in entry]
    counted = ["loss" in entry for entry in entries]
    assert sum(counted) == 3 and [entry.get("steps_left_out", 0) == 0 for entry in entries] == counted
    pairs = zip([start, *weights.kept], weights.kept, strict=False)
    assert [not torch.equal(before, after) for before, after in pairs] == counted


WATCHED = {"eval_strategy": "steps", "eval_steps": 1, "save_strategy": "steps", "save_steps": 1}
WATCHED |= {"load_best_model_at_end": True, "metric_for_best_model": "loss", "early_stopping_patience": 2}
WATCHED |= {"greater_is_better": True}  # so that the first evaluation is the best one


def stopping(options):
    args = TrainingArguments(output_dir="unused", use_cpu=True, report_to="none", **options)
    check_monitoring(args)
    return {"callbacks": early_stopping(args), "restore_callback_states_from_checkpoint": True}


def evaluated(trainer) -> list[float]:
    return [entry["eval_loss"] for entry in trainer.state.log_history if "eval_loss" in entry]


@pytest.mark.parametrize("adapted", [False, True], ids=["whole", "LoRA"])
def test_a_run_stops_when_its_metric_gets_no_better_and_ends_with_the_best_weights(build, clips, model, adapted):
    if adapted:
        lora = {
            "target_modules": r".*language_model\..*\.(q_proj|v_proj)",
            "modules_to_save": ["multi_modal_projector"],
        }
        model = add_lora(copy.deepcopy(model), lora)
    trainer = build(model=model, eval_dataset=clips, max_steps=12, **stopping(WATCHED), **WATCHED)
    trainer.train()
    losses = evaluated(trainer)
    assert losses.index(max(losses)) == len(losses) - 3 and trainer.state.global_step < 12
    assert trainer.evaluate()["eval_loss"] == pytest.approx(max(losses), rel=1e-5)
    assert max(losses) > 1.001 * min(losses)


def test_an_interruption_does_not_begin_the_patience_anew(build, clips):
    whole = build(eval_dataset=clips, max_steps=12, **stopping(WATCHED), **WATCHED)
    whole.train()
    last = whole.state.global_step
    options = WATCHED | {"output_dir": f"{whole.args.output_dir} again", "lr_scheduler_type": "constant"}
    for steps in (last - 1, 12):
        parts = build(eval_dataset=clips, max_steps=steps, **stopping(WATCHED), **options)
        parts.train(resume_from_checkpoint=steps == 12)
    assert parts.state.global_step == last


def test_other_loggers_are_told_the_same(build, monkeypatch):
    tracker = MagicMock(__spec__=ModuleSpec("trackio", None), __version__="0.30.0")
    monkeypatch.setitem(sys.modules, "trackio", tracker)
    trainer = build(report_to="trackio", max_steps=1)
    check_monitoring(trainer.args)
    trainer.train()
    told = {name for call in tracker.log.call_args_list for name in call.args[0]}
    assert {"train/caption_loss", "train/plan_entropy", "train/clips_per_second", "train/grad_norm"} <= told


def test_validation_clips_that_are_broken_are_not_scored(processor, clips):
    captions = [processor.tokenizer(captions[0])["input_ids"] for captions in clips.rows["captions"]]
    width = max(map(len, captions))
    labels = torch.tensor([row + [-100] * (width - len(row)) for row in captions])
    readable = labels.clone()
    readable[[0, 2]] = -100
    scores = scores_of(clips, processor)
    metrics = scores(EvalPrediction(predictions=labels.numpy(), label_ids=readable.numpy()))
    assert (metrics["scored_clips"], metrics["broken_clips"]) == (4, 2) and metrics["bleu_1"] == pytest.approx(1)
    assert [sample["id"] for sample in scores.samples] == [clips.rows["id"][3]]
    nothing = scores(EvalPrediction(predictions=labels.numpy(), label_ids=torch.full_like(labels, -100).numpy()))
    assert nothing == {"scored_clips": 0, "broken_clips": 6}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_broken_share": 1.5}, "max_broken_share is 1.5, expected 0 to 1"),
        ({"max_nonfinite_steps": 0}, "max_nonfinite_steps is 0, expected at least 1"),
        ({"early_stopping_patience": 2, "eval_strategy": "epoch"}, "which needs metric_for_best_model"),
        ({"early_stopping_patience": 2, "metric_for_best_model": "cider_d"}, "which needs eval_strategy"),
        ({"metric_for_best_model": "cider"}, "metric_for_best_model is 'cider', expected one of loss, bleu_1"),
        ({"metric_for_best_model": "bleu_1", "predict_with_generate": False}, "expected one of loss."),
        ({"report_to": "wandb"}, "report_to is 'wandb', but that package is not installed"),
        ({"report_to": ["tensorboard", "paper"]}, "report_to is 'paper', expected some of"),
    ],
)
def test_what_a_run_would_stumble_over_later_is_refused(options, message, tmp_path):
    with pytest.raises(ValueError, match=message.replace("(", r"\(")):
        check_monitoring(TrainingArguments(output_dir=str(tmp_path), use_cpu=True, **{"report_to": "none"} | options))


def test_arguments_of_the_library_alone_will_do(model, processor, clips, tmp_path):
    options = {"use_cpu": True, "report_to": "none", "max_steps": 1, "save_strategy": "no", "disable_tqdm": True}
    CaptioningTrainer(
        model=copy.deepcopy(model),
        args=Seq2SeqTrainingArguments(output_dir=str(tmp_path), remove_unused_columns=False, **options),
        data_collator=TrainingCollator(processor),
        train_dataset=clips,
        processing_class=processor,
    ).train()
