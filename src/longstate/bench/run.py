"""Runs cases and writes what was found."""

import gc
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from longstate import ops
from longstate._checks import check_positive
from longstate.bench.case import Case
from longstate.bench.machine import Machine, look_at_machine
from longstate.bench.measure import Row, measure
from longstate.bench.plot import draw
from longstate.bench.report import write_csv, write_markdown


@dataclass(frozen=True, kw_only=True)
class Options:
    """How cases are run.

    Args:
        rounds: How often the sides take turns; what each case says if None.
        threads: Of PyTorch; as it is if None.
        quick: The quick sizes, one round, no memory: to see that everything runs.
        long: Wait for sides that take minutes.
        memory: Whether peak memory is taken.

    Raises:
        InputError: If a number is not positive.
    """

    rounds: int | None = None
    threads: int | None = None
    quick: bool = False
    long: bool = False
    memory: bool = True

    def __post_init__(self) -> None:
        check_positive(rounds=1 if self.rounds is None else self.rounds)
        check_positive(threads=1 if self.threads is None else self.threads)


@dataclass(frozen=True)
class Result:
    """What was found: the machine, the cases that ran, and their rows."""

    machine: Machine
    cases: list[Case]
    rows: list[Row]


def run(cases: Sequence[Case], options: Options, *, say: Callable[[str], None] = lambda _: None) -> Result:
    """Measure every side of every case at every size, under one allocator setting and one number of threads.

    Args:
        cases: Of `CASES`, or your own.
        options: How.
        say: Called with a line before something that takes a while.

    Example:
        >>> import torch
        >>> from longstate.bench import Case, Options, Side, run
        >>> def double(size):
        ...     x = torch.ones(size)
        ...     return lambda: x * 2
        >>> toy = Case(name="toy", title="Doubling", axis="numbers", sizes=(8,), quick=(8,),
        ...            sides=(Side(name="torch", prepare=double),))
        >>> [row.side for row in run([toy], Options(quick=True)).rows]
        ['torch']
    """
    kept = ops.set_up_allocator()
    before = torch.get_num_threads()
    torch.set_num_threads(before if options.threads is None else options.threads)
    try:
        machine = look_at_machine(kept=kept, quick=options.quick)
        rows: list[Row] = []
        for case in cases:
            for size in case.quick if options.quick else case.sizes:
                rows += measure(
                    case,
                    size,
                    rounds=options.rounds or (1 if options.quick else case.rounds),
                    threads=torch.get_num_threads(),
                    long=options.long,
                    memory=options.memory and not options.quick,
                    say=say,
                )
                gc.collect()
    finally:
        torch.set_num_threads(before)
    return Result(machine, list(cases), rows)


def write(result: Result, folder: Path) -> None:
    """Write `results.csv`, `results.md`, and a picture for every case of several sizes.

    Args:
        result: Of `run`.
        folder: Made if needed.

    Raises:
        InputError: If a picture is due and matplotlib is not installed; the tables are written before.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_csv(folder / "results.csv", result.rows)
    write_markdown(folder / "results.md", result.machine, result.cases, result.rows)
    for case in result.cases:
        rows = [row for row in result.rows if row.case == case.name]
        if len({row.size for row in rows}) > 1:
            draw(folder / f"{case.name}.png", case, rows)
