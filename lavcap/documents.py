"""Files of text, JSON and YAML: from people, from other programs, that may be damaged.

Regular files alone are read, no pipes and no devices: one that nobody writes to would be waited for without end. So a
recipe or a table of captions cannot come from `<(command)` or /dev/stdin.
"""

import errno
import json
from pathlib import Path
from typing import Any


def read_bytes(path: str | Path) -> bytes:
    """Content of a regular file.

    Raises:
        FileNotFoundError: there is none.
        OSError: it cannot be read, or is a folder, a pipe or a device; `strerror` is the reason.
    """
    path = Path(path)
    if path.exists() and not path.is_file() and not path.is_dir():
        raise OSError(errno.EINVAL, "a pipe or a device, expected a regular file", str(path))
    return path.read_bytes()


def reason_of(error: Exception) -> str:
    """Why a file cannot be read, in one line and without its name."""
    return getattr(error, "strerror", None) or " ".join(str(error).split())


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
    """Content of YAML; raises as [`parse_json`], and where a value holds itself."""
    import yaml  # which few commands need

    try:
        content = yaml.safe_load(text)
        if isinstance(content, (dict, list)):
            _check_ends(content, (), set())
    except (RecursionError, yaml.YAMLError) as error:
        raise ValueError(" ".join(str(error).split())) from error
    return content


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
        return parse_json(read_bytes(path))
    except FileNotFoundError:
        raise error(f"{path}: no such file; {absent}.") from None
    except (OSError, ValueError) as fault:
        raise error(f"{path}: not readable as JSON ({reason_of(fault)}); {advice}.") from fault


def read_object(path: str | Path) -> dict[str, Any] | None:
    """Content of a JSON file that may well be damaged: nothing where it is missing, cut short or no object."""
    try:
        value = read_json(path, "")
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def _check_ends(value: Any, above: tuple[int, ...], known: set[int]):
    """Refuse a value that an alias puts into itself; `above` is what it stands in, `known` what comes to an end."""
    if id(value) in above:
        raise ValueError("an alias stands inside of what it stands for, which has no end")
    for item in value.values() if isinstance(value, dict) else value:
        if isinstance(item, (dict, list)) and id(item) not in known:
            _check_ends(item, (*above, id(value)), known)
    known.add(id(value))
