"""A generated audio-visual world in AudioCaps' layout, small enough to train on a laptop.

A clip lasts four seconds. Coloured shapes are seen throughout; two of them sound, one after the other, and pulse in
step with their sound; up to two more are seen and never heard; rain, wind or an engine may be heard and is never seen.
Neither the picture nor the sound alone is enough to write the caption. `UNSEEN_PAIRS` lists the (colour, shape, sound)
combinations kept out of training, so that a test clip can ask for a combination that has to be inferred.

Clip `index` of a split depends on (seed, split, index) alone.
"""

import json
import math
import multiprocessing
import re
import signal
import tempfile
import wave
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np
from PIL import Image, ImageDraw
from tqdm import tqdm


SAMPLING_RATE = 16_000  # Hz
CLIP_SECONDS = 4.0
CLIP_SAMPLES = int(SAMPLING_RATE * CLIP_SECONDS)  # 64,000
FRAMES_PER_CLIP = 20
FRAME_SIZE = 64  # pixels
JPEG_QUALITY = 92
SUPERSAMPLING = 4  # drawn pixels per side of a final pixel

COLOURS = {"red": (215, 45, 45), "green": (45, 175, 70), "blue": (55, 95, 225), "yellow": (225, 195, 45)}
SHAPES = ("circle", "square", "triangle", "star")
SOUNDS = {  # base form: (third person, gerund)
    "beep": ("beeps", "beeping"),
    "buzz": ("buzzes", "buzzing"),
    "chirp": ("chirps", "chirping"),
    "click": ("clicks", "clicking"),
    "ring": ("rings", "ringing"),
    "whistle": ("whistles", "whistling"),
}
BACKGROUNDS = {  # name: (clause, participle phrase)
    "rain": ("rain falls", "rain falling"),
    "wind": ("wind blows", "wind blowing"),
    "engine": ("an engine hums", "an engine humming"),
}
CAPTION_TEMPLATES = (  # (events, background); every template names things in the order of the events
    ("{a} {a_does}, then {b} {b_does}", " while {scene}"),
    ("{a} {a_does} followed by {b} {b_doing}", " as {scene}"),
    ("{a} {a_does} and then {b} {b_does}", " with {scene_doing} in the background"),
    ("a {a_doing} {a_look}, then a {b_doing} {b_look}", ", with {scene_doing}"),
    ("{a} is {a_doing} before {b} begins {b_doing}", " while {scene} in the background"),
)
PROMPT = "USER: <Speech></Speech> Please describe the audio.\nASSISTANT:"

# Offsets per colour, chosen so that no colour and no shape misses a sound twice and each sound misses 2 or 3 objects.
_HELD_OUT_OFFSETS = (0, 2, 4, 1)
UNSEEN_PAIRS: frozenset[tuple[str, str, str]] = frozenset(
    (colour, shape, tuple(SOUNDS)[(offset + number) % len(SOUNDS)])
    for colour, offset in zip(COLOURS, _HELD_OUT_OFFSETS, strict=True)
    for number, shape in enumerate(SHAPES)
)

SPLITS = ("train", "val", "test", "new")
_ID_LETTERS = {"train": "t", "val": "v", "test": "e", "new": "n"}
_UNSEEN_CHANCE = {"train": (0.0, 0.0), "val": (0.0, 0.0), "test": (0.5, 0.5), "new": (1.0, 0.0)}  # per event
MIN_TRAIN_CLIPS = 16  # as many as there are objects
VOCABULARY_SIZE = 512

