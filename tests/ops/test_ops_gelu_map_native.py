"""The compiled GELU, map and gate: against the equations in float64, in value and every gradient."""

import os
import subprocess
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from longstate import ops
from longstate.ops import _native
from longstate.ops.gelu_map_native import KINDS

pytestmark = pytest.mark.skipif(not _native.is_built(), reason="the kernels were not built")

FORMS = [(kind, approximate) for kind in KINDS for approximate in ("none", "tanh")]


def draw(kind: str, rows: int, features: int, width: int, *, biased: bool = True) -> dict[str, Tensor]:
    """y, the weight and the bias, in float64 but of numbers that float32 has."""
    count = {"glu": 2 * width, "linear": width}.get(kind, features)
    parts = {"y": 2 * torch.randn(rows, features), "weight": torch.randn(count, features) / max(features, 1) ** 0.5}
    if biased:
        parts["bias"] = torch.randn(count)
    return {name: part.double().requires_grad_() for name, part in parts.items()}


def singles(parts: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: part.detach().float().requires_grad_() for name, part in parts.items()}


def slopes(out: Tensor, parts: dict[str, Tensor]) -> dict[str, Tensor]:
    weights = 0.5 + torch.cos(torch.arange(out.numel(), dtype=out.dtype)).view_as(out)
    return dict(zip(parts, torch.autograd.grad((out * weights).sum(), list(parts.values())), strict=True))


def check(kind: str, approximate: str, exact: dict[str, Tensor]) -> None:
    parts = singles(exact)
    found = ops.gelu_map(*parts.values(), kind=kind, approximate=approximate, backend="native")
    expected = ops.gelu_map(*exact.values(), kind=kind, approximate=approximate, backend="reference")
    torch.testing.assert_close(found.double(), expected, rtol=2e-6, atol=4e-6)
    with torch.no_grad():
        assert torch.equal(ops.gelu_map(*parts.values(), kind=kind, approximate=approximate, backend="native"), found)
    if found.numel():
        by, wanted = slopes(found, parts), slopes(expected, exact)
        for name, slope in wanted.items():
            scale = slope.abs().max() if slope.numel() else 0.0
            assert (by[name].double() - slope).abs().le(4e-6 * scale).all(), name


@pytest.mark.parametrize(("kind", "approximate"), FORMS)
@given(
    rows=st.integers(64, 300),
    features=st.integers(1, 140),
    width=st.integers(1, 70),
    biased=st.booleans(),
    seed=st.integers(0, 99),
)
def test_values_and_gradients(
    kind: str, approximate: str, rows: int, features: int, width: int, biased: bool, seed: int
) -> None:
    torch.manual_seed(seed)
    check(kind, approximate, draw(kind, rows, features, width, biased=biased))


@pytest.mark.parametrize("kind", KINDS)
def test_many_parts_and_wide_maps(kind: str) -> None:
    check(kind, "none", draw(kind, 5000, 40, 30))
    check(kind, "none", draw(kind, 200, 500, 300))


@pytest.mark.parametrize(("approximate", "ends"), [("none", 1e18), ("tanh", 1e12)])
def test_inputs_and_gates_at_their_ends(approximate: str, ends: float) -> None:
    """Where a gate is 0 or 1, or the input far out, values and slopes are finite and those of the equations."""
    y = torch.linspace(-30, 30, 128, dtype=torch.float64).view(64, 2).clone()
    y[:2] = torch.tensor([[ends, -ends], [-ends, 0.0]])
    weight = torch.tensor([[1.0, 2.0], [0.5, 0.0], [9.0, 9.0], [-50.0, 1.0]], dtype=torch.float64)
    exact = {"y": y.requires_grad_(), "weight": weight.requires_grad_()}
    parts = singles(exact)
    found = ops.gelu_map(*parts.values(), kind="glu", approximate=approximate, backend="native")
    expected = ops.gelu_map(*exact.values(), kind="glu", approximate=approximate, backend="reference")
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-6)
    by, wanted = slopes(found, parts)["y"].double(), slopes(expected, exact)["y"]
    assert by.isfinite().all()
    torch.testing.assert_close(by[2:], wanted[2:], rtol=1e-4, atol=1e-4)


