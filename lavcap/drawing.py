"""What a model aligns, as a picture: the plan between frames and sound, with both beside it."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image


FRAME_WIDTH = 96  # pixels
LEAST_LIMIT = 1e-3  # of the colours, so that an even plan is no noise


def draw_alignment(
    plan: np.ndarray,
    frames: Sequence[np.ndarray],
    log_mel: np.ndarray,
    seconds: float,
    title: str,
    start: float = 0.0,
    padded: float | None = None,
) -> tuple[Figure, Axes]:
    """Heat map of a plan, frames against sound, with the frames at its left and the filter bank above.

    Args:
        plan: `(video_tokens, audio_tokens)`, as a multiple of the even plan.
        frames: of the clip, at even distances, each `(height, width, 3)` uint8 RGB.
        log_mel: `(frames, mel)`, its filter bank.
        seconds: that the clip lasts.
        start: of it, in the time of the file.
        padded: seconds that plan and filter bank cover in sound; default: as long as the clip.

    Returns:
        The figure, and the axes of the plan, whose units are seconds.
    """
    figure = Figure(figsize=(9.6, 7), layout="constrained")
    grid = figure.subplots(2, 2, width_ratios=(1, 12), height_ratios=(1, 5), sharex="col")
    (corner, audio), (video, heat) = grid
    end, last = start + seconds, start + (padded or seconds)
    corner.axis("off")
    audio.imshow(log_mel.T, origin="lower", aspect="auto", extent=(start, last, 0, log_mel.shape[1]), cmap="magma")
    audio.set(ylabel="mel band", title=title)
    video.imshow(_strip(frames), aspect="auto", extent=(0, 1, end, start))
    video.set(xticks=[], ylabel="video time (s)")
    values = np.log2(np.maximum(plan, 1e-9))
    # What is gathered decides: where nothing is, mass may be smaller by any power.
    limit = max(float(np.quantile(values, 0.98)), LEAST_LIMIT)
    extent = (start, last, end, start)
    image = heat.imshow(values, cmap="RdBu_r", vmin=-limit, vmax=limit, aspect="auto", extent=extent)
    heat.set(xlabel="audio time (s)", xlim=(start, end))
    figure.colorbar(image, ax=heat, extend="both", label="mass against an even plan (log2)")
    return figure, heat


def _strip(frames: Sequence[np.ndarray]) -> np.ndarray:
    """Frames one below the other, small."""
    height, width = frames[0].shape[:2]
    size = FRAME_WIDTH, max(1, round(FRAME_WIDTH * height / width))
    return np.concatenate([np.asarray(Image.fromarray(frame).resize(size)) for frame in frames])
