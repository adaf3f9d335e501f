"""The memory operator: the fast path is the plain loop, in values, gradients and states, for any clocks and rows."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from longstate import InputError, ops, theory

ORDER = 5


def varying(size: int, dtype: torch.dtype = torch.float64) -> theory.Blocks:
    return theory.scaled_blocks(ORDER, size, dtype=dtype)


def fixed(size: int, dtype: torch.dtype = torch.float64) -> theory.Blocks:
    A_bar, B_bar = theory.discretize_dense(*theory.hippo("legt", ORDER), 0.2, "zoh")
    return theory.sliding_blocks(A_bar, B_bar, size, dtype=dtype)


def draw(batch: int, length: int, channels: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    u = torch.randn(batch, length, channels, dtype=torch.float64)
    return u, torch.randn(batch, channels, ORDER, dtype=torch.float64)


@pytest.mark.parametrize("make", [varying, fixed])
@settings(max_examples=40)
@given(data=st.data(), batch=st.integers(1, 4), length=st.integers(0, 23), size=st.integers(1, 9))
def test_fast_path_is_the_loop(make, data, batch: int, length: int, size: int) -> None:
    u, state = draw(batch, length)
    clocks = st.lists(st.sampled_from([0, 1, 7, 10**5]), min_size=batch, max_size=batch)
    first = torch.tensor(data.draw(st.one_of(clocks, st.just([4]))))
    lengths = starts = None
    if data.draw(st.booleans()):
        lengths = torch.tensor(data.draw(st.lists(st.integers(0, length), min_size=batch, max_size=batch)))
    if data.draw(st.booleans()):
        row = st.lists(st.booleans(), min_size=length, max_size=length)
        marks = data.draw(st.lists(row, min_size=batch, max_size=batch))
        starts = torch.tensor(marks, dtype=torch.bool).reshape(batch, length)
    results = []
    for backend in ("torch", "reference"):
        points = [u.clone().requires_grad_(), state.clone().requires_grad_()]
        y, after = ops.memory_scan(*points, first, make(size), size, lengths=lengths, starts=starts, backend=backend)
        assert y.shape == (batch, length, 3, ORDER)
        if lengths is not None:
            y = torch.where((torch.arange(length) < lengths[:, None])[..., None, None], y, 0.0)
        total = (y * torch.cos(torch.arange(y.numel()).reshape(y.shape))).sum() + after.square().sum()
        slopes = torch.autograd.grad(total, points, allow_unused=True, materialize_grads=True)
        results.append((y, after, *slopes))
    for fast, slow in zip(*results, strict=True):
        assert_close(fast, slow, rtol=0, atol=1e-11)


def test_size_of_the_blocks_does_not_matter() -> None:
    u, state = draw(2, 50)
    first = torch.tensor([3, 40])
    expected = ops.memory_scan(u, state, first, varying(1), 1)
    for size in (2, 13, 50, 64):
        for found, wanted in zip(ops.memory_scan(u, state, first, varying(size), size), expected, strict=True):
            assert_close(found, wanted, rtol=0, atol=1e-12)


def test_rows_with_one_clock_share_their_matrices() -> None:
    asked = []
    u, state = draw(5, 6)

    def counted(first: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        asked.append(first.tolist())
        return varying(3)(first)

    first = torch.tensor([8, 0, 8, 0, 8])
    ops.memory_scan(u, state, first, counted, 3)
    assert asked == [[0], [3], [8], [11]]


def test_the_backward_pass_asks_for_the_blocks_again() -> None:
    """So that nothing of the size length times N² waits for it."""
    asked = []
    u, state = draw(1, 9)

    def counted(first: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        asked.append(int(first))
        return varying(3)(first)

    y, _ = ops.memory_scan(u.requires_grad_(), state, torch.tensor([0]), counted, 3)
    y.sum().backward()
    assert asked == [0, 3, 6, 6, 3, 0]


@pytest.mark.parametrize("make", [varying, fixed])
def test_types(make) -> None:
    u, state = draw(2, 9)
    for dtype in (torch.float32, torch.bfloat16):
        y, after = ops.memory_scan(u.to(dtype), state.float(), torch.tensor([0, 3]), make(4, torch.float32), 4)
        assert (y.dtype, after.dtype) == (dtype, torch.float32)
        exact, _ = ops.memory_scan(u.to(dtype).double(), state.float().double(), torch.tensor([0, 3]), make(4), 4)
        assert_close(y.double(), exact, rtol=0, atol=1e-6 if dtype is torch.float32 else 2e-2)


def test_autocast_changes_nothing() -> None:
    u, state = draw(2, 9)
    arguments = u.float(), state.float(), torch.tensor([0]), varying(4, torch.float32), 4
    expected = ops.memory_scan(*arguments)
    with torch.autocast("cpu", torch.bfloat16):
        found = ops.memory_scan(*arguments)
    for one, other in zip(found, expected, strict=True):
        assert_close(one, other, rtol=0, atol=1e-6)


def test_backends_are_named() -> None:
    u, state = draw(1, 4)
    assert ops.explain("memory_scan", u, state, torch.tensor([0]), varying(2), 2, None, None) == [
        ("torch", None),
        ("reference", None),
    ]


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (
            {"u": torch.zeros(2, 4)},
            r"`u` has shape \(2, 4\) and `state` \(2, 3, 5\), but \(batch, length, H\) and \(batc",
        ),
        ({"state": torch.zeros(2, 4, 5)}, r"`state` \(2, 4, 5\), but .* start from `initial_state\(batch_size\)`"),
        (
            {"first": torch.zeros(2)},
            r"`first` is torch.float32 of shape \(2,\), but integers of shape \(2,\), or \(1,\)",
        ),
        ({"first": torch.zeros(3, dtype=torch.int64)}, r"`first` is torch.int64 of shape \(3,\), but integers"),
        ({"size": 0}, "`size` is 0, but a positive integer is needed"),
        ({"lengths": torch.tensor([5, 0])}, "`lengths` must hold values between 0 and the sequence length 4"),
        ({"starts": torch.zeros(2, 3, dtype=torch.bool)}, "`starts` is torch.bool of shape"),
        ({"backend": "native"}, "`backend` is 'native', but memory_scan has auto, torch, reference"),
    ],
)
def test_errors_say_what_to_do(change, text: str) -> None:
    given = {"u": torch.zeros(2, 4, 3), "state": torch.zeros(2, 3, ORDER), "first": torch.tensor([0])}
    given |= {"blocks": varying(2), "size": 2} | change
    with pytest.raises(InputError, match=text):
        ops.memory_scan(**given)
