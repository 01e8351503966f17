"""Write splits of a data set as shards that hold their media, for training in a stream.

    lavcap shards --data_dir prepared --media media --split train --output shards
    accelerate launch -m lavcap train RECIPE.yaml --data_dir shards --validation_data_dir prepared --streaming true

Sound and frames go in as they are; where the data set has stored visual features, these go in place of the frames.
Media that lie outside of the data set go in from the folders alone that --media names.
"""

import argparse
from dataclasses import asdict

from lavcap.arguments import Parser, positive
from lavcap.endings import errors_in_one_line, printable


def main() -> int:
    parser = Parser(__doc__)
    parser.add_argument("--data_dir", required=True, help="prepared data set, or one in AudioCaps' layout")
    parser.add_argument("--media", nargs="+", default=[], help="folders of media that the data set may name")
    parser.add_argument("--split", nargs="+", required=True, help="names of splits")
    parser.add_argument("--output", required=True, help="folder for the shards")
    parser.add_argument("--rows_per_shard", type=positive, default=512, help="clips in a file")
    parser.add_argument("--keep_frames", action="store_true", help="store frames beside visual features")
    parser.add_argument("--seed", type=int, default=0, help="of the order of the clips")
    parser.add_argument("--skip_missing_media", action="store_true", help="do without clips whose media are missing")
    args = parser.parse_args()
    with errors_in_one_line():
        _write(args)
    return 0


def _write(args: argparse.Namespace):
    from tqdm.auto import tqdm

    from lavcap.data.manifest import read_facts
    from lavcap.data.precomputed_features import feature_facts
    from lavcap.data.shards import check_folders, write_shards
    from lavcap.data.splits import load_split

    splits = {split: load_split(args.data_dir, split, args.skip_missing_media) for split in args.split}
    for rows in splits.values():
        check_folders(rows, [args.data_dir, *args.media])
    for split, rows in splits.items():
        features = feature_facts(args.data_dir, split)
        facts = read_facts(args.data_dir).get(split, {}) | {"visual_features": features and asdict(features)}
        with tqdm(total=len(rows), desc=f"Shards of {split}", unit="clip") as progress:
            write_shards(
                rows,
                args.output,
                split,
                facts,
                args.rows_per_shard,
                args.keep_frames,
                args.seed,
                on_clip=progress.update,
            )
        print(f"{printable(args.output)}: {len(rows)} clips of {split}")
