"""Files beside the weights that are of another kind, or do not fit them, are refused in a line, before any work."""

import copy
import json
import math
import shutil

import pytest
import torch
from peft import LoraConfig, get_peft_model

from lavcap.models.building import ModelArguments, build_model
from lavcap.models.decoding import try_decoding
from lavcap.models.loading import load_model
from lavcap.models.lora import save_adapter
from lavcap.models.merging import merge_adapter
from modeling_dali import DaliForAlignment
from modeling_lavcap import LavcapForConditionalGeneration
from processing_dali import DaliProcessor
from processing_lavcap import LavcapProcessor


EXTRACTOR, PICTURES = "LavcapFeatureExtractor", "CLIPImageProcessorPil"


def with_settings(saved_model, folder, file: str, **fields):
    """A copy of a saved model, one of whose files has other fields."""
    shutil.copytree(saved_model, folder)
    content = json.loads((folder / file).read_text())
    (folder / file).write_text(json.dumps(content | fields))
    return folder


def heard(message: str, **fields) -> tuple[str, dict, str]:
    """Settings of the feature extractor."""
    return "processor_config.json", {"feature_extractor": {"feature_extractor_type": EXTRACTOR, **fields}}, message


def seen(message: str, **fields) -> tuple[str, dict, str]:
    """Settings of the image processor."""
    return "processor_config.json", {"image_processor": {"image_processor_type": PICTURES, **fields}}, message


