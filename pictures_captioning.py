# Copyright 2026 The LAVCap for Transformers authors. Licensed under the Apache License, Version 2.0.
"""Pictures of every origin as RGB, upright, with square pixels: files, objects of Pillow, arrays, frames of films."""

import warnings
from collections.abc import Sequence
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np


try:  # inside a package: the Hub's module cache
    from .bounds_captioning import KEPT_PIXELS, PIXEL_ASPECTS, check_size
    from .sources_captioning import MediaError, Source, as_source, check_file, first_bytes, one_line, openable
except ImportError:  # as a plain module: a clone, or after `pip install`
    from bounds_captioning import KEPT_PIXELS, PIXEL_ASPECTS, check_size
    from sources_captioning import MediaError, Source, as_source, check_file, first_bytes, one_line, openable


if TYPE_CHECKING:
    from PIL.Image import Image


FORMATS = ("BMP", "JPEG", "PNG", "WEBP")  # that Pillow may open, whatever a file is called
_WARNINGS = Lock()  # their filters are those of all threads
SIGNATURES = (b"BM", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n")


def is_picture(source: Source) -> bool:
    """Whether a file begins as a picture of a known format does."""
    start, _ = first_bytes(source, 12)
    return start.startswith(SIGNATURES) or (start[:4] == b"RIFF" and start[8:] == b"WEBP")


def read_images(images: Sequence[Any], numbers: Sequence[int]) -> np.ndarray:
    """Some pictures of a sequence of files, `(len(numbers), height, width, 3)` uint8; all must have one size.

    Args:
        images: what [`as_source`] takes.
        numbers: which of them, in order.

    Raises:
        MediaError: one is missing, no picture, damaged, or of another size.
    """
    frames: dict[int, np.ndarray] = {}
    for index in sorted(set(numbers)):
        source = as_source(images[index])
        frames[index] = read_image(source)
        first = next(iter(frames.values()))
        if frames[index].shape != first.shape:
            raise MediaError(
                f"{source}: {frames[index].shape[1]}x{frames[index].shape[0]} pixels among frames of "
                f"{first.shape[1]}x{first.shape[0]}; give all frames of a clip one size."
            )
    return np.stack([frames[index] for index in numbers])


def read_image(source: Source) -> np.ndarray:
    """A picture of a file, `(height, width, 3)` uint8."""
    from PIL import Image

    if isinstance(source, Path):
        check_file(source)
    try:
        with _WARNINGS, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd metadata, which do not matter here
            with Image.open(openable(source), formats=FORMATS) as image:
                return image_to_rgb(image, str(source))
    except MediaError:
        raise
    except Exception as error:  # whatever a decoder makes of a strange file: the other clips must not suffer
        raise MediaError(f"{source}: not a readable image ({one_line(error)}); replace it.") from error


def image_to_rgb(image: "Image", name: str = "a picture") -> np.ndarray:
    """A picture of Pillow, in any mode, `(height, width, 3)` uint8, turned as its EXIF orientation says."""
    from PIL import ImageOps

    check_size(name, *image.size)
    return np.asarray(_reduced(ImageOps.exif_transpose(_in_rgb(image, name))))


def array_to_rgb(array: np.ndarray, name: str = "A video frame") -> np.ndarray:
    """An array as `(height, width, 3)` uint8: grey or RGB, channels last or first, floating point in [0, 1] or
    integers in [0, 255].

    Raises:
        ValueError: another shape, or values outside.
    """
    if array.ndim == 3 and array.shape[-1] not in (1, 3) and array.shape[0] in (1, 3):
        array = array.transpose(1, 2, 0)
    array = array[..., None] if array.ndim == 2 else array
    if array.ndim != 3 or array.shape[-1] not in (1, 3) or not array.size:
        raise ValueError(f"{name} has shape {array.shape}, expected (height, width, 3) RGB.")
    if array.dtype.kind not in "biuf":
        raise ValueError(f"{name} holds {array.dtype}, expected numbers: floating point in [0, 1], or uint8.")
    check_size(name, array.shape[1], array.shape[0])
    floating = array.dtype.kind in "bf"
    if not (array.min() >= 0 and array.max() <= (1 if floating else 255)):  # NaN is neither
        raise ValueError(
            f"{name} of {array.dtype} holds values from {array.min():.3g} to {array.max():.3g}, expected "
            "floating point in [0, 1] or integers in [0, 255]."
        )
    array = (array * 255.0).round() if floating else array
    return _reduced_array(np.broadcast_to(array.astype(np.uint8), (*array.shape[:2], 3)))


def frame_to_rgb(frame: Any, width: int, height: int, pixel_aspect: float | None) -> np.ndarray:
    """A decoded frame of PyAV, `(height, width, 3)` uint8, as a player shows it.

    Args:
        width, height: that it is given: a broadcast may change its own within the stream.
        pixel_aspect: width of a pixel by its height; `None`: square.
    """
    from PIL import Image

    rgb = frame.to_ndarray(format="rgb24", width=width, height=height)  # by the colour space that the frame tells
    lowest, highest = PIXEL_ASPECTS
    if pixel_aspect and pixel_aspect != 1 and lowest <= pixel_aspect <= highest:
        wide = max(1, round(width * pixel_aspect))
        rgb = np.asarray(Image.fromarray(rgb).resize((wide, height), Image.Resampling.BICUBIC))
    return _reduced_array(_turned(rgb, frame.side_data.get("DISPLAYMATRIX")))


# -------------------------------------------------------------------------------------------------------- internals


def _in_rgb(image: "Image", name: str) -> "Image":
    """In 8 bits a channel. Pillow cuts off what more bits hold: 16 of grey would be white."""
    from PIL import Image

    if not image.mode.startswith(("I", "F")):
        return image.convert("RGB")
    values = np.asarray(image)
    if not np.isfinite(values).all():
        raise MediaError(f"{name}: holds NaN or infinite values, expected finite ones; make it again.")
    if image.mode == "F":
        scale = 255.0 if values.max() <= 1 else 1.0
    else:
        scale = 1 / 257 if image.mode.startswith("I;16") or values.max() > 255 else 1.0
    grey = (values * np.float32(scale)).round().clip(0, 255).astype(np.uint8)
    scaled = Image.fromarray(grey).convert("RGB")
    scaled.info, scaled._exif = image.info, getattr(image, "_exif", None)
    return scaled


def _reduced(image: "Image") -> "Image":
    """At most the pixels that are kept: squares of whole numbers of pixels become their mean."""
    pixels = image.width * image.height
    return image if pixels <= KEPT_PIXELS else image.reduce(int(np.ceil((pixels / KEPT_PIXELS) ** 0.5)))


def _reduced_array(rgb: np.ndarray) -> np.ndarray:
    from PIL import Image

    if rgb.shape[0] * rgb.shape[1] <= KEPT_PIXELS:
        return rgb
    return np.asarray(_reduced(Image.fromarray(np.ascontiguousarray(rgb))))


def _turned(rgb: np.ndarray, display_matrix: Any) -> np.ndarray:
    """A picture under a display matrix, of which right angles and mirrors are taken.

    ISO/IEC 14496-12: nine numbers, row by row; a point `(x, y)` is shown at `(a x + c y, b x + d y)`, with `a, b`
    the first two of the first row and `c, d` those of the second.
    """
    if display_matrix is None:
        return rgb
    a, b, _, c, d = np.frombuffer(bytes(display_matrix), np.int32)[:5].astype(float)
    if abs(a) + abs(d) < abs(b) + abs(c):  # rows become columns
        rgb, a, d = rgb.transpose(1, 0, 2), c, b
    return rgb[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1]
