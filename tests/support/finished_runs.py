"""Runs that nothing interrupts, with which those that are continued are compared; each is trained when asked for."""

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from interrupted_runs import Run
from safetensors.torch import load_file
from tiny_models import tiny_model

from lavcap.data.shards import write_shards
from lavcap.data.splits import load_split
from processing_lavcap import LavcapProcessor


class WholeRuns(dict):
    """Runs by their kind: `map-style`, `stream`, `LoRA`."""

    def __init__(self, runs: dict[str, Run]):
        super().__init__()
        self._unfinished = runs

    def __missing__(self, kind: str) -> Run:
        self[kind] = self._unfinished[kind]
        self[kind].finish()
        return self[kind]


@pytest.fixture(scope="session")
def start_model(fitting_config, tokenizer, tmp_path_factory) -> Path:
    """A model with dropout in the encoder and in the language model."""
    folder = tmp_path_factory.mktemp("start") / "model"
    text = {"vocab_size": fitting_config.text_config.vocab_size, "attention_dropout": 0.1}
    audio = {"hidden_dropout": 0.1, "attention_dropout": 0.1}
    model = tiny_model(text_config=text, audio_config=audio)
    model.save_pretrained(folder)
    LavcapProcessor.from_config(model.config, tokenizer).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def runs(toy_world, start_model, tmp_path_factory) -> WholeRuns:
    """Runs of each kind."""
    folder = tmp_path_factory.mktemp("whole")
    write_shards(load_split(toy_world, "train"), folder / "shards", "train", {}, rows_per_shard=7)
    return WholeRuns(
        {
            "map-style": Run(toy_world, start_model, folder / "map-style"),
            "stream": Run(folder / "shards", start_model, folder / "stream", streaming=True),
            "LoRA": Run(toy_world, start_model, folder / "LoRA", lora=True),
        }
    )


@pytest.fixture
def run(runs, tmp_path) -> Run:
    """A run that is yet to begin."""
    return dataclasses.replace(runs["map-style"], output=tmp_path / "run", options={})


@pytest.fixture
def finished(runs, run) -> Run:
    """A copy of a finished run, with a second checkpoint."""
    shutil.copytree(runs["map-style"].output, run.output)
    shutil.copytree(run.output / "checkpoint-6", run.output / "checkpoint-7")
    return run


@pytest.fixture(scope="session")
def short_recipe(toy_world, start_model, tmp_path_factory) -> Path:
    """Of the command: 6 steps, with checkpoints at 3 and 6, of which one is kept."""
    path = tmp_path_factory.mktemp("short") / "recipe.yaml"
    fields = {"data_dir": str(toy_world), "model_name_or_path": str(start_model), "use_cpu": True, "seed": 7}
    fields |= {"max_steps": 6, "save_steps": 3, "save_total_limit": 1, "per_device_train_batch_size": 4}
    fields |= {"eval_strategy": "steps", "eval_steps": 3, "instructions": ["released"], "audio_only_rate": 0.2}
    fields |= {"frequency_mask": 16, "noise": True, "max_new_tokens": 4, "num_beams": 1, "disable_tqdm": True}
    fields |= {"report_to": "none", "cache_features": True}
    path.write_text(yaml.safe_dump(fields | {"learning_rate": 1e-2}))
    return path


def weights(folder: Path) -> dict[str, torch.Tensor]:
    (file,) = folder.glob("*model.safetensors")
    return load_file(file)


def untimed(record: dict[str, float]) -> dict[str, float]:
    """A record of a log without what no two runs have in common."""
    timed = ("_runtime", "_per_second", "_gib")
    return {name: value for name, value in record.items() if not name.endswith(timed)}


def differences(found: Run, expected: Run, last: str = "checkpoint-6") -> list[str]:
    """Files of the run and of its last checkpoint that differ in any bit, but for times and paths."""
    different = []
    for place in (".", last):
        first, second = weights(found.output / place), weights(expected.output / place)
        different += [f"{place}: {name}" for name in first if not torch.equal(first[name], second[name])]
        if first.keys() != second.keys():
            different.append(f"{place}: tensors")
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth"):
        first, second = (each.output / last / name for each in (found, expected))
        if first.read_bytes() != second.read_bytes():
            different.append(name)
    first, second = (json.loads((each.output / "trainer_state.json").read_text()) for each in (found, expected))
    records = [[untimed(entry) for entry in state["log_history"]] for state in (first, second)]
    if records[0] != records[1] or first["global_step"] != second["global_step"]:
        different.append("trainer_state.json")
    return different


def flip_a_bit(file: Path):
    content = bytearray(file.read_bytes())
    content[len(content) * 2 // 3] ^= 0x10
    file.write_bytes(content)
