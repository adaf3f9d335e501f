"""Long causal filters: the fast paths against the loop, in value, gradient and window, and their cost."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from longstate import InputError, ops
from longstate.ops.long_conv import _fft_size


def close(a: Tensor, b: Tensor, tolerance: float = 1e-11) -> bool:
    if a.shape != b.shape or a.numel() == 0:
        return a.shape == b.shape
    return bool((a - b).abs().max() <= tolerance * b.abs().max().clamp(min=1.0))


def draw(batch: int, length: int, taps: int, channels: int = 2, features: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    """u, K, tail."""
    shapes = ((batch, length, features), (channels, features, taps), (batch, taps - 1, features))
    u, K, tail = (torch.randn(*shape, dtype=torch.float64) for shape in shapes)
    return u, K, tail


@given(
    length=st.integers(0, 400),
    taps=st.integers(1, 40),
    padded=st.booleans(),
    packed=st.booleans(),
    seed=st.integers(0, 99),
)
def test_it_is_the_loop(length: int, taps: int, padded: bool, packed: bool, seed: int) -> None:
    torch.manual_seed(seed)
    u, K, tail = draw(5, length, taps)
    lengths = torch.tensor([0, length, length // 2, max(length - 1, 0), min(taps - 1, length)]) if padded else None
    starts = torch.rand(5, length) < 0.1 if packed else None
    valid = torch.ones(5, length, dtype=torch.bool) if lengths is None else torch.arange(length) < lengths[:, None]
    u = torch.where(valid[..., None], u, torch.nan)
    found, expected = (
        ops.long_conv_scan(u, K, tail, lengths=lengths, starts=starts, backend=backend)
        for backend in ("torch", "reference")
    )
    assert close(found[0][valid], expected[0][valid])
    assert torch.equal(found[1], expected[1])
    found, expected = (
        ops.long_conv(u, K, lengths=lengths, starts=starts, backend=backend)[valid]
        for backend in ("torch", "reference")
    )
    assert close(found, expected)


@pytest.mark.parametrize(("length", "taps"), [(300, 5), (300, 290), (1000, 33), (7, 200)])
def test_blocks_and_single_transforms_agree(length: int, taps: int) -> None:
    u, K, tail = draw(2, length, taps)
    y, _ = ops.long_conv_scan(u, K, tail)
    whole = ops.fft_conv(torch.cat([tail, u], dim=1), K)[:, taps - 1 :]
    assert close(y, whole)
    assert close(ops.long_conv(u, K), ops.fft_conv(u, K))


def test_both_ways_to_convolve_are_taken() -> None:
    assert _fft_size(4, 300) < 300
    assert _fft_size(289, 300) >= 589


def test_steps_are_the_whole() -> None:
    u, K, tail = draw(2, 20, 7)
    whole, last = ops.long_conv_scan(u, K, tail)
    taps = ops.long_conv_constants(K)
    for t in range(20):
        plain = ops.long_conv_step(u[:, t], tail, taps, backend="reference")
        y, tail = ops.long_conv_step(u[:, t], tail, taps)
        assert close(y, whole[:, t])
        assert close(plain[0], y)
        assert torch.equal(plain[1], tail)
    assert torch.equal(tail, last)


@pytest.mark.parametrize(("length", "taps"), [(9, 4), (5, 9), (180, 3), (6, 1)])
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("packed", [False, True])
def test_gradients_by_input_filter_and_window(length: int, taps: int, padded: bool, packed: bool) -> None:
    arguments = tuple(part.requires_grad_() for part in draw(2, length, taps, features=2))
    lengths = torch.tensor([length, 2]) if padded else None
    starts = torch.zeros(2, length, dtype=torch.bool) if packed else None
    if starts is not None:
        starts[0, 3] = starts[1, 1] = True

    def valid(y: Tensor) -> Tensor:
        return y if lengths is None else torch.where((torch.arange(length) < lengths[:, None])[..., None, None], y, 0.0)

    def run(backend: str, u: Tensor, K: Tensor, tail: Tensor) -> tuple[Tensor, ...]:
        given = {"lengths": lengths, "starts": starts, "backend": backend}
        y, new = ops.long_conv_scan(u, K, tail, **given)
        return valid(y), new, valid(ops.long_conv(u, K, **given))

    assert torch.autograd.gradcheck(lambda *parts: run("torch", *parts), arguments, fast_mode=True)
    slopes = []
    for backend in ("torch", "reference"):
        y, new, plain = run(backend, *arguments)
        total = y.square().sum() + new.sin().sum() + plain.cos().sum()
        slopes.append(torch.autograd.grad(total, arguments, allow_unused=True, materialize_grads=True))
    assert all(close(a, b) for a, b in zip(*slopes, strict=True))


def test_float32_gradients_of_blocks() -> None:
    exact = tuple(part.requires_grad_() for part in draw(2, 500, 20))
    single = tuple(part.detach().float().requires_grad_() for part in exact)
    slopes = []
    for arguments, backend in ((exact, "reference"), (single, "torch")):
        y, tail = ops.long_conv_scan(*arguments, backend=backend)
        weights = torch.cos(torch.arange(y.numel(), dtype=y.dtype)).reshape(y.shape)
        slopes.append(torch.autograd.grad((y * weights).sum() + tail.sin().sum(), arguments))
    for expected, found in zip(*slopes, strict=True):
        assert close(found.double(), expected, 1e-5)


@given(taps=st.integers(1, 5000), length=st.integers(1, 1 << 20))
def test_work_is_linear_in_the_length(taps: int, length: int) -> None:
    size = _fft_size(taps - 1, length)
    outputs = size - taps + 1
    blocks = -(-length // outputs)
    assert blocks * outputs >= length
    assert blocks == 1 or size >= 2 * taps - 1
    assert blocks * size <= 2 * (length + max(taps, 64)) * 2


def test_a_million_elements_through_four_thousand_taps() -> None:
    u, K = torch.randn(1, 1 << 20, 1), torch.randn(1, 1, 4096)
    y = ops.long_conv(u, K)[0, :, 0, 0]
    for t in (0, 4095, 4096, 500_000, (1 << 20) - 1):
        reached = u[0, max(t - 4095, 0) : t + 1, 0].flip(0).double()
        assert abs(float(y[t] - reached @ K[0, 0, : len(reached)].double())) <= 1e-5 * float(y.abs().max())


def test_types() -> None:
    u, K, tail = (part.float() for part in draw(2, 40, 9))
    y, new = ops.long_conv_scan(u.bfloat16(), K, tail)
    exact, _ = ops.long_conv_scan(u.bfloat16().double(), K.double(), tail.double(), backend="reference")
    assert (y.dtype, new.dtype) == (torch.bfloat16, torch.float32)
    assert (y.double() - exact).abs().max() <= 2**-8 * exact.abs().max()


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda u, K: ops.long_conv(u, K[0]), r"and `K` \(3, 4\), but \(batch, length, H\) and \(channels, H, taps\)"),
        (lambda u, K: ops.long_conv(u[..., :2], K), "with one H are needed; check which axis is H"),
        (lambda u, K: ops.long_conv_scan(u, K, u), r"`tail` has shape \(2, 5, 3\), but \(2, 3, 3\) is needed"),
        (lambda u, K: ops.long_conv(u, K, lengths=torch.tensor([1, 6])), "row 1 has 6"),
        (lambda u, K: ops.long_conv(u, K, starts=torch.ones(2, 5)), "mark the first element of each packed"),
        (lambda u, K: ops.long_conv_step(u, u, K), "take the constants from `long_conv_constants`"),
        (lambda u, K: ops.long_conv(u, K, backend="cuda"), "long_conv has auto, torch, reference"),
    ],
)
def test_errors_say_what_to_do(call, text: str) -> None:
    with pytest.raises(InputError, match=text):
        call(torch.randn(2, 5, 3), torch.randn(2, 3, 4))
