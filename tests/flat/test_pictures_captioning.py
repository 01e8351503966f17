"""Pictures: the same one by every way in, upright, in all its bits, and one line for what is none."""

import io
import struct
import time
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction

import av
import numpy as np
import pytest
from PIL import Image, PngImagePlugin

import pictures_captioning
from inputs_captioning import to_frames
from media_captioning import read_clip
from pictures_captioning import array_to_rgb, image_to_rgb, read_image, read_images
from sources_captioning import MediaError, StoredFile


def encoded(image: Image.Image, kind: str = "png", **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def scene(width: int = 12, height: int = 8) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


def write_film(path, rgb: np.ndarray, codec: str = "png", pixels: str = "rgb24", **stream_options):
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25)
        stream.height, stream.width, stream.pix_fmt = *rgb.shape[:2], pixels
        for name, value in stream_options.items():
            setattr(stream.codec_context, name, value)
        frame = av.VideoFrame.from_ndarray(rgb, format="rgb24")
        for index in range(5):
            frame.pts = index
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


@pytest.mark.parametrize("size", [(12, 8), (2600, 1700)], ids=["as it is", "reduced"])
def test_a_picture_is_the_same_by_every_way(tmp_path, size):
    rgb = scene(*size)
    image = Image.fromarray(rgb)
    path, folder = tmp_path / "a.png", tmp_path / "folder"
    path.write_bytes(encoded(image))
    folder.mkdir()
    (folder / "0.png").write_bytes(encoded(image))
    (folder / "._0.png").write_bytes(b"of a system")
    film = write_film(tmp_path / "film.mov", rgb)
    bytes_too = StoredFile("in memory", encoded(image))

    def whole(count):
        return range(count)

    ways = {
        "path": read_image(path),
        "memory": read_image(bytes_too),
        "list": read_images([path, str(path)], [1])[0],
        "object": image_to_rgb(image),
        "alpha": image_to_rgb(image.convert("RGBA")),
        "objects": to_frames([image], whole)[0],
        "array": to_frames([rgb], whole)[0],
        "channels first": array_to_rgb(rgb.transpose(2, 0, 1)),
        "floating point": array_to_rgb(rgb.astype(np.float64) / 255),
        "clip": read_clip(path, 16000, 1, 10.0).frames[0],
        "clip in memory": read_clip(bytes_too, 16000, 3, 10.0).frames[2],
        "folder": read_clip(folder, 16000, 1, 10.0).frames[0],
        "film": read_clip(film, 16000, 2, 10.0).frames[1],
    }
    height, width = ways["path"].shape[:2]
    assert width * height <= 2**22 and (width, height) == (size if size[0] < 100 else (1300, 850))
    for way, found in ways.items():
        assert np.array_equal(found, ways["path"]), way


TURNS = {  # of the EXIF standard, as what a viewer does to the stored picture
    1: lambda rgb: rgb,
    2: lambda rgb: rgb[:, ::-1],
    3: lambda rgb: rgb[::-1, ::-1],
    4: lambda rgb: rgb[::-1],
    5: lambda rgb: rgb.transpose(1, 0, 2),
    6: lambda rgb: np.rot90(rgb, -1),
    7: lambda rgb: rgb.transpose(1, 0, 2)[::-1, ::-1],
    8: lambda rgb: np.rot90(rgb),
}


@pytest.mark.parametrize("orientation", TURNS)
def test_a_still_is_upright_as_file_and_as_object(tmp_path, orientation):
    rgb = scene()
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(Image.fromarray(rgb), exif=exif)
    for found in (read_image(StoredFile("a.png", data)), image_to_rgb(Image.open(io.BytesIO(data)))):
        assert np.array_equal(found, TURNS[orientation](rgb))


