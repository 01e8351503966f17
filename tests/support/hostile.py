"""Files that were damaged at random, given to what reads them in a process of their own.

    python tests/support/hostile.py SEED COUNT KIND…

Prints one JSON object by kind: how often each outcome came, what was neither a result nor an error of ours, the
longest time in seconds and the growth of the process in MiB. It has no more than `MEMORY` bytes of address space.
"""

import contextlib
import io
import json
import random
import resource
import sys
import tempfile
import time
import wave
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from media_files import write_media
from PIL import Image
from safetensors.torch import save
from tiny_models import tiny_model

from lavcap.data.manifest import read_facts
from lavcap.data.schema import DataError
from lavcap.data.splits import load_split
from lavcap.models.captioning import caption_features
from lavcap.models.loading import load_model
from lavcap.preparation.annotations import read_annotations
from lavcap.toy.dataset import train_tokenizer
from media_captioning import read_clip
from pictures_captioning import read_image
from processing_dali import DaliProcessor
from processing_lavcap import LavcapProcessor
from sources_captioning import MediaError, StoredFile
from tiny_dali import tiny_dali
from weights_captioning import WeightsError, read_weights


MEMORY = 6 * 2**30
FILMS = {
    "mp4": {},
    "mkv": {},
    "ts": {},
    "avi": {"audio": "libmp3lame", "video": "mpeg4"},
    "webm": {"audio": "libopus", "video": "libvpx", "rate": 48000},
    "mp3": {"audio": "libmp3lame", "video": None},
    "aac": {"video": None},
    "opus": {"audio": "libopus", "video": None, "rate": 48000},
    "flac": {"audio": "flac", "video": None},
}
Read = Callable[[str, bytes], object]


def damaged(data: bytes, draw: random.Random) -> bytes:
    """The same with some bits, bytes or runs of them changed, taken out, put in or exchanged."""
    data = bytearray(data)
    kind = draw.choice(("bit", "bit", "head", "byte", "cut", "insert", "zeros", "exchange"))
    for _ in range(draw.choice((1, 1, 2, 5, 20))):
        if not data:
            break
        place = draw.randrange(min(len(data), 200 if kind == "head" else len(data)))
        if kind in ("bit", "head"):
            data[place] ^= 1 << draw.randrange(8)
        elif kind == "byte":
            data[place] = draw.choice((0, 127, 128, 255, draw.randrange(256)))
        elif kind == "cut":
            data = data[:place]
        elif kind == "insert":
            data[place:place] = draw.randbytes(draw.choice((1, 4, 100)))
        elif kind == "zeros":
            data[place : place + 64] = bytes(len(data[place : place + 64]))
        else:
            other = draw.randrange(len(data))
            data[place : place + 16], data[other : other + 16] = data[other : other + 16], data[place : place + 16]
    return bytes(data)


def media(folder: Path) -> tuple[list[tuple[str, bytes]], Read]:
    files = [write_media(folder / f"a.{suffix}", seconds=1, **options) for suffix, options in FILMS.items()]
    with wave.open(str(folder / "a.wav"), "wb") as file:
        file.setnchannels(2)
        file.setsampwidth(2)
        file.setframerate(44100)
        file.writeframes(np.random.default_rng(0).integers(-9999, 9999, 8000, np.int16).tobytes())
    files.append(folder / "a.wav")

    def read(name: str, data: bytes):
        clip = read_clip(StoredFile(name, data), 16000, 5, 10.24)
        assert clip.waveform is None or (np.isfinite(clip.waveform).all() and len(clip.waveform) <= 163_840)
        assert clip.frames is None or clip.frames.shape[0] == 5

    return [(path.name, path.read_bytes()) for path in files], read


def pictures(folder: Path) -> tuple[list[tuple[str, bytes]], Read]:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    found = []
    for kind, options in (("png", {"exif": exif}), ("jpeg", {"exif": exif}), ("webp", {}), ("bmp", {})):
        file = io.BytesIO()
        image.save(file, kind, **options)
        found.append((f"a.{kind}", file.getvalue()))
    return found, lambda name, data: read_image(StoredFile(name, data))


def annotations(folder: Path) -> tuple[list[tuple[str, bytes]], Read]:
    rows = [
        {
            "youtube_id": f"id{number}",
            "start_time": number,
            "caption": "rain, it “falls”",
            "audio_path": f"{number}.wav",
        }
        for number in range(5)
    ]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    table = "audiocap_id,youtube_id,start_time,caption\n" + "".join(f'{n},id{n},{n},"rain, falls"\n' for n in range(5))
    facts = {"val": {"missing": {"id9": "no such film"}, "embedded": False, "dataset_version": "1", "clips": 5}}
    texts = {"a.json": json.dumps(rows), "a.jsonl": lines, "a.csv": table, "val.json": json.dumps(rows)}
    texts |= {"manifest.json": json.dumps(facts)}

    def read(name: str, data: bytes):
        (folder / name).write_bytes(data)
        if name == "manifest.json":
            return read_facts(folder)
        return load_split(folder, "val") if name == "val.json" else read_annotations(folder / name)

    return [(name, text.encode()) for name, text in texts.items()], read


