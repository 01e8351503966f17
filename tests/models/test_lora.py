"""What of a model is trained, by LoRA and by whole modules, and the recipes that say so."""

import math

import pytest
import torch
import yaml
from clips import clip_inputs
from language_kinds import small_fields
from model_parts import LORA
from peft import PeftModel
from tiny_models import tiny_model
from torch import nn

from configuration_lavcap import LavcapConfig
from conftest import ROOT
from lavcap.data.augmentation import RELEASED_INSTRUCTIONS, Augmentation
from lavcap.models.building import ModelArguments
from lavcap.models.kernel_advice import KernelAdvice
from lavcap.models.lora import add_lora, freeze, num_trained, trainable_table
from lavcap.training.data import DataArguments
from lavcap.training.recipe import parse_recipe
from modeling_lavcap import LavcapForConditionalGeneration
from train_hf import AugmentationArguments, TrainingArguments, build_augmentation


KINDS = (ModelArguments, DataArguments, AugmentationArguments, TrainingArguments)
RELEASED, TODAY = (ROOT / "configs" / f"lavcap_llama2_7b{name}.yaml" for name in ("", "_today"))


def without_bf16(recipe, tmp_path) -> list[str]:
    """Arguments that a machine without an accelerator takes, too."""
    return [str(recipe), "--bf16", "false", "--use_cpu", "true", "--output_dir", str(tmp_path / "run")]


@pytest.mark.parametrize("recipe", [RELEASED, TODAY], ids=lambda path: path.stem)
def test_the_recipes_train_7639041_parameters_at_the_released_sizes(recipe, tmp_path):
    model_args, _, _, args = parse_recipe(KINDS, without_bf16(recipe, tmp_path))
    config = LavcapConfig(has_vision_tower=False, **model_args.model_config)
    with torch.device("meta"):
        model = add_lora(LavcapForConditionalGeneration(config).to(torch.bfloat16), model_args.lora)
    assert num_trained(model) == 294_912 + 4_194_304 + 3_149_824 + 1 == 7_639_041
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}
    rows = {line.split()[0]: line.split()[1:] for line in trainable_table(model).splitlines()}
    assert rows["audio_tower"][0] == "294,912" and rows["audio_tower"][-1] == "LoRA"
    assert rows["language_model"] == ["4,194,304", "6,738,423,808", "LoRA"]
    assert rows["multi_modal_projector"] == ["3,149,824", "3,149,824", "whole"]
    assert rows["fusion"] == ["1", "1", "whole"]
    assert rows["all"][0] == "7,639,041"


def test_the_first_recipe_is_the_released_one(tmp_path):
    """Values of `configs/config_best.yaml` and what `optims.py` makes of them."""
    model_args, data_args, augmentation_args, args = parse_recipe(KINDS, without_bf16(RELEASED, tmp_path))
    assert (model_args.lora["r"], model_args.lora["lora_alpha"], model_args.lora["lora_dropout"]) == (8, 32, 0.1)
    augmentation: Augmentation = build_augmentation(augmentation_args)
    assert (augmentation.frequency_mask, augmentation.time_mask) == (48, 192) and len(augmentation.instructions) == 8
    assert (args.weight_decay, args.adam_beta1, args.adam_beta2, args.optim) == (1e-6, 0.9, 0.999, "adamw_torch")
    assert (args.num_train_epochs, args.per_device_train_batch_size, args.seed) == (100, 4, 42)
    assert (model_args.num_beams, args.generation_num_beams, model_args.max_new_tokens) == (4, 4, 200)
    assert data_args.validation_split == "val" and args.metric_for_best_model == "cider_d"
    assert yaml.safe_load(RELEASED.read_text())["bf16"] is True


def test_the_first_recipe_writes_the_released_instructions_out(tmp_path):
    assert tuple(yaml.safe_load(RELEASED.read_text())["instructions"]) == RELEASED_INSTRUCTIONS
    for recipe in (RELEASED, TODAY):  # as texts, and by the word that stands for them
        _, _, augmentation_args, _ = parse_recipe(KINDS, without_bf16(recipe, tmp_path))
        assert build_augmentation(augmentation_args).instructions == RELEASED_INSTRUCTIONS


def test_the_learning_rate_of_the_first_recipe_is_the_released_one(tmp_path):
    from transformers import get_scheduler

    *_, args = parse_recipe(KINDS, without_bf16(RELEASED, tmp_path))
    epochs, steps = 100, 50
    total, warm_up = epochs * steps, args.get_warmup_steps(epochs * steps)
    assert warm_up == 2 * steps
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(()))], lr=args.learning_rate)
    scheduler = get_scheduler(args.lr_scheduler_type, optimizer, warm_up, total, args.lr_scheduler_kwargs)
    apart, relative = 0.0, 0.0
    for step in range(total):
        rate = optimizer.param_groups[0]["lr"]
        if step < warm_up:
            released = min(5e-6, 2e-9 + (5e-6 - 2e-9) * step / warm_up)
        else:
            released = (5e-6 - 1e-8) * 0.5 * (1 + math.cos(math.pi * step / total)) + 1e-8
        apart = max(apart, abs(rate - released) / 5e-6)
        relative = max(relative, abs(rate - released) / released if step >= warm_up else 0.0)
        optimizer.step()
        scheduler.step()
    assert rate == pytest.approx(1e-8, rel=1e-2)
    assert apart == pytest.approx(0.018, abs=5e-4) and relative == pytest.approx(0.04, abs=5e-3)
    assert "1.8 % of the peak" in RELEASED.read_text() and "at most 4 %" in RELEASED.read_text()


