"""Reading weight files of strangers: every container, nothing executed, and messages that say what to do."""

import json
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from weights_captioning import WeightsError, load_strictly, read_weights


STATE = {"a": torch.arange(4.0), "b.c": torch.ones(2, 2)}


class Trap:
    """A pickle of this makes a file when it is loaded without care."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def same(found: dict, expected: dict = STATE) -> bool:
    return found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in expected)


def test_every_container_of_a_state_dict_is_read(tmp_path):
    torch.save(STATE, tmp_path / "plain.bin")
    torch.save({"model": STATE, "epoch": 1, "optimizer": {"lr": 0.1}, "scaler": None}, tmp_path / "runner.pth")
    torch.save({"state_dict": STATE}, tmp_path / "lightning.ckpt")
    torch.save(STATE, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    save_file(STATE, tmp_path / "model.safetensors")
    save_file(STATE, tmp_path / "unknown suffix.dat")
    names = ("plain.bin", "runner.pth", "lightning.ckpt", "old.pt", "model.safetensors", "unknown suffix.dat")
    assert all(same(read_weights(tmp_path / name)) for name in names)
    assert same(read_weights(tmp_path))


def test_shards_are_put_together(tmp_path):
    torch.save({"a": STATE["a"]}, tmp_path / "part-1.bin")
    torch.save({"b.c": STATE["b.c"]}, tmp_path / "part-2.bin")
    index = {"weight_map": {"a": "part-1.bin", "b.c": "part-2.bin"}}
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    assert same(read_weights(tmp_path))


def test_a_pickle_that_would_run_code_is_refused_and_does_not(tmp_path):
    torch.save({"model": STATE, "trap": Trap(tmp_path / "sprung")}, tmp_path / "bad.pth")
    (tmp_path / "plain.pkl").write_bytes(pickle.dumps(Trap(tmp_path / "sprung")))
    with pytest.raises(WeightsError, match=r"bad.pth: refused, for it needs more than tensors .*getattr.*can run any"):
        read_weights(tmp_path / "bad.pth")
    with pytest.raises(WeightsError, match="plain.pkl: "):
        read_weights(tmp_path / "plain.pkl")
    assert not (tmp_path / "sprung").exists()


def test_what_is_no_state_dict_is_named(tmp_path):
    torch.save([1, 2], tmp_path / "list.pt")
    torch.save({"epoch": 3, "a": torch.ones(1)}, tmp_path / "mixed.pt")
    torch.save({}, tmp_path / "empty.pt")
    torch.save(STATE, tmp_path / "whole.pt")
    (tmp_path / "cut.pt").write_bytes((tmp_path / "whole.pt").read_bytes()[:-200])
    save_file(STATE, tmp_path / "whole.safetensors")
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "whole.safetensors").read_bytes()[:-8])
    (tmp_path / "text.pt").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    (tmp_path / "nothing.pt").touch()
    (tmp_path / "folder").mkdir()
    for name, message in {
        "list.pt": "holds list, expected a state dict",
        "mixed.pt": "epoch is no tensor, expected a state dict",
        "empty.pt": "holds dict, expected a state dict",
        "cut.pt": "not a readable weight file",
        "cut.safetensors": "not a readable safetensors file",
        "text.pt": "not a readable weight file|refused",
        "nothing.pt": "not a readable weight file",
        "folder": "holds no weights, expected one of model.safetensors",
        "missing.pt": "no such file",
    }.items():
        with pytest.raises(WeightsError, match=f"{name}: ({message})"):
            read_weights(tmp_path / name)


def test_strict_loading_names_everything_that_is_wrong_at_once():
    module = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    weights = dict(module.state_dict())
    weights.pop("1.running_mean")
    weights["extra"] = torch.ones(1)
    weights["0.weight"] = torch.ones(2, 4)
    with pytest.raises(WeightsError) as failure:
        load_strictly(module, weights, origins={"extra": "their.extra"})
    message = str(failure.value)
    assert "1 filled by nothing:\n  1.running_mean" in message
    assert "1 without a place in the model:\n  their.extra" in message
    assert "1 of another shape:\n  0.weight: expected (2, 3), got (2, 4)" in message
