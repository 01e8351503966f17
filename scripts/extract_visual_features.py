#!/usr/bin/env python
"""Run the frozen image encoder once over the frames of a data set, and store what it makes of each clip.

    python scripts/extract_visual_features.py --data_dir prepared --split train val test \\
        --model openai/clip-vit-large-patch14

Writes `(video_frames, hidden)` per clip into `<data_dir>/visual_feature/<split>/<stem>.npy`, as the released LAVCap
reads them; training and evaluation use them in place of the frames. A second run does only what is left. A clip whose
frames cannot be read is reported on standard error, the others are done, and the exit status is 2.
"""

import argparse
import sys
from collections.abc import Callable
from typing import Any

import torch
from tqdm.auto import tqdm
from transformers import CLIPVisionModelWithProjection

from configuration_lavcap import LavcapConfig
from lavcap.commands import Parser, errors_in_one_line, positive
from lavcap.data.dataset import as_file
from lavcap.data.manifest import read_facts
from lavcap.data.precomputed_features import (
    FeatureFacts,
    encoder_name,
    extract_features,
    weights_digest,
)
from lavcap.data.schema import stored_features_of
from lavcap.data.splits import read_split
from lavcap.models.loading import check_name, choose_device, load_model
from media_captioning import read_images
from parts_captioning import find_file, load_part, published_name, read_json
from processing_captioning import CaptioningProcessor, clip_image_processor


DEFAULT_FRAMES = 20  # of the released LAVCap


def main() -> int:
    parser = Parser(__doc__)
    parser.add_argument("--data_dir", required=True, help="prepared data set, or one in AudioCaps' layout")
    parser.add_argument("--split", nargs="+", required=True, help="names of splits")
    parser.add_argument("--model", required=True, help="CLIP or LAVCap: a folder or a name on the Hub")
    parser.add_argument("--num_frames", type=positive, help="frames per clip; default: LAVCap's own, 20 for CLIP")
    parser.add_argument("--batch_size", type=positive, default=16, help="clips encoded at a time")
    parser.add_argument("--threads", type=positive, default=2, help="that read frames")
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
    for split in args.split:
        if read_facts(args.data_dir).get(split, {}).get("embedded"):
            raise ValueError(
                f"{args.data_dir}: holds {split} as shards; extract features of the data set that they were made of, "
                "and write the shards again."
            )
    splits = {split: read_split(args.data_dir, split, stored_features=False)[0] for split in args.split}
    device, dtype = choose_device(args.device, args.dtype)
    name, tower, image_processor, num_frames = _load(args.model, device, dtype)
    num_frames = args.num_frames or num_frames
    width = tower.config.projection_dim
    facts = FeatureFacts(name, weights_digest(tower), CaptioningProcessor.frame_sampler, num_frames, width, dtype)

    def encode(pixels: torch.Tensor) -> torch.Tensor:
        frames = pixels.flatten(0, 1).to(device, tower.dtype)
        return tower(frames).image_embeds.unflatten(0, pixels.shape[:2])

    read_pixels = _reader(image_processor, num_frames)
    all_failed = 0
    for split, rows in splits.items():
        folder = stored_features_of(args.data_dir, split)
        options = (args.batch_size, args.threads)
        results = extract_features(rows, args.data_dir, split, facts, encode, read_pixels, *options)
        failed = 0
        for complaint in tqdm(results, desc=f"Features of {split}", total=len(rows), unit="clip"):
            if complaint is not None:
                failed += 1
                tqdm.write(f"error: {complaint}", file=sys.stderr)
        seen = sum(rows.data.column("frames").is_valid().to_pylist())
        print(f"{folder}: features of {seen - failed} clips by {name}; {len(rows) - seen} clips have no picture")
        all_failed += failed
    return 2 if all_failed else 0


def _load(name: str, device: str, dtype: str) -> tuple[str, torch.nn.Module, Any, int]:
    """Name of the encoder, the encoder, its image processor, and the frames that it sees of a clip."""
    check_name(name)
    kind = read_json(find_file(name, "config.json", {})).get("model_type")
    if kind == LavcapConfig.model_type:
        model, processor = load_model(name, device, dtype)
        if model.vision_tower is None:
            raise ValueError(f"{name}: has no vision tower; pass the CLIP that it takes features of.")
        return encoder_name(model), model.vision_tower, processor.image_processor, model.config.num_video_frames
    if kind not in ("clip", "clip_vision_model"):
        raise ValueError(f"{name}: holds a model of type {kind!r}, expected CLIP or LAVCap; check --model.")
    tower = load_part(CLIPVisionModelWithProjection, name, getattr(torch, dtype)).to(device).eval()
    return published_name(name), tower, clip_image_processor(tower.config.image_size), DEFAULT_FRAMES


def _reader(image_processor, num_frames: int) -> Callable[[dict[str, Any]], torch.Tensor]:
    def read(row: dict[str, Any]) -> torch.Tensor:
        frames = read_images([as_file(frame) for frame in row["frames"]], num_frames)
        pixels = image_processor(list(frames), return_tensors="pt", input_data_format="channels_last")
        return pixels["pixel_values"]

    return read


if __name__ == "__main__":
    sys.exit(main())
