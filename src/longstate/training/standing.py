"""Where a run stands: everything but weights and optimiser that it needs to continue as if nothing had happened."""

from dataclasses import dataclass, field, fields
from typing import Any

import torch
from torch import Tensor

from longstate._checks import InputError

CHECKPOINT_KEY = "longstate"
"""Where a checkpoint holds the standing of its run."""

Row = dict[str, float | int | None]
"""One epoch of `log.csv`, in the order of its columns; None where there is nothing to say (no validation)."""


@dataclass
class Standing:
    """The counters of a run.

    Args:
        epoch: Epochs finished.
        batch: Batches of the next epoch that are done.
        step: Optimiser steps done.
        seconds: Spent in the batches done of the next epoch.
        spent: Seconds of the epochs finished.
        best: The row of the best epoch so far.
        stale: Epochs since the best.
        finished: The run is over: all epochs done, or stopped early.
        sums: For each process the sums over the batches done of the next epoch: loss, weight, correct, answers,
            samples (processes, 5) float64.
    """

    epoch: int = 0
    batch: int = 0
    step: int = 0
    seconds: float = 0.0
    spent: float = 0.0
    best: Row | None = None
    stale: int = 0
    finished: bool = False
    sums: Tensor = field(default_factory=lambda: torch.zeros(1, 5, dtype=torch.float64))

    def to_dict(self) -> dict[str, Any]:
        """As plain values and one tensor, which a checkpoint holds and `weights_only` loads."""
        return {entry.name: getattr(self, entry.name) for entry in fields(self)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Standing":
        """The inverse of `to_dict`."""
        missing = {entry.name for entry in fields(cls)} ^ values.keys()
        if missing:
            raise InputError(
                f"the checkpoint was written by another version of longstate ({', '.join(sorted(missing))} differ), "
                "but this one is needed to continue; start the run again."
            )
        return cls(**values)

    def next_epoch(self, seconds: float) -> None:
        """Close an epoch that took so many seconds."""
        self.epoch += 1
        self.spent += seconds
        self.batch = 0
        self.seconds = 0.0
        self.sums = torch.zeros_like(self.sums)


def is_better(row: Row, best: Row | None, *, monitor: str) -> bool:
    """Whether an epoch beats the best so far, by validation accuracy (ties: lower loss) or by loss.

    Without validation every epoch beats the one before.

    Example:
        >>> first, second = {"val_loss": 0.5, "val_accuracy": 0.8}, {"val_loss": 0.4, "val_accuracy": 0.8}
        >>> is_better(second, first, monitor="accuracy"), is_better(first, second, monitor="loss")
        (True, False)
    """
    if best is None or row["val_loss"] is None:
        return True
    return _merit(row, monitor) > _merit(best, monitor)


def _merit(row: Row, monitor: str) -> tuple[float, ...]:
    loss, accuracy = row["val_loss"], row.get("val_accuracy")
    if monitor == "accuracy" and accuracy is not None and loss is not None:
        return (accuracy, -loss)
    return (-(loss or 0.0),)