EVENT_SECONDS = (1.0, 1.5)
EVENT_GAP = 0.1  # seconds, least distance between events and to the clip's ends
PULSE_RATES = (2.5, 5.0)  # Hz
ACTIVE_SIZE, PULSE_SIZE = 1.25, 0.15  # size factor while sounding, and what a full pulse adds
IDLE_GLOW = 0.5  # brightness of the colour while silent; a sounding object lights up in full
PULSE_LIGHT = 0.25  # share of white that a full pulse mixes into the fill
RIM = 0.16  # width of a sounding object's light rim, as a share of its size
BOARD_CELLS = 2  # per side; each object stands in a cell of its own, however large it grows
RADII = (0.15, 0.172)  # share of the picture's side
JITTER = 0.008  # picture sides, from the middle of the cell, along each axis
MAX_DRIFT = 0.001  # picture sides per second
FADE_SECONDS = 0.01


def _outline(shape: str) -> np.ndarray:
    """Corners of a shape in the unit circle, `(points, 2)`, y pointing down."""
    corners = {"circle": 48, "square": 4, "triangle": 3, "star": 10}[shape]
    turn = math.pi / 4 if shape == "square" else -math.pi / 2
    angles = turn + 2 * math.pi * np.arange(corners) / corners
    radii = np.full(corners, 0.88 if shape == "circle" else 1.0)  # a full circle looks larger than the others
    if shape == "star":
        radii[1::2] = 0.5
    return np.stack([radii * np.cos(angles), radii * np.sin(angles)], axis=1)


_OUTLINES = {shape: _outline(shape) for shape in SHAPES}


@dataclass(frozen=True, kw_only=True)
class ToyObject:
    """A shape that is seen. Lengths are shares of the picture's side, from its top left corner."""

    colour: str
    shape: str
    x: float  # centre at time 0
    y: float
    radius: float
    angle: float  # radians
    drift_x: float  # per second
    drift_y: float

    def position(self, time: float) -> tuple[float, float]:
        """Centre (x, y) at `time` (seconds)."""
        return self.x + self.drift_x * time, self.y + self.drift_y * time

    def size_factor(self, time: float) -> float:
        """Drawn size at `time` (seconds) relative to `radius`."""
        return 1.0

    def layers(self, time: float) -> list[tuple[float, tuple[int, int, int]]]:
        """What to draw at `time` (seconds), bottom first: (size factor, RGB)."""
        return [(self.size_factor(time), _rgb(IDLE_GLOW * np.array(COLOURS[self.colour])))]


@dataclass(frozen=True, kw_only=True)
class ToyEvent(ToyObject):
    """An object that sounds between `start` and `end` (seconds)."""

    sound: str
    start: float
    end: float
    pulse_rate: float  # Hz
    pitch: float  # factor on the sound's frequencies
    tempo: float  # factor on the sound's inner rhythm
    loudness: float  # RMS before the pulse envelope, full scale 1
    noise_seed: int

    @property
    def unseen(self) -> bool:
        """Whether this (colour, shape, sound) is kept out of training."""
        return (self.colour, self.shape, self.sound) in UNSEEN_PAIRS

    def active(self, time: float) -> bool:
        return self.start <= time < self.end

    def pulse(self, time: float | np.ndarray) -> np.ndarray:
        """Envelope shared by sound and picture, 0 to 1, at `time` (seconds); 0 outside the event."""
        time = np.asarray(time, dtype=np.float64)
        cycles = 0.5 - 0.5 * np.cos(2 * np.pi * self.pulse_rate * (time - self.start))
        return np.where((time >= self.start) & (time < self.end), cycles, 0.0)

    def size_factor(self, time: float) -> float:
        return ACTIVE_SIZE + PULSE_SIZE * float(self.pulse(time)) if self.active(time) else 1.0

    def layers(self, time: float) -> list[tuple[float, tuple[int, int, int]]]:
        if not self.active(time):
            return super().layers(time)
        size, fill = self.size_factor(time), np.array(COLOURS[self.colour])
        light = PULSE_LIGHT * float(self.pulse(time))
        rim = fill + 0.75 * (255 - fill)
        return [(size, _rgb(rim)), (size * (1 - RIM), _rgb(fill + light * (255 - fill)))]


