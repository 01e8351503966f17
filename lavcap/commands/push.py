"""Publish a trained model on the Hub: weights, processor, code, generation settings and a filled-in model card.

    lavcap push outputs/demo/model me/lavcap-demo --evaluation outputs/demo/evaluation
    lavcap push outputs/demo/model me/lavcap-demo --dry_run outputs/upload

The second writes what would be uploaded into a new folder and uploads nothing. Optimiser states, checkpoints and logs
stay here. The card shows scores only of a results.json that scored these very weights. All is one commit: in a
repository that is there already, files of an earlier model are replaced, other files stay, and so does a README that
was not written by this command. Log in first by `hf auth login`, or set HF_TOKEN.
"""

import argparse
import sys
from typing import TYPE_CHECKING

from lavcap.arguments import Parser
from lavcap.endings import errors_in_one_line, printable


if TYPE_CHECKING:
    from lavcap.publishing.files import Files, Publication


PARTS = ("text", "audio", "vision", "audio_visual")  # that a base may be assembled of


def main() -> int:
    args = _parser().parse_args()
    with errors_in_one_line():
        from lavcap.publishing.files import collect_files, write_files
        from lavcap.publishing.upload import check_datasets, check_repo_id

        check_repo_id(args.repo_id)
        check_datasets(args.dataset)
        files = collect_files(args.model, _publication(args))
        print(_listing(files))
        if args.dry_run:
            write_files(files, args.dry_run, "--dry_run")
            print(f"Nothing was uploaded; {printable(args.dry_run)} is what {args.repo_id} would hold.")
        else:
            _upload(args, files)
    return 0


def _parser() -> Parser:
    parser = Parser(__doc__)
    parser.add_argument("model", help="folder of a trained model: a run's output folder, or one of its checkpoints")
    parser.add_argument("repo_id", help="name on the Hub, owner/name; the repository is made if it is not there")
    parser.add_argument("--evaluation", help="folder that scripts/evaluate.py wrote for these weights")
    parser.add_argument("--private", action="store_true", help="of a repository that is made")
    parser.add_argument("--revision", help="branch; it is made if it is not there. Default: main")
    parser.add_argument("--dry_run", metavar="FOLDER", help="write there what would be uploaded, and upload nothing")
    parser.add_argument("--overwrite_card", action="store_true", help="replace a README of yours by the card")
    parser.add_argument("--base_model", help="of an adapter: name on the Hub of the LAVCap model it was trained on")
    for part in PARTS:
        parser.add_argument(f"--{part}_model", help=f"of an adapter: name on the Hub of the {part} part of its base")
    parser.add_argument(
        "--with_language_model", action="store_true", help="upload all weights of somebody else's language model"
    )
    parser.add_argument("--license", help="identifier of the Hub; default: the language model's, else apache-2.0")
    parser.add_argument(
        "--dataset",
        nargs="+",
        action="extend",
        default=[],
        help="names on the Hub of the training data, for the card; may be given several times",
    )
    return parser


def _publication(args: argparse.Namespace) -> "Publication":
    from lavcap.publishing.files import Publication

    return Publication(
        repo_id=args.repo_id,
        revision=args.revision,
        evaluation=args.evaluation,
        base_model=args.base_model,
        parts={part: name for part in PARTS if (name := getattr(args, f"{part}_model"))},
        with_language_model=args.with_language_model,
        licence=args.license,
        datasets=args.dataset,
    )


def _listing(files: "Files") -> str:
    from lavcap.publishing.files import size_of

    lines = [f"{size_of(content):>15,}  {printable(name)}" for name, content in sorted(files.items())]
    return "\n".join([*lines, f"{sum(map(size_of, files.values())):>15,}  bytes in {len(files)} files"])


def _upload(args: argparse.Namespace, files: "Files"):
    from lavcap.publishing.upload import upload

    done = upload(
        files,
        args.repo_id,
        message="Upload a LAVCap model",
        private=args.private or None,
        revision=args.revision,
        overwrite_card=args.overwrite_card,
    )
    if done.deleted:
        print(f"Files of an earlier model that are no longer there: {', '.join(done.deleted)}")
    if done.kept_card:
        print(
            f"warning: the README.md of {args.repo_id} was not written by this command, or was edited, so it stays, "
            "and may describe an earlier model; --overwrite_card replaces it by the card.",
            file=sys.stderr,
        )
    print(f"Published: {done.url}")
