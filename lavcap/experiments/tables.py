"""Tables of a study: means over seeds with intervals, and paired tests against its first variant."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lavcap.experiments.measures import (
    LEVEL,
    OBJECTS,
    PARTS,
    SIDES,
    Found,
    Results,
    cider_d,
    disturbed_share,
    found_by_seed,
    has_learnt,
    mean_interval,
    of_main_modality,
    paired_tests,
    right_share,
)
from lavcap.experiments.runs import Run, runs_of
from lavcap.experiments.studies import Study


COLUMNS = ("variant", "seeds", "CIDEr-D", "over clips", "difference", "p", "verdict", "colours", "shapes", "sounds")
# Heading, disturbance, and which words: of what is said, or of those of the clip that is heard, or seen, where they
# differ.
DISTURBED = (
    ("sounds, sound alone", "audio_only", "", ("sound",)),
    ("objects, picture alone", "video_only", "", OBJECTS),
    ("sounds of the sound, another's picture", "other_video", "heard", ("sound",)),
    ("objects of the picture, another's sound", "other_video", "seen", OBJECTS),
    ("sounds, noise at 20 dB", "noise_20_db", "", ("sound",)),
    ("sounds, noise at 5 dB", "noise_5_db", "", ("sound",)),
    ("sounds, 0.5 s late", "delay_0.5_s", "", ("sound",)),
    ("objects, 75 % of frames dropped", "dropped_75", "", OBJECTS),
)


def format_study(name: str, study: Study, results: Results) -> str:
    """Markdown of a study, with a table for each world that has results.

    Args:
        results: what runs gave, also of other studies, by their names; those that failed have `failed`.
    """
    parts = [f"## {name}: {study.question}"]
    own = {run.name for run in runs_of([study])}
    if own.isdisjoint(results):
        parts.append("Not run.")
    elif len(study.variants) == 1:
        parts.append(format_seeds(study, results))
    else:
        parts += [_world_table(study, world, results) for world in study.worlds]
    failed = [f"- {run}: {found['failed']}" for run, found in results.items() if run in own and "failed" in found]
    return "\n\n".join([*parts, *(["\n".join(["Failed:", "", *failed])] if failed else [])]) + "\n"


def format_seeds(study: Study, results: Results) -> str:
    """Markdown of a study of one variant: a row for each seed, and whether it learned what there is to learn."""
    ((variant,), (world,)) = study.variants, study.worlds
    lines = [
        "| seed | CIDEr-D audio+video | audio only | video only | BLEU-4 audio+video "
        "| right colours / shapes / sounds, seen pairs | the same, unseen pairs | minutes |",
        "|---" * 8 + "|",
    ]
    for seed in study.seeds:
        found = results.get(Run(variant, world, seed).name)
        if found is None or "failed" in found:
            lines.append(f"| {seed} | {'not run' if found is None else 'failed'} |" + " |" * 6)
            continue
        scores, words = found["scores"], found["words"]["audio+video"]
        cider = " | ".join(f"{scores[modality]['cider_d']:.3f}" for modality in ("audio+video", "audio", "video"))
        right = " | ".join(" / ".join(f"{row[part]:.1%}" for part in PARTS) for row in words.values())
        minutes = found["train_seconds"] / 60
        lines.append(f"| {seed} | {cider} | {scores['audio+video']['bleu_4']:.3f} | {right} | {minutes:.1f} |")
    there = [found for seed in study.seeds if (found := results.get(Run(variant, world, seed).name))]
    learnt = sum("failed" not in found and has_learnt(found) for found in there)
    return "\n".join([*lines, "", f"{learnt} of {len(there)} seeds learned all words."])


# -------------------------------------------------------------------------------------------------------- internals


def _world_table(study: Study, world: str, results: Results) -> str:
    found = {variant.name: found_by_seed(variant, world, study, results) for variant in study.variants}
    if not any(found.values()):
        return f"World: {world}. Not run."
    scores = {name: {seed: cider_d(each) for seed, each in rows.items()} for name, rows in found.items()}
    reference, *others = found
    tests = paired_tests(scores[reference], {name: scores[name] for name in others})
    columns = COLUMNS + SIDES
    lines = [f"World: {world}", "", f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for name, rows in found.items():
        cells = [name, f"{len(rows)} of {len(study.seeds)}"]
        cells += _cells(list(rows.values()), tests.get(name)) if rows else ["not run"] + [""] * (len(columns) - 3)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, *_disturbed_table(found)])


def _disturbed_table(found: Mapping[str, Mapping[int, Found]]) -> list[str]:
    """Lines of right words under disturbances, of the variants that were measured, by variant and seed."""
    rows = {name: list(seeds.values()) for name, seeds in found.items() if seeds}
    lines = [f"| variant | {' | '.join(heading for heading, *_ in DISTURBED)} |", "|---" * (len(DISTURBED) + 1) + "|"]
    for name, seeds in rows.items():
        cells = [_shares(seeds, *where) for _, *where in DISTURBED]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return ["", "Right words of disturbed clips, in per cent:", "", *lines]


def _shares(rows: Sequence[Found], *which: Any) -> str:
    """Mean share of right words with its interval over seeds; nothing where the disturbance does not apply."""
    shares = [share for row in rows if (share := disturbed_share(row, *which)) is not None]
    if not shares:
        return ""
    mean, half = mean_interval([100 * share for share in shares])
    return f"{mean:.1f}{_plus_minus(half, 1)}"


def _cells(rows: Sequence[Found], test: tuple[float, float] | None) -> list[str]:
    mean, half = mean_interval([cider_d(row) for row in rows])
    ends = [of_main_modality(row["intervals"])["cider_d"] for row in rows]
    cells = [f"{mean:.3f}{_plus_minus(half, 3)}", f"± {np.mean([(high - low) / 2 for low, high in ends]):.3f}"]
    cells += ["", "", "reference"] if test is None else _verdict(*test)
    for part in PARTS:
        shares = [right_share(row, part) for row in rows]
        cells.append(f"{np.mean(shares):.1%} ({min(shares):.0%})")
    plans = [row["plan"] for row in rows if row["plan"]]
    for side in SIDES:
        mean, half = mean_interval([plan[side] for plan in plans]) if plans else (math.nan, math.inf)
        cells.append(f"{mean:.2f}{_plus_minus(half, 2)}" if plans else "")
    return cells


def _plus_minus(half: float, digits: int) -> str:
    return "" if math.isinf(half) else f" ± {half:.{digits}f}"


def _verdict(difference: float, p: float) -> list[str]:
    if math.isnan(p):
        return ["", "", ""] if math.isnan(difference) else [f"{difference:+.3f}", "", "one seed"]
    told = "not told apart" if p >= 1 - LEVEL else "better" if difference > 0 else "worse"
    return [f"{difference:+.3f}", f"{p:.3f}", told]
