"""GELU, map and gate by pieces of rows: against the operations one after the other, in value, gradients and memory."""

import importlib

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from longstate import InputError, ops

MODULE = importlib.import_module("longstate.ops.gelu_map")  # `ops.gelu_map` is the operator
FORMS = [(kind, approximate) for kind in MODULE.KINDS for approximate in ("none", "tanh")]


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pieces of four rows."""
    monkeypatch.setattr(MODULE, "_ELEMENTS", 12)
    monkeypatch.setattr(MODULE, "_LEAST", 4)


def draw(kind: str, *shape: int, dtype: torch.dtype = torch.float64, biased: bool = True) -> tuple[Tensor, ...]:
    """y (*shape, 3), the weight and the bias."""
    rows = {"glu": 4, "linear": 5}.get(kind, 3)
    parts = torch.randn(*shape, 3, dtype=dtype), torch.randn(rows, 3, dtype=dtype), torch.randn(rows, dtype=dtype)
    return parts if biased else parts[:2]


def slopes(found: Tensor, by: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    weights = 0.5 + torch.cos(torch.arange(found.numel(), dtype=found.dtype)).view_as(found)
    return torch.autograd.grad((found * weights).sum(), by)


@pytest.mark.usefixtures("small_pieces")
@pytest.mark.parametrize(("kind", "approximate"), FORMS)
@given(shape=st.lists(st.integers(0, 7), max_size=3), biased=st.booleans(), seed=st.integers(0, 99))
def test_it_is_the_operations_one_after_the_other(
    kind: str, approximate: str, shape: list[int], biased: bool, seed: int
) -> None:
    torch.manual_seed(seed)
    arguments = tuple(part.requires_grad_() for part in draw(kind, *shape, biased=biased))
    found, expected = (
        ops.gelu_map(*arguments, kind=kind, approximate=approximate, backend=backend)
        for backend in ("torch", "reference")
    )
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(slopes(found, arguments), slopes(expected, arguments), rtol=1e-12, atol=1e-11)
    with torch.no_grad():
        assert torch.equal(ops.gelu_map(*arguments, kind=kind, approximate=approximate, backend="torch"), found)


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")  # torch's forward mode
@pytest.mark.usefixtures("small_pieces")
@pytest.mark.parametrize(("kind", "approximate"), FORMS)
@pytest.mark.parametrize("biased", [False, True])
def test_first_and_second_derivatives(kind: str, approximate: str, biased: bool) -> None:
    arguments = tuple(part.requires_grad_() for part in draw(kind, 2, 3, biased=biased))

    def run(y: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        return ops.gelu_map(y, weight, bias, kind=kind, approximate=approximate, backend="torch")

    assert torch.autograd.gradcheck(run, arguments, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(run, arguments)


@pytest.mark.usefixtures("small_pieces")
@pytest.mark.parametrize("kind", MODULE.KINDS)
@pytest.mark.parametrize("wanted", range(3))
def test_only_the_derivatives_that_are_asked_for(kind: str, wanted: int) -> None:
    arguments = draw(kind, 9)
    arguments[wanted].requires_grad_()
    for backend in ("torch", "reference"):
        slopes(ops.gelu_map(*arguments, kind=kind, backend=backend).sin(), (arguments[wanted],))
    found, expected = (
        slopes(ops.gelu_map(*arguments, kind=kind, backend=backend), (arguments[wanted],))
        for backend in ("torch", "reference")
    )
    torch.testing.assert_close(found, expected)


@pytest.mark.usefixtures("small_pieces")
@pytest.mark.parametrize("kind", MODULE.KINDS)
def test_a_gradient_of_any_layout(kind: str) -> None:
    y, weight, bias = draw(kind, 4, 6)
    y = y.mT.contiguous().mT.requires_grad_()
    for layout in (
        lambda out: out.sum(),
        lambda out: (out.transpose(0, 1).flatten() * torch.arange(out.numel())).sum(),
    ):
        found, expected = (
            torch.autograd.grad(layout(ops.gelu_map(y, weight, bias, kind=kind, backend=backend)), y)
            for backend in ("torch", "reference")
        )
        torch.testing.assert_close(found, expected)


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")  # torch's forward mode
@pytest.mark.usefixtures("small_pieces")
@pytest.mark.parametrize("kind", MODULE.KINDS)
def test_under_the_transformations_of_torch_func(kind: str) -> None:
    y, weight, bias = draw(kind, 5, 6)

    def run(y: Tensor, weight: Tensor, bias: Tensor, backend: str) -> Tensor:
        return ops.gelu_map(y, weight, bias, kind=kind, backend=backend)

    def slope(y: Tensor, weight: Tensor, bias: Tensor, backend: str) -> tuple[Tensor, ...]:
        def total(y: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
            return run(y, weight, bias, backend).sin().sum()

        return torch.func.grad(total, argnums=(0, 1, 2))(y, weight, bias)

    for dims, given_parts in (
        ((1, None, None, None), (y, weight, bias)),
        ((0, 0, None, None), (y, torch.stack([weight] * 5), bias)),
        ((None, None, 0, None), (y, weight, torch.stack([bias] * 2))),
    ):
        for transformed in (torch.vmap(run, dims), torch.vmap(slope, dims)):
            torch.testing.assert_close(transformed(*given_parts, "torch"), transformed(*given_parts, "reference"))
    mapped = torch.vmap(run, (0, None, None, None))
    found, expected = (
        torch.func.grad(lambda weight, backend=backend: mapped(y, weight, bias, backend).sin().sum())(weight)
        for backend in ("torch", "reference")
    )
    torch.testing.assert_close(found, expected)
    along = torch.func.jvp(lambda y: run(y, weight, bias, "torch"), (y,), (y.cos(),))
    pull = torch.func.vjp(lambda y: run(y, weight, bias, "reference"), y)[1]
    torch.testing.assert_close((along[1] * along[0]).sum(), (pull(along[0])[0] * y.cos()).sum())


@pytest.mark.parametrize("kind", MODULE.KINDS)
@pytest.mark.parametrize("features", [3, 700])
def test_float32_over_many_rows_is_the_equation_in_float64(kind: str, features: int) -> None:
    rows = {"glu": 8, "linear": 5}.get(kind, features)
    exact = (
        torch.randn(3, 1500, features, dtype=torch.float64).requires_grad_(),
        (torch.randn(rows, features, dtype=torch.float64) / features**0.5).requires_grad_(),
        torch.randn(rows, dtype=torch.float64).requires_grad_(),
    )
    single = tuple(part.detach().float().requires_grad_() for part in exact)
    expected = ops.gelu_map(*exact, kind=kind, backend="reference")
    found = ops.gelu_map(*single, kind=kind, backend="torch")
    for a, b in ((found, expected), *zip(slopes(found, single), slopes(expected, exact), strict=True)):
        assert (a.double() - b).abs().max() <= 2e-6 * b.abs().max()


def test_gates_at_their_ends() -> None:
    """Where a sigmoid is 0 or 1, or all but, the derivative through it is 0 and no more."""
    y = torch.tensor([[300.0, -300.0, 0.0], [2.0, 1.0, 3.0]]).requires_grad_()
    weight = torch.tensor([[1.0, 2.0, 3.0], [-5.0, 0.0, 0.0], [1.0, 1.0, 1.0], [9.0, 9.0, 9.0]]).requires_grad_()
    found, expected = (
        slopes(ops.gelu_map(y, weight, kind="glu", backend=backend), (y, weight)) for backend in ("torch", "reference")
    )
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(("kind", "kept"), [("glu", 3), ("half_glu1", 3), ("half_glu2", 3), ("linear", 1)])
def test_it_keeps_its_input_its_result_and_the_gates(kind: str, kept: int) -> None:
    y, weight, bias = draw(kind, 5000, dtype=torch.float32)
    weight.requires_grad_()
    sizes = {}
    with torch.autograd.graph.saved_tensors_hooks(
        lambda part: sizes.__setitem__(part.data_ptr(), len(part)) or part, lambda part: part
    ):
        out = ops.gelu_map(y, weight, bias, kind=kind)
    assert sorted(sizes.values())[-kept - 1 :] == [len(weight), *[5000] * kept]
    assert out.data_ptr() in sizes or kind == "linear"


def test_its_result_is_not_to_be_changed_in_place() -> None:
    y, weight, bias = draw("glu", 4)
    out = ops.gelu_map(y.requires_grad_(), weight, bias)
    out += 1.0
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        out.sum().backward()


def test_under_autocast_it_computes_in_its_own_type() -> None:
    arguments = tuple(part.requires_grad_() for part in draw("glu", 40, dtype=torch.float32))
    found = []
    for enabled in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            out = ops.gelu_map(*arguments)
            found.append((out, *slopes(out, arguments)))
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_explain() -> None:
    y, weight, bias = draw("glu", 4, dtype=torch.float32)
    assert ops.explain("gelu_map", y, weight, bias, "glu", "none")[1:] == [("torch", None), ("reference", None)]
    half = (y.bfloat16(), weight.bfloat16(), bias.bfloat16())
    assert ops.explain("gelu_map", *half, "glu", "none")[1][1] == "computes in float32 or in float64, got bfloat16"
    assert ops.gelu_map(*half).dtype is torch.bfloat16
    text = "computes in float32 or in float64, got float32, float64"
    assert ops.explain("gelu_map", y.double(), weight, bias, "glu", "none")[1][1] == text
    assert ops.explain("gelu_map", y.to("meta"), weight, None, "glu", "none")[1][1] == (
        "takes pieces for the caches of a cpu, got meta"
    )


def test_a_compiled_program_has_the_operations_themselves() -> None:
    y, weight, bias = draw("glu", 4, 7)
    names = []

    def backend(graph: torch.fx.GraphModule, _: list[Tensor]) -> torch.fx.GraphModule:
        names.extend(str(node.target) for node in graph.graph.nodes)
        return graph

    compiled = torch.compile(lambda y: ops.gelu_map(y, weight, bias), backend=backend, fullgraph=True)
    torch.testing.assert_close(compiled(y), ops.gelu_map(y, weight, bias))
    assert any("gelu" in name for name in names)


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda y, w, b: ops.gelu_map(y, w, b, kind="swiglu"), r"`kind` is 'swiglu', but one of glu, half_glu1, "),
        (lambda y, w, b: ops.gelu_map(y, w, b, approximate="erf"), r"`approximate` is 'erf', but one of none, tanh"),
        (lambda y, w, b: ops.gelu_map(y, w[:, :2], b), r"`weight` \(4, 2\) .* pass the weight of a Linear as it is"),
        (lambda y, w, b: ops.gelu_map(y, w, b[:3]), r"`bias` \(3,\), but \(\.\.\., features\)"),
        (lambda y, w, b: ops.gelu_map(y, w[:3]), r"3 rows with kind='glu', but an even number is needed"),
        (lambda y, w, b: ops.gelu_map(y, w, kind="half_glu1"), r"4 rows with kind='half_glu1', but 3, as many as"),
        (
            lambda y, w, b: ops.gelu_map(y.bfloat16(), w.bfloat16(), backend="torch"),
            r"backend 'torch' cannot run this call of gelu_map: computes in float32 or in float64, got bfloat16",
        ),
    ],
)
def test_errors(call, text: str) -> None:
    with pytest.raises(InputError, match=text):
        call(*draw("glu", 2))
