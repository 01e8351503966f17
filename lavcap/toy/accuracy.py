"""How many of the right words captions of the toy worlds have: of those told in order, and of the natural one."""

from collections import defaultdict
from collections.abc import Iterable, Sequence

from lavcap.evaluation.predictions import Prediction
from lavcap.toy.natural import is_exception, sound_accuracy
from lavcap.toy.world import ToyClip, ToyEvent, caption_accuracy


EVENT_PARTS = ("colour", "shape", "sound")
PAIRS = {  # by world, what is said of its pairs of object and sound
    "free": "Unseen pairs are objects with a sound that training never gave them.",
    "typical": "Exceptional pairs are objects with a sound that is typical of another kind.",
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
    if next(iter(clips.values())).world == "natural":
        return _sound_section(sound_table(predictions, clips))
    return _accuracy_section(accuracy_table(predictions, clips), PAIRS[next(iter(clips.values())).world])


def is_right(prediction: Prediction, clips: dict[str, ToyClip]) -> bool:
    """Whether a caption says all that its world asks for."""
    clip = clips[prediction.id]
    if clip.world == "natural":
        return _all_right(sound_accuracy(prediction.caption, clip))
    accuracy = caption_accuracy(prediction.caption, clip)
    return accuracy["background"] and all(event[part] for event in accuracy["events"] for part in EVENT_PARTS)


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
        accuracy, row = sound_accuracy(prediction.caption, clips[prediction.id]), counts[prediction.modality]
        parts = [
            ("exceptional" if event["exception"] else "typical", event["named"], 1) for event in accuracy["events"]
        ]
        parts += [("right", accuracy["right"], accuracy["named"])]
        parts += [("background", accuracy["background"], 1), ("all", _all_right(accuracy), 1)]
        for name, hits, total in parts:
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


def _all_right(accuracy: dict) -> bool:
    named = all(event["named"] for event in accuracy["events"])
    return named and accuracy["named"] == accuracy["right"] and accuracy["background"]
