"""Pictures of studies: each variant over its seeds, in every world."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lavcap.experiments.measures import (
    NEW_PAIRS,
    SIDES,
    Results,
    Variants,
    cider_d,
    disturbed_share,
    found_by_variant,
    mean_interval,
    measured,
    right_share,
)
from lavcap.experiments.runs import known_results, runs_of
from lavcap.experiments.studies import STUDIES, Study


ROW, PANEL, MARGIN = 0.3, 2.9, 1.3  # inches: of a variant; of a figure's width; around the variants of a world
MASS = "mass of the plan on an event's own\nsound, and (red) on the other's,\nof an even plan's"
Values = Mapping[str, Mapping[int, float]]  # by variant and seed


def draw_studies(output: Path, tiny: bool = False):
    """Pictures of all studies in the folder of their runs, as `NAME.svg`."""
    results = known_results(output, runs_of(STUDIES.values()), tiny).known
    for name, study in STUDIES.items():
        draw_study(study, results, output / f"{name}.svg")


def draw_study(study: Study, results: Results, path: Path) -> bool:
    """A row of panels for each world that has results: CIDEr-D as the difference to the first variant with the same
    seed; right sounds where neither training nor the picture tells them; and where the plan has its mass. Dots are
    seeds, bars means with Student's 95 % interval.

    Args:
        path: of the picture; its ending says of which kind it is.

    Returns:
        Whether there is something to draw: a study of one variant has its table.
    """
    worlds = {world: found_by_variant(study, world, results) for world in study.worlds}
    worlds = {world: found for world, found in worlds.items() if sum(map(bool, found.values())) > 1}
    if not worlds:
        return False
    height = len(worlds) * (MARGIN + ROW * len(study.variants))
    figure = Figure(figsize=(4 * PANEL + 1.5, height), layout="constrained")
    for axes, (world, found) in zip(figure.subplots(len(worlds), 4, squeeze=False), worlds.items(), strict=True):
        _draw_world(axes, world, found)
    # The same figures make the same file, of which the words can be searched.
    with matplotlib.rc_context({"svg.hashsalt": path.stem, "svg.fonttype": "none"}):
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
    return True


# -------------------------------------------------------------------------------------------------------- internals


def _draw_world(axes: Sequence[Axes], world: str, found: Variants):
    reference, *_ = found
    scores = measured(found, cider_d)
    first = scores[reference]
    differences = {
        name: {seed: score - first[seed] for seed, score in seeds.items() if seed in first}
        for name, seeds in scores.items()
    }
    level = f" ({sum(first.values()) / len(first):.3f})" if first else ""
    shown = {name: {} if name == reference else seeds for name, seeds in differences.items()}
    _draw_panel(axes[0], shown, f"CIDEr-D, difference to\n{reference}{level}")
    axes[0].axvline(0, color="grey", linewidth=0.8, linestyle=":")
    axes[0].set_yticks(range(len(found)), list(found))
    axes[0].set_ylabel(f"{world} world")
    new = measured(found, lambda each: right_share(each, "sound", new=True))
    _draw_panel(axes[1], _in_per_cent(new), f"right sounds of\n{NEW_PAIRS[world]}, %")
    heard = measured(found, lambda each: disturbed_share(each, "other_video", "heard", ("sound",)))
    _draw_panel(axes[2], _in_per_cent(heard), "with another's picture,\nsounds of the sound, %")
    for each in axes[1:3]:
        each.set_xlim(max(each.get_xlim()[0], -1), min(each.get_xlim()[1], 101))
    for side, colour in zip(SIDES, ("C0", "C3"), strict=True):
        masses = measured(found, lambda each, side=side: each["plan"][side] if each["plan"] else None)
        _draw_panel(axes[3], masses, MASS, colour)
    for each in axes[1:]:
        each.set_yticks(range(len(found)), [])
        if not each.has_data():  # no variant has it
            each.axis("off")
            each.set_title("")


def _in_per_cent(values: Values) -> Values:
    return {name: {seed: 100 * share for seed, share in seeds.items()} for name, seeds in values.items()}


def _draw_panel(axes: Axes, values: Values, title: str, colour: str = "C0"):
    for place, seeds in enumerate(values.values()):
        if not seeds:
            continue
        axes.plot(list(seeds.values()), [place] * len(seeds), "o", color=colour, alpha=0.35, markersize=4)
        mean, half = mean_interval(list(seeds.values()))
        axes.errorbar(mean, place, xerr=None if math.isinf(half) else half, fmt="|", color=colour, capsize=3)
    axes.set_title(title, fontsize=9)
    axes.set_ylim(len(values) - 0.5, -0.5)
    axes.grid(axis="y", linewidth=0.3)
