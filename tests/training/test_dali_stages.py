"""DALI's stages through the training command: prefix, alignment, distillation, each from the folder of the last."""

import json
import shlex
import shutil
import subprocess

import pytest
import torch
import yaml
from safetensors.torch import load_file
from stranger import run_inside

from conftest import ROOT
from lavcap.data.splits import load_split
from lavcap.toy.dataset import write_toy_world
from modeling_dali import DaliForAlignment, DaliForConditionalGeneration
from processing_dali import DaliProcessor
from tiny_dali import tiny_dali


pytestmark = pytest.mark.whole


COMMON = {
    "max_steps": 4,
    "per_device_train_batch_size": 4,
    "learning_rate": 1e-2,
    "lr_scheduler_type": "constant",
    "max_train_clips": 8,
    "max_validation_clips": 4,
    "eval_strategy": "steps",
    "eval_steps": 4,
    "logging_steps": 2,
    "generation_num_beams": 1,
    "max_new_tokens": 2,
}
PARTS = DaliForConditionalGeneration.part_names
PREFIX = {
    "config_overrides": {"has_prefix": True, "use_prefix": True, "audio_projector": "image"},
    "video_only_rate": 1.0,
    "freeze": list(PARTS),
}
ALIGN = {
    "model_class": "DaliForAlignment",
    "config_overrides": {"alignment": "attentive_transport"},
    "max_new_tokens": None,
}
DISTIL = {
    "config_overrides": {"use_prefix": False, "audio_projector": "audio"},
    "audio_only_rate": 1.0,
    "freeze": ["prefix", *(part for part in PARTS if part != "audio_multi_modal_projector")],
}


@pytest.fixture(scope="module")
def base(tmp_path_factory, tokenizer):
    """A captioner that has no prefix yet, for the clips of the toy world."""
    folder = tmp_path_factory.mktemp("dali base") / "model"
    model = tiny_dali(
        has_prefix=False, text_config={"vocab_size": len(tokenizer)}, audio_config={"max_frames": 416},
        num_scorer_heads=2,
    )  # fmt: skip
    model.save_pretrained(folder)
    DaliProcessor.from_config(model.config, tokenizer).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def train(toy_world, tmp_path_factory):
    folder = tmp_path_factory.mktemp("dali stages")

    def run(name: str, fields: dict, **others):
        recipe = COMMON | {"data_dir": str(toy_world), "output_dir": str(folder / name)} | fields | others
        path = folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump({key: value for key, value in recipe.items() if value is not None}))
        done = run_inside("train_hf.py", path)
        assert done.returncode == 0, done.stderr
        return folder / name

    return run


def moved(before, after) -> set[str]:
    """Parts whose tensors a run has changed, or begun with."""
    old, new = (load_file(each / "model.safetensors") for each in (before, after))
    names = {name for name, tensor in new.items() if name not in old or not torch.equal(tensor, old[name])}
    return {name.partition(".")[0] for name in names}


@pytest.fixture(scope="module")
def prefixed(base, train):
    return train("prefix", PREFIX, model_name_or_path=str(base))


@pytest.fixture(scope="module")
def aligned(prefixed, train):
    return train("align", ALIGN, model_name_or_path=str(prefixed))


def test_the_prefix_alone_is_trained(base, prefixed):
    assert moved(base, prefixed) == {"prefix"}
    config = json.loads((prefixed / "config.json").read_text())
    assert config["use_prefix"] and config["has_prefix"]


def test_the_audio_side_is_aligned(prefixed, aligned):
    assert moved(prefixed, aligned) == {"audio_tower", "audio_projection", "scorers"}
    model = DaliForAlignment.from_pretrained(aligned)
    assert model.config.alignment == "attentive_transport"
    logs = json.loads((aligned / "trainer_state.json").read_text())["log_history"]
    steps = [log for log in logs if "loss" in log]
    assert len(steps) == 2
    for log in steps:
        assert log["loss"] == pytest.approx(log["alignment_loss"] + log["entropy_loss"], rel=1e-4)
        assert log["entropy_loss"] < 0
    found = [log for log in logs if "eval_alignment_loss" in log]
    assert found[-1]["eval_loss"] == pytest.approx(found[-1]["eval_alignment_loss"])


def test_pseudo_captions_take_prefix_and_alignment_of_two_folders(prefixed, aligned, toy_world):
    film = toy_world / "videos" / "new_clip.mp4"
    options = ["--model", prefixed, "--parts_from", aligned, "--modalities", "audio", "video", "--json"]
    done = run_inside("scripts/caption.py", film, *options)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["modalities"] == "audio+video"
    done = run_inside("scripts/caption.py", film, "--model", prefixed, "--json")
    assert json.loads(done.stdout.splitlines()[-1])["modalities"] == "audio"
    done = run_inside("scripts/caption.py", film, "--model", aligned)
    assert done.returncode == 2 and "--parts_from" in done.stderr


