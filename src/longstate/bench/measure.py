"""The runner: the sides of a case take turns in one process, and each one's memory is taken in a fresh one."""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from longstate.bench.case import Case, NotInstalled, Role, Side, Work
from longstate.bench.memory import Alone, available_memory, run_alone

ALONE = 2_000_000_000
"""A side that needs more bytes than this is measured once, alone in its process, and not in turns."""

PATIENCE = 10.0
"""A side whose first run takes more seconds is not asked again in the same table: that run counts."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """What was measured of one side at one size; None where it was not.

    Attributes:
        case: Name of the case.
        size: On the case's axis.
        side: Name of the side.
        role: "longstate", "peer" or "limit".
        seconds: Median of one unit of work.
        low: The fastest.
        high: The slowest.
        cpu: Median of the processor's seconds, of all threads together: what a busy machine falsifies least.
        runs: How many.
        times_ours: Median, over the rounds, of its time by that of the first longstate side in the same round.
        times_limit: The same by the first limit.
        peak: Bytes that one run adds to a process that holds modules and inputs already.
        note: Why something was not measured, or how.
    """

    case: str
    size: int
    side: str
    role: Role
    seconds: float | None = None
    low: float | None = None
    high: float | None = None
    cpu: float | None = None
    runs: int = 0
    times_ours: float | None = None
    times_limit: float | None = None
    peak: int | None = None
    note: str = ""


@dataclass
class _Seat:
    """A side at the table: its work, if it takes turns, and the seconds of its runs, by the clock and the processor."""

    side: Side
    work: Work | None = None
    seconds: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    alone: Alone | None = None
    note: str = ""


def measure(
    case: Case,
    size: int,
    *,
    rounds: int,
    threads: int,
    long: bool = False,
    memory: bool = True,
    say: Callable[[str], None] = lambda _: None,
) -> list[Row]:
    """Measure all sides of a case at one size.

    Every side runs once for warmth; then the sides take turns, `rounds` times, so that a machine that slows down slows
    all of them down. Ratios are of the same round.

    Args:
        case: What to measure.
        size: On its axis.
        rounds: How often the sides take turns.
        threads: Of torch, in this process and the fresh ones.
        long: Whether to wait for sides that take minutes.
        memory: Whether to take the peak memory too.
        say: Called with a line before something that takes a while.

    Returns:
        A row a side, in the order of the case.
    """
    seats = [_seat(side, size, long=long) for side in case.sides]
    for seat in seats:
        if seat.note:
            continue
        if (memory and case.memory and seat.side.role != "limit") or _is_large(seat.side, size):
            say(f"{case.name} {case.axis} {size:,}: {seat.side.name}, alone")
            seat.alone = run_alone(seat.side.prepare, size, threads)
            seat.note = seat.alone.note
        if not _is_large(seat.side, size) and not seat.note:
            _prepare(seat, size)
    turns = [(seat, seat.work) for seat in seats if seat.work is not None]
    say(f"{case.name} {case.axis} {size:,}: {len(turns)} sides in turns")
    for _ in range(rounds):
        for seat, work in turns:
            _time(seat, work)
    return _rows(case, size, seats)


def _is_large(side: Side, size: int) -> bool:
    return side.needs is not None and side.needs(size) > ALONE


def _seat(side: Side, size: int, *, long: bool) -> _Seat:
    seat = _Seat(side)
    if size > side.limit_of_size(long=long):
        patient = side.patient is not None and size <= side.patient
        seat.note = "not run (--long)" if patient else "not run: too slow or too large"
    elif side.needs is not None:
        free = available_memory()
        if free is not None and side.needs(size) > 0.9 * free:
            seat.note = f"not run: needs {side.needs(size) / 1e9:.0f} GB, {free / 1e9:.0f} GB are free"
    return seat


def _prepare(seat: _Seat, size: int) -> None:
    try:
        work = seat.side.prepare(size)
    except NotInstalled as error:
        seat.note = str(error)
        return
    _time(seat, work)
    if seat.seconds[0] > PATIENCE:
        seat.note = "one run"
        return
    seat.work = work
    seat.seconds.clear()
    seat.cpu.clear()


def _time(seat: _Seat, work: Work) -> None:
    start, cpu = time.perf_counter(), time.process_time()
    work()
    seat.seconds.append(time.perf_counter() - start)
    seat.cpu.append(time.process_time() - cpu)


def _rows(case: Case, size: int, seats: Sequence[_Seat]) -> list[Row]:
    for seat in seats:
        if not seat.seconds and seat.alone is not None and seat.alone.seconds is not None:
            seat.seconds, seat.note = [seat.alone.seconds], "one run, alone in its process"
            seat.cpu = [seat.alone.cpu]
    ours, limit = _first(seats, "longstate"), _first(seats, "limit")
    rows = []
    for seat in seats:
        row = Row(
            case=case.name,
            size=size,
            side=seat.side.name,
            role=seat.side.role,
            peak=seat.alone.peak if seat.alone is not None and case.memory else None,
            note=seat.note,
        )
        times = [seconds / case.units for seconds in seat.seconds]
        if times:
            row = replace(
                row,
                seconds=statistics.median(times),
                low=min(times),
                high=max(times),
                cpu=statistics.median(seat.cpu) / case.units,
                runs=len(times),
                times_ours=_ratio(seat.seconds, ours),
                times_limit=_ratio(seat.seconds, limit),
            )
        rows.append(row)
    return rows


def _first(seats: Sequence[_Seat], role: Role) -> list[float]:
    return next((seat.seconds for seat in seats if seat.side.role == role), [])


def _ratio(seconds: list[float], others: list[float]) -> float | None:
    """Median of the quotients round by round; the quotient of the medians where the rounds are not the same ones."""
    if not others:
        return None
    if len(seconds) == len(others):
        return statistics.median(mine / other for mine, other in zip(seconds, others, strict=True))
    return statistics.median(seconds) / statistics.median(others)
