"""The trainer: generation from the prompt alone, and losses logged apart."""

import copy

import pytest
import torch
from tiny_models import tiny_model
from torch.utils.data import DataLoader
from transformers import EvalPrediction

from lavcap.data.augmentation import RELEASED_INSTRUCTIONS, Augmentation
from lavcap.data.collation import EvaluationCollator, TrainingCollator, model_inputs
from lavcap.data.dataset import ClipDataset
from lavcap.data.manifest import take_rows
from lavcap.data.shards import find_shards, write_shards
from lavcap.data.splits import load_split, one_row_per_caption
from lavcap.data.streaming import ClipStream
from lavcap.toy.dataset import train_tokenizer
from lavcap.training.broken_clips import TrainingStopped
from lavcap.training.data import with_own_workers
from lavcap.training.in_training_evaluation import ValidationScores
from lavcap.training.trainer import CaptioningTrainer
from processing_lavcap import LavcapProcessor
from train_hf import TrainingArguments


@pytest.fixture
def trainer(toy_world, processor, model, tmp_path):
    rows = load_split(toy_world, "val")
    return CaptioningTrainer(
        model=copy.deepcopy(model),
        args=TrainingArguments(
            output_dir=str(tmp_path / "out"),
            use_cpu=True,
            report_to="none",
            max_steps=4,
            logging_steps=2,
            per_device_train_batch_size=3,
            per_device_eval_batch_size=4,
            gradient_accumulation_steps=2,
            learning_rate=1e-3,
            save_strategy="no",
            disable_tqdm=True,
        ),
        data_collator=TrainingCollator(processor, Augmentation(audio_only_rate=0.2, video_only_rate=0.2)),
        eval_data_collator=EvaluationCollator(processor),
        train_dataset=ClipDataset(one_row_per_caption(rows), processor, cache=True),
        eval_dataset=ClipDataset(rows, processor, cache=True),
        processing_class=processor,
        compute_metrics=ValidationScores(processor, rows["id"], rows["captions"]),
    )


def test_predictions_are_the_captions_generated_from_each_clip_alone(trainer, processor):
    prediction = trainer.predict(trainer.eval_dataset)
    tokens = torch.as_tensor(prediction.predictions)
    tokens = tokens.masked_fill(tokens < 0, processor.tokenizer.pad_token_id)
    found = processor.decode_captions(tokens)
    for index, caption in enumerate(found):
        inputs = processor.batch([trainer.eval_dataset[index]["features"]])
        assert caption == processor.decode_captions(trainer.model.generate(**inputs), inputs)[0]
    assert {"test_cider_d", "test_bleu_4", "test_rouge_l", "test_loss"} <= prediction.metrics.keys()


def alone(trainer, processor, row: int) -> torch.Tensor:
    """Of one clip: sum of the caption loss, tokens, alignment loss."""
    batch = model_inputs(EvaluationCollator(processor)([trainer.eval_dataset[row]]))
    inputs = {name: value for name, value in batch.items() if not name.startswith("generation_")}
    with torch.no_grad():
        output = trainer.model.eval()(**inputs)
    labels = inputs["labels"][:, 1:]
    words = torch.nn.functional.cross_entropy(output.logits[0, :-1], labels[0], reduction="sum")
    return torch.stack([words, (labels != -100).sum(), output.alignment_loss])


@pytest.mark.parametrize("batch_size", [1, 4, 6])
def test_the_loss_of_an_evaluation_is_a_mean_over_tokens_and_clips_however_they_are_batched(
    trainer, processor, batch_size
):
    trainer.args.per_device_eval_batch_size = batch_size
    caption, tokens, alignment = torch.stack([alone(trainer, processor, row) for row in range(6)]).sum(dim=0).tolist()
    metrics = trainer.evaluate()
    assert metrics["eval_caption_loss"] == pytest.approx(caption / tokens, rel=1e-5)
    assert metrics["eval_alignment_loss"] == pytest.approx(alignment / 6, rel=1e-5)
    assert metrics["eval_loss"] == pytest.approx(caption / tokens + alignment / 6, rel=1e-5)
    assert trainer.state.log_history[-1]["eval_loss"] == metrics["eval_loss"]


