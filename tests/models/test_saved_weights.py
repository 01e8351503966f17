"""A saved model that lost, gained or changed weights is refused by name, wherever it is used."""

import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from lavcap.models.building import ModelArguments, build_model
from lavcap.models.decoding import check_decoding
from lavcap.models.loading import load_model
from lavcap.models.saved_weights import check_saved_weights
from lavcap.publishing.files import Publication, collect_files
from parts_captioning import find_file
from weights_captioning import WeightsError


WHOLE = "model.safetensors"


@pytest.fixture
def folder(saved_model, tmp_path):
    return shutil.copytree(saved_model, tmp_path / "model")


def changed(folder, change, file: str = WHOLE):
    """A folder whose weights were changed in place by a function of the tensors."""
    tensors = load_file(folder / file)
    change(tensors)
    save_file(tensors, folder / file, {"format": "pt"})
    return folder


@pytest.mark.parametrize("family", ["saved_model", "saved_avcap", "saved_dali"])
def test_what_was_saved_is_accepted(request, family):
    folder = request.getfixturevalue(family)
    check_saved_weights(folder)
    check_decoding(folder)


def first_three(tensors) -> list[str]:
    return sorted(tensors)[:3]


def lose(tensors):
    for name in first_three(tensors):
        del tensors[name]


def gain(tensors):
    tensors["language_model.strange.weight"] = torch.zeros(2)


def count(tensors):
    name = "projection.weight" if "projection.weight" in tensors else first_three(tensors)[0]
    tensors[name] = tensors[name].to(torch.int32)


def grow(tensors):
    name = "language_model.model.norm.weight"
    tensors[name] = torch.cat([tensors[name]] * 2)


def spoil(value: float):
    def change(tensors):
        tensors["language_model.model.norm.weight"][3] = value

    return change


FAULTS = {
    "three are missing": (lose, "3 of its tensors are missing"),
    "one is unknown": (gain, r"are none of a LavcapForConditionalGeneration \(language_model\.strange\.weight\)"),
    "one is of integers": (count, "are no floating-point numbers"),
    "one is longer": (grow, r"another shape than config\.json describes \(language_model\.model\.norm\.weight \[64\]"),
    "a NaN": (spoil(float("nan")), r"NaN or infinite values \(language_model\.model\.norm\.weight\)"),
    "an infinite value": (spoil(float("inf")), "NaN or infinite values"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_other_weights_are_refused_where_a_model_is_used_and_where_it_is_published(folder, fault):
    change, message = FAULTS[fault]
    changed(folder, change)
    with pytest.raises(WeightsError, match=message):
        load_model(folder, device="cpu")
    with pytest.raises(WeightsError, match=message):
        build_model(ModelArguments(model_name_or_path=str(folder)))
    with pytest.raises(WeightsError, match=message):
        collect_files(folder, Publication("me/model"))


def test_parts_of_another_size_are_named_in_one_line_with_both_shapes(saved_model, folder):
    changed(folder, grow)
    arguments = ModelArguments(model_name_or_path=str(saved_model), parts_from=str(folder))
    for use in (lambda: build_model(arguments), lambda: load_model(saved_model, "cpu", parts_from=folder)):
        with pytest.raises(WeightsError) as refused:
            use()
        assert str(refused.value).startswith(f"{folder}: its parts cannot be taken: ")
        assert str(refused.value).endswith("1 of another shape: model.norm.weight: expected (32,), got (64,)")


def test_a_shard_that_is_cut_short_is_named(folder):
    data = (folder / WHOLE).read_bytes()
    (folder / WHOLE).write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError, match=rf"{WHOLE}: is cut short or damaged"):
        load_model(folder, device="cpu")


@pytest.mark.parametrize("content", ["", "{", "{}", "[]", '{"transformers_version": "5.23.0"}'])
def test_a_decoding_that_says_nothing_is_refused(folder, content):
    (folder / "generation_config.json").write_text(content)
    with pytest.raises(ValueError, match=r"generation_config\.json: (holds|not readable)"):
        load_model(folder, device="cpu")
    with pytest.raises(ValueError, match=r"generation_config\.json: (holds|not readable)"):
        build_model(ModelArguments(model_name_or_path=str(folder)))
    with pytest.raises(ValueError, match=r"generation_config\.json: (holds|not readable)"):
        collect_files(folder, Publication("me/model"))


def test_tied_weights_are_stored_once(folder):
    assert find_file(folder, WHOLE, {})
    tensors = load_file(folder / WHOLE)
    assert "language_model.lm_head.weight" in tensors  # this one is not tied
    with pytest.raises(WeightsError, match=r"1 of its tensors are missing \(language_model\.lm_head\.weight\)"):
        check_saved_weights(changed(folder, lambda found: found.pop("language_model.lm_head.weight")))
