#!/usr/bin/env python
"""Caption clips: video, sound, folders of frames, or folders of clips.

    python scripts/caption.py clip.mp4 --model outputs/demo/model
    python scripts/caption.py clips/ sound.wav --model outputs/demo/model --json
    ffmpeg -i https://… -f matroska - | python scripts/caption.py - --model outputs/demo/model
    python scripts/caption.py --data_dir data/audioset --split train --as_dataset data/pseudo_captions --model my_dali

Prints one caption per clip, after its path and a tab if there are several clips; control characters of both are shown
by their codes. With `--json`, one object per line:
`clip`, `caption`, `modalities` (`audio+video`, `audio` or `video`), `duration` in seconds, `captioned` (seconds that
were looked at); or `clip` and `error`. A clip that cannot be used is reported on standard error, the others are
captioned, and the exit status is 2. `-` is standard input; `/dev/stdin` and `<(command)` of a shell are read, too.

With `--as_dataset` the clips of a data set are captioned, and the captions are a data set to train on, which names the
media of the first. Sampling depends on `--seed` alone; an interrupted run is completed by the same command.
"""

import argparse
import json
import sys
from typing import TYPE_CHECKING

from lavcap.commands import Parser, add_model_options, not_negative, positive
from lavcap.endings import errors_in_one_line, printable


if TYPE_CHECKING:
    from media_captioning import Clip
    from processing_captioning import CaptioningProcessor
    from sources_captioning import MediaError, Source


def main() -> int:
    parser = Parser(__doc__)
    parser.add_argument("clips", nargs="*", help="media files, folders of frames, folders of clips, or -")
    parser.add_argument("--model", required=True, help="folder of a trained model, or its name on the Hub")
    parser.add_argument("--json", action="store_true", help="print one JSON object per line")
    parser.add_argument("--instruction", help="what to ask the model; default: the instruction it was trained with")
    parser.add_argument(
        "--modalities",
        nargs="+",
        choices=("audio", "video"),
        help="what to take of a file; default: as the model does",
    )
    parser.add_argument("--batch_size", type=positive, default=8, help="clips captioned at a time")
    parser.add_argument("--num_beams", type=positive, help="default: the model's own setting")
    parser.add_argument(
        "--max_new_tokens", type=positive, help="longest caption in tokens; default: the model's own setting"
    )
    written = parser.add_argument_group("in place of clips")
    written.add_argument("--as_dataset", help="folder of the data set that is written")
    written.add_argument("--data_dir", help="data set whose clips are captioned")
    written.add_argument("--split", default="train", help="its split; default: train")
    written.add_argument("--seed", type=not_negative, default=42, help="of sampling; default: 42")
    add_model_options(parser)
    parser.add_argument("--device", help="cpu, cuda, mps …; default: an accelerator if there is one")
    args = parser.parse_args()
    with errors_in_one_line():
        if (args.as_dataset is None) != (args.data_dir is None) or bool(args.clips) == bool(args.as_dataset):
            raise ValueError("Expected clips, or --data_dir with --as_dataset, and not both.")
        return _caption_all(args) if args.clips else _write_dataset(args)


def _write_dataset(args: argparse.Namespace) -> int:
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
        print(f"warning: {printable(f'{name} has no caption: {reason}')}", file=sys.stderr)
    print(f"{number} captions of {args.split} are in {printable(args.as_dataset)}")
    return 0


def _check_instruction(args: argparse.Namespace, processor: "CaptioningProcessor"):
    if args.instruction is not None and not processor.takes_instruction:
        raise ValueError(f"Got --instruction, but {processor.config_class.family} takes none: leave it out.")


def _caption_all(args: argparse.Namespace) -> int:
    from lavcap.data.batches import in_batches
    from lavcap.models.captioning import caption_features, generation_options
    from lavcap.models.loading import load_model
    from sources_captioning import MediaError

    clips, failed = _expand(args.clips, args.json)
    several = len(clips) + failed > 1
    if not clips:
        return 2
    model, processor = load_model(args.model, args.device, parts_from=args.parts_from, overrides=args.config_overrides)
    _check_instruction(args, processor)
    wanted = {kind: kind in args.modalities for kind in ("audio", "video")} if args.modalities else {}
    options = generation_options(num_beams=args.num_beams, max_new_tokens=args.max_new_tokens)
    for paths in in_batches(clips, args.batch_size):
        loaded = []
        for path in paths:
            try:
                loaded.append((path, processor.load_clip(path, **wanted)))
            except MediaError as error:
                _report(path, error, args.json)
                failed += 1
        features = [processor.clip_features(clip) for _, clip in loaded]
        captions = caption_features(model, processor, features, args.instruction, **options) if loaded else []
        for (path, clip), caption in zip(loaded, captions, strict=True):
            record = _record(path, clip, caption, processor.window)
            line = f"{printable(path)}\t{printable(caption)}" if several else printable(caption)
            print(json.dumps(record) if args.json else line, flush=True)
    return 2 if failed else 0


def _expand(paths: list[str], as_json: bool) -> tuple[list["Source"], int]:
    """Clips that the arguments mean, and the number of arguments that mean none."""
    from lavcap.models.captioning import list_clips
    from sources_captioning import MediaError

    clips, failed = [], 0
    for path in paths:
        try:
            clips += list_clips([path])
        except MediaError as error:
            _report(path, error, as_json)
            failed += 1
    return clips, failed


def _report(path: "str | Source", error: "MediaError", as_json: bool):
    print(f"error: {printable(error)}", file=sys.stderr)
    if as_json:
        print(json.dumps({"clip": str(path), "error": str(error)}), flush=True)


def _record(path: "Source", clip: "Clip", caption: str, window: float) -> dict:
    captioned = None if clip.duration is None else round(min(clip.duration, window), 3)
    duration = None if clip.duration is None else round(clip.duration, 3)
    return {
        "clip": str(path),
        "caption": caption,
        "modalities": clip.modalities,
        "duration": duration,
        "captioned": captioned,
    }


if __name__ == "__main__":
    sys.exit(main())
