#!/usr/bin/env python
r"""Score a checkpoint on a split, or captions that are there already, with 95 % intervals.

    python scripts/evaluate.py --model outputs/demo/model --data_dir outputs/demo/data --output outputs/demo/evaluation
    python scripts/evaluate.py --predictions outputs/demo/evaluation/predictions.jsonl --output outputs/rescored
    python scripts/evaluate.py --predictions mine.jsonl --compare theirs.jsonl --output outputs/compared

The first captions every clip from sound and picture, sound alone, picture alone, and sound with the picture of another
clip. The second needs no model: lines {"id": ..., "caption": ..., "references": [...]}. The third tests on the clips
that both files have whether they differ. METEOR, SPICE and FENSE are tried first, and what they lack is named.

Writes results.json, results.md and predictions.jsonl; docs/evaluation.md explains every field.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from lavcap.commands import Parser, check_new_folder, errors_in_one_line, listed, not_negative, positive
from lavcap.data.dataset import ClipDataset
from lavcap.data.manifest import read_facts, take_rows
from lavcap.data.precomputed_features import check_features_fit
from lavcap.data.splits import check_media, read_split
from lavcap.evaluation.metrics import METRICS, unavailable_metrics
from lavcap.evaluation.predict import (
    MODALITIES,
    OTHER_VIDEO,
    decoding_settings,
    predict,
    usable_modalities,
)
from lavcap.evaluation.predictions import Prediction, by_modality, check_references, read_predictions, read_references
from lavcap.evaluation.results import (
    TEST_MARKS,
    compare_sets,
    describe_references,
    format_comparison,
    format_preflight,
    format_results,
    library_versions,
    main_modality,
    results_beside,
    summarise,
    with_main_set,
    write_results,
)
from lavcap.evaluation.significance import SEED
from lavcap.evaluation.tokenization import tokenize_caption
from lavcap.models.captioning import generation_options
from lavcap.models.loading import check_model_name, load_model
from lavcap.models.weight_files import fingerprint
from lavcap.provenance import read_note
from lavcap.training.data import stored_example


CHECKPOINT_OPTIONS = (
    "data_dir",
    "split",
    "batch_size",
    "num_beams",
    "max_new_tokens",
    "max_clips",
    "skip_missing_media",
    "device",
)
LEAST_RESAMPLES = 100  # of fewer the ends of an interval are chance


def main() -> int:
    args = _parser().parse_args()
    with errors_in_one_line():
        _check_options(args)
        check_new_folder(args.output, "--output")
        if args.compare:
            _compare(args)
        elif args.predictions:
            _rescore(args)
        else:
            _evaluate(args)
    return 0


def _parser() -> Parser:
    parser = Parser(__doc__)
    given = parser.add_mutually_exclusive_group(required=True)
    given.add_argument("--model", help="folder of a trained model, or its name on the Hub")
    given.add_argument("--predictions", help="captions as JSON lines, with their references")
    parser.add_argument("--output", required=True, help="new folder for the results")
    parser.add_argument(
        "--modalities", nargs="+", help=f"some of {', '.join(MODALITIES)}; default: all that there are"
    )
    parser.add_argument("--metrics", nargs="+", choices=METRICS, help="default: all that can be computed here")
    parser.add_argument(
        "--bootstrap", type=_resamples, default=1000, help="sets drawn for the intervals, 100 or more; 0: none"
    )
    parser.add_argument(
        "--dataset_version", help="of the references, such as v1 or v2; default: what a prepared data set notes"
    )
    files = parser.add_argument_group("with --predictions")
    files.add_argument("--references", help="all clips that there should be: COCO's layout or JSON lines")
    files.add_argument("--compare", help="second file of captions, for a paired test")
    clips = parser.add_argument_group("with --model")
    clips.add_argument("--data_dir", help="data set in AudioCaps' layout; required")
    clips.add_argument("--split", help="name of the split; default: test")
    clips.add_argument("--batch_size", type=positive, help="clips captioned at a time; default: 32")
    clips.add_argument("--num_beams", type=positive, help="default: the model's own setting")
    clips.add_argument(
        "--max_new_tokens", type=positive, help="longest caption in tokens; default: the model's own setting"
    )
    clips.add_argument("--max_clips", type=positive, help="score the first clips only; the result is called partial")
    clips.add_argument("--skip_missing_media", action="store_true", help="score the clips whose media are there")
    clips.add_argument("--device", help="cpu, cuda, mps …; default: an accelerator if there is one")
    return parser


def _resamples(text: str) -> int:
    number = not_negative(text)
    if 0 < number < LEAST_RESAMPLES:
        raise argparse.ArgumentTypeError(f"got {number}, expected 0 or at least {LEAST_RESAMPLES}")
    return number


def _check_options(args: argparse.Namespace):
    if args.model and not args.data_dir:
        raise ValueError("--model needs --data_dir, the data set whose clips it captions.")
    if args.model and (args.references or args.compare):
        raise ValueError("--references and --compare go with --predictions; caption first, then score the file.")
    if args.predictions and (idle := [f"--{name}" for name in CHECKPOINT_OPTIONS if getattr(args, name)]):
        raise ValueError(f"{', '.join(idle)} would do nothing with --predictions; leave it out, or pass --model.")


# -------------------------------------------------------------------------------------------------------- commands


def _evaluate(args: argparse.Namespace):
    check_model_name(args.model)
    args.split, args.batch_size = args.split or "test", args.batch_size or 32
    rows, missing = read_split(args.data_dir, args.split)
    check_media(rows, missing, args.data_dir, args.split, args.skip_missing_media)
    expected = [*rows["id"], *missing]
    if args.max_clips is not None:
        rows = take_rows(rows, range(min(args.max_clips, len(rows))))
    check_references(args.data_dir, dict(zip(rows["id"], rows["captions"], strict=True)))
    note = read_note(args.model)
    model, processor = load_model(args.model, args.device, sees_media=False)
    if "video" in processor.modalities:
        check_features_fit(model, processor, args.data_dir, args.split, stored_example(rows))
    modalities = _modalities_of_model(args.modalities, processor, len(rows))
    unavailable = _preflight(args)
    width = model.config.vision_config.projection_dim
    dataset = ClipDataset(rows, processor, cache=len(modalities) > 1, stored_size=width).preload("Reading clips")
    options = generation_options(num_beams=args.num_beams, max_new_tokens=args.max_new_tokens)
    start = time.perf_counter()
    predictions = [
        prediction
        for modality in modalities
        for prediction in predict(model, processor, dataset, modality, args.batch_size, **options)
    ]
    run = {
        "model": args.model,
        "revision": getattr(model.config, "_commit_hash", None),
        "weights": fingerprint(args.model),
        "data_dir": args.data_dir,
        "split": args.split,
        "decoding": decoding_settings(model, options),
        "captioning_seconds": round(time.perf_counter() - start, 1),
    }
    run |= {name: note[name] for name in TEST_MARKS if note.get(name)}
    _write_scores(args, run, predictions, expected, unavailable)


def _rescore(args: argparse.Namespace):
    references = _read_references(args)
    predictions = _read(args.predictions, references, args.modalities)
    if other := [p.id for p in predictions if references and p.references != references[p.id]]:
        _warn(
            f"{len(other)} of {len(predictions)} captions have other references in {args.predictions} than in "
            f"{args.references}; the former count. Leave references out of its lines to score against the latter."
        )
    known = results_beside(args.predictions)
    noted, version = known.pop("expected_ids", ()), known.pop("dataset_version", None)
    expected = list(references or dict.fromkeys([*noted, *(prediction.id for prediction in predictions)]))
    args.dataset_version = args.dataset_version or version
    run = known | {"predictions": args.predictions, "references": args.references}
    _write_scores(args, run, predictions, expected, _preflight(args))


def _compare(args: argparse.Namespace):
    references = _read_references(args)
    modalities = args.modalities or [None, None]
    if len(modalities) != 2:
        raise ValueError(
            f"--modalities with --compare: got {len(modalities)}, expected one for each of the two files."
        )
    sides = [
        _main_set(_read(file, references, modality and [modality]))
        for file, modality in zip((args.predictions, args.compare), modalities, strict=True)
    ]
    if references:
        sides = [[replace(p, references=references[p.id]) for p in side] for side in sides]
    compared = compare_sets(*sides, _preflight(args), args.bootstrap, args.metrics or METRICS)
    common = set(compared["scored_ids"])
    results = {
        "predictions": args.predictions,
        "compare": args.compare,
        "references": args.references,
        "modality": [side[0].modality for side in sides],
        "runs": [_origin(file) for file in (args.predictions, args.compare)],
        "dataset": describe_references((p for p in sides[0] if p.id in common), _dataset_version(args)),
    }
    known = {prediction.id for side in sides for prediction in side}
    missing = {"missing_ids": [name for name in references if name not in known]} if references else {}
    results |= _method(args, compared["comparison"]) | compared | missing
    text = format_comparison(results)
    write_results(args.output, results, text)
    print(text, end="")


# ----------------------------------------------------------------------------------------------------------- steps


def _modalities_of_model(asked: Sequence[str] | None, processor, clips: int) -> Sequence[str]:
    usable = usable_modalities(processor)
    if unknown := [modality for modality in asked or () if modality not in MODALITIES]:
        raise ValueError(f"--modalities {' '.join(unknown)}: unknown; expected some of {', '.join(MODALITIES)}.")
    if unusable := [modality for modality in asked or () if modality not in usable]:
        raise ValueError(
            f"--modalities {' '.join(unusable)}: the model is a baseline on {processor.modalities[0]} alone; leave "
            "the option out."
        )
    if asked:
        return list(dict.fromkeys(asked))
    # A lone clip has no other one to take frames from.
    return [modality for modality in usable if clips > 1 or modality != OTHER_VIDEO]


def _preflight(args: argparse.Namespace) -> dict[str, str]:
    """Why metrics cannot be computed; printed, and an error for those that were asked for by name."""
    unavailable = unavailable_metrics(args.metrics or METRICS)
    print(format_preflight(unavailable, args.metrics or METRICS), flush=True)
    if args.metrics and unavailable:
        raise ValueError(f"--metrics {' '.join(unavailable)}: cannot be computed here, for the reasons above.")
    return unavailable


def _read_references(args: argparse.Namespace) -> dict[str, list[str]] | None:
    return read_references(args.references) if args.references else None


def _read(path: str, references: dict | None, modalities: Sequence[str] | None) -> list[Prediction]:
    predictions = read_predictions(path, references)
    there = by_modality(predictions)
    if absent := [modality for modality in modalities or () if modality not in there]:
        names = ", ".join(repr(name) for name in there)
        raise ValueError(f"{path}: has no captions from {listed(absent)}; it has {names}.")
    return [prediction for prediction in predictions if prediction.modality in (modalities or there)]


def _origin(predictions: str) -> dict[str, Any]:
    known = results_beside(predictions)
    return {name: value for name, value in known.items() if name != "expected_ids"}


def _main_set(predictions: Sequence[Prediction]) -> list[Prediction]:
    sets = by_modality(predictions)
    return sets[main_modality(sets)]


def _dataset_version(args: argparse.Namespace) -> str:
    noted = read_facts(args.data_dir).get(args.split, {}).get("dataset_version") if args.data_dir else None
    return args.dataset_version or noted or "unknown"


def _write_scores(
    args: argparse.Namespace,
    run: dict[str, Any],
    predictions: Sequence[Prediction],
    expected: Sequence[str],
    unavailable: dict[str, str],
):
    for modality, chosen in by_modality(predictions).items():
        if empty := [prediction.id for prediction in chosen if not tokenize_caption(prediction.caption)]:
            source = f" from {modality}" if modality else ""
            _warn(f"{len(empty)} of {len(chosen)} captions{source} have no words and score 0: {listed(empty)}")
    table = summarise(predictions, expected, unavailable, args.bootstrap, args.metrics or METRICS)
    run |= {"dataset": describe_references(predictions, _dataset_version(args))}
    computed = {name for row in table.values() for name in row["metrics"]}
    results = with_main_set(run | _method(args, computed), table)
    text = format_results(results)
    write_results(args.output, results, text, predictions)
    print(text, end="")


def _warn(message: str):
    print(f"warning: {message}", file=sys.stderr)


def _method(args: argparse.Namespace, metrics) -> dict[str, Any]:
    return {"bootstrap": {"resamples": args.bootstrap, "seed": SEED}, "libraries": library_versions(metrics)}


if __name__ == "__main__":
    sys.exit(main())
