"""Studies: what their runs are made of, that what is there is kept, and what their tables say."""

import dataclasses
import itertools
import json
import os
import re
import shutil
import signal

import numpy as np
import pytest
from filelock import FileLock
from matplotlib.figure import Figure
from scipy import stats
from stranger import run_inside

from conftest import ROOT
from lavcap.experiments.measures import has_learnt, mean_interval, paired_tests, right_share
from lavcap.experiments.pictures import draw_study
from lavcap.experiments.runs import RECORD, Run, carry_out, known_results, recipe_digest, recipe_of, record, runs_of
from lavcap.experiments.steps import make_world
from lavcap.experiments.studies import RECIPE, STUDIES, Study, Variant
from lavcap.experiments.tables import MODALITIES, format_study, format_summary, format_tables
from lavcap.models.families import config_class


VARIANTS = {variant.name: variant for study in STUDIES.values() for variant in study.variants}


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_is_a_configuration_of_its_own(name):
    made = {}
    for variant in (VARIANTS[name], Variant("plain", VARIANTS[name].recipe)):
        recipe = recipe_of(Run(variant, "free", 42), ROOT / "data", ROOT / "model")
        fields = {key: value for key, value in recipe["model_config"].items() if key != "model_type"}
        config = config_class(recipe["model_config"].get("model_type", "lavcap"))(**fields)
        config.check()
        made[variant.name] = (config.to_json_string(), recipe["audio_only_rate"])
    assert (made[name] == made["plain"]) == (name in {"recipe", "avcap"})
    assert recipe["seed"] == 42 and recipe["eval_strategy"] == "no"  # nothing is chosen by a score


def test_variants_of_two_names_are_of_two_recipes_and_a_name_is_one_variant():
    for one, other in itertools.combinations((each for study in STUDIES.values() for each in study.variants), 2):
        assert (one.name != other.name) == (digest(one) != digest(other))


def digest(variant: Variant) -> str:
    return recipe_digest(Run(variant, "free", 42))


def test_fields_within_fields_are_changed_alone():
    recipe = recipe_of(Run(VARIANTS["avcap-no-joint-layer"], "free", 1), ROOT / "data", ROOT / "model")
    tower = recipe["model_config"]["audio_visual_config"]
    assert tower["num_joint_layers"] == 0 and tower["hidden_size"] == 128


def test_runs_are_each_once_and_seed_by_seed():
    runs = runs_of([STUDIES["transport"], STUDIES["weight"]])
    assert len({run.name for run in runs}) == len(runs) == 2 * 5 * (5 + 2)
    seeds = [run.seed for run in runs]
    assert seeds == sorted(seeds)


@pytest.mark.whole
def test_runs_are_carried_out_once_and_a_failure_is_named_and_tried_again(tmp_path):
    broken = Variant("broken", options={"max_steps": -7, "optim": "no such"})
    study = Study("Does it work?", (RECIPE, dataclasses.replace(RECIPE, name="again"), broken), ("typical",), (3,))
    runs = runs_of([study])
    found = {run.name: result for run, result in carry_out(runs, tmp_path, 2, tiny=True)}
    good, again, failed = (found[run.name] for run in runs)
    assert "optim" in failed["failed"] and failed["failed"].endswith("(see typical/broken/seed_3/log.txt)")
    assert good["scores"]["audio+video"] == again["scores"]["audio+video"]  # the same world, seed and recipe
    assert good["plan"]["own"] > 0 and set(good["words"]["audio"]) == {"typical pairs", "exceptional pairs"}
    assert known_results(tmp_path, runs, tiny=True) == (found, [])
    assert known_results(tmp_path, runs) == ({}, [run.name for run in runs])  # a tiny run is of another recipe
    changed = dataclasses.replace(runs[0], variant=dataclasses.replace(RECIPE, options={"learning_rate": 0.5}))
    assert changed.name == runs[0].name
    assert known_results(tmp_path, [changed], tiny=True) == ({}, [changed.name])
    (tmp_path / RECORD).write_text("{}")  # nothing is known, but the models are there: they are only measured
    measured = {run.name: result for run, result in carry_out(runs[:2], tmp_path, 2, tiny=True)}
    assert measured == {runs[0].name: good, runs[1].name: again}
    (tmp_path / "elsewhere").mkdir()
    shutil.copy(tmp_path / RECORD, tmp_path / "elsewhere")
    assert not list(carry_out(runs[:2], tmp_path / "elsewhere", 2, tiny=True))


