"""Writes the generated audio-visual world that the toy recipe trains on.

    python scripts/make_toy_world.py --output toy_world

The folder has AudioCaps' layout; `lavcap/toy_world.py` says what happens in a clip. The output folder must be absent
or empty and appears under its name only when it is complete.
"""

import argparse
import os
import sys
import time
from typing import NoReturn

from lavcap.toy_world import write_toy_world


class OneLineParser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message}\n")


def parse_arguments() -> argparse.Namespace:
    parser = OneLineParser(description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--output", required=True, metavar="DIR", help="folder to write, absent or empty")
    parser.add_argument("--train_clips", type=int, default=2000, help="clips with one caption each")
    parser.add_argument("--validation_clips", type=int, default=100, help="clips with five captions each")
    parser.add_argument(
        "--test_clips", type=int, default=200, help="half of their events combine what training never did"
    )
    parser.add_argument("--videos", type=int, default=20, help="test clips that are also written as mp4")
    parser.add_argument("--seed", type=int, default=0, help="another seed gives another world")
    parser.add_argument(
        "--workers", type=int, default=os.cpu_count() or 1, help="processes; does not change the result"
    )
    return parser.parse_args()


def main() -> int:
    arguments = parse_arguments()
    started = time.monotonic()
    options = {name: value for name, value in vars(arguments).items() if name != "output"}
    try:
        written = write_toy_world(arguments.output, **options, show_progress=True)
    except (ValueError, OSError, RuntimeError) as error:
        print(f"make_toy_world.py: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("make_toy_world.py: interrupted, nothing was written", file=sys.stderr)
        return 130
    print(f"{arguments.output}: written in {time.monotonic() - started:.0f} s")
    print(f"  clips       {written['train']} train, {written['val']} validation, {written['test']} test")
    print(f"  test events {written['unseen_events']} of {2 * written['test']} combine what training never did")
    print(f"  videos      {written['videos']}, with videos/new_clip.mp4 from outside the three splits")
    print(f"  tokenizer   {written['vocabulary']} tokens")
    return 0


if __name__ == "__main__":
    sys.exit(main())
