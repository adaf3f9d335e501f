"""Poolings: three views of one value, padding, packing, gradients, and ten million steps."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from longstate import InputError
from longstate.models import EveryStep, LastPooling, MeanPooling, Pooling
from longstate.models.pooling import build_pooling

POOLINGS = pytest.mark.parametrize("pooling", [MeanPooling(), LastPooling()], ids=["mean", "last"])


def values_after(h: Tensor, steps: int, starts: Tensor | None, kind: str) -> Tensor:
    """The definition for one row: the value after its first `steps` elements."""
    begin = 0 if starts is None else max([0, *(t for t in range(steps) if starts[t])])
    seen = h[begin:steps]
    if len(seen) == 0:
        return torch.zeros(h.shape[-1], dtype=h.dtype)
    return seen.mean(0) if kind == "mean" else seen[-1]


def name(pooling: Pooling) -> str:
    return "mean" if isinstance(pooling, MeanPooling) else "last"


@POOLINGS
@given(
    lengths=st.lists(st.integers(0, 9), min_size=1, max_size=3),
    cut=st.integers(0, 9),
    packed=st.booleans(),
    filler=st.sampled_from([math.nan, math.inf, 1e4]),
)
def test_every_view_is_the_definition(
    pooling: Pooling, lengths: list[int], cut: int, packed: bool, filler: float
) -> None:
    batch, width = len(lengths), 9
    counts = torch.tensor(lengths)
    h = torch.randn(batch, width, 2, dtype=torch.float64)
    h[torch.arange(width) >= counts[:, None]] = filler
    starts = torch.rand(batch, width) < 0.3 if packed else None

    whole = pooling(h, lengths=counts, starts=starts)
    state = pooling.initial_state(h[:, 0])
    running, after = pooling.forward_with_state(h, state, lengths=counts, starts=starts)
    chunks = []
    for begin, end in ((0, cut), (cut, width)):
        y, state = pooling.forward_with_state(
            h[:, begin:end],
            state,
            lengths=(counts - begin).clamp(0, end - begin),
            starts=None if starts is None else starts[:, begin:end],
        )
        chunks.append(y)
    chunked = torch.cat(chunks, dim=1)
    for row, count in enumerate(lengths):
        marks = None if starts is None else starts[row]
        expected = [values_after(h[row], t, marks, name(pooling)) for t in range(count + 1)]
        torch.testing.assert_close(whole[row], expected[-1], rtol=1e-13, atol=1e-13)
        for t in range(count):
            torch.testing.assert_close(running[row, t], expected[t + 1], rtol=1e-13, atol=1e-13)
            torch.testing.assert_close(chunked[row, t], expected[t + 1], rtol=1e-13, atol=1e-13)
    for one, other in zip(after, state, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-13, atol=1e-13)


@POOLINGS
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_stepped_is_parallel_and_types_are_kept(pooling: Pooling, dtype: torch.dtype) -> None:
    h = torch.randn(3, 40, 4, dtype=dtype)
    state = initial = pooling.initial_state(h[:, 0])
    running, after = pooling.forward_with_state(h, initial)
    for t in range(40):
        y, state = pooling.step(h[:, t], state)
        assert y.dtype is dtype
        torch.testing.assert_close(y, running[:, t], rtol=1e-6 if dtype is not torch.float64 else 1e-14, atol=1e-7)
    assert [part.dtype for part in state] == [part.dtype for part in initial] == [part.dtype for part in after]
    assert running.dtype is dtype
    assert pooling(h).dtype is dtype


@POOLINGS
def test_rows_without_steps_leave_the_state_as_it_is(pooling: Pooling) -> None:
    h = torch.randn(2, 5, 3)
    _, carried = pooling.forward_with_state(h, pooling.initial_state(h[:, 0]))
    for chunk, lengths in ((h, torch.tensor([0, 0])), (h[:, :0], None)):
        starts = torch.ones(chunk.shape[:2], dtype=torch.bool)
        _, state = pooling.forward_with_state(chunk.fill_(math.nan), carried, lengths=lengths, starts=starts)
        assert all(torch.equal(one, other) for one, other in zip(state, carried, strict=True))
        assert torch.equal(pooling(chunk, lengths=lengths), torch.zeros(2, 3))


def test_the_mean_stays_exact_for_ten_million_steps() -> None:
    steps, chunk = 10_000_000, 250_000
    pooling = MeanPooling()
    h = (torch.rand(steps, generator=torch.Generator().manual_seed(1)) + 0.5)[None, :, None]
    exact = float(h.double().mean())
    state = pooling.initial_state(h[:, 0])
    for begin in range(0, steps, chunk):
        y, state = pooling.forward_with_state(h[:, begin : begin + chunk], state)
    assert float(y[0, -1]) == pytest.approx(exact, rel=1e-7)
    assert float(pooling(h)) == pytest.approx(exact, rel=1e-7)
    assert float(state.total.double().sum()) == pytest.approx(float(h.double().sum()), rel=1e-14)

    more = torch.rand(1, 500, 1)
    running, parallel = pooling.forward_with_state(more, state)
    for t in range(500):
        y, state = pooling.step(more[:, t], state)
        assert float(y) == pytest.approx(float(running[0, t]), rel=1e-7)
    assert int(state.steps) == int(parallel.steps) == steps + 500
    assert float(state.total.double().sum()) == pytest.approx(float(parallel.total.double().sum()), rel=1e-13)


def test_a_float32_total_alone_would_stand_still() -> None:
    """What the second number of the pair is for: after 2^25 steps of 1, a float32 sum takes no more."""
    pooling = MeanPooling()
    state = pooling.initial_state(torch.zeros(1, 1))
    state = state._replace(total=torch.tensor([[[2.0**25, 0.0]]]), steps=torch.tensor([2**25]))
    for _ in range(3):
        _, state = pooling.step(torch.ones(1, 1), state)
    assert state.total[0, 0].tolist() != [2.0**25, 0.0]
    assert float(state.total.double().sum()) == 2**25 + 3
    assert torch.tensor(2.0**25) + 1 == 2.0**25


@POOLINGS
@pytest.mark.parametrize("packed", [False, True])
def test_gradients(pooling: Pooling, packed: bool) -> None:
    h = torch.randn(2, 4, 2, dtype=torch.float64, requires_grad=True)
    lengths = torch.tensor([4, 2])
    starts = torch.tensor([[False, False, True, False], [False, False, False, True]]) if packed else None
    state = pooling.initial_state(h[:, 0])
    floating = torch.randn_like(state[0]).requires_grad_()

    def views(h: Tensor, floating: Tensor) -> tuple[Tensor, ...]:
        running, after = pooling.forward_with_state(
            h, state._replace(**{state._fields[0]: floating}), lengths=lengths, starts=starts
        )
        total = after[0].sum(-1) if name(pooling) == "mean" else after[0]
        return pooling(h, lengths=lengths, starts=starts), running[0], running[1, :2], total

    assert torch.autograd.gradcheck(views, (h, floating))


@POOLINGS
def test_padding_has_no_gradient(pooling: Pooling) -> None:
    h = torch.full((1, 4, 2), math.nan)
    h[:, :2] = 1.0
    h.requires_grad_()
    lengths = torch.tensor([2])
    running, after = pooling.forward_with_state(h, pooling.initial_state(h[:, 0]), lengths=lengths)
    (pooling(h, lengths=lengths).sum() + running[:, :2].sum() + after[0].sum()).backward()
    assert h.grad is not None
    assert torch.equal(h.grad[:, 2:], torch.zeros(1, 2, 2))
    assert h.grad[:, :2].isfinite().all()


@POOLINGS
def test_autocast_changes_nothing(pooling: Pooling) -> None:
    h = torch.randn(2, 50, 3)
    state = pooling.initial_state(h[:, 0])
    exact = pooling(h), pooling.forward_with_state(h, state)[0], pooling.step(h[:, 0], state)[0]
    with torch.autocast("cpu", torch.bfloat16):
        within = pooling(h), pooling.forward_with_state(h, state)[0], pooling.step(h[:, 0], state)[0]
    assert all(torch.equal(one, other) for one, other in zip(exact, within, strict=True))


@POOLINGS
def test_every_tensor_is_made_where_the_features_are(pooling: Pooling) -> None:
    h = torch.zeros(2, 5, 3, device="meta")
    lengths, starts = torch.zeros(2, device="meta").long(), torch.zeros(2, 5, device="meta").bool()
    state = pooling.initial_state(h[:, 0])
    y, after = pooling.forward_with_state(h, state, lengths=lengths, starts=starts)
    found = [*state, *after, y, pooling(h, lengths=lengths, starts=starts), pooling.step(h[:, 0], state)[0]]
    assert all(tensor.device.type == "meta" for tensor in found)


@POOLINGS
@pytest.mark.parametrize("lengths", [None, torch.tensor([900])])
def test_a_state_does_not_hold_its_chunk(pooling: Pooling, lengths: Tensor | None) -> None:
    h = torch.randn(1, 1000, 2)
    _, state = pooling.forward_with_state(h, pooling.initial_state(h[:, 0]), lengths=lengths)
    assert all(part.untyped_storage().nbytes() == part.numel() * part.element_size() for part in state)


def test_every_step_passes_everything_on() -> None:
    pooling, h = EveryStep(), torch.randn(2, 5, 3)
    assert pooling(h) is h
    assert pooling.forward_with_state(h, pooling.initial_state(h[:, 0])) == (h, ())
    assert pooling.step(h[:, 0], ())[1] == ()


def test_poolings_by_name() -> None:
    assert isinstance(build_pooling("mean"), MeanPooling)
    assert isinstance(build_pooling("last"), LastPooling)
    with pytest.raises(InputError, match="`pooling` is 'max', but one of mean, last is needed"):
        build_pooling("max")
