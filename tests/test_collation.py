"""Batches: what is drawn for training, and that nothing is drawn for evaluation."""

import json
import shutil

import pytest
import torch

from lavcap.augmentation import RELEASED_INSTRUCTIONS, Augmentation
from lavcap.clips import ClipDataset
from lavcap.collation import EvaluationCollator, TrainingCollator
from lavcap.data import load_split


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
    assert all(torch.equal(first[name], again[name]) for name in first)
    torch.manual_seed(5)
    state = torch.get_rng_state()
    collator(items)
    assert torch.equal(state, torch.get_rng_state())
    other = collator([item | {"seed": item["seed"] + 1} for item in items])
    assert not torch.equal(first["input_features"], other["input_features"])


def test_evaluation_draws_nothing(processor, items):
    collator = EvaluationCollator(processor)
    batch, again = collator(items), collator([item | {"seed": 1} for item in items])
    assert all(torch.equal(batch[name], again[name]) for name in batch)
    assert torch.equal(batch["input_features"][0], items[0]["features"]["input_features"])


def test_masks_wider_than_the_filter_bank_are_refused(processor):
    with pytest.raises(ValueError, match="frequency_mask is 65, wider than the filter bank, which has 64"):
        TrainingCollator(processor, Augmentation(frequency_mask=65))
    with pytest.raises(ValueError, match="time_mask is -1"):
        Augmentation(time_mask=-1)
    with pytest.raises(ValueError, match="instructions holds an empty one"):
        Augmentation(instructions=("Describe.", " "))
