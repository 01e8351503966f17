#!/usr/bin/env python
"""Run the studies of what a captioner learns on the generated worlds, and write their tables and pictures.

    python scripts/experiments.py --output outputs/experiments
    python scripts/experiments.py --output outputs/experiments --study transport objective
    python scripts/experiments.py --output outputs/experiments --only_tables

A study compares variants of a recipe on the same worlds with the same seeds, all of which are named in
lavcap/experiments/studies.py. Each run makes its world, trains a model, captions the test clips and notes what it gave
in results.json. What is there is not run again, unless its recipe has changed since: stopped, the command goes on
where it was, and with a copy of results.json elsewhere. All studies take some hundred runs of minutes each. Tables
hold means over seeds with intervals (Student, 95 %), those over clips beside them, and tests of the pairs of one seed,
corrected by Holm; runs that fail are named below them. tables.md has those of all studies after each run, and each
study has a picture in the end, STUDY.svg; both are of the seeds that the studies name. One command works in a folder
at a time. It needs the extra `report`.
"""

import sys
from dataclasses import replace
from pathlib import Path

from lavcap.arguments import Parser, listed, positive
from lavcap.endings import errors_in_one_line, printable
from lavcap.experiments.studies import STUDIES, WORLDS
from lavcap.workers import usable_cores


def main() -> int:
    args = parser().parse_args()
    with errors_in_one_line():
        from lavcap.experiments.pictures import draw_studies
        from lavcap.experiments.runs import RECORD, carry_out, known_results, runs_of
        from lavcap.experiments.tables import format_study, write_tables

        if unknown := [name for name in args.study if name not in STUDIES]:
            raise ValueError(f"--study {' '.join(unknown)}: unknown; expected some of {', '.join(STUDIES)}.")
        studies = {name: STUDIES[name] for name in args.study or STUDIES}
        if args.seeds:
            studies = {name: replace(study, seeds=tuple(dict.fromkeys(args.seeds))) for name, study in studies.items()}
        if args.world:
            studies = {name: replace(study, worlds=(args.world,)) for name, study in studies.items()}
        output = args.output / "tiny" if args.tiny else args.output
        runs = runs_of(studies.values())
        results, outdated = known_results(output, runs, args.tiny)
        if outdated:
            print(
                f"{output / RECORD}: {len(outdated)} runs are of another recipe or of another version, and do not "
                f"count: {listed(outdated)}",
                file=sys.stderr,
            )
        if args.only_tables and not (output / RECORD).exists():
            raise ValueError(f"--only_tables: {output / RECORD} is not there; name the --output of runs.")
        if not args.only_tables:
            for run, found in carry_out(runs, output, args.jobs, args.tiny):
                results[run.name] = found
                print(printable(f"{run.name}: {found.get('failed', 'done')}"), flush=True)
                write_tables(output, args.tiny)
        write_tables(output, args.tiny)
        draw_studies(output, args.tiny)
        print("\n".join(format_study(name, study, results) for name, study in studies.items()))
    return int(any("failed" in found for found in results.values()))


def parser() -> Parser:
    """The command's arguments."""
    parser = Parser(__doc__)
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="folder of runs, worlds and tables")
    parser.add_argument("--study", nargs="+", default=[], metavar="NAME", help="default: all")
    parser.add_argument("--seeds", type=int, nargs="+", help="in place of those of the studies")
    parser.add_argument("--world", choices=WORLDS, help="in place of those of the studies")
    parser.add_argument("--jobs", type=positive, default=usable_cores(), help="runs at a time, of a thread each")
    parser.add_argument("--only_tables", action="store_true", help="run nothing")
    parser.add_argument("--tiny", action="store_true", help="few clips and steps, to see that it works")
    return parser


if __name__ == "__main__":
    sys.exit(main())
