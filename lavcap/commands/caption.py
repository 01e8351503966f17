"""Caption what can be heard in films, sounds and pictures, of any length.

    lavcap caption clip.mp4 --model outputs/demo/model
    lavcap caption films/ 'more/**/*.mkv' --model outputs/demo/model --output_dir captions --output_format srt jsonl
    lavcap caption lecture.mp4 --model outputs/demo/model --range 600 660 --overlap 2 --output_format json
    ffmpeg -i https://… -f matroska - | lavcap caption - --model outputs/demo/model
    lavcap caption --data_dir data/audioset --split train --as_dataset data/pseudo_captions --model my_dali

A clip is a media file, a picture, or a folder of pictures, which are its frames. Of a folder everything below it is
taken. A clip that is longer than the model's window is captioned window by window, from its beginning to its end.

Prints a line for each window: the caption, after the name of the clip if there are several, and the times if there are
several windows. With --output_dir, or --beside, each clip has files of its own, and jsonl and csv are tables of all.
Stopped at any moment, the same command goes on where it was. A clip that cannot be used is reported on standard error,
the others are captioned, and the exit status is 2.

With --as_dataset the clips of a data set are captioned, and the captions are a data set to train on, which names the
media of the first. Sampling depends on --seed alone; an interrupted run is completed by the same command.
"""

import argparse
import json
import math
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from lavcap.arguments import Parser, add_model_options, not_negative, positive
from lavcap.captioning.records import FORMATS, TABLES
from lavcap.endings import errors_in_one_line, printable
from lavcap.files import check_writable
from lavcap.workers import MOST_THREADS, side_by_side


if TYPE_CHECKING:
    from lavcap.captioning.media_list import Medium
    from lavcap.captioning.processes import Processes
    from processing_captioning import CaptioningProcessor


MOST_CAPTIONS = 64
MANY_CLIPS = 100  # of which each process that decodes has enough to be worth its start
OF_CLIPS = (  # options that mean nothing where a data set is captioned
    *("output_dir", "beside", "output_format", "json", "skip_existing", "overwrite", "retry_errors"),
    *("range", "overlap", "min_window", "scene_cut", "silence_db", "num_captions", "num_workers"),
)


def main() -> int:
    args = parser().parse_args()
    with errors_in_one_line():
        named = bool(args.clips or args.files_from)
        if (args.as_dataset is None) != (args.data_dir is None) or named == bool(args.as_dataset):
            raise ValueError("Expected clips, or --data_dir with --as_dataset, and not both.")
        return _caption_all(args) if named else _write_dataset(args)


def parser() -> Parser:
    """The command's arguments."""
    parser = Parser(__doc__)
    parser.add_argument("clips", nargs="*", help="media files, pictures, folders, patterns such as '**/*.mp4', or -")
    parser.add_argument(
        "--files_from", metavar="FILE", help="text file with a clip on each line, or - for standard input"
    )
    parser.add_argument("--model", required=True, help="folder of a trained model, or its name on the Hub")
    written = parser.add_argument_group("what is written")
    written.add_argument("--output_dir", type=Path, help="folder of the captions, in a tree like that of the clips")
    written.add_argument("--beside", action="store_true", help="write the captions beside each clip")
    written.add_argument(
        "--output_format",
        nargs="+",
        choices=(*FORMATS, "all"),
        help="default: txt; in files one or more, jsonl and csv as tables of all clips",
    )
    written.add_argument("--json", action="store_true", help="one JSON object per line: --output_format jsonl")
    written.add_argument("--skip_existing", action="store_true", help="leave out clips whose captions are there")
    written.add_argument("--overwrite", action="store_true", help="write anew what is there")
    written.add_argument("--retry_errors", action="store_true", help="try clips again that could not be used before")
    windows = parser.add_argument_group("which windows of a clip")
    windows.add_argument(
        "--range", nargs=2, type=_seconds, metavar=("START", "END"), help="in seconds, or as 1:02:03.5; default: all"
    )
    windows.add_argument(
        "--overlap", type=_seconds, default=0.0, help="of neighbouring windows, in seconds; default: 0"
    )
    windows.add_argument(
        "--min_window", type=_seconds, help="shortest last window, in seconds; what is left over has no caption"
    )
    windows.add_argument(
        "--scene_cut",
        nargs="?",
        type=_share,
        const=0.3,
        metavar="CHANGE",
        help="begin a window where so much of the picture changes, from 0 to 1; CHANGE is 0.3 if it is left out",
    )
    windows.add_argument(
        "--modalities",
        nargs="+",
        choices=("audio", "video"),
        help="what to take of a file; default: as the model does",
    )
    windows.add_argument(
        "--silence_db",
        type=_decibels,
        default=-60.0,
        help="sound below this level counts as missing, in dB of full scale; default: -60",
    )
    captions = parser.add_argument_group("captions")
    captions.add_argument("--instruction", help="what to ask the model; default: the instruction it was trained with")
    captions.add_argument(
        "--num_captions", type=positive, default=1, help="of each window, in jsonl and json; default: 1"
    )
    captions.add_argument("--num_beams", type=positive, help="default: the model's own setting")
    captions.add_argument(
        "--max_new_tokens", type=positive, help="longest caption in tokens; default: the model's own setting"
    )
    captions.add_argument("--batch_size", type=positive, default=8, help="windows captioned at a time; default: 8")
    captions.add_argument(
        "--num_workers",
        type=not_negative,
        help="processes that decode ahead of the model, 0: threads of this one; default: 0, and with an accelerator "
        f"for {MANY_CLIPS} clips or more a process for each core, up to {MOST_THREADS}",
    )
    data = parser.add_argument_group("in place of clips")
    data.add_argument("--as_dataset", help="folder of the data set that is written")
    data.add_argument("--data_dir", help="data set whose clips are captioned")
    data.add_argument("--split", default="train", help="its split; default: train")
    data.add_argument("--seed", type=not_negative, default=42, help="of sampling; default: 42")
    add_model_options(parser)
    parser.add_argument("--device", help="cpu, cuda, mps …; default: an accelerator if there is one")
    return parser


