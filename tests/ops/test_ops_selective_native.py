"""The compiled selective scan, by name, against the loop in float64: values, states and every gradient."""

import os
import subprocess
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from longstate import InputError, ops
from longstate.ops import _native

pytestmark = pytest.mark.skipif(_native.library() is None, reason="no compiled kernels on this machine")


def draw(batch: int, length: int, E: int, N: int, groups: int, *, full: bool) -> dict[str, Tensor]:
    """Numbers that float32 holds exactly."""
    vectors = (batch, length, N) if groups == 1 else (batch, length, groups, N)
    drawn = {
        "u": torch.randn(batch, length, E),
        "dt": torch.randn(batch, length, E),
        "A": -torch.rand(E, N) * 2 - 0.1,
        "B": torch.randn(vectors),
        "C": torch.randn(vectors),
    }
    if full:
        drawn |= {"D": torch.randn(E), "z": torch.randn(batch, length, E), "dt_bias": torch.randn(E)}
        drawn |= {"state": torch.randn(batch, E, N)}
    return drawn


def results(drawn: dict[str, Tensor], backend: str, dtype: torch.dtype, valid: Tensor, **rows) -> dict[str, Tensor]:
    given = {name: value.to(dtype).requires_grad_() for name, value in drawn.items()}
    y, state = ops.selective_scan(**given, dt_softplus=True, backend=backend, **rows)
    y = y[valid]
    loss = (y * torch.arange(y.numel()).cos().view_as(y).to(dtype)).sum() + (state * state).sum()
    slopes = torch.autograd.grad(loss, list(given.values()))
    return {"y": y, "final": state, **dict(zip(given, slopes, strict=True))}


