"""Many recordings of unequal length, with their labels, groups and splits."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from longstate._checks import InputError, check_choice
from longstate.data.labels import UNKNOWN, check_class_name, class_order, encode
from longstate.data.recording import checked_values, default_channels

Task = Literal["classification", "tagging", "regression", "prediction"]
TASKS: tuple[Task, ...] = ("classification", "tagging", "regression", "prediction")
SPLITS = ("train", "validation", "test")


@dataclass(frozen=True, eq=False, repr=False)
class Recordings:
    """Recordings with the same channels, each of its own length.

    Args:
        x: One array (length, channels) float32 for each recording; at least one step, every value finite.
        y: Class indices (n,) int64, -1 where the class is not known; for tagging a tuple of arrays (length,) int64;
            for regression targets (n, targets) float32.
        classes: The names of the classes; empty for regression, and where nothing is labelled.
        groups: What each recording belongs to (a subject, a machine), so that a split can keep it together; or None.
        splits: "train", "validation", "test" or None for each recording, as its source says.
        names: Where each recording came from.
        channels: The names of the channels.
        sampling_rate: Steps a second in Hz, or None if not known.
        targets: The names of the targets of a regression.
    """

    x: tuple[np.ndarray, ...]
    y: np.ndarray | tuple[np.ndarray, ...]
    classes: tuple[str, ...]
    groups: tuple[str, ...] | None
    splits: tuple[str | None, ...]
    names: tuple[str, ...]
    channels: tuple[str, ...]
    sampling_rate: float | None
    targets: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("y", "splits", "names", "groups"):
            column = getattr(self, name)
            if column is not None and len(column) != len(self.x):
                raise InputError(
                    f"`{name}` has {len(column)} entries for {len(self.x)} recordings, but one each is needed; "
                    "leave none out."
                )
        for name, row in zip(self.names, self.x, strict=True):
            if row.dtype != np.float32 or row.ndim != 2 or row.shape[1] != len(self.channels):
                raise InputError(
                    f"{name} is {row.dtype} of shape {row.shape}, but float32 (length, {len(self.channels)}) is needed "
                    f"for the channels {', '.join(self.channels)}; give every recording the same channels."
                )
            checked_values(row, name)
        for name, part in zip(self.names, self.splits, strict=True):
            if part is not None:
                check_choice(part, SPLITS, name=f"split of {name}")
        if isinstance(self.y, tuple):
            for name, row, label in zip(self.names, self.x, self.y, strict=True):
                if len(label) != len(row):
                    raise InputError(
                        f"{name} has {len(label)} labels for {len(row)} steps, but one a step is needed; "
                        "cut the longer of the two."
                    )

    def __len__(self) -> int:
        return len(self.x)

    def __repr__(self) -> str:
        steps = f"{self.lengths.min()} to {self.lengths.max()} steps" if len(self) else "no steps"
        kinds = f"{len(self.classes)} classes" if self.classes else f"{len(self.targets)} targets"
        return f"Recordings({len(self)} recordings, {steps}, {len(self.channels)} channels, {kinds})"

    @property
    def lengths(self) -> np.ndarray:
        """The number of steps of each recording (n,) int64."""
        return np.array([len(row) for row in self.x], dtype=np.int64)

    @property
    def task(self) -> Task:
        """What the labels are for; "prediction" if there are none."""
        if isinstance(self.y, tuple):
            return "tagging"
        if self.y.dtype.kind == "f":
            return "regression"
        return "classification" if self.classes else "prediction"

    def select(self, indices: Sequence[int] | np.ndarray) -> "Recordings":
        """The recordings at `indices`, in that order."""
        rows = [int(index) for index in indices]
        y = tuple(self.y[row] for row in rows) if isinstance(self.y, tuple) else self.y[np.array(rows, dtype=np.int64)]
        return dataclasses.replace(
            self,
            x=tuple(self.x[row] for row in rows),
            y=y,
            groups=None if self.groups is None else tuple(self.groups[row] for row in rows),
            splits=tuple(self.splits[row] for row in rows),
            names=tuple(self.names[row] for row in rows),
        )

    def with_classes(self, classes: Sequence[str]) -> "Recordings":
        """The same recordings with their labels counted by another list of classes, such as that of a model.

        Raises:
            InputError: If a recording has a class that is not in the list.
        """
        used = {self.classes[index] for label in self._class_indices() for index in np.unique(label) if index >= 0}
        unknown = class_order([name for name in used if name not in classes])
        if unknown:
            raise InputError(
                f"recordings are labelled {', '.join(unknown)}, but only {', '.join(classes)} are known here; "
                "leave those recordings out, or train with them."
            )
        position = {name: index for index, name in enumerate(classes)}
        table = np.array([*(position.get(name, UNKNOWN) for name in self.classes), UNKNOWN], dtype=np.int64)
        y = tuple(table[label] for label in self.y) if isinstance(self.y, tuple) else table[self.y]
        return dataclasses.replace(self, y=y, classes=tuple(classes))

    def without_labels(self) -> "Recordings":
        """The same recordings for prediction: every class unknown."""
        return dataclasses.replace(self, y=np.full(len(self), UNKNOWN, dtype=np.int64), classes=(), targets=())

    def _class_indices(self) -> tuple[np.ndarray, ...]:
        if self.task == "regression":
            raise InputError("the labels are numbers, but classes are needed; read the source for classification.")
        return self.y if isinstance(self.y, tuple) else (self.y,)


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
            number, or one number a target. None if they are not known.
        task: What the labels are: "classification", "tagging" or "regression"; "prediction" leaves them out.
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
    names = tuple(names) if names is not None else tuple(f"recording {row}" for row in range(len(x)))
    rows = tuple(checked_values(np.asarray(row), name) for row, name in zip(x, names, strict=True))
    if not rows:
        raise InputError("there are no recordings, but one at least is needed; check the source.")
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
        targets=tuple(targets) if task == "regression" and labels is not None else (),
    )


def _encode_labels(
    labels: Sequence | np.ndarray | None, task: Task, names: tuple[str, ...]
) -> tuple[tuple[str, ...], np.ndarray | tuple[np.ndarray, ...]]:
    """The classes (none for regression), and the labels as numbers."""
    if labels is None or task == "prediction":
        return (), np.full(len(names), UNKNOWN, dtype=np.int64)
    if task == "regression":
        return (), np.asarray(labels, dtype=np.float32).reshape(len(names), -1)
    if task == "tagging":
        steps = [np.asarray(label).astype(str) for label in labels]
        different = [np.unique(label, return_inverse=True) for label in steps]
        classes = class_order([str(name) for unique, _ in different for name in unique])
        return classes, tuple(encode(unique.tolist(), classes)[inverse] for unique, inverse in different)
    texts = [check_class_name(str(label), name) for label, name in zip(labels, names, strict=True)]
    classes = class_order(texts)
    return classes, encode(texts, classes)
