"""Run the frozen image encoder once over the frames of a data set, and store what it makes of each clip.

    lavcap features --data_dir prepared --split train val test \\
        --model openai/clip-vit-large-patch14

Writes `(video_frames, hidden)` per clip into `<data_dir>/visual_feature/<split>/<stem>.npy`, as the released LAVCap
reads them; training and evaluation use them in place of the frames. A second run does only what is left. A clip whose
frames cannot be read is reported on standard error, the others are done, and the exit status is 2.
"""

import argparse
import sys
from dataclasses import replace

from lavcap.arguments import Parser, positive
from lavcap.endings import errors_in_one_line, printable


def main() -> int:
    parser = Parser(__doc__)
    parser.add_argument("--data_dir", required=True, help="prepared data set, or one in AudioCaps' layout")
    parser.add_argument("--split", nargs="+", required=True, help="names of splits")
    parser.add_argument("--model", required=True, help="CLIP or LAVCap: a folder or a name on the Hub")
    parser.add_argument("--num_frames", type=positive, help="frames per clip; default: LAVCap's own, 20 for CLIP")
    parser.add_argument("--batch_size", type=positive, default=16, help="clips encoded at a time")
    parser.add_argument("--threads", type=positive, help="that read frames; default: as many as there are cores")
    parser.add_argument("--device", help="cpu, cuda, mps …; default: an accelerator if there is one")
    parser.add_argument(
        "--dtype",
        choices=("float32", "bfloat16"),
        help="default: bfloat16 on an accelerator, float32 on the CPU",
    )
    args = parser.parse_args()
    with errors_in_one_line():
        return _extract(args)


def _extract(args: argparse.Namespace) -> int:
    from tqdm.auto import tqdm

    from lavcap.data.manifest import read_facts
    from lavcap.data.precomputed_features import extract_features
    from lavcap.data.schema import stored_features_of
    from lavcap.data.splits import read_split
    from lavcap.models.feature_encoder import load_feature_encoder
    from lavcap.workers import usable_cores

    for split in args.split:
        if read_facts(args.data_dir).get(split, {}).get("embedded"):
            raise ValueError(
                f"{args.data_dir}: holds {split} as shards; extract features of the data set that they were made of, "
                "and write the shards again."
            )
    splits = {split: read_split(args.data_dir, split, stored_features=False)[0] for split in args.split}
    encoder = load_feature_encoder(args.model, args.device, args.dtype)
    encoder = replace(encoder, num_frames=args.num_frames or encoder.num_frames)
    facts, all_failed = encoder.facts, 0
    for split, rows in splits.items():
        options = (encoder.encode, encoder.read_pixels, args.batch_size, args.threads or usable_cores())
        results = extract_features(rows, args.data_dir, split, facts, *options)
        failed = 0
        for complaint in tqdm(results, desc=f"Features of {split}", total=len(rows), unit="clip"):
            if complaint is not None:
                failed += 1
                tqdm.write(f"error: {printable(complaint)}", file=sys.stderr)
        folder = stored_features_of(args.data_dir, split)
        seen = sum(rows.data.column("frames").is_valid().to_pylist())
        made = f"features of {seen - failed} clips by {facts.model}; {len(rows) - seen} clips have no picture"
        print(f"{printable(folder)}: {made}")
        all_failed += failed
    return 2 if all_failed else 0
