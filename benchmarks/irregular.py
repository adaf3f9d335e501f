"""What an interval for every element costs: a training step of S4D, S5 and LRU against one of the same rate throughout.

`python benchmarks/irregular.py` measures at B = 8, L = 2048, d_model = 128, float32, S4D with a state of 16 and of 64;
`quick` at a small size. Medians of alternating rounds in one process, ratios within a round. The last two columns are
the same irregular step in PyTorch alone, as where no compiled kernel was built.
"""

import platform
import sys
import time
from functools import partial
from statistics import median
from typing import Any

import torch

from longstate import LRU, S4D, S5, ops
from longstate.bench.case import Work
from longstate.bench.layer_work import without_kernels
from longstate.layers import CausalLayer

FULL, QUICK = (8, 2048, 128), (2, 64, 8)
ROUNDS = 5


def train(layer: CausalLayer[Any], x: torch.Tensor, rate: torch.Tensor | None) -> Work:
    """A forward and a backward pass."""

    def run() -> None:
        layer.zero_grad()
        layer(x, rate=rate).sum().backward()

    return run


def seconds(work: Work) -> float:
    """Of one run."""
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def row(name: str, layer: CausalLayer[Any], sizes: tuple[int, int, int]) -> str:
    """A line of the table."""
    batch, length, d_model = sizes
    x, rate = torch.randn(batch, length, d_model, requires_grad=True), torch.rand(batch, length) + 0.5
    irregular = partial(train, layer, x, rate)
    works = train(layer, x, None), irregular(), without_kernels(irregular)
    rounds = [[seconds(work) for work in works] for _ in range(ROUNDS + 1)][1:]
    regular, each, alone = (1e3 * median(column) for column in zip(*rounds, strict=True))
    times = median(each / regular for regular, each, _ in rounds)
    slower = median(alone / each for _, each, alone in rounds)
    return f"| {name} | {regular:.3g} | {each:.3g} | {times:.1f} | {alone:.3g} | {slower:.1f} |"


def main() -> None:
    """Print the table."""
    if sys.argv[1:] not in ([], ["quick"]):
        raise SystemExit(f"{' '.join(sys.argv[1:])} is no option of this benchmark; say quick, or nothing.")
    batch, length, d_model = sizes = QUICK if sys.argv[1:] else FULL
    ops.set_up_allocator()
    torch.manual_seed(0)
    print(f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}, {time.strftime('%F')}")
    print(f"B = {batch}, L = {length:,}, d_model = {d_model}, forward and backward\n")
    print("| layer | one rate, ms | intervals, ms | times | without kernels, ms | times intervals |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    for name, layer in (
        ("S4D, N = 16", S4D(d_model, 16)),
        ("S4D, N = 64", S4D(d_model, 64)),
        ("S5, N = 64", S5(d_model, 64)),
        ("LRU, N = 64", LRU(d_model, 64)),
    ):
        print(row(name, layer, sizes), flush=True)


if __name__ == "__main__":
    main()
