"""The compiled scan of Mamba-2, by name, against the loop in float64: values, states and every gradient."""

import os
import subprocess
import sys
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from longstate import InputError, Mamba2, ops
from longstate.ops import _native

pytestmark = pytest.mark.skipif(_native.library() is None, reason="no compiled kernels on this machine")

ORDER = ("x", "dt", "A", "B", "C")


def draw(length: int, H: int, P: int, N: int, G: int, *, batch: int = 3, full: bool = True) -> dict[str, Any]:
    """Numbers that float32 holds exactly."""
    drawn: dict[str, Any] = {
        "x": torch.randn(batch, length, H, P),
        "dt": torch.randn(batch, length, H),
        "A": -torch.rand(H) * 2 - 0.1,
        "B": torch.randn(batch, length, G, N),
        "C": torch.randn(batch, length, G, N),
    }
    if full:
        drawn |= {"D": torch.randn(H, P), "dt_bias": torch.randn(H), "state": torch.randn(batch, H, P, N)}
    return drawn


def results(drawn: dict[str, Tensor], backend: str, dtype: torch.dtype, valid: Tensor, **rows) -> dict[str, Tensor]:
    given = {name: value.to(dtype).requires_grad_() for name, value in drawn.items()}
    y, state = ops.ssd(**given, dt_softplus=True, backend=backend, **rows)
    y = y[valid]
    loss = (y * torch.arange(y.numel()).cos().view_as(y).to(dtype)).sum() + (state * state).sum()
    slopes = torch.autograd.grad(loss, list(given.values()))
    return {"y": y, "final": state, **dict(zip(given, slopes, strict=True))}


