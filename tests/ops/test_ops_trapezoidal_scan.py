"""The scan of Mamba-3 against its loop, the official recurrences, finite differences and Mamba-2's scan."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from longstate import InputError, ops
from longstate.layers.turns import rotate_pairs, running_turns
from longstate.ops import _native

GOLDENS = Path(__file__).parents[1] / "goldens" / "mamba3.npz"
SISO = ("siso/full", "siso/no_D_no_Z", "siso/groups2_partial_rope_init")


def golden(prefix: str) -> dict[str, Tensor]:
    with np.load(GOLDENS) as archive:
        found = {key: torch.from_numpy(archive[key]) for key in archive.files if key.startswith(f"{prefix}/")}
    return {key.removeprefix(f"{prefix}/"): value for key, value in found.items()}


def close(found: Tensor, expected: Tensor, tolerance: float = 1e-9) -> bool:
    return bool((found - expected).abs().max() <= tolerance * expected.abs().max())


def run(
    case: dict[str, Tensor], backend: str, starts: Tensor | None = None
) -> tuple[Tensor, ops.TrapezoidalState, Tensor]:
    """The official SISO arguments, brought to this operator's: outputs before D and gate, state, turns."""
    heads = case["Q_bias"].shape[0]
    dt, trap = case["DT"].mT, torch.sigmoid(case["Trap"].mT)
    turn = 0.5 * torch.tanh(case["Angles"]) * dt[..., None]
    initial = {key.removeprefix("initial/"): value for key, value in case.items() if key.startswith("initial/")}
    first = initial["angle"] / (2 * math.pi) if initial else torch.zeros_like(turn[:, 0])
    turns = running_turns(turn, first, starts)
    groups = case["Q"].shape[2]
    q, k = (
        rotate_pairs(
            (case[name].repeat_interleave(heads // groups, 2) + case[f"{name}_bias"]).unsqueeze(3), turns, "adjacent"
        )
        for name in ("Q", "K")
    )
    v = case["V"].unsqueeze(3)
    batch, P, N = len(v), v.shape[-1], k.shape[-1]
    zeros = v.new_zeros(batch, heads, P, N)
    rest = ops.TrapezoidalState(zeros, zeros[:, :, :1, :], zeros[..., :1].mT)
    if initial:
        rest = ops.TrapezoidalState(initial["ssm"], initial["k"].unsqueeze(2), initial["v"].unsqueeze(2))
    y, state = ops.trapezoidal_scan(
        v, k, q, case["ADT"].mT, trap * dt, (1 - trap) * dt, rest, starts=starts, backend=backend
    )
    return y[:, :, :, 0], state, turns


@pytest.mark.parametrize("backend", ["torch", "reference"])
@pytest.mark.parametrize("name", SISO)
def test_official_numbers(name: str, backend: str) -> None:
    case = golden(name)
    y, state, turns = run(case, backend)
    y = y + case["D"][:, None] * case["V"] if "D" in case else y
    y = y * F.silu(case["Z"]) if "Z" in case else y
    assert close(y, case["y"])
    assert close(state.S, case["final/ssm"])
    assert close(state.k[:, :, 0], case["final/k"])
    assert close(state.v[:, :, 0], case["final/v"])
    assert close(torch.cos(2 * math.pi * turns[:, -1]), torch.cos(case["final/angle"]))


@pytest.mark.parametrize("backend", ["torch", "reference"])
def test_official_packed_sequences(backend: str) -> None:
    case = golden("siso_varlen/three")
    starts = torch.zeros(1, case["V"].shape[1], dtype=torch.bool)
    starts[0, case["cu_seqlens"][:-1].long()] = True
    y, state, _ = run(case, backend, starts)
    assert close((y + case["D"][:, None] * case["V"]) * F.silu(case["Z"]), case["y"])
    assert close(state.S[0], case["final/ssm"][-1])


def draw(length: int, rank: int, *, batch: int = 2, H: int = 2, P: int = 3, N: int = 4) -> list[Tensor]:
    shapes = [(batch, length, H, rank, P), *[(batch, length, H, rank, N)] * 2]
    vectors = [torch.randn(shape, dtype=torch.float64) for shape in shapes]
    weights = [torch.rand(batch, length, H, dtype=torch.float64) for _ in range(3)]
    shapes = [(batch, H, P, N), (batch, H, rank, N), (batch, H, rank, P)]
    state = [torch.randn(shape, dtype=torch.float64) for shape in shapes]
    everything = [*vectors, -weights[0], *weights[1:], *state]
    return [part.requires_grad_() for part in everything]


@pytest.mark.parametrize("rank", [1, 3])
@pytest.mark.parametrize("length", [1, 5, 70])
@pytest.mark.parametrize("packed", [False, True])
def test_torch_path_equals_the_loop_in_values_gradients_and_state(rank: int, length: int, packed: bool) -> None:
    arguments = draw(length, rank)
    lengths = torch.tensor([length, length // 2])
    starts = torch.rand(2, length) < 0.2 if packed else None
    valid = torch.arange(length) < lengths[:, None]
    results = []
    for backend in ("torch", "reference"):
        state = ops.TrapezoidalState(*arguments[6:])
        # A caller gives weights of 0 in the padding: there the state stands still.
        weights = [torch.where(valid[..., None], part, 0.0) for part in arguments[3:6]]
        y, new = ops.trapezoidal_scan(*arguments[:3], *weights, state, lengths=lengths, starts=starts, backend=backend)
        y = y[valid]
        loss = (y * torch.arange(y.numel()).cos().view_as(y)).sum() + sum((part * part).sum() for part in new)
        results.append([y, *new, *torch.autograd.grad(loss, arguments)])
    for found, expected in zip(*results, strict=True):
        assert close(found, expected, 1e-11) if expected.abs().max() > 0 else bool((found == 0).all())


@pytest.mark.skipif(_native.library() is None, reason="no compiled kernels on this machine")
@pytest.mark.parametrize(("rank", "N"), [(1, 4), (3, 20), (4, 16), (64, 5)])
@pytest.mark.parametrize("packed", [False, True])
def test_native_path_in_values_gradients_and_state(rank: int, N: int, packed: bool) -> None:
    length = 70
    arguments = draw(length, rank, H=3, P=18, N=N)
    names = ("v", "k", "q", "log_decay", "now", "before", "S", "k before", "v before")
    lengths = torch.tensor([length, length // 2])
    starts = torch.rand(2, length) < 0.1 if packed else None
    valid = torch.arange(length) < lengths[:, None]
    results = []
    for backend, dtype in (("native", torch.float32), ("reference", torch.float64)):
        given = [part.detach().to(dtype).requires_grad_() for part in arguments]
        state = ops.TrapezoidalState(*given[6:])
        weights = [torch.where(valid[..., None], part, 0.0) for part in given[3:6]]
        y, new = ops.trapezoidal_scan(*given[:3], *weights, state, lengths=lengths, starts=starts, backend=backend)
        y = y[valid]
        loss = (y * torch.arange(y.numel()).cos().view_as(y)).sum() + sum((part * part).sum() for part in new)
        found = [y, *new, *torch.autograd.grad(loss, given)]
        results.append(dict(zip(("y", "new S", "new k", "new v", *names), found, strict=True)))
    for name, expected in results[1].items():
        assert (results[0][name] - expected).abs().max() <= 1e-5 * expected.abs().max() + 1e-6, name


@pytest.mark.skipif(_native.library() is None, reason="no compiled kernels on this machine")
def test_why_not_native() -> None:
    double = [part.detach() for part in draw(5, 65)]
    state = ops.TrapezoidalState(*double[6:])
    single = [part.float() for part in double]
    small = ops.TrapezoidalState(*single[6:])
    half = [part.bfloat16() for part in double[:6]]
    for given, held, text in (
        (double, state, "computes in float32, got float64"),
        (single, small, "joins at most 64 vectors a step, got 65"),
        (half, small, "computes in float32, got torch.bfloat16"),
    ):
        assert ("native", text) in ops.explain("trapezoidal_scan", *given[:6], held, None, None)


def test_gradcheck() -> None:
    arguments = draw(4, 2, batch=1, H=1, P=2, N=2)

    def call(*values: Tensor) -> tuple[Tensor, ...]:
        y, state = ops.trapezoidal_scan(*values[:6], ops.TrapezoidalState(*values[6:]))
        return y, *state

    assert torch.autograd.gradcheck(call, tuple(arguments))


def test_without_what_came_before_it_is_the_scan_of_mamba_2() -> None:
    v, k, q, log_decay, now, before, *state = (part.detach() for part in draw(9, 1))
    y, new = ops.trapezoidal_scan(v, k, q, log_decay, now, 0 * before, ops.TrapezoidalState(*state))
    A = torch.tensor([-1.0, -2.0], dtype=torch.float64)
    x = v[:, :, :, 0] * now[..., None] / (log_decay / A)[..., None]
    z, S = ops.ssd(x, log_decay / A, A, k[:, :, :, 0], q[:, :, :, 0], state=state[0])
    assert close(y[:, :, :, 0], z, 1e-12)
    assert close(new.S, S, 1e-12)


def test_errors() -> None:
    v, k, q, log_decay, now, before, *state = draw(3, 1)
    with pytest.raises(InputError, match=r"`k` \(2, 2, 2, 1, 4\), .* are needed; check their axes"):
        ops.trapezoidal_scan(v, k[:, :2], q[:, :2], log_decay, now, before, ops.TrapezoidalState(*state))
