"""A generated audio-visual world, small enough to train on a laptop: what happens in a clip, and what is said of it.

A clip lasts four seconds. Coloured shapes are seen throughout; two of them sound, one after the other, and pulse in
step with their sound; up to two more are seen and never heard; rain, wind or an engine may be heard and is never seen.
Neither the picture nor the sound alone is enough to write the caption. `UNSEEN_PAIRS` lists the (colour, shape, sound)
combinations kept out of training, so that a test clip can ask for a combination that has to be inferred.

Clip `index` of a split depends on (seed, split, index) alone.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from lavcap.data.wav import SAMPLING_RATE


CLIP_SECONDS = 4.0
CLIP_SAMPLES = int(SAMPLING_RATE * CLIP_SECONDS)  # 64,000

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

# Offsets per colour, chosen so that no colour and no shape misses a sound twice and each sound misses 2 or 3 objects.
_HELD_OUT_OFFSETS = (0, 2, 4, 1)
UNSEEN_PAIRS: frozenset[tuple[str, str, str]] = frozenset(
    (colour, shape, tuple(SOUNDS)[(offset + number) % len(SOUNDS)])
    for colour, offset in zip(COLOURS, _HELD_OUT_OFFSETS, strict=True)
    for number, shape in enumerate(SHAPES)
)

SPLITS = ("train", "val", "test", "new")
_ID_PREFIXES = {"free": "toy", "typical": "typ"}
_ID_LETTERS = {"train": "t", "val": "v", "test": "e", "new": "n"}
_UNSEEN_CHANCE = {"train": (0.0, 0.0), "val": (0.0, 0.0), "test": (0.5, 0.5), "new": (1.0, 0.0)}  # per event

EVENT_SECONDS = (1.0, 1.5)
BACKDROP = (96, 128)  # RGB, each channel
BACKGROUND_LEVELS = (0.010, 0.018)  # RMS, full scale 1
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
    world: str = "free"

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


def _rgb(values: np.ndarray) -> tuple[int, int, int]:
    red, green, blue = (round(float(value)) for value in values)
    return red, green, blue


# Sampling


def sample_clip(split: str, index: int, seed: int = 0) -> ToyClip:
    """Draws clip `index` (from 0) of a split; the same three arguments always give the same clip."""
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}, expected one of {', '.join(SPLITS)}")
    rng = np.random.default_rng([seed, SPLITS.index(split), index])
    looks = [(colour, shape) for colour in COLOURS for shape in SHAPES]
    picks = rng.choice(len(looks), size=2 + rng.integers(3), replace=False)
    objects = sample_objects(rng, [looks[pick] for pick in picks])
    spans, chances = sample_spans(rng), _UNSEEN_CHANCE[split]
    events = []
    for item, span, chance in zip(objects[:2], spans, chances, strict=True):
        unseen = rng.random() < chance
        sounds = [sound for sound in SOUNDS if ((item.colour, item.shape, sound) in UNSEEN_PAIRS) == unseen]
        events.append(sample_event(rng, item, span, sounds))
    return complete_clip(rng, "free", split, index, objects, events)


def complete_clip(
    rng: np.random.Generator,
    world: str,
    split: str,
    index: int,
    objects: Sequence[ToyObject],
    events: Sequence[ToyEvent],
) -> ToyClip:
    """A clip of a world whose captions name its events in their order.

    Args:
        objects: that are seen, first those of the events; the others are never heard.
    """
    background = rng.choice([None, *BACKGROUNDS])
    captions = paraphrase_captions(events, background)
    return ToyClip(
        id=f"{_ID_PREFIXES[world]}{_ID_LETTERS[split]}{index:07d}",
        split=split,
        events=tuple(events),
        distractors=tuple(objects[len(events) :]),
        background=background,
        background_level=uniform(rng, *BACKGROUND_LEVELS),
        backdrop=tuple(int(value) for value in rng.integers(*BACKDROP, size=3)),
        noise_seed=int(rng.integers(2**31)),
        captions=(captions[rng.integers(len(captions))],) if split == "train" else captions,
        world=world,
    )


def sample_objects(rng: np.random.Generator, looks: Sequence[tuple[str, str]]) -> list[ToyObject]:
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
        x=uniform(rng, -JITTER, JITTER) + (column + 0.5) / BOARD_CELLS,
        y=uniform(rng, -JITTER, JITTER) + (row + 0.5) / BOARD_CELLS,
        radius=uniform(rng, *RADII),
        angle=uniform(rng, -0.2, 0.2),
        drift_x=round(speed * math.cos(direction), 5),
        drift_y=round(speed * math.sin(direction), 5),
    )


def sample_spans(rng: np.random.Generator) -> list[tuple[float, float]]:
    """Start and end (seconds) of two events that do not overlap, in order."""
    first, second = rng.uniform(*EVENT_SECONDS, size=2)
    slack = CLIP_SECONDS - first - second - 3 * EVENT_GAP
    early, late = np.sort(rng.uniform(0, slack, size=2))
    starts = (EVENT_GAP + early, 2 * EVENT_GAP + first + late)
    return [
        (round(float(start), 4), round(float(start + length), 4))
        for start, length in zip(starts, (first, second), strict=True)
    ]


def sample_event(
    rng: np.random.Generator, item: ToyObject, span: tuple[float, float], sounds: Sequence[str]
) -> ToyEvent:
    """An object with one of the sounds, between the ends of a span (seconds)."""
    return ToyEvent(
        **asdict(item),
        sound=str(rng.choice(sounds)),
        start=span[0],
        end=span[1],
        pulse_rate=uniform(rng, *PULSE_RATES),
        pitch=uniform(rng, 0.88, 1.14),
        tempo=uniform(rng, 0.85, 1.2),
        loudness=uniform(rng, 0.09, 0.14),
        noise_seed=int(rng.integers(2**31)),
    )


def uniform(rng: np.random.Generator, low: float, high: float) -> float:
    return round(float(rng.uniform(low, high)), 4)


# Captions


def paraphrase_captions(events: Sequence[ToyEvent], background: str | None) -> tuple[str, ...]:
    """The captions of two events in order, one per template."""
    return fill_templates(CAPTION_TEMPLATES, events, background)


def fill_templates(
    templates: Sequence[tuple[str, str]], events: Sequence[ToyEvent], background: str | None
) -> tuple[str, ...]:
    """Texts of pairs (events, background) of templates, in which `a` and `b` stand for the events in order."""
    words: dict[str, str] = {}
    for name, event in zip("ab", events, strict=True):
        does, doing = SOUNDS[event.sound]
        look = f"{event.colour} {event.shape}"
        words |= {name: f"a {look}", f"{name}_look": look, f"{name}_does": does, f"{name}_doing": doing}
    if background is None:
        return tuple(main.format(**words) for main, _ in templates)
    scene, scene_doing = BACKGROUNDS[background]
    words |= {"scene": scene, "scene_doing": scene_doing}
    return tuple((main + rest).format(**words) for main, rest in templates)


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
