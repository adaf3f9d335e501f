"""A picture of what a memory remembers. matplotlib is imported when one is drawn."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from longstate._checks import InputError
from longstate.diagnostics.plots import _COLOURS, _GREY, _figure, _write


class MemoryPanel(NamedTuple):
    """A signal (length,), what a memory at its end says of its last elements (n,), n <= length, and what to call it."""

    signal: np.ndarray
    remembered: np.ndarray
    title: str = ""


def draw_memory(
    path: str | Path,
    columns: Sequence[Sequence[MemoryPanel]],
    *,
    sampling_rates: Sequence[float | None] | None = None,
    titles: Sequence[str] | None = None,
) -> None:
    """Draw signals and what memories say of them: a column for each signal, a row for each memory.

    Args:
        path: Of the picture; its ending (.png, .svg, .pdf) says which kind.
        columns: Panels from top to bottom, equally many in each column.
        sampling_rates: Elements a second of each column; the axis counts elements where it is None.
        titles: What stands above each column.

    Raises:
        InputError: If columns differ in height or a panel remembers more than there was, or matplotlib is missing.

    Example:
        >>> import tempfile
        >>> import numpy as np
        >>> from longstate.diagnostics.memory_plot import MemoryPanel, draw_memory
        >>> signal = np.sin(np.arange(100) / 9)
        >>> panels = [MemoryPanel(signal, signal[-count:], f"the last {count}") for count in (100, 30)]
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     draw_memory(f"{folder}/memory.png", [panels], titles=["a sine"])
    """
    heights = sorted({len(column) for column in columns})
    if len(heights) != 1 or heights == [0]:
        raise InputError(
            f"`columns` hold {', '.join(str(height) for height in heights) or 'no'} panels, but one number of at least "
            "1 is needed for all; give every signal the same memories."
        )
    rates = [None] * len(columns) if sampling_rates is None else sampling_rates
    names = [""] * len(columns) if titles is None else titles
    if len(rates) != len(columns) or len(names) != len(columns):
        raise InputError(
            f"there are {len(rates)} `sampling_rates` and {len(names)} `titles`, but one for each of the "
            f"{len(columns)} columns is needed; leave them out for none."
        )
    figure = _figure(5.6 * len(columns), 0.5 + 1.35 * heights[0])
    grid = figure.subplots(heights[0], len(columns), sharex="col", sharey="col", squeeze=False)
    for column, panels in enumerate(columns):
        for row, panel in enumerate(panels):
            _draw_panel(grid[row, column], panel, rates[column], _COLOURS[row % len(_COLOURS)])
        grid[-1, column].set_xlabel("seconds" if rates[column] else "elements")
        if names[column]:
            grid[0, column].set_title(f"{names[column]}\n", loc="left", fontsize=11)
    _write(figure, path)


def _draw_panel(axes: Any, panel: MemoryPanel, sampling_rate: float | None, colour: str) -> None:
    """The signal in grey, and over its end what is remembered."""
    length, remembered = len(panel.signal), len(panel.remembered)
    if not 0 < remembered <= length:
        raise InputError(
            f"a panel remembers {remembered} elements of a signal of {length}, but between 1 and all are needed; "
            "cut `remembered` to the last elements."
        )
    time = np.arange(1, length + 1) / (sampling_rate or 1.0)
    axes.plot(time, panel.signal, color="#b5b5b5", linewidth=1.0)
    axes.plot(time[-remembered:], panel.remembered, color=colour, linewidth=1.2)
    if remembered < length:
        axes.axvline(time[-remembered], color=_GREY, linewidth=0.7, linestyle=":")
    low, high = panel.signal.min(), panel.signal.max()
    room = 0.15 * max(high - low, 1e-12)
    axes.set_ylim(low - room, high + room)
    axes.set_xlim(0.0, time[-1])
    axes.set_title(panel.title, loc="right", fontsize=9, color=colour, pad=2)
    axes.spines[["top", "right"]].set_visible(False)
