"""Recipes: a YAML file of fields, overridden by options of the command line."""

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

from transformers import HfArgumentParser

from lavcap.arguments import parse_object, reject_unknown
from lavcap.documents import parse_yaml, read_bytes, reason_of


class _Parser(HfArgumentParser):
    def error(self, message: str):
        # The usage of some 150 options would bury the message.
        raise ValueError(f"{message}; --help lists every option.")


def parse_recipe(dataclass_types: tuple[type, ...], arguments: list[str] | None = None) -> tuple[Any, ...]:
    """Instances of the data classes from `[RECIPE.yaml] [--field value …]`.

    Raises:
        ValueError: the recipe is no readable YAML object, a field is unknown, and then the nearest known one is
            named, or the library cannot use one.
    """
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    fields = {field.name for kind in dataclass_types for field in dataclasses.fields(kind) if field.init}
    parser = _Parser(dataclass_types, allow_abbrev=False)
    if arguments and not arguments[0].startswith("-"):
        path = Path(arguments.pop(0))
        recipe = read_recipe(path)
        reject_unknown(f"a field of {path}", recipe, fields)
        of_several = {action.dest for action in parser._actions if action.nargs == "+"}
        arguments = [*_as_options(path, recipe, of_several), *_merged(arguments, recipe)]
    try:
        *parsed, unknown = parser.parse_args_into_dataclasses(arguments, return_remaining_strings=True)
    except (AttributeError, ImportError, KeyError, TypeError) as error:  # of the library's own fields
        words = " ".join(str(error).split())
        raise ValueError(f"An option, or what it needs, cannot be used ({type(error).__name__}: {words}).") from error
    reject_unknown("an option", [item.lstrip("-").split("=")[0] for item in unknown], fields)
    return tuple(parsed)


def read_recipe(path: str | Path) -> dict[str, Any]:
    """Fields of a recipe, by name.

    Raises:
        ValueError: no such file, no regular one, no YAML, or no fields; it names the file.
    """
    try:
        recipe = parse_yaml(read_bytes(path).decode("utf-8-sig"))
    except FileNotFoundError:
        raise ValueError(f"{path}: no such recipe; the recipes of this project are in configs/.") from None
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: not readable as YAML ({reason_of(error)}); mend it.") from error
    if not isinstance(recipe, dict):
        raise ValueError(f"{path}: holds a {type(recipe).__name__}, expected `field: value` lines.")
    return recipe


def _as_options(path: Path, recipe: dict[str, Any], of_several: set[str]) -> list[str]:
    """Fields as the command line would give them, so that both are read by one parser.

    Args:
        of_several: fields that take several values.

    Raises:
        ValueError: a list for a field of one value, or a value that JSON does not have.
    """
    options = []
    for name, value in recipe.items():
        if value is None:
            continue
        values = value if isinstance(value, list) else [value]
        if len(values) != 1 and name not in of_several:
            raise ValueError(f"{path}: {name} is a list of {len(values)}, expected one value; mend it.")
        try:
            options += [f"--{name}", *(_as_option(item) for item in values)]
        except (TypeError, ValueError) as error:
            raise ValueError(f"{path}: {name} cannot be used ({error}), expected values of JSON; mend it.") from error
    return options


def _as_option(value: Any) -> str:
    return json.dumps(value) if isinstance(value, (bool, dict)) else str(value)


def _merged(arguments: list[str], recipe: dict[str, Any]) -> list[str]:
    """Options whose value is an object change fields of the recipe's object; they do not replace it."""
    merged = list(arguments)
    for index, name in enumerate(merged[:-1]):
        fields = recipe.get(name.removeprefix("--"))
        if name.startswith("--") and isinstance(fields, dict):
            merged[index + 1] = json.dumps(_update(fields, parse_object(merged[index + 1], name)))
    return merged


def _update(fields: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """`fields` with `changes`, object by object."""
    both = {name: _update(fields[name], value) for name, value in changes.items() if _are_objects(fields, name, value)}
    return fields | changes | both


def _are_objects(fields: dict[str, Any], name: str, value: Any) -> bool:
    return isinstance(value, dict) and isinstance(fields.get(name), dict)
