# Copyright 2026 The LAVCap for Transformers authors. Licensed under the Apache License, Version 2.0.
"""Optimal transport between two sets of tokens, and the alignment loss on it (paper, section 2.2).

A plan is video by audio: `(batch, video_tokens, audio_tokens)`.
"""

import math
from functools import partial

import torch
from torch import nn


try:  # inside a package: the Hub's module cache
    from .precision_captioning import at_least_float32
except ImportError:  # as a plain module: a clone, or after `pip install`
    from precision_captioning import at_least_float32


LOOKED_AT = 4  # every so many steps it is seen whether they still change anything
LOST = -80.0  # its exponential is lost in a sum of 1 and more; those of less may be denormal, and then slow


def log_sinkhorn(
    similarity: torch.Tensor,
    epsilon: float,
    iterations: int,
    log_rows: torch.Tensor | None = None,
    log_columns: torch.Tensor | None = None,
) -> torch.Tensor:
    """Entropic optimal transport (paper, eq. 2-3): solved by scaling a kernel where nothing of it leaves the range of
    the dtype, else in the log domain, which gives the same plan and takes several times as long.

    Args:
        similarity: `(batch, video_tokens, audio_tokens)`, floating point; the negative of the transport cost.
        epsilon: strength of the entropic regularisation.
        iterations: number of row and column updates.
        log_rows, log_columns: logarithms of the marginals, `(batch, video_tokens)` and `(batch, audio_tokens)`;
            default: uniform.

    Returns:
        Logarithm of the plan, same shape, in float32 or better. Columns of the plan sum to their marginal exactly,
        rows at convergence.
    """
    scores = at_least_float32(similarity) / epsilon
    if log_rows is None and log_columns is None and _stays_in_range(scores):
        return _scale_kernel(scores, iterations)
    log_video = -math.log(similarity.shape[-2]) if log_rows is None else log_rows[..., :, None]
    log_audio = -math.log(similarity.shape[-1]) if log_columns is None else log_columns[..., None, :]
    log_sums = _log_sums
    if not (torch.compiler.is_compiling() or any(map(_needs_gradient, (scores, log_video, log_audio)))):
        log_sums = partial(_log_sums_in, torch.empty_like(scores))
    audio_potential = torch.zeros_like(scores[..., :1, :])
    for _ in range(iterations):
        video_potential = log_video - log_sums(scores, audio_potential, dim=-1)
        audio_potential = log_audio - log_sums(scores, video_potential, dim=-2)
    return scores + video_potential + audio_potential


def _needs_gradient(value: torch.Tensor | float) -> bool:
    return isinstance(value, torch.Tensor) and value.requires_grad and torch.is_grad_enabled()


def _log_sums(scores: torch.Tensor, potential: torch.Tensor, dim: int) -> torch.Tensor:
    return torch.logsumexp(scores + potential, dim=dim, keepdim=True)


def _log_sums_in(memory: torch.Tensor, scores: torch.Tensor, potential: torch.Tensor, dim: int) -> torch.Tensor:
    """The same to the last bit, in memory that is taken once: on a CPU, to be given it anew takes longer than this."""
    torch.add(scores, potential, out=memory)
    most = memory.amax(dim=dim, keepdim=True)
    return memory.sub_(most).clamp_(min=LOST).exp_().sum(dim=dim, keepdim=True).log_().add_(most)


def _stays_in_range(scores: torch.Tensor) -> bool:
    """Whether no number of [`_scale_kernel`] can overflow or vanish.

    Let the scores of a clip lie within `spread`, and their largest be 0. A factor is the marginal over a sum of the
    kernel with the other factors, and entries of a column differ by at most `exp(spread)`: so do the factors of a
    side. The mean logarithm of either side never falls (it grows by a Kullback-Leibler divergence), and their sum, the
    dual objective, never exceeds its optimum, which is at most `spread`. Hence with `m` rows and `n` columns, up to a
    constant in `m`, logarithms of factors lie in `[-log(mn) - spread, 2 spread + log(mn)]`, and the largest sum below
    `2 spread + log(mn) + log(max(m, n))`.
    """
    if torch.compiler.is_compiling() or scores.is_meta or not scores.numel():  # no branch on values in a graph
        return False
    least, most = scores.detach().aminmax(dim=-1)
    spread = (most.amax(dim=-1) - least.amin(dim=-1)).max().item()
    rows, columns = scores.shape[-2:]
    largest = 2 * spread + math.log(rows * columns * max(rows, columns))
    return largest < math.log(torch.finfo(scores.dtype).max) - 1  # NaN is not


