"""The running decision of a model, on a terminal as bars that move, elsewhere as a few plain lines."""

import sys
from collections.abc import Iterable, Sequence
from time import perf_counter, sleep
from typing import Any

import numpy as np

FRAMES_PER_SECOND = 15.0
SECONDS = 8.0
"""How long a recording takes to play on a terminal; elsewhere it runs as fast as it can."""
LINES = 8
"""Lines in all where nothing moves."""


def show_running(
    answers: Iterable[np.ndarray], classes: Sequence[str], length: int, sampling_rate: float | None
) -> list[np.ndarray]:
    """Show probabilities as they come.

    Args:
        answers: Probabilities (classes,) after each step; drawn from as they are shown.
        classes: Their names.
        length: Steps that will come.
        sampling_rate: Steps a second of the recording, or None.

    Returns:
        All of them.
    """
    if sys.stdout.isatty():
        return _show_bars(answers, classes, length, sampling_rate)
    return _show_lines(answers, classes, length, sampling_rate)


def _show_lines(
    answers: Iterable[np.ndarray], classes: Sequence[str], length: int, sampling_rate: float | None
) -> list[np.ndarray]:
    seen: list[np.ndarray] = []
    marks = {round(length * (line + 1) / LINES) for line in range(LINES)}
    for probabilities in answers:
        seen.append(probabilities)
        if len(seen) in marks:
            best = int(probabilities.argmax())
            bar = "#" * round(20 * float(probabilities[best]))
            print(
                f"  {_time(len(seen), sampling_rate)}  {classes[best]:>6} {probabilities[best]:.2f} {bar}", flush=True
            )
    return seen


def _show_bars(
    answers: Iterable[np.ndarray], classes: Sequence[str], length: int, sampling_rate: float | None
) -> list[np.ndarray]:
    from rich.live import Live

    seen: list[np.ndarray] = []
    begun, shown = perf_counter(), 0.0
    with Live(auto_refresh=False) as live:
        for probabilities in answers:
            seen.append(probabilities)
            now = perf_counter() - begun
            if now - shown >= 1 / FRAMES_PER_SECOND or len(seen) == length:
                shown = now
                live.update(_bars(probabilities, classes, _time(len(seen), sampling_rate)), refresh=True)
                sleep(max(0.0, len(seen) / length * SECONDS - now))
    return seen


def _bars(probabilities: np.ndarray, classes: Sequence[str], time: str) -> Any:
    """One bar a class, the largest in colour."""
    from rich.bar import Bar
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 1))
    best = int(probabilities.argmax())
    for column, name in enumerate(classes):
        colour = "green" if column == best else "bright_black"
        table.add_row(
            Text(time if column == 0 else "", style="dim"),
            Text(name, style="bold" if column == best else ""),
            Bar(1.0, 0.0, float(probabilities[column]), width=40, color=colour),
            Text(f"{probabilities[column]:.2f}"),
        )
    return table


def _time(step: int, sampling_rate: float | None) -> str:
    return f"{step / sampling_rate:5.1f} s" if sampling_rate else f"step {step:5d}"