def _seconds(text: str) -> float:
    """Argument type of times: `90`, `1:30`, `0:01:30.5`."""
    parts = text.split(":")
    try:
        values = [float(part) for part in parts]
    except ValueError:
        values = [float("nan")]
    if len(parts) > 3 or not all(0 <= value < 1e9 for value in values):
        raise argparse.ArgumentTypeError(f"got {text!r}, expected seconds, such as 90 or 1:30")
    return sum(value * 60**power for power, value in enumerate(reversed(values)))


def _share(text: str) -> float:
    return _number(text, 0, 1, "a share from 0 to 1, such as 0.3")


def _decibels(text: str) -> float:
    return _number(text, -math.inf, 0, "a level of at most 0, such as -60, or -inf for none")


def _number(text: str, least: float, most: float, expected: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not least <= value <= most:
        raise argparse.ArgumentTypeError(f"got {text!r}, expected {expected}")
    return value


def _write_dataset(args: argparse.Namespace) -> int:
    for name in OF_CLIPS:
        if getattr(args, name) != parser().get_default(name):
            raise ValueError(f"Got --{name}, which is about clips, with --as_dataset: leave it out.")
    check_writable(args.as_dataset, "--as_dataset")
    from lavcap.models.captioning import generation_options
    from lavcap.models.loading import load_model
    from lavcap.models.pseudo_captions import caption_data_set

    model, processor = load_model(args.model, args.device, parts_from=args.parts_from, overrides=args.config_overrides)
    _check_instruction(args, processor)
    number, failed = caption_data_set(
        model,
        processor,
        args.data_dir,
        args.split,
        args.as_dataset,
        args.modalities or processor.modalities,
        args.batch_size,
        args.seed,
        args.instruction,
        {"model": args.model, "parts_from": args.parts_from, "config_overrides": args.config_overrides},
        **generation_options(num_beams=args.num_beams, max_new_tokens=args.max_new_tokens),
    )
    for name, reason in failed.items():
        print(f"warning: {printable(name)} has no caption: {printable(reason)}", file=sys.stderr)
    print(f"{number} captions of {args.split} are in {printable(args.as_dataset)}")
    return 0


def _check_instruction(args: argparse.Namespace, processor: "CaptioningProcessor"):
    if args.instruction is not None and not processor.takes_instruction:
        raise ValueError(f"Got --instruction, but {processor.config_class.family} takes none: leave it out.")


def _caption_all(args: argparse.Namespace) -> int:
    formats = _formats(args)
    _check_options(args, formats)
    from lavcap.captioning.media_list import Medium, list_media, read_list

    named = [*args.clips, *(read_list(args.files_from) if args.files_from else [])]
    if not named:
        raise ValueError(f"{args.files_from}: names no clips, expected a path on each line.")
    items = list_media(named)
    media = [item for item in items if isinstance(item, Medium)]
    refused = [item for item in items if not isinstance(item, Medium)]
    for item in refused:
        _report(item.name, f"{'warning' if item.left_out else 'error'}: {item.reason}")
        if formats == ["jsonl"] and args.output_dir is None and not item.left_out:
            print(json.dumps({"clip": item.name, "error": str(item.reason)}, ensure_ascii=False), flush=True)
    failed = sum(not item.left_out for item in refused)
    if not media:
        return 2
    return 2 if _run(args, formats, media, several=len(media) + failed > 1) + failed else 0


def _run(args: argparse.Namespace, formats: list[str], media: list["Medium"], several: bool) -> int:
    """Caption clips; how many cannot be used."""
    from lavcap.captioning.outputs import left_of, write_tables
    from lavcap.captioning.places import places_of
    from lavcap.captioning.processes import Processes

    processes = Processes(args.device)
    places = places_of(media, args.output_dir) if args.output_dir or args.beside else None
    wanted = media
    if places is not None and not args.overwrite:
        wanted = left_of(media, places, formats, args.output_dir, args.skip_existing, args.retry_errors)
    processes.wait()
    failed = 0
    if wanted:
        failed = _caption(args, formats, wanted[processes.index :: processes.count], places, several, processes)
    processes.wait()
    if places is not None and processes.is_main:
        if args.output_dir:
            failed = write_tables(args.output_dir, media, formats)
        kept = f" ({len(media) - len(wanted)} of {len(media)} were there)" if len(wanted) < len(media) else ""
        where = f"in {args.output_dir}" if args.output_dir else "beside the clips"
        print(f"captions are {printable(where)}{kept}", file=sys.stderr)
    processes.wait()
    return failed


def _caption(
    args: argparse.Namespace,
    formats: list[str],
    media: list["Medium"],
    places: dict[str, Path] | None,
    several: bool,
    processes: "Processes",
) -> int:
    from lavcap.captioning.loading import Options
    from lavcap.captioning.outputs import Files, Printed, forget
    from lavcap.captioning.run import Captioning
    from lavcap.models.captioning import generation_options
    from lavcap.models.loading import load_model
    from windows_captioning import SHORTEST_TAIL

    device = processes.device
    model, processor = load_model(args.model, device, parts_from=args.parts_from, overrides=args.config_overrides)
    _check_instruction(args, processor)
    if not args.overlap < processor.window:
        raise ValueError(f"--overlap is {args.overlap:g}, expected less than the window of {processor.window:g} s.")
    start, end = args.range or (0.0, None)
    shortest = SHORTEST_TAIL if args.min_window is None else args.min_window
    modalities = args.modalities and tuple(args.modalities)
    options = Options(start, end, args.overlap, shortest, args.scene_cut, modalities, args.silence_db)
    decoding = generation_options(num_beams=args.num_beams, max_new_tokens=args.max_new_tokens)
    output: Files | Printed = Printed(formats[0], several)
    if places is not None:
        settings = {"model": args.model, "parts_from": args.parts_from, "config_overrides": args.config_overrides}
        settings |= {"instruction": args.instruction, "num_captions": args.num_captions, "decoding": decoding}
        settings |= asdict(options)
        settings["modalities"] = args.modalities
        if args.overwrite and args.output_dir:  # not before it is known that there will be others
            if processes.is_main:
                forget(args.output_dir)
            processes.wait()
        output = Files(places, formats, args.output_dir, settings, processes.index, args.retry_errors)
    workers = args.num_workers
    if workers is None:
        few = model.device.type == "cpu" or len(media) < MANY_CLIPS
        workers = 0 if few else side_by_side()
    show = None if places is None else processes.is_main
    write = (args.instruction, args.num_captions, decoding)
    work = Captioning(model, processor, output, options, args.batch_size, workers, *write, show)
    totals = work.run(media, _report)
    if places is not None:
        print(totals, file=sys.stderr)
    return totals.failed


def _formats(args: argparse.Namespace) -> list[str]:
    wanted = (["jsonl"] if args.json else []) + (args.output_format or [])
    if "all" in wanted:
        return [form for form in FORMATS if form not in TABLES or not args.beside]
    return list(dict.fromkeys(wanted)) or ["txt"]


def _check_options(args: argparse.Namespace, formats: list[str]):
    """Refuse what contradicts itself, before anything is loaded.

    Raises:
        ValueError: in one line.
    """
    in_files = args.output_dir is not None or args.beside
    if args.output_dir is not None and args.beside:
        raise ValueError("Got --output_dir and --beside, expected one of them.")
    if args.beside and not set(formats).isdisjoint(TABLES):
        raise ValueError(
            f"Got --beside with {' and '.join(TABLES)}, which are tables of all clips: pass --output_dir."
        )
    if not in_files and len(formats) > 1:
        raise ValueError(f"Got {len(formats)} formats for standard output, expected one; pass --output_dir for more.")
    for name in ("skip_existing", "overwrite", "retry_errors"):
        if getattr(args, name) and not in_files:
            raise ValueError(f"Got --{name}, which is about files: pass --output_dir or --beside with it.")
    if args.skip_existing and args.overwrite:
        raise ValueError("Got --skip_existing and --overwrite, expected one of them.")
    if args.retry_errors and args.output_dir is None:
        raise ValueError("Got --retry_errors without --output_dir, whose log tells what could not be used.")
    if args.range and not args.range[0] < args.range[1]:
        raise ValueError(f"--range is {args.range[0]:g} to {args.range[1]:g}, expected the start before the end.")
    if args.num_captions > MOST_CAPTIONS:
        raise ValueError(f"--num_captions is {args.num_captions}, expected 1 to {MOST_CAPTIONS}.")
    if not in_files and int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise ValueError("Several processes would write to standard output at once: pass --output_dir.")
    if args.beside and int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise ValueError("Several processes share their work through --output_dir: pass it in place of --beside.")
    if args.output_dir is not None:
        check_writable(args.output_dir, "--output_dir")


def _report(clip: str, message: str):
    from tqdm.auto import tqdm

    tqdm.write(printable(message), file=sys.stderr)  # on a line of its own, beside a bar
