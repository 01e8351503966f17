"""Transport plans of the toy world's clips: how much of their mass lies where an event is seen and heard."""

from itertools import product
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.patches import Rectangle

from lavcap.data.dataset import read_features
from lavcap.drawing import draw_alignment
from lavcap.models.captioning import alignment
from lavcap.toy.rendering import frame_times, render_frame
from lavcap.toy.world import CLIP_SECONDS, SOUNDS, ToyClip, ToyEvent


EVENT_COLOURS = {"red": "#d62728", "green": "#2ca02c", "blue": "#1f77b4", "yellow": "#e0a800"}


def alignments(model, processor, rows) -> dict[str, np.ndarray]:
    """Plan of each clip, see [`alignment`], by clip id. None at all of a model that does not align."""
    plans = {}
    for row in rows:
        plan = alignment(model, processor, read_features(row, processor))
        if plan is None:
            return {}
        plans[row["id"]] = plan
    return plans


class EventMass(NamedTuple):
    """Mean mass of a plan, as a multiple of the even plan, which is 1: between the frames of an event and its `own`
    sound, and between them and the sound of the `other` event."""

    own: float
    other: float


def event_mass(plans: dict[str, np.ndarray], clips: dict[str, ToyClip]) -> EventMass:
    """Mass of the plans of clips, over all events that have a frame."""
    masses: dict[bool, list[float]] = {True: [], False: []}
    for name, plan in plans.items():
        video, audio = (np.array(frame_times(count)) for count in plan.shape)
        for seen, heard in product(clips[name].events, repeat=2):
            block = plan[np.ix_(_during(seen, video), _during(heard, audio))]
            masses[seen is heard] += [block.mean()] if block.size else []
    return EventMass(*(float(np.mean(masses[same])) for same in (True, False)))


def _during(event: ToyEvent, times: np.ndarray) -> np.ndarray:
    return (times >= event.start) & (times < event.end)


def draw_transport_plan(clip: ToyClip, plan: np.ndarray, log_mel: np.ndarray, path: Path):
    """Heat map of a plan, see [`draw_alignment`]; each true event is framed, where its mass should gather."""
    frames = [render_frame(clip, time) for time in frame_times(len(plan))]
    figure, heat = draw_alignment(plan, frames, log_mel, CLIP_SECONDS, f"Transport plan of {clip.id}")
    for event in clip.events:
        _frame_event(heat, event)
    figure.savefig(path, dpi=120)


def _frame_event(axes, event: ToyEvent):
    colour, length = EVENT_COLOURS[event.colour], event.end - event.start
    axes.add_patch(Rectangle((event.start, event.start), length, length, fill=False, edgecolor="black", lw=4.5))
    axes.add_patch(Rectangle((event.start, event.start), length, length, fill=False, edgecolor=colour, lw=2.5))
    label = f"{event.colour} {event.shape} {SOUNDS[event.sound][0]}"
    box = {"facecolor": "white", "edgecolor": colour, "pad": 2}
    axes.text(event.start + 0.06, event.start + 0.08, label, color="black", va="top", bbox=box, fontsize=9)
