"""Worlds in which a picture tells what would be heard, as pictures of the real one do.

There are six kinds of objects, of which neither colour nor shape alone tells all, and each has its typical sound. Two
of different kinds are seen, both are heard, one after the other; one time in ten an object makes a sound that is
typical of another kind. Rain, wind or an engine may be heard.

In the natural world, which is DALI's, the background gives the picture its tint. Captions say what is heard, as nobody
can hear a colour, and in no order, as no picture shows one. Those of the split `pictures` say what would be heard by
the looks of it: half of them name the objects, too.

The typical world is the free one of `world.py` with these kinds: up to two more of them are seen and never heard, and
captions name objects and sounds in their order.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from lavcap.toy.world import (
    BACKGROUND_LEVELS,
    BACKGROUNDS,
    SOUNDS,
    SPLITS,
    ToyClip,
    ToyEvent,
    ToyObject,
    complete_clip,
    fill_templates,
    parse_caption,
    sample_event,
    sample_objects,
    sample_spans,
    uniform,
)


EXCEPTION_SHARE = 0.1  # of the objects that do not make their typical sound
TYPICAL_SOUNDS = {  # of the kinds of objects, each a colour and a shape
    ("red", "circle"): "beep",
    ("red", "star"): "buzz",
    ("blue", "circle"): "chirp",
    ("blue", "square"): "click",
    ("yellow", "star"): "ring",
    ("green", "triangle"): "whistle",
}
TINTS = {None: (112, 112, 112), "rain": (88, 104, 136), "wind": (100, 130, 104), "engine": (136, 112, 88)}  # RGB
TINT_RANGE = 8  # of 255, by which a channel may be darker or lighter

HEARD = (  # as CAPTION_TEMPLATES: (events, background)
    ("{a_doing} and {b_doing}", " while {scene}"),
    ("something {b_does} and something {a_does}", " as {scene}"),
    ("the sound of {a_doing} and of {b_doing}", " with {scene_doing} in the background"),
    ("{b_doing} is heard, and {a_doing}", ", with {scene_doing}"),
    ("there is {a_doing} and there is {b_doing}", " while {scene} in the background"),
)
SEEN = (
    ("{a} {a_does} and {b} {b_does}", " while {scene}"),
    ("{b} {b_does} and {a} {a_does}", " as {scene}"),
    ("a {a_doing} {a_look} and a {b_doing} {b_look}", ", with {scene_doing}"),
    ("{a} is {a_doing}, and {b} is {b_doing}", " while {scene} in the background"),
    ("a picture of {b} that {b_does} and {a} that {a_does}", " with {scene_doing} in the background"),
)

NATURAL_SPLITS = ("train", "val", "test", "new", "pictures", "pictures_val", "prefix")
_ID_LETTERS = dict(zip(NATURAL_SPLITS, "abcdpqx", strict=True))


def sample_natural_clip(split: str, index: int, seed: int = 0) -> ToyClip:
    """Draws clip `index` (from 0) of a split; the same three arguments always give the same clip."""
    if split not in NATURAL_SPLITS:
        raise ValueError(f"unknown split {split!r}, expected one of {', '.join(NATURAL_SPLITS)}")
    rng = np.random.default_rng([seed, len(NATURAL_SPLITS), NATURAL_SPLITS.index(split), index])
    events = _sample_events(rng, _sample_kinds(rng, 2))
    background = rng.choice([None, *BACKGROUNDS])
    captions = _captions(rng, split, events, background)
    return ToyClip(
        id=f"nat{_ID_LETTERS[split]}{index:07d}",
        split=split,
        events=events,
        distractors=(),
        background=background,
        background_level=uniform(rng, *BACKGROUND_LEVELS),
        backdrop=tuple(int(value + rng.integers(-TINT_RANGE, TINT_RANGE + 1)) for value in TINTS[background]),
        noise_seed=int(rng.integers(2**31)),
        captions=captions,
        world="natural",
    )


def sample_typical_clip(split: str, index: int, seed: int = 0) -> ToyClip:
    """Draws clip `index` (from 0) of a split; the same three arguments always give the same clip."""
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}, expected one of {', '.join(SPLITS)}")
    rng = np.random.default_rng([seed, len(TYPICAL_SOUNDS), SPLITS.index(split), index])
    objects = _sample_kinds(rng, 2 + rng.integers(3))
    return complete_clip(rng, "typical", split, index, objects, _sample_events(rng, objects[:2]))


def _sample_kinds(rng: np.random.Generator, count: int) -> list[ToyObject]:
    """Objects of different kinds."""
    kinds = list(TYPICAL_SOUNDS)
    return sample_objects(rng, [kinds[pick] for pick in rng.choice(len(kinds), size=count, replace=False)])


def _sample_events(rng: np.random.Generator, objects: Sequence[ToyObject]) -> tuple[ToyEvent, ...]:
    """Two objects that sound one after the other, each as its kind does but for exceptions."""
    typical = [TYPICAL_SOUNDS[item.colour, item.shape] for item in objects]
    others = [sound for sound in SOUNDS if sound not in typical]
    sounds = [others if rng.random() < EXCEPTION_SHARE else [sound] for sound in typical]
    if sounds == [others, others]:  # two objects never make one sound
        sounds = [others[:2], others[2:]]
    return tuple(sample_event(rng, *given) for given in zip(objects, sample_spans(rng), sounds, strict=True))


def _captions(
    rng: np.random.Generator, split: str, events: Sequence[ToyEvent], background: str | None
) -> tuple[str, ...]:
    """One caption for training, five for the measurement of what is heard."""
    if split == "pictures":
        templates = (SEEN, HEARD)[rng.integers(2)]
        texts = fill_templates(templates, _as_looks_tell(events), background)
    elif split == "pictures_val":
        return fill_templates(HEARD, _as_looks_tell(events), background)
    else:
        texts = fill_templates(HEARD, events, background)
    return (texts[rng.integers(len(texts))],) if split in ("train", "pictures", "prefix") else texts


def _as_looks_tell(events: Sequence[ToyEvent]) -> list[ToyEvent]:
    """The events with typical sounds, as one reads: from the top, and from the left."""
    typical = [replace(event, sound=TYPICAL_SOUNDS[event.colour, event.shape]) for event in events]
    return sorted(typical, key=lambda event: (event.y > 0.5, event.x))


def is_exception(event: ToyEvent) -> bool:
    """Whether an object makes another sound than its kind does."""
    return event.sound != TYPICAL_SOUNDS[event.colour, event.shape]


def typical_sounds(clip: ToyClip) -> list[str]:
    """The sounds that the picture of a clip tells: those of the kinds of its objects."""
    return [TYPICAL_SOUNDS[event.colour, event.shape] for event in clip.events]


def sound_accuracy(prediction: str, clip: ToyClip) -> dict[str, Any]:
    """Compares a caption with what is heard in the clip, whatever its order.

    Returns `{"events": [{"named", "exception"}, …], "named": sounds of the text, "right": those of them that are
    heard, "background"}`: of the events whether the caption names their sound, and whether it is not the typical one;
    `background` is whether the right one is named, or none if there is none.
    """
    parsed = parse_caption(prediction)
    named, heard = set(parsed.sounds), {event.sound for event in clip.events}
    return {
        "events": [{"named": event.sound in named, "exception": is_exception(event)} for event in clip.events],
        "named": len(named),
        "right": len(named & heard),
        "background": parsed.background == clip.background,
    }