@pytest.fixture
def quick_steps(monkeypatch):
    """Steps of runs that take no time: what they are to do is a function of the log and the other arguments."""

    def have(step):
        do = "lavcap.experiments.runs._Site._do"
        monkeypatch.setattr(do, lambda site, what, folder, *rest: step(what, *rest) or 0)

    return have


def test_what_a_run_of_before_left_is_not_what_a_failed_one_gave(tmp_path, quick_steps):
    run = Run(RECIPE, "free", 1)
    (tmp_path / run.name).mkdir(parents=True)
    (tmp_path / run.name / "run.json").write_text('{"scores": "of another recipe"}')
    quick_steps(lambda *_: None)  # the disk is full: not even the world is made
    (tmp_path / run.name / "log.txt").write_text("ValueError: of before")
    (found,) = carried_out([run], tmp_path).values()
    assert found.keys() == {"failed"} and "before" not in found["failed"]


def test_a_run_that_a_signal_ended_is_told_so(tmp_path, monkeypatch):
    monkeypatch.setattr("lavcap.experiments.steps.make_world", kill_itself)
    (found,) = carried_out([Run(RECIPE, "free", 1)], tmp_path).values()
    assert found["failed"].startswith("ended by signal 9") and "see free/recipe/seed_1/log.txt" in found["failed"]


def kill_itself(log, *_):
    log.write_text("Captioning: 100%")
    os.kill(os.getpid(), signal.SIGKILL)


def carried_out(runs, folder) -> dict:
    return {run.name: found for run, found in carry_out(runs, folder, 1, tiny=False)}


def test_a_failure_is_recorded_and_tried_again(tmp_path, quick_steps):
    runs, outcomes = runs_of([Study("?", (RECIPE,), ("free",), (1, 2))]), {1: None, 2: result(4.0)}

    def step(what, *rest):
        if what is make_world:
            rest[0].mkdir(parents=True)
            return
        recipe, _, file = rest
        if outcomes[recipe["seed"]]:
            file.write_text(json.dumps(outcomes[recipe["seed"]]))
        else:
            (file.parent / "log.txt").write_text("a bar 10%\ra bar 20%\nValueError: no \x1b such thing\n\n")

    quick_steps(step)
    told = "ValueError: no \\x1b such thing (see free/recipe/seed_1/log.txt)"
    one, two = (run.name for run in runs)
    assert carried_out(runs[:1], tmp_path) == {one: {"failed": told}}
    assert carried_out(runs, tmp_path) == {one: {"failed": told}, two: outcomes[2]}
    assert known_results(tmp_path, runs) == ({one: {"failed": told}, two: outcomes[2]}, [])
    text = format_study("seeds", Study("?", (RECIPE,), ("free",), (1, 2)), known_results(tmp_path, runs).known)
    assert "1 of 2 seeds" in text and "| 1 | failed |" in text and told in text
    outcomes[1] = result(3.0)
    assert carried_out(runs, tmp_path) == {one: outcomes[1]}  # the other one is known


@pytest.mark.parametrize("entry", ["text", {}, {"recipe": 1}, {"gave": {}}, {"gave": {"scores": {}}}, {"gave": 3}])
def test_an_entry_of_another_version_does_not_count(tmp_path, entry):
    run = Run(RECIPE, "free", 42)
    if isinstance(entry, dict) and "gave" in entry:
        entry["recipe"] = recipe_digest(run)
    (tmp_path / RECORD).write_text(json.dumps({run.name: entry, "free/of a variant that was/seed_1": 3}))
    assert known_results(tmp_path, [run]) == ({}, [run.name])


@pytest.mark.parametrize("text", ["[]", "{", "3"])
def test_a_record_that_is_none_is_told(tmp_path, text):
    (tmp_path / RECORD).write_text(text)
    with pytest.raises(ValueError, match=r"results\.json.*repair or remove it"):
        known_results(tmp_path, [])