def _scale_kernel(scores: torch.Tensor, iterations: int) -> torch.Tensor:
    """Logarithm of the plan with uniform marginals, by matrix scaling: no exponential but the kernel's."""
    scores = scores - scores.detach().amax(dim=(-2, -1), keepdim=True)
    kernel, (rows, columns) = scores.exp(), scores.shape[-2:]
    video, audio = torch.empty_like(scores[..., :1]), torch.ones_like(scores[..., :1, :])
    if kernel.requires_grad:
        for _ in range(iterations):
            video = (kernel * audio).sum(dim=-1, keepdim=True).reciprocal()
            audio = (kernel * video).sum(dim=-2, keepdim=True).reciprocal() * (rows / columns)
    else:  # in memory that is taken once; products and sums beat batched matrices with one column
        products, share = torch.empty_like(kernel), kernel.new_tensor(rows / columns)
        before = audio.clone()
        for number in range(iterations):
            torch.sum(torch.mul(kernel, audio, out=products), dim=-1, keepdim=True, out=video)
            torch.sum(torch.mul(kernel, video.reciprocal_(), out=products), dim=-2, keepdim=True, out=audio)
            torch.div(share, audio, out=audio)
            if number % LOOKED_AT == 0 and kernel.device.type == "cpu":  # elsewhere to look would be to wait
                # A step changes the factors by no more than the one before it: those that are left change nothing.
                if ((audio / before - 1).abs().max() <= torch.finfo(audio.dtype).eps).item():
                    break
                before = audio.clone()
    return scores + video.log() + audio.log() - math.log(rows)


def alignment_loss(similarity: torch.Tensor, weights: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Alignment loss of each clip (paper, eq. 4; released `models/lavcaps.py`).

    Each token is compared with the tokens of its own modality through the plan and should recognise itself. As
    released, the class axis of the cross-entropy is the first token axis, the plan's side.

    Args:
        similarity: cosines, `(batch, video_tokens, audio_tokens)`.
        weights: plan or logarithm of the plan, same shape, without gradient.
        scale: factor of the logits, `(1,)`.

    Returns:
        `(batch,)`, the sum of the video and the audio term, in float32 or better.
    """
    scale, weights, similarity = map(at_least_float32, (scale, weights, similarity))
    video_logits = scale * weights @ similarity.transpose(-1, -2)  # (batch, video_tokens, video_tokens)
    audio_logits = scale * weights.transpose(-1, -2) @ similarity  # (batch, audio_tokens, audio_tokens)
    return _self_recognition(video_logits) + _self_recognition(audio_logits)


def clip_contrast(
    audio: torch.Tensor,
    video: torch.Tensor,
    both: torch.Tensor,
    scale: torch.Tensor,
    epsilon: float,
    iterations: int,
) -> torch.Tensor:
    """Contrast of each clip with the others of its batch (InfoNCE; van den Oord et al., arXiv 1807.03748), not of the
    paper: its picture should match its own sound better than theirs, and its sound its own picture.

    A picture `i` and a sound `j` match by the value of their entropic transport, `W_ij = max_P <P, S_ij> + epsilon
    H(P)` over plans `P` with even marginals, where `S_ij` are the cosines of their tokens. The loss of clip `i` is the
    mean of `-log softmax_j(scale W_ij)` at `j = i` and of the same over pictures. The gradient of `W` with respect to
    `S` is the plan (envelope theorem), which therefore needs none itself.

    Args:
        audio, video: tokens of length 1, `(batch, audio_tokens, hidden)` and `(batch, video_tokens, hidden)`.
        both: `(batch,)` bool, which clips have both; the others are compared with nothing.
        scale: factor of the logits, `(1,)`.
        epsilon, iterations: as of [`log_sinkhorn`].

    Returns:
        `(batch,)`, in float32 or better; 0 for a clip that lacks a modality, or has nobody to be compared with.
    """
    # Whatever stands there: NaN would go into every gradient.
    audio, video = (tokens.masked_fill(~both[:, None, None], 0.0) for tokens in (audio, video))
    pairs = torch.einsum("ivh,jah->ijva", video, audio).flatten(0, 1)  # (batch * batch, video_tokens, audio_tokens)
    log_plan = log_sinkhorn(pairs.detach(), epsilon, iterations)
    values = (log_plan.exp() * (pairs - epsilon * log_plan)).sum(dim=(-2, -1)).unflatten(0, (len(both), len(both)))
    logits = (scale * values).masked_fill(~(both[:, None] & both), torch.finfo(values.dtype).min)
    own = torch.arange(len(both), device=both.device)
    terms = [nn.functional.cross_entropy(each, own, reduction="none") for each in (logits, logits.T)]
    return torch.where(both, sum(terms) / 2, 0.0)


def _self_recognition(logits: torch.Tensor) -> torch.Tensor:
    targets = torch.arange(logits.shape[-1], device=logits.device).expand(logits.shape[0], -1)
    return nn.functional.cross_entropy(logits, targets, reduction="none").mean(dim=-1)


def plan_entropy(plan: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Sum of the entropies of a batch's plans, in nats, and how many plans there are, which is not one for each clip.

    Args:
        plan: `(batch, video_tokens, audio_tokens)`, mass 1 or, for a clip that lacks a modality, 0.
    """
    return torch.special.entr(plan.float()).sum(), (plan.sum(dim=(1, 2)) > 0).sum()