def with_matrix(path, a: int, b: int, c: int, d: int):
    """A film whose header has a display matrix, 16.16 fixed point (ISO/IEC 14496-12, `tkhd`)."""
    data = bytearray(path.read_bytes())
    place = data.index(b"tkhd") + 4 + 40
    data[place : place + 36] = struct.pack(">9i", a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30)
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    ("matrix", "shown"),
    [
        ((1, 0, 0, 1), TURNS[1]),
        ((-1, 0, 0, 1), TURNS[2]),
        ((-1, 0, 0, -1), TURNS[3]),
        ((1, 0, 0, -1), TURNS[4]),
        ((0, 1, 1, 0), TURNS[5]),
        ((0, 1, -1, 0), TURNS[6]),
        ((0, -1, -1, 0), TURNS[7]),
        ((0, -1, 1, 0), TURNS[8]),
    ],
    ids=[
        "as it is",
        "mirrored",
        "half a turn",
        "upside down",
        "transposed",
        "to the right",
        "transverse",
        "to the left",
    ],
)
def test_a_film_is_turned_and_mirrored_as_its_matrix_says(tmp_path, matrix, shown):
    rgb = np.zeros((48, 64, 3), np.uint8)
    rgb[:24, :32], rgb[:24, 32:], rgb[24:, :32] = (255, 0, 0), (0, 255, 0), (0, 0, 255)
    path = with_matrix(write_film(tmp_path / "film.mp4", rgb, "libx264", "yuv444p"), *matrix)
    found = read_clip(path, 16000, 1, 10.0).frames[0]
    expected = shown(rgb)
    assert found.shape == expected.shape
    assert np.abs(found.astype(int) - expected)[::12, ::12].max() < 12


RED = {  # number of a colour space (ITU-T H.273), and its weights of red and blue
    "BT.709": (1, 0.2126, 0.0722),
    "BT.601": (5, 0.299, 0.114),
    "BT.2020": (9, 0.2627, 0.0593),
}


@pytest.mark.parametrize("name", RED)
def test_red_is_red_in_every_colour_space(tmp_path, name):
    space, red, blue = RED[name]
    planes = 16 + 219 * red, 128 - 112 * red / (1 - blue), 128 + 112  # of pure red, in 8 bits of limited range
    pixels = np.tile(np.round(planes).astype(np.uint8)[:, None, None], (1, 32, 32))
    path = tmp_path / "red.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=25)
        stream.width = stream.height = 32
        stream.pix_fmt, stream.codec_context.colorspace = "yuv444p", space
        frame = av.VideoFrame.from_ndarray(pixels, format="yuv444p")
        frame.colorspace, frame.pts = space, 0
        container.mux([*stream.encode(frame), *stream.encode(None)])
    found = read_clip(path, 16000, 1, 10.0).frames[0][16, 16].astype(int)
    assert np.abs(found - [255, 0, 0]).max() <= 3


def test_pixels_that_are_not_square_are_shown_square(tmp_path):
    rgb = scene(64, 32)
    wide = write_film(tmp_path / "wide.mov", rgb, sample_aspect_ratio=Fraction(2))
    found = read_clip(wide, 16000, 1, 10.0).frames[0]
    assert found.shape == (32, 128, 3)
    assert np.array_equal(found, np.asarray(Image.fromarray(rgb).resize((128, 32), Image.Resampling.BICUBIC)))


