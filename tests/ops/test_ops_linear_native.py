"""The compiled linear recurrence, by name, against the loop in float64: values, last states and every gradient."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from longstate import InputError, ops
from longstate.ops import _native

pytestmark = pytest.mark.skipif(_native.library() is None, reason="no compiled kernels on this machine")

KINDS = ["real", "complex", "complex a", "complex b", "blocks"]


def draw(kind: str, varies: bool, batch: int, length: int, P: int) -> dict[str, Tensor]:
    """A transition, an input and a state in float32 precision."""
    block = (2,) if kind == "blocks" else ()
    a = torch.rand(*((batch, length) if varies else ()), P, *block, *block) * 1.9 - 0.95
    if kind in ("complex", "complex a"):
        a = torch.polar(a.abs(), 3 * torch.randn_like(a))
    b = torch.randn(batch, length, P, *block, dtype=torch.complex64 if kind in ("complex", "complex b") else None)
    pair = (2,) if kind.startswith("complex") else ()
    return {"a": a / 2 if block else a, "b": b, "state": torch.randn(batch, P, *block, *pair)}


def results(drawn: dict[str, Tensor], backend: str, valid: Tensor, *, wide: bool, **rest) -> dict[str, Tensor]:
    types = (torch.complex128, torch.float64) if wide else (torch.complex64, torch.float32)
    given = {name: x.to(types[0 if x.is_complex() else 1]).requires_grad_() for name, x in drawn.items()}
    h, final = ops.linear_scan(**given, backend=backend, **rest)
    h = torch.view_as_real(h[valid]) if h.is_complex() else h[valid]
    loss = (h * torch.arange(h.numel()).cos().view_as(h).to(types[1])).sum() + (final * final).sum()
    slopes = torch.autograd.grad(loss, list(given.values()), allow_unused=True, materialize_grads=True)
    return {"h": h, "final": final, **dict(zip(given, slopes, strict=True))}


@given(
    kind=st.sampled_from(KINDS),
    varies=st.booleans(),
    length=st.sampled_from([0, 1, 2, 9, 50]),
    P=st.sampled_from([1, 7, 64, 67, 130]),
    carried=st.booleans(),
    padded=st.booleans(),
    packed=st.booleans(),
    seed=st.integers(0, 99),
)
def test_values_states_and_gradients(
    kind: str, varies: bool, length: int, P: int, carried: bool, padded: bool, packed: bool, seed: int
) -> None:
    torch.manual_seed(seed)
    drawn = draw(kind, varies, 3, length, P)
    if not carried:
        del drawn["state"]
    lengths = torch.tensor([length, 0, length // 2]) if padded else None
    valid = torch.ones(3, length, dtype=torch.bool) if lengths is None else torch.arange(length) < lengths[:, None]
    rest = {"valid": valid, "lengths": lengths, "starts": torch.rand(3, length) < 0.2 if packed else None}
    found = results(drawn, "native", wide=False, **rest)
    expected = results(drawn, "reference", wide=True, **rest)
    for name, value in expected.items():
        scale = value.abs().max() if value.numel() else torch.zeros(())
        assert found[name].shape == value.shape, name
        assert value.numel() == 0 or (found[name] - value).abs().max() <= 2e-6 * scale + 1e-12, name


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("varies", [False, True])
def test_padding_is_never_read(kind: str, varies: bool) -> None:
    torch.manual_seed(0)
    drawn = draw(kind, varies, 2, 20, 6)
    for name in ("a", "b") if varies else ("b",):
        drawn[name][1, 7:] = torch.nan
    lengths = torch.tensor([20, 7])
    found = results(drawn, "native", torch.arange(20) < lengths[:, None], wide=False, lengths=lengths)
    assert all(value.isfinite().all() for value in found.values())
    assert (found["b"][1, 7:] == 0).all()


def test_a_long_memory_does_not_round_away() -> None:
    torch.manual_seed(1)
    a = torch.polar(torch.tensor([1 - 1e-6], dtype=torch.float64), torch.tensor([0.3], dtype=torch.float64))
    b = torch.randn(1, 65536, 1, dtype=torch.complex64)
    exact = ops.linear_scan(a, b.to(torch.complex128), backend="torch")[0]
    found = ops.linear_scan(a, b, backend="native")[0]
    assert (found - exact).abs().max() <= 1e-7 * exact.abs().max()


@pytest.mark.parametrize("shape", [(1, 30, 3), (2, 1, 3), (2, 30, 1), (1, 1, 1)])
@pytest.mark.parametrize("kind", ["real", "complex", "blocks"])
def test_a_varying_transition_is_broadcast(kind: str, shape: tuple[int, ...]) -> None:
    torch.manual_seed(2)
    drawn = draw(kind, True, 2, 30, 3)
    drawn["a"] = drawn["a"][tuple(slice(size) for size in shape)].clone()
    valid = torch.ones(2, 30, dtype=torch.bool)
    found, expected = (
        results(drawn, name, valid, wide=wide) for name, wide in (("native", False), ("reference", True))
    )
    for name, value in expected.items():
        assert (found[name] - value).abs().max() <= 2e-6 * value.abs().max(), name


def test_strided_and_conjugate_input() -> None:
    torch.manual_seed(3)
    a, b = torch.rand(4, dtype=torch.complex64) / 2, torch.randn(2, 10, 8, dtype=torch.complex64)
    for part in (b[..., 4:], b[..., ::2], b[..., :4].conj()):
        assert torch.equal(
            ops.linear_scan(a, part, backend="native")[0],
            ops.linear_scan(a, part.clone().resolve_conj().contiguous(), backend="native")[0],
        )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(dtype: torch.dtype) -> None:
    b = torch.randn(2, 60, 3).to(dtype)
    h, final = ops.linear_scan(torch.tensor([0.9, 0.5, 0.99]), b, backend="native")
    assert h.dtype is final.dtype is torch.float32
    assert torch.equal(h, ops.linear_scan(torch.tensor([0.9, 0.5, 0.99]), b.float(), backend="native")[0])


def test_only_h_and_the_transition_are_kept() -> None:
    saved: dict[int, int] = {}

    def pack(x: Tensor) -> Tensor:
        saved[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    drawn = {name: x.requires_grad_() for name, x in draw("complex", True, 2, 500, 3).items()}
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        ops.linear_scan(**drawn, backend="native")
    numbers = 2 * 500 * 3
    assert sum(saved.values()) <= 1.01 * (2 * numbers * 8)


def test_which_path_runs_and_why() -> None:
    a, b, state = draw("real", False, 2, 5, 3).values()
    assert ops.explain("linear_scan", a, b, state, None, None)[0] == ("native", None)
    assert torch.equal(ops.linear_scan(a, b)[0], ops.linear_scan(a, b, backend="native")[0])
    wide = ops.linear_scan(a.double(), b, backend="native")[0]  # a constant may be more precise than the rest
    assert wide.dtype is torch.float32
    with pytest.raises(InputError, match="cannot run this call of linear_scan: computes in float32, got float64"):
        ops.linear_scan(a, b.double(), backend="native")
    matrices = torch.rand(3, 3, 3), torch.rand(2, 5, 3, 3)
    with pytest.raises(InputError, match="multiplies by real matrices of 2 x 2, got real ones of 3 x 3"):
        ops.linear_scan(*matrices, backend="native")
    with pytest.raises(InputError, match="multiplies by real matrices of 2 x 2, got complex ones of 2 x 2"):
        ops.linear_scan(torch.rand(3, 2, 2) + 0j, torch.rand(2, 5, 3, 2), backend="native")


@pytest.mark.parametrize("kind", [_native.REAL, _native.COMPLEX, _native.DENSE])
@pytest.mark.parametrize("varies", [False, True])
def test_the_operator_obeys_torchs_rules(kind: int, varies: bool) -> None:
    torch.manual_seed(4)
    width = 6 * (2 if kind == _native.DENSE else 1)
    a = torch.rand(2, 9, width) if varies else torch.rand(width, dtype=torch.float64)
    b, state = torch.randn(2, 9, 6), torch.randn(2, 6)
    inputs = tuple(part.requires_grad_() for part in (a, b, state))
    utils = ("test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_static")
    arguments = (*inputs, torch.tensor([9, 4]), torch.rand(2, 9) < 0.3, kind)
    torch.library.opcheck(torch.ops.longstate.linear_scan.default, arguments, test_utils=utils)


@pytest.mark.parametrize("kind", ["real", "complex", "blocks"])
def test_it_is_mapped_and_compiled(kind: str) -> None:
    torch.compiler.reset()
    torch.manual_seed(5)
    a, b, _ = draw(kind, False, 2, 9, 3).values()

    def total(a: Tensor, b: Tensor) -> Tensor:
        return torch.stack([part.abs().square().sum() for part in ops.linear_scan(a, b, backend="native")]).sum()

    mapped = torch.vmap(lambda x: ops.linear_scan(a, x, backend="native")[0])(torch.stack([b, 2 * b]))
    assert torch.equal(mapped[1], ops.linear_scan(a, 2 * b, backend="native")[0])
    inputs = [part.requires_grad_() for part in (a, b)]
    plain = total(*inputs)
    compiled = torch.compile(total, fullgraph=True, backend="aot_eager")(*inputs)
    assert torch.equal(plain, compiled)
    for mine, other in zip(*(torch.autograd.grad(loss, inputs) for loss in (plain, compiled)), strict=True):
        assert torch.equal(mine, other)
    torch.compiler.reset()


def test_the_number_of_threads_changes_nothing() -> None:
    drawn = draw("complex", True, 3, 100, 130)
    valid = torch.ones(3, 100, dtype=torch.bool)
    threads, found = torch.get_num_threads(), []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            found.append(results(drawn, "native", valid, wide=False))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])
