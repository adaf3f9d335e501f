"""The scan of Mamba-2 against the official numbers, its own loop, finite differences and the selective scan."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from longstate import InputError, ops
from longstate.ops.ssd_core import ssd_core

GOLDENS = Path(__file__).parents[1] / "goldens" / "mamba2.npz"
LIMITS = {"g2_Dhp_limit": (0.05, 0.9)}


def golden(name: str) -> dict[str, Tensor]:
    with np.load(GOLDENS) as archive:
        return {
            key.removeprefix(f"{name}/"): torch.from_numpy(archive[key])
            for key in archive.files
            if key.startswith(f"{name}/")
        }


def close(found: Tensor, expected: Tensor, tolerance: float) -> bool:
    return bool((found - expected).abs().max() <= tolerance * expected.abs().max())


@pytest.mark.parametrize(("backend", "block"), [("reference", 64), ("torch", 1), ("torch", 8), ("torch", 64)])
@pytest.mark.parametrize("name", ["g1", "g2_z", "g3_init_odd_length", "g2_Dhp_limit"])
def test_official_numbers(name: str, backend: str, block: int) -> None:
    case = golden(f"ssd/{name}")
    y, state = ops.ssd(
        *(case[key] for key in ("x", "dt", "A", "B", "C")),
        case.get("D"),
        dt_bias=case.get("dt_bias"),
        dt_softplus=True,
        dt_limit=LIMITS.get(name, (0.0, math.inf)),
        state=case.get("initial_states"),
        block=block,
        backend=backend,
    )
    y = y * F.silu(case["z"]) if "z" in case else y
    assert close(y, case["y"], 1e-9)
    assert close(state, case["final_state"], 1e-9)


@pytest.mark.parametrize("name", ["no_init", "init"])
def test_official_minimal_form(name: str) -> None:
    case = golden(f"ssd_minimal/{name}")
    rest = torch.zeros_like(case["final_state"])
    state = case["initial_states"][:, 0] if name == "init" else rest
    y, final = ssd_core(case["X"], case["A"], case["B"], case["C"], state, None, 8)
    assert close(y, case["y"], 1e-9)
    assert close(final, case["final_state"], 1e-9)


def test_official_step() -> None:
    case = golden("update/g2")
    # The official step holds one A and one bias a channel; these are the same along a head in Mamba-2.
    heads = case["A"].shape[0]
    for p in range(case["A"].shape[1]):
        for n in range(case["A"].shape[2]):
            y, state = ops.ssd_step(
                case["x"][:, :, p : p + 1],
                case["dt"][:, :, p],
                case["A"][:, p, n],
                case["B"][..., n : n + 1],
                case["C"][..., n : n + 1],
                None,
                case["state"][:, :, p : p + 1, n : n + 1],
                dt_bias=case["dt_bias"][:, p],
                dt_softplus=True,
            )
            assert y.shape == (2, heads, 1)
            assert close(state[..., 0, 0], case["new_state"][:, :, p, n], 1e-12)


def draw(G: int, *, batch: int = 2, length: int = 9, H: int = 4, P: int = 3, N: int = 5) -> dict[str, Tensor]:
    drawn = {
        "x": torch.randn(batch, length, H, P),
        "dt": torch.randn(batch, length, H),
        "A": -torch.rand(H) - 0.1,
        "B": torch.randn(batch, length, G, N),
        "C": torch.randn(batch, length, G, N),
        "D": torch.randn(H, P),
        "dt_bias": torch.randn(H),
        "state": torch.randn(batch, H, P, N),
    }
    return {name: value.double().requires_grad_() for name, value in drawn.items()}


@pytest.mark.parametrize("G", [1, 2, 4])
@pytest.mark.parametrize(("length", "block"), [(1, 8), (8, 8), (37, 8), (70, 64)])
@pytest.mark.parametrize("packed", [False, True])
def test_torch_path_equals_the_loop_in_values_gradients_and_state(
    G: int, length: int, block: int, packed: bool
) -> None:
    arguments = draw(G, length=length)
    lengths = torch.tensor([length, length // 2])
    valid = torch.arange(length) < lengths[:, None]
    rows: dict[str, Any] = {"lengths": lengths, "starts": torch.rand(2, length) < 0.15 if packed else None}
    for name in ("x", "dt", "B", "C"):
        inside = valid.reshape(2, length, *[1] * (arguments[name].dim() - 2))
        arguments[name] = torch.where(inside, arguments[name].detach(), torch.nan).requires_grad_()
    results = []
    for backend in ("torch", "reference"):
        y, state = ops.ssd(**arguments, dt_softplus=True, dt_limit=(0.1, 1.5), block=block, backend=backend, **rows)
        y = y[valid]
        loss = (y * torch.arange(y.numel()).cos().view_as(y)).sum() + (state * state).sum()
        results.append([y, state, *torch.autograd.grad(loss, list(arguments.values()))])
    for found, expected in zip(*results, strict=True):
        assert close(found, expected, 1e-11) if expected.abs().max() > 0 else bool((found == 0).all())


def test_gradcheck() -> None:
    arguments = draw(2, batch=1, length=5, H=2, P=2, N=2)

    def run(*values: Tensor) -> tuple[Tensor, Tensor]:
        return ops.ssd(**dict(zip(arguments, values, strict=True)), dt_softplus=True, block=2)

    assert torch.autograd.gradcheck(run, tuple(arguments.values()))


def test_float32_gradients_are_near_those_of_float64() -> None:
    """Long decays and long blocks: the derivative by the decay is a difference of two sums."""
    arguments = draw(1, length=300, P=16, N=16)
    results = []
    for dtype in (torch.float64, torch.float32):
        given = {name: value.detach().to(dtype).requires_grad_() for name, value in arguments.items()}
        y, state = ops.ssd(**given, dt_softplus=True)
        loss = (y * torch.arange(y.numel()).cos().view_as(y).to(dtype)).sum() + state.sum()
        results.append([y, state, *torch.autograd.grad(loss, list(given.values()))])
    for exact, found in zip(*results, strict=True):
        assert close(found.double(), exact, 1e-5)


@given(cut=st.integers(0, 20), length=st.integers(1, 20), G=st.sampled_from([1, 2, 4]))
def test_any_cut_and_single_steps(cut: int, length: int, G: int) -> None:
    arguments = {name: value.detach() for name, value in draw(G, length=length).items()}
    whole, last = ops.ssd(**arguments, dt_softplus=True, block=4)
    cut, state, parts = min(cut, length), arguments.pop("state"), []
    chunk = {key: value[:, :cut] if key in ("x", "dt", "B", "C") else value for key, value in arguments.items()}
    y, state = ops.ssd(**chunk, state=state, dt_softplus=True, block=4)
    parts.append(y)
    for t in range(cut, length):
        x, dt, B, C = (arguments[name][:, t] for name in ("x", "dt", "B", "C"))
        A, D, bias = arguments["A"], arguments["D"], arguments["dt_bias"]
        y_t, state = ops.ssd_step(x, dt, A, B, C, D, state, dt_bias=bias, dt_softplus=True)
        parts.append(y_t[:, None])
    assert close(torch.cat(parts, dim=1), whole, 1e-12)
    assert close(state, last, 1e-12)


def test_it_is_the_selective_scan_with_one_decay_a_head() -> None:
    arguments = {name: value.detach() for name, value in draw(2).items()}
    y, state = ops.ssd(**arguments, dt_softplus=True)
    x, H, P, N = arguments["x"], 4, 3, 5
    wide = {name: arguments[name].repeat_interleave(P, -1) for name in ("dt", "dt_bias")}
    z, last = ops.selective_scan(
        x.flatten(2),
        wide["dt"],
        arguments["A"].repeat_interleave(P)[:, None].expand(-1, N),
        arguments["B"],
        arguments["C"],
        arguments["D"].flatten(),
        dt_bias=wide["dt_bias"],
        dt_softplus=True,
        state=arguments["state"].flatten(1, 2),
    )
    assert close(y.flatten(2), z, 1e-12)
    assert close(state.flatten(1, 2), last, 1e-12)
    assert state.shape == (2, H, P, N)


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        (
            "x",
            torch.zeros(2, 9, 4),
            r"`x` has shape \(2, 9, 4\) and `A` \(4,\), but \(batch, length, H, P\) and \(H,\)",
        ),
        (
            "dt",
            torch.zeros(2, 9, 3),
            r"`dt` has shape \(2, 9, 3\), but \(2, 9, 4\) is needed for this `x`; check its axes",
        ),
        ("B", torch.zeros(2, 9, 3, 5), r"`B` has shape \(2, 9, 3, 5\) and `C` .* G a divisor of 4 is needed"),
        ("D", torch.zeros(3), r"`D` has shape \(3,\), but \(4,\) or \(4, 3\) is needed"),
        ("state", torch.zeros(2, 4, 3, 4), r"`state` has shape \(2, 4, 3, 4\), but \(2, 4, 3, 5\) is needed"),
        ("dt_limit", (0.2, 0.1), r"`dt_limit` is \(0.2, 0.1\), but 0 <= smallest <= largest is needed"),
        ("block", 0, "`block` is 0, but a positive integer is needed"),
    ],
)
def test_errors(name: str, value: Any, text: str) -> None:
    with pytest.raises(InputError, match=text):
        ops.ssd(**{**draw(2), name: value})


def test_autocast_does_not_reach_the_gradient() -> None:
    arguments = {name: value.detach().float() for name, value in draw(2).items()}
    slopes = []
    for enabled in (False, True):
        x = arguments["x"].clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            ops.ssd(**{**arguments, "x": x})[0].sum().backward()
        slopes.append(x.grad)
    assert torch.equal(slopes[0], slopes[1])


def test_pieces_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    from longstate.ops import ssd_core as module

    arguments = draw(2, length=75)
    starts, lengths = torch.rand(2, 75) < 0.1, torch.tensor([75, 40])
    results = []
    for piece in (4096, 16):
        monkeypatch.setattr(module, "_PIECE", piece)
        y, state = ops.ssd(**arguments, dt_softplus=True, block=8, starts=starts, lengths=lengths)
        y = y[torch.arange(75) < lengths[:, None]]
        slopes = torch.autograd.grad(y.cos().sum() + state.sum(), list(arguments.values()))
        results.append([y, state, *slopes])
    for whole, pieces in zip(*results, strict=True):
        assert close(pieces, whole, 1e-12)
