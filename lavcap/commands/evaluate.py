r"""Score a checkpoint on a split, or captions that are there already, with 95 % intervals.

    lavcap evaluate --model outputs/demo/model --data_dir outputs/demo/data --output outputs/demo/evaluation
    lavcap evaluate --predictions outputs/demo/evaluation/predictions.jsonl --output outputs/rescored
    lavcap evaluate --predictions mine.jsonl --compare theirs.jsonl --output outputs/compared

The first captions every clip from sound and picture, sound alone, picture alone, and sound with the picture of another
clip. The second needs no model: lines {"id": ..., "caption": ..., "references": [...]}. The third tests on the clips
that both files have whether they differ. METEOR, SPICE and FENSE are tried first, and what they lack is named.

Writes results.json, results.md and predictions.jsonl; docs/evaluation.md explains every field.
"""

import argparse
import sys
from typing import TYPE_CHECKING

from lavcap.arguments import Parser, add_bootstrap, add_model_options, positive
from lavcap.endings import errors_in_one_line, printable
from lavcap.evaluation.names import METRICS, MODALITIES
from lavcap.files import check_new_folder


if TYPE_CHECKING:
    from lavcap.evaluation.evaluation import Evaluation
    from lavcap.evaluation.rescoring import Comparison, Rescoring


CHECKPOINT_OPTIONS = (
    "data_dir",
    "split",
    "batch_size",
    "num_beams",
    "max_new_tokens",
    "max_clips",
    "skip_missing_media",
    "device",
    "parts_from",
    "config_overrides",
)


def main() -> int:
    args = _parser().parse_args()
    with errors_in_one_line():
        _check_options(args)
        check_new_folder(args.output, "--output")
        from lavcap.evaluation.results import PREDICTIONS, write_results
        from lavcap.evaluation.scoring import Scoring

        captions = _open(args)
        scoring = Scoring(args.metrics or METRICS, args.bootstrap, args.dataset_version, _preflight(args))
        report = captions.score(scoring)
        for warning in report.warnings:
            print(f"warning: {printable(warning)}", file=sys.stderr)
        write_results(args.output, report.results, report.text, {PREDICTIONS: report.predictions})
        print(report.text, end="")
    return 0


def _parser() -> Parser:
    parser = Parser(__doc__)
    given = parser.add_mutually_exclusive_group(required=True)
    given.add_argument("--model", help="folder of a trained model, or its name on the Hub")
    given.add_argument("--predictions", help="captions as JSON lines, with their references")
    parser.add_argument("--output", required=True, help="new folder for the results")
    parser.add_argument(
        "--modalities", nargs="+", help=f"some of {', '.join(MODALITIES)}; default: all that there are"
    )
    parser.add_argument("--metrics", nargs="+", choices=METRICS, help="default: all that can be computed here")
    add_bootstrap(parser)
    parser.add_argument(
        "--dataset_version", help="of the references, such as v1 or v2; default: what a prepared data set notes"
    )
    files = parser.add_argument_group("with --predictions")
    files.add_argument("--references", help="all clips that there should be: COCO's layout or JSON lines")
    files.add_argument("--compare", help="second file of captions, for a paired test")
    clips = parser.add_argument_group("with --model")
    clips.add_argument("--data_dir", help="data set in AudioCaps' layout; required")
    clips.add_argument("--split", help="name of the split; default: test")
    clips.add_argument("--batch_size", type=positive, help="clips captioned at a time; default: 32")
    clips.add_argument("--num_beams", type=positive, help="default: the model's own setting")
    clips.add_argument(
        "--max_new_tokens", type=positive, help="longest caption in tokens; default: the model's own setting"
    )
    clips.add_argument("--max_clips", type=positive, help="score the first clips only; the result is called partial")
    clips.add_argument("--skip_missing_media", action="store_true", help="score the clips whose media are there")
    add_model_options(clips)
    clips.add_argument("--device", help="cpu, cuda, mps …; default: an accelerator if there is one")
    return parser


def _check_options(args: argparse.Namespace):
    if args.model and not args.data_dir:
        raise ValueError("--model needs --data_dir, the data set whose clips it captions.")
    if args.model and (args.references or args.compare):
        raise ValueError("--references and --compare go with --predictions; caption first, then score the file.")
    if args.predictions and (idle := [f"--{name}" for name in CHECKPOINT_OPTIONS if getattr(args, name)]):
        raise ValueError(f"{', '.join(idle)} would do nothing with --predictions; leave it out, or pass --model.")


def _open(args: argparse.Namespace) -> "Evaluation | Rescoring | Comparison":
    """What is to be scored, read and checked."""
    if args.model:
        from lavcap.evaluation.evaluation import Evaluation

        return Evaluation(
            args.model,
            args.data_dir,
            args.split or "test",
            modalities=args.modalities,
            batch_size=args.batch_size or 32,
            max_clips=args.max_clips,
            skip_missing_media=args.skip_missing_media,
            device=args.device,
            parts_from=args.parts_from,
            overrides=args.config_overrides,
            num_beams=args.num_beams,
            max_new_tokens=args.max_new_tokens,
        )
    from lavcap.evaluation.rescoring import Comparison, Rescoring

    if args.compare:
        return Comparison(args.predictions, args.compare, args.references, args.modalities)
    return Rescoring(args.predictions, args.references, args.modalities)


def _preflight(args: argparse.Namespace) -> dict[str, str]:
    """Why metrics cannot be computed; printed, and an error for those that were asked for by name."""
    from lavcap.evaluation.metrics import unavailable_metrics
    from lavcap.evaluation.results import format_preflight

    unavailable = unavailable_metrics(args.metrics or METRICS)
    print(format_preflight(unavailable, args.metrics or METRICS), flush=True)
    if args.metrics and unavailable:
        raise ValueError(f"--metrics {' '.join(unavailable)}: cannot be computed here, for the reasons above.")
    return unavailable
