"""Batches: what is drawn for training, and that nothing is drawn for evaluation."""

import copy
import json
import shutil

import pytest
import torch
from tiny_models import tiny_model

from lavcap.data.augmentation import RELEASED_INSTRUCTIONS, Augmentation
from lavcap.data.collation import EvaluationCollator, TrainingCollator, model_inputs, stored_size
from lavcap.data.dataset import ClipDataset
from lavcap.data.splits import load_split
from processing_lavcap import LavcapProcessor


MASKED = 4.346 / 4.332  # a log-mel of 0 after the released normalisation


@pytest.fixture(scope="module")
def items(toy_world, processor):
    dataset = ClipDataset(load_split(toy_world, "val"), processor)
    return [dataset[0], dataset[1]]


def test_a_row_may_have_sound_alone(toy_world, tmp_path, processor):
    world = shutil.copytree(toy_world, tmp_path / "world")
    rows = json.loads((world / "val.json").read_text())
    del rows[0]["video_path"]
    (world / "val.json").write_text(json.dumps(rows))
    dataset = ClipDataset(load_split(world, "val"), processor)
    batch = TrainingCollator(processor)([dataset[0], dataset[1]])
    assert batch["video_mask"].tolist() == [False, True] and "audio_mask" not in batch
    assert torch.equal(batch["pixel_values_videos"][0], batch["pixel_values_videos"][1])


def without(item, name):
    """An item without one of its features."""
    return item | {"features": {key: value for key, value in item["features"].items() if key != name}}


def broken(item):
    return item | {"features": {}, "broken": f"{item['id']}.wav: is cut short"}


@pytest.mark.parametrize("collator", [TrainingCollator, EvaluationCollator])
@pytest.mark.parametrize("lacking", ["input_features", "pixel_values_videos"])
def test_a_batch_without_a_modality_holds_it_as_zeros_that_are_masked(processor, items, collator, lacking):
    whole, batch = collator(processor)(items), collator(processor)([without(item, lacking) for item in items])
    kinds = {"input_features": ("audio", 3), "pixel_values_videos": ("video", 4)}
    assert batch[lacking].shape == whole[lacking].shape and not batch[lacking].any()
    assert batch[f"{kinds[lacking][0]}_mask"].tolist() == [False, False]
    placeholders = (batch["input_ids"] == processor.av_token_id).sum(dim=1)
    assert placeholders.tolist() == [7 - kinds[lacking][1]] * 2


def test_a_batch_without_picture_holds_the_form_of_the_data_set(processor, items):
    batch = TrainingCollator(processor, stored_size=24)([without(item, "pixel_values_videos") for item in items])
    assert batch["video_features"].shape == (2, 4, 24) and "pixel_values_videos" not in batch
    assert stored_size(tiny_model(), None) is None and stored_size(tiny_model(), [[0.0] * 24] * 4) == 24
    assert stored_size(tiny_model(has_vision_tower=False), None) == 24


