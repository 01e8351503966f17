"""A long clip of the toy world in the report: its pictures, its sound, and what was written of each window."""

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

from lavcap.documents import parse_json, read_json
from lavcap.evaluation.predictions import Prediction
from lavcap.toy.accuracy import is_right
from lavcap.toy.rendering import render_frame, render_waveform
from lavcap.toy.world import CLIP_SECONDS, SAMPLING_RATE, ToyClip


matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.patches import Rectangle


SHOWN_FRAMES = 20
RIGHT, WRONG = "#2ca02c", "#d62728"


def long_clip_section(captions: Path, truth: Path, picture: Path) -> str:
    """Markdown of what was written of the long clip, with a picture of it.

    Args:
        captions: `captions.jsonl` of `lavcap caption`, also of other clips.
        truth: the clip's scenes, `long_clip.json`.
        picture: to draw.
    """
    scenes = [ToyClip.from_dict(scene) for scene in read_json(truth, "make the world again")]
    records = [parse_json(line) for line in captions.read_text(encoding="utf-8").splitlines()]
    records = [each for each in records if Path(each["clip"]).stem == truth.stem]
    records = [each for each in records if each.get("start") is not None and "error" not in each]
    draw_timeline(scenes, records, picture)
    lines = [
        "## A long clip",
        "",
        f"![a clip of {len(scenes) * CLIP_SECONDS:g} s on a time line, with what was written of it]({picture.name})",
        "",
        "Scenes of the world one behind the other, captioned window by window; the true sentence is that of the scene "
        "in the middle of the window.",
        "",
        "| from | to | written | true | log-probability of a token |",
        "|---|---|---|---|---|",
    ]
    for record in records:
        true = _scene_of(scenes, record).captions[0]
        worth = record["mean_log_probability"]
        shown = "" if worth is None else f"{worth:.2f}"
        lines.append(f"| {record['start']:.2f} s | {record['end']:.2f} s | {record['caption']} | {true} | {shown} |")
    return "\n".join(lines)


def draw_timeline(scenes: Sequence[ToyClip], records: Sequence[dict[str, Any]], path: Path):
    """Pictures and sound above, captions below: framed green where they say all that is true, red where not."""
    seconds = len(scenes) * CLIP_SECONDS
    figure, (pictures, sound, words) = plt.subplots(
        3, 1, figsize=(14, 5), sharex=True, height_ratios=(1.2, 1, 1.6), layout="constrained"
    )
    times = (np.arange(SHOWN_FRAMES) + 0.5) * seconds / SHOWN_FRAMES
    strip = [render_frame(scenes[int(time // CLIP_SECONDS)], time % CLIP_SECONDS) for time in times]
    pictures.imshow(np.concatenate(strip, axis=1), aspect="auto", extent=(0, seconds, 0, 1))
    pictures.set(yticks=[], ylabel="seen")
    waveform = np.concatenate([render_waveform(scene) for scene in scenes])
    sound.plot(np.arange(len(waveform)) / SAMPLING_RATE, waveform, lw=0.3, color="tab:blue")
    sound.set(yticks=[], ylabel="heard", xlim=(0, seconds))
    for record in records:
        start, length = record["start"], record["end"] - record["start"]
        scene = _scene_of(scenes, record)
        right = is_right(Prediction(scene.id, "audio+video", record["caption"], []), {scene.id: scene})
        edge = RIGHT if right else WRONG
        words.add_patch(Rectangle((start, 0.04), length, 0.92, fill=False, edgecolor=edge, lw=2))
        lines = textwrap.fill(record["caption"], max(8, int(8 * length)))
        words.text(start + length / 2, 0.5, lines, ha="center", va="center", fontsize=9)
    words.set(yticks=[], ylabel="written", ylim=(0, 1), xlabel="time (s)")
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _scene_of(scenes: Sequence[ToyClip], record: dict[str, Any]) -> ToyClip:
    middle = (record["start"] + record["end"]) / 2
    return scenes[min(int(middle // CLIP_SECONDS), len(scenes) - 1)]
