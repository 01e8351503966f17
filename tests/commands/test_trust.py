"""What is trained moves, and nothing else does: whole models and LoRA, with and without gradient checkpointing."""

import pytest
import torch
from model_parts import LORA as SMALL_LORA
from tiny_models import tiny_model

from lavcap.data.collation import TrainingCollator
from lavcap.data.dataset import ClipDataset
from lavcap.data.splits import load_split, one_row_per_caption
from lavcap.models.lora import add_lora, freeze
from lavcap.training.trainer import CaptioningTrainer
from train_hf import TrainingArguments


# Else B is 0 at first, and A has no gradient in the first step.
LORA = SMALL_LORA | {"init_lora_weights": False}


def whole(model):
    return model


def without_vision(model):
    freeze(model, ["vision_tower", "audio_tower.batch_norm"])
    return model


def lora(model):
    return add_lora(model, LORA)


@pytest.fixture(scope="module")
def clips(toy_world, processor):
    return ClipDataset(one_row_per_caption(load_split(toy_world, "train")).select(range(4)), processor, cache=True)


@pytest.mark.parametrize("checkpointing", [None, False, True], ids=["stored", "not reentrant", "reentrant"])
@pytest.mark.parametrize("trained", [whole, without_vision, lora])
def test_every_trainable_tensor_moves_in_one_step_and_every_frozen_one_stays(
    clips, fitting_config, processor, tmp_path, trained, checkpointing
):
    model = trained(tiny_model(text_config={"vocab_size": fitting_config.text_config.vocab_size}))
    before = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
    options = {"output_dir": str(tmp_path), "use_cpu": True, "report_to": "none", "save_strategy": "no"}
    if checkpointing is not None:
        options |= {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": checkpointing}}
    trainer = CaptioningTrainer(
        model=model,
        args=TrainingArguments(
            **options, max_steps=1, per_device_train_batch_size=4, learning_rate=1e-2, disable_tqdm=True
        ),
        data_collator=TrainingCollator(processor),
        train_dataset=clips,
        processing_class=processor,
    )
    trainer.train()
    recomputed = [module for module in model.modules() if getattr(module, "gradient_checkpointing", False)]
    assert bool(recomputed) == (checkpointing is not None)
    after = model.state_dict()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    trainable = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    # A bias of keys adds the same to all scores of a query: its gradient is 0 but for rounding.
    assert {name for name in trainable - moved if "k_proj.bias" not in name} == set()
    assert len(trainable) > 10
    statistics = {name for name in moved - trainable if name.split(".")[-1].startswith(("running_", "num_batches"))}
    assert moved - trainable == statistics and bool(statistics) == (trained is whole)
