"""Models that training publishes, and what a stranger gets who loads them."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from huggingface_hub import ModelCard
from media_files import write_media
from model_parts import assemble, write_parts
from published_models import CODE, NAME, change, error_of, head, push, write
from recipes import TINY
from stranger import run_inside, run_stranger
from test_hub import ANSWER, assert_same, surroundings
from transformers import Seq2SeqTrainingArguments

from lavcap.models.lora import add_lora, save_adapter
from lavcap.publishing.upload import open_repository
from lavcap.training.publisher import open_hub
from modeling_lavcap import LavcapForConditionalGeneration


@pytest.fixture
def train(toy_world, tmp_path):
    fields = TINY | {"data_dir": str(toy_world), "tokenizer_name": str(toy_world / "tokenizer"), "report_to": "none"}
    fields |= {"output_dir": str(tmp_path / "run"), "push_to_hub": True, "hub_model_id": NAME, "eval_strategy": "no"}
    write(tmp_path / "recipe.yaml", yaml.safe_dump(fields | {"max_train_clips": 4, "max_validation_clips": 2}))
    return lambda *arguments: run_inside("train_hf.py", tmp_path / "recipe.yaml", *arguments)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--hub_model_id", "lavcap"), "'lavcap' is no name on the Hub"),
        (("--hub_strategy", "checkpoint"), "expected 'end' or 'every_save'"),
    ],
)
def test_training_refuses_a_push_that_cannot_be_done_before_any_work(train, tmp_path, options, message):
    assert message in error_of(train(*options)) and not (tmp_path / "run").exists()


def test_training_with_a_rejected_token_does_not_begin(hub, train, tmp_path):
    hub.rejected = {"hf_writer": 401}
    assert "rejected the token" in error_of(train()) and not (tmp_path / "run").exists()


def test_a_run_whose_upload_others_could_not_load_or_may_not_have_is_refused_before_training(tmp_path):
    write_parts(tmp_path)
    model = assemble(tmp_path)
    args = Seq2SeqTrainingArguments(str(tmp_path / "run"), push_to_hub=True, hub_model_id=NAME, use_cpu=True)
    with pytest.raises(ValueError, match="whole weights of llama-tiny"):
        open_hub(args, model)
    with pytest.raises(ValueError, match=f"parts that others do not have: text {tmp_path / 'llama-tiny'}, audio"):
        open_hub(args, add_lora(model, {"target_modules": ["q_proj"]}))


@pytest.mark.slow
def test_training_publishes_every_save_and_the_whole_run_at_its_end(hub, train, tmp_path, toy_world):
    result = train("--hub_strategy", "every_save", "--save_steps", 3)
    assert not result.returncode, result.stderr[-2000:]
    run, repository = tmp_path / "run", hub.repositories[NAME]
    pushed = [files for files in repository.commits.values() if files]
    weights = [run / "checkpoint-3" / "model.safetensors", run / "checkpoint-6" / "model.safetensors"]
    weights += [run / "model.safetensors"]
    assert [files["model.safetensors"] for files in pushed] == [file.read_bytes() for file in weights]
    for files in pushed:
        assert files.keys() >= CODE | {"processor_config.json", "tokenizer.json", "training_data.json"}
        assert not any(name.startswith(("optimizer", "checkpoint", "runs", "training_args")) for name in files)
    card = head(hub)["README.md"].decode()
    assert "| optimiser steps | 6 |" in card and "| learning_rate | 0.001 |" in card and "Not measured." in card

    quick = ("--metrics", "bleu_4", "cider_d", "--bootstrap", 0)
    data = ("--data_dir", toy_world, "--max_clips", 3, "--modalities", "audio+video", *quick)
    scored = run_inside("scripts/evaluate.py", "--model", run, *data, "--output", tmp_path / "scores")
    assert scored.returncode == 0, scored.stderr
    rescored = ("--predictions", tmp_path / "scores" / "predictions.jsonl", "--output", tmp_path / "rescored")
    assert run_inside("scripts/evaluate.py", *rescored, *quick).returncode == 0
    for name in ("scores", "rescored"):
        assert push(run, NAME, "--evaluation", tmp_path / name).returncode == 0
        results = json.loads((tmp_path / name / "results.json").read_text())
        (entry,) = ModelCard(head(hub)["README.md"].decode()).data.to_dict()["model-index"][0]["results"]
        assert {metric["type"]: metric["value"] for metric in entry["metrics"]} == results["metrics"]
    assert "scores other weights" in error_of(push(run / "checkpoint-3", NAME, "--evaluation", tmp_path / "scores"))


@pytest.mark.slow
def test_a_push_that_fails_after_training_keeps_the_model_and_says_how_to_push_it(hub, train, tmp_path, monkeypatch):
    hub.lost = "/commit/"
    error = error_of(train("--hub_strategy", "every_save"))
    run = tmp_path / "run"
    assert f"upload it by: python scripts/push_to_hub.py {run} {NAME}" in error
    assert (run / "train_results.json").is_file() and head(hub) == {}
    hub.lost = None
    assert push(run, NAME).returncode == 0
    assert head(hub)["model.safetensors"] == (run / "model.safetensors").read_bytes()


LOAD = """
from transformers import AutoModel, AutoProcessor