@pytest.mark.slow
def test_they_are_a_data_set_whatever_interrupts_its_making(prefixed, aligned, toy_world, tmp_path, monkeypatch):
    model = tmp_path / "model"
    shutil.copytree(prefixed, model)
    (model / "generation_config.json").write_text(json.dumps({"do_sample": True, "temperature": 5.0}))

    def write(name: str, *options: object):
        command = ["scripts/caption.py", "--data_dir", toy_world, "--split", "val", "--as_dataset", tmp_path / name]
        command += ["--model", model, "--parts_from", aligned, "--batch_size", 2, "--max_new_tokens", 6]
        return run_inside(*command, *options)

    assert write("whole").returncode == 0
    rows = load_split(tmp_path / "whole", "val")
    assert len(rows) == 6 and all(len(captions) == 1 and captions[0] for captions in rows["captions"])
    assert rows["audio"] == load_split(toy_world, "val")["audio"]
    asked, generate = [], DaliForConditionalGeneration.generate

    def interrupted(*args, **kwargs):
        asked.append(1)
        if len(asked) == 3:  # a trial, and the second batch
            raise KeyboardInterrupt
        return generate(*args, **kwargs)

    monkeypatch.setattr(DaliForConditionalGeneration, "generate", interrupted)
    assert write("again").returncode == 130
    assert write("again").returncode == 0 and len(asked) == 3 + 3
    assert load_split(tmp_path / "again", "val")["captions"] == rows["captions"]
    done = write("again", "--seed", 7)
    assert done.returncode == 2 and "seed 42, asked for 7" in done.stderr
    assert write("other", "--seed", 7).returncode == 0
    assert load_split(tmp_path / "other", "val")["captions"] != rows["captions"]


@pytest.mark.slow
def test_the_audio_projector_alone_is_distilled(prefixed, aligned, train):
    distilled = train("distil", DISTIL, model_name_or_path=str(prefixed), parts_from=str(aligned))
    assert moved(prefixed, distilled) == {"audio_tower", "audio_projection", "audio_multi_modal_projector"}
    assert moved(aligned, distilled) - {"vision_tower"} >= {"audio_multi_modal_projector"}
    aligned_tower, own = (load_file(each / "model.safetensors") for each in (aligned, distilled))
    assert all(torch.equal(own[name], each) for name, each in aligned_tower.items() if name.startswith("audio_tower."))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"config_overrides": {"use_prefx": True}}, "did you mean use_prefix"),
        ({"config_overrides": {"use_prefix": True}}, "no learned prefix"),
        ({"model_class": "DaliForAlignement"}, "DaliForAlignment"),
    ],
)
def test_recipes_that_cannot_be_meant_end_in_one_line(base, train, fields, message):
    with pytest.raises(AssertionError, match=message):
        train("refused", fields, model_name_or_path=str(base))


@pytest.mark.slow
def test_the_demo_goes_from_pictures_to_captions_of_sounds(tmp_path):
    """Its commands, as make would run them, with few clips and steps."""
    demo = ("make", "--dry-run", "--no-print-directory", "train-dali", "FAMILY=dali", f"DEMO={tmp_path}")
    shown = subprocess.run(demo, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    write_toy_world(tmp_path / "data", 16, 4, 4, videos=1, world="natural")
    loop = "for split in train val; do "
    for line in shown.replace("\\\n", "").splitlines():
        for split in ("train", "val") if loop in line else (None,):
            command = line.replace(loop, "").partition(" || exit")[0].replace("$split", str(split))
            words = shlex.split(command)
            place = next(number for number, word in enumerate(words) if word.endswith(".py"))
            few = ("--max_steps", 2, "--eval_steps", 2) if words[place] == "train_hf.py" else ("--max_new_tokens", 8)
            done = run_inside(*words[place:], *few)
            assert done.returncode == 0, done.stderr
    done = run_inside("scripts/evaluate.py", "--model", tmp_path / "model", "--data_dir", tmp_path / "data",
                      "--output", tmp_path / "evaluation", "--metrics", "cider_d", "--bootstrap", 0)  # fmt: skip
    assert done.returncode == 0 and list(json.loads((tmp_path / "evaluation" / "results.json").read_text())
                                         ["modalities"]) == ["audio"], done.stderr  # fmt: skip
    options = ("--model", tmp_path / "model", "--data_dir", tmp_path / "data", "--evaluation", tmp_path / "evaluation")
    done = run_inside("scripts/write_report.py", *options, "--output", tmp_path / "report")
    assert done.returncode == 0, done.stderr
    assert "exceptional sounds named" in (tmp_path / "report" / "report.md").read_text()
