"""Released checkpoints of AVCap, of CAV-MAE and of GIT's text decoder as `from_pretrained` folders.

Source of the layouts: JongSuk1/AVCap (`models/avcap.py`, `models/cav_mae.py`), YuanGongND/cav-mae and
microsoft/GenerativeImage2Text. Tensor names are known to `cavmae_weights_captioning` and `git_weights_captioning`.
"""

from collections.abc import Mapping
from pathlib import Path

import torch
from transformers import PreTrainedModel

from cavmae_captioning import CavMaeConfig
from cavmae_weights_captioning import cavmae_fields, cavmae_weights, encoder_of, is_built
from configuration_avcap import AvcapConfig
from git_captioning import GitTextConfig
from git_weights_captioning import decoder_of, git_fields, git_weights
from lavcap.conversion.avcap_options import AvcapOptions
from lavcap.conversion.parts import Weights, write_model
from modeling_avcap import AvcapForConditionalGeneration
from parts_captioning import caption_decoding
from processing_avcap import AvcapProcessor
from weights_captioning import WeightsError, load_strictly


TOKENIZER = "google-bert/bert-base-uncased"  # which AVCap and GIT were trained with
ENCODER, PROJECTION, TEXT = "av_encoder.", "textual.av_projection.", "textual."
PROJECTOR_NAMES = {"0": "linear", "1": "layer_norm"}
SOURCE = "checkpoint"


def is_avcap(tensors: Mapping[str, torch.Tensor]) -> bool:
    """Whether these are tensors of AVCap, of CAV-MAE or of GIT."""
    names = {name.removeprefix("module.") for name in tensors}
    return any(name.startswith((ENCODER, TEXT, "patch_embed_a.", "git.")) for name in names)


def convert(
    checkpoint: str | Path,
    tensors: Mapping[str, torch.Tensor],
    config: str | Path | None,
    output: str | Path,
    tokenizer: str | None = None,
    dtype: torch.dtype | None = None,
) -> str:
    """Write a released checkpoint as a folder for `from_pretrained`; the table of what went where.

    Args:
        checkpoint: its file, for messages.
        tensors: of AVCap, which become a captioner; of CAV-MAE alone, an encoder; of GIT alone, a text decoder.
        config: JSON with the released options; default: those of the published sizes, see [`AvcapOptions`].
        output: new folder; it appears when it is complete.
        tokenizer: BERT's, a name on the Hub or a folder; default: the published name. Where it cannot be had, a
            captioner is written without a processor.
        dtype: of the written weights; default: float32.

    Raises:
        WeightsError: a tensor without a place, a place without a tensor, shapes that differ.
        ValueError: options that are unknown or contradict the checkpoint.
    """
    plain = {name.removeprefix("module."): tensor for name, tensor in tensors.items()}
    weights = Weights()
    try:
        if any(name.startswith(ENCODER) for name in plain):
            model = _captioner(plain, AvcapOptions.read(config), weights)
            return write_model(model, weights, output, dtype, AvcapProcessor, tokenizer or TOKENIZER)
        if tokenizer is not None:
            raise ValueError("Got --tokenizer for a part of a captioner, which has none: leave it out.")
        if any(name.startswith("patch_embed_a.") for name in plain):
            model = _encoder(plain, AvcapOptions.read(config, ENCODER), weights)
        else:
            model = _decoder(plain, AvcapOptions.read(config, TEXT), weights)
    except WeightsError as error:
        raise error.of(checkpoint) from error
    return write_model(model, weights, output, dtype)


def _captioner(
    tensors: Mapping[str, torch.Tensor], options: AvcapOptions, weights: Weights
) -> AvcapForConditionalGeneration:
    encoder = _encoder(_below(tensors, ENCODER), options, weights, "audio_visual_encoder.", ENCODER)
    others = {name: tensor for name, tensor in tensors.items() if not name.startswith((ENCODER, PROJECTION))}
    decoder = _decoder(others, options, weights, "language_model.")
    config = AvcapConfig(audio_visual_config=encoder.config, text_config=decoder.config, **options.model_fields)
    with torch.device("meta"):
        model = AvcapForConditionalGeneration(config)
    model.audio_visual_encoder, model.language_model = encoder, decoder
    projection = {}
    for name, tensor in _below(tensors, PROJECTION).items():
        number, _, field = name.partition(".")
        projection[f"{PROJECTOR_NAMES.get(number, number)}.{field}"] = tensor
    load_strictly(model.multi_modal_projector, projection)
    weights.add(projection, SOURCE, "multi_modal_projector.")
    model.generation_config = caption_decoding(decoder.config, **model.decoding | options.decoding)
    return model.eval()


def _encoder(
    tensors: Mapping[str, torch.Tensor], options: AvcapOptions, weights: Weights, part: str = "", prefix: str = ""
) -> PreTrainedModel:
    named, unused = cavmae_weights(tensors)
    told = cavmae_fields(named, options.encoder_fields)
    config = CavMaeConfig(**told | options.encoder_fields)
    options.check_encoder(config, told)
    model = encoder_of(named, config)
    weights.add(model.state_dict(), SOURCE, part or "encoder.")
    left = [prefix + name for name in named if not is_built(name, config)]
    weights.unused |= {prefix + name: reason for name, reason in unused.items()}
    weights.unused |= dict.fromkeys(left, f"not of the mode {config.mode!r}")
    return model


def _decoder(
    tensors: Mapping[str, torch.Tensor], options: AvcapOptions, weights: Weights, part: str = ""
) -> PreTrainedModel:
    named, unused = git_weights(tensors)
    told = git_fields(named, options.text_fields)
    config = GitTextConfig(**told | options.text_fields)
    options.check_decoder(config, told)
    model = decoder_of(named, told | options.text_fields)
    weights.add(model.state_dict(), SOURCE, part or "decoder.")
    weights.unused |= unused
    return model


def _below(tensors: Mapping[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    """Tensors whose names begin with a prefix, by the rest of these."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