def test_references_in_the_place_of_predictions_score_perfectly(processor, toy_world):
    rows = load_split(toy_world, "val")
    references = rows["captions"]
    ids = [processor.tokenizer(captions[0])["input_ids"] for captions in references]
    width = max(map(len, ids))
    padded = torch.tensor([row + [-100] * (width - len(row)) for row in ids])
    prediction = EvalPrediction(predictions=padded.numpy(), label_ids=padded.numpy())
    metrics = ValidationScores(processor, rows["id"], references)(prediction)
    assert metrics["bleu_4"] == pytest.approx(1) and metrics["rouge_l"] == pytest.approx(1)


def test_every_trainable_tensor_moves_and_losses_are_logged_apart(trainer):
    before = {name: parameter.detach().clone() for name, parameter in trainer.model.named_parameters()}
    trainer.train()
    still = [name for name, p in trainer.model.named_parameters() if torch.equal(p, before[name])]
    assert [name for name in still if "k_proj.bias" not in name] == []
    logged = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert len(logged) == 2
    for entry in logged:
        assert entry["loss"] == pytest.approx(entry["caption_loss"] + entry["alignment_loss"], abs=2e-3)
        assert entry["caption_loss"] > 0 and entry["alignment_loss"] > 0


def test_training_batches_are_not_those_of_evaluation(trainer):
    training, evaluation = next(iter(trainer.get_train_dataloader())), next(iter(trainer.get_eval_dataloader()))
    assert "generation_input_ids" not in training and "generation_input_ids" in evaluation


def trained_weights(model, processor, clips, folder, **arguments) -> dict[str, torch.Tensor]:
    """Weights after one step."""
    model = copy.deepcopy(model)
    options = {"use_cpu": True, "report_to": "none", "save_strategy": "no", "disable_tqdm": True, "optim": "sgd"}
    options |= {"max_steps": 1, "learning_rate": 1.0, "lr_scheduler_type": "constant", "max_grad_norm": 0.0}
    CaptioningTrainer(
        model=model,
        args=TrainingArguments(output_dir=str(folder), **options, **arguments),
        data_collator=TrainingCollator(processor),
        train_dataset=clips,
        processing_class=processor,
    ).train()
    return model.state_dict()


@pytest.mark.parametrize("fusion", ["concat_time", "video_only"])
def test_accumulated_gradients_are_those_of_the_whole_batch(toy_world, fitting_config, tokenizer, tmp_path, fusion):
    model = tiny_model(fusion=fusion, text_config={"vocab_size": fitting_config.text_config.vocab_size})
    if model.audio_tower is not None:  # BatchNorm that is trained has the statistics of its micro-batch
        model.audio_tower.batch_norm.requires_grad_(False)
    processor = LavcapProcessor.from_config(model.config, copy.deepcopy(tokenizer))
    rows = one_row_per_caption(load_split(toy_world, "train"))
    clips = ClipDataset(rows.select(range(4)), processor, cache=True)
    assert len({len(clip["captions"][0].split()) for clip in clips}) > 1
    whole, parts = (
        trained_weights(
            model, processor, clips, tmp_path, per_device_train_batch_size=size, gradient_accumulation_steps=4 // size
        )
        for size in (4, 1)
    )
    for name in whole:
        torch.testing.assert_close(parts[name], whole[name], atol=1e-6, rtol=1e-5)
    moved = [name for name, start in model.state_dict().items() if not torch.equal(whole[name], start)]
    assert any("language_model" in name for name in moved) and any("vision_tower" in name for name in moved)


