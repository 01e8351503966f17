"""JSON and YAML that is read: from people, from other programs, from files that may be damaged."""

import json
from pathlib import Path
from typing import Any


def parse_json(text: str | bytes) -> Any:
    """Content of JSON; bytes are UTF-8, with a mark of their order or without.

    Raises:
        ValueError: in one line, what is wrong with it.
    """
    try:
        return json.loads(text.decode("utf-8-sig") if isinstance(text, bytes) else text)
    except RecursionError as error:
        raise ValueError(str(error)) from None


def parse_yaml(text: str) -> Any:
    """Content of YAML; raises as [`parse_json`]."""
    import yaml  # which few commands need

    try:
        return yaml.safe_load(text)
    except (RecursionError, yaml.YAMLError) as error:
        raise ValueError(" ".join(str(error).split())) from error


def read_json(
    path: str | Path, advice: str, absent: str = "check the path", error: type[Exception] = ValueError
) -> Any:
    """Content of a JSON file.

    Args:
        advice: what to do about a file that is not readable.
        absent: what to do where there is no such file.
        error: what is raised with that.
    """
    try:
        return parse_json(Path(path).read_bytes())
    except FileNotFoundError:
        raise error(f"{path}: no such file; {absent}.") from None
    except (OSError, ValueError) as fault:
        raise error(f"{path}: not readable as JSON ({fault}); {advice}.") from fault


def read_object(path: str | Path) -> dict[str, Any] | None:
    """Content of a JSON file that may well be damaged: nothing where it is missing, cut short or no object."""
    try:
        value = read_json(path, "")
    except ValueError:
        return None
    return value if isinstance(value, dict) else None
