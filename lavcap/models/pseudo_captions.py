"""Captions that a model gives to the clips of a data set, as a data set to train another model on.

The new data set names the media of the old one. Work can be stopped at any moment: captions that are there are kept.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm
from transformers import set_seed

from lavcap.data.batches import in_batches
from lavcap.data.dataset import ClipDataset
from lavcap.data.manifest import read_facts, write_split
from lavcap.data.schema import DataError
from lavcap.data.splits import check_media, read_split
from lavcap.models.captioning import caption_features
from lavcap.progress_log import ProgressLog
from modeling_captioning import CaptioningModel
from processing_captioning import CaptioningProcessor


def caption_data_set(
    model: CaptioningModel,
    processor: CaptioningProcessor,
    data_dir: str | Path,
    split: str,
    output: str | Path,
    modalities: Sequence[str],
    batch_size: int,
    seed: int,
    instruction: str | None = None,
    settings: dict[str, Any] | None = None,
    **options: Any,
) -> tuple[int, dict[str, str]]:
    """Caption every clip of a split once, and write a data set of the captions.

    A batch is drawn from a seed of its own, so that an interruption changes no caption.

    Args:
        output: new folder, or that of an interrupted run, which is completed.
        modalities: what the model is given of a clip; one that lacks some of it is left out.
        seed: of sampling, where the model samples.
        settings: what else the captions depend on, for the record: the model's name and changes.
        options: for `generate`.

    Returns:
        How many clips have a caption, and why each other one has none.

    Raises:
        DataError: no such split, or the folder holds captions of other settings; or no clip can be captioned.
    """
    rows, missing = read_split(data_dir, split)
    check_media(rows, missing, data_dir, split, skip_missing_media=True)
    settings = (settings or {}) | {
        "data_dir": str(Path(data_dir).resolve()),
        "split": split,
        "modalities": list(modalities),
        "batch_size": batch_size,
        "seed": seed,
        "instruction": instruction,
        "decoding": options,
    }
    dataset = ClipDataset(rows, processor, tolerant=True)
    with ProgressLog(Path(output) / ".progress" / f"{split}.jsonl", settings, DataError) as log, tqdm(
        total=len(rows), desc="Captioning", unit="clip"
    ) as progress:  # fmt: skip
        for indices in in_batches(range(len(rows)), batch_size):
            if any(rows[index]["id"] not in log.records for index in indices):
                items = [dataset[index] for index in indices]
                for name, record in _caption(model, processor, items, modalities, instruction, seed, options).items():
                    log.add(name, record)
            progress.update(len(indices))
        records = log.records
    captions = {name: record["caption"] for name, record in records.items() if record.get("caption")}
    failed = missing | {name: record["error"] for name, record in records.items() if "error" in record}
    if not captions:
        raise DataError(f"{data_dir}: none of the {len(rows)} clips of {split} could be captioned: {failed}")
    found = (row for row in rows if row["id"] in captions)
    facts = read_facts(data_dir).get(split, {})
    facts |= {"captions_of": settings, "expected": len(rows) + len(missing), "missing": failed}
    write_split(output, split, (row | {"captions": [captions[row["id"]]]} for row in found), facts)
    return len(captions), failed


def _caption(
    model: CaptioningModel,
    processor: CaptioningProcessor,
    items: Sequence[dict[str, Any]],
    modalities: Sequence[str],
    instruction: str | None,
    seed: int,
    options: dict[str, Any],
) -> dict[str, dict[str, str]]:
    """By id the caption of each clip of a batch, or why it has none."""
    names = {name for kind in modalities for name in processor.feature_names[kind]}
    records, clips = {}, {}
    for item in items:
        features = {name: each for name, each in item["features"].items() if name in names}
        lacking = [kind for kind in modalities if features.keys().isdisjoint(processor.feature_names[kind])]
        if lacking:
            records[item["id"]] = {"error": item.get("broken") or f"has no {' and no '.join(lacking)}"}
        else:
            clips[item["id"]] = features
    if clips:
        set_seed(_seed_of(seed, clips))
        with torch.no_grad():
            captions = caption_features(model, processor, list(clips.values()), instruction, **options)
        records |= {name: {"caption": caption} for name, caption in zip(clips, captions, strict=True)}
        records |= {name: {"error": "the model said nothing"} for name in clips if not records[name]["caption"]}
    return records


def _seed_of(seed: int, names: Sequence[str]) -> int:
    text = "\0".join((str(seed), *names))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=4).digest(), "little")