def result(cider: float, words: float = 1.0, plan: dict | None = None) -> dict:
    row = {"events": 10, "colour": words, "shape": words, "sound": words, "all three": words}
    sides = {"heard": {"shares": {"sound": words}}, "seen": {"shares": {"colour": words, "shape": words - 0.5}}}
    whose = {"shares": {"sound": 0.0}, "whose": sides}
    return {
        "scores": {name: {"cider_d": cider, "bleu_4": 1.0} for name in MODALITIES},
        "intervals": {"audio+video": {"cider_d": [cider - 0.2, cider + 0.4]}},
        "words": {"audio+video": {"seen pairs": row, "unseen pairs": row}},
        "plan": plan or {"own": 2.0, "other": 0.5},
        "disturbed": {"noise_5_db": {"shares": {"sound": words / 2}}, "other_video": whose},
        "train_seconds": 60.0,
        "parameters": 1,
    }


def test_the_table_tells_better_from_not_told_apart_and_names_failures():
    first, better, same = Variant("first"), Variant("better"), Variant("same")
    study = Study("Which?", (first, better, same), ("free",), (1, 2, 3, 4, 5))
    noise = np.random.default_rng(0).normal(0, 0.1, (3, 5))
    results = {
        Run(variant, "free", seed).name: result(mean + noise[row, seed - 1])
        for row, (variant, mean) in enumerate(((first, 2.0), (better, 3.0), (same, 2.01)))
        for seed in study.seeds
    }
    results[Run(same, "free", 5).name] = {"failed": "see log.txt"}
    text = format_study("name", study, results)
    scores, words, differences = re.split("Right words, also of|Their differences to first", text)
    lines = {line.split(" | ")[0].strip("| "): line for line in scores.splitlines() if line.startswith("| ")}
    assert "reference" in lines["first"] and "| better |" in lines["better"] and "not told apart" in lines["same"]
    assert "| 5 of 5 | 5 of 5 |" in lines["better"] and "| 4 of 5 | 4 of 5 |" in lines["same"]
    assert "free/same/seed_5: see log.txt" in differences
    other = dataclasses.replace(study, variants=(first, better))
    assert "same" not in format_study("other", other, results)
    assert "± 0.300" in lines["first"] and "2.00 ± 0.00" in lines["first"]
    # Nothing where it was not measured.
    cells = "| 100.0 ± 0.0 | 100.0 ± 0.0 |  |  | 100.0 ± 0.0 | 75.0 ± 0.0 |  | 50.0 ± 0.0 |  |  |"
    assert f"| better {cells}" in words and f"| same {cells}" in words
    cells = "| +0.0 (1.000) | +0.0 (1.000) |  |  | +0.0 (1.000) | +0.0 (1.000) |  | +0.0 (1.000) |  |  |"
    assert f"| better {cells}" in differences and f"| same {cells}" in differences


def test_one_table_has_every_variant_in_every_world():
    study = Study("Which?", (Variant("first"), Variant("second"), Variant("third")), ("free", "typical"), (1, 2))
    results = {
        Run(variant, "typical", seed).name: result(seed + shift)
        for variant, shift in zip(study.variants[:2], (0, 1), strict=True)
        for seed in study.seeds
    }
    results[Run(Variant("first"), "free", 1).name] = result(4.0, 0.5)
    results[Run(Variant("third"), "free", 1).name] = result(3.0, 0.5)
    studies = {"a": study, "b": dataclasses.replace(study, worlds=("free",)), "seeds": STUDIES["seeds"]}
    lines = format_summary(studies, results).splitlines()
    assert [line.split(" | ")[:2] for line in lines[2:]] == [
        [f"| {name}", each.name] for name in "ab" for each in study.variants
    ]
    of_one_seed, no_world = "| 4.000 (1 of 2 seeds) | reference | 0 of 1 | 50.0", "|  |  |  |"
    assert lines[2:6] == [
        f"| a | first {of_one_seed} | 1.500 ± 6.353 | reference | 2 of 2 | 100.0 ± 0.0 |",
        f"| a | second | not run {no_world} 2.500 ± 6.353 | +1.000, the same with each seed | 2 of 2 | 100.0 ± 0.0 |",
        f"| a | third | 3.000 (1 of 2 seeds) | -1.000, one seed | 0 of 1 | 50.0 | not run {no_world}",
        f"| b | first {of_one_seed} |  {no_world}",  # nothing of a world that a study has not
    ]
    assert len(lines) == 2 + 2 * 3


