"""Whether a saved model can write captions: its processor prepares a clip, its decoding gives words."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from transformers import BatchFeature

from lavcap.models.families import errors_of, load_config, model_class, type_of
from media_captioning import Clip
from modeling_captioning import CaptioningModel
from parts_captioning import caption_decoding, find_file, read_json
from processing_captioning import CaptioningProcessor


DECODING = "generation_config.json"
NOT_OF_DECODING = {"transformers_version", "_from_model_config"}
MOST = {"num_beams": 256, "max_new_tokens": 2**20, "max_length": 2**20, "num_return_sequences": 1}
NOTHING = Clip(np.zeros(1600, np.float32), np.zeros((1, 8, 8, 3), np.uint8), 0.1, 16000)  # silence and darkness


def check_decoding(name_or_path: str | Path):
    """Refuse a `generation_config.json` that is missing, a folder, a link to nowhere, empty or no JSON: the library
    would decode by its defaults. An adapter alone has one, too, as training and `save_pretrained` write it.

    Raises:
        ValueError: with what was found, and what to write into the file.
    """
    file = find_file(name_or_path, DECODING, {})
    if file is not None and read_json(file).keys() - NOT_OF_DECODING:
        return
    options = model_class(type_of(name_or_path)).decoding
    options = caption_decoding(load_config(name_or_path), **options).to_diff_dict()
    example = json.dumps({name: value for name, value in options.items() if name not in NOT_OF_DECODING})
    fault = f"{name_or_path}: lacks {DECODING}, or it is no file" if file is None else f"{file}: holds no options"
    raise ValueError(
        f"{fault}, expected the options of decoding that were saved with the model; copy it there, or write into it "
        f"{example}."
    )


@torch.no_grad()
def try_decoding(model: CaptioningModel, processor: CaptioningProcessor, name: str | Path):
    """Let a model write two words about silence, so that a decoding or a processor that cannot be used is noticed
    before any work.

    Weights that are shared out among processes are not at hand, and nothing is tried.

    Args:
        name: of the model, for messages.

    Raises:
        ValueError: with what is wrong.
    """
    for option, most in MOST.items():
        value = getattr(model.generation_config, option, None)
        if value is not None and (type(value) is not int or not 1 <= value <= most):
            raise ValueError(f"{name}: {option} of its decoding is {value!r}, expected 1 to {most}.")
    if any(weight.is_meta or not weight.numel() for weight in model.parameters()):
        return
    with errors_of(name, "cannot caption", "the files beside its weights do not fit them: copy or save it again"):
        features = processor.clip_features(NOTHING)
        _check_numbers("features of silence and darkness", all(each.isfinite().all() for each in features.values()))
        if "audio" in model.modalities:  # which costs less than twenty pictures
            features = {each: features[each] for each in model.feature_names["audio"]}
        if "audio" in model.modalities or model.takes_media:
            inputs = processor.batch([features])
        else:  # of stored features alone
            inputs = BatchFeature(processor.encode_text([0]))
        with _as_it_was(model):
            options = {"output_logits": True, "return_dict_in_generate": True}
            written = model.generate(**inputs.to(model.device), max_new_tokens=2, **options)
            # A word may be ruled out by minus infinity; the best one is not.
            _check_numbers("scores of words", all(each.amax(dim=-1).isfinite().all() for each in written.logits))


def _check_numbers(what: str, are_numbers: bool):
    if not are_numbers:
        raise ValueError(f"its {what} are NaN or infinite")


@contextmanager
def _as_it_was(model: CaptioningModel) -> Iterator[None]:
    """Run a model in evaluation; its statistics, its mode and the random numbers that follow stay as they are."""
    modes = {module: module.training for module in model.modules()}
    devices = [] if model.device.type == "cpu" else [model.device]
    with torch.random.fork_rng(devices, device_type=model.device.type if devices else "cuda"):
        model.eval()
        try:
            yield
        finally:
            for module, mode in modes.items():
                module.training = mode
