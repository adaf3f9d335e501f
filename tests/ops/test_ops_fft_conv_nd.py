"""The convolution over grids against its sum, in value and gradient, on every border."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from longstate import InputError, ops

GRIDS = [(7,), (1,), (4, 6), (5, 3), (1, 4), (3, 4, 2)]


def example(grid: tuple[int, ...], rank: int = 2, taps: int | None = None) -> tuple[Tensor, list[Tensor]]:
    u = torch.randn(2, *grid, 3, dtype=torch.float64)
    return u, [torch.randn(rank, 3, n if taps is None else taps, dtype=torch.float64) for n in grid]


def close(a: Tensor, b: Tensor, tolerance: float = 1e-12) -> bool:
    return bool((a - b).abs().max() <= tolerance * b.abs().max().clamp(min=1.0))


@pytest.mark.parametrize("grid", GRIDS, ids=str)
@given(taps=st.integers(1, 12), rank=st.integers(1, 3), origin=st.integers(0, 11))
def test_convolution_is_its_sum(grid: tuple[int, ...], taps: int, rank: int, origin: int) -> None:
    u, factors = example(grid, rank, taps)
    origins = [(origin + axis) % taps for axis in range(len(grid))]
    D = torch.randn(3, dtype=torch.float64)
    y = ops.fft_conv_nd(u, factors, origins=origins, skip=D)
    assert y.shape == u.shape
    assert close(y, ops.fft_conv_nd(u, factors, origins=origins, skip=D, backend="reference"))


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_one_axis_after_the_other_is_the_same(grid: tuple[int, ...]) -> None:
    """An oracle that shares nothing with the operator: each axis as its own product with a Toeplitz matrix."""
    u, factors = example(grid, rank=1)
    origins = [n // 2 for n in grid]
    expected = u
    for axis, (factor, origin) in enumerate(zip(factors, origins, strict=True)):
        n = grid[axis]
        toeplitz = torch.zeros(3, n, n, dtype=torch.float64)
        for t in range(n):
            for s in range(n):
                if 0 <= t - s + origin < factor.shape[-1]:
                    toeplitz[:, t, s] = factor[0, :, t - s + origin]
        expected = torch.einsum("hts,...sh->...th", toeplitz, expected.movedim(axis + 1, -2)).movedim(-2, axis + 1)
    assert close(ops.fft_conv_nd(u, factors, origins=origins), expected)


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_gradients(grid: tuple[int, ...]) -> None:
    u, factors = example(grid)
    origins = [n // 3 for n in grid]
    D = torch.randn(3, dtype=torch.float64)
    inputs = tuple(part.requires_grad_() for part in (u, D, *factors))

    def run(backend: str, u: Tensor, D: Tensor, *factors: Tensor) -> Tensor:
        return ops.fft_conv_nd(u, factors, origins=origins, skip=D, backend=backend)

    assert torch.autograd.gradcheck(lambda *args: run("torch", *args), inputs, fast_mode=True)
    weights = torch.randn_like(u)
    slopes = [
        torch.autograd.grad((run(backend, *inputs) * weights).sum(), inputs) for backend in ("torch", "reference")
    ]
    assert all(close(a, b) for a, b in zip(*slopes, strict=True))


def test_one_dimension_is_the_causal_convolution() -> None:
    u, (factor,) = example((50,), rank=1)
    assert close(ops.fft_conv_nd(u, [factor]), ops.fft_conv(u, factor)[:, :, 0])


def test_nothing_in_is_nothing_out() -> None:
    u, factors = example((4, 6))
    assert ops.fft_conv_nd(u[:, :0], factors).shape == (2, 0, 6, 3)
    assert ops.fft_conv_nd(u[:0], factors).shape == (0, 4, 6, 3)


def test_autocast_and_half_precision_change_nothing_inside() -> None:
    u, factors = example((8, 9))
    u, factors = u.float(), [factor.float() for factor in factors]
    plain = ops.fft_conv_nd(u, factors)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(ops.fft_conv_nd(u, factors), plain)
    half = ops.fft_conv_nd(u.bfloat16(), factors)
    assert half.dtype is torch.bfloat16
    assert (half.float() - ops.fft_conv_nd(u.bfloat16().float(), factors)).abs().max() <= 2**-8 * plain.abs().max()


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda u, k: ops.fft_conv_nd(u, k[:1]), r"`u` has shape \(2, 4, 6, 3\) and `factors` \[\(2, 3, 4\)\], but"),
        (
            lambda u, k: ops.fft_conv_nd(u, [k[0], k[1][:1]]),
            r"one \(rank, H, taps\) for each axis of the grid are needed",
        ),
        (
            lambda u, k: ops.fft_conv_nd(u, k, origins=[0, 6]),
            r"`origins` is \[0, 6\], but for each axis the index of one",
        ),
        (
            lambda u, k: ops.fft_conv_nd(u, k, skip=torch.ones(2)),
            r"`skip` has shape \(2,\), but one number for each of the 3",
        ),
        (lambda u, k: ops.fft_conv_nd(u, k, backend="cuda"), "`backend` is 'cuda', but fft_conv_nd has auto, torch"),
    ],
)
def test_errors_say_what_to_do(call, text: str) -> None:
    with pytest.raises(InputError, match=text):
        call(*example((4, 6)))
