"""Recipes: YAML first, options over it, and the nearest name for a wrong one."""

from dataclasses import dataclass, field

import pytest
from tiny_models import tiny_config

from conftest import ROOT
from lavcap.arguments import parse_object
from lavcap.models.building import check_config_fields
from lavcap.training.recipe import parse_recipe
from train_hf import AugmentationArguments, DataArguments, ModelArguments, TrainingArguments


@dataclass
class Fields:
    rate: float = 1.0
    steps: int = 3
    shuffle: bool = True
    names: list[str] = field(default_factory=lambda: ["a"])
    model_config: dict | str | None = None


def parse(tmp_path, text, *options):
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    return parse_recipe((Fields,), [str(path), *options])[0]


def test_options_override_the_recipe_and_the_recipe_the_defaults(tmp_path):
    fields = parse(
        tmp_path, "rate: 1e-3\nsteps: 5\nshuffle: false\nnames: [b, c]\nmodel_config: {x: 1}\n", "--steps", "7"
    )
    assert (fields.rate, fields.steps, fields.shuffle, fields.names) == (1e-3, 7, False, ["b", "c"])
    assert parse_object(fields.model_config, "model_config") == {"x": 1}


def test_an_object_given_as_an_option_changes_the_recipes_object(tmp_path):
    text = "model_config: {fusion: concat_time, audio_config: {hidden_size: 8, max_frames: 48}}\n"
    fields = parse(tmp_path, text, "--model_config", '{"num_video_frames": 3, "audio_config": {"hidden_size": 16}}')
    assert parse_object(fields.model_config, "model_config") == {
        "fusion": "concat_time",
        "num_video_frames": 3,
        "audio_config": {"hidden_size": 16, "max_frames": 48},
    }


def test_options_alone_are_enough():
    assert parse_recipe((Fields,), ["--rate", "2"])[0].rate == 2.0


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("stpes: 5", (), r"'stpes' is not a field of .*recipe\.yaml; did you mean steps\?"),
        ("steps: 5", ("--rat", "1"), "'rat' is not an option; did you mean rate"),
        ("steps: many", (), "invalid int value: 'many'"),
        ("- steps", (), "holds a list, expected `field: value` lines"),
        ("steps: [", (), "not readable as YAML"),
        ("steps: [1, 2]", (), r"recipe\.yaml: steps is a list of 2, expected one value; mend it\.$"),
        ("model_config: {x: 2020-01-01}", (), r"model_config cannot be used \(Object of type date is not JSON ser"),
        (
            "model_config: &a {x: {y: [*a]}}",
            (),
            r"recipe\.yaml: not readable as YAML \(an alias stands inside of what",
        ),
        ("names: &a [*a]", (), r"recipe\.yaml: not readable as YAML \(an alias stands inside of what"),
    ],
)
def test_a_bad_recipe_is_refused_in_one_sentence(tmp_path, text, options, message):
    with pytest.raises(ValueError, match=message):
        parse(tmp_path, text, *options)


def test_a_value_may_stand_in_two_places(tmp_path):
    fields = parse(tmp_path, "names: [b]\nmodel_config: {x: &a [1, 2], y: [*a, *a]}\n")
    assert parse_object(fields.model_config, "model_config") == {"x": [1, 2], "y": [[1, 2], [1, 2]]}


def test_a_name_that_is_like_none_gives_a_short_line(tmp_path):
    with pytest.raises(ValueError, match=r"'xyzzy' is not an option; known are .* and \d+ more\.$") as refused:
        parse_recipe((TrainingArguments,), ["--xyzzy", "1"])
    assert len(str(refused.value)) < 600


def test_a_missing_recipe_is_named():
    with pytest.raises(ValueError, match=r"nowhere\.yaml: no such recipe"):
        parse_recipe((Fields,), ["nowhere.yaml"])


def test_unknown_model_fields_are_refused_at_every_depth():
    with pytest.raises(ValueError, match="did you mean fusion"):
        check_config_fields({"fussion": "concat_time"}, tiny_config())
    with pytest.raises(ValueError, match=r"field of model_config\.audio_config; did you mean max_frames"):
        check_config_fields({"audio_config": {"max_frame": 48}}, tiny_config())


def test_bad_json_of_an_object_is_named():
    with pytest.raises(ValueError, match="model_config is not readable as JSON"):
        parse_object("{fusion", "model_config")
    with pytest.raises(ValueError, match="model_config is a list, expected an object"):
        parse_object("[]", "model_config")


def test_every_recipe_of_the_project_is_readable():
    recipes = [path for path in sorted((ROOT / "configs").rglob("*.yaml")) if path.parent.name != "accelerate"]
    assert {"toy.yaml", "distil.yaml"} <= {path.name for path in recipes}
    for recipe in recipes:
        kinds = (ModelArguments, DataArguments, AugmentationArguments, TrainingArguments)
        *_, training = parse_recipe(kinds, [str(recipe), "--use_cpu", "true"])
        assert training.remove_unused_columns is False
