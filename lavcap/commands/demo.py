"""A page in the browser, on which people try a model: drop or record a clip, read what can be heard in it.

    lavcap demo outputs/demo/model
    lavcap demo outputs/demo/model --examples outputs/demo/data/videos/*_clip.mp4

Films, sounds and pictures are captioned window by window, with times, the captions that were considered with their
scores, subtitles to take along, and, of a model that aligns sound and picture, its transport plan. `lavcap push
--space` puts the same page on the Hub.
"""

from pathlib import Path

from lavcap.arguments import Parser, add_model_options, check_free, check_packages, port, positive
from lavcap.endings import errors_in_one_line


PACKAGES = ("gradio", "matplotlib")


def main() -> int:
    args = parser().parse_args()
    with errors_in_one_line((ValueError, OSError, ImportError)):
        check_packages("The page", PACKAGES, "demo")
        if args.port:
            check_free(args.host, args.port)
        for path in args.examples:
            if not path.is_file():
                raise ValueError(f"--examples {path}: no such file.")
        from lavcap.page.app import show

        show(
            args.model,
            title=args.title,
            examples=args.examples,
            device=args.device,
            parts_from=args.parts_from,
            overrides=args.config_overrides,
            max_mib=args.max_mib,
            server_name=args.host,
            server_port=args.port,
            share=args.share,
        )
    return 0


def parser() -> Parser:
    """The command's arguments."""
    parser = Parser(__doc__)
    parser.add_argument("model", help="folder of a trained model, or its name on the Hub")
    parser.add_argument("--title", help="of the page; default: the name of the model's folder")
    parser.add_argument("--examples", nargs="+", type=Path, default=[], help="films that visitors may try")
    parser.add_argument("--host", default="localhost", help="address to listen at; default: localhost")
    parser.add_argument("--port", type=port, help="default: the first free one from 7860 on")
    parser.add_argument("--share", action="store_true", help="get a public address from Gradio, for three days")
    parser.add_argument("--max_mib", type=positive, default=500, help="largest clip, in MiB; default: 500")
    add_model_options(parser)
    parser.add_argument("--device", help="cpu, cuda, mps …; default: an accelerator if there is one")
    return parser
