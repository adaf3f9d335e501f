"""The operators of one system with many inputs: the scan and the step against their loops, also where steps vary."""

from itertools import product

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from longstate import InputError, ops

BATCH, MODES, FEATURES = 4, 5, 3
KINDS = list(product((False, True), repeat=2))
"""Whether A and gain vary over the sequence."""


def random_mimo(length: int, varying: tuple[bool, bool]) -> ops.MIMOSystem:
    real, number = {"dtype": torch.float64}, {"dtype": torch.complex128}
    A_shape, gain_shape = ((BATCH, length, MODES) if varies else (MODES,) for varies in varying)
    A = torch.polar(0.7 + 0.3 * torch.rand(A_shape, **real), 3 * torch.randn(A_shape, **real))
    B, C = torch.randn(MODES, FEATURES, **number), torch.randn(FEATURES, MODES, **number)
    return ops.MIMOSystem(A, torch.randn(gain_shape, **number), B, C, torch.randn(FEATURES, **real))


def close(a: Tensor, b: Tensor, tolerance: float = 1e-11) -> bool:
    return bool((a - b).abs().max() <= tolerance * b.abs().max().clamp(min=1.0)) if b.numel() else a.shape == b.shape


@pytest.mark.parametrize("varying", KINDS)
@given(length=st.integers(0, 50), padded=st.booleans(), packed=st.booleans(), seed=st.integers(0, 99))
def test_scan_is_the_loop(varying: tuple[bool, bool], length: int, padded: bool, packed: bool, seed: int) -> None:
    torch.manual_seed(seed)
    system = random_mimo(length, varying)
    u = torch.randn(BATCH, length, FEATURES, dtype=torch.float64)
    state = torch.randn(BATCH, MODES, 2, dtype=torch.float64)
    lengths = torch.tensor([0, length, length // 2, max(length - 1, 0)]) if padded else None
    starts = torch.rand(BATCH, length) < 0.15 if packed else None
    valid = torch.ones(BATCH, length, dtype=torch.bool) if lengths is None else torch.arange(length) < lengths[:, None]
    u = torch.where(valid[..., None], u, torch.nan)
    for given_state in (state, None):
        y, final = ops.mimo_scan(u, system, given_state, lengths=lengths, starts=starts)
        loop = ops.mimo_scan(u, system, given_state, lengths=lengths, starts=starts, backend="reference")
        assert close(y[valid], loop[0][valid])
        assert close(final, loop[1])


@pytest.mark.parametrize("varying", KINDS)
def test_gradients_are_those_of_the_loop(varying: tuple[bool, bool]) -> None:
    system = random_mimo(40, varying)
    u = torch.randn(BATCH, 40, FEATURES, dtype=torch.float64)
    state = torch.randn(BATCH, MODES, 2, dtype=torch.float64)
    leaves = [part.clone().requires_grad_() for part in (u, state, *system)]
    lengths = torch.tensor([40, 0, 17, 39])
    slopes = {}
    for backend in ("torch", "reference"):
        y, final = ops.mimo_scan(leaves[0], ops.MIMOSystem(*leaves[2:]), leaves[1], lengths=lengths, backend=backend)
        y = torch.where((torch.arange(40) < lengths[:, None])[..., None], y, 0.0)
        slopes[backend] = torch.autograd.grad(y.square().sum() + final.pow(3).sum(), leaves)
    for found, expected in zip(slopes["torch"], slopes["reference"], strict=True):
        assert close(found, expected)


@pytest.mark.parametrize("varying", KINDS)
def test_float32_is_close_to_float64(varying: tuple[bool, bool]) -> None:
    system = random_mimo(400, varying)
    u = torch.randn(BATCH, 400, FEATURES)
    y, final = ops.mimo_scan(u, system)
    exact, exact_final = ops.mimo_scan(u.double(), system, backend="reference")
    assert y.dtype is final.dtype is torch.float32
    assert (y - exact).abs().max() <= 5e-6 * exact.abs().max()
    assert (final - exact_final).abs().max() <= 5e-6 * exact_final.abs().max()
    half, half_final = ops.mimo_scan(u.bfloat16(), system)
    assert half.dtype is torch.bfloat16
    assert half_final.dtype is torch.float32


def test_autocast_does_not_reach_inside() -> None:
    system, u = random_mimo(50, (False, False)), torch.randn(BATCH, 50, FEATURES)
    y, final = ops.mimo_scan(u, system)
    constants = ops.mimo_constants(system, torch.float32)
    stepped, _ = ops.mimo_step(u[:, 0], final, constants)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(ops.mimo_scan(u, system)[0], y)
        assert torch.equal(ops.mimo_step(u[:, 0], final, constants)[0], stepped)


@pytest.mark.parametrize("varying", KINDS)
def test_step_is_the_loop(varying: tuple[bool, bool]) -> None:
    system = random_mimo(9, varying)
    u = torch.randn(BATCH, 9, FEATURES, dtype=torch.float64)
    state = torch.randn(BATCH, MODES, 2, dtype=torch.float64)
    y_loop, final_loop = ops.mimo_scan(u, system, state, backend="reference")
    for t in range(9):
        A, gain = (part[:, t] if part.dim() == 3 else part for part in system[:2])
        constants = ops.mimo_constants(system._replace(A=A, gain=gain), torch.float64)
        y_plain, state_plain = ops.mimo_step(u[:, t], state, constants, backend="reference")
        y, state = ops.mimo_step(u[:, t], state, constants)
        assert close(y, y_loop[:, t])
        assert close(y_plain, y)
        assert close(state_plain, state)
    assert close(state, final_loop)


def test_the_step_is_real_arithmetic() -> None:
    constants = ops.mimo_constants(random_mimo(1, (False, False)), torch.float32)
    assert not any(part.is_complex() for part in constants)
    program = torch.export.export(_Step(constants), (torch.randn(BATCH, FEATURES), torch.randn(BATCH, MODES, 2)))
    graphs = [part.graph for part in program.graph_module.modules() if isinstance(part, torch.fx.GraphModule)]
    values = [node.meta.get("val") for graph in graphs for node in graph.nodes]
    values = [value for value in values if isinstance(value, Tensor)]
    assert len(values) > 20
    assert not any(value.is_complex() for value in values)


class _Step(torch.nn.Module):
    def __init__(self, constants: ops.MIMOConstants) -> None:
        super().__init__()
        for name, part in constants._asdict().items():
            self.register_buffer(name, part)

    def forward(self, u_t: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        return ops.mimo_step(u_t, state, ops.MIMOConstants(self.A, self.gain, self.B, self.C, self.D))


def test_a_length_axis_never_meets_both_features_and_modes() -> None:
    length, modes, features = 64, 32, 48
    A = torch.full((2, length, modes), 0.5 + 0j)
    B, C = torch.randn(modes, features) + 0j, torch.randn(features, modes) + 0j
    system = ops.MIMOSystem(A, A, B, C, torch.zeros(features))
    with _Largest() as largest:
        ops.mimo_scan(torch.randn(2, length, features), system)
    assert largest.numel <= 2 * length * 2 * max(modes, features)


class _Largest(torch.utils._python_dispatch.TorchDispatchMode):
    numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for part in torch.utils._pytree.tree_leaves(out):
            if isinstance(part, Tensor):
                self.numel = max(self.numel, part.untyped_storage().nbytes() // 4)
        return out


def test_explain_names_the_backends() -> None:
    system = random_mimo(1, (False, False))
    u = torch.randn(BATCH, 1, FEATURES)
    assert ops.explain("mimo_scan", u, system, None, None, None) == [("torch", None), ("reference", None)]


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda s: ops.mimo_scan(torch.zeros(2, 7), s), r"`u` has shape \(2, 7\), but \(batch, length, 3\) is needed"),
        (lambda s: ops.mimo_scan(torch.zeros(2, 7, 4), s), r"`u` has shape \(2, 7, 4\), but \(batch, length, 3\)"),
        (
            lambda s: ops.mimo_scan(torch.zeros(2, 7, 3), s, torch.zeros(2, 4, 2)),
            r"`state` has shape \(2, 4, 2\), but \(2, 5, 2\) is needed; start from `initial_state",
        ),
        (
            lambda s: ops.mimo_scan(torch.zeros(2, 7, 3), s._replace(A=s.A.expand(2, 8, 5))),
            r"the system has A \(2, 8, 5\), gain \(5,\), .* but \(P,\) or \(2, 7, P\) for A and gain",
        ),
        (lambda s: ops.mimo_scan(torch.zeros(2, 7, 3), s, lengths=torch.tensor([8, 1])), "between 0 and the sequence"),
        (lambda s: ops.mimo_scan(torch.zeros(2, 7, 3), s, starts=torch.zeros(2, 7)), "`starts` is torch.float32"),
        (lambda s: ops.mimo_constants(s._replace(C=s.B), torch.float32), r"the system has A \(5,\), .*C \(5, 3\)"),
        (lambda s: ops.mimo_scan(torch.zeros(2, 7, 3), s, backend="cuda"), "mimo_scan has auto, torch, reference"),
    ],
)
def test_errors_say_what_to_do(call, text: str) -> None:
    with pytest.raises(InputError, match=text):
        call(random_mimo(1, (False, False)))
