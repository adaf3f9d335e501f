"""How the cost of a training step grows with the batch, the width, the size of the state and the threads.

`python benchmarks/scaling.py` measures S4D, S4, S5, Mamba and Mamba-2 around B = 4, L = 2048, d_model = 256 and the
default size of the state: one of these goes up while the others stay, float32, medians of alternating rounds in one
process.
The power is that of a fit over the three largest sizes. Names of layers limit it.
"""

import math
import platform
import sys
import time
from statistics import median
from typing import Any, NamedTuple

import torch
from torch import nn

from longstate import layers, ops

BATCH, LENGTH, D_MODEL = 4, 2048, 256
BATCHES, WIDTHS, THREADS = (1, 2, 4, 8), (64, 128, 256, 512), (1, 2)
ROUNDS = 5
STATES = {
    "S4D": (16, 32, 64, 128),
    "S4": (16, 32, 64),
    "S5": (64, 128, 256),
    "Mamba": (8, 16, 32),
    "Mamba2": (32, 64, 128),
}


class Setting(NamedTuple):
    """One size of each kind; None is a layer's default state."""

    batch: int = BATCH
    d_model: int = D_MODEL
    d_state: int | None = None
    threads: int = 2


def prepare(kind: str, setting: Setting) -> tuple[nn.Module, torch.Tensor]:
    """A layer and its input."""
    torch.manual_seed(0)
    options: dict[str, Any] = {} if setting.d_state is None else {"d_state": setting.d_state}
    layer = getattr(layers, kind)(setting.d_model, **options)
    return layer, torch.randn(setting.batch, LENGTH, setting.d_model, requires_grad=True)


def step(layer: nn.Module, x: torch.Tensor, threads: int) -> float:
    """Seconds of a forward and a backward pass."""
    torch.set_num_threads(threads)
    layer.zero_grad()
    begun = time.perf_counter()
    layer(x).sum().backward()
    return time.perf_counter() - begun


def times(kind: str, settings: list[Setting]) -> list[float]:
    """The median of each setting, in alternating rounds after one for warmth."""
    made = [prepare(kind, setting) for setting in settings]
    seconds: list[list[float]] = [[] for _ in settings]
    for number in range(ROUNDS + 1):
        for place, ((layer, x), setting) in enumerate(zip(made, settings, strict=True)):
            taken = step(layer, x, setting.threads)
            if number:
                seconds[place].append(taken)
    return [median(one) for one in seconds]


def power(sizes: tuple[int, ...], seconds: list[float]) -> float:
    """The slope of a straight line through the logarithms."""
    x, y = [math.log(size) for size in sizes[-3:]], [math.log(one) for one in seconds[-3:]]
    middle, height = sum(x) / len(x), sum(y) / len(y)
    return sum((a - middle) * (b - height) for a, b in zip(x, y, strict=True)) / sum((a - middle) ** 2 for a in x)


def row(kind: str, sizes: tuple[int, ...], settings: list[Setting]) -> str:
    """A line: times in milliseconds, and the power."""
    seconds = times(kind, settings)
    cells = ", ".join(f"{size}: {1e3 * one:.0f}" for size, one in zip(sizes, seconds, strict=True))
    return f"{cells} ({power(sizes, seconds):.2f})"


def main() -> None:
    """Print the table."""
    kinds = sys.argv[1:] or list(STATES)
    unknown = [kind for kind in kinds if kind not in STATES]
    if unknown:
        raise SystemExit(f"{', '.join(unknown)} is no layer of this benchmark; choose from {', '.join(STATES)}.")
    ops.set_up_allocator()
    print(f"{platform.machine()}, torch {torch.__version__}, {time.strftime('%Y-%m-%d')}")
    print(f"B = {BATCH}, L = {LENGTH:,}, d_model = {D_MODEL}; ms (power)\n")
    print("| layer | batch | d_model | d_state | threads |\n|---|---|---|---|---|")
    for kind in kinds:
        cells = (
            row(kind, BATCHES, [Setting(batch=size) for size in BATCHES]),
            row(kind, WIDTHS, [Setting(d_model=size) for size in WIDTHS]),
            row(kind, STATES[kind], [Setting(d_state=size) for size in STATES[kind]]),
            row(kind, THREADS, [Setting(threads=size) for size in THREADS]),
        )
        print(f"| {kind} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
