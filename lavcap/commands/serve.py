"""Answer requests for captions over HTTP, as OpenAI's clients send them.

    lavcap serve outputs/demo/model --port 8000

`POST /v1/chat/completions` takes a film, a sound or a picture as `video_url`, `audio_url`, `image_url` or
`input_audio`, and answers with its caption, whole or token by token (`"stream": true`, by a greedy search).
`GET /v1/models` and `GET /health` tell the name of the model, and that all is well. The server is that of
Transformers; it answers one request at a time, the others wait.

A clip is sent as a data: address. Other addresses are fetched from the hosts of --allow_hosts alone, and files of
this machine are read from the folders of --allow_files alone. Of a clip that is longer than the model's window the
beginning is captioned; `lavcap caption` captions all of it.
"""

from pathlib import Path

from lavcap.arguments import Parser, add_model_options, check_free, port, positive
from lavcap.endings import errors_in_one_line, printable


def main() -> int:
    args = parser().parse_args()
    with errors_in_one_line((ValueError, OSError, ImportError)):
        from lavcap.serving.server import check_library, serve

        check_library()
        from lavcap.models.loading import load_model
        from lavcap.serving.media import Allowed

        check_free(args.host, args.port)
        for folder in args.allow_files:
            if not folder.is_dir():
                raise ValueError(f"--allow_files {folder}: no such folder.")
        options = {"parts_from": args.parts_from, "overrides": args.config_overrides}
        model, processor = load_model(args.model, args.device, **options)
        name = args.name or Path(args.model).name
        allowed = Allowed(frozenset(args.allow_hosts), tuple(args.allow_files), args.max_mib << 20)
        print(f"{printable(name)} at http://{args.host}:{args.port}/v1; Ctrl-C ends it", flush=True)
        serve(model, processor, name, allowed, args.host, args.port)
    return 0


def parser() -> Parser:
    """The command's arguments."""
    parser = Parser(__doc__)
    parser.add_argument("model", help="folder of a trained model, or its name on the Hub")
    parser.add_argument("--name", help="by which clients call the model; default: that of its folder")
    parser.add_argument("--host", default="localhost", help="address to listen at; default: localhost")
    parser.add_argument("--port", type=port, default=8000, help="default: 8000")
    parser.add_argument("--allow_hosts", nargs="+", default=[], help="whose addresses of clips are fetched")
    parser.add_argument(
        "--allow_files", nargs="+", type=Path, default=[], help="folders of clips that requests may name"
    )
    parser.add_argument("--max_mib", type=positive, default=64, help="largest clip, in MiB; default: 64")
    add_model_options(parser)
    parser.add_argument("--device", help="cpu, cuda, mps …; default: an accelerator if there is one")
    return parser
