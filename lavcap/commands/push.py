"""Publish a trained model on the Hub: weights, processor, code, generation settings and a filled-in model card.

    lavcap push outputs/demo/model me/lavcap-demo --evaluation outputs/demo/evaluation
    lavcap push outputs/demo/model me/lavcap-demo --dry_run outputs/upload
    lavcap push outputs/demo/model me/lavcap-demo --space me/lavcap-page --space_examples new_clip.mp4

The second writes what would be uploaded into a new folder and uploads nothing. Optimiser states, checkpoints and logs
stay here. The card shows scores only of a results.json that scored these very weights. All is one commit: in a
repository that is there already, files of an earlier model are replaced, other files stay, and so does a README that
was not written by this command. With --space a page goes up, too, on which people try the model: that of `lavcap
demo`. Log in first by `hf auth login`, or set HF_TOKEN.
"""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from lavcap.arguments import Parser, check_packages
from lavcap.endings import errors_in_one_line, printable


if TYPE_CHECKING:
    from lavcap.publishing.files import Files, Publication
    from lavcap.publishing.upload import Kind


PARTS = ("text", "audio", "vision", "audio_visual")  # that a base may be assembled of


def main() -> int:
    args = _parser().parse_args()
    with errors_in_one_line((ValueError, OSError, ImportError)):
        from lavcap.publishing.files import collect_files, write_files
        from lavcap.publishing.upload import check_datasets, check_repo_id

        check_repo_id(args.repo_id)
        check_datasets(args.dataset)
        _check_space(args)
        files = collect_files(args.model, _publication(args))
        page = _page(args, files) if args.space else {}
        print(_listing(files))
        if args.dry_run:
            both = {f"model/{name}": each for name, each in files.items()}
            both |= {f"space/{name}": each for name, each in page.items()}
            write_files(both if page else files, args.dry_run, "--dry_run")
            named = f"{args.repo_id} and {args.space}" if page else args.repo_id
            print(f"Nothing was uploaded; {printable(args.dry_run)} is what {named} would hold.")
        else:
            _upload(args, args.repo_id, files, "model")
            if page:
                _upload(args, args.space, page, "space")
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
    parser.add_argument("--space", help="name on the Hub, owner/name, of a page on which people try the model")
    parser.add_argument(
        "--space_examples", nargs="+", type=Path, default=[], metavar="FILE", help="films that its visitors may try"
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
        space=args.space,
    )


def _listing(files: "Files") -> str:
    from lavcap.publishing.files import size_of

    lines = [f"{size_of(content):>15,}  {printable(name)}" for name, content in sorted(files.items())]
    return "\n".join([*lines, f"{sum(map(size_of, files.values())):>15,}  bytes in {len(files)} files"])


def _check_space(args: argparse.Namespace):
    """Refuse what makes no page, before any work."""
    if args.space is None:
        if args.space_examples:
            raise ValueError("Got --space_examples without --space, expected the name of a page.")
        return
    from lavcap.publishing.upload import check_repo_id

    check_packages("A page", ("gradio",), "demo")
    check_repo_id(args.space)
    if args.revision:
        raise ValueError("Got --space with --revision: a page shows the main branch of a model; leave one out.")


def _page(args: argparse.Namespace, files: "Files") -> "Files":
    from huggingface_hub import ModelCard

    from lavcap.publishing.files import CARD
    from lavcap.publishing.space import space_files

    return space_files(args.repo_id, ModelCard(files[CARD].decode()).data.license, args.space_examples)


def _upload(args: argparse.Namespace, repo_id: str, files: "Files", kind: "Kind"):
    from lavcap.publishing.upload import upload

    what = "page" if kind == "space" else kind
    done = upload(
        files,
        repo_id,
        message=f"Upload a LAVCap {what}",
        private=args.private or None,
        revision=args.revision,
        overwrite_card=args.overwrite_card,
        kind=kind,
    )
    if done.deleted:
        print(f"Files of an earlier {what} that are no longer there: {', '.join(done.deleted)}")
    if done.kept_card:
        print(
            f"warning: the README.md of {repo_id} was not written by this command, or was edited, so it stays, "
            "and may describe an earlier one; --overwrite_card replaces it by the card.",
            file=sys.stderr,
        )
    print(f"Published: {done.url}")
