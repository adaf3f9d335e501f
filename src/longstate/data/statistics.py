"""The numbers that bring every channel to a common scale."""

from typing import Literal, NamedTuple

import numpy as np

from longstate._checks import InputError, check_choice
from longstate.data.recordings import Recordings

Kind = Literal["zscore", "minmax", "none"]
SMALLEST = float(np.finfo(np.float32).tiny)  # the model divides in float32


class Statistics(NamedTuple):
    """One number a channel each: the model sees (x - shift) / scale."""

    shift: tuple[float, ...]
    scale: tuple[float, ...]


def statistics(recordings: Recordings, kind: Kind = "zscore") -> Statistics:
    """Shift and scale of every channel, over all steps of the recordings given.

        zscore: shift = mean, scale = standard deviation;   minmax: shift = minimum, scale = maximum - minimum

    Args:
        recordings: Those that train, and no others: `recordings.select(split.train)`.
        kind: "zscore", "minmax", or "none" for 0 and 1.

    Returns:
        Two tuples with a number a channel, computed in float64. A channel that is constant has scale 1.

    Raises:
        InputError: If there are no recordings.

    Example:
        >>> import numpy as np
        >>> from longstate.data import from_arrays
        >>> statistics(from_arrays([np.array([1.0, 3.0]), np.array([5.0])]), "minmax")
        Statistics(shift=(1.0,), scale=(4.0,))
    """
    check_choice(kind, ("zscore", "minmax", "none"), name="kind")
    if len(recordings) == 0:
        raise InputError("there are no recordings, but statistics need one at least; give the training part.")
    channels = len(recordings.channels)
    if kind == "none":
        shift, scale = np.zeros(channels), np.ones(channels)
    elif kind == "minmax":
        shift = np.min([row.min(axis=0) for row in recordings.x], axis=0).astype(np.float64)
        scale = np.max([row.max(axis=0) for row in recordings.x], axis=0) - shift
    else:
        steps = recordings.lengths.sum()
        shift = sum((row.sum(axis=0, dtype=np.float64) for row in recordings.x), np.zeros(channels)) / steps
        squares = sum((np.square(row - shift).sum(axis=0) for row in recordings.x), np.zeros(channels))
        scale = np.sqrt(squares / steps)
    return _statistics(shift, scale)


def target_statistics(recordings: Recordings) -> Statistics:
    """Mean and standard deviation of every target, over the recordings or, of targets of steps, over the steps.

    Args:
        recordings: Those that train, with numbers as labels.

    Returns:
        Two tuples with a number a target, computed in float64. A target that is constant has scale 1.

    Raises:
        InputError: If the labels are not numbers.

    Example:
        >>> import numpy as np
        >>> from longstate.data import from_arrays
        >>> target_statistics(from_arrays([np.zeros(3)] * 2, [5.0, 7.0], task="regression"))
        Statistics(shift=(6.0,), scale=(1.0,))
    """
    if not recordings.has_numbers:
        raise InputError(f"the labels are for {recordings.task}, but numbers are needed; read them for regression.")
    y = np.concatenate(recordings.y) if isinstance(recordings.y, tuple) else recordings.y
    y = y.astype(np.float64)
    return _statistics(np.asarray(np.nanmean(y, axis=0)), np.asarray(np.nanstd(y, axis=0)))


def _statistics(shift: np.ndarray, scale: np.ndarray) -> Statistics:
    # float64 adds up to 2^29 equal float32 numbers without rounding, so a constant channel comes out as exactly 0
    scale = np.where(scale < SMALLEST, 1.0, scale)
    return Statistics(tuple(shift.tolist()), tuple(scale.tolist()))