@pytest.mark.parametrize("mode", ["I;16", "I", "F", "L", "P", "1", "LA", "CMYK", "HSV"])
def test_a_ramp_is_a_ramp_in_every_mode(mode):
    ramp = np.arange(0, 65536, 257, dtype=np.uint16).reshape(16, 16)
    eight = (ramp // 257).astype(np.uint8)
    images = {
        "I;16": lambda: Image.fromarray(ramp),
        "I": lambda: Image.fromarray(ramp.astype(np.int32)),
        "F": lambda: Image.fromarray((ramp / 65535).astype(np.float32)),
    }
    image = images.get(mode, lambda: Image.fromarray(eight).convert("RGB" if mode in ("CMYK", "HSV") else "L"))()
    image = image if mode in images or image.mode == mode else image.convert(mode)
    found = image_to_rgb(image)
    assert found.shape == (16, 16, 3) and (found[..., 0] == found[..., 2]).all()
    if mode == "1":
        assert set(np.unique(found)) == {0, 255}
    else:
        assert np.abs(found[..., 0].astype(int) - eight).max() <= 1
    if mode == "I;16":
        assert np.array_equal(read_image(StoredFile("a.png", encoded(image))), found)


def png(*chunks: tuple[bytes, bytes], header: bytes | None = None) -> bytes:
    ihdr = struct.pack(">IIBBBBB", 8, 8, 8, 0, 0, 0, 0) if header is None else header
    body = [(b"IHDR", ihdr), *chunks, (b"IDAT", zlib.compress(bytes(9) * 8)), (b"IEND", b"")]
    packed = (
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in body
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


def strange_pictures() -> dict[str, bytes]:
    profile = PngImagePlugin.PngInfo()
    profile.add_text("Raw profile type exif", "\nexif\n    4\nzzzz\n")
    good = png()
    at_header = bytearray(good)
    at_header[8 + 3] ^= 0x04  # length of the header
    return {
        "odd EXIF text": encoded(Image.new("L", (8, 8)), pnginfo=profile),
        "one bit of the header": bytes(at_header),
        "no header": png(header=b""),
        "0 pixels": png(header=struct.pack(">IIBBBBB", 0, 8, 8, 0, 0, 0, 0)),
        "a bomb": png(header=struct.pack(">IIBBBBB", 60_000, 60_000, 8, 0, 0, 0, 0)),
        "a strip": png(header=struct.pack(">IIBBBBB", 1, 60_000, 8, 0, 0, 0, 0)),
        "cut": encoded(Image.fromarray(scene(64, 64)))[:400],
        "a QOI": b"qoif" + struct.pack(">IIBB", 8, 8, 3, 0) + bytes(64),
        "a DDS": b"DDS " + struct.pack("<I", 124) + bytes(120),
        "a TIFF": encoded(Image.new("L", (8, 8)), "tiff"),
        "an EPS": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n",
        "a PPM": encoded(Image.new("RGB", (8, 8)), "ppm"),
        "nothing": b"",
    }


@pytest.mark.parametrize("name", strange_pictures())
def test_what_is_no_picture_is_that_file_s_error_whatever_pillow_raises(tmp_path, name):
    path = tmp_path / "frame.png"
    path.write_bytes(strange_pictures()[name])
    with pytest.raises(MediaError, match=r"frame\.png: (not a readable image|has )") as raised:
        read_image(path)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "error", [MemoryError("no room"), RecursionError("deep"), KeyError("tag"), ZeroDivisionError()]
)
def test_every_exception_of_a_decoder_is_the_file_s(monkeypatch, error):
    def fail(*args):
        raise error

    monkeypatch.setattr(pictures_captioning, "image_to_rgb", fail)
    with pytest.raises(MediaError, match=r"a\.png: not a readable image \(\S"):
        read_image(StoredFile("a.png", png()))


def test_a_picture_of_numbers_that_are_none_is_refused():
    with pytest.raises(MediaError, match="a picture: holds NaN or infinite values"):
        image_to_rgb(Image.fromarray(np.array([[0.5, np.nan]], np.float32)))


def test_arrays_that_are_no_pictures_are_refused_with_their_shape_and_kind():
    for array, message in (
        (np.zeros((8, 8, 2)), r"shape \(8, 8, 2\)"),
        (np.zeros((0, 8, 3)), r"shape \(0, 8, 3\)"),
        (np.full((8, 8, 3), np.nan), "values from nan to nan"),
        (np.full((8, 8, 3), 300), "values from 300 to 300"),
        (np.full((8, 8, 3), "a"), "holds <U1"),
    ):
        with pytest.raises(ValueError, match=message):
            array_to_rgb(array)


def test_pictures_that_are_read_at_once_leave_the_filters_of_warnings_as_they_were(monkeypatch):
    real = pictures_captioning.openable
    monkeypatch.setattr(pictures_captioning, "openable", lambda source: time.sleep(0.05) or real(source))
    picture = StoredFile("a.png", encoded(Image.fromarray(scene())))
    with warnings.catch_warnings(), ThreadPoolExecutor(3) as threads:
        warnings.simplefilter("error")
        before = list(warnings.filters)
        frames = list(threads.map(read_image, [picture] * 3))
        assert all(np.array_equal(frame, scene()) for frame in frames) and warnings.filters == before
