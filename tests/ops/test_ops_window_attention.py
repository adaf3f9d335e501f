"""Attention in windows against its loops: every path of the fast form, in value and gradient, and what it costs."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.utils import _pytree
from torch.utils._python_dispatch import TorchDispatchMode

from longstate import InputError, ops

WINDOWS = st.integers(1, 6)
LENGTHS = st.integers(0, 20)


def draw(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, requires_grad=True)


def example_starts(length: int) -> Tensor:
    starts = torch.rand(3, length) < 0.25
    starts[0] = False
    return starts


def agree(fast: Tensor, slow: Tensor, inputs: tuple[Tensor, ...]) -> None:
    assert fast.shape == slow.shape
    assert torch.allclose(fast, slow, rtol=0, atol=1e-12)
    weight = torch.randn_like(slow)
    slopes = [
        torch.autograd.grad((y * weight).sum(), inputs, allow_unused=True, materialize_grads=True) for y in (fast, slow)
    ]
    for found, expected in zip(*slopes, strict=True):
        assert torch.allclose(found, expected, rtol=0, atol=1e-11)


@pytest.mark.parametrize("kind", ["whole", "carried", "packed", "carried and packed"])
@given(window=WINDOWS, length=LENGTHS)
def test_windows_are_their_loop(kind: str, window: int, length: int) -> None:
    q, k, v = (draw(3, length, 2, 3) for _ in range(3))
    options, inputs = {}, (q, k, v)
    if "carried" in kind:
        options["offset"] = torch.randint(window, (3,))
        options["k_before"], options["v_before"] = (draw(3, window - 1, 2, 3) for _ in range(2))
        inputs = (*inputs, options["k_before"], options["v_before"])
    if "packed" in kind:
        options["starts"] = example_starts(length)
    results = [ops.window_attention(q, k, v, window=window, **options, backend=name) for name in ("torch", "reference")]
    agree(*results, inputs)


@pytest.mark.parametrize("kind", ["whole", "carried", "packed", "carried and packed"])
@given(window=WINDOWS, length=LENGTHS, contexts=st.integers(1, 3))
def test_contexts_are_their_loop(kind: str, window: int, length: int, contexts: int) -> None:
    q = draw(3, length, 2, 3)
    options = {}
    if "carried" in kind:
        options["offset"] = torch.randint(window, (3,))
    if "packed" in kind:
        options["starts"] = example_starts(length)
    count = max(length, 1) if "packed" in kind else ops.window_count(q, window)
    k, v = (draw(3, count, contexts, 2, 3) for _ in range(2))
    results = [
        ops.context_attention(q, k, v, window=window, **options, backend=name) for name in ("torch", "reference")
    ]
    agree(*results, (q, k, v))


def test_places_and_numbers_of_windows() -> None:
    q = torch.zeros(1, 7, 1, 1)
    place, number = ops.window_index(q, 3, torch.tensor([2]), None)
    assert place.tolist() == [[2, 0, 1, 2, 0, 1, 2]]
    assert number.tolist() == [[0, 1, 1, 1, 2, 2, 2]]
    starts = torch.tensor([[False, False, True, False, False, False, True]])
    place, number = ops.window_index(q, 3, torch.tensor([1]), starts)
    assert place.tolist() == [[1, 2, 0, 1, 2, 0, 0]]
    assert number.tolist() == [[0, 0, 1, 1, 1, 2, 3]]
    starts[0, 0] = True
    place, number = ops.window_index(q, 3, torch.tensor([1]), starts)
    assert place.tolist() == [[0, 1, 0, 1, 2, 0, 0]]
    assert number.tolist() == [[0, 0, 1, 1, 1, 2, 3]]


@given(window=WINDOWS, length=st.integers(1, 20))
def test_the_number_of_windows_is_never_more_than_counted(window: int, length: int) -> None:
    q = torch.zeros(window, length)
    _, number = ops.window_index(q, window, torch.arange(window), None)
    assert int(number.max()) + 1 == ops.window_count(q, window)


class Sizes(TorchDispatchMode):
    """The number of elements of the largest tensor that is made while it is entered."""

    largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        made = [part.numel() for part in _pytree.tree_leaves(out) if isinstance(part, Tensor)]
        self.largest = max(self.largest, *made, 0)
        return out


def test_memory_is_linear_in_the_length() -> None:
    """Four times the length is four times the largest tensor, not sixteen times."""
    largest = []
    for length in (256, 1024):
        q = torch.zeros(1, length, 2, 4, device="meta")
        offset = torch.zeros(1, dtype=torch.int64, device="meta")
        starts = torch.zeros(1, length, dtype=torch.bool, device="meta")
        with Sizes() as sizes:
            ops.window_attention(q, q, q, window=8)
            ops.window_attention(q, q, q, window=8, offset=offset)
            ops.window_attention(q, q, q, window=8, starts=starts)
        largest.append(sizes.largest)
    assert largest[1] <= 4.2 * largest[0]


def test_auto_takes_torch() -> None:
    q, k = torch.zeros(1, 4, 1, 2), torch.zeros(1, 3, 2, 1, 2)
    assert ops.explain("window_attention", q, q, q, 2, q, q, None, None) == [("torch", None), ("reference", None)]
    assert ops.explain("context_attention", q, k, k, 2, None, None) == [("torch", None), ("reference", None)]


def test_errors() -> None:
    q, k = torch.zeros(1, 5, 1, 2), torch.zeros(1, 2, 3, 1, 2)
    with pytest.raises(
        InputError, match=r"`q` has shape \(1, 5, 1, 2\), `k` \(1, 4, 1, 2\), .* `window` is 2, but three"
    ):
        ops.window_attention(q, q[:, 1:], q, window=2)
    with pytest.raises(InputError, match=r"`window` is 0, but three times .* a positive number are needed"):
        ops.window_attention(q, q, q, window=0)
    with pytest.raises(InputError, match=r"what stands before has shape \(1, 5, 1, 2\), but \(1, 2, 1, 2\) is needed"):
        ops.window_attention(q, q, q, window=3, k_before=q, v_before=q)
    with pytest.raises(InputError, match="with contexts for every window; check their axes"):
        ops.context_attention(q, k, k, window=2)
