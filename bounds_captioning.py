# Copyright 2026 The LAVCap for Transformers authors. Licensed under the Apache License, Version 2.0.
"""What one clip may cost, in one place. A file that asks for more is refused, by its header where that tells."""

import time


try:  # inside a package: the Hub's module cache
    from .sources_captioning import MediaError
except ImportError:  # as a plain module: a clone, or after `pip install`
    from sources_captioning import MediaError


MAX_PIXELS = 89_478_485  # of a picture: Pillow's own limit, a quarter of a GiB of RGB
KEPT_PIXELS = 2**22  # of a decoded frame: larger ones are reduced by a whole number; models see 336 x 336 at most
MAX_ASPECT = 100  # longer edge of a picture by the shorter one: models resize the shorter one
PIXEL_ASPECTS = (0.1, 10.0)  # width of a pixel by its height: what is outside is taken for a mistake
SAMPLING_RATES = (1_000, 1_000_000)  # Hz
CLIP_SECONDS = 120  # of opening and decoding
MAX_OPENING_BYTES = 2**26  # that are read before a file's streams are known
MAX_SEARCHED_BYTES = 2**28  # that are read without a packet of a wanted stream; FFmpeg keeps twice as many
MAX_STREAM_BYTES = 2**30  # of a pipe, which is read whole
MAX_WINDOWS = 100_000  # of a long medium: eleven days, of ten seconds each
LOST_SHARE = 0.25  # of a stream's packets that no decoder takes


class Deadline:
    """Time that is left for a clip.

    Args:
        name: of the clip, for the message.
    """

    def __init__(self, name: object):
        self.name = name
        self._end = time.monotonic() + CLIP_SECONDS

    def check(self):
        """Raises:
        MediaError: it has passed.
        """
        if time.monotonic() > self._end:
            raise MediaError(
                f"{self.name}: takes more than {CLIP_SECONDS} s to read and decode; convert it to a smaller mp4."
            )


def check_size(name: object, width: int, height: int):
    """Raises:
    MediaError: a picture of so many pixels is empty, too large, or a strip.
    """
    if width < 1 or height < 1:  # FFmpeg, told the bound, leaves out a size that is beyond it
        raise MediaError(f"{name}: has a picture of no pixels, or of more than {MAX_PIXELS:,}; replace it.")
    if width * height > MAX_PIXELS:
        raise MediaError(
            f"{name}: has {width}x{height} pixels, expected at most {MAX_PIXELS:,} in all; make the picture smaller."
        )
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise MediaError(
            f"{name}: has {width}x{height} pixels, expected at most {MAX_ASPECT} times as many one way as the other; "
            "crop the picture."
        )


def check_rate(name: object, rate: int):
    """Raises:
    MediaError: no sound has so many samples per second.
    """
    lowest, highest = SAMPLING_RATES
    if not lowest <= rate <= highest:
        raise MediaError(
            f"{name}: declares {rate:,} samples per second, expected {lowest:,} to {highest:,}; write it again with "
            "its true rate."
        )