@dataclass(frozen=True, kw_only=True)
class ToyClip:
    """Everything that is heard, seen and said in one clip. `id` has the eleven characters of a YouTube id."""

    id: str
    split: str
    events: tuple[ToyEvent, ...]
    distractors: tuple[ToyObject, ...]
    background: str | None
    background_level: float  # RMS, full scale 1
    backdrop: tuple[int, int, int]  # RGB
    noise_seed: int
    captions: tuple[str, ...]

    @property
    def stem(self) -> str:
        """File name without ending: `<id>_<start ms>_<end ms>`."""
        return f"{self.id}_0_{round(1000 * CLIP_SECONDS)}"

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "ToyClip":
        tuples = {name: tuple(values[name]) for name in ("backdrop", "captions")}
        events = tuple(ToyEvent(**event) for event in values["events"])
        distractors = tuple(ToyObject(**item) for item in values["distractors"])
        return cls(**{**values, **tuples, "events": events, "distractors": distractors})


# Sampling


def sample_clip(split: str, index: int, seed: int = 0) -> ToyClip:
    """Draws clip `index` (from 0) of a split; the same three arguments always give the same clip."""
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}, expected one of {', '.join(SPLITS)}")
    rng = np.random.default_rng([seed, SPLITS.index(split), index])
    looks = [(colour, shape) for colour in COLOURS for shape in SHAPES]
    picks = rng.choice(len(looks), size=2 + rng.integers(3), replace=False)
    objects = _sample_objects(rng, [looks[pick] for pick in picks])
    spans, chances = _sample_spans(rng), _UNSEEN_CHANCE[split]
    events = tuple(_sample_event(rng, *given) for given in zip(objects[:2], spans, chances, strict=True))
    background = rng.choice([None, *BACKGROUNDS])
    captions = paraphrase_captions(events, background)
    return ToyClip(
        id=f"toy{_ID_LETTERS[split]}{index:07d}",
        split=split,
        events=events,
        distractors=tuple(objects[2:]),
        background=background,
        background_level=_uniform(rng, 0.010, 0.018),
        backdrop=tuple(int(value) for value in rng.integers(96, 128, size=3)),
        noise_seed=int(rng.integers(2**31)),
        captions=(captions[rng.integers(len(captions))],) if split == "train" else captions,
    )


def _sample_objects(rng: np.random.Generator, looks: Sequence[tuple[str, str]]) -> list[ToyObject]:
    """Objects of given colours and shapes in cells of their own on the board."""
    cells = rng.choice(BOARD_CELLS**2, size=len(looks), replace=False)
    return [
        _sample_object(rng, *look, *divmod(int(cell), BOARD_CELLS)) for look, cell in zip(looks, cells, strict=True)
    ]


def _sample_object(rng: np.random.Generator, colour: str, shape: str, row: int, column: int) -> ToyObject:
    direction, speed = rng.uniform(0, 2 * math.pi), rng.uniform(0, MAX_DRIFT)
    return ToyObject(
        colour=colour,
        shape=shape,
        x=_uniform(rng, -JITTER, JITTER) + (column + 0.5) / BOARD_CELLS,
        y=_uniform(rng, -JITTER, JITTER) + (row + 0.5) / BOARD_CELLS,
        radius=_uniform(rng, *RADII),
        angle=_uniform(rng, -0.2, 0.2),
        drift_x=round(speed * math.cos(direction), 5),
        drift_y=round(speed * math.sin(direction), 5),
    )


def _sample_spans(rng: np.random.Generator) -> list[tuple[float, float]]:
    """Start and end (seconds) of two events that do not overlap, in order."""
    first, second = rng.uniform(*EVENT_SECONDS, size=2)
    slack = CLIP_SECONDS - first - second - 3 * EVENT_GAP
    early, late = np.sort(rng.uniform(0, slack, size=2))
    starts = (EVENT_GAP + early, 2 * EVENT_GAP + first + late)
    return [
        (round(float(start), 4), round(float(start + length), 4))
        for start, length in zip(starts, (first, second), strict=True)
    ]