def test_nan_stays_in_its_row() -> None:
    parts = singles(draw("glu", 100, 33, 17))
    whole = ops.gelu_map(*parts.values(), backend="native")
    y = parts["y"].detach().clone()
    y[50, 3] = torch.nan
    found = ops.gelu_map(y, parts["weight"], parts["bias"], backend="native")
    assert found[50].isnan().all()
    keep = torch.arange(100) != 50
    assert torch.equal(found[keep], whole[keep])


@pytest.mark.parametrize("wanted", ["y", "weight", "bias"])
@pytest.mark.parametrize("kind", KINDS)
def test_only_the_derivatives_that_are_asked_for(kind: str, wanted: str) -> None:
    parts = singles(draw(kind, 70, 9, 5))
    all_of_them = slopes(ops.gelu_map(*parts.values(), kind=kind, backend="native"), parts)
    alone = {name: part.detach().requires_grad_(name == wanted) for name, part in parts.items()}
    found = slopes(ops.gelu_map(*alone.values(), kind=kind, backend="native"), {wanted: alone[wanted]})
    assert torch.equal(found[wanted], all_of_them[wanted])


def test_mapped_gradients_and_second_derivatives_are_those_of_the_equations() -> None:
    parts = singles(draw("glu", 64, 4, 3))
    found = []
    for backend in ("native", "reference"):
        out = ops.gelu_map(*parts.values(), backend=backend)
        grads = torch.eye(6).view(6, 2, 3).repeat(1, 32, 1)
        by = torch.autograd.grad(out, parts["y"], grads, is_grads_batched=True, retain_graph=True)[0]
        first = torch.autograd.grad(out.sin().sum(), parts["y"], create_graph=True)[0]
        found.append((by, torch.autograd.grad(first.square().sum(), parts["weight"])[0]))
    torch.testing.assert_close(*found)
    y = torch.stack([parts["y"].detach()] * 2)
    mapped = torch.vmap(lambda y: ops.gelu_map(y, parts["weight"], parts["bias"], backend="native"))(y)
    torch.testing.assert_close(mapped[1], ops.gelu_map(*parts.values(), backend="native"))


def test_the_number_of_threads_changes_nothing() -> None:
    parts = singles(draw("glu", 7000, 48, 40))
    threads, found = torch.get_num_threads(), []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            out = ops.gelu_map(*parts.values(), backend="native")
            found.append([out, *slopes(out, parts).values()])
    finally:
        torch.set_num_threads(threads)
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))


def test_which_path_runs_and_why() -> None:
    parts = singles(draw("glu", 64, 8, 4))
    y, weight, bias = parts.values()
    assert ops.explain("gelu_map", y, weight, bias, "glu", "none")[0] == ("native", None)
    for arguments, reason in (
        ((y.double(), weight.double(), bias.double()), "computes in float32, got float64"),
        ((y[:63], weight, bias), "is slower than a library's matrix products for fewer than 64 rows"),
        (
            (y, weight.repeat(200, 1), bias.repeat(200)),
            "is slower than a library's matrix products for weights of more than 1024 rows or columns",
        ),
        ((y.to("meta"), weight, bias), "needs tensors on the cpu, got meta"),
    ):
        assert ops.explain("gelu_map", *arguments, "glu", "none")[0] == ("native", reason)


def test_the_operators_obey_torchs_rules() -> None:
    y, weight, bias = (part.detach() for part in singles(draw("glu", 70, 5, 3)).values())
    utils = ("test_schema", "test_faketensor")
    for keep in (True, False):
        torch.library.opcheck(torch.ops.longstate.gelu_map.default, (y, weight, bias, 0, False, keep), test_utils=utils)
    out, gates = torch.ops.longstate.gelu_map(y, weight, bias, 0, False, True)
    for by_y, by_map in ((True, True), (True, False), (False, True)):
        arguments = (out.cos(), y, weight, bias, out, gates, 0, False, by_y, by_map)
        torch.library.opcheck(torch.ops.longstate.gelu_map_backward.default, arguments, test_utils=utils)


@pytest.mark.parametrize("isa", ["base", "avx2", "avx512"])
def test_every_instruction_set_of_this_machine(isa: str) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__, "-k", "many_parts or threads"]
    ran = subprocess.run(command, env={**os.environ, "LONGSTATE_ISA": isa}, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout + ran.stderr
