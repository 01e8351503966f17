#!/usr/bin/env python
"""Measure parts of this project, each against a baseline in the same run and against what the machine can do.

    python scripts/benchmark.py
    python scripts/benchmark.py --part transport filter_bank --output results.json
    python scripts/benchmark.py --part training --recipe configs/lavcap_llama2_7b.yaml --batch_sizes 4 16 32

Prints a Markdown table, and writes a JSON list of rows with --output: median and spread (distance of the quartiles) in
milliseconds, of 20 runs after some to warm up, of five where they take more than 2 s, of one above 20 s; `ratio` is
how many times as fast as the baseline, which is run in turn with the part, but for what has processes of its own
(training, data_set, long_film, scaling); `limit` is what the operations or the bytes of the part would take at the
rates of a large matrix product and of a large copy on this machine, or what a piece of it takes without which it
cannot be done, and `limit_ratio` the share of it that is reached. Growth is also drawn, in FILE_growth.svg beside the
rows. Weights are random, and films are generated: nothing is downloaded. docs/performance.md reads the results.
"""

import json
import sys
from pathlib import Path

from lavcap.arguments import Parser, positive
from lavcap.endings import errors_in_one_line, printable
from lavcap.files import check_writable, replace_text


# By name the module of lavcap.benchmarks that measures a part; the last ones take minutes.
PARTS = {
    "transport": "transport",
    "filter_bank": "media",
    "media": "media",
    "captioning": "captioning",
    "loading": "captioning",
    "start_up": "captioning",
    "avcap_search": "captioning",
    "dali_transport": "transport",
    "dali_entropic": "transport",
    "folder": "captioning",
    "long_film": "captioning",
    "data_set": "data_set",
    "growth": "growth",
    "training": "training",
    "decoding": "large",
    "throughput": "large",
    "scaling": "scaling",
}
COLUMNS = ("part", "case", "median_ms", "spread_ms", "baseline", "baseline_ms", "ratio", "limit", "limit_ratio")
RECIPE = Path(__file__).resolve().parents[1] / "configs" / "toy.yaml"


def main() -> int:
    args = parser().parse_args()
    with errors_in_one_line():
        if args.output and args.output.is_dir():
            raise ValueError(f"--output {args.output}: is a folder, expected a file.")
        if args.output:
            check_writable(args.output.parent, "--output")
            args.output.parent.mkdir(parents=True, exist_ok=True)
        from lavcap.benchmarks.run import measure

        rows = []
        options = {"recipe": args.recipe, "batch_sizes": args.batch_sizes}
        for row, machine in measure({name: PARTS[name] for name in args.part}, args.device, args.tiny, options):
            if not rows:
                print(", ".join(f"{name} {value}" for name, value in machine.items()), end="\n\n")
                print(f"| {' | '.join(COLUMNS)} | |\n|{'---|' * (len(COLUMNS) + 1)}")
            rows.append(row.as_object() | {"machine": machine})
            print(_line(rows[-1]), flush=True)
            if args.output:
                replace_text(args.output, json.dumps(rows, indent=2) + "\n")
        if args.output and (grown := [row for row in rows if row["part"] == "growth"]):
            from lavcap.benchmarks.growth import draw_growth

            draw_growth(grown, args.output.with_name(f"{args.output.stem}_growth.svg"))
    return 0


def parser() -> Parser:
    """The command's arguments."""
    parser = Parser(__doc__)
    parser.add_argument("--part", nargs="+", choices=PARTS, default=list(PARTS), help="default: all")
    parser.add_argument("--tiny", action="store_true", help="small sizes and few runs, to see that it works")
    parser.add_argument("--output", type=Path, metavar="FILE.json", help="file of the rows; written after each")
    parser.add_argument("--device", help="cpu, cuda, mps …; default: an accelerator if there is one")
    parser.add_argument("--recipe", default=RECIPE, help="of training and what follows it; default: configs/toy.yaml")
    parser.add_argument("--batch_sizes", type=positive, nargs="+", default=[4, 16, 32], help="of training")
    return parser


def _line(row: dict) -> str:
    shown = [
        "" if (value := row[name]) is None else f"{value:.4g}" if isinstance(value, float) else value
        for name in COLUMNS
    ]
    facts = ", ".join(f"{name} {value}" for name, value in row["facts"].items())
    return printable(f"| {' | '.join(shown)} | {facts} |")


if __name__ == "__main__":
    sys.exit(main())