def _sample_event(
    rng: np.random.Generator, item: ToyObject, span: tuple[float, float], unseen_chance: float
) -> ToyEvent:
    unseen = rng.random() < unseen_chance
    sounds = [sound for sound in SOUNDS if ((item.colour, item.shape, sound) in UNSEEN_PAIRS) == unseen]
    return ToyEvent(
        **asdict(item),
        sound=str(rng.choice(sounds)),
        start=span[0],
        end=span[1],
        pulse_rate=_uniform(rng, *PULSE_RATES),
        pitch=_uniform(rng, 0.88, 1.14),
        tempo=_uniform(rng, 0.85, 1.2),
        loudness=_uniform(rng, 0.09, 0.14),
        noise_seed=int(rng.integers(2**31)),
    )


def _uniform(rng: np.random.Generator, low: float, high: float) -> float:
    return round(float(rng.uniform(low, high)), 4)


# Captions


def paraphrase_captions(events: Sequence[ToyEvent], background: str | None) -> tuple[str, ...]:
    """The captions of two events in order, one per template."""
    words: dict[str, str] = {}
    for name, event in zip("ab", events, strict=True):
        does, doing = SOUNDS[event.sound]
        look = f"{event.colour} {event.shape}"
        words |= {name: f"a {look}", f"{name}_look": look, f"{name}_does": does, f"{name}_doing": doing}
    if background is None:
        return tuple(main.format(**words) for main, _ in CAPTION_TEMPLATES)
    scene, scene_doing = BACKGROUNDS[background]
    words |= {"scene": scene, "scene_doing": scene_doing}
    return tuple((main + rest).format(**words) for main, rest in CAPTION_TEMPLATES)


@dataclass(frozen=True)
class ParsedCaption:
    """What a caption names, each kind in the order of the text."""

    colours: tuple[str, ...]
    shapes: tuple[str, ...]
    sounds: tuple[str, ...]
    background: str | None


# Stem: name. Stems and their endings are matched as whole words, so that "starts" is no star and "window" no wind.
_SOUND_STEMS = {sound.removesuffix("e"): sound for sound in SOUNDS}
_COLOUR_WORDS = re.compile(rf"\b({'|'.join(COLOURS)})\b")
_SHAPE_WORDS = re.compile(rf"\b({'|'.join(SHAPES)})s?\b")
_SOUND_WORDS = re.compile(rf"\b({'|'.join(_SOUND_STEMS)})(?:e|s|es|ed|ing)?\b")
_BACKGROUND_WORDS = re.compile(rf"\b({'|'.join(BACKGROUNDS)})(?:s|y|ing)?\b")


def parse_caption(text: str) -> ParsedCaption:
    """Reads colours, shapes, sounds and the first named background out of any text."""
    text = text.lower()
    backgrounds = _BACKGROUND_WORDS.findall(text)
    return ParsedCaption(
        colours=tuple(_COLOUR_WORDS.findall(text)),
        shapes=tuple(_SHAPE_WORDS.findall(text)),
        sounds=tuple(_SOUND_STEMS[stem] for stem in _SOUND_WORDS.findall(text)),
        background=backgrounds[0] if backgrounds else None,
    )


def caption_accuracy(prediction: str, clip: ToyClip) -> dict[str, Any]:
    """Compares a caption with what happens in the clip.

    Returns `{"events": [{"colour", "shape", "sound", "unseen"}, …], "background"}`, all booleans: entry `i` compares
    the i-th colour, shape and sound of the text with event `i`; `unseen` tells whether its pair was held out.
    """
    parsed = parse_caption(prediction)
    events = []
    for number, event in enumerate(clip.events):
        position = slice(number, number + 1)
        events.append(
            {
                "colour": parsed.colours[position] == (event.colour,),
                "shape": parsed.shapes[position] == (event.shape,),
                "sound": parsed.sounds[position] == (event.sound,),
                "unseen": event.unseen,
            }
        )
    return {"events": events, "background": parsed.background == clip.background}


