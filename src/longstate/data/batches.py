"""Recordings of unequal length side by side in tensors."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from longstate._checks import InputError
from longstate.data.labels import UNKNOWN
from longstate.data.recordings import Recordings


class Batch(NamedTuple):
    """Some recordings, padded on the right with zeros to the longest of them.

    Args:
        x: Values (batch, length, channels) float32.
        lengths: Steps of each row (batch,) int64.
        y: Class indices (batch,) int64, -1 where unknown; for tagging (batch, length) int64, -1 after the end; for
            regression (batch, targets) float32; for step regression (batch, length, targets) float32, NaN after the end
            and where a step has no target.
    """

    x: Tensor
    lengths: Tensor
    y: Tensor


def collate(
    recordings: Recordings,
    rows: Sequence[int] | np.ndarray,
    *,
    starts: Sequence[int] | np.ndarray | None = None,
    crop: int | None = None,
) -> Batch:
    """A batch of the recordings at `rows`.

    Args:
        recordings: Where the rows are taken from.
        rows: Row numbers; a row may appear twice.
        starts: The first step of each row; 0 if None.
        crop: The largest number of steps to take of each row; to its end if None.

    Returns:
        The rows, in that order.

    Raises:
        InputError: If there are no rows.

    Example:
        >>> import numpy as np
        >>> from longstate.data import from_arrays
        >>> batch = collate(from_arrays([np.ones(2), np.ones(3)], ["a", "b"]), [0, 1])
        >>> batch.x[..., 0].tolist(), batch.lengths.tolist(), batch.y.tolist()
        ([[1.0, 1.0, 0.0], [1.0, 1.0, 1.0]], [2, 3], [0, 1])
    """
    rows = [int(row) for row in rows]
    if not rows:
        raise InputError("a batch of no rows was asked for, but one row at least is needed; give row numbers.")
    firsts = [0] * len(rows) if starts is None else [int(start) for start in starts]
    windows = [slice(first, None if crop is None else first + crop) for first in firsts]
    parts = [recordings.x[row][window] for row, window in zip(rows, windows, strict=True)]
    x = torch.from_numpy(_pad(parts, 0.0))
    lengths = torch.tensor([len(part) for part in parts])
    if isinstance(recordings.y, tuple):
        labels = [recordings.y[row][window] for row, window in zip(rows, windows, strict=True)]
        return Batch(x, lengths, torch.from_numpy(_pad(labels, np.nan if recordings.has_numbers else UNKNOWN)))
    return Batch(x, lengths, torch.from_numpy(recordings.y[rows]))


def _pad(parts: Sequence[np.ndarray], value: float) -> np.ndarray:
    """The parts as rows of one new array, filled up on the right with `value`."""
    padded = np.full((len(parts), max(map(len, parts)), *parts[0].shape[1:]), value, dtype=parts[0].dtype)
    for row, part in zip(padded, parts, strict=True):
        row[: len(part)] = part
    return padded