@pytest.mark.parametrize("together", [(0, 1, 2, 3, 4), (0, 1, 3), (0, 3)])
def test_a_contrast_over_accumulated_batches_counts_clips_that_have_another_to_be_compared_with(
    toy_world, fitting_config, tokenizer, tmp_path, together
):
    """Two batches, of three clips and of two, of which some have no picture."""
    text_config = {"vocab_size": fitting_config.text_config.vocab_size}
    model = tiny_model(alignment_objective="clips", alignment_loss_weight=0.5, text_config=text_config)
    processor = LavcapProcessor.from_config(model.config, copy.deepcopy(tokenizer))
    rows = one_row_per_caption(load_split(toy_world, "train")).select(range(5))
    clips = [ClipDataset(rows, processor)[index] for index in range(5)]
    for index in set(range(5)) - set(together):
        del clips[index]["features"]["pixel_values_videos"]
    trained = trained_weights(
        model,
        processor,
        clips,
        tmp_path,
        per_device_train_batch_size=3,
        gradient_accumulation_steps=2,
        train_sampling_strategy="sequential",
    )
    batches = [model_inputs(TrainingCollator(processor)(part)) for part in (clips[:3], clips[3:])]
    words = [int((batch["labels"][:, 1:] != -100).sum()) for batch in batches]
    pairs = [len(set(together) & set(part)) for part in (range(3), range(3, 5))]
    pairs = [count if count > 1 else 0 for count in pairs]
    model.train()
    for batch, said, compared in zip(batches, words, pairs, strict=True):
        output = model(**batch)
        loss = output.caption_loss * said / sum(words) + output.alignment_loss * compared / max(1, sum(pairs))
        assert bool(output.alignment_loss > 0) == bool(compared)
        loss.backward()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            moved = parameter.detach() - (0 if parameter.grad is None else parameter.grad)
            torch.testing.assert_close(trained[name], moved, atol=1e-6, rtol=1e-5)


EVERYTHING = Augmentation(16, 12, True, 0.2, 0.2, RELEASED_INSTRUCTIONS)


@pytest.mark.whole
@pytest.mark.parametrize("streaming", [pytest.param(False, marks=pytest.mark.slow), True])
def test_a_run_that_was_interrupted_in_an_epoch_ends_with_the_same_model(
    toy_world, processor, model, tmp_path, streaming
):
    """12 clips, 6 batches of 2, accumulated by 2: 3 updates an epoch; interrupted after the second and the fifth."""
    clips = load_split(toy_world, "train").select(range(12))
    rows, features = one_row_per_caption(clips), {}
    if streaming:
        write_shards(clips, tmp_path / "shards", "train", {}, rows_per_shard=5)

    def run(folder: str, max_steps: int, resume: bool) -> dict[str, torch.Tensor]:
        dataset = ClipDataset(rows, processor, cache=True, seed=5)
        dataset._cache = features  # of the runs before it
        if streaming:
            dataset = ClipStream(find_shards(tmp_path / "shards", "train"), processor, 2, seed=5, shuffle_buffer=8)
        trainer = CaptioningTrainer(
            model=copy.deepcopy(model),
            args=TrainingArguments(
                output_dir=str(tmp_path / folder),
                use_cpu=True,
                report_to="none",
                max_steps=max_steps,
                save_steps=max_steps,
                per_device_train_batch_size=2,
                gradient_accumulation_steps=2,
                learning_rate=1e-2,
                lr_scheduler_type="constant",
                disable_tqdm=True,
                seed=5,
            ),
            data_collator=TrainingCollator(processor, EVERYTHING),
            train_dataset=dataset,
            processing_class=processor,
        )
        trainer.train(resume_from_checkpoint=resume)
        return trainer.model.state_dict()

    whole = run("whole", 7, resume=False)
    for number, max_steps in enumerate((2, 5, 7)):
        parts = run("parts", max_steps, resume=number > 0)
    moved = [name for name, start in model.state_dict().items() if not torch.equal(whole[name], start)]
    assert len(moved) > 50
    assert [name for name in whole if not torch.equal(parts[name], whole[name])] == []