# Sound


def render_waveform(clip: ToyClip) -> np.ndarray:
    """The clip's sound, mono, float32 `(64000,)` in [-1, 1] at 16 kHz."""
    rng = np.random.default_rng(clip.noise_seed)
    time = np.arange(CLIP_SAMPLES) / SAMPLING_RATE
    waveform = 1e-4 * rng.standard_normal(CLIP_SAMPLES)  # a recording's noise floor, -80 dB
    if clip.background is not None:
        scene = _BACKGROUND_VOICES[clip.background](time, rng)
        waveform += clip.background_level * scene / _rms(scene)
    for event in clip.events:
        span = slice(math.ceil(event.start * SAMPLING_RATE), math.ceil(event.end * SAMPLING_RATE))
        waveform[span] += _render_event(event, time[span])
    return np.clip(waveform, -1.0, 1.0).astype(np.float32)


def _render_event(event: ToyEvent, time: np.ndarray) -> np.ndarray:
    """One event's samples at clip times `time` (seconds), `(samples,)`."""
    sound = _SOUND_VOICES[event.sound](time - event.start, event, np.random.default_rng(event.noise_seed))
    fade = np.clip((event.end - time) / FADE_SECONDS, 0.0, 1.0)
    return event.loudness * sound / _rms(sound) * event.pulse(time) * fade


def _beep(time: np.ndarray, event: ToyEvent, rng: np.random.Generator) -> np.ndarray:
    phase = 2 * np.pi * 620 * event.pitch * time
    return np.sin(phase) + np.sin(3 * phase) / 3 + np.sin(5 * phase) / 5


def _buzz(time: np.ndarray, event: ToyEvent, rng: np.random.Generator) -> np.ndarray:
    phase = 2 * np.pi * 120 * event.pitch * time + 0.8 * np.sin(2 * np.pi * 9 * event.tempo * time)
    return sum(np.sin(k * phase) / k**0.6 for k in range(1, 25))


def _chirp(time: np.ndarray, event: ToyEvent, rng: np.random.Generator) -> np.ndarray:
    sweep = (time * 13 * event.tempo) % 1.0
    phase = 2 * np.pi * np.cumsum(event.pitch * (2600 + 2200 * sweep)) / SAMPLING_RATE
    return np.sin(phase) * np.sin(np.pi * sweep)


def _click(time: np.ndarray, event: ToyEvent, rng: np.random.Generator) -> np.ndarray:
    since_click = time % (1 / (24 * event.tempo))
    return rng.uniform(-1, 1, time.size) * np.exp(-since_click / 0.005)


def _ring(time: np.ndarray, event: ToyEvent, rng: np.random.Generator) -> np.ndarray:
    partials = ((1.0, 1.0), (2.76, 0.8), (5.4, 0.5))  # a struck bar's modes
    hammer = 0.6 + 0.4 * np.sign(np.sin(2 * np.pi * 17 * event.tempo * time))
    return hammer * sum(gain * np.sin(2 * np.pi * 980 * ratio * event.pitch * time) for ratio, gain in partials)


def _whistle(time: np.ndarray, event: ToyEvent, rng: np.random.Generator) -> np.ndarray:
    vibrato = 1 + 0.04 * np.sin(2 * np.pi * 6 * event.tempo * time)
    phase = 2 * np.pi * np.cumsum(1750 * event.pitch * vibrato) / SAMPLING_RATE
    return np.sin(phase) + 0.04 * rng.standard_normal(time.size)


