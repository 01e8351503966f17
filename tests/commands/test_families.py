"""Families are trained, resumed, evaluated, captioned and published by the same tools: one of this project, and one
that the tools have never heard of."""

import json
import shutil

import pytest
import yaml
from recipes import TINY
from safetensors.torch import load_file
from stranger import run_inside, run_stranger

from conftest import FLAT_FILES, ROOT


pytestmark = pytest.mark.whole

SECOND = {"model_type": "second", "text_config": TINY["model_config"]["text_config"]}
AVCAP = {
    "model_type": "avcap",
    "audio_visual_config": {
        "hidden_size": 24, "intermediate_size": 48, "num_attention_heads": 2, "num_modality_layers": 1,
        "max_frames": 416, "image_size": 64, "num_video_frames": 4, "patch_size": 32,
    },
    "text_config": {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2},
}  # fmt: skip
DALI = {
    "model_type": "dali",
    "audio_config": {
        "hidden_size": 24, "intermediate_size": 48, "num_attention_heads": 2, "num_modality_layers": 1,
        "max_frames": 416, "patch_size": 32,
    },
    "vision_config": {
        "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2,
        "patch_size": 32, "image_size": 64,
    },
    "text_config": SECOND["text_config"] | {"max_position_embeddings": 512},
}  # fmt: skip
LOSSES = {"second": ("caption_loss", "stillness_loss")}
PARTS = {
    "second": ("ear", "language_model"),
    "avcap": ("audio_visual_encoder", "language_model"),
    "dali": ("audio_tower", "audio_multi_modal_projector", "language_model"),
}
OF_A_FILM = {"dali": "audio"}
# A field in which a checkpoint and what continues it must agree, and another value of it.
OTHERS = {
    "second": ("num_mel_bins", {"num_mel_bins": 64}),
    "dali": ("audio_projector", {"audio_projector": "image"}),
    "avcap": (
        "audio_visual_config.image_size",
        {"audio_visual_config": AVCAP["audio_visual_config"] | {"image_size": 32}},
    ),
}
RECIPE = {
    "max_new_tokens": 4,
    "num_beams": 1,
    "max_steps": 4,
    "per_device_train_batch_size": 4,
    "learning_rate": 1e-3,
    "logging_steps": 2,
    "eval_strategy": "steps",
    "eval_steps": 2,
    "save_steps": 2,
    "audio_only_rate": 0.2,
}
SHARED = [path for path in FLAT_FILES if path.stem.endswith("_captioning")]
LOAD = """
import json, sys
from transformers import AutoModel, AutoProcessor
model = AutoModel.from_pretrained(sys.argv[1], trust_remote_code=True)
processor = AutoProcessor.from_pretrained(sys.argv[1], trust_remote_code=True)
inputs = processor(sys.argv[2])
print(json.dumps(processor.decode_captions(model.generate(**inputs), inputs)))
"""


@pytest.fixture(
    scope="module",
    params=[*(pytest.param(each, marks=pytest.mark.slow) for each in (SECOND, DALI)), AVCAP],
    ids=["second", "dali", "avcap"],
)
def config(request) -> dict:
    return request.param


@pytest.fixture(scope="module")
def family(config) -> str:
    return config["model_type"]


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    """A folder with the second family's file beside the shared ones, as in a clone, on the path."""
    folder = tmp_path_factory.mktemp("family")
    for file in (*SHARED, ROOT / "tests" / "support" / "modeling_second.py"):
        shutil.copy(file, folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        yield folder


@pytest.fixture(scope="module")
def train(clone, config, family, toy_world, tmp_path_factory):
    def run(name: str, *options: str, changed: dict | None = None):
        output = tmp_path_factory.getbasetemp() / f"{family} family" / name
        recipe = tmp_path_factory.mktemp("recipe") / "recipe.yaml"
        fields = {"data_dir": str(toy_world), "tokenizer_name": str(toy_world / "tokenizer")}
        recipe.write_text(
            yaml.safe_dump(RECIPE | {"model_config": config | (changed or {})} | fields | {"output_dir": str(output)})
        )
        done = run_inside("train_hf.py", recipe, *options)
        assert done.returncode == 0, done.stderr
        return output, done

    return run


@pytest.fixture(scope="module")
def trained(train):
    return train("whole")


def test_it_is_trained_with_its_own_loss(trained, family):
    folder, done = trained
    logs = json.loads((folder / "trainer_state.json").read_text())["log_history"]
    terms = LOSSES.get(family, ("caption_loss",))
    steps = [log for log in logs if terms[-1] in log]
    assert len(steps) == 2
    for log in steps:
        assert log["loss"] == pytest.approx(sum(log[term] for term in terms), rel=1e-5)
    assert any(f"eval_{terms[-1]}" in log and "eval_cider_d" in log for log in logs)
    assert all(part in done.stdout for part in PARTS[family])  # the table of what is trained


def test_an_interrupted_run_ends_with_the_same_weights(trained, train):
    folder, _ = trained
    resumed = folder.with_name("resumed")
    resumed.mkdir()
    shutil.copytree(folder / "checkpoint-2", resumed / "checkpoint-2")
    train("resumed", "--resume_from_checkpoint", "true")
    expected, found = (load_file(run / "model.safetensors") for run in (folder, resumed))
    assert all((found[name] == tensor).all() for name, tensor in expected.items())


def test_a_checkpoint_with_another_encoder_is_not_continued(trained, train, family):
    folder, _ = trained
    other = folder.with_name("other")
    other.mkdir()
    shutil.copytree(folder / "checkpoint-2", other / "checkpoint-2")
    field, value = OTHERS[family]
    with pytest.raises(AssertionError, match=field):
        train("other", "--resume_from_checkpoint", "true", changed=value)


def test_it_is_evaluated_and_captions_a_film(trained, family, toy_world, tmp_path):
    folder, _ = trained
    output = tmp_path / "scores"
    arguments = ["--model", folder, "--data_dir", toy_world, "--output", output, "--metrics", "cider_d"]
    done = run_inside("scripts/evaluate.py", *arguments, "--bootstrap", 0)
    assert done.returncode == 0, done.stderr
    results = json.loads((output / "results.json").read_text())
    assert list(results["modalities"]) == ["audio+video", "audio", "video", "audio+other_video"]
    done = run_inside("scripts/caption.py", toy_world / "videos" / "new_clip.mp4", "--model", folder, "--json")
    assert done.returncode == 0, done.stderr
    records = [json.loads(line) for line in done.stdout.splitlines()]
    assert OF_A_FILM.get(family, "audio+video") in {record["modalities"] for record in records}
    assert records[-1]["end"] == pytest.approx(4.0, abs=0.05)


def test_what_is_published_loads_for_a_stranger_and_holds_no_other_family(trained, family, toy_world, tmp_path):
    folder, _ = trained
    upload = tmp_path / "upload"
    done = run_inside("scripts/push_to_hub.py", folder, f"me/{family}", "--dry_run", upload)
    assert done.returncode == 0, done.stderr
    code = {path.name for path in upload.glob("*.py")}
    assert f"modeling_{family}.py" in code and not [name for name in code if name.endswith("_lavcap.py")]
    card = (upload / "README.md").read_text()
    assert "optimal transport" not in card and f"me/{family}" in card
    result = run_stranger(LOAD, upload, toy_world / "videos" / "new_clip.mp4", folder=tmp_path)
    assert len(result.printed) == 1
