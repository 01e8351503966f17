"""DALI: clips of all kinds in one batch, options at loading, generation, and the alignment."""

import pytest
import torch
from transformers import AutoModel, AutoProcessor

from modeling_dali import DaliForAlignment, DaliForConditionalGeneration
from tiny_dali import tiny_alignment, tiny_dali, tiny_dali_config


TOKENS = {"audio": 24, "video": 4}


@pytest.fixture(scope="module")
def model():
    return tiny_dali(use_prefix=True)


def clips(number: int = 3, *kinds: str) -> dict[str, torch.Tensor]:
    draw = torch.Generator().manual_seed(7)
    inputs = {
        "audio": ("input_features", torch.randn(number, 48, 128, generator=draw)),
        "video": ("pixel_values_videos", torch.randn(number, 1, 3, 16, 16, generator=draw)),
    }
    return dict(inputs[kind] for kind in kinds or inputs)


def prompt(model, count: int, rows: int = 1) -> torch.Tensor:
    return torch.tensor([[1, 5, *[model.config.av_token_id] * count, 6, 7]] * rows)


def test_a_batch_of_clips_that_lack_modalities_gives_what_each_alone_gives(model):
    masks = {"audio_mask": [True, False, True, False], "video_mask": [True, True, False, False]}
    masks = {name: torch.tensor(mask) for name, mask in masks.items()}
    inputs = clips(4)
    with torch.no_grad():
        together = model.get_soft_tokens(**inputs, **masks)
    for row, kinds in enumerate((("audio", "video"), ("video",), ("audio",))):
        alone = {name: inputs[name][row : row + 1] for name in clips(1, *kinds)}
        with torch.no_grad():
            expected = model.get_soft_tokens(**alone)
        count = 2 + sum(TOKENS[kind] for kind in kinds)
        assert together.soft_token_counts[row] == expected.soft_token_counts[0] == count
        torch.testing.assert_close(together.soft_tokens[row, :count], expected.soft_tokens[0])
    assert together.soft_token_counts[3] == 0  # what fills up the last batch of several processes has no prefix either


def test_picture_sound_and_prefix_stand_in_this_order(model):
    with torch.no_grad():
        tokens = model.get_soft_tokens(**clips(1)).soft_tokens[0]
        image = model.multi_modal_projector(model.get_video_features(**clips(1, "video")).pooler_output)[0]
        sound = model.audio_multi_modal_projector(model.get_audio_features(**clips(1, "audio")).pooler_output)[0]
    torch.testing.assert_close(tokens, torch.cat([image, sound, model.prefix]))


@pytest.mark.parametrize("options", [{}, {"num_beams": 3, "num_return_sequences": 2}])
def test_decoding_with_a_cache_gives_what_decoding_without_gives(model, options):
    ids = prompt(model, 30, rows=2)
    found = [model.generate(ids, **clips(2), use_cache=cache, **options) for cache in (True, False)]
    assert torch.equal(*found)
    assert torch.equal(model.generate(ids, **clips(2), cache_implementation="static", **options), found[0])


def test_options_are_checked_at_loading(saved_dali, tmp_path):
    model = AutoModel.from_pretrained(saved_dali, use_prefix=True, audio_projector="image")
    assert model.config.use_prefix and model.config.audio_projector == "image"
    with pytest.raises(ValueError, match="'audio', 'image'"):
        AutoModel.from_pretrained(saved_dali, audio_projector="own")
    aligned = DaliForAlignment.from_pretrained(saved_dali, alignment="mmd")
    assert not hasattr(aligned, "scorers") and aligned.config.alignment == "mmd"
    with pytest.raises(ValueError, match="'mmd', 'transport'"):
        DaliForAlignment.from_pretrained(saved_dali, alignment="emd")
    aligned.save_pretrained(tmp_path / "aligned")
    assert isinstance(AutoModel.from_pretrained(tmp_path / "aligned"), DaliForAlignment)
    with pytest.raises(ValueError, match="take_parts"):
        DaliForConditionalGeneration.from_pretrained(tmp_path / "aligned")


def test_the_prefix_needs_placeholders_of_its_own(saved_dali):
    model = AutoModel.from_pretrained(saved_dali, use_prefix=True)
    samples = torch.randn(1600).numpy()
    without, processor = (AutoProcessor.from_pretrained(saved_dali, use_prefix=used) for used in (False, True))
    with pytest.raises(ValueError, match=r"\[24\] placeholders per row for \[26\]"):
        model.generate(**without(audio=samples))
    assert model.generate(**processor(audio=samples)).shape[0] == 1


