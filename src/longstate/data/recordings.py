"""Many recordings of unequal length, with their labels, groups and splits."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from longstate._checks import InputError, check_choice
from longstate.data.labels import UNKNOWN, class_order
from longstate.data.recording import channel_indices, checked_values, default_channels

Task = Literal["classification", "tagging", "regression", "step_regression", "prediction"]
TASKS: tuple[Task, ...] = ("classification", "tagging", "regression", "step_regression", "prediction")
SPLITS = ("train", "validation", "test")


@dataclass(frozen=True, eq=False, repr=False)
class Recordings:
    """Recordings with the same channels, each of its own length.

    Args:
        x: One array (length, channels) float32 for each recording; at least one step, every value finite.
        y: Class indices (n,) int64, -1 where the class is not known; for tagging a tuple of arrays (length,) int64;
            for regression targets (n, targets) float32; for step regression a tuple of arrays (length, targets)
            float32, NaN where a step has none.
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
                if self.targets and label.shape[1:] != (len(self.targets),):
                    raise InputError(
                        f"{name} has targets of shape {label.shape}, but (length, {len(self.targets)}) is needed for "
                        f"{', '.join(self.targets)}; give one number a step for each target."
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
            return "step_regression" if self.targets else "tagging"
        if self.y.dtype.kind == "f":
            return "regression"
        return "classification" if self.classes else "prediction"

    @property
    def has_numbers(self) -> bool:
        """Whether the labels are numbers, and not classes."""
        return self.task in ("regression", "step_regression")

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

    def with_channels(self, channels: Sequence[str]) -> "Recordings":
        """The same recordings with these channels only, in this order: by name, or by position if they have no names.

        Raises:
            InputError: If a channel is not there.
        """
        channels = tuple(channels)
        if channels == self.channels:
            return self
        count = len(self.channels)
        names = None if self.channels == default_channels(count) else self.channels
        columns = channel_indices("the source", names, count, channels)
        return dataclasses.replace(self, x=tuple(row[:, columns] for row in self.x), channels=channels)

    def without_labels(self) -> "Recordings":
        """The same recordings for prediction: every class unknown."""
        return dataclasses.replace(self, y=np.full(len(self), UNKNOWN, dtype=np.int64), classes=(), targets=())

    def _class_indices(self) -> tuple[np.ndarray, ...]:
        if self.has_numbers:
            raise InputError("the labels are numbers, but classes are needed; read the source for classification.")
        return self.y if isinstance(self.y, tuple) else (self.y,)
