"""Recordings from arrays in memory: the door through which every reader goes too."""

from collections.abc import Sequence

import numpy as np

from longstate._checks import InputError, check_choice
from longstate.data.labels import UNKNOWN, check_class_name, class_order, encode
from longstate.data.recording import checked_values, default_channels
from longstate.data.recordings import TASKS, Recordings, Task


def from_arrays(
    x: Sequence[np.ndarray],
    labels: Sequence | np.ndarray | None = None,
    *,
    task: Task = "classification",
    groups: Sequence[str] | None = None,
    splits: Sequence[str | None] | None = None,
    names: Sequence[str] | None = None,
    channels: Sequence[str] | None = None,
    sampling_rate: float | None = None,
    targets: Sequence[str] = ("target",),
) -> Recordings:
    """Recordings from arrays that are in memory already.

    Args:
        x: One array (length, channels) or (length,) for each recording.
        labels: A class name for each recording; for tagging a sequence of class names, one a step; for regression a
            number, or one number a target; for step regression an array (length,) or (length, targets), NaN where a
            step has no target. None if they are not known.
        task: What the labels are: "classification", "tagging", "regression" or "step_regression"; "prediction" leaves
            them out.
        groups: What each recording belongs to, so that a split can keep it together.
        splits: "train", "validation", "test" or None for each recording.
        names: What to call each recording in messages.
        channels: The names of the channels; ``channel_0``, ... if None.
        sampling_rate: Steps a second in Hz.
        targets: The names of the targets of a regression.

    Returns:
        Recordings whose classes are the different labels, in the order of numbers or else of letters.

    Raises:
        InputError: If a recording is empty or not finite, has other channels than the rest, or has no label.

    Example:
        >>> import numpy as np
        >>> recordings = from_arrays([np.zeros(3), np.ones(5)], ["rest", "move"])
        >>> recordings
        Recordings(2 recordings, 3 to 5 steps, 1 channels, 2 classes)
        >>> recordings.classes, recordings.y.tolist()
        (('move', 'rest'), [1, 0])
    """
    check_choice(task, TASKS, name="task")
    if len(x) == 0:
        raise InputError("there are no recordings, but one at least is needed; check the source.")
    for name, column in (("labels", labels), ("names", names)):
        if column is not None and len(column) != len(x):
            raise InputError(
                f"`{name}` has {len(column)} entries for {len(x)} recordings, but one each is needed; leave none out."
            )
    names = tuple(names) if names is not None else tuple(f"recording {row}" for row in range(len(x)))
    rows = tuple(checked_values(np.asarray(row), name) for row, name in zip(x, names, strict=True))
    classes, y = _encode_labels(labels, task, names)
    return Recordings(
        x=rows,
        y=y,
        classes=classes,
        groups=None if groups is None else tuple(str(group) for group in groups),
        splits=tuple(splits) if splits is not None else (None,) * len(rows),
        names=names,
        channels=default_channels(rows[0].shape[1]) if channels is None else tuple(channels),
        sampling_rate=sampling_rate,
        targets=tuple(targets) if task in ("regression", "step_regression") and labels is not None else (),
    )


def _encode_labels(
    labels: Sequence | np.ndarray | None, task: Task, names: tuple[str, ...]
) -> tuple[tuple[str, ...], np.ndarray | tuple[np.ndarray, ...]]:
    """The classes (none for regression), and the labels as numbers."""
    if labels is None or task == "prediction":
        return (), np.full(len(names), UNKNOWN, dtype=np.int64)
    if task == "regression":
        return (), _target_array(labels, names)
    if task == "step_regression":
        return (), tuple(_step_targets(label, name) for label, name in zip(labels, names, strict=True))
    if task == "tagging":
        steps = [np.asarray(label).astype(str) for label in labels]
        different = [np.unique(label, return_inverse=True) for label in steps]
        classes = class_order([str(name) for unique, _ in different for name in unique])
        return classes, tuple(encode(unique.tolist(), classes)[inverse] for unique, inverse in different)
    texts = [check_class_name(str(label), name) for label, name in zip(labels, names, strict=True)]
    classes = class_order(texts)
    return classes, encode(texts, classes)


def _target_array(labels: Sequence | np.ndarray, names: tuple[str, ...]) -> np.ndarray:
    """Targets as float32 (n, targets)."""
    numbers = np.asarray(labels, dtype=np.float32).reshape(len(names), -1)
    if not np.isfinite(numbers).all():
        row = int(np.argwhere(~np.isfinite(numbers))[0, 0])
        raise InputError(
            f"{names[row]} has the target {numbers[row].tolist()}, but regression needs finite numbers; correct it, or "
            "leave the recording out."
        )
    return numbers


def _step_targets(label: np.ndarray, name: str) -> np.ndarray:
    """Targets of every step as float32 (length, targets); NaN stays, an infinite number does not."""
    numbers = np.asarray(label, dtype=np.float32)
    numbers = numbers[:, None] if numbers.ndim == 1 else numbers
    if np.isinf(numbers).any():
        step = int(np.argwhere(np.isinf(numbers))[0, 0])
        raise InputError(
            f"{name} has the target {numbers[step].tolist()} at step {step}, but regression needs finite numbers; "
            "correct it, or put NaN where a step has no target."
        )
    return numbers