@pytest.mark.parametrize(
    ("file", "fields", "message"),
    [
        ("generation_config.json", {"num_beams": 0}, "num_beams of its decoding is 0, expected 1 to 256"),
        ("generation_config.json", {"num_beams": 10**6}, "num_beams of its decoding is 1000000, expected 1 to 256"),
        ("generation_config.json", {"max_new_tokens": "3"}, "cannot be loaded"),
        ("generation_config.json", {"do_sample": True, "temperature": [1]}, "cannot "),
        ("generation_config.json", {"repetition_penalty": "a"}, "cannot caption"),
        ("processor_config.json", {"av_token_id": 10**7}, "cannot caption"),
        ("processor_config.json", {"num_audio_tokens": 5}, "cannot caption"),
        ("processor_config.json", {"num_audio_tokens": 10**7}, "num_audio_tokens is 10000000, expected 0 to 100000"),
        ("processor_config.json", {"num_video_frames": 10**7}, "num_video_frames is 10000000, expected 1 to 4096"),
        heard("max_frames is 1000000000, expected 1 to 100000", max_frames=10**9),
        ("processor_config.json", {"feature_extractor": 3}, "cannot be loaded"),
        heard("std is 0, expected 1e-06 to 10000", std=0),
        heard("std is nan", std=math.nan),
        heard("mean is inf, expected -10000 to 10000", mean=math.inf),
        heard("std is None, expected", std=None),
        heard("padding_value is nan, expected", padding_value=math.nan),
        heard("sampling_rate is 1000000000, expected 16000", sampling_rate=10**9),
        heard("sampling_rate is 8000, expected 16000", sampling_rate=8000),
        heard(r"sampling_rate is 16000\.5, expected", sampling_rate=16000.5),
        heard("feature_size is 10000000, expected 1 to 1024", feature_size=10**7),
        seen(r"image_processor\.image_std is .0\.2, 0\.0, 0\.2., expected 1e-06 to 10000", image_std=[0.2, 0.0, 0.2]),
        seen(r"image_processor\.image_mean is .nan, nan, nan.", image_mean=[math.nan] * 3),
        seen(r"image_processor\.image_mean is None, expected", image_mean=None),
        seen(r"image_processor\.rescale_factor is 1e\+30, expected", rescale_factor=1e30),
        seen(r"image_processor\.rescale_factor is 0, expected", rescale_factor=0),
        seen(r"image_processor\.rescale_factor is None, expected", rescale_factor=None, do_rescale=True),
        seen(r"image_processor\.size is .'shortest_edge': 1000000., expected 1 to 8192", size=10**6),
        seen(r"image_processor\.crop_size is .*'width': 1000000., expected", crop_size={"height": 16, "width": 10**6}),
        ("tokenizer_config.json", {"eos_token": 7}, "cannot be loaded"),
        ("config.json", {"text_config": []}, "expected a configuration or a dict"),
        ("config.json", {"audio_config": {"hidden_size": "24"}}, "hidden_size"),
        ("config.json", {"architectures": 2.5}, "cannot be loaded"),
        ("config.json", {"model_type": {}}, "model_type is {}|model of type {}"),
        ("config.json", {"base_parts": 3}, "base_parts"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_settings_of_another_kind_are_refused_in_a_line(saved_model, tmp_path, file, fields, message):
    folder = with_settings(saved_model, tmp_path / "model", file, **fields)
    with pytest.raises((ValueError, OSError), match=message) as caught:
        load_model(folder, "cpu")
    assert str(tmp_path) in str(caught.value) or "model_type" in fields
    assert len(str(caught.value)) < 1200 and "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["missing", "a link to nowhere", "a folder"])
@pytest.mark.parametrize("saved", ["saved_model", "saved_avcap", "saved_dali", "an adapter"])
def test_a_model_without_its_decoding_is_refused_with_what_to_write(request, tmp_path, saved, kind):
    """The library would decode by its own defaults, or those of an adapter's base: other captions, not a word."""
    folder = tmp_path / "model"
    if saved == "an adapter":
        base = request.getfixturevalue("saved_model")
        config = LoraConfig(target_modules=["q_proj"])
        save_adapter(get_peft_model(LavcapForConditionalGeneration.from_pretrained(base), config), folder)
        LavcapProcessor.from_pretrained(base).save_pretrained(folder)
    else:
        shutil.copytree(request.getfixturevalue(saved), folder)
    load_model(folder, "cpu")
    file = folder / "generation_config.json"
    file.unlink()
    if kind == "a folder":
        file.mkdir()
    elif kind == "a link to nowhere":
        file.symlink_to("blobs/none")
    with pytest.raises(ValueError, match=r"model: lacks generation_config\.json, or it is no file") as refused:
        load_model(folder, "cpu")
    if saved == "an adapter":
        with pytest.raises(ValueError, match="or it is no file"):
            merge_adapter(folder, tmp_path / "merged")
    if kind == "missing":
        file.write_text("{" + str(refused.value).partition("{")[2].removesuffix("."))
        decoding = load_model(folder, "cpu")[0].generation_config
        assert decoding.eos_token_id is not None and decoding.num_beams is not None


def test_a_model_that_writes_nothing_needs_no_decoding(saved_dali, tmp_path):
    model = DaliForAlignment.from_pretrained(saved_dali)
    model.save_pretrained(tmp_path)
    DaliProcessor.from_pretrained(saved_dali).save_pretrained(tmp_path)
    assert not (tmp_path / "generation_config.json").exists()
    again, _ = build_model(ModelArguments(model_name_or_path=str(tmp_path), model_class="DaliForAlignment"))
    assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in model.state_dict().items())
    with pytest.raises(ValueError, match="--parts_from of a command"):  # as it captions nothing
        load_model(tmp_path, "cpu")


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_scores_that_are_no_numbers_are_noticed_before_any_work(processor, fitting_config, value):
    model = LavcapForConditionalGeneration(fitting_config).eval()
    model.get_output_embeddings().register_forward_hook(lambda *parts: torch.full_like(parts[2], value))
    with pytest.raises(ValueError, match=r"model: cannot caption .*scores of words are NaN or infinite"):
        try_decoding(model, processor, "model")


def test_words_that_are_ruled_out_are_none_of_these(processor, fitting_config):
    model = LavcapForConditionalGeneration(fitting_config).eval()

    def rule_out(layer, inputs, scores):
        scores[..., :3] = -math.inf
        return scores

    model.get_output_embeddings().register_forward_hook(rule_out)
    try_decoding(model, processor, "model")


@pytest.mark.parametrize("content", ["[]", "3", "null", "[" * 100_000])
@pytest.mark.parametrize("file", ["config.json", "processor_config.json", "generation_config.json"])
def test_settings_that_are_no_object_are_refused_in_a_line(saved_model, tmp_path, file, content):
    shutil.copytree(saved_model, tmp_path / "model")
    (tmp_path / "model" / file).write_text(content)
    with pytest.raises((ValueError, OSError)) as caught:
        load_model(tmp_path / "model", "cpu")
    assert str(tmp_path) in str(caught.value) and "\n" not in str(caught.value)


def test_nobody_is_asked_whether_to_run_the_code_of_a_folder(saved_model, tmp_path, monkeypatch):
    """As the library does where a name in the settings is none that it knows."""
    monkeypatch.setattr("builtins.input", lambda *words: pytest.fail(f"asked {words}"))
    extractor = {"feature_extractor_type": "Lavcap", "auto_map": {"AutoFeatureExtractor": "processing_lavcap.Lavcap"}}
    folder = with_settings(saved_model, tmp_path / "model", "processor_config.json", feature_extractor=extractor)
    with pytest.raises(ValueError, match="contains custom code"):
        load_model(folder, "cpu")


@pytest.mark.parametrize("family", ["saved_model", "saved_avcap", "saved_dali"])
def test_what_was_saved_writes_captions(request, family):
    load_model(request.getfixturevalue(family), "cpu")


def test_weights_that_are_elsewhere_are_not_tried(model, processor, monkeypatch):
    monkeypatch.setattr(type(model), "generate", lambda *args, **options: pytest.fail("generated"))
    with torch.device("meta"):
        try_decoding(type(model)(model.config), processor, "model")


def test_a_trial_leaves_the_model_and_random_numbers_as_they_are(processor, fitting_config):
    """Statistics of silence in BatchNorm would be trained on."""
    model = LavcapForConditionalGeneration(fitting_config)
    model.generation_config.update(do_sample=True, num_beams=1)
    model.vision_tower.eval()
    before, modes = copy.deepcopy(model.state_dict()), [module.training for module in model.modules()]
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    try_decoding(model, processor, "model")
    assert torch.equal(torch.rand(1), expected)
    assert [module.training for module in model.modules()] == modes and len(set(modes)) == 2
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
