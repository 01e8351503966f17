"""Which family a released checkpoint is of, and its conversion."""

from pathlib import Path

import torch

from lavcap.conversion import avcap, dali, lavcap
from lavcap.conversion.lavcap import Sources
from lavcap.conversion.lavcap_options import ReleasedOptions
from weights_captioning import read_weights


def convert(
    checkpoint: str | Path,
    config: str | Path | None,
    output: str | Path,
    sources: Sources,
    tokenizer: str | None = None,
    llava: str | None = None,
    lora: str = "merge",
    dtype: torch.dtype | None = None,
) -> str:
    """Write a released checkpoint as a folder for `from_pretrained`; the table of what went where.

    Args:
        checkpoint: a folder of DALI, or a CAV-MAE to go onto `llava`, see `dali.convert`; or a file of AVCap, CAV-MAE
            or GIT, see `avcap.convert`, or of LAVCap or CED, see `lavcap.convert`.
        config: file with the released options.
        sources, lora: for LAVCap; tokenizer: for AVCap; llava: for DALI.

    Raises:
        ValueError: an option that the checkpoint's family has no use for.
    """
    if llava is not None or dali.is_dali(checkpoint):
        if sources != Sources() or lora != "merge" or tokenizer is not None:
            raise ValueError(
                f"--checkpoint {checkpoint}: DALI, which takes --config, --llava, --dtype and --output only."
            )
        return dali.convert(checkpoint, config, output, llava, dtype)
    tensors = read_weights(checkpoint)
    if avcap.is_avcap(tensors):
        if sources != Sources() or lora != "merge":
            raise ValueError(
                f"--checkpoint {checkpoint}: AVCap, CAV-MAE or GIT, which takes --config, --tokenizer, --dtype and "
                "--output only: it lacks no part, and has no LoRA."
            )
        return avcap.convert(checkpoint, tensors, config, output, tokenizer, dtype)
    if tokenizer is not None:
        raise ValueError("Got --tokenizer for LAVCap, whose tokenizer is that of --text-model: leave it out.")
    options = ReleasedOptions.read(config) if config else None
    return lavcap.convert(checkpoint, options, output, sources, lora, dtype, tensors)
