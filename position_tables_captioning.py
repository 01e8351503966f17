# Copyright 2026 The LAVCap for Transformers authors. Licensed under the Apache License, Version 2.0.
"""Sine-cosine tables of where a patch is, as masked autoencoders begin with (arXiv 2111.06377)."""

import math

import torch


TEMPERATURE = 10_000  # of the longest wave to the shortest


def sincos(positions: torch.Tensor, dim: int) -> torch.Tensor:
    """Sines and then cosines of positions, `(number, dim)` float64.

    Args:
        positions: `(number,)`.
        dim: even.
    """
    waves = TEMPERATURE ** -(torch.arange(dim // 2, dtype=torch.float64) / (dim / 2))
    angles = positions.double()[:, None] * waves
    return torch.cat([angles.sin(), angles.cos()], dim=1)


def grid_positions(dim: int, height: int, width: int) -> torch.Tensor:
    """Table of a grid, row by row: `(height * width, dim)` float32.

    The first half of the columns tells the column of a patch, the second half its row.

    Args:
        dim: a multiple of 4.
        height, width: of the grid; of a filter bank bands and times.
    """
    row, column = torch.arange(height), torch.arange(width)
    halves = [sincos(column.repeat(height), dim // 2), sincos(row.repeat_interleave(width), dim // 2)]
    return torch.cat(halves, dim=1).float()


def video_positions(dim: int, grid: tuple[int, int, int], kind: str) -> torch.Tensor | None:
    """Table of the patches of frames, time by time and row by row: `(times * rows * columns, dim)` float32.

    Args:
        dim: a multiple of 4.
        grid: times, rows, columns.
        kind: `"space_time"`: where a patch is in its frame, and with more than one time when it is, added up;
            `"square"`: the table of a square of as many patches, or `None` where their number is no square.
    """
    times, rows, columns = grid
    side = math.isqrt(times * rows * columns)
    if kind == "square":
        return grid_positions(dim, side, side) if side**2 == times * rows * columns else None
    place = grid_positions(dim, rows, columns).repeat(times, 1)
    if times == 1:
        return place
    return place + sincos(torch.arange(times), dim).float().repeat_interleave(rows * columns, dim=0)
