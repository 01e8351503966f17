#!/usr/bin/env python
"""Score a checkpoint on a split: BLEU, ROUGE-L and CIDEr-D, from sound and picture, sound alone, picture alone.

    python scripts/evaluate.py --model outputs/demo/model --data_dir outputs/demo/data --output outputs/demo/evaluation

Prints the table and writes `results.json` and `predictions.jsonl` into the output folder.
"""

import argparse
import sys
import time

from lavcap.captioning import generation_options, load_model
from lavcap.cli import Parser, check_new_folder, errors_in_one_line, positive
from lavcap.clips import ClipDataset
from lavcap.data import check_media, read_split
from lavcap.evaluation import (
    MODALITIES,
    format_table,
    library_versions,
    predict,
    summarise,
    usable_modalities,
    write_results,
)


DECODING = ("num_beams", "max_new_tokens", "do_sample", "length_penalty", "repetition_penalty")


def main() -> int:
    parser = Parser(__doc__)
    parser.add_argument("--model", required=True, help="folder of a trained model, or its name on the Hub")
    parser.add_argument("--data_dir", required=True, help="data set in AudioCaps' layout")
    parser.add_argument("--split", default="test", help="name of the annotation file without .json")
    parser.add_argument("--output", required=True, help="new folder for results.json and predictions.jsonl")
    parser.add_argument("--modalities", nargs="+", choices=MODALITIES, help="default: all that the model takes")
    parser.add_argument("--batch_size", type=positive, default=32, help="clips captioned at a time")
    parser.add_argument("--num_beams", type=positive, help="default: the model's own setting")
    parser.add_argument(
        "--max_new_tokens", type=positive, help="longest caption in tokens; default: the model's own setting"
    )
    parser.add_argument("--max_clips", type=positive, help="score the first clips only; the result is called partial")
    parser.add_argument("--skip_missing_media", action="store_true", help="score the clips whose media are there")
    parser.add_argument("--device", help="cpu, cuda, mps …; default: an accelerator if there is one")
    args = parser.parse_args()
    with errors_in_one_line():
        _evaluate(args)
    return 0


def _evaluate(args: argparse.Namespace):
    check_new_folder(args.output, "--output")
    rows, missing = read_split(args.data_dir, args.split)
    check_media(rows, missing, args.data_dir, args.split, args.skip_missing_media)
    expected = len(rows) + len(missing)
    if args.max_clips is not None:
        rows = rows.select(range(min(args.max_clips, len(rows))))
    model, processor = load_model(args.model, args.device)
    usable = usable_modalities(processor)
    modalities = args.modalities or usable
    if unusable := [modality for modality in modalities if modality not in usable]:
        raise ValueError(
            f"--modalities {' '.join(unusable)}: the model is a baseline on {processor.modalities[0]} alone; leave "
            "the option out."
        )
    dataset = ClipDataset(rows, processor, cache=len(modalities) > 1).preload("Reading clips")
    options = generation_options(num_beams=args.num_beams, max_new_tokens=args.max_new_tokens)
    start = time.perf_counter()
    predictions = [
        prediction
        for modality in modalities
        for prediction in predict(model, processor, dataset, modality, args.batch_size, **options)
    ]
    table = summarise(predictions, expected)
    decoding = {name: getattr(model.generation_config, name) for name in DECODING} | options
    results = {
        "model": args.model,
        "data_dir": args.data_dir,
        "split": args.split,
        "decoding": {name: value for name, value in decoding.items() if value is not None},
        "modalities": table,
        "seconds": round(time.perf_counter() - start, 1),
        "libraries": library_versions(),
    }
    write_results(args.output, results, predictions)
    print(format_table(table))


if __name__ == "__main__":
    sys.exit(main())
