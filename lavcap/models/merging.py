"""Adapters folded into the weights of their base: a model that needs neither PEFT nor the base."""

import gc
import shutil
from pathlib import Path

import torch
from peft import PeftModel
from transformers import PreTrainedModel

from adapters_captioning import ADAPTER_SETTINGS
from lavcap.files import whole_folder
from lavcap.models.families import load_processor, model_class, type_of
from lavcap.models.lora import load_lora
from lavcap.models.saved_weights import check_saved_model
from lavcap.provenance import PROVENANCE_FILE
from modeling_captioning import CaptioningModel
from parts_captioning import find_file
from processing_captioning import CaptioningProcessor


# Of the largest logit: what folding in may change it by, which adds the same numbers in another order.
TOLERANCES = {torch.float32: 1e-4, torch.bfloat16: 5e-2, torch.float16: 1e-2}


ADVICE = {
    False: "fold it in with --dtype float32",
    True: "an adapter on embeddings that the head shares cannot be folded in",
}


class MergeError(ValueError):
    """The folded model does not say what the adapter on its base says."""


def merge_adapter(
    name: str | Path, output: str | Path, dtype: torch.dtype | str | None = None, **parts: str | None
) -> float:
    """Write the model that an adapter and its base are, as one.

    Args:
        name: folder or repository with an adapter, as training writes it.
        output: new folder.
        dtype: of the weights. Default: that of the base, as the configuration tells it.
        parts: by the arguments of `from_parts`, where a part of the base is no longer where the configuration says.

    Returns:
        The largest difference of a logit, as a share of the largest logit, between adapter on base and what was
        written and read again.

    Raises:
        ValueError: no adapter, or no decoding beside it.
        WeightsError: its base is another.
        MergeError: PEFT cannot fold such an adapter in, or the difference is larger than rounding explains; nothing
            is written.
    """
    if find_file(name, ADAPTER_SETTINGS, {}) is None:
        raise ValueError(f"{name}: holds no {ADAPTER_SETTINGS}, expected the folder of a model trained with LoRA.")
    check_saved_model(name)
    processor, kind = load_processor(name), model_class(type_of(name))
    base = kind.base_of_adapter(name, **({"dtype": dtype} if dtype else {}), **parts)
    adapted = load_lora(base, name).eval()
    expected, dtype = probe(adapted.get_base_model(), processor), base.dtype
    with whole_folder(output) as folder:
        merged = _folded_in(adapted, name)
        merged.save_pretrained(folder)
        processor.save_pretrained(folder)
        if (provenance := find_file(name, PROVENANCE_FILE, {})) is not None:
            shutil.copy(provenance, folder)
        del base, adapted, merged
        gc.collect()
        found = probe(kind.from_pretrained(folder, dtype=dtype), processor)
        difference = float((found - expected).abs().max() / expected.abs().max())
        if not difference <= TOLERANCES.get(dtype, 1e-4):  # NaN is no equality either
            raise MergeError(
                f"{name}: folded in, the largest logit changes by {difference:.1e} of itself, expected at most "
                f"{TOLERANCES.get(dtype, 1e-4):.0e} in {dtype}; {ADVICE[dtype == torch.float32]}."
            )
    return difference


def _folded_in(adapted: PeftModel, name: str | Path) -> PreTrainedModel:
    try:
        return adapted.merge_and_unload(safe_merge=True)
    except (NotImplementedError, RuntimeError) as error:  # such as lora_bias on layers that have no bias
        reason = " ".join(str(error).split())
        raise MergeError(f"{name}: PEFT cannot fold it in ({reason}); load it as an adapter on its base.") from error


@torch.no_grad()
def probe(model: CaptioningModel, processor: CaptioningProcessor) -> torch.Tensor:
    """Logits of two clips of noise, the same for every model of a configuration: `(2, sequence, vocab_size)`."""
    draw, blank = torch.Generator().manual_seed(0), processor.blank_features(model.stored_feature_size)
    clips = [{name: torch.randn(each.shape, generator=draw) for name, each in blank.items()} for _ in range(2)]
    inputs = processor.batch(clips).to(model.device)
    return model.eval()(**inputs).logits.float().cpu()
