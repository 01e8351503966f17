# Copyright 2026 The LAVCap for Transformers authors. Licensed under the Apache License, Version 2.0.
"""How beam search weighs captions of different lengths: by a power of the length, or as Google's translator does."""

from typing import Any

import torch


try:  # inside a package: the Hub's module cache
    from .configuration_captioning import check_choice
    from .parts_captioning import WITHOUT_BEAMS
except ImportError:  # as a plain module: a clone, or after `pip install`
    from configuration_captioning import check_choice
    from parts_captioning import WITHOUT_BEAMS


LENGTH_NORMS = ("power", "gnmt")


class GnmtLengthPenalty(float):
    """Exponent of a length norm: `length ** penalty` is `((5 + length) / 6) ** penalty` (Wu et al., arXiv 1609.08144).

    Args:
        num_returned: sequences that are wanted of each beam search.
    """

    num_returned: int = 1

    def __new__(cls, value: float, num_returned: int = 1) -> "GnmtLengthPenalty":
        penalty = super().__new__(cls, value)
        penalty.num_returned = num_returned
        return penalty

    def __rpow__(self, length: int) -> float:
        return ((5 + length) / 6) ** float(self)


class LengthNormMixin:
    """`generate` with `length_norm`, of the call or of a generation configuration: `"power"`, the library's default,
    or `"gnmt"`, with `length_penalty` as its exponent."""

    @torch.no_grad()
    def generate(self, inputs: torch.Tensor | None = None, generation_config: Any = None, **kwargs):
        """As the library's, with `length_norm`."""
        given = (
            kwargs,
            vars(generation_config) if generation_config is not None else {},
            vars(self.generation_config),
        )

        def option(name: str, default: Any) -> Any:
            return next((places[name] for places in given if places.get(name) is not None), default)

        norm = option("length_norm", "power")
        check_choice("length_norm", norm, LENGTH_NORMS)
        kwargs.pop("length_norm", None)
        if option("num_beams", 1) == 1:  # they mean nothing then, and the library would say so at each call
            kwargs |= WITHOUT_BEAMS
        elif norm == "gnmt":
            penalty, returned = option("length_penalty", 1.0), option("num_return_sequences", 1)
            kwargs["length_penalty"] = GnmtLengthPenalty(penalty, returned)
        return super().generate(inputs, generation_config=generation_config, **kwargs)

    def _check_early_stop_heuristic(self, **kwargs) -> torch.Tensor:
        """As the library's, which waits until as many captions as beams cannot get better: here as many as wanted."""
        if isinstance(kwargs["length_penalty"], GnmtLengthPenalty):
            wanted = kwargs["length_penalty"].num_returned
            kwargs |= {name: kwargs[name][:, :wanted] for name in ("beam_scores", "is_sent_finished")}
        return super()._check_early_stop_heuristic(**kwargs)
