"""Transformers' own common tests as a package, read from where `scripts/fetch_library_tests.py` put them.

`from library_tests.test_modeling_common import ModelTesterMixin`. Its source distribution leaves some modules out
that the others import: empty classes stand in for the mixins that are taken from those, so that they test nothing.
"""

import importlib.machinery
import sys
import tempfile
import unittest
import wave
from importlib.metadata import version
from pathlib import Path
from types import ModuleType


MARKERS = (
    "accelerate_tests",
    "flash_attn_test",
    "flash_attn_3_test",
    "flash_attn_4_test",
    "is_training_test",
    "torch_compile_test",
    "torch_export_test",
)
FOLDER = Path(__file__).parents[2] / ".cache" / f"transformers-{version('transformers')}" / "tests"

__path__ = [str(FOLDER)]


class _LeftOut:
    """Finds the modules that the distribution lacks; asked last, so only after the real ones."""

    @staticmethod
    def find_spec(name: str, path=None, target=None):
        if name.startswith(f"{__name__}.") or name == "fetch_hub_objects_for_ci":
            return importlib.machinery.ModuleSpec(name, _LeftOut, is_package=True)
        return None

    @staticmethod
    def create_module(spec) -> None:
        return None

    @staticmethod
    def exec_module(module: ModuleType):
        module.url_to_local_path = _local_file
        module.__getattr__ = _stand_in


def _local_file(url: str) -> str:
    """A picture or a sound in place of one on the network; other files keep their address, which no test opens."""
    folder = Path(tempfile.gettempdir())
    if url.endswith(".png"):
        from PIL import Image

        path = folder / "lavcap_contract.png"
        Image.new("RGB", (40, 30), "teal").save(path)
    elif url.endswith((".mp3", ".wav")):
        path = folder / "lavcap_contract.wav"
        with wave.open(str(path), "wb") as file:
            file.setparams((1, 2, 16000, 0, "NONE", "not compressed"))
            file.writeframes(bytes(range(256)) * 40)
    else:
        return url
    return str(path)


def _stand_in(name: str) -> type | dict:
    if name.startswith("__"):
        raise AttributeError(name)
    return type(name, (), {}) if name[0].isupper() else {}


def skipping(reasons: dict[str, str]):
    """Decorator of a test class: its tests whose names begin with one of `reasons` are skipped, and say why."""

    def decorate(cls: type) -> type:
        for prefix, reason in reasons.items():
            for name in [name for name in dir(cls) if name.startswith(prefix)]:
                setattr(cls, name, unittest.skip(reason)(getattr(cls, name)))
        return cls

    return decorate


sys.meta_path.append(_LeftOut)
