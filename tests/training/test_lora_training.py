"""The training command with LoRA on pretrained parts: what it saves, and how it goes on."""

import json

import pytest
import torch
import yaml
from model_parts import LORA as SMALL_LORA
from model_parts import write_parts
from safetensors.torch import load_file
from stranger import run_inside
from transformers import AutoTokenizer, BitsAndBytesConfig

from modeling_lavcap import LavcapForConditionalGeneration


pytestmark = pytest.mark.whole


LORA = SMALL_LORA | {"lora_dropout": 0.1}


FOUR_BITS = BitsAndBytesConfig(load_in_4bit=True)


@pytest.fixture(scope="module")
def parts(tmp_path_factory, toy_world):
    folder = tmp_path_factory.mktemp("parts")
    tokenizer = AutoTokenizer.from_pretrained(toy_world / "tokenizer")
    write_parts(folder, tokenizer, text_config={"vocab_size": len(tokenizer)}, audio_config={"max_frames": 400})
    return folder


@pytest.fixture(scope="module")
def recipe(parts, tmp_path_factory, toy_world):
    folder = tmp_path_factory.mktemp("recipe")
    fields = {
        "text_model": str(parts / "llama-tiny"),
        "audio_model": str(parts / "tower"),
        "vision_model": str(parts / "clip-tiny"),
        "model_config": {"num_video_frames": 4},
        "lora": LORA,
        "data_dir": str(toy_world),
        "use_cpu": True,
        "max_steps": 4,
        "save_steps": 2,
        "per_device_train_batch_size": 4,
        "learning_rate": 1e-2,
        "logging_steps": 2,
        "eval_strategy": "no",
        "max_new_tokens": 4,
        "num_beams": 1,
        "report_to": "none",
        "disable_tqdm": True,
        "cache_features": True,
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(fields))
    return folder / "recipe.yaml"


def train(recipe, output, *options):
    done = run_inside("train_hf.py", recipe, "--output_dir", output, *options)
    assert done.returncode == 0, done.stderr[-2000:]
    return done


@pytest.fixture(scope="module")
def trained(recipe, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "run"
    return folder, train(recipe, folder).stdout


def test_checkpoints_hold_what_was_trained_and_the_code(trained, parts):
    folder, printed = trained
    whole = sum(file.stat().st_size for file in parts.glob("*/model.safetensors"))
    for place in (folder, folder / "checkpoint-2", folder / "checkpoint-4"):
        assert not list(place.glob("model*.safetensors")) and not (place / "README.md").exists()
        tensors = load_file(place / "adapter_model.safetensors")
        assert (
            sum(tensor.numel() for tensor in tensors.values())
            == json.loads((folder / "train_results.json").read_text())["trained_parameters"]
        )
        assert all("lora_" in name or "multi_modal_projector" in name or "logit_scale" in name for name in tensors)
        assert (place / "adapter_model.safetensors").stat().st_size < whole / 5
        for name in ("modeling_lavcap.py", "adapters_captioning.py", "processor_config.json", "tokenizer.json"):
            assert (place / name).is_file()
    assert "language_model" in printed and "LoRA" in printed


def test_a_checkpoint_is_loaded_onto_its_parts_with_what_was_trained(trained, parts):
    model = LavcapForConditionalGeneration.from_pretrained(trained[0] / "checkpoint-2")
    tensors = load_file(trained[0] / "checkpoint-2" / "adapter_model.safetensors")
    state = model.state_dict()
    for name, tensor in tensors.items():
        name = name.removeprefix("base_model.model.").replace("lora_A.weight", "lora_A.default.weight")
        name = name.replace("lora_B.weight", "lora_B.default.weight")
        for module in LORA["modules_to_save"]:
            name = name.replace(f"{module}.", f"{module}.modules_to_save.default.")
        assert torch.equal(state[name], tensor), name
    base = load_file(parts / "llama-tiny" / "model.safetensors")
    assert torch.equal(state["language_model.lm_head.weight"], base["lm_head.weight"])
    assert model.generation_config.max_new_tokens == 4


@pytest.mark.slow
def test_a_run_goes_on_from_a_checkpoint_to_the_bit(trained, recipe, tmp_path):
    train(recipe, tmp_path / "run", "--max_steps", "2", "--lr_scheduler_type", "constant")
    train(recipe, tmp_path / "run", "--resume_from_checkpoint", "true", "--lr_scheduler_type", "constant")
    train(recipe, tmp_path / "whole", "--lr_scheduler_type", "constant")
    whole, parts = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("whole", "run"))
    assert [name for name in whole if not torch.equal(whole[name], parts[name])] == []
    before = load_file(tmp_path / "run" / "checkpoint-2" / "adapter_model.safetensors")
    assert all(not torch.equal(before[name], parts[name]) for name in before)