@pytest.mark.parametrize(
    ("fusion", "every"),
    [
        ("concat_time", False),
        ("concat_time", True),
        ("cross_attention", False),
        ("audio_only", True),
        *(
            pytest.param(fusion, every, marks=pytest.mark.slow)
            for fusion in ("concat_channel", "video_only")
            for every in (False, True)
        ),
        pytest.param("cross_attention", True, marks=pytest.mark.slow),
        pytest.param("audio_only", False, marks=pytest.mark.slow),
    ],
)
def test_a_broken_clip_counts_for_nothing_and_is_named(toy_world, tokenizer, fusion, every):
    """Loss and gradients are those of the other clip alone; of broken clips alone they are 0, and not NaN."""
    fields = {"fusion": fusion, "num_video_frames": 2, "text_config": {"vocab_size": len(tokenizer)}}
    model = tiny_model(**fields).train()
    if model.audio_tower is not None:  # in training BatchNorm mixes the clips of a batch
        model.audio_tower.batch_norm.eval()
    processor = LavcapProcessor.from_config(model.config, copy.deepcopy(tokenizer))
    dataset = ClipDataset(load_split(toy_world, "val"), processor)
    items = [broken(dataset[0]), broken(dataset[1]) if every else dataset[1]]
    for collator in (TrainingCollator(processor), EvaluationCollator(processor)):
        batch = collator(items)
        assert batch["clip_ids"] == [item["id"] for item in items]
        assert batch["broken"][items[0]["id"]].endswith("is cut short") and len(batch["broken"]) == 1 + every
        loss, gradients = loss_and_gradients(model, batch)
        if every:
            assert loss == 0 and not any(gradient.any() for gradient in gradients.values())
            continue
        alone, expected = loss_and_gradients(model, collator(items[1:]))
        assert loss == pytest.approx(alone)
        for name, gradient in gradients.items():
            torch.testing.assert_close(gradient, expected[name], atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("lacking", ["input_features", "pixel_values_videos"])
def test_a_modality_that_no_clip_has_changes_no_loss_and_leaves_no_tensor_without_gradient(
    model, processor, items, lacking
):
    model = copy.deepcopy(model)
    items = [without(item, lacking) for item in items]
    loss, gradients = loss_and_gradients(model, TrainingCollator(processor)(items))
    captions = [item["captions"][0] for item in items]
    batch = processor.batch([item["features"] for item in items], captions=captions)
    assert model(**batch).loss.item() == pytest.approx(loss, rel=1e-5)
    assert all(gradient.isfinite().all() for gradient in gradients.values())


def loss_and_gradients(model, batch):
    inputs = {name: value for name, value in model_inputs(batch).items() if not name.startswith("generation_")}
    count = (inputs["labels"] != -100).sum().clamp(min=1)
    model.zero_grad()
    loss = model(**inputs, num_items_in_batch=count, num_clips_in_batch=1).loss
    loss.backward()
    gradients = {name: weight.grad for name, weight in model.named_parameters() if weight.requires_grad}
    assert all(gradient is not None for gradient in gradients.values())
    return loss.item(), {name: gradient.clone() for name, gradient in gradients.items()}


def test_hidden_modalities_come_at_the_set_rates_and_stay_in_the_batch(toy_world, processor):
    item = ClipDataset(load_split(toy_world, "val"), processor)[0]
    collator = TrainingCollator(processor, Augmentation(audio_only_rate=0.3, video_only_rate=0.2))
    batch = collator([item | {"seed": seed} for seed in range(400)])
    heard, seen = batch["audio_mask"], batch["video_mask"]
    assert (heard | seen).all()
    assert (~seen).float().mean() == pytest.approx(0.3, abs=0.07)
    assert (~heard).float().mean() == pytest.approx(0.2, abs=0.07)
    placeholders = (batch["input_ids"] == processor.av_token_id).sum(dim=1)
    assert torch.equal(placeholders, 3 * heard + 4 * seen)
    assert batch["input_features"].abs().sum(dim=(1, 2)).min() > 0


@pytest.mark.parametrize("rates", [(0.7, 0.4), (-0.1, 0.0)])
def test_impossible_rates_are_refused(rates):
    with pytest.raises(ValueError, match="expected shares of the training clips"):
        Augmentation(audio_only_rate=rates[0], video_only_rate=rates[1])


def test_evaluation_batches_hold_the_prompt_alone_beside_the_labels(toy_world, processor):
    dataset = ClipDataset(load_split(toy_world, "val"), processor)
    batch = EvaluationCollator(processor)([dataset[0], dataset[1]])
    width = batch["generation_input_ids"].shape[1]
    assert torch.equal(batch["generation_input_ids"], batch["input_ids"][:, :width])
    assert (batch["labels"][:, :width] == -100).all() and (batch["labels"][:, width] != -100).all()


def stripes(masked: torch.Tensor) -> list[tuple[int, int]]:
    """First index and width of the run of masked lines of each row, `(clips, lines)` bool."""
    found = []
    for row in masked:
        places = row.nonzero().flatten().tolist()
        assert places == list(range(places[0], places[0] + len(places))) if places else True
        found.append((places[0], len(places)) if places else (0, 0))
    return found


def test_masks_are_one_stripe_per_axis_of_an_even_width_and_place(processor):
    spectrum = torch.zeros(60, 40)
    augmentation = Augmentation(frequency_mask=12, time_mask=20)
    drawn = [augmentation.spectrum(spectrum, 1.0, torch.Generator().manual_seed(seed)) for seed in range(3000)]
    masked = torch.stack(drawn) == 1.0
    for lines, widest, size in ((masked.all(dim=1), 12, 40), (masked.all(dim=2), 20, 60)):
        starts, widths = zip(*stripes(lines), strict=True)
        assert set(widths) == set(range(widest))  # a width of 0 to widest - 1, each as likely
        assert sum(widths) / 3000 == pytest.approx((widest - 1) / 2, rel=0.05)
        ends = [start + width for start, width in zip(starts, widths, strict=True)]
        assert min(start for start, width in zip(starts, widths, strict=True) if width) == 0 and max(ends) >= size - 1
    # Nothing but the two stripes is touched, nor the tensor that was given, which may be in a cache.
    both = masked.all(dim=1)[:, None, :] | masked.all(dim=2)[:, :, None]
    assert torch.equal(masked, both) and not spectrum.any()


def test_masks_hold_what_a_log_mel_of_zero_becomes(processor, items):
    collator = TrainingCollator(processor, Augmentation(frequency_mask=48, time_mask=40))
    batch = collator([items[0] | {"seed": seed} for seed in range(30)])
    changed = batch["input_features"] != items[0]["features"]["input_features"]
    assert 0.1 < changed.float().mean() < 0.9
    assert torch.allclose(batch["input_features"][changed], torch.tensor(MASKED))


def test_noise_is_added_and_rolled_in_time():
    spectrum = torch.arange(50.0)[:, None].repeat(1, 8)
    shifts, levels = set(), []
    for seed in range(200):
        changed = Augmentation(noise=True).spectrum(spectrum, 1.0, torch.Generator().manual_seed(seed))
        shift = int(changed[:, 0].floor().argmin())
        noise = changed.roll(-shift, dims=0) - spectrum
        assert noise.min() >= 0 and noise.max() <= 0.1
        shifts.add(shift)
        levels.append(float(noise.max()))
    assert len(shifts) > 45 and min(levels) < 0.01 and max(levels) > 0.09


def test_instructions_are_drawn_for_each_clip(processor, items):
    collator = TrainingCollator(processor, Augmentation(instructions=RELEASED_INSTRUCTIONS))
    batch = collator([items[0] | {"seed": seed} for seed in range(80)])
    texts = processor.tokenizer.batch_decode(batch["input_ids"])
    counts = [sum(text in row for row in texts) for text in RELEASED_INSTRUCTIONS]
    assert sum(counts) == 80 and min(counts) > 1


def test_a_batch_depends_on_the_seeds_of_its_clips_alone(processor, items):
    everything = Augmentation(20, 30, True, 0.3, 0.3, RELEASED_INSTRUCTIONS)
    collator = TrainingCollator(processor, everything)
    first = collator(items)
    torch.manual_seed(1)
    again = collator(items)
    assert all(torch.equal(first[name], again[name]) for name in model_inputs(first))
    torch.manual_seed(5)
    state = torch.get_rng_state()
    collator(items)
    assert torch.equal(state, torch.get_rng_state())
    other = collator([item | {"seed": item["seed"] + 1} for item in items])
    assert not torch.equal(first["input_features"], other["input_features"])


def test_a_row_that_a_stream_repeats_counts_for_nothing(processor, items):
    collator = TrainingCollator(processor)
    alone, batch = collator(items[:2]), collator([*items[:2], items[0] | {"repeated": True}])
    assert batch["clip_ids"] == alone["clip_ids"] and batch["broken"] == {}
    assert (batch["labels"][2] == -100).all() and batch["attention_mask"][2].sum() == 1
    assert batch["audio_mask"].tolist() == batch["video_mask"].tolist() == [True, True, False]
    assert torch.equal(batch["labels"][:2], alone["labels"])


@pytest.mark.parametrize("collator", [TrainingCollator, EvaluationCollator])
def test_a_clip_without_a_caption_has_no_label(processor, items, collator):
    whole, batch = collator(processor)(items), collator(processor)([items[0] | {"captions": []}, items[1]])
    assert (batch["labels"][0] == -100).all() and batch["broken"] == {}
    assert "audio_mask" not in batch and "video_mask" not in batch  # it shows both
    assert torch.equal(batch["labels"][1][batch["labels"][1] != -100], whole["labels"][1][whole["labels"][1] != -100])
    assert torch.equal(batch["input_features"], whole["input_features"])


def test_evaluation_draws_nothing(processor, items):
    collator = EvaluationCollator(processor)
    batch, again = collator(items), collator([item | {"seed": 1} for item in items])
    assert all(torch.equal(batch[name], again[name]) for name in model_inputs(batch))
    assert torch.equal(batch["input_features"][0], items[0]["features"]["input_features"])


@pytest.mark.parametrize(("kind", "lost"), [("audio", "video"), ("video", "audio")])
def test_what_no_training_clip_shows_no_validation_clip_shows_either(processor, items, kind, lost):
    missing = Augmentation(**{f"{kind}_only_rate": 1.0}).missing_modality
    assert missing == lost and Augmentation(**{f"{kind}_only_rate": 0.9}).missing_modality is None
    batch = EvaluationCollator(processor, missing_modality=missing)(items)
    assert f"{kind}_mask" not in batch and not batch[f"{lost}_mask"].any()


def test_masks_wider_than_the_filter_bank_are_refused(processor):
    with pytest.raises(ValueError, match="frequency_mask is 65, wider than the filter bank, which has 64"):
        TrainingCollator(processor, Augmentation(frequency_mask=65))
    with pytest.raises(ValueError, match="time_mask is -1"):
        Augmentation(time_mask=-1)
    with pytest.raises(ValueError, match="instructions holds an empty one"):
        Augmentation(instructions=("Describe.", " "))
