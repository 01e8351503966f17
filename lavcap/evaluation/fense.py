"""FENSE of aac-metrics: likeness of sentence embeddings, less a penalty for captions that are not fluent.

Zhou et al., ICASSP 2022. The library downloads its models when they are missing; here it runs only where they are,
in a process of its own that is told to stay offline.
"""

import json
import os
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from huggingface_hub import try_to_load_from_cache

from lavcap.evaluation.external_program import MetricUnavailable, run_program


CHECKER = "echecker_clotho_audiocaps_base.ckpt"
HUB_MODELS = ("sentence-transformers/paraphrase-TinyBERT-L6-v2", "bert-base-uncased")
START_LIMIT, CLIP_LIMIT = 300, 2  # seconds until it is given up
PROGRAM = """
import json, sys
from aac_metrics.functional.fense import fense
predictions, references = json.load(sys.stdin)
_, each = fense(predictions, references)
print()
print(json.dumps(each["fense"].tolist()))
"""


def check_fense():
    """Look for the library and its models and run it on one clip; nothing is downloaded.

    Raises:
        MetricUnavailable: with the reason why it cannot be computed.
    """
    fense_scores(["a dog barks"], [["a dog is barking"]])


def fense_scores(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> np.ndarray:
    """FENSE of each clip from the captions as they are, `(clips,)`; their mean is that of the set.

    Raises:
        MetricUnavailable: the library or one of its models is missing, or it does not run.
    """
    _check_files()
    given = json.dumps([list(predictions), [list(captions) for captions in references]])
    limit = START_LIMIT + CLIP_LIMIT * len(predictions)
    offline = os.environ | {"HF_HUB_OFFLINE": "1"}
    printed = run_program("FENSE", [sys.executable, "-c", PROGRAM], given, limit, environment=offline)
    scores = np.array(json.loads(printed.splitlines()[-1]))
    if scores.shape != (len(predictions),) or not np.isfinite(scores).all():
        raise MetricUnavailable(
            f"FENSE gave {scores.size} scores for {len(predictions)} clips, or one that is no number"
        )
    return scores


def _check_files():
    if find_spec("aac_metrics") is None:
        raise MetricUnavailable('aac-metrics is not installed; add it with: pip install "lavcap[fense]"')
    folder = Path(os.environ.get("FENSE_DATA", Path(torch.hub.get_dir()) / "fense_data")).expanduser()
    if not (folder / CHECKER).is_file():
        raise MetricUnavailable(f"{CHECKER} is not in {folder}; fetch it with: aac-metrics-download")
    for name in HUB_MODELS:
        if not isinstance(try_to_load_from_cache(name, "config.json"), str):
            raise MetricUnavailable(f"{name} is not in the Hub's cache; fetch it with: hf download {name}")
