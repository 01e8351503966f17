"""Transformers' own common tests as a package, read from where `scripts/fetch_library_tests.py` put them.

`from library_tests.test_modeling_common import ModelTesterMixin`. Its source distribution leaves some modules out
that the others import: an empty class stands in for whatever is taken from those, so that they test nothing.
"""

import importlib.machinery
import sys
import unittest
from pathlib import Path
from types import ModuleType

import transformers


MARKERS = (
    "accelerate_tests",
    "flash_attn_test",
    "flash_attn_3_test",
    "flash_attn_4_test",
    "is_training_test",
    "torch_compile_test",
    "torch_export_test",
)
FOLDER = Path(__file__).parents[1] / ".cache" / f"transformers-{transformers.__version__}" / "tests"

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
        module.url_to_local_path = str
        module.__getattr__ = _stand_in


def _stand_in(name: str) -> type:
    if name.startswith("__"):
        raise AttributeError(name)
    return type(name, (), {})


def skipping(reasons: dict[str, str]):
    """Decorator of a test class: its tests whose names begin with one of `reasons` are skipped, and say why."""

    def decorate(cls: type) -> type:
        for prefix, reason in reasons.items():
            for name in [name for name in dir(cls) if name.startswith(prefix)]:
                setattr(cls, name, unittest.skip(reason)(getattr(cls, name)))
        return cls

    return decorate


sys.meta_path.append(_LeftOut)
