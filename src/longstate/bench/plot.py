"""Time and memory over the size, with logarithmic axes and the exponents of growth."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from longstate._checks import InputError
from longstate.bench.case import Case
from longstate.bench.measure import Row
from longstate.bench.report import growth, slope

_STYLES = {"longstate": "-", "peer": "--", "limit": ":"}


def draw(path: Path, case: Case, rows: Sequence[Row]) -> None:
    """Draw one case: a panel of time, and one of memory if it was measured.

    Args:
        path: PNG, SVG or PDF, by its ending.
        case: What was measured.
        rows: Of this case.

    Raises:
        InputError: If matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise InputError("`draw` needs matplotlib, but it is not installed; pip install 'longstate[viz]'.") from error
    with_memory = any(row.peak for row in rows)
    figure = Figure(figsize=(11 if with_memory else 6, 5.5), layout="constrained")
    FigureCanvasAgg(figure)
    panels: list[Any] = list(figure.subplots(1, 2 if with_memory else 1, squeeze=False)[0])
    for memory, axes in zip((False, True), panels, strict=False):
        for number, side in enumerate(case.sides):
            sizes, values = growth(rows, side.name, memory=memory)
            if not sizes:
                continue
            exponent = slope(sizes, values)
            label = side.name if exponent is None else f"{side.name} ({exponent:.2f})"
            scaled = [value / 1e9 if memory else value for value in values]
            axes.loglog(sizes, scaled, _STYLES[side.role], marker="os^"[number // 10 % 3], markersize=4, label=label)
        measured = sorted({row.size for row in rows})
        axes.set_xticks(measured, [f"{size:,}" for size in measured])
        axes.minorticks_off()
        low, high = axes.get_ylim()
        axes.set_ylim(min(low, high / 30), high)  # so that what hardly changes looks so
        axes.set_xlabel(case.axis)
        axes.set_ylabel("peak memory, GB" if memory else f"seconds a {case.unit}")
        axes.grid(True, which="major", alpha=0.3)
        axes.legend(fontsize=8, ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.15))
    figure.suptitle(case.title, fontsize=10, wrap=True)
    figure.savefig(path, dpi=150)
