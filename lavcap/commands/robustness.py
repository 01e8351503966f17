r"""Measure how robust trained captioners are to disturbed clips of the generated world.

    lavcap robustness --model outputs/demo/model --data_dir outputs/demo/data --output outputs/robustness
    lavcap robustness --model outputs/with/model outputs/without/model --data_dir outputs/demo/data \
        --disturbance missing noise_0_db --output outputs/compared

The clips are captioned as they are, and disturbed: the sound with the picture of another clip (other_video), one of
the two alone (missing), with noise (noise), the sound late (delay), with frozen frames (dropped). Tables say how many
words are right, with 95 % intervals, and how that differs from the undisturbed clips. What does not apply is named.

Writes results.json, results.md and the captions of each model; docs/robustness.md explains every field.
"""

from lavcap.arguments import Parser, add_bootstrap, not_negative, positive
from lavcap.endings import errors_in_one_line
from lavcap.files import check_new_folder


def main() -> int:
    parser = Parser(__doc__)
    parser.add_argument(
        "--model", nargs="+", required=True, help="folders of trained models, or names on the Hub, for one table"
    )
    parser.add_argument("--data_dir", required=True, help="toy world, which lavcap toy wrote")
    parser.add_argument("--split", default="test", help="name of the split; default: test")
    parser.add_argument("--output", required=True, help="new folder for the results")
    parser.add_argument(
        "--disturbance",
        nargs="+",
        metavar="NAME",
        help="kinds, such as noise, or single ones, such as noise_10_db; default: all",
    )
    parser.add_argument("--max_clips", type=positive, help="the first clips only; the result is called partial")
    parser.add_argument("--batch_size", type=positive, default=32, help="clips captioned at a time; default: 32")
    parser.add_argument("--seed", type=not_negative, default=0, help="of noise and dropped frames; default: 0")
    add_bootstrap(parser)
    parser.add_argument("--device", help="cpu, cuda, mps …; default: an accelerator if there is one")
    args = parser.parse_args()
    with errors_in_one_line():
        check_new_folder(args.output, "--output")
        from lavcap.evaluation.results import write_results
        from lavcap.experiments.robustness import Robustness

        robustness = Robustness(
            args.model,
            args.data_dir,
            args.split,
            disturbances=args.disturbance,
            batch_size=args.batch_size,
            max_clips=args.max_clips,
            seed=args.seed,
            device=args.device,
        )
        results, text, captions = robustness.measure(args.bootstrap)
        write_results(args.output, results, text, captions)
        print(text, end="")
    return 0