found = []
for name in json.loads(sys.argv[1]):
    model = AutoModel.from_pretrained(name, trust_remote_code=True).eval()
    found.append(answer(model, AutoProcessor.from_pretrained(name, trust_remote_code=True)))
print(json.dumps(found))
"""


def adapter_on_parts(folder: Path, processor) -> Path:
    """A folder as training with LoRA on pretrained parts writes it; the parts are in `parts/`."""
    (folder / "parts").mkdir()
    write_parts(folder / "parts", text_config={"vocab_size": len(processor.tokenizer) - 1})
    fields = {"r": 2, "target_modules": r".*language_model\..*q_proj", "modules_to_save": ["multi_modal_projector"]}
    save_adapter(add_lora(assemble(folder / "parts"), fields), folder / "on parts")
    processor.save_pretrained(folder / "on parts")
    return folder / "on parts"


@pytest.mark.slow
def test_a_stranger_loads_what_was_pushed_and_runs_the_code_of_the_card(
    hub, folder, adapter, model, processor, tmp_path
):
    assert push(folder, NAME).returncode == 0
    assert push(adapter, "me/adapter", "--base_model", NAME).returncode == 0
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        shutil.copy(adapter / name, folder)
    change(folder / "adapter_config.json", base_model_name_or_path=str(folder))
    assert push(folder, "me/both").returncode == 0
    on_parts = adapter_on_parts(tmp_path, processor)
    for part in ("llama-tiny", "tower", "clip-tiny"):
        open_repository(f"me/{part}")
        files = {file.name: file.read_bytes() for file in (tmp_path / "parts" / part).iterdir()}
        hub.repositories[f"me/{part}"].add("main", files)
    places = ("--text_model", "me/llama-tiny", "--audio_model", "me/tower", "--vision_model", "me/clip-tiny")
    assert push(on_parts, "me/on-parts", *places).returncode == 0

    scope = {}
    exec(ANSWER, scope)  # the strangers' own question
    adapted = LavcapForConditionalGeneration.from_pretrained(folder).eval()
    assembled = LavcapForConditionalGeneration.from_pretrained(on_parts)
    expected = [scope["answer"](each, processor) for each in (model, adapted, adapted, assembled)]
    names = json.dumps([NAME, "me/adapter", "me/both", "me/on-parts"])
    found = run_stranger(ANSWER + LOAD, names, folder=tmp_path, **surroundings(hub, tmp_path / "home")).printed
    for each, own in zip(found, expected, strict=True):
        assert_same(each, own)
    assert np.abs(np.subtract(expected[0]["logits"], expected[1]["logits"])).max() > 0.1

    write_media(tmp_path / "my_clip.mp4", seconds=0.4)
    (code,) = re.findall(r"^```python\n(.*?)^```", head(hub)["README.md"].decode(), re.M | re.S)
    code = code.replace("print(", "import json\nprint(json.dumps(") + ")"
    caption = run_stranger(code, folder=tmp_path, **surroundings(hub, tmp_path / "home")).printed
    inputs = processor(str(tmp_path / "my_clip.mp4"))
    assert caption == processor.decode_captions(model.generate(**inputs), inputs)[0]