def test_parts_of_another_folder_take_the_place_of_the_own_ones(saved_dali, tmp_path):
    other = tiny_alignment(num_scorer_heads=2)
    with torch.no_grad():
        other.audio_projection.bias += 1
    other.save_pretrained(tmp_path / "aligned")
    model = DaliForConditionalGeneration.from_pretrained(saved_dali)
    assert model.take_parts(tmp_path / "aligned") == ["audio_tower", "audio_projection", "vision_tower"]
    assert torch.equal(model.audio_projection.bias, other.audio_projection.bias)
    with pytest.raises(ValueError, match="of another shape"):
        small = tiny_alignment(audio_config={"max_frames": 32}, num_scorer_heads=2)
        small.save_pretrained(tmp_path / "small")
        model.take_parts(tmp_path / "small")


# ------------------------------------------------------------------------------------------------------- alignment


@pytest.mark.parametrize("alignment", ["mmd", "transport", "attentive_transport"])
def test_one_step_downhill_brings_sound_and_picture_together(alignment):
    model = tiny_alignment(alignment=alignment, num_scorer_heads=2).train()
    optimizer = torch.optim.SGD([each for each in model.parameters() if each.requires_grad], lr=1e-4)
    before = model(**clips())
    before.loss.backward()
    optimizer.step()
    assert model(**clips()).loss < before.loss
    assert all(each.grad is None for each in model.vision_tower.parameters())


def test_clips_without_one_side_count_for_nothing():
    model = tiny_alignment(alignment="transport").train()
    inputs = clips()
    inputs["input_features"][1] = inputs["pixel_values_videos"][1] = torch.nan
    masked = model(**inputs, audio_mask=torch.tensor([True, False, True]))
    alone = model(**{name: each[::2] for name, each in inputs.items()})
    torch.testing.assert_close(masked.loss, alone.loss)
    masked.loss.backward()
    assert all(each.grad.isfinite().all() for each in model.audio_projection.parameters())
    summed = model(**{name: each[::2] for name, each in inputs.items()}, num_clips_in_batch=4)
    torch.testing.assert_close(summed.loss * 2, alone.loss)


def test_the_entropy_counts_less_from_epoch_to_epoch():
    model = tiny_alignment(num_scorer_heads=2)
    factors = []
    for epoch in (None, 0, 1, 2, 4, 5, 9):
        model.epoch = epoch
        factors.append(model.entropy_weight)
    assert factors == [100, 500, 500, 400, 200, 100, 100]


def test_entropic_transport_can_be_taken_in_its_place():
    exact, entropic = (
        tiny_alignment(alignment="transport", transport_solver=solver) for solver in ("exact", "entropic")
    )
    with torch.no_grad():
        expected, found = exact(**clips()).loss, entropic(**clips()).loss
    assert expected < found < 1.1 * expected


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"audio_projector": "video"}, "'audio', 'image'"),
        ({"has_prefix": False, "use_prefix": True}, "no learned prefix"),
        ({"has_audio_projector": False}, "no projector for sound"),
        ({"num_prefix_tokens": 0}, "expected 1 to 4096"),
        ({"audio_config": {"mode": "audio_visual"}}, "expected 'audio'"),
        ({"entropy_weights": []}, "at least one"),
        ({"aligment": "mmd"}, "did you mean alignment"),
    ],
)
def test_options_that_mean_nothing_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        tiny_dali_config(**fields)


def test_a_fresh_projector_of_sound_begins_as_a_copy_of_that_of_pictures(tmp_path):
    captioner = tiny_dali(has_audio_projector=False, audio_projector="image")
    assert not hasattr(captioner, "audio_multi_modal_projector")
    captioner.save_pretrained(tmp_path)
    given = DaliForConditionalGeneration.from_pretrained(tmp_path, has_audio_projector=True, audio_projector="audio")
    image = dict(captioner.multi_modal_projector.named_parameters())
    for name, own in given.audio_multi_modal_projector.named_parameters():
        assert torch.equal(own, image[name]) and own is not given.multi_modal_projector.get_parameter(name)


def test_inputs_that_do_not_fit_are_named(model):
    with pytest.raises(ValueError, match="video_frames, 3, height, width"):
        model(prompt(model, 6), pixel_values_videos=torch.zeros(1, 3, 16, 16))
    with pytest.raises(ValueError, match="neither sound"):
        model.get_soft_tokens()
    with pytest.raises(TypeError, match="video_features"):
        tiny_alignment(alignment="mmd")(**clips(), video_features=torch.zeros(1))
