"""Short causal convolutions: the fast path against the loop and against torch, in value, gradient and tail."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from longstate import InputError, ops


def close(a: Tensor, b: Tensor, tolerance: float = 1e-11) -> bool:
    if a.shape != b.shape or a.numel() == 0:
        return a.shape == b.shape
    return bool((a - b).abs().max() <= tolerance * b.abs().max().clamp(min=1.0))


def draw(
    batch: int, length: int, taps: int, features: int = 3, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, ...]:
    """x, weight, bias, tail."""
    shapes = ((batch, length, features), (features, taps), (features,), (batch, taps - 1, features))
    return tuple(torch.randn(*shape, dtype=dtype) for shape in shapes)


@pytest.mark.parametrize("activation", [None, "silu"])
@given(
    length=st.integers(0, 20),
    taps=st.integers(1, 6),
    padded=st.booleans(),
    packed=st.booleans(),
    biased=st.booleans(),
    seed=st.integers(0, 99),
)
def test_it_is_the_loop(
    activation: str | None, length: int, taps: int, padded: bool, packed: bool, biased: bool, seed: int
) -> None:
    torch.manual_seed(seed)
    x, weight, bias, tail = draw(5, length, taps)
    lengths = torch.tensor([0, length, length // 2, max(length - 1, 0), min(taps - 1, length)]) if padded else None
    starts = torch.rand(5, length) < 0.2 if packed else None
    valid = torch.ones(5, length, dtype=torch.bool) if lengths is None else torch.arange(length) < lengths[:, None]
    x = torch.where(valid[..., None], x, torch.nan)
    found, expected = (
        ops.causal_conv1d(
            x,
            weight,
            bias if biased else None,
            tail,
            activation=activation,
            lengths=lengths,
            starts=starts,
            backend=backend,
        )
        for backend in ("torch", "reference")
    )
    assert close(found[0][valid], expected[0][valid])
    assert torch.equal(found[1], expected[1])


def test_it_is_torchs_convolution() -> None:
    x, weight, bias, _ = draw(2, 30, 4, dtype=torch.float32)
    y, tail = ops.causal_conv1d(x, weight, bias, activation="silu")
    expected = F.silu(F.conv1d(F.pad(x.mT, (3, 0)), weight[:, None], bias, groups=3)).mT
    assert close(y, expected, 1e-6)
    assert torch.equal(tail, x[:, -3:])


@pytest.mark.parametrize("activation", [None, "silu"])
def test_steps_are_the_whole(activation: str | None) -> None:
    x, weight, bias, tail = draw(2, 9, 4)
    whole, last = ops.causal_conv1d(x, weight, bias, tail, activation=activation)
    for t in range(9):
        plain = ops.causal_conv1d_step(x[:, t], tail, weight, bias, activation=activation, backend="reference")
        y, tail = ops.causal_conv1d_step(x[:, t], tail, weight, bias, activation=activation)
        assert close(y, whole[:, t])
        assert close(plain[0], y)
        assert torch.equal(plain[1], tail)
    assert torch.equal(tail, last)


@pytest.mark.parametrize("activation", [None, "silu"])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("padded", [False, True])
def test_gradients_by_input_filter_and_tail(activation: str | None, packed: bool, padded: bool) -> None:
    arguments = tuple(part.requires_grad_() for part in draw(2, 7, 4, features=2))
    lengths = torch.tensor([7, 2]) if padded else None
    starts = torch.zeros(2, 7, dtype=torch.bool) if packed else None
    if starts is not None:
        starts[0, 3] = starts[1, 1] = True

    def run(backend: str, *arguments: Tensor) -> tuple[Tensor, Tensor]:
        y, tail = ops.causal_conv1d(*arguments, activation=activation, lengths=lengths, starts=starts, backend=backend)
        return (y if lengths is None else torch.where(torch.arange(7)[:, None] < lengths[:, None, None], y, 0.0)), tail

    assert torch.autograd.gradcheck(lambda *parts: run("torch", *parts), arguments, fast_mode=True)
    slopes = []
    for backend in ("torch", "reference"):
        y, tail = run(backend, *arguments)
        slopes.append(torch.autograd.grad(y.square().sum() + tail.sin().sum(), arguments))
    assert all(close(a, b) for a, b in zip(*slopes, strict=True))


@pytest.mark.parametrize("activation", [None, "silu"])
@pytest.mark.parametrize("length", [100, 700])
def test_float32_gradients_are_those_of_the_loop_in_float64(activation: str | None, length: int) -> None:
    exact = tuple(part.requires_grad_() for part in draw(3, length, 4))
    single = tuple(part.detach().float().requires_grad_() for part in exact)
    slopes = []
    for arguments, backend in ((exact, "reference"), (single, "torch")):
        y, tail = ops.causal_conv1d(*arguments, activation=activation, backend=backend)
        weights = torch.cos(torch.arange(y.numel(), dtype=y.dtype)).reshape(y.shape)
        slopes.append(torch.autograd.grad((y * weights).sum() + tail.sin().sum(), arguments))
    for expected, found in zip(*slopes, strict=True):
        assert close(found.double(), expected, 1e-5)


def test_backward_ignores_autocast() -> None:
    x, weight, bias, _ = (part.requires_grad_() for part in draw(2, 40, 4, dtype=torch.float32))
    slopes = []
    for enabled in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            y, _ = ops.causal_conv1d(x, weight, bias, activation="silu")
            slopes.append(torch.autograd.grad(y.square().sum(), (x, weight, bias)))
    assert all(close(a, b, 1e-6) for a, b in zip(*slopes, strict=True))


def test_types() -> None:
    x, weight, bias, tail = draw(2, 9, 4, dtype=torch.float32)
    y, new = ops.causal_conv1d(x.bfloat16(), weight, bias, tail)
    assert y.dtype is torch.bfloat16
    assert new.dtype is torch.float32
    assert ops.causal_conv1d(x.bfloat16(), weight.bfloat16())[1].dtype is torch.bfloat16
    exact, _ = ops.causal_conv1d(x.bfloat16().double(), weight.double(), bias.double(), tail.double())
    assert (y.double() - exact).abs().max() <= 2**-8 * exact.abs().max()


def test_the_tail_does_not_keep_the_chunk_in_memory() -> None:
    x, weight, _, _ = draw(1, 1000, 4)
    assert ops.causal_conv1d(x, weight)[1].untyped_storage().nbytes() == 3 * 3 * 8


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (
            lambda x, w: ops.causal_conv1d(x, w[:, None]),
            r"`weight` \(3, 1, 4\) .* squeeze the middle axis of a Conv1d's",
        ),
        (lambda x, w: ops.causal_conv1d(x[..., :2], w), r"the input has shape \(2, 5, 2\), `weight` \(3, 4\)"),
        (lambda x, w: ops.causal_conv1d(x, w, torch.zeros(4)), r"`bias` \(4,\), but \(batch, length, features\)"),
        (lambda x, w: ops.causal_conv1d(x, w, activation="relu"), "`activation` is 'relu', but one of silu is needed"),
        (lambda x, w: ops.causal_conv1d(x, w, None, x), r"`tail` has shape \(2, 5, 3\), but \(2, 3, 3\) is needed"),
        (lambda x, w: ops.causal_conv1d(x, w, lengths=torch.tensor([1, 6])), "row 1 has 6"),
        (lambda x, w: ops.causal_conv1d(x, w, starts=torch.ones(2, 5)), "mark the first element of each packed"),
        (lambda x, w: ops.causal_conv1d_step(x, x[:, :3], w), r"but \(batch, features\), \(features, W\)"),
        (
            lambda x, w: ops.causal_conv1d(x, w, backend="cuda"),
            "causal_conv1d has auto, causal_conv1d, .*torch, reference",
        ),
    ],
)
def test_errors_say_what_to_do(call, text: str) -> None:
    with pytest.raises(InputError, match=text):
        call(torch.randn(2, 5, 3), torch.randn(3, 4))
