"""Audio-visual captions from one command.

    lavcap caption holiday.mp4 --model outputs/demo/model
    lavcap caption films/ --model outputs/demo/model --output_dir captions --output_format srt
    lavcap train configs/toy.yaml
    accelerate launch -m lavcap train configs/toy.yaml

`lavcap COMMAND --help` tells what each of them takes.
"""

import difflib
import signal
import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.metadata import version


# By name the module whose `main` it is, and what it does.
COMMANDS = {
    "caption": ("lavcap.commands.caption", "caption films, sounds and pictures: lines, subtitles, tables"),
    "prepare": ("lavcap.commands.prepare", "make a data set of captions and media"),
    "features": ("lavcap.commands.features", "store what the image encoder makes of each clip"),
    "shards": ("lavcap.commands.shards", "write a data set as shards, for training in a stream"),
    "train": ("train_hf", "train a captioner by a recipe"),
    "evaluate": ("lavcap.commands.evaluate", "score a model, or captions that are there already"),
    "demo": ("lavcap.commands.demo", "show a model on a page in the browser"),
    "serve": ("lavcap.commands.serve", "answer requests for captions over HTTP"),
    "convert": ("lavcap.commands.convert", "convert a released checkpoint"),
    "merge": ("lavcap.commands.merge", "fold a trained adapter into its base"),
    "push": ("lavcap.commands.push", "publish a model on the Hub"),
    "toy": ("lavcap.commands.toy", "write the generated world"),
    "robustness": ("lavcap.commands.robustness", "measure how robust models are to disturbed clips of it"),
    "report": ("lavcap.commands.report", "write the report of a run on the generated world"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one of [`COMMANDS`]; default: what the command line says."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0] in ("-h", "--help"):
        print(_help())
        return 0 if words else 2
    if words[0] == "--version":
        print(f"lavcap {version('lavcap')}")
        return 0
    if words[0] not in COMMANDS:
        near = difflib.get_close_matches(words[0], COMMANDS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(COMMANDS)}."
        print(f"error: {words[0]!r} is no command; {hint}", file=sys.stderr)
        return 2
    from lavcap.endings import end_at_interrupts

    end_at_interrupts()  # while the command is imported
    command = import_module(COMMANDS[words[0]][0])
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.argv = [f"lavcap {words[0]}", *words[1:]]  # by which parsers call themselves
    return command.main() or 0


def _help() -> str:
    commands = "\n".join(f"  {name:<12}{does}" for name, (_, does) in COMMANDS.items())
    return f"usage: lavcap COMMAND …\n\n{__doc__}\ncommands:\n{commands}\n  --version"
