"""What no implementation of these sizes passes by much: its matrix products alone, and copying inputs and outputs."""

import time
from collections.abc import Sequence
from typing import NamedTuple

import torch

from longstate.bench.case import Work


class Product(NamedTuple):
    """`times` matrix products (m, k) x (k, n), each with its own operands."""

    m: int
    k: int
    n: int
    times: int = 1

    @property
    def flops(self) -> int:
        """Multiplications and additions of one pass."""
        return 2 * self.m * self.k * self.n * self.times


def products(shapes: Sequence[Product], *, copied: int = 0, backward: bool) -> Work:
    """The bare products of a layer, written into memory that is there, then a copy of so many float32 numbers.

    Args:
        shapes: The products of the forward pass.
        copied: Numbers that go in and out.
        backward: Whether to do the two products of the gradient of each, and the copy twice.

    Returns:
        The work.
    """
    operands = [_operands(shape) for shape in shapes]
    gradients = [(torch.empty_like(a), torch.empty_like(b.mT)) for a, b, _ in operands] if backward else []
    source, target = torch.randn(copied), torch.empty(copied)

    def run() -> None:
        for a, b, c in operands:
            torch.matmul(a, b, out=c)
        for (a, b, c), (grad_a, grad_b) in zip(operands, gradients, strict=False):
            torch.matmul(c, b.mT, out=grad_a)
            torch.matmul(c.mT, a, out=grad_b)
        for _ in range(2 if backward else 1):
            target.copy_(source)

    return run


def _operands(shape: Product) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    lead = (shape.times,) if shape.times > 1 else ()
    m, k, n = shape.m, shape.k, shape.n
    # The second one lies in memory as the weight of a linear map does.
    return torch.randn(*lead, m, k), torch.randn(*lead, n, k).mT, torch.empty(*lead, m, n)


def sgemm_speed(size: int = 1536, runs: int = 5) -> float:
    """GFLOP/s of the best of several square float32 products."""
    a, b, c = (torch.randn(size, size) for _ in range(3))
    return 2e-9 * size**3 / _least(lambda: torch.matmul(a, b, out=c), runs)


def copy_speed(numbers: int = 1 << 26, runs: int = 5) -> float:
    """GB/s, read and written together, of the best of several copies of float32 numbers (256 MB by default)."""
    source, target = torch.randn(numbers), torch.empty(numbers)
    return 8e-9 * numbers / _least(lambda: target.copy_(source), runs)


def _least(work: Work, runs: int) -> float:
    work()
    seconds = []
    for _ in range(runs):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return min(seconds)