def test_what_the_second_recipe_changes_is_commented(tmp_path):
    """Every field that differs stands under a comment that gives the reason."""
    first, second = (yaml.safe_load(path.read_text()) for path in (RELEASED, TODAY))
    flat = [recipe | recipe.pop("model_config") for recipe in (first, second)]
    changed = {name for name in flat[1] if flat[1][name] != flat[0].get(name)} - {"output_dir"}
    assert {"alignment_objective", "audio_only_rate", "warmup_steps", "per_device_train_batch_size"} <= changed
    lines, explained, in_comment = TODAY.read_text().splitlines(), set(), False
    for line in lines:
        name = line.split(":")[0].strip()
        if line.strip().startswith("#"):
            in_comment = len(line) > 30
        elif not line.strip():
            in_comment = False
        elif in_comment:
            explained.add(name)
    assert changed - explained <= {"logging_steps", "per_device_eval_batch_size"}


def test_lora_trains_adapters_and_whole_modules_and_nothing_else():
    model = add_lora(tiny_model().to(torch.bfloat16), LORA)
    assert isinstance(model, PeftModel)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert all(".lora_" in name or ".modules_to_save." in name for name in trained)
    assert {name.split(".")[2] for name in trained} == {
        *("audio_tower", "language_model", "multi_modal_projector", "fusion")
    }
    assert {p.dtype for n, p in model.named_parameters() if n in trained} == {torch.float32}
    assert model.get_base_model().audio_tower.layers[0].mlp.fc1.weight.dtype == torch.bfloat16


def test_a_fusion_without_parameters_is_left_out():
    model = add_lora(tiny_model(optimal_transport=False), LORA)
    assert model.peft_config["default"].modules_to_save == ["multi_modal_projector"]
    assert num_trained(add_lora(tiny_model(fusion="video_only"), LORA)) > 0


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"lora_alfa": 32}, "'lora_alfa' is not a field of lora; did you mean lora_alpha"),
        (
            {"modules_to_save": ["projector"]},
            "Got 'projector' to train or to freeze, expected parts of the model: aud",
        ),
        ({"modules_to_save": ["fusion.scale"]}, "Got 'fusion.scale' to train or to freeze, which the model does not"),
        ({"target_modules": "nothing"}, "No modules were targeted for adaptation|not found in the base model"),
        ({"r": 0}, "(?i)r.* should be a positive integer"),
        ({"r": "8"}, "which PEFT cannot make an adapter of"),
        ({"target_modules": "*foo("}, "which PEFT cannot make an adapter of"),
        ({"bias": "all"}, "expected an adapter that can be trained and loaded"),
        ({"inference_mode": True}, "expected an adapter that can be trained and loaded"),
        (
            {"init_lora_weights": "pissa_niter_4"},
            "has init_lora_weights: pissa_niter_4, expected .* true, false, gauss",
        ),
        *(
            ({"init_lora_weights": name}, f"{name}, expected .*; others change the weights of the base")
            for name in ("pissa", "olora", "corda", "loftq", "eva", "lora_ga", "mica", "true")
        ),
    ],
)
def test_lora_that_cannot_be_is_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        add_lora(tiny_model(), LORA | fields)


@pytest.mark.parametrize(("kind", "router"), [("llama4_text", "feed_forward.router"), ("phimoe", "mlp.router")])
def test_all_linear_layers_but_routers_of_experts_take_lora(kind, router):
    fields = {"target_modules": "all-linear"}
    with pytest.raises(ValueError, match=rf"layers.0.{router}, a router of experts, .* exclude_modules: \[router\]"):
        add_lora(tiny_model(text_config=small_fields(kind)), fields)
    model = add_lora(tiny_model(text_config=small_fields(kind)), fields | {"exclude_modules": ["router"]})
    model(**clip_inputs(model)).logits.sum().backward()
    assert [name for name, weight in model.named_parameters() if "q_proj.lora_B" in name and weight.grad.any()]


@pytest.mark.parametrize("beginning", [True, False, "gaussian", "orthogonal"])
def test_lora_begins_in_ways_that_leave_the_base_as_it_is(beginning):
    model = tiny_model()
    before = {name: weight.clone() for name, weight in model.named_parameters()}
    adapted = add_lora(model, LORA | {"init_lora_weights": beginning})
    after = {name.replace(".base_layer", ""): weight for name, weight in adapted.unload().named_parameters()}
    assert all(torch.equal(after[name], weight) for name, weight in before.items())


def test_parts_can_be_frozen():
    model = tiny_model()
    freeze(model, ["vision_tower", "language_model"])
    rows = {line.split()[0]: line.split()[-1] for line in trainable_table(model).splitlines()}
    assert rows["vision_tower"] == rows["language_model"] == "frozen" and rows["audio_tower"] == "whole"
    freeze(tiny_model(has_vision_tower=False), ["vision_tower"])
    with pytest.raises(ValueError, match="Got freeze for every part"):
        freeze(model, ["audio_tower", "fusion", "multi_modal_projector"])
    with pytest.raises(ValueError, match="Got 'clip' to train or to freeze, expected parts of the model: audio_tower"):
        freeze(model, ["clip"])


def test_advice_on_kernels_is_held_back_until_4_bits_are_asked_for(caplog):
    advice = KernelAdvice("bitsandbytes.of.the.test")
    advice.hold()
    advice.logger.warning("no kernel")
    assert not caplog.messages
    advice.release()
    advice.logger.warning("another")
    assert caplog.messages == ["no kernel", "another"]