def test_what_failed_is_told_in_every_table_and_is_not_taken_for_what_was_not_run():
    study = Study("Which?", (Variant("first"), Variant("second"), Variant("third")), ("free", "typical"), (1, 2, 3))
    results = {Run(Variant("first"), "free", seed).name: result(seed) for seed in (1, 2)}
    why = {Run(Variant("first"), "free", 3).name: "no memory"}
    why |= {Run(Variant(name), "free", 1).name: "no such" for name in ("second", "third")}
    results |= {run: {"failed": reason} for run, reason in why.items()}
    summary, whole = format_summary({"a": study}, results), format_study("a", study, results)
    lines = summary.splitlines()
    assert lines[2].startswith("| a | first | 1.500 ± 6.353 (2 of 3 seeds, 1 failed) | reference | 2 of 3 |")
    assert lines[3] == "| a | second | failed |  |  |  | not run |  |  |  |"
    assert "| first | 2 of 3 | 2 of 3 |" in whole and "| second | 0 of 3 | failed |" in whole
    assert "World: typical. Not run." in whole
    for text in (summary, whole):
        assert all(f"- {run}: {reason}" in text for run, reason in why.items())
    results = {Run(variant, "free", 1).name: {"failed": "no such"} for variant in study.variants}
    assert "World: free. Failed." in format_study("a", study, results)


def test_where_no_event_is_of_the_new_pairs_they_have_no_share(tmp_path):
    """A world of four test clips may have no object with another kind's sound."""
    study = Study("Which?", (Variant("first"), Variant("second")), ("typical",), (1, 2))
    results = {run.name: result(run.seed * len(run.variant.name)) for run in runs_of([study])}
    for found in results.values():
        found["words"] = {"audio+video": {"typical pairs": found["words"]["audio+video"]["seen pairs"]}}
        found["disturbed"]["other_video"]["whose"]["heard"]["shares"] = {}
    text = format_study("name", study, results)
    assert "| second | 100.0 ± 0.0 |  |  |  |  | 75.0 ± 0.0 |" in text
    assert format_summary({"a": study}, results).splitlines()[2].endswith("reference | 2 of 2 |  |")
    assert draw_study(study, results, tmp_path / "study.svg")
    assert "exceptional pairs" not in (tmp_path / "study.svg").read_text()


def test_differences_of_words_are_tested_as_those_of_scores_are():
    study = Study("Which?", (Variant("first"), Variant("second")), ("typical",), (1, 2, 3))
    values = {"first": (0.5, 0.6, 0.7), "second": (0.8, 0.7, 0.9)}
    results = {
        Run(Variant(name), "typical", seed).name: result(1.0, share)
        for name, shares in values.items()
        for seed, share in zip(study.seeds, shares, strict=True)
    }
    text = format_study("name", study, results).split("Their differences to first, in points, with p:")[1]
    p = stats.ttest_rel(values["second"], values["first"]).pvalue
    assert f"| second | +20.0 ({p:.3f}) | +20.0 ({p:.3f}) |" in text and f"+10.0 ({p:.3f})" in text


def test_shares_of_new_pairs_are_of_those_events_alone():
    found = result(1.0)
    found["words"]["audio+video"]["unseen pairs"] = {"events": 30, "colour": 1.0, "shape": 1.0, "sound": 0.2}
    assert right_share(found, "sound") == pytest.approx((10 + 6) / 40)
    assert right_share(found, "sound", new=True) == pytest.approx(0.2)


