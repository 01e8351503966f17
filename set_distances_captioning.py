# Copyright 2026 The LAVCap for Transformers authors. Licensed under the Apache License, Version 2.0.
"""How far the tokens of a clip's sound are from those of its picture (DALI, arXiv 2410.05997, section 3.2).

Maximum mean discrepancy, and the cost of optimal transport with given weights; all of it in float32 or better. Plans
are audio by image: `(batch, audio_tokens, image_tokens)`.
"""

import os
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import torch
from torch import nn


try:  # inside a package: the Hub's module cache
    from .precision_captioning import at_least_float32
    from .transport_captioning import log_sinkhorn
except ImportError:  # as a plain module: a clone, or after `pip install`
    from precision_captioning import at_least_float32
    from transport_captioning import log_sinkhorn


BANDWIDTHS = (0.25, 0.5, 1.0, 2.0, 4.0)  # of the kernels, as shares of the mean squared distance
MOST_PIVOTS = 100_000  # of the network simplex, as released


def squared_distances(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Squared Euclidean distances of two sets of tokens: `(batch, n, m)`, at least 0, in float32 or better.

    Args:
        first: `(batch, n, hidden)`; second: `(batch, m, hidden)`.
    """
    first, second = at_least_float32(first), at_least_float32(second)
    with torch.autocast(device_type=first.device.type, enabled=False):
        # Distances do not change with the origin; near it less is lost where two squares nearly cancel.
        origin = second.detach().mean(dim=1, keepdim=True)
        first, second = first - origin, second - origin
        squares = first.square().sum(-1)[:, :, None] + second.square().sum(-1)[:, None, :]
        return torch.baddbmm(squares, first, second.transpose(1, 2), alpha=-2).clamp(min=0)


def mean_discrepancy(audio: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
    """Squared maximum mean discrepancy of each clip under a sum of five Gaussian kernels: `(batch,)`.

    The biased estimate, as released. The bandwidth, the mean squared distance of the tokens of sound and picture
    together, passes no gradient.

    Args:
        audio: `(batch, audio_tokens, hidden)`; image: `(batch, image_tokens, hidden)`.
    """
    audio, image = at_least_float32(audio), at_least_float32(image)
    sets = torch.cat([audio, image.to(audio.dtype)], dim=1)
    distances = squared_distances(sets, sets)
    number = sets.shape[1]
    bandwidth = (distances.detach().sum(dim=(1, 2)) / (number**2 - number))[:, None, None]
    kernel = sum(torch.exp(-distances / (bandwidth * share)) for share in BANDWIDTHS)
    of_audio, of_image = slice(None, audio.shape[1]), slice(audio.shape[1], None)
    within = kernel[:, of_audio, of_audio].mean(dim=(1, 2)) + kernel[:, of_image, of_image].mean(dim=(1, 2))
    return within - 2 * kernel[:, of_audio, of_image].mean(dim=(1, 2))


class Transport(NamedTuple):
    """Optimal transport of a batch.

    Args:
        plan: `(batch, audio_tokens, image_tokens)`.
        audio_potential: `(batch, audio_tokens)`; image_potential: `(batch, image_tokens)`; of mean 0.
    """

    plan: torch.Tensor
    audio_potential: torch.Tensor
    image_potential: torch.Tensor

    def value(self, cost: torch.Tensor, audio_weights: torch.Tensor, image_weights: torch.Tensor) -> torch.Tensor:
        """Cost of the plan, `(batch,)`; its gradients are the plan and the potentials, by the envelope theorem
        (released: POT's `emd2`). Arguments are those that the problem was solved with."""
        by_weights = (self.audio_potential * audio_weights).sum(-1) + (self.image_potential * image_weights).sum(-1)
        return (self.plan * at_least_float32(cost)).sum(dim=(1, 2)) + by_weights - by_weights.detach()


def exact_transport(cost: torch.Tensor, audio_weights: torch.Tensor, image_weights: torch.Tensor) -> Transport:
    """Least cost of moving the weights of the sound onto those of the picture: a linear program for each clip.

    Solved by POT's network simplex in float64, clips side by side. The weights of the picture are scaled to the sum of
    those of the sound. A clip whose costs are not all finite gets an empty plan, and no finite value.

    Args:
        cost: `(batch, audio_tokens, image_tokens)`, floating point.
        audio_weights: `(batch, audio_tokens)`; image_weights: `(batch, image_tokens)`; at least 0.

    Raises:
        ImportError: POT is not installed.
    """
    problems = [tensor.detach().cpu() for tensor in (cost, audio_weights, image_weights)]
    # POT's solver lets go of Python's lock. A thread has one clip in float64, which takes four times the memory.
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    with ThreadPoolExecutor(cores) as pool:
        solved = list(pool.map(_solve, *problems))
    return _transport(cost, *(torch.stack(parts) for parts in zip(*solved, strict=True)))


def _solve(
    cost: torch.Tensor, audio_weights: torch.Tensor, image_weights: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Plan of a clip in the dtype of the result, and its potentials in float64."""
    try:
        from ot.lp import emd
    except ImportError as error:
        advice = "pip install pot, or take transport_solver entropic"
        raise ImportError(f"Exact optimal transport needs POT: {advice}.") from error
    target = at_least_float32(cost)
    if not cost.isfinite().all():
        rows, columns = (torch.zeros(size, dtype=torch.float64) for size in cost.shape)
        return torch.zeros_like(target), rows, columns
    cost, audio_weights, image_weights = (each.double().numpy() for each in (cost, audio_weights, image_weights))
    image_weights = image_weights * (audio_weights.sum() / image_weights.sum())
    plan, log = emd(audio_weights, image_weights, cost, numItermax=MOST_PIVOTS, log=True)
    return torch.from_numpy(plan).to(target), torch.from_numpy(log["u"]), torch.from_numpy(log["v"])


def entropic_transport(
    cost: torch.Tensor, audio_weights: torch.Tensor, image_weights: torch.Tensor, epsilon: float, iterations: int
) -> Transport:
    """As [`exact_transport`], on the device of the cost and for the whole batch at once, with an entropic plan.

    Not what was released: the plan is smoother than the cheapest one, and its cost higher.

    Args:
        epsilon: strength of the regularisation, as a share of the mean cost of a clip.
        iterations: of Sinkhorn's algorithm.
    """
    with torch.no_grad():
        scale = epsilon * at_least_float32(cost).mean(dim=(1, 2), keepdim=True)
        scores = -at_least_float32(cost) / scale
        weights = (at_least_float32(audio_weights).log(), at_least_float32(image_weights).log())
        log_plan = log_sinkhorn(scores, 1.0, iterations, *weights)
        potentials = scale * (log_plan - scores)  # of a row and of a column, added up
    return _transport(cost, log_plan.exp(), potentials.mean(dim=2), potentials.mean(dim=1))


def _transport(cost: torch.Tensor, plan: torch.Tensor, *potentials: torch.Tensor) -> Transport:
    """In the dtype and on the device of the cost."""
    target = at_least_float32(cost)
    centred = (part - part.mean(dim=-1, keepdim=True) for part in potentials)
    return Transport(*(part.to(target) for part in (plan, *centred)))


class AttentiveWeights(nn.Module):
    """How much each token of a clip counts: two attentions, of each side's tokens to the other's (released
    `AudioAlignment`, its `a_…` and `i_…` layers and scorers).

    Args:
        width: of the tokens.
        num_heads: of each attention.
        temperature: what scores are divided by before the softmax; half of a weight is even.

    Raises:
        ValueError: heads that do not divide the width.
    """

    def __init__(self, width: int, num_heads: int, temperature: float):
        super().__init__()
        if width % num_heads:
            raise ValueError(
                f"num_scorer_heads is {num_heads}, expected a divisor of the width of the tokens ({width})."
            )
        self.temperature = temperature
        for side in ("audio", "image"):
            for role in ("query", "key", "value"):
                self.add_module(f"{side}_{role}", nn.Linear(width, width))
        self.audio_attention = nn.MultiheadAttention(width, num_heads, batch_first=True)
        self.image_attention = nn.MultiheadAttention(width, num_heads, batch_first=True)

    def forward(self, audio: torch.Tensor, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Weights `(batch, audio_tokens)` and `(batch, image_tokens)`, each row of sum 1, in float32 or better.

        Args:
            audio: `(batch, audio_tokens, width)`; image: `(batch, image_tokens, width)`.
        """
        dtype = self.audio_query.weight.dtype
        audio, image = audio.to(dtype), image.to(dtype)
        of_audio, _ = self.image_attention(
            self.audio_query(audio), self.image_key(image), self.image_value(image), need_weights=False
        )
        of_image, _ = self.audio_attention(
            self.image_query(image), self.audio_key(audio), self.audio_value(audio), need_weights=False
        )
        return self._weights(of_audio), self._weights(of_image)

    def _weights(self, attended: torch.Tensor) -> torch.Tensor:
        scores = at_least_float32(attended).mean(dim=-1) / self.temperature
        return (scores.softmax(dim=-1) + 1 / scores.shape[-1]) / 2


def even_weights(tokens: torch.Tensor) -> torch.Tensor:
    """The same weight for each token: `(batch, tokens)`, each row of sum 1, in float32 or better."""
    return torch.full_like(at_least_float32(tokens[..., 0]), 1 / tokens.shape[1])


def entropy(weights: torch.Tensor) -> torch.Tensor:
    """Of weights of sum 1, in nats: `(batch,)`."""
    return torch.special.entr(weights).sum(dim=-1)
