"""Optimal transport: LAVCap's alignment of a batch, and DALI's solvers."""

import math
from collections.abc import Iterator

import torch

from lavcap.benchmarks.measure import Bench, Cost, Row
from lavcap.workers import usable_cores
from set_distances_captioning import (
    MOST_PIVOTS,
    entropic_transport,
    even_weights,
    exact_transport,
    squared_distances,
)
from transport_captioning import alignment_loss, log_sinkhorn


VIDEO_TOKENS, AUDIO_TOKENS, WIDTH = 20, 64, 768
EPSILON, ITERATIONS = 0.1, 50
SOUND_TOKENS, PICTURE_TOKENS, CLIP_WIDTH = 512, 576, 1024  # of DALI


def measure_transport(bench: Bench) -> Iterator[Row]:
    """Similarity, plan, loss and attention of a batch, against a loop over its clips in the log domain, as released
    (`models/lavcaps.py`)."""
    scale = torch.ones(1, device=bench.device)
    for batch in (1, 8) if bench.tiny else (1, 8, 32, 128):
        video, audio = (
            torch.nn.functional.normalize(torch.randn(batch, number, WIDTH, device=bench.device), dim=-1)
            for number in (VIDEO_TOKENS, AUDIO_TOKENS)
        )
        least = Cost(
            operations=batch * operations(VIDEO_TOKENS),
            bytes=4 * batch * (2 * WIDTH * (VIDEO_TOKENS + AUDIO_TOKENS) + VIDEO_TOKENS * AUDIO_TOKENS),
            dtype=torch.float32,
        )
        with torch.no_grad():
            yield bench.compare(
                "transport",
                f"batch {batch}",
                lambda: aligned(video, audio, scale),  # noqa: B023 (called at once)
                "loop over clips, log domain",
                lambda: [_aligned_alone(*clip) for clip in zip(video, audio, strict=True)],  # noqa: B023
                least,
            )


def measure_dali_transport(bench: Bench) -> Iterator[Row]:
    """Exact plans between random tokens of the released sizes, against a loop over the clips, as released."""
    from ot import emd2

    for clips in (2,) if bench.tiny else (16, 256):
        problem = _distant_clips(clips, bench.tiny)
        yield bench.compare(
            "dali_transport",
            f"exact, batch {clips}",
            lambda: exact_transport(*problem),  # noqa: B023 (called at once)
            "loop over clips",
            lambda: [emd2(a, b, cost, numItermax=MOST_PIVOTS) for cost, a, b in zip(*problem, strict=True)],  # noqa: B023
            per_second={"clips": clips},
            cores=usable_cores(),
        )


def measure_dali_entropic(bench: Bench) -> Iterator[Row]:
    """Entropic plans of the same problems against exact ones, with what they cost more."""
    clips = 2 if bench.tiny else 16
    cost, *weights = _distant_clips(clips, bench.tiny)
    least = (exact_transport(cost, *weights).plan * cost).sum(dim=(1, 2))
    moved = [tensor.to(bench.device) for tensor in (cost, *weights)]
    for epsilon in (0.1, 0.01, 0.001):
        plan = entropic_transport(*moved, epsilon, 200).plan.cpu()
        excess = ((plan * cost).sum(dim=(1, 2)) / least - 1).mean().item()
        yield bench.compare(
            "dali_entropic",
            f"epsilon {epsilon}, batch {clips}",
            lambda: entropic_transport(*moved, epsilon, 200),  # noqa: B023 (called at once)
            "exact",
            lambda: exact_transport(cost, *weights),
            cost_above_exact=round(excess, 4),
        )


def aligned(video: torch.Tensor, audio: torch.Tensor, scale: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Loss of a batch, and what is moved along its plans; `(batch, tokens, width)` each."""
    similarity = video @ audio.mT
    log_plan = log_sinkhorn(similarity, EPSILON, ITERATIONS)
    plan = log_plan.exp()
    moved = torch.baddbmm(audio, plan.mT, video), torch.baddbmm(video, plan, audio)
    return alignment_loss(similarity, log_plan, scale), *moved


def operations(video_tokens: int) -> int:
    """Of [`aligned`], for a clip of `AUDIO_TOKENS`: multiplications and additions."""
    return video_tokens * AUDIO_TOKENS * (6 * WIDTH + 4 * ITERATIONS + 2 * (video_tokens + AUDIO_TOKENS))


def _distant_clips(clips: int, tiny: bool) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Squared distances of random tokens, `(clips, audio_tokens, image_tokens)`, and even weights of both sides."""
    draw = torch.Generator().manual_seed(0)
    sound, picture = (
        torch.randn(clips, number // (8 if tiny else 1), CLIP_WIDTH, generator=draw)
        for number in (SOUND_TOKENS, PICTURE_TOKENS)
    )
    return squared_distances(sound, picture), even_weights(sound), even_weights(picture)


def _aligned_alone(video: torch.Tensor, audio: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """One clip, `(tokens, width)` each."""
    similarity = video @ audio.T
    scores, (rows, columns) = similarity / EPSILON, similarity.shape
    down, across = scores.new_zeros(rows), scores.new_zeros(columns)
    for _ in range(ITERATIONS):
        down = -math.log(rows) - torch.logsumexp(scores + across[None, :], dim=1)
        across = -math.log(columns) - torch.logsumexp(scores + down[:, None], dim=0)
    log_plan = scores + down[:, None] + across[None, :]
    terms = [
        torch.nn.functional.cross_entropy(logits, torch.arange(len(logits), device=logits.device))
        for logits in (log_plan @ similarity.T, log_plan.T @ similarity)
    ]
    plan = log_plan.exp()
    return sum(terms), audio + plan.T @ video, video + plan @ audio
