"""The selective scan against the official reference's numbers, its own loop, and finite differences."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from longstate import InputError, ops
from longstate.ops.selective_scan import selective_scan_reference

GOLDENS = Path(__file__).parents[1] / "goldens" / "mamba1.npz"
CASES = ("full", "no_softplus_D_z_bias", "groups2", "const_B_const_C", "const_B_variable_C", "complex_A")
CASES += ("softplus_large_dt", "grad_full")
KINDS = ("constant", "shared", "grouped")


def golden(name: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The arguments of an official case in this library's axis order, and its arrays as they are."""
    with np.load(GOLDENS) as archive:
        prefix = f"scan/{name}/"
        case = {key.removeprefix(prefix): torch.from_numpy(archive[key]) for key in archive.files if prefix in key}
    is_complex = case["A"].is_complex()

    def vectors(part: Tensor) -> Tensor:
        if part.dim() == 2:
            return part
        if is_complex:
            part = torch.view_as_complex(part.unflatten(-1, (-1, 2)).contiguous())
        return part.mT if part.dim() == 3 else part.permute(0, 3, 1, 2)

    arguments = {"u": case["u"].mT, "dt": case["delta"].mT, "A": case["A"]}
    arguments |= {"B": vectors(case["B"]), "C": vectors(case["C"]), "D": case.get("D")}
    arguments |= {"z": case["z"].mT if "z" in case else None, "dt_bias": case.get("delta_bias")}
    return arguments | {"dt_softplus": name != "no_softplus_D_z_bias"}, case


def close(found: Tensor, expected: Tensor, tolerance: float) -> bool:
    return bool((found - expected).abs().max() <= tolerance * expected.abs().max())


@pytest.mark.parametrize("backend", ["reference", "torch"])
@pytest.mark.parametrize("name", CASES)
def test_official_numbers(name: str, backend: str) -> None:
    arguments, case = golden(name)
    y, state = ops.selective_scan(**arguments, backend=backend)
    last = torch.view_as_real(case["last_state"]) if case["last_state"].is_complex() else case["last_state"]
    assert close(y.mT, case["out"], 1e-9)
    assert close(state, last, 1e-9)


def test_official_gradients() -> None:
    arguments, case = golden("grad_full")
    names = {"u": "u", "dt": "delta", "A": "A", "B": "B", "C": "C", "D": "D", "z": "z", "dt_bias": "delta_bias"}
    for name in names:
        arguments[name] = arguments[name].detach().requires_grad_()
    y, _ = ops.selective_scan(**arguments, backend="torch")
    (y.mT * case["dout"]).sum().backward()
    for name, official in names.items():
        expected = case[f"grad/{official}"]
        found = arguments[name].grad
        assert close(found.mT if expected.dim() == 3 else found, expected, 1e-9), name


def test_float32_is_as_good_as_the_official_float32() -> None:
    for name in CASES[:5]:
        arguments, case = golden(name)
        single = {key: value.float() if isinstance(value, Tensor) else value for key, value in arguments.items()}
        assert close(ops.selective_scan(**single)[0].mT.double(), case["out"], 1e-6)


def draw(
    kind: str, *, is_complex: bool, batch: int = 2, length: int = 9, E: int = 4, N: int = 3, grad: bool = True
) -> dict[str, Tensor]:
    numbers = torch.complex128 if is_complex else torch.float64
    shape = {"constant": (E, N), "shared": (batch, length, N), "grouped": (batch, length, 2, N)}[kind]
    A = -torch.rand(E, N, dtype=torch.float64) - 0.1
    drawn = {
        "u": torch.randn(batch, length, E, dtype=torch.float64),
        "dt": torch.randn(batch, length, E, dtype=torch.float64),
        "A": torch.complex(A, torch.randn_like(A)) if is_complex else A,
        "B": torch.randn(shape, dtype=numbers),
        "C": torch.randn(shape, dtype=numbers),
        "D": torch.randn(E, dtype=torch.float64),
        "z": torch.randn(batch, length, E, dtype=torch.float64),
        "dt_bias": torch.randn(E, dtype=torch.float64),
        "state": torch.randn(batch, E, N, *([2] if is_complex else []), dtype=torch.float64),
    }
    return {name: value.requires_grad_(grad) for name, value in drawn.items()}


def gradients(arguments: dict[str, Tensor], backend: str, valid: Tensor, **rows: Any) -> list[Tensor]:
    """Outputs at valid steps, the final state, and the derivatives of both by every argument."""
    y, state = ops.selective_scan(**arguments, dt_softplus=True, backend=backend, **rows)
    y = y[valid]
    loss = (y * torch.arange(y.numel()).cos().view_as(y)).sum() + (state * state).sum()
    return [y, state, *torch.autograd.grad(loss, list(arguments.values()))]


