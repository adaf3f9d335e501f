"""Pictures of a model at work and of a layer as a filter. matplotlib is imported when one is drawn."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from longstate._checks import InputError
from longstate.diagnostics.response import frequency_response, time_constants
from longstate.layers import LTILayer
from longstate.models import atomic

_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c6d31", "#525252")
_GREY = "#6b6b6b"
_LOWEST, _POINTS = 1e-5, 1000  # of a frequency axis: cycles a sample, and how many
_SHOWN = 5  # features that have a colour


def draw_stream(
    path: str | Path,
    probabilities: np.ndarray,
    x: np.ndarray,
    *,
    classes: Sequence[str],
    channels: Sequence[str],
    sampling_rate: float | None = None,
    title: str = "",
) -> None:
    """Draw what a model said while a recording came in: the probabilities, and below them the signal.

    Args:
        path: Of the picture; its ending (.png, .svg, .pdf) says which kind.
        probabilities: After every step (length, classes).
        x: The recording (length, channels); each channel is drawn in a lane of its own, from its least to its largest.
        classes: Names of the columns of `probabilities`.
        channels: Names of the columns of `x`.
        sampling_rate: Steps a second in Hz; the axis counts steps without it.
        title: What stands above.

    Raises:
        InputError: If lengths or names do not fit, or matplotlib is missing.

    Example:
        >>> import tempfile
        >>> import numpy as np
        >>> from longstate.diagnostics.plots import draw_stream
        >>> p, x = np.full((50, 2), 0.5), np.random.default_rng(0).normal(size=(50, 3))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     draw_stream(f"{folder}/stream.png", p, x, classes=("rest", "walk"), channels=("x", "y", "z"))
    """
    if len(probabilities) != len(x) or probabilities.shape[1] != len(classes) or x.shape[1] != len(channels):
        raise InputError(
            f"`probabilities` has shape {probabilities.shape} and `x` {x.shape}, but (length, {len(classes)}) and "
            f"(length, {len(channels)}) are needed; give both for the same recording."
        )
    figure = _figure(9.0, 3.4 + 0.42 * len(channels))
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3.0, 0.45 * len(channels) + 0.6))
    time = np.arange(1, len(x) + 1) / (sampling_rate or 1.0)
    _draw_probabilities(above, time, probabilities, classes)
    _draw_lanes(below, time, x, channels)
    below.set_xlabel("seconds" if sampling_rate else "steps")
    below.set_xlim(0.0, time[-1])
    if title:
        above.set_title(title, loc="left", fontsize=11)
    _write(figure, path)


def draw_confusion(path: str | Path, confusion: np.ndarray, *, classes: Sequence[str], title: str = "") -> None:
    """Draw a confusion matrix, its rows (the truth) as shares.

    Args:
        path: Of the picture.
        confusion: Counts (classes, classes), the truth along rows.
        classes: Their names.
        title: What stands above.

    Raises:
        InputError: If the names do not fit, or matplotlib is missing.
    """
    if confusion.shape != (len(classes), len(classes)):
        raise InputError(
            f"`confusion` has shape {confusion.shape}, but {(len(classes), len(classes))} is needed for the "
            f"{len(classes)} classes; give one row and one column for each."
        )
    side = 1.6 + 0.5 * len(classes)
    figure = _figure(side + 0.4, side)
    axes = figure.subplots()
    shares = confusion / np.maximum(confusion.sum(1, keepdims=True), 1)
    axes.imshow(shares, cmap="Blues", vmin=0.0, vmax=1.0)
    for row, column in zip(*np.nonzero(confusion), strict=True):
        colour = "white" if shares[row, column] > 0.55 else "black"
        axes.text(column, row, str(confusion[row, column]), ha="center", va="center", color=colour, fontsize=9)
    axes.set_xticks(range(len(classes)), classes, rotation=45, ha="right")
    axes.set_yticks(range(len(classes)), classes)
    axes.set_xlabel("answered")
    axes.set_ylabel("truth")
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    if title:
        axes.set_title(title, loc="left", fontsize=11)
    _write(figure, path)


def draw_response(
    path: str | Path, layer: LTILayer, *, sampling_rate: float | None = None, rate: float | None = None, title: str = ""
) -> None:
    """Draw a layer as a filter bank: what each feature passes, and how long its modes remember.

    Args:
        path: Of the picture; its ending (.png, .svg, .pdf) says which kind.
        layer: An LTI layer; several channels are joined by their root mean square.
        sampling_rate: Samples a second; the axes count in Hz and seconds with it, in samples without.
        rate: As of `layer.forward`.
        title: What stands above.

    Raises:
        InputError: If the layer has no fixed linear system, or matplotlib is missing.

    Example:
        >>> import tempfile
        >>> from longstate import S4D
        >>> from longstate.diagnostics.plots import draw_response
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     draw_response(f"{folder}/response.png", S4D(8, 16), sampling_rate=50.0)
    """
    per_second = 1.0 if sampling_rate is None else sampling_rate
    frequencies = torch.logspace(np.log10(_LOWEST), np.log10(0.5), _POINTS, dtype=torch.float64) * per_second
    response = frequency_response(layer, frequencies, sampling_rate=per_second, rate=rate)
    gain = response.abs().square().mean(0).sqrt().numpy(force=True)
    memory = time_constants(layer, sampling_rate=per_second, rate=rate).seconds.numpy(force=True)
    order = np.argsort(-memory.max(1))  # the features that remember longest first
    figure = _figure(9.0, 6.4)
    above, below = figure.subplots(2, 1, height_ratios=(3.0, 2.0))
    slowest = memory.max(1)[order]
    names = [f"{value:.3g} {'s' if sampling_rate else 'samples'}" for value in slowest]
    spread = np.linspace(0, len(order) - 1, min(len(order), _SHOWN)).round().astype(int)
    shown = dict(zip(spread.tolist(), _COLOURS, strict=False))
    _draw_gains(above, frequencies.numpy(), gain[order], shown, names)
    _draw_memory(below, memory[order], slowest, shown, layer.system().is_dense)
    above.set_xlabel("Hz" if sampling_rate else "cycles a sample")
    below.set_ylabel("time constant, " + ("seconds" if sampling_rate else "samples"))
    if title:
        above.set_title(title, loc="left", fontsize=11)
    _write(figure, path)


def _draw_gains(
    axes: Any, frequencies: np.ndarray, gain: np.ndarray, shown: Mapping[int, str], names: list[str]
) -> None:
    """A line a feature in decibels; those that are shown have a colour and the name of their memory."""
    decibels = 20 * np.log10(np.maximum(gain, 1e-12))
    for rank, line in enumerate(decibels):
        if rank in shown:
            axes.plot(frequencies, line, color=shown[rank], linewidth=1.5, zorder=2, label=names[rank])
        else:
            axes.plot(frequencies, line, color="#d6d6d6", linewidth=0.7, zorder=1)
    top = decibels.max()
    axes.set_ylim(max(decibels.min(), top - 80) - 3, top + 3)
    axes.set_xscale("log")
    axes.set_xlim(frequencies[0], frequencies[-1])
    axes.set_ylabel("gain, dB")
    axes.grid(color="#ececec")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(title="slowest mode", loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, fontsize=9)


def _draw_memory(
    axes: Any, memory: np.ndarray, slowest: np.ndarray, shown: Mapping[int, str], slowest_only: bool
) -> None:
    """Every mode a dot above its feature; of a dense system the slowest, the only one that rounding leaves alone."""
    rank = np.arange(1, len(memory) + 1)
    if not slowest_only:
        finite = np.where(np.isfinite(memory) & (memory > 0), memory, np.nan)
        axes.plot(np.repeat(rank, memory.shape[1]), finite.ravel(), ".", color="#b0b0b0", markersize=3, zorder=1)
    colours = [shown.get(at, _GREY) for at in range(len(memory))]
    axes.scatter(rank, slowest, c=colours, s=22, zorder=2)
    axes.set_yscale("log")
    axes.minorticks_off()
    axes.set_xlabel("features, those that remember longest first")
    axes.grid(axis="y", color="#ececec")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _draw_probabilities(axes: Any, time: np.ndarray, probabilities: np.ndarray, classes: Sequence[str]) -> None:
    """A line a class; those that ever stand out have a colour and their name at the end of the line."""
    final = probabilities[-1]
    shown = sorted(np.argsort(-probabilities.max(0))[: len(_COLOURS)], key=lambda column: -final[column])
    for column in range(probabilities.shape[1]):
        if column not in shown:
            axes.plot(time, probabilities[:, column], color="#d0d0d0", linewidth=0.8)
    for rank, column in enumerate(shown):
        colour = _COLOURS[rank]
        axes.plot(
            time,
            probabilities[:, column],
            color=colour,
            linewidth=2.2 if rank == 0 else 1.3,
            zorder=3 if rank == 0 else 2,
            label=f"{classes[column]}  {final[column]:.2f}",
        )
    axes.set_ylim(-0.02, 1.02)
    axes.set_ylabel("probability")
    axes.grid(axis="y", color="#e6e6e6")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(
        title="at the end", loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, fontsize=9, title_fontsize=9
    )


def _draw_lanes(axes: Any, time: np.ndarray, x: np.ndarray, channels: Sequence[str]) -> None:
    """Each channel between its least and its largest value, the first on top."""
    low, high = x.min(0), x.max(0)
    spread = np.where(high > low, high - low, 1.0)
    count = x.shape[1]
    for column in range(count):
        lane = count - 1 - column
        axes.plot(time, lane + 0.08 + 0.84 * (x[:, column] - low[column]) / spread[column], color=_GREY, linewidth=0.7)
        axes.axhline(lane, color="#ededed", linewidth=0.8, zorder=0)
        ends = f"{low[column]:.3g} to {high[column]:.3g}"
        axes.annotate(
            ends, (1.015, lane + 0.5), xycoords=("axes fraction", "data"), va="center", fontsize=8, color=_GREY
        )
    axes.set_ylim(0.0, count)
    axes.set_yticks([count - 1 - column + 0.5 for column in range(count)], channels)
    axes.tick_params(axis="y", length=0)
    axes.spines[["top", "right", "left"]].set_visible(False)


def _figure(width: float, height: float) -> Any:
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise InputError(
            "a picture was asked for, but matplotlib is not installed; run `pip install 'longstate[viz]'`."
        ) from error
    return Figure(figsize=(width, height), layout="constrained")


def _write(figure: Any, path: str | Path) -> None:
    path = Path(path)
    content = io.BytesIO()
    figure.savefig(content, format=path.suffix.lstrip(".") or "png", dpi=130)
    atomic.write(path, content.getvalue())