@pytest.mark.slow
def test_a_trained_adapter_is_trained_on(trained, recipe, tmp_path):
    fields = yaml.safe_load(recipe.read_text())
    for name in ("text_model", "audio_model", "vision_model", "model_config", "lora"):
        del fields[name]
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(fields))
    options = ("--model_name_or_path", trained[0], "--learning_rate", "0", "--max_steps", "1")
    train(tmp_path / "recipe.yaml", tmp_path / "run", *options)
    first, second = (load_file(folder / "adapter_model.safetensors") for folder in (trained[0], tmp_path / "run"))
    assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
    train(tmp_path / "recipe.yaml", tmp_path / "more", "--model_name_or_path", trained[0], "--max_steps", "1")
    third = load_file(tmp_path / "more" / "adapter_model.safetensors")
    assert all(not torch.equal(first[name], third[name]) for name in first)
    again = run_inside("train_hf.py", recipe, "--output_dir", tmp_path / "x", "--text_model", trained[0])
    assert again.returncode == 2 and "is a LAVCap, expected a language model" in again.stderr


def test_a_checkpoint_of_another_language_model_stops_with_both_names(trained, recipe, parts, tmp_path):
    (tmp_path / "run").symlink_to(trained[0])
    renamed = tmp_path / "other" / "vicuna"
    renamed.mkdir(parents=True)
    for file in (parts / "llama-tiny").iterdir():
        (renamed / file.name).write_bytes(file.read_bytes())
    options = ("--resume_from_checkpoint", "true", "--text_model", renamed)
    done = run_inside("train_hf.py", recipe, "--output_dir", tmp_path / "run", *options)
    assert done.returncode == 2
    assert "was trained on another language model, expected llama-tiny, got vicuna" in done.stderr


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"r": 4}, "was made with another lora.r; continue with the recipe"),
        ({"use_rslora": True}, "was made with another lora.use_rslora"),
        ({"target_modules": ["q_proj"]}, "was made with another lora.target_modules"),
    ],
)
def test_a_checkpoint_of_other_adapters_is_refused(trained, recipe, change, message):
    options = ("--resume_from_checkpoint", "true", "--max_steps", "6", "--lora", json.dumps(change))
    done = run_inside("train_hf.py", recipe, "--output_dir", trained[0], *options)
    assert done.returncode == 2 and message in done.stderr


def test_lora_that_would_leave_random_weights_is_refused(recipe, tmp_path):
    options = ("--output_dir", tmp_path / "run", "--lora", json.dumps({"modules_to_save": ["fusion"]}))
    done = run_inside("train_hf.py", recipe, *options)
    assert done.returncode == 2 and "expected multi_modal_projector too: these begin with random" in done.stderr


def test_a_checkpoint_of_another_kind_is_refused(trained, recipe, tmp_path):
    fields = yaml.safe_load(recipe.read_text())
    del fields["lora"]
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(fields))
    options = ("--output_dir", trained[0], "--resume_from_checkpoint", "true")
    done = run_inside("train_hf.py", tmp_path / "recipe.yaml", *options)
    assert done.returncode == 2
    assert "is a checkpoint of an adapter, but the recipe trains a whole model" in done.stderr


def test_qlora_trains_adapters_on_a_base_in_4_bits(recipe, tmp_path):
    pytest.importorskip("bitsandbytes")
    done = train(recipe, tmp_path / "run", "--load_in_4bit", "true", "--max_steps", "2")
    rows = {line.split()[0]: line.split()[1:] for line in done.stdout.splitlines() if line.strip()}
    plain = LavcapForConditionalGeneration.from_pretrained(tmp_path / "run")
    language_model = sum(p.numel() for n, p in plain.language_model.named_parameters() if "lora_" not in n)
    assert rows["language_model"][1] == f"{language_model:,}"  # though two of them are packed into a byte
    model = LavcapForConditionalGeneration.from_pretrained(tmp_path / "run", quantization_config=FOUR_BITS)
    kinds = {name: type(parameter).__name__ for name, parameter in model.named_parameters()}
    packed = {name for name, kind in kinds.items() if kind == "Params4bit"}
    assert packed and all(name.startswith("language_model.model.layers.") for name in packed)
    tensors = load_file(tmp_path / "run" / "adapter_model.safetensors")
    moved = [name for name, tensor in tensors.items() if "lora_B" in name and tensor.abs().max() > 0]
    assert len(moved) == sum("lora_B" in name for name in tensors) > 4
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float32}


@pytest.mark.slow
def test_the_released_precision_trains_and_captions(recipe, tmp_path):
    """Frozen weights in bfloat16, what is trained in float32, autocast, and activations that are computed again."""
    options = ("--model_dtype", "bfloat16", "--bf16", "true", "--gradient_checkpointing", "true", "--max_steps", "2")
    train(recipe, tmp_path / "run", *options, "--eval_strategy", "steps", "--eval_steps", "2")
    history = json.loads((tmp_path / "run" / "trainer_state.json").read_text())["log_history"]
    losses = [entry[name] for entry in history for name in ("loss", "eval_loss") if name in entry]
    assert len(losses) >= 2 and all(0 < loss < 20 for loss in losses)
    tensors = load_file(tmp_path / "run" / "adapter_model.safetensors")
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float32}
    assert all(tensor.abs().max() > 0 for name, tensor in tensors.items() if "lora_B" in name)
    model = LavcapForConditionalGeneration.from_pretrained(tmp_path / "run")
    assert model.language_model.lm_head.weight.dtype == torch.bfloat16
