"""Make a data set for training and evaluation of the captions and media that you have; nothing is downloaded.

AudioCaps' official csv files, with a folder of media that is searched with all its subfolders for
`<youtube_id>_<start ms>_<end ms>.*`, `Y<youtube_id>.*` or `<youtube_id>.*`, sound and picture in one file or in two:

    lavcap prepare --annotations dataset/test.csv --media my_media --output data/audiocaps

The layout published with AVCap (`<split>.json`, waveforms/, frames/frame_{0..19}/):

    lavcap prepare --data_dir AVCap/data --split test --output data/audiocaps

A data set of the Hub, or one from `save_to_disk` or a folder of parquet files:

    lavcap prepare --dataset mteb/AudioCaps_AV --split test --output data/audiocaps_av
    lavcap prepare --dataset d0rj/audiocaps --split train --media my_media --output data/audiocaps

Any folder of clips with captions in csv, tsv, json or jsonl:

    lavcap prepare --annotations captions.jsonl --media clips --split train --output data/mine \\
        --column file=clip --column caption=sentence

Windows are cut to <split>/waveforms and <split>/frames; what needs no change stays where it is. The reports/ say what
became of every clip. Stopped at any moment, the same command goes on with what is left. docs/audiocaps.md says more.
"""

import argparse
import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from lavcap.arguments import Parser, positive
from lavcap.endings import errors_in_one_line, printable


if TYPE_CHECKING:
    from lavcap.preparation.sources import Source


def main() -> int:
    args = _parse()
    with errors_in_one_line():
        # Imported here because worker processes import this module and need none of it.
        from lavcap.preparation.cutting import Settings
        from lavcap.preparation.pool import CLIP_TIMEOUT
        from lavcap.preparation.preparation import Policy, prepare

        source = _read_source(args)
        print(f"{len(source.clips):,} clips in {printable(source.name)}", file=sys.stderr)
        settings = Settings(args.window, args.num_frames, args.frame_size)
        policy = Policy(args.keep, args.min_seconds, args.dataset_version)
        timeout = args.clip_timeout or CLIP_TIMEOUT
        report = prepare(source, args.output, args.split, settings, policy, args.num_proc, timeout, show_progress=True)
    print(report.to_markdown())
    if args.dataset_version is None and report.dataset_version:
        print(
            f"The captions are taken for {report.dataset_version}: v2 is in lower case throughout, v1 is not. If not,"
        )
        print("say which with --dataset_version.")
    print(f"Reports are in {printable(Path(args.output) / 'reports')}")
    return 0


def _parse() -> argparse.Namespace:
    parser = Parser(__doc__)
    origin = parser.add_argument_group("what you have: one of the three")
    origin.add_argument("--annotations", metavar="FILE", help="captions in csv, tsv, json or jsonl; needs --media")
    origin.add_argument("--data_dir", metavar="DIR", help="folder in the layout published with AVCap")
    origin.add_argument("--dataset", metavar="NAME", help="data set of the Hub, or its folder")
    origin.add_argument("--media", metavar="DIR", nargs="+", default=[], help="folders of media, searched to the end")
    origin.add_argument("--split", help="to read and to write; default: the name of the annotation file")
    origin.add_argument(
        "--column", metavar="KEY=NAME", type=_column, action="append", default=[], help="what a column is called; "
        "keys: annotation, id, file, start_time, caption, and audio, video of a data set"
    )  # fmt: skip
    origin.add_argument("--dataset_version", metavar="NAME", help="of the captions: v1, v2, …; default: guessed")
    origin.add_argument("--skip_bad_rows", action="store_true", help="do without rows that cannot be used")
    made = parser.add_argument_group("what is made")
    made.add_argument("--output", required=True, metavar="DIR", help="folder of the data set; may hold other splits")
    made.add_argument("--window", type=_seconds, default=10.0, help="seconds of a clip (default: 10)")
    made.add_argument("--num_frames", type=positive, default=20, help="pictures of a clip (default: 20)")
    made.add_argument("--frame_size", type=positive, default=224, help="shortest edge in pixels (default: 224)")
    made.add_argument("--min_seconds", type=_seconds, help="least length of a clip (default: half the window)")
    made.add_argument(
        "--keep",
        nargs="+",
        default=[],
        choices=("silent", "too_short", "duplicate"),
        help="clips to keep all the same",
    )
    made.add_argument("--num_proc", type=_count, default=os.cpu_count() or 1, help="processes; 0: none but this one")
    made.add_argument(
        "--clip_timeout", type=_seconds, help="seconds after which a clip that gives no answer is left (default: 300)"
    )
    args = parser.parse_args()
    _check(parser, args)
    return args


def _check(parser: Parser, args: argparse.Namespace):
    given = [name for name in ("annotations", "data_dir", "dataset") if getattr(args, name)]
    if len(given) != 1:
        parser.error(f"got {' and '.join('--' + name for name in given) or 'none'} of --annotations, --data_dir and "
                     "--dataset, expected one")  # fmt: skip
    if args.annotations and not args.media:
        parser.error("--annotations needs --media, the folders to look for clips")
    if args.data_dir and args.media:
        parser.error("--media goes with --annotations and --dataset; --data_dir holds its media")
    if args.split is None and not args.annotations:
        parser.error(f"--{given[0]} needs --split")
    args.split = args.split or Path(args.annotations).stem
    if not re.fullmatch(r"\w+", args.split):
        parser.error(f"the split is called {args.split!r}, expected letters, digits and _; pass --split")


def _read_source(args: argparse.Namespace) -> "Source":
    from lavcap.preparation.sources import Reading, from_dataset, from_files, from_layout

    reading = Reading(args.window, dict(args.column), args.skip_bad_rows)
    if args.annotations:
        return from_files(args.annotations, args.media, reading)
    if args.data_dir:
        return from_layout(args.data_dir, args.split, reading)
    return from_dataset(args.dataset, args.split, args.media, reading)


def _column(text: str) -> tuple[str, str]:
    key, equals, name = text.partition("=")
    if not (key and equals and name):
        raise argparse.ArgumentTypeError(f"got {text!r}, expected KEY=NAME such as caption=text")
    return key, name


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 < seconds < float("inf"):
        raise argparse.ArgumentTypeError(f"got {text!r}, expected seconds above 0")
    return seconds


def _count(text: str) -> int:
    return 0 if text == "0" else positive(text)