def test_the_rate_is_halved_where_it_should_be(trainer):
    trainer.args.lr_scheduler_type, trainer.args.halve_lr_at = "constant", [0.5, 0.75]
    trainer.create_optimizer()
    scheduler = trainer.create_scheduler(8)
    rates = []
    for _ in range(8):
        rates += scheduler.get_last_lr()[:1]
        trainer.optimizer.step()
        scheduler.step()
    assert [rate / rates[0] for rate in rates] == [1, 1, 1, 1, 0.5, 0.5, 0.25, 0.25]


def test_weights_decay_and_biases_norms_and_scales_do_not(trainer):
    trainer.args.weight_decay, trainer.args.learning_rate = 0.5, 0.1
    trainer.create_optimizer()
    decay = {id(each): group["weight_decay"] for group in trainer.optimizer.param_groups for each in group["params"]}
    trained = {name: each for name, each in trainer.model.named_parameters() if each.requires_grad}
    assert decay.keys() == {id(each) for each in trained.values()}
    decayed = {name for name, each in trained.items() if decay[id(each)]}
    assert set(decay.values()) == {0.0, 0.5}
    assert decayed == {name for name, each in trained.items() if each.ndim > 1 and "norm" not in name}
    still = {name: each.clone() for name, each in trained.items()}
    for each in trained.values():
        each.grad = torch.zeros_like(each)
    trainer.optimizer.step()  # without a gradient decay alone moves
    assert {name for name, each in trained.items() if not torch.equal(each, still[name])} == decayed


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: not enough memory"),
    ],
    ids=["of a device", "of the machine"],
)
def test_memory_that_is_not_there_is_one_line_with_what_to_do(trainer, monkeypatch, error):
    def fail(*args, **options):
        raise error

    monkeypatch.setattr(type(trainer.model), "forward", fail)
    with pytest.raises(TrainingStopped, match="not enough memory for steps of 3 clips: halve") as raised:
        trainer.train()
    assert "\n" not in str(raised.value)


def test_a_run_without_a_step_is_none(trainer):
    trainer.args.num_train_epochs, trainer.args.max_steps = 0.0, -1
    with pytest.raises(TrainingStopped, match="took no step"):
        trainer.train()


@pytest.mark.parametrize("fault", ["broken", "without captions"])
def test_a_run_that_learned_nothing_does_not_end_well(trainer, tmp_path, monkeypatch, fault):
    rows = trainer.train_dataset.rows
    if fault == "broken":
        message = r"No step had anything to learn from: 12 of 12 clips read are broken; .*broken_clips\.jsonl has the"
        trainer.train_dataset = trainer.train_dataset.__class__(
            take_rows(rows, range(3)).map(lambda row: row | {"audio": {"bytes": b"", "path": "a.wav"}}),
            trainer.processing_class,
            tolerant=True,
        )
    else:
        message = "No step had anything to learn from: their clips have no caption that the model could learn"
        trainer.train_dataset.rows = rows.map(lambda row: row | {"captions": []})
        monkeypatch.setattr(trainer.model.__class__, "loss_terms", {"caption_loss": "tokens"})
    with pytest.raises(TrainingStopped, match=message):
        trainer.train()


def test_workers_of_loaders_say_nothing_of_a_tokenizer_that_was_used_before(monkeypatch, capfd):
    """Tokenizers before 0.23 give four lines of advice in each process that is forked."""
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "true")
    monkeypatch.delenv("TOKENIZERS_PARALLELISM")  # and what is set below goes with the test
    train_tokenizer(["a dog barks"])(["a dog barks"] * 1000)
    loader = with_own_workers(DataLoader([torch.zeros(1)], num_workers=1), 0)
    assert [batch.tolist() for batch in loader] == [[[0.0]]]
    assert "forked" not in capfd.readouterr().err
