"""Tables of a study: means over seeds with intervals, and paired tests against its first variant."""

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from lavcap.experiments.measures import (
    LEVEL,
    NEW_PAIRS,
    OBJECTS,
    PARTS,
    SIDES,
    Found,
    Measure,
    Results,
    Tested,
    Variants,
    cider_d,
    disturbed_share,
    failed_runs,
    found_by_seed,
    found_by_variant,
    has_learnt,
    mean_interval,
    measured,
    of_main_modality,
    paired_tests,
    right_share,
)
from lavcap.experiments.runs import Run, known_results, runs_of
from lavcap.experiments.studies import STUDIES, WORLDS, Study
from lavcap.files import replace_text


COLUMNS = ("variant", "seeds", "learned", "CIDEr-D", "over clips", "difference", "p", "verdict")
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
MODALITIES = ("audio+video", "audio", "video", "audio+other_video")


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
    return "\n\n".join([*parts, *_failures([study], results)]) + "\n"


def format_summary(studies: Mapping[str, Study], results: Results) -> str:
    """One Markdown table of all studies that compare: a row for each variant, of which every world has its columns."""
    headings = ["study", "variant"]
    for world in WORLDS:
        headings += [f"CIDEr-D, {world} world", "difference, p", "learned", f"sounds of {NEW_PAIRS[world]}, %"]
    lines = [f"| {' | '.join(headings)} |", "|---" * len(headings) + "|"]
    for name, study in studies.items():
        cells = {variant.name: [] for variant in study.variants}
        for world in WORLDS:
            found = found_by_variant(study, world, results)
            tests = _tests(found, cider_d)
            failed, asked = _failed_by_variant(study, world, results), len(study.seeds)
            for variant, rows in found.items():
                row = _summary_cells(list(rows.values()), asked, failed[variant], tests.get(variant))
                cells[variant] += row if world in study.worlds else [""] * len(row)
        if len(study.variants) > 1:
            lines += [f"| {name} | {variant} | {' | '.join(row)} |" for variant, row in cells.items()]
    return "\n\n".join(["\n".join(lines), *_failures(studies.values(), results)]) + "\n"


def format_seeds(study: Study, results: Results) -> str:
    """Markdown of a study of one variant: a row for each seed, and whether it learned what there is to learn."""
    ((variant,), (world,)) = study.variants, study.worlds
    pairs = ("seen pairs" if world == "free" else "typical pairs", NEW_PAIRS[world])
    scores = [*(f"CIDEr-D {modality}" for modality in MODALITIES), "BLEU-4 audio+video"]
    words = [f"right colours / shapes / sounds, {each}" for each in pairs]
    headings = ["seed", *scores, *SIDES, *words, "minutes"]
    lines = [f"| {' | '.join(headings)} |", "|---" * len(headings) + "|"]
    there = found_by_seed(variant, world, study, results)
    for seed in study.seeds:
        cells = [str(seed), *(_seed_cells(there[seed], pairs) if seed in there else ["not run"])]
        if "failed" in results.get(Run(variant, world, seed).name, {}):
            cells[1] = "failed"
        lines.append(f"| {' | '.join(cells + [''] * (len(headings) - len(cells)))} |")
    told = f"{sum(map(has_learnt, there.values()))} of {len(study.seeds)} seeds learned all words."
    if there:
        over_seeds, over_clips = _score_cells(list(there.values()))
        told += f" CIDEr-D audio+video: {over_seeds} over seeds, {over_clips} over clips."
    return "\n".join([*lines, "", told])


def format_tables(results: Results) -> str:
    """Markdown of all studies: one table, and each of them in full."""
    each = [format_study(name, study, results) for name, study in STUDIES.items()]
    return "\n".join(["# Studies\n", format_summary(STUDIES, results), *each])


def write_tables(output: Path, tiny: bool = False):
    """Write the tables of all studies into the folder of their runs, as `tables.md`."""
    results = known_results(output, runs_of(STUDIES.values()), tiny).known
    replace_text(output / "tables.md", format_tables(results))


# -------------------------------------------------------------------------------------------------------- internals


def _failed_by_variant(study: Study, world: str, results: Results) -> dict[str, int]:
    """How many runs of every variant failed."""
    failed = failed_runs([study], results)
    return {
        variant.name: sum(Run(variant, world, seed).name in failed for seed in study.seeds)
        for variant in study.variants
    }


def _nothing(failed: int) -> str:
    """What stands where no run gave anything."""
    return "failed" if failed else "not run"


def _failures(studies: Iterable[Study], results: Results) -> list[str]:
    """A paragraph of the runs that failed, if any did."""
    failed = [f"- {run}: {why}" for run, why in failed_runs(studies, results).items()]
    return ["\n".join(["Failed:", "", *failed])] if failed else []