def weights(folder: Path) -> tuple[list[tuple[str, bytes]], Read]:
    data = save({"a.weight": torch.randn(4, 4), "a.bias": torch.randn(4), "b": torch.zeros(2, dtype=torch.int64)})
    pickled = io.BytesIO()
    torch.save({"model": {"a": torch.randn(3)}}, pickled)

    def read(name: str, content: bytes):
        (folder / name).write_bytes(content)
        return read_weights(folder / name)

    return [("a.safetensors", data), ("a.pt", pickled.getvalue())], read


def changed(value: object, draw: random.Random) -> object:
    """The same JSON with one value in it of another kind or size, or missing."""
    if isinstance(value, dict) and value and draw.random() < 0.9:
        name = draw.choice(sorted(value))
        if draw.random() < 0.1:
            return {each: value[each] for each in value if each != name}
        return value | {name: changed(value[name], draw)}
    if isinstance(value, list) and value and draw.random() < 0.7:
        place = draw.randrange(len(value))
        return [*value[:place], changed(value[place], draw), *value[place + 1 :]]
    numbers = (0, -1, 1, 3, 10**7, 10**30, -0.5, 1e308, float("nan"), float("inf"))
    others = (None, True, False, "", "a", "3", "\udcff", [], [1], [None], {}, {"a": 1}, [[[[]]]])
    return draw.choice(numbers if draw.random() < 0.5 else others)


def changed_text(data: bytes, draw: random.Random) -> bytes:
    """JSON with one value changed, or damaged text."""
    if draw.random() < 0.2:
        return damaged(data, draw)
    return json.dumps(changed(json.loads(data), draw)).encode()


def settings(folder: Path) -> tuple[list[tuple[str, bytes]], Read]:
    """Files beside the weights of saved models, which are loaded, and caption a sound."""
    sound = write_media(folder / "a.flac", seconds=1, audio="flac", video=None)
    tokenizer, files = train_tokenizer(["a red circle beeps while rain falls"]), {}
    text_config = {"vocab_size": len(tokenizer)}
    for kind, model in ((LavcapProcessor, tiny_model), (DaliProcessor, tiny_dali)):
        model = model(text_config=text_config)
        model.save_pretrained(folder / kind.__name__)
        kind.from_config(model.config, tokenizer).save_pretrained(folder / kind.__name__)
        for path in sorted((folder / kind.__name__).glob("*.json")):
            if path.name != "tokenizer.json":
                files[f"{kind.__name__}/{path.name}"] = path.read_bytes()

    def read(name: str, data: bytes):
        file = folder / name
        file.write_bytes(data)
        try:
            model, processor = load_model(file.parent)
            clip = processor.load_clip(sound)
            caption_features(model, processor, [processor.clip_features(clip)], max_new_tokens=2)
        finally:
            file.write_bytes(files[name])

    return list(files.items()), read


KINDS = {"media": media, "pictures": pictures, "annotations": annotations, "weights": weights, "settings": settings}
DAMAGE = {"settings": changed_text}
OURS = {"settings": (ValueError, OSError)}
ERRORS = (MediaError, DataError, WeightsError)


def trials(kind: str, seed: int, count: int, folder: Path) -> Iterator[tuple[str, bytes, Read]]:
    draw = random.Random(seed)
    sources, read = KINDS[kind](folder)
    for _ in range(count):
        name, data = draw.choice(sources)
        yield name, DAMAGE.get(kind, damaged)(data, draw), read


def campaign(kind: str, seed: int, count: int) -> dict:
    outcomes, foreign, longest = Counter(), [], 0.0
    with tempfile.TemporaryDirectory() as folder:
        before = None
        for number, (name, data, read) in enumerate(trials(kind, seed, count, Path(folder))):
            before = before or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            started = time.monotonic()
            try:
                read(name, data)
                outcomes["read"] += 1
            except OURS.get(kind, ERRORS) as error:
                outcomes["refused"] += 1
                if "\n" in str(error).replace("\n  ", "") or len(str(error)) > 4000:
                    foreign.append(f"{number} {name}: {str(error)[:200]!r}")
            except Exception as error:
                foreign.append(f"{number} {name}: {type(error).__name__} {str(error)[:200]}")
            longest = max(longest, time.monotonic() - started)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - (before or 0)
    return {"outcomes": dict(outcomes), "foreign": foreign, "longest": round(longest, 2), "grown_mib": grown // 1024}


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    with contextlib.redirect_stdout(sys.stderr):
        found = {kind: campaign(kind, int(sys.argv[1]), int(sys.argv[2])) for kind in sys.argv[3:]}
    print(json.dumps(found))