def test_the_picture_has_each_variant_its_seeds_and_mean(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *args, **options: drawn.append(figure))
    study = Study("Which?", (Variant("first"), Variant("second"), Variant("none")), ("free", "typical"), (1, 2, 3))
    scores = {"first": (1.0, 2.0, 3.0), "second": (1.5, 2.5, 4.5)}
    results = {
        Run(Variant(name), "free", seed).name: result(score, plan={"own": score, "other": 0.5})
        for name, values in scores.items()
        for seed, score in zip(study.seeds, values, strict=True)
    }
    results[Run(Variant("first"), "free", 3).name] = {"failed": "see log.txt"}
    assert draw_study(study, results, tmp_path / "study.svg")
    ((difference, sounds, heard, mass),) = [figure.axes for figure in drawn]  # nothing of the other world
    assert [label.get_text() for label in difference.get_yticklabels()] == ["first", "second", "none"]
    dots = {place: line for line in difference.lines if line.get_marker() == "o" for place in line.get_ydata()}
    assert dots.keys() == {1} and list(dots[1].get_xdata()) == [0.5, 0.5]  # pairs of one seed, of the reference none
    own = [line for line in mass.lines if line.get_marker() == "o"]
    assert [list(line.get_xdata()) for line in own[:2]] == [[1.0, 2.0], [1.5, 2.5, 4.5]]
    assert sounds.get_title() and heard.get_title() and "1.500" in difference.get_title()
    assert not draw_study(dataclasses.replace(study, worlds=("typical",)), results, tmp_path / "study.svg")
    assert not draw_study(dataclasses.replace(study, variants=study.variants[:1]), results, tmp_path / "study.svg")


def test_the_picture_of_a_study_is_the_same_each_time(tmp_path):
    study = Study("Which?", (Variant("first"), Variant("second")), ("free",), (1, 2))
    results = {run.name: result(run.seed + len(run.variant.name)) for run in runs_of([study])}
    pictures = [tmp_path / name / "study.svg" for name in ("one", "two")]
    for picture in pictures:
        picture.parent.mkdir()
        assert draw_study(study, results, picture)
    one, two = (picture.read_text() for picture in pictures)
    assert one == two and "second" in one and "free world" in one and "unseen pairs" in one


def test_a_panel_of_what_no_variant_has_is_left_out(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *args, **options: drawn.append(figure))
    study = Study("Which?", (Variant("first"), Variant("second")), ("typical",), (1, 2))
    results = {run.name: result(run.seed) | {"plan": None} for run in runs_of([study])}
    assert draw_study(study, results, tmp_path / "study.svg")
    assert [axes.axison for axes in drawn[0].axes] == [True, True, True, False]
    study = dataclasses.replace(study, variants=(Variant("none"), *study.variants))  # nothing to compare with
    assert draw_study(study, results, tmp_path / "study.svg")
    difference, *_ = drawn[1].axes
    assert [label.get_text() for label in difference.get_yticklabels()] == ["none", "first", "second"]
    assert difference.axison and "difference to\nnone" in difference.get_title()


def test_tests_are_students_of_pairs_with_holms_correction():
    draw = np.random.default_rng(1)
    reference = dict(enumerate(draw.normal(size=6)))
    others = {name: dict(enumerate(draw.normal(shift, 1, size=6))) for name, shift in (("a", 0), ("b", 1.5), ("c", 3))}
    plain = {
        name: stats.ttest_rel(list(scores.values()), list(reference.values())).pvalue
        for name, scores in others.items()
    }
    order = sorted(plain, key=plain.get)
    expected = {name: (3 - rank) * plain[name] for rank, name in enumerate(order)}
    expected = {name: max(expected[each] for each in order[: order.index(name) + 1]) for name in order}
    found = paired_tests(reference, others)
    assert {name: p for name, (_, p, _) in found.items()} == pytest.approx({k: min(1, p) for k, p in expected.items()})
    assert np.isnan(paired_tests({1: 2.0}, {"a": {1: 3.0}})["a"].p)


@pytest.mark.parametrize(("shift", "p"), [(0.0, 1.0), (0.05, np.nan)])
def test_differences_that_are_all_the_same_say_nothing_of_how_they_vary(shift, p):
    reference = {1: 0.5, 2: 0.6, 3: 0.1 + 0.2}  # differences to these are the same but for rounding
    found = paired_tests(reference, {"a": {seed: score + shift for seed, score in reference.items()}})["a"]
    assert found == pytest.approx((shift, p, 3), nan_ok=True)


def test_the_interval_of_two_values_is_students():
    mean, half = mean_interval([1.0, 3.0])
    assert mean == 2 and half == pytest.approx(12.706, abs=1e-3)  # of one degree of freedom, times 1