def _world_table(study: Study, world: str, results: Results) -> str:
    found = found_by_variant(study, world, results)
    failed = _failed_by_variant(study, world, results)
    if not any(found.values()):
        return f"World: {world}. {_nothing(sum(failed.values())).capitalize()}."
    tests = _tests(found, cider_d)
    columns = (*COLUMNS, "colours", "shapes", *SIDES)
    lines = [f"World: {world}", "", f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for name, rows in found.items():
        cells = [name, f"{len(rows)} of {len(study.seeds)}"]
        if rows:
            cells += _cells(list(rows.values()), failed[name], tests.get(name))
        else:
            cells += [_nothing(failed[name])] + [""] * (len(columns) - 3)
        lines.append(f"| {' | '.join(cells)} |")
    measures = _word_measures(world)
    return "\n".join([*lines, *_words_table(found, measures), *_differences_table(found, measures)])


def _word_measures(world: str) -> dict[str, Measure]:
    """Shares of right words that are told with intervals and tests, by their headings."""
    own = {
        "sounds": lambda found: right_share(found, "sound"),
        f"sounds, {NEW_PAIRS[world]}": lambda found: right_share(found, "sound", new=True),
    }
    disturbed = {heading: lambda found, which=which: disturbed_share(found, *which) for heading, *which in DISTURBED}
    return own | disturbed


def _words_table(found: Variants, measures: Mapping[str, Measure]) -> list[str]:
    """Lines of right words, also of disturbed clips, of the variants that were measured."""
    lines = [f"| variant | {' | '.join(measures)} |", "|---" * (len(measures) + 1) + "|"]
    for name, rows in found.items():
        if rows:
            cells = [_share_cell([measure(row) for row in rows.values()]) for measure in measures.values()]
            lines.append(f"| {name} | {' | '.join(cells)} |")
    return ["", "Right words, also of disturbed clips, in per cent:", "", *lines]


def _differences_table(found: Variants, measures: Mapping[str, Measure]) -> list[str]:
    """Lines of how right words differ from the first variant's, with p values."""
    tests = {heading: _tests(found, measure) for heading, measure in measures.items()}
    lines = [f"| variant | {' | '.join(measures)} |", "|---" * (len(measures) + 1) + "|"]
    for name in list(found)[1:]:
        cells = [_difference_cell(column[name]) for column in tests.values()]
        if any(cells):
            lines.append(f"| {name} | {' | '.join(cells)} |")
    if len(lines) == 2:
        return []
    return ["", f"Their differences to {next(iter(found))}, in points, with p:", "", *lines]


def _tests(found: Variants, measure: Measure) -> dict[str, Tested]:
    """[`paired_tests`] of a measure against the first variant."""
    values = measured(found, measure)
    reference, *others = values
    return paired_tests(values[reference], {name: values[name] for name in others})


def _seed_cells(found: Found, pairs: Sequence[str]) -> list[str]:
    scores, words, plan = found["scores"], found["words"]["audio+video"], found["plan"]
    cider = [f"{scores[modality]['cider_d']:.3f}" for modality in MODALITIES]
    right = [" / ".join(f"{words[each][part]:.1%}" for part in PARTS) for each in pairs]
    masses = [f"{plan[side]:.2f}" for side in SIDES]
    return [*cider, f"{scores['audio+video']['bleu_4']:.3f}", *masses, *right, f"{found['train_seconds'] / 60:.1f}"]


def _score_cells(rows: Sequence[Found]) -> list[str]:
    """CIDEr-D with its interval over seeds, and the mean half of its interval over the clips of a run."""
    mean, half = mean_interval([cider_d(row) for row in rows])
    ends = [of_main_modality(row["intervals"])["cider_d"] for row in rows]
    return [f"{mean:.3f}{_plus_minus(half, 3)}", f"± {np.mean([(high - low) / 2 for low, high in ends]):.3f}"]


def _cells(rows: Sequence[Found], failed: int, test: Tested | None) -> list[str]:
    cells = [_learnt_cell(rows, failed), *_score_cells(rows)]
    cells += ["", "", "reference"] if test is None else _verdict(test)
    for part in OBJECTS:
        shares = [right_share(row, part) for row in rows]
        cells.append(f"{np.mean(shares):.1%} ({min(shares):.0%})")
    plans = [row["plan"] for row in rows if row["plan"]]
    for side in SIDES:
        mean, half = mean_interval([plan[side] for plan in plans]) if plans else (math.nan, math.inf)
        cells.append(f"{mean:.2f}{_plus_minus(half, 2)}" if plans else "")
    return cells


def _summary_cells(rows: Sequence[Found], asked: int, failed: int, test: Tested | None) -> list[str]:
    if not rows:
        return [_nothing(failed), "", "", ""]
    some = f" ({len(rows)} of {asked} seeds{f', {failed} failed' if failed else ''})" if len(rows) < asked else ""
    difference, p, verdict = ("", "", "reference") if test is None else _verdict(test)
    told = ", ".join(filter(None, (" ".join(filter(None, (difference, p and f"({p})"))), verdict)))
    new = _share_cell([right_share(row, "sound", new=True) for row in rows])
    return [_score_cells(rows)[0] + some, told, _learnt_cell(rows, failed), new]


def _learnt_cell(rows: Sequence[Found], failed: int) -> str:
    return f"{sum(map(has_learnt, rows))} of {len(rows) + failed}"


def _share_cell(shares: Sequence[float | None]) -> str:
    """Mean share with its interval over seeds; nothing where it does not apply."""
    there = [100 * share for share in shares if share is not None]
    if not there:
        return ""
    mean, half = mean_interval(there)
    return f"{mean:.1f}{_plus_minus(half, 1)}"


def _difference_cell(test: Tested) -> str:
    if not test.pairs:
        return ""
    points = round(100 * test.difference, 1) or 0.0  # and not -0.0
    return f"{points:+.1f}" + ("" if math.isnan(test.p) else f" ({test.p:.3f})")


def _plus_minus(half: float, digits: int) -> str:
    return "" if math.isinf(half) else f" ± {half:.{digits}f}"


def _verdict(test: Tested) -> list[str]:
    if not test.pairs:
        return ["", "", ""]
    difference = f"{round(test.difference, 3) or 0.0:+.3f}"  # and not -0.000
    if math.isnan(test.p):
        return [difference, "", "one seed" if test.pairs == 1 else "the same with each seed"]
    told = "not told apart" if test.p >= 1 - LEVEL else "better" if test.difference > 0 else "worse"
    return [difference, f"{test.p:.3f}", told]