@given(
    length=st.sampled_from([2, 15, 64, 65, 150]),
    heads=st.sampled_from([1, 3, 7]),
    P=st.sampled_from([1, 5, 64, 70]),
    N=st.sampled_from([1, 3, 16, 40]),
    G=st.sampled_from([1, 2]),
    full=st.booleans(),
    packed=st.booleans(),
    seed=st.integers(0, 99),
)
def test_values_states_and_gradients(
    length: int, heads: int, P: int, N: int, G: int, full: bool, packed: bool, seed: int
) -> None:
    torch.manual_seed(seed)
    drawn = draw(length, heads * G, P, N, G, full=full)
    lengths = torch.tensor([length, 0, length // 2])
    valid = torch.arange(length) < lengths[:, None]
    rows = {"lengths": lengths, "starts": torch.rand(3, length) < 0.1 if packed else None}
    found = results(drawn, "native", torch.float32, valid, **rows)
    expected = results(drawn, "torch", torch.float64, valid, **rows)
    for name, value in expected.items():
        assert found[name].shape == value.shape, name
        assert (found[name] - value).abs().max() <= 1e-5 * value.abs().max() + 1e-6, name


@pytest.mark.parametrize("strong", [1e-4, 1.0, 30.0])
@pytest.mark.parametrize("packed", [False, True])
def test_every_argument_by_name_against_the_loop(strong: float, packed: bool) -> None:
    """Decays from almost none to those that forget a step at once."""
    drawn = draw(130, 4, 16, 24, 2)
    drawn["A"] = drawn["A"] * strong
    lengths = torch.tensor([130, 77, 1])
    valid = torch.arange(130) < lengths[:, None]
    rows = {"lengths": lengths, "starts": torch.rand(3, 130) < 0.05 if packed else None}
    found = results(drawn, "native", torch.float32, valid, **rows)
    expected = results(drawn, "reference", torch.float64, valid, **rows)
    for name, value in expected.items():
        assert (found[name] - value).abs().max() <= 1e-5 * value.abs().max(), name


def test_padding_is_never_read() -> None:
    drawn = draw(90, 4, 16, 4, 2, batch=2)
    lengths = torch.tensor([90, 17])
    valid = torch.arange(90) < lengths[:, None]
    for name in ("x", "dt", "B", "C"):
        drawn[name][1, 17:] = torch.nan
    found = results(drawn, "native", torch.float32, valid, lengths=lengths)
    assert all(value.isfinite().all() for value in found.values())
    assert all((found[name][1, 17:] == 0).all() for name in ("x", "dt", "B", "C"))


def test_strided_arguments_are_read_in_place() -> None:
    drawn = draw(70, 4, 16, 8, 1, batch=2, full=False)
    x, B, C = torch.cat([drawn[name].flatten(2) for name in ("x", "B", "C")], dim=-1).split([64, 8, 8], dim=-1)
    y, _ = ops.ssd(x.unflatten(-1, (4, 16)), drawn["dt"], drawn["A"], B[:, :, None], C[:, :, None], backend="native")
    assert torch.equal(y, ops.ssd(**drawn, backend="native")[0])


def test_the_native_path_is_the_one_that_runs() -> None:
    drawn = draw(5, 4, 8, 2, 1, full=False)
    rest = (None, None, True, (0.0, torch.inf), None, None, None, 64)
    reasons = ops.explain("ssd", *(drawn[name] for name in ORDER), *rest)
    assert next(name for name, reason in reasons if reason is None) == "native"
    double = [drawn[name].double() for name in ORDER]
    assert ("native", "computes in float32, got float64") in ops.explain("ssd", *double, *rest)
    with pytest.raises(InputError, match=r"backend .native. cannot run this call of ssd: computes in float32"):
        ops.ssd(**{name: value.double() for name, value in drawn.items()}, backend="native")
    assert torch.equal(ops.ssd(**drawn)[0], ops.ssd(**drawn, backend="native")[0])


def test_without_vectors_torch_is_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = draw(5, 4, 8, 2, 1, full=False)
    monkeypatch.setattr("longstate.ops.ssd_native._has_vectors", lambda: False)
    with pytest.raises(InputError, match="is slower than torch's products where the compiler knows no vectors"):
        ops.ssd(**drawn, backend="native")


def test_half_precision_is_computed_in_float32() -> None:
    drawn = draw(70, 4, 8, 8, 1)
    half = {name: drawn[name].bfloat16() for name in ("x", "dt", "B", "C")}
    y, state = ops.ssd(**{**drawn, **half}, dt_softplus=True, backend="native")
    exact, final = ops.ssd(**{**drawn, **{name: part.float() for name, part in half.items()}}, dt_softplus=True)
    assert y.dtype is torch.bfloat16
    assert torch.equal(y, exact.bfloat16())
    assert torch.equal(state, final)


def test_the_operator_obeys_torchs_rules() -> None:
    drawn = draw(70, 4, 6, 3, 2, batch=2)
    x, B, C = (drawn[name].flatten(2) for name in ("x", "B", "C"))
    given = [x, B, C, -drawn["dt"].abs(), drawn["dt"], drawn["D"], drawn["state"]]
    rows = (torch.tensor([70, 20]), torch.rand(2, 70) < 0.1)
    utils = ("test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_static")
    torch.library.opcheck(
        torch.ops.longstate.ssd.default,
        (*(part.requires_grad_() for part in given), *rows, 2, 1, True),
        test_utils=utils,
    )


def test_a_compiled_layer_is_the_layer() -> None:
    torch.manual_seed(0)
    layer = Mamba2(16, 8, head_dim=8)
    x = torch.randn(2, 70, 16)
    whole = torch.compile(layer, fullgraph=True, backend="aot_eager")
    slopes = [torch.autograd.grad(run(x).square().sum(), list(layer.parameters())) for run in (layer, whole)]
    for eager, compiled in zip(*slopes, strict=True):
        torch.testing.assert_close(compiled, eager)


@pytest.mark.parametrize("isa", ["base", "avx2", "avx512"])
def test_every_instruction_set_of_this_machine(isa: str) -> None:
    code = (
        "import torch; from longstate.ops import _native; from longstate import ops; torch.manual_seed(0)\n"
        "r = torch.randn\n"
        "given = [r(2, 150, 14, 20), r(2, 150, 14), -torch.rand(14) - 0.1, r(2, 150, 2, 24), r(2, 150, 2, 24)]\n"
        "given += [r(14, 20), r(2, 14, 20, 24)]\n"
        "rows = dict(starts=torch.rand(2, 150) < 0.05, lengths=torch.tensor([150, 99]))\n"
        "valid = torch.arange(150) < rows['lengths'][:, None]\n"
        "out = []\n"
        "for backend, dtype in (('native', torch.float32), ('torch', torch.float64)):\n"
        "    parts = [part.to(dtype).requires_grad_() for part in given]\n"
        "    y, state = ops.ssd(*parts[:6], state=parts[6], dt_softplus=True, backend=backend, **rows)\n"
        "    y = y[valid]\n"
        "    out.append([y, state, *torch.autograd.grad(y.cos().sum() + state.square().sum(), parts)])\n"
        "worst = max(((a - b).abs().max() / b.abs().max()).item() for a, b in zip(*out))\n"
        "print(_native.instruction_set(), worst < 1e-5)"
    )
    environment = {**os.environ, "LONGSTATE_ISA": isa}
    printed = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    chosen, agrees = printed.stdout.split()
    assert agrees == "True"
    order = ["base", "avx2", "avx512"]
    assert order.index(chosen) <= order.index(isa)


def test_nothing_in_nothing_out() -> None:
    drawn = {name: value.requires_grad_() for name, value in draw(0, 4, 6, 3, 1, batch=2).items()}
    y, state = ops.ssd(**drawn, backend="native")
    assert y.shape == (2, 0, 4, 6)
    assert torch.equal(state, drawn["state"])
    state.sum().backward()
    assert drawn["state"].grad is not None
    assert bool((drawn["state"].grad == 1).all())


def test_states_between_blocks_are_kept_for_a_gradient_only() -> None:
    drawn = draw(200, 4, 16, 8, 1, batch=1)
    x, B, C = (drawn[name].flatten(2) for name in ("x", "B", "C"))
    kept = [torch.ops.longstate.ssd(x, B, C, -drawn["dt"].abs(), *[None] * 5, 1, 1, keep)[2].numel() for keep in (0, 1)]
    assert kept == [0, 4 * drawn["state"].numel()]
