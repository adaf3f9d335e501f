"""What a benchmark compares: a case has sizes and sides, and a side makes its work ready for one size."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from longstate._checks import InputError

Work: TypeAlias = Callable[[], object]
"""One run of what is measured."""

Role = Literal["longstate", "peer", "limit"]


class NotInstalled(InputError):
    """A peer is not on this machine; the text says how to get it."""


@dataclass(frozen=True, kw_only=True)
class Side:
    """One of those that do the same work.

    Args:
        name: What the tables call it.
        prepare: Makes modules and inputs for a size, outside the measurement, and returns the work. A function of a
            module, or a partial of one: a fresh process has to find it to measure memory.
        role: Ours, a peer's, or a limit that no implementation of these sizes can pass by much.
        largest: The largest size it is asked for; any if None.
        patient: The largest size with `--long`.
        needs: Bytes of its peak by size; it is left out where the machine has less, and a run of more than
            `ALONE` bytes is measured once, in a process of its own.
    """

    name: str
    prepare: Callable[[int], Work]
    role: Role = "longstate"
    largest: int | None = None
    patient: int | None = None
    needs: Callable[[int], int] | None = None

    def limit_of_size(self, *, long: bool) -> float:
        """The largest size it is measured at."""
        largest = self.patient if long and self.patient is not None else self.largest
        return float("inf") if largest is None else largest


@dataclass(frozen=True, kw_only=True)
class Case:
    """Sides that do the same work, at several sizes.

    Args:
        name: What the command line calls it.
        title: What is measured, in a sentence.
        axis: What the sizes are.
        sizes: In rising order.
        quick: Sizes that take a moment, for `--quick`.
        sides: Ours first, then the peers, then the limits; the first limit is the one that rows are divided by.
        units: How many `unit`s one run is; times are of one of them.
        unit: What a time is for.
        rounds: How often the sides take turns, unless the caller says otherwise.
        memory: Whether the peak memory of every side is measured.
        notes: Sentences that belong under its table.
    """

    name: str
    title: str
    axis: str
    sizes: tuple[int, ...]
    quick: tuple[int, ...]
    sides: tuple[Side, ...]
    units: int = 1
    unit: str = "run"
    rounds: int = 7
    memory: bool = True
    notes: tuple[str, ...] = field(default=())
