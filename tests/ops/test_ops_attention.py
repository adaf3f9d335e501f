"""Attention: every path against one score for every pair, and rotary positions against complex numbers."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from longstate import InputError, ops
from longstate.layers.rotary import rotate


def draw(batch: int, length: int, cached: int, heads: int = 4, kv_heads: int = 2, width: int = 3) -> list[Tensor]:
    shapes = [(batch, length, heads, width), *[(batch, cached + length, kv_heads, width)] * 2]
    return [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]


@given(
    length=st.integers(1, 40),
    cached=st.integers(0, 12),
    window=st.none() | st.integers(1, 9),
    seed=st.integers(0, 99),
)
def test_every_path_equals_the_plain_softmax(length: int, cached: int, window: int | None, seed: int) -> None:
    torch.manual_seed(seed)
    q, k, v = draw(2, length, cached)
    place = cached + torch.arange(length).expand(2, length)
    seen = torch.arange(cached + length).repeat(2, 1)
    seen[1, : cached // 2] = -1  # empty slots of a row that has seen less
    seen[0, length // 2 + cached :] = -1  # padding
    since = torch.where(torch.rand(2, length) < 0.2, place, 0).cummax(1).values
    results = []
    for backend in ("torch", "reference"):
        y = ops.attention(q, k, v, place, seen, since, window=window, backend=backend)
        loss = (y * torch.arange(y.numel()).cos().view_as(y)).sum()
        results.append([y, *torch.autograd.grad(loss, [q, k, v])])
    for found, expected in zip(*results, strict=True):
        assert torch.allclose(found, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("window", [None, 4])
def test_without_positions_rows_start_at_zero(window: int | None) -> None:
    q, k, v = draw(2, 20, 0)
    place = torch.arange(20).expand(2, 20)
    y = ops.attention(q, k, v, window=window)
    assert torch.allclose(y, ops.attention(q, k, v, place, place, window=window), rtol=0, atol=1e-13)
    assert torch.allclose(y, ops.attention(q, k, v, window=window, backend="reference"), rtol=0, atol=1e-13)


def test_a_window_keeps_memory_linear() -> None:
    """The largest tensor that a window of 64 makes at 4,096 elements is far below one score for every pair."""
    largest = 0

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            nonlocal largest
            out = func(*args, **(kwargs or {}))
            for part in out if isinstance(out, tuple | list) else (out,):
                if isinstance(part, Tensor):
                    largest = max(largest, part.numel())
            return out

    q, k, v = (part.detach() for part in draw(1, 4096, 0, heads=1, kv_heads=1))
    with Watch():
        ops.attention(q, k, v, window=64)
    assert 4096 * 64 < largest < 4096 * 64 * 4


def test_rotation_is_a_complex_product_and_depends_on_differences_only() -> None:
    x, y = torch.randn(2, 5, 1, 8, dtype=torch.float64), torch.randn(2, 5, 1, 8, dtype=torch.float64)
    place = torch.arange(5).expand(2, 5)
    turn = 10_000.0 ** -(torch.arange(4, dtype=torch.float64) / 4)
    expected = torch.complex(*x.chunk(2, -1)) * torch.exp(1j * place[..., None, None] * turn)
    assert torch.allclose(torch.complex(*rotate(x, place, 10_000.0).chunk(2, -1)), expected, atol=1e-14)
    near = torch.einsum("blhw,bmhw->blm", rotate(x, place, 100.0), rotate(y, place, 100.0))
    far = torch.einsum("blhw,bmhw->blm", rotate(x, place + 1000, 100.0), rotate(y, place + 1000, 100.0))
    assert torch.allclose(near, far, atol=1e-10)


def test_errors() -> None:
    q, k, v = draw(1, 4, 0, heads=4, kv_heads=3)
    with pytest.raises(InputError, match=r"`q` has shape \(1, 4, 4, 3\), `k` \(1, 4, 3, 3\) .* a divisor of the heads"):
        ops.attention(q, k, v)