@pytest.mark.parametrize(("words", "learnt"), [(0.96, True), (0.94, False)])
def test_a_seed_has_learnt_when_enough_words_are_right(words, learnt):
    assert has_learnt(result(4.0, words)) == learnt
    study = Study("Each?", (RECIPE,), ("free",), (1, 2, 3))
    found = {Run(RECIPE, "free", 1).name: result(4.0, words), Run(RECIPE, "free", 2).name: {"failed": "x"}}
    text = format_study("seeds", study, found)
    assert f"{int(learnt)} of 3 seeds" in text and "| 2 | failed |" in text and "| 3 | not run |" in text
    found |= {Run(RECIPE, "free", 2).name: result(5.0, words)}
    text = format_study("seeds", study, found)
    assert "CIDEr-D audio+video: 4.500 ± 6.353 over seeds, ± 0.300 over clips." in text
    assert "right colours / shapes / sounds, unseen pairs" in text and "| 4.000 | 1.000 | 2.00 | 0.50 |" in text
    typical = {name.replace("free", "typical"): each for name, each in found.items()}
    for each in typical.values():
        rows = each["words"]["audio+video"]
        each["words"] = {"audio+video": dict(zip(("typical pairs", "exceptional pairs"), rows.values(), strict=True))}
    text = format_study("seeds", dataclasses.replace(study, worlds=("typical",)), typical)
    assert "sounds, exceptional pairs" in text and "unseen" not in text


@pytest.mark.whole
def test_the_command_reads_what_is_there_and_refuses_what_it_does_not_know(tmp_path):
    done = run_inside("scripts/experiments.py", "--output", tmp_path, "--study", "seed")
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "seeds" in done.stderr
    for variant, score in ((RECIPE, 4.125), (STUDIES["dropout"].variants[1], 2.5)):
        record(Run(variant, "free", 42), result(score), tmp_path)
    known = json.loads((tmp_path / RECORD).read_text())
    (tmp_path / RECORD).write_text(json.dumps(known | {"free/recipe/seed_43": {"recipe": "of before", "gave": {}}}))
    options = ("--output", tmp_path, "--study", "seeds", "--seeds", "43", "42", "43", "--only_tables")
    done = run_inside("scripts/experiments.py", *options)
    assert done.returncode == 0 and "| 42 | 4.125 |" in done.stdout and "1 of 2 seeds" in done.stdout
    assert "1 runs are of another recipe" in done.stderr and "free/recipe/seed_43" in done.stderr
    tables = (tmp_path / "tables.md").read_text()
    assert all(f"## {name}: " in tables for name in STUDIES) and "1 of 10 seeds" in tables
    assert "nothing-hidden" in (tmp_path / "dropout.svg").read_text() and not (tmp_path / "avcap.svg").exists()
    done = run_inside("scripts/experiments.py", *options[:2], "--world", "typical", "--only_tables")
    assert done.returncode == 0 and "4.125" not in done.stdout and (tmp_path / "tables.md").read_text() == tables
    record(Run(RECIPE, "free", 44), {"failed": "the disk was full"}, tmp_path)
    done = run_inside("scripts/experiments.py", "--output", tmp_path / "mistyped", "--only_tables")
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and not (tmp_path / "mistyped").exists()
    done = run_inside("scripts/experiments.py", *options[:4], "--only_tables")
    assert done.returncode == 1 and "| 44 | failed |" in done.stdout and "the disk was full" in done.stdout


def test_two_commands_do_not_work_in_one_folder(tmp_path):
    with FileLock(tmp_path / ".lock"), pytest.raises(ValueError, match="another command"):
        next(carry_out(runs_of([STUDIES["seeds"]]), tmp_path, 1, tiny=True))
    assert not list(tmp_path.glob("free"))


def test_the_published_tables_are_those_of_the_published_results():
    folder = ROOT / "docs" / "studies"
    results, outdated = known_results(folder, runs_of(STUDIES.values()))
    assert results.keys() == json.loads((folder / RECORD).read_text()).keys() and not outdated
    assert (folder / "tables.md").read_text(encoding="utf-8") == format_tables(results)
    assert format_summary(STUDIES, results) in (ROOT / "docs" / "experiments.md").read_text(encoding="utf-8")