@pytest.mark.parametrize("is_complex", [False, True])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("length", [1, 40, 150])  # one block, and several of 128 steps
def test_torch_path_equals_the_loop_in_values_gradients_and_state(kind: str, is_complex: bool, length: int) -> None:
    arguments = draw(kind, is_complex=is_complex, length=length)
    lengths = torch.tensor([length, length // 2])
    starts = torch.rand(2, length) < 0.1
    valid = torch.arange(length) < lengths[:, None]
    for name in ("u", "dt", "z"):
        arguments[name] = torch.where(valid[..., None], arguments[name].detach(), torch.nan).requires_grad_()
    found, expected = (
        gradients(arguments, backend, valid, lengths=lengths, starts=starts) for backend in ("torch", "reference")
    )
    for a, b in zip(found, expected, strict=True):
        assert close(a, b, 1e-12) if b.abs().max() > 0 else bool((a == 0).all())


@pytest.mark.parametrize("is_complex", [False, True])
def test_gradcheck(is_complex: bool) -> None:
    arguments = draw("shared", is_complex=is_complex, batch=1, length=4, E=2, N=2)

    def run(*values: Tensor) -> tuple[Tensor, Tensor]:
        return ops.selective_scan(**dict(zip(arguments, values, strict=True)), dt_softplus=True)

    assert torch.autograd.gradcheck(run, tuple(arguments.values()))


@given(cut=st.integers(0, 20), length=st.integers(1, 20), kind=st.sampled_from(KINDS))
def test_any_cut_with_a_carried_state(cut: int, length: int, kind: str) -> None:
    arguments = draw(kind, is_complex=False, length=length, grad=False)
    whole, last = ops.selective_scan(**arguments)
    cut = min(cut, length)
    parts, state = [], arguments.pop("state")
    for piece in (slice(0, cut), slice(cut, length)):
        chunk = {key: value[:, piece] if value.dim() > 2 else value for key, value in arguments.items()}
        y, state = ops.selective_scan(**chunk, state=state)
        parts.append(y)
    assert close(torch.cat(parts, dim=1), whole, 1e-12)
    assert close(state, last, 1e-12)


@pytest.mark.parametrize("kind", ["shared", "grouped"])
def test_steps(kind: str) -> None:
    arguments = draw(kind, is_complex=False, grad=False)
    whole, last = ops.selective_scan(**arguments, dt_softplus=True)
    state = arguments["state"]
    for t in range(whole.shape[1]):
        u, dt, B, C, z = (arguments[name][:, t] for name in ("u", "dt", "B", "C", "z"))
        A, D, bias = arguments["A"], arguments["D"], arguments["dt_bias"]
        y, state = ops.selective_scan_step(u, dt, A, B, C, D, state, z_t=z, dt_bias=bias, dt_softplus=True)
        assert close(y, whole[:, t], 1e-12)
    assert close(state, last, 1e-12)


def saved_bytes(length: int) -> int:
    arguments = draw("shared", is_complex=False, length=length, E=16, N=64)
    seen: dict[int, int] = {}

    def pack(x: Tensor) -> Tensor:
        seen[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        ops.selective_scan(**arguments, dt_softplus=True)
    return sum(seen.values())


def test_what_is_kept_for_the_gradient_is_linear_and_small() -> None:
    short, long = saved_bytes(1024), saved_bytes(2048)
    assert long <= 2.05 * short
    assert long < 2 * 2048 * 16 * 64 * 8 / 4  # a quarter of the states of all steps


def test_autocast_changes_nothing() -> None:
    arguments = {name: value.detach().float() for name, value in draw("shared", is_complex=False).items()}
    plain = ops.selective_scan(**arguments)[0]
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(ops.selective_scan(**arguments)[0], plain)
    half = {**arguments, "u": arguments["u"].bfloat16()}
    y, state = ops.selective_scan(**half)
    assert y.dtype is torch.bfloat16
    assert state.dtype is torch.float32


def test_backends_explain_themselves() -> None:
    arguments = draw("shared", is_complex=False, grad=False)
    given = (*(arguments[name] for name in ("u", "dt", "A", "B", "C", "D", "z", "dt_bias")), True, None, None, None)
    reasons = ops.explain("selective_scan", *given)
    assert reasons[-1] == ("reference", None)
    assert ("torch", None) in reasons
    assert torch.equal(
        selective_scan_reference(*given)[0],
        ops.selective_scan(*given[:6], z=given[6], dt_bias=given[7], dt_softplus=True, backend="reference")[0],
    )


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        (
            "u",
            torch.zeros(2, 9),
            r"`u` has shape \(2, 9\) and `A` \(4, 3\), but \(batch, length, E\) and \(E, N\) are needed",
        ),
        (
            "dt",
            torch.zeros(2, 9, 3),
            r"`dt` has shape \(2, 9, 3\), but \(2, 9, 4\) is needed for this `u`; check its axes",
        ),
        ("B", torch.zeros(2, 9, 3, 3), r"`B` is torch.float32 of shape \(2, 9, 3, 3\), but .* G a divisor of 4"),
        ("C", torch.zeros(2, 8, 3), r"`C` is torch.float32 of shape \(2, 8, 3\), but"),
        ("D", torch.zeros(3), r"`D` has shape \(3,\), but \(4,\) is needed"),
        ("state", torch.zeros(1, 4, 3), r"`state` has shape \(1, 4, 3\), but \(2, 4, 3\) is needed; start from"),
    ],
)
def test_errors(name: str, value: Tensor, text: str) -> None:
    with pytest.raises(InputError, match=text):
        ops.selective_scan(**{**draw("shared", is_complex=False), name: value})


def test_autocast_does_not_reach_the_gradient() -> None:
    arguments = {name: value.detach().float() for name, value in draw("shared", is_complex=False).items()}
    slopes = []
    for enabled in (False, True):
        u = arguments["u"].clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            ops.selective_scan(**{**arguments, "u": u})[0].sum().backward()
        slopes.append(u.grad)
    assert torch.equal(slopes[0], slopes[1])
