"""Binary masks: window means, morphology and connected components in NumPy."""

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Mask: TypeAlias = npt.NDArray[np.bool_]
"""True where something is: bool array (H, W)."""

Labels: TypeAlias = npt.NDArray[np.intp]
"""Component number of each pixel, 0 for none: array (H, W)."""

Indices: TypeAlias = npt.NDArray[np.intp]
"""Numbers of runs: array (N,)."""

Plane: TypeAlias = npt.NDArray[np.float32]
"""One value per pixel: float32 array (H, W)."""


def window_mean(values: npt.NDArray[np.floating], radius: int) -> Plane:
    """Mean over a square window of (2 * radius + 1) pixels.

    Running sums make the cost independent of the radius. Outside the image the
    nearest pixel counts, so borders need no case of their own.
    """
    size = 2 * radius + 1
    padded = np.pad(values, ((radius + 1, radius), (radius + 1, radius)), mode="edge")
    # float64: a float32 running sum over a whole column of squares loses digits.
    sums = padded.cumsum(axis=0, dtype=np.float64)
    sums = sums[size:] - sums[:-size]
    sums = sums.cumsum(axis=1)
    sums = sums[:, size:] - sums[:, :-size]
    mean: Plane = (sums / size**2).astype(np.float32)
    return mean


def dilate(mask: Mask, radius_y: int, radius_x: int) -> Mask:
    """Grow the mask by a rectangle; nothing grows in from outside the image."""
    height, width = mask.shape
    padded = np.pad(mask, ((radius_y, radius_y), (radius_x, radius_x)))
    tall = np.zeros((height, width + 2 * radius_x), dtype=np.bool_)
    for offset in range(2 * radius_y + 1):
        tall |= padded[offset : offset + height]
    wide = np.zeros((height, width), dtype=np.bool_)
    for offset in range(2 * radius_x + 1):
        wide |= tall[:, offset : offset + width]
    return wide


def erode(mask: Mask, radius_y: int, radius_x: int) -> Mask:
    """Shrink the mask by a rectangle; nothing shrinks at the border of the image."""
    return ~dilate(~mask, radius_y, radius_x)


def opened(mask: Mask, radius_y: int, radius_x: int) -> Mask:
    """Remove everything the rectangle does not fit into."""
    return dilate(erode(mask, radius_y, radius_x), radius_y, radius_x)


def closed(mask: Mask, radius_y: int, radius_x: int) -> Mask:
    """Fill every gap the rectangle does not fit into."""
    # Growing beyond the border first keeps what ends near it from being drawn to it.
    padded = np.pad(mask, ((radius_y, radius_y), (radius_x, radius_x)))
    filled = erode(dilate(padded, radius_y, radius_x), radius_y, radius_x)
    height, width = mask.shape
    return filled[radius_y : radius_y + height, radius_x : radius_x + width]


def label(mask: Mask) -> tuple[Labels, int]:
    """Number the 8-connected components of the mask from 1; also return how many.

    Works on runs (stretches of set pixels in one row) instead of pixels: there are
    few of them, and runs that touch in neighbouring rows are found by binary search.
    """
    height, width = mask.shape
    edges = np.diff(np.pad(mask, ((0, 0), (1, 1))).astype(np.int8), axis=1)
    row, start = np.nonzero(edges == 1)
    _, end = np.nonzero(edges == -1)  # exclusive; in the same order as the starts

    # One sortable number for (row, column). Columns go up to `width` inclusive.
    stride = width + 1
    below = (row + 1) * stride
    first = (row * stride + end).searchsorted(below + start, side="left")
    stop = (row * stride + start).searchsorted(below + end, side="right")
    links = stop - first
    upper = np.repeat(np.arange(row.size), links)
    lower = np.arange(upper.size) + np.repeat(first - (np.cumsum(links) - links), links)

    roots = _roots(row.size, upper, lower)
    names, component = np.unique(roots, return_inverse=True)
    labels = np.zeros((height, width), dtype=np.intp)
    labels[mask] = np.repeat(component + 1, end - start)
    return labels, names.size


def _roots(count: int, upper: Indices, lower: Indices) -> Indices:
    """Smallest member of each node's component, for the edges upper[i] - lower[i]."""
    parent = np.arange(count)
    while True:
        before = parent.copy()
        smaller = np.minimum(parent[upper], parent[lower])
        # Hooking the current roots, not the nodes, merges whole trees in one round.
        np.minimum.at(parent, before[upper], smaller)
        np.minimum.at(parent, before[lower], smaller)
        parent = parent[parent]
        if np.array_equal(parent, before):
            return parent
