"""How many of the right words captions of the toy worlds have: of those told in order, and of the natural one."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

from lavcap.evaluation.predictions import Prediction
from lavcap.toy.natural import is_exception, sound_accuracy, typical_sounds
from lavcap.toy.world import ToyClip, ToyEvent, caption_accuracy, parse_caption


EVENT_PARTS = ("colour", "shape", "sound")
PAIRS = {  # by world, what is said of its pairs of object and sound
    "free": "Unseen pairs are objects with a sound that training never gave them.",
    "typical": "Exceptional pairs are objects with a sound that is typical of another kind.",
}
WORD_COLUMNS = {  # of a world that is told in order: heading, by name
    "colour": "colours",
    "shape": "shapes",
    "sound": "sounds",
    "any_order": "sounds in any order",
    "background": "background",
    "all": "all right",
}
SOUND_COLUMNS = {  # of the natural world: heading, by name
    "typical": "typical sounds named",
    "exceptional": "exceptional sounds named",
    "right": "of the named, right",
    "background": "background",
    "all": "all right",
}


def accuracy_section(predictions: Sequence[Prediction], clips: dict[str, ToyClip]) -> str:
    """Markdown of the table that fits the world of the clips."""
    world = next(iter(clips.values())).world
    if world == "natural":
        return _sound_section(sound_table(predictions, clips))
    return _accuracy_section(accuracy_table(predictions, clips), PAIRS[world])


def is_right(prediction: Prediction, clips: dict[str, ToyClip]) -> bool:
    """Whether a caption says all that its world asks for."""
    return bool(count_words(prediction.caption, clips[prediction.id])["all"][0])


def count_words(caption: str, clip: ToyClip) -> dict[str, tuple[int, int]]:
    """How many words of a caption are right, of how many that the clip asks for, by the names of its world's columns.

    These are `WORD_COLUMNS` or `SOUND_COLUMNS`. Colours, shapes and sounds count by their place in the order.
    """
    return _count_sounds(caption, clip) if clip.world == "natural" else _count_all(caption, clip)


def word_columns(world: str) -> dict[str, str]:
    """Columns of a world: headings by name."""
    return SOUND_COLUMNS if world == "natural" else WORD_COLUMNS


def whose_words(caption: str, heard: ToyClip, seen: ToyClip) -> dict[str, tuple[tuple[int, int], tuple[int, int]]]:
    """Whether a caption of the sound of one clip and the picture of another follows the one or the other.

    Only that counts in which the two clips differ. In the natural world that is what is heard against what the
    picture tells: the typical sounds of its objects.

    Returns:
        By `colour`, `shape`, `sound`, `background`, as far as the world's captions name them: how many words of the
        heard clip the caption has, of how many; and the same of the seen clip.
    """
    parsed = parse_caption(caption)
    if heard.world == "natural":
        named, one, other = set(parsed.sounds), {event.sound for event in heard.events}, set(typical_sounds(seen))
        counts = {"sound": tuple((len(named & apart), len(apart)) for apart in (one - other, other - one))}
    else:
        words = {"colour": parsed.colours, "shape": parsed.shapes, "sound": parsed.sounds}
        values = {part: [[getattr(event, part) for event in clip.events] for clip in (heard, seen)] for part in words}
        counts = {part: _followed(words[part], *values[part]) for part in words}
    return counts | {"background": _followed([parsed.background], [heard.background], [seen.background])}


def accuracy_table(predictions: Iterable[Prediction], clips: dict[str, ToyClip]) -> dict[str, dict[str, dict]]:
    """Share of right colours, shapes and sounds: `{modality: {"seen pairs": {"events", "colour", …}, …}}`; of the
    typical world by `"typical pairs"` and `"exceptional pairs"`.

    An event counts by its place in the order: the first colour of the caption against the first event. A part that
    the caption does not name is wrong.
    """
    counts: dict = defaultdict(lambda: defaultdict(lambda: defaultdict(int)))
    for prediction in predictions:
        clip = clips[prediction.id]
        for event, right in zip(clip.events, caption_accuracy(prediction.caption, clip)["events"], strict=True):
            row = counts[prediction.modality][_pair(event, clip.world)]
            row["events"] += 1
            row["all three"] += all(right[part] for part in EVENT_PARTS)
            for part in EVENT_PARTS:
                row[part] += right[part]
    return {
        modality: {
            kind: {name: value if name == "events" else value / row["events"] for name, value in row.items()}
            for kind, row in sorted(rows.items(), key=lambda item: item[0] in ("unseen pairs", "exceptional pairs"))
        }
        for modality, rows in counts.items()
    }


def sound_table(predictions: Iterable[Prediction], clips: dict[str, ToyClip]) -> dict[str, dict[str, float]]:
    """Of the natural world, in any order: `{modality: {"clips", and a share by the names of SOUND_COLUMNS}}`.

    A share of nothing is NaN.
    """
    counts: dict = defaultdict(lambda: defaultdict(lambda: [0, 0]))
    for prediction in predictions:
        row = counts[prediction.modality]
        for name, (hits, total) in count_words(prediction.caption, clips[prediction.id]).items():
            row[name] = [row[name][0] + hits, row[name][1] + total]
    return {
        modality: {"clips": row["all"][1]}
        | {name: row[name][0] / row[name][1] if row[name][1] else float("nan") for name in SOUND_COLUMNS}
        for modality, row in counts.items()
    }


def _pair(event: ToyEvent, world: str) -> str:
    if world == "typical":
        return "exceptional pairs" if is_exception(event) else "typical pairs"
    return "unseen pairs" if event.unseen else "seen pairs"


def _accuracy_section(table: dict[str, dict[str, dict]], pairs: str) -> str:
    lines = [
        "## Right words",
        "",
        f"Share of events whose colour, shape and sound are right and in the right place of the order. {pairs}",
        "",
        "| modality | pairs | events | colour | shape | sound | all three |",
        "|---|---|---|---|---|---|---|",
    ]
    for modality, rows in table.items():
        for kind, row in rows.items():
            shares = " | ".join(f"{row[name]:.1%}" for name in (*EVENT_PARTS, "all three"))
            lines.append(f"| {modality} | {kind} | {row['events']} | {shares} |")
    return "\n".join(lines)


def _sound_section(table: dict[str, dict[str, float]]) -> str:
    lines = [
        "## Right words",
        "",
        "Share of the sounds that are heard and named, where an object makes its typical sound and where it makes "
        "another; of the named sounds those that are heard; of the clips those whose background is right, and those "
        "of which all is.",
        "",
        f"| modality | clips | {' | '.join(SOUND_COLUMNS.values())} |",
        "|---" * (2 + len(SOUND_COLUMNS)) + "|",
    ]
    for modality, row in table.items():
        shares = " | ".join(f"{row[name]:.1%}" for name in SOUND_COLUMNS)
        lines.append(f"| {modality} | {row['clips']} | {shares} |")
    return "\n".join(lines)


def _count_all(caption: str, clip: ToyClip) -> dict[str, tuple[int, int]]:
    """[`count_words`] of the free world."""
    accuracy = caption_accuracy(caption, clip)
    events, background = accuracy["events"], accuracy["background"]
    counts = {part: (sum(event[part] for event in events), len(events)) for part in EVENT_PARTS}
    named, heard = Counter(parse_caption(caption).sounds), Counter(event.sound for event in clip.events)
    counts |= {"any_order": ((named & heard).total(), len(events)), "background": (background, 1)}
    return counts | {"all": (background and all(event[part] for event in events for part in EVENT_PARTS), 1)}


def _count_sounds(caption: str, clip: ToyClip) -> dict[str, tuple[int, int]]:
    """[`count_words`] of the natural world."""
    accuracy = sound_accuracy(caption, clip)
    counts = {}
    for name, exceptional in (("typical", False), ("exceptional", True)):
        named = [event["named"] for event in accuracy["events"] if event["exception"] == exceptional]
        counts[name] = (sum(named), len(named))
    counts |= {"right": (accuracy["right"], accuracy["named"]), "background": (accuracy["background"], 1)}
    every = all(event["named"] for event in accuracy["events"]) and accuracy["named"] == accuracy["right"]
    return counts | {"all": (every and accuracy["background"], 1)}


def _followed(words: Sequence, heard: Sequence, seen: Sequence) -> tuple[tuple[int, int], tuple[int, int]]:
    """Of the places at which two clips differ, at how many the words are those of the first, and of the second."""
    places = [place for place, pair in enumerate(zip(heard, seen, strict=True)) if pair[0] != pair[1]]
    hits = [sum(list(words[place : place + 1]) == [values[place]] for place in places) for values in (heard, seen)]
    return (hits[0], len(places)), (hits[1], len(places))