@given(
    length=st.integers(1, 70),
    E=st.sampled_from([1, 6, 64, 70, 130]),
    N=st.sampled_from([1, 3, 16]),
    groups=st.sampled_from([1, 2]),
    full=st.booleans(),
    seed=st.integers(0, 99),
)
def test_values_states_and_gradients(length: int, E: int, N: int, groups: int, full: bool, seed: int) -> None:
    torch.manual_seed(seed)
    E *= groups
    drawn = draw(3, length, E, N, groups, full=full)
    lengths = torch.tensor([length, 0, length // 2])
    valid = torch.arange(length) < lengths[:, None]
    rows = {"lengths": lengths, "starts": torch.rand(3, length) < 0.1}
    found = results(drawn, "native", torch.float32, valid, **rows)
    expected = results(drawn, "reference", torch.float64, valid, **rows)
    for name, value in expected.items():
        scale = value.abs().max() if value.numel() else torch.zeros(())
        assert found[name].shape == value.shape, name
        assert value.numel() == 0 or (found[name] - value).abs().max() <= 1e-5 * scale + 1e-12, name


def test_padding_is_never_read() -> None:
    drawn = draw(2, 40, 64, 4, 1, full=True)
    lengths = torch.tensor([40, 17])
    valid = torch.arange(40) < lengths[:, None]
    for name in ("u", "dt", "z", "B", "C"):
        drawn[name][1, 17:] = torch.nan
    found = results(drawn, "native", torch.float32, valid, lengths=lengths)
    assert all(value.isfinite().all() for value in found.values())
    assert all((found[name][1, 17:] == 0).all() for name in ("u", "dt", "z", "B", "C"))


def test_strided_arguments_are_read_in_place() -> None:
    both = torch.randn(2, 9, 128)
    x, z = both.chunk(2, dim=-1)
    rest = draw(2, 9, 64, 4, 1, full=False)
    y, _ = ops.selective_scan(x, rest["dt"], rest["A"], rest["B"], rest["C"], z=z, backend="native")
    same, _ = ops.selective_scan(
        x.contiguous(), rest["dt"], rest["A"], rest["B"], rest["C"], z=z.contiguous(), backend="native"
    )
    assert torch.equal(y, same)


def test_the_native_path_is_the_one_that_runs() -> None:
    drawn = draw(1, 5, 8, 2, 1, full=False)
    order = ("u", "dt", "A", "B", "C")
    rest = (None, None, None, True, None, None, None)
    reasons = ops.explain("selective_scan", *(drawn[name] for name in order), *rest)
    assert next(name for name, reason in reasons if reason is None) == "native"
    double = [drawn[name].double() for name in order]
    assert ("native", "computes in float32, got float64") in ops.explain("selective_scan", *double, *rest)
    with pytest.raises(InputError, match=r"backend .native. cannot run this call of selective_scan: computes in"):
        ops.selective_scan(*double, backend="native")
    auto, _ = ops.selective_scan(*(drawn[name] for name in order))
    native, _ = ops.selective_scan(*(drawn[name] for name in order), backend="native")
    assert torch.equal(auto, native)


def test_the_operator_obeys_torchs_rules() -> None:
    drawn = draw(2, 35, 6, 3, 1, full=True)
    given = {name: value.requires_grad_() for name, value in drawn.items()}
    arguments = tuple(given[name] for name in ("u", "dt", "A", "B", "C", "D", "z", "dt_bias"))
    rows = (torch.tensor([35, 20]), torch.rand(2, 35) < 0.1)
    utils = ("test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_static")
    torch.library.opcheck(
        torch.ops.longstate.selective_scan.default,
        (*arguments, True, given["state"], *rows, 1),
        test_utils=utils,
    )


@pytest.mark.parametrize("isa", ["base", "avx2", "avx512"])
def test_every_instruction_set_of_this_machine(isa: str) -> None:
    code = (
        "import torch; from longstate.ops import _native; from longstate import ops; torch.manual_seed(0)\n"
        "r = torch.randn; given = [r(2, 50, 70), r(2, 50, 70), -torch.rand(70, 16) - 0.1, r(2, 50, 16), r(2, 50, 16)]\n"
        "given = [part.requires_grad_() for part in given]\n"
        "out = []\n"
        "for backend in ('native', 'torch'):\n"
        "    y, state = ops.selective_scan(*given, dt_softplus=True, backend=backend)\n"
        "    out.append([y, state, *torch.autograd.grad((y.cos()).sum() + state.sum(), given)])\n"
        "worst = max(float((a - b).abs().max() / b.abs().max()) for a, b in zip(*out))\n"
        "print(_native.instruction_set(), worst < 1e-5)"
    )
    environment = {**os.environ, "LONGSTATE_ISA": isa}
    printed = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    chosen, agrees = printed.stdout.split()
    assert agrees == "True"
    order = ["base", "avx2", "avx512"]
    assert order.index(chosen) <= order.index(isa)


def test_nothing_in_nothing_out() -> None:
    drawn = draw(2, 0, 6, 3, 1, full=True)
    y, state = ops.selective_scan(**drawn, dt_softplus=False, backend="native")
    assert y.shape == (2, 0, 6)
    assert torch.equal(state, drawn["state"])


def test_neither_neighbours_nor_threads_change_a_number() -> None:
    """More tiles of channels than go through a block together, and any share of them for a thread."""
    torch.manual_seed(0)
    drawn = draw(2, 50, 2112, 2, 1, full=True)
    valid = torch.ones(2, 50, dtype=torch.bool)
    whole = results(drawn, "native", torch.float32, valid)
    few = slice(2100, 2112)
    of_channels = {"u", "dt", "z", "A", "D", "dt_bias", "state"}
    last = {"u": (..., few), "dt": (..., few), "z": (..., few), "state": (slice(None), few)}
    part = {name: value[last.get(name, few)] if name in of_channels else value for name, value in drawn.items()}
    alone = results(part, "native", torch.float32, valid)
    assert torch.equal(alone["y"], whole["y"][:, few])
    assert torch.equal(alone["final"], whole["final"][:, few])
    threads = torch.get_num_threads()
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            again = results(drawn, "native", torch.float32, valid)
            assert all(torch.equal(again[name], value) for name, value in whole.items()), count
    finally:
        torch.set_num_threads(threads)
