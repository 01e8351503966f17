"""Write the generated audio-visual world that the toy recipe trains on.

    lavcap toy --output outputs/demo/data
    lavcap toy --world typical --output outputs/typical
    lavcap toy --world natural --output outputs/demo-dali/data
    lavcap toy --raw --output outputs/raw

The folder has AudioCaps' layout; with --raw it holds what people have of AudioCaps, csv files and a folder of films,
which lavcap prepare takes. In the free world any object makes any sound; in the typical one each kind of object has
its typical sound; so it is in the natural one, where there are pictures with captions of what would be heard, and a
sound has no picture in the test. lavcap/toy/world.py and natural.py say what happens in a clip. The output folder must
be absent or empty and appears under its name only when it is complete.
"""

import os
import time

from lavcap.arguments import Parser
from lavcap.endings import errors_in_one_line, printable


def main() -> int:
    parser = Parser(__doc__)
    parser.add_argument("--output", required=True, metavar="DIR", help="folder to write, absent or empty")
    parser.add_argument("--world", choices=("free", "typical", "natural"), default="free", help="default: free")
    parser.add_argument("--train_clips", type=int, default=2000, help="clips with one caption each")
    parser.add_argument("--validation_clips", type=int, default=100, help="clips with five captions each")
    parser.add_argument("--test_clips", type=int, default=200, help="half of their events are unseen pairs")
    parser.add_argument("--videos", type=int, default=20, help="test clips that are also written as mp4")
    parser.add_argument("--raw", action="store_true", help="write all clips as mp4 with csv files, and nothing else")
    parser.add_argument("--seed", type=int, default=0, help="another seed gives another world")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes; any number, one result")
    args = parser.parse_args()
    started = time.monotonic()
    options = {name: value for name, value in vars(args).items() if name not in ("output", "raw", "videos", "world")}
    with errors_in_one_line():
        if args.raw and args.world != "free":
            raise ValueError(
                f"Got --raw with --world {args.world}, expected one of them: raw is the free world alone."
            )
        from lavcap.toy.dataset import write_raw_world, write_toy_world

        if args.raw:
            written = write_raw_world(args.output, **options, show_progress=True)
        else:
            written = write_toy_world(args.output, **options, videos=args.videos, show_progress=True, world=args.world)
    print(f"{printable(args.output)}: written in {time.monotonic() - started:.0f} s")
    print(f"  clips       {written['train']} train, {written['val']} validation, {written['test']} test")
    if args.world == "natural":
        pictures = [written[split] for split in ("pictures", "pictures_val", "prefix")]
        print("  pictures    {} to learn from, {} validation, {} for a prefix".format(*pictures))
    print(f"  tokenizer   {written['vocabulary']} tokens")
    if args.raw:
        return 0
    if args.world == "free":
        print(
            f"  test events {written['unseen_events']} of {2 * written['test']} are pairs that training never showed"
        )
    print(f"  videos      {written['videos']}, of which new_clip.mp4 and long_clip.mp4 are in none of the splits")
    return 0
