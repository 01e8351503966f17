"""What a conversion puts where: tensors by our names with their sources, and the table that says so."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from lavcap.files import whole_folder
from parts_captioning import cast
from processing_captioning import CaptioningProcessor
from weights_captioning import shorten


@dataclass
class Weights:
    """Tensors by our names, each with where it comes from.

    Args:
        tensors: without `loras`, which are `(A, B)` of shapes `(rank, in)` and `(out, rank)` by layer.
        sources: by tensor, the name of a file or model.
        origins: by tensor of the checkpoint, its name there.
        unused: by name in its file, why a tensor is not needed.
        notes: what a reader of the table should know.
    """

    tensors: dict[str, torch.Tensor] = field(default_factory=dict)
    sources: dict[str, str] = field(default_factory=dict)
    origins: dict[str, str] = field(default_factory=dict)
    loras: dict[str, dict[str, torch.Tensor]] = field(default_factory=dict)
    unused: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def add(self, tensors: Mapping[str, torch.Tensor], source: str, prefix: str = ""):
        """Fill what is not filled yet, by names after `prefix`."""
        named = {prefix + name: tensor for name, tensor in tensors.items()}
        new = {name: tensor for name, tensor in named.items() if name not in self.tensors}
        self.tensors |= new
        self.sources |= dict.fromkeys(new, source)


def format_parts(
    weights: Weights,
    parts: Sequence[str],
    dtype: torch.dtype,
    output: str | Path,
    remarks: Mapping[str, str] | None = None,
) -> str:
    """What went where: for each part the number of tensors and their sources.

    Args:
        remarks: by part, what follows its sources.
    """
    rows = [("part", "tensors", "from")]
    for part in parts:
        sources = Counter(source for name, source in weights.sources.items() if name.startswith(f"{part}."))
        text = ", ".join(f"{source} ({count})" for source, count in sources.items()) or "-"
        rows.append((part, str(sum(sources.values())), text + (remarks or {}).get(part, "")))
    for reason in dict.fromkeys(weights.unused.values()):
        names = [name for name, why in weights.unused.items() if why == reason]
        rows.append(("not used", str(len(names)), f"{reason}: {shorten(names)}"))
    widths = [max(len(row[column]) for row in rows) for column in range(2)]
    lines = [f"{part:<{widths[0]}}  {count:>{widths[1]}}  {text}" for part, count, text in rows]
    return "\n".join([*lines, *weights.notes, f"{str(dtype).removeprefix('torch.')}, written to {output}"])


def write_model(
    model: PreTrainedModel,
    weights: Weights,
    output: str | Path,
    dtype: torch.dtype | None,
    processor_class: type[CaptioningProcessor] | None = None,
    tokenizer: str | None = None,
) -> str:
    """Write a converted model, of a captioner with its processor where the tokenizer can be had; [`format_parts`].

    Args:
        output: new folder; it appears when it is complete.
        dtype: of the written weights; default: float32.
        tokenizer: name on the Hub or folder.
    """
    dtype = dtype or torch.float32
    cast(model, dtype)
    processor = None
    if processor_class is not None and (found := _load_tokenizer(tokenizer)) is not None:
        processor = processor_class.from_config(model.config, found)
    elif processor_class is not None:
        weights.notes.append(
            f"no processor: the tokenizer {tokenizer} cannot be had here; where it can, add one by "
            f"{processor_class.__name__}.from_config(model.config, AutoTokenizer.from_pretrained({tokenizer!r}))"
            f".save_pretrained({str(output)!r})"
        )
    with whole_folder(output) as folder:
        model.save_pretrained(folder)
        if processor is not None:
            processor.save_pretrained(folder)
    parts = dict.fromkeys(name.partition(".")[0] for name in weights.sources)
    return format_parts(weights, list(parts), dtype, output)


def _load_tokenizer(name: str) -> PreTrainedTokenizerBase | None:
    try:
        return AutoTokenizer.from_pretrained(name, trust_remote_code=False)
    except (OSError, ValueError):
        return None
