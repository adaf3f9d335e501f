"""Rows as a CSV file and as Markdown tables, and how time and memory grow with the size."""

import csv
import math
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path

from longstate.bench.case import Case
from longstate.bench.machine import Machine
from longstate.bench.measure import Row

_UNITS = ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"))


def slope(sizes: Sequence[float], values: Sequence[float]) -> float | None:
    """Exponent p of the best fit value = c size^p: least squares over the logarithms; None for fewer than two sizes."""
    if len(sizes) < 2:
        return None
    x, y = ([math.log(value) for value in values] for values in (sizes, values))
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    spread = sum((value - mean_x) ** 2 for value in x)
    return sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True)) / spread


def growth(rows: Sequence[Row], side: str, *, memory: bool) -> tuple[list[int], list[float]]:
    """Sizes at which a side was measured, and its seconds or bytes there."""
    found = [(row.size, row.peak if memory else row.seconds) for row in rows if row.side == side]
    known = [(size, value) for size, value in found if value]
    return [size for size, _ in known], [float(value) for _, value in known]


def write_csv(path: Path, rows: Sequence[Row]) -> None:
    """All rows, in seconds and bytes."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Row)])
        writer.writeheader()
        writer.writerows(asdict(row) for row in rows)


def write_markdown(path: Path, machine: Machine, cases: Sequence[Case], rows: Sequence[Row]) -> None:
    """A section a case: the machine, a table a size, and the slopes."""
    parts = ["# Benchmarks", machine.sentence()]
    for case in cases:
        mine = [row for row in rows if row.case == case.name]
        if mine:
            parts += [f"## {case.name}", f"{case.title}.", table(case, mine)]
            parts += [text for text in (slopes(case, mine), *case.notes) if text]
    path.write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def table(case: Case, rows: Sequence[Row]) -> str:
    """The rows of one case, in Markdown."""
    head = heads(case)
    lines = [head, ["---:", "---", *(["---:"] * (len(head) - 2))], *(cells(case, row) for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def heads(case: Case) -> list[str]:
    """What stands above the columns of `cells`."""
    limit = _limit(case)
    head = [case.axis, "side", f"a {case.unit}", "fastest to slowest", "CPU", "x longstate"]
    return head + ([f"x {limit}"] if limit else []) + (["peak memory"] if case.memory else [])


def cells(case: Case, row: Row) -> list[str]:
    """A row as a person reads it."""
    found = [f"{row.size:,}", row.side, *_times(row), _number(row.times_ours)]
    found += [_number(row.times_limit)] if _limit(case) else []
    return found + ([size_text(row.peak)] if case.memory else [])


def _limit(case: Case) -> str | None:
    return next((side.name for side in case.sides if side.role == "limit"), None)


def _times(row: Row) -> tuple[str, str, str]:
    if row.seconds is None or row.low is None or row.high is None:
        return row.note or "-", "", ""
    spread = f"{seconds_text(row.low)} to {seconds_text(row.high)}" if row.runs > 1 else row.note
    return seconds_text(row.seconds), spread, "-" if row.cpu is None else seconds_text(row.cpu)


def slopes(case: Case, rows: Sequence[Row]) -> str:
    """Exponents of growth, for a case of three sizes or more."""
    lines = []
    for side in case.sides:
        exponents = [
            slope(*growth(rows, side.name, memory=memory)) for memory in ((False, True) if case.memory else (False,))
        ]
        lines.append(f"| {side.name} | {' | '.join(_exponent(value) for value in exponents)} |")
    if len(case.sizes) < 3:
        return ""
    names = "time | memory" if case.memory else "time"
    head = [f"Growth with the {case.axis}, as exponents of a fit:\n", f"| side | {names} |"]
    return "\n".join([*head, "| --- | ---: |" + (" ---: |" if case.memory else ""), *lines])


def seconds_text(seconds: float) -> str:
    """A time with three digits."""
    scale, unit = next((pair for pair in _UNITS if seconds >= pair[0]), _UNITS[-1])
    return f"{seconds / scale:.3g} {unit}" if seconds / scale < 1000 else f"{seconds / scale:.0f} {unit}"


def size_text(size: int | None) -> str:
    """Bytes, in MB or GB."""
    if size is None:
        return "-"
    return f"{size / 1e9:.2f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.0f}" if value >= 100 else f"{value:.2f}" if value < 10 else f"{value:.1f}"


def _exponent(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