def _rain(time: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    hiss = _filtered_noise(rng, time.size, lambda hertz: np.clip(hertz / 3000, 0.0, 1.0) ** 2)
    drops = rng.standard_normal(time.size) * (rng.random(time.size) < 0.02)
    return hiss / _rms(hiss) + 0.5 * drops / _rms(drops)


def _wind(time: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    gusts = 1 + 0.5 * np.sin(2 * np.pi * rng.uniform(0.3, 0.7) * time + rng.uniform(0, 2 * np.pi))
    return gusts * _filtered_noise(rng, time.size, lambda hertz: 1 / (1 + (hertz / 350) ** 2))


def _engine(time: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    base = rng.uniform(42, 55)  # Hz
    phase = 2 * np.pi * base * time + 0.5 * np.sin(2 * np.pi * 0.7 * time)
    return sum(np.sin(k * phase + rng.uniform(0, 2 * np.pi)) / k**0.5 for k in range(1, 9))


_SOUND_VOICES: dict[str, Callable[[np.ndarray, ToyEvent, np.random.Generator], np.ndarray]] = {
    "beep": _beep,
    "buzz": _buzz,
    "chirp": _chirp,
    "click": _click,
    "ring": _ring,
    "whistle": _whistle,
}
_BACKGROUND_VOICES: dict[str, Callable[[np.ndarray, np.random.Generator], np.ndarray]] = {
    "rain": _rain,
    "wind": _wind,
    "engine": _engine,
}


def _filtered_noise(rng: np.random.Generator, samples: int, gain: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """White noise `(samples,)` with its spectrum multiplied by `gain(frequencies in Hz)`."""
    spectrum = np.fft.rfft(rng.standard_normal(samples))
    return np.fft.irfft(spectrum * gain(np.fft.rfftfreq(samples, 1 / SAMPLING_RATE)), samples)


def _rms(samples: np.ndarray) -> float:
    return float(np.sqrt(np.mean(samples**2)))


# Picture


def render_frame(clip: ToyClip, time: float, size: int = FRAME_SIZE) -> np.ndarray:
    """The picture at `time` (seconds), uint8 RGB `(size, size, 3)`."""
    side = size * SUPERSAMPLING
    canvas = Image.new("RGB", (side, side), clip.backdrop)
    draw = ImageDraw.Draw(canvas)
    for item in (*clip.distractors, *clip.events):
        cos, sin = math.cos(item.angle), math.sin(item.angle)
        corners = _OUTLINES[item.shape] @ np.array([[cos, sin], [-sin, cos]])
        centre = item.position(time)
        for factor, colour in item.layers(time):
            points = side * (centre + factor * item.radius * corners) - 0.5
            draw.polygon(points.ravel().tolist(), fill=colour)
    return np.array(canvas.reduce(SUPERSAMPLING))


def frame_times(frames: int = FRAMES_PER_CLIP) -> list[float]:
    """Times (seconds) of `frames` evenly spaced pictures, each in the middle of its share of the clip."""
    return [(number + 0.5) * CLIP_SECONDS / frames for number in range(frames)]


def _rgb(values: np.ndarray) -> tuple[int, int, int]:
    red, green, blue = (round(float(value)) for value in values)
    return red, green, blue


def write_video(clip: ToyClip, path: str | Path, size: int = 256, frame_rate: int = 25) -> None:
    """Writes the clip as mp4: H.264 pictures of `size` x `size` pixels (an even number) and mono AAC at 16 kHz."""
    if size <= 0 or size % 2:
        raise ValueError(f"H.264 with 4:2:0 chroma needs an even, positive picture size, got {size}")
    with av.open(str(path), "w", format="mp4") as container:
        picture = container.add_stream("libx264", rate=frame_rate, options={"preset": "veryfast", "crf": "18"})
        picture.width, picture.height, picture.pix_fmt = size, size, "yuv420p"
        picture.codec_context.thread_count = 1  # clips are encoded side by side, and a fixed count fixes the bytes
        sound = container.add_stream("aac", rate=SAMPLING_RATE, layout="mono")
        for number in range(round(CLIP_SECONDS * frame_rate)):
            frame = av.VideoFrame.from_ndarray(render_frame(clip, number / frame_rate, size), format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, frame_rate)
            container.mux(picture.encode(frame))
        container.mux(picture.encode(None))
        samples = av.AudioFrame.from_ndarray(render_waveform(clip)[None, :], format="fltp", layout="mono")
        samples.sample_rate, samples.pts, samples.time_base = SAMPLING_RATE, 0, Fraction(1, SAMPLING_RATE)
        container.mux(sound.encode(samples))
        container.mux(sound.encode(None))


# Tokenizer


def train_tokenizer(captions: Sequence[str]) -> Any:
    """Byte-level BPE over `captions` and the prompt, as a `PreTrainedTokenizerFast` with `<pad>`, `<s>`, `</s>`."""
    # Imported here because worker processes import this module and need no transformers.
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY_SIZE,
        special_tokens=["<pad>", "<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([*captions, PROMPT], trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        add_prefix_space=True,
        clean_up_tokenization_spaces=False,
    )


# Files


class _Job(NamedTuple):
    root: Path
    split: str
    index: int
    seed: int
    with_video: bool


def write_toy_world(
    output_dir: str | Path,
    train_clips: int = 2000,
    validation_clips: int = 100,
    test_clips: int = 200,
    videos: int = 20,
    seed: int = 0,
    workers: int = 1,
    show_progress: bool = False,
) -> dict[str, int]:
    """Writes a world in AudioCaps' layout: media, annotations, truth, a few mp4 files and a tokenizer.

    `output_dir` must be absent or empty; it appears under its name when it is complete. With more than one worker the
    caller's main module must be importable without side effects, as for any spawned process. Returns what was written:
    clips by split, `videos`, `vocabulary` (tokens) and `unseen_events` (test events of held-out pairs).
    """
    output = Path(output_dir).resolve()
    counts = {"train": train_clips, "val": validation_clips, "test": test_clips}
    _check_request(output, counts, videos, seed, workers)
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{output.name}-", dir=output.parent) as folder:
        root = Path(folder) / output.name
        _make_folders(root)
        clips = _write_clips(_list_jobs(root, counts, videos, seed), workers, show_progress)
        for split in counts:
            _write_annotations(root, split, [clip for clip in clips if clip.split == split])
        tokenizer = train_tokenizer([caption for clip in clips if clip.split == "train" for caption in clip.captions])
        tokenizer.save_pretrained(root / "tokenizer")
        if output.exists():
            output.rmdir()
        root.rename(output)
    unseen = sum(event.unseen for clip in clips if clip.split == "test" for event in clip.events)
    return {**counts, "videos": videos + 1, "vocabulary": len(tokenizer), "unseen_events": unseen}


def _check_request(output: Path, counts: dict[str, int], videos: int, seed: int, workers: int) -> None:
    if output.exists() and not (output.is_dir() and not any(output.iterdir())):
        raise FileExistsError(f"{output} exists and is not an empty folder: choose another one or remove it first")
    names = ("train_clips", "validation_clips", "test_clips", "videos", "seed")
    for name, value in zip(names, (*counts.values(), videos, seed), strict=True):
        if value < 0:
            raise ValueError(f"{name} must not be negative, got {value}")
    if counts["train"] < MIN_TRAIN_CLIPS:
        reason = "the tokenizer learns its words from their captions"
        raise ValueError(f"got {counts['train']} train clips, ask for at least {MIN_TRAIN_CLIPS}: {reason}")
    if videos > counts["test"]:
        raise ValueError(
            f"got {videos} videos of {counts['test']} test clips: ask for fewer videos or more test clips"
        )
    if workers < 1:
        raise ValueError(f"workers must be at least 1, got {workers}")


def _make_folders(root: Path) -> None:
    for split in ("train", "val", "test"):
        (root / split / "waveforms").mkdir(parents=True)
        for number in range(FRAMES_PER_CLIP):
            (root / split / "frames" / f"frame_{number}").mkdir(parents=True)
    (root / "videos").mkdir()


def _list_jobs(root: Path, counts: dict[str, int], videos: int, seed: int) -> list[_Job]:
    """One job per clip, those with a video first because they take longest."""
    jobs = [_Job(root, "new", 0, seed, True)]
    for split in ("test", "val", "train"):
        jobs += [_Job(root, split, index, seed, split == "test" and index < videos) for index in range(counts[split])]
    return jobs


def _write_clips(jobs: Sequence[_Job], workers: int, show_progress: bool) -> list[ToyClip]:
    """Runs the jobs and returns their clips in the same order."""
    with tqdm(total=len(jobs), unit="clip", disable=not show_progress) as progress:
        if workers == 1:
            return [_count(progress, _write_clip(job)) for job in jobs]
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(workers, mp_context=context, initializer=_leave_interrupts_to_parent) as pool:
            try:
                return [_count(progress, clip) for clip in pool.map(_write_clip, jobs, chunksize=4)]
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise


def _count(progress: tqdm, clip: ToyClip) -> ToyClip:
    progress.update()
    return clip


def _leave_interrupts_to_parent() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _write_clip(job: _Job) -> ToyClip:
    clip = sample_clip(job.split, job.index, job.seed)
    if job.split == "new":
        write_video(clip, job.root / "videos" / "new_clip.mp4")
        (job.root / "videos" / "new_clip.json").write_text(json.dumps(clip.to_dict(), indent=2) + "\n")
        return clip
    _write_wav(render_waveform(clip), job.root / job.split / "waveforms" / f"{clip.stem}.wav")
    for number, time in enumerate(frame_times()):
        path = job.root / job.split / "frames" / f"frame_{number}" / f"{clip.stem}.jpg"
        Image.fromarray(render_frame(clip, time)).save(path, quality=JPEG_QUALITY, subsampling=0)
    if job.with_video:
        write_video(clip, job.root / "videos" / f"{clip.stem}.mp4")
    return clip


def _write_wav(waveform: np.ndarray, path: Path) -> None:
    """Writes float samples `(samples,)` in [-1, 1] as 16-bit PCM at 16 kHz."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(SAMPLING_RATE)
        file.writeframes(np.round(waveform * 32767).astype("<i2").tobytes())


def _write_annotations(root: Path, split: str, clips: Sequence[ToyClip]) -> None:
    """Writes `<split>.json`, `<split>_coco.json` and `<split>_events.json`."""
    rows, images, annotations = [], [], []
    for number, clip in enumerate(clips):
        first_id = 1_000_000 * (1 + SPLITS.index(split)) + number * len(CAPTION_TEMPLATES)
        media = _describe_media(clip)
        rows.append(
            {
                "audiocap_id": str(first_id),
                "youtube_id": clip.id,
                "start_time": "0",
                "caption": clip.captions[0],
                **media,
                "torch_id": number,
            }
        )
        images.append({"id": clip.id, **media})
        annotations += [
            {"id": str(first_id + k), "image_id": clip.id, "caption": text} for k, text in enumerate(clip.captions)
        ]
    truth = {clip.id: clip.to_dict() for clip in clips}
    (root / f"{split}.json").write_text(json.dumps(rows))
    (root / f"{split}_coco.json").write_text(json.dumps({"images": images, "annotations": annotations}))
    (root / f"{split}_events.json").write_text(json.dumps(truth))


def _describe_media(clip: ToyClip) -> dict[str, str]:
    heard = [event.sound for event in clip.events] + ([clip.background] if clip.background else [])
    return {"labels": ",".join(heard), "audio_path": f"{clip.stem}.wav", "video_path": f"{clip.stem}.jpg"}
