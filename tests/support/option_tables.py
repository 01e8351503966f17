"""The table of a command's options, as the pages show it.

python tests/support/option_tables.py caption
"""

import argparse
import sys
from importlib import import_module


def option_table(parser: argparse.ArgumentParser) -> str:
    """A row for each argument, in the order of the help."""
    rows = ["| option | what it does |", "|---|---|"]
    for group in parser._action_groups:
        for action in group._group_actions:
            if action.dest != "help":
                rows.append(f"| `{_usage(action)}` | {(action.help or '').replace('|', ',')} |")
    return "\n".join(rows)


def _usage(action: argparse.Action) -> str:
    name = action.option_strings[-1] if action.option_strings else ""
    if action.nargs == 0:
        return name
    if isinstance(action.metavar, tuple):
        value = " ".join(action.metavar)
    else:
        value = action.metavar or (" ".join(map(str, action.choices)) if action.choices else action.dest.upper())
    value = f"[{value}]" if action.nargs == "?" else f"{value} …" if action.nargs in ("+", "*") else value
    return f"{name} {value}".strip()


if __name__ == "__main__":
    print(option_table(import_module(f"lavcap.commands.{sys.argv[1]}").parser()))
