"""AVCap through the training command: assembled of pretrained parts, with LoRA, with a frozen decoder."""

import json
import shutil

import pytest
import torch
import yaml
from safetensors.torch import load_file
from stranger import run_inside
from transformers import AutoModelForMultimodalLM

from tiny_avcap import tiny_avcap


pytestmark = pytest.mark.whole


RECIPE = {
    "model_config": {"model_type": "avcap", "label_smoothing": 0.05},
    "num_beams": 1,
    "max_steps": 2,
    "per_device_train_batch_size": 4,
    "learning_rate": 1e-2,
    "eval_strategy": "no",
    "audio_only_rate": 0.3,
    "video_only_rate": 0.3,
}
LORA = {
    "r": 2,
    "lora_alpha": 8,
    "target_modules": r".*(audio_visual_encoder|language_model)\..*\.(q_proj|v_proj|query|value)",
    "modules_to_save": ["multi_modal_projector"],
}


@pytest.fixture(scope="module")
def parts(tmp_path_factory, tokenizer):
    """Folders of an encoder and of a decoder with its tokenizer."""
    folder = tmp_path_factory.mktemp("avcap parts")
    special = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    model = tiny_avcap(text_config=special | {"vocab_size": len(tokenizer)})
    model.audio_visual_encoder.save_pretrained(folder / "cavmae")
    model.language_model.save_pretrained(folder / "git")
    tokenizer.save_pretrained(folder / "git")
    return folder


@pytest.fixture
def train(parts, toy_world, tmp_path):
    def run(name: str, **fields):
        recipe = RECIPE | {"text_model": str(parts / "git"), "audio_visual_model": str(parts / "cavmae")}
        recipe |= {"data_dir": str(toy_world), "output_dir": str(tmp_path / name)} | fields
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump({key: value for key, value in recipe.items() if value is not None}))
        return tmp_path / name, run_inside("train_hf.py", path)

    return run


def test_lora_is_trained_on_parts_and_comes_back_on_them(train, parts, toy_world):
    folder, done = train("lora", lora=LORA)
    assert done.returncode == 0, done.stderr
    assert not (folder / "model.safetensors").exists()
    config = json.loads((folder / "config.json").read_text())
    assert config["base_parts"] == {"text": str(parts / "git"), "audio_visual": str(parts / "cavmae")}
    model = AutoModelForMultimodalLM.from_pretrained(folder)
    assert model.config.label_smoothing == 0.05
    adapter = load_file(folder / "adapter_model.safetensors")
    layers = {name.split(".")[2] for name in adapter}
    assert layers == {"audio_visual_encoder", "language_model", "multi_modal_projector"}
    moved = [name for name, tensor in adapter.items() if "lora_B" in name and tensor.any()]
    assert {name.split(".")[2] for name in moved} == {"audio_visual_encoder", "language_model"}
    done = run_inside("scripts/caption.py", toy_world / "videos" / "new_clip.mp4", "--model", folder)
    assert done.returncode == 0 and done.stdout.count("\n") == 9, done.stderr  # windows of 0.48 s


@pytest.mark.slow
def test_a_frozen_decoder_stays_and_the_projection_is_trained_unless_that_is_frozen_too(train, parts):
    base = AutoModelForMultimodalLM.from_pretrained
    decoder = load_file(parts / "git" / "model.safetensors")
    trained = {}
    for name, frozen in {"one": ["language_model"], "both": ["language_model", "multi_modal_projector"]}.items():
        folder, done = train(name, freeze=frozen)
        assert done.returncode == 0, done.stderr
        model = base(folder)
        assert torch.equal(model.language_model.embeddings.word_embeddings.weight,
                           decoder["embeddings.word_embeddings.weight"])  # fmt: skip
        encoder = load_file(parts / "cavmae" / "model.safetensors")
        assert not torch.equal(model.audio_visual_encoder.audio_pos_embed, encoder["audio_pos_embed"])
        trained[name] = model.multi_modal_projector.layer_norm.bias
    assert trained["one"].any() and not trained["both"].any()


@pytest.mark.slow
def test_a_run_of_parts_goes_on_to_the_bit(train):
    whole, done = train("whole", max_steps=4, save_steps=2)
    assert done.returncode == 0, done.stderr
    resumed = whole.with_name("resumed")
    resumed.mkdir()
    shutil.copytree(whole / "checkpoint-2", resumed / "checkpoint-2")
    folder, done = train("resumed", max_steps=4, save_steps=2, resume_from_checkpoint="true")
    assert done.returncode == 0, done.stderr
    expected, found = (load_file(each / "model.safetensors") for each in (whole, folder))
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"audio_model": "somebody/ced"}, "audio_visual_model: leave audio out"),
        ({"audio_visual_model": None}, "name audio_visual, too"),
        ({"instructions": ["released"]}, "AVCap takes none"),
        ({"load_in_4bit": True, "lora": LORA}, "leave quantization_config out"),
        ({"lora": LORA | {"modules_to_save": None}}, "multi_modal_projector"),
        ({"model_config": {"model_type": "avcap", "video_patch": "inflated"}}, "did you mean video_patches"),
        (
            {"lora": LORA, "model_config": {"model_type": "avcap", "audio_visual_config": {"num_video_frames": 2}}},
            "audio_visual_encoder",
        ),
    ],
)
def test_recipes_that_cannot_be_meant_end_in_one_line(train, fields, message):
    _, done = train("refused", **fields)
    assert done.returncode == 2 and message in done.stderr and done.stderr.count("\n") == 1, done.stderr
